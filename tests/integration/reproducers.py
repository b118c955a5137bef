"""The requests that docs/findings.md prints for whoever reports a defect, with the answers that it prints."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

PAGE = Path(__file__).parents[2] / "docs/findings.md"
_BLOCK = re.compile(
    r"<!-- server: (?P<server>[\w-]+) -->\n<!-- run by: [^\n]* -->\n```console\n(?P<body>.*?)^```$", re.S | re.M
)


@dataclass(frozen=True)
class Exchange:
    """``curl --json BODY URL | jq -c FILTER`` and what it has printed. ``fields``: of the answer, ``data[].score`` for
    that of each entry of a list."""

    path: str
    body: dict[str, Any]
    fields: tuple[str, ...]
    printed: list[Any]
    number: int

    def __str__(self) -> str:
        return f"{self.path.strip('/')}-{self.number}"

    def asked(self, url: str) -> list[Any]:
        """What a server answers, as far as it would be printed."""
        answer = httpx.post(url + self.path, json=self.body, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        whole, found = answer.json(), []
        for name, _, inner in (field.partition("[].") for field in self.fields):
            found.append([each[inner] for each in whole[name]] if inner else whole[name])
        return found

    def check(self, url: str, *, within: float) -> None:
        """A server gives the answer that is printed; numbers may be so far apart."""
        found = self.asked(url)
        assert _shape(found) == _shape(self.printed), found
        apart = np.subtract(_numbers(found), _numbers(self.printed))
        assert np.abs(apart).max(initial=0) <= within, found


def _shape(value: Any) -> Any:
    return [_shape(each) for each in value] if isinstance(value, list) else type(value) if value is None else "number"


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for each in value for number in _numbers(each)]
    return [] if value is None else [float(value)]


def exchanges(server: str) -> list[Exchange]:
    """The requests to a server of that name, in their order."""
    found = []
    for block in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if block["server"] != server:
            continue
        for typed in re.split(r"^\$ ", block["body"].replace("\\\n", ""), flags=re.M)[1:]:
            command, printed = typed.split("\n", 1)
            words = shlex.split(command)
            if words[0] != "curl":
                continue
            path = re.sub(r"^[\w.]+:\d+", "", next(word for word in words if re.match(r"[\w.]+:\d+/", word)))
            fields = re.findall(r"\.(\w+(?:\[\]\.\w+)?)", words[-1])
            body = json.loads(words[words.index("--json") + 1])
            found.append(Exchange(path, body, tuple(fields), json.loads(printed), len(found)))
    assert found, f"{PAGE.name} has no requests to {server}"
    return found


def table_script() -> tuple[str, str]:
    """The program that shows sglang's own tables of a long item, and what it has printed."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M)
    for (kind, script), (_, printed) in itertools.pairwise(blocks):
        if kind == "python" and "_process_multi_item_scoring" in script:
            return script, printed
    raise AssertionError(f"{PAGE.name} has no such program")
