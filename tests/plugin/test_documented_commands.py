"""Every command line of the README and the documentation: its options exist, and it is run, or says why it is not.

What is run is run on fake servers, page by page in a directory of its own: whether a line does what the page says, not
how fast the engines are.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from inner_project import FAKE, without

from documented import PAGES, ROOT, Line, all_lines, inline, lines_of
from pytest_multiitem import cli
from pytest_multiitem.commands.options import old_names
from pytest_multiitem.engine.launch_line import add_arguments
from pytest_multiitem.faults import proxy
from pytest_multiitem.settings.settings import OPTIONS

LINES = all_lines()
COMMANDS: Any = typer.main.get_command(cli.app)
Ran = subprocess.CompletedProcess[str]
#: Lines of programs that are not this package's, and what is known of them all the same.
OTHERS = {
    "make": "a target of the Makefile",
    "pip": "it installs",
    "python": "a tool of the clone",
    "curl": "another program",
    "export": "for the lines after it",
    "source": "for the lines after it",
}
#: Words that stand for others: a line with them is a form.
_FORM = re.compile(r"\[[^\]]*\]|…|(?<![\w$-])(?:FILE|NAME|URL|MODEL|DIR|RUN|ID|MODULE:FUNCTION)\b|<[a-z]+>| \| ")
#: Where the pages have their servers.
_MULTI = re.compile(r"http://127\.0\.0\.1:(?:30010|30020|8000)\b")
_SERIAL = re.compile(r"http://127\.0\.0\.1:(?:30011|8001)\b")
_SECOND = re.compile(r"--b url=http://127\.0\.0\.1:\d+\b")
#: Where they have a model's tokenizer, and one that is here.
_MODEL = re.compile(r"--tokenizer /models/[\w.-]+")
TOKENIZER = ROOT / "pytest_multiitem/engine/data"
#: What makes a line a short one.
SHORTER = {
    "--duration 10": "--duration 0.3", "--concurrency 1,2,4": "--concurrency 1 --duration 0.3",
    "--rates 0.5,1,2": "--rates 2", "--rates 2,8,20": "--rates 2",
}  # fmt: skip


def command_options(words: list[str]) -> set[str]:
    """The option names that a command takes, those that it had before among them where the public scripts have them."""
    if words[0] == "serve":
        parser = argparse.ArgumentParser(add_help=False)
        add_arguments(parser)
        return {name for action in parser._actions for name in action.option_strings} | {"--fault", "--help"}
    if words[0] == "proxy":
        return set(re.findall(r'"(--[\w-]+)"', Path(proxy.__file__).read_text(encoding="utf-8"))) | {"--help"}
    found = COMMANDS
    taken = set()
    for word in (*words, "files"):  # `compare A B` is `compare files A B`
        if word in getattr(found, "commands", {}):
            found = found.commands[word]
            taken.add(word)
    assert taken and not hasattr(found, "commands"), f"no command: {words}"
    own = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {*own, "--help"}


def top_level() -> set[str]:
    names = {name for parameter in COMMANDS.params for name in parameter.opts}
    return names | {"--install-completion", "--show-completion", "--help"}


PYTEST = {each for option in OPTIONS for each in ((option.flag, option.short_flag) if option.short else (option.flag,))}
PYTEST |= {
    "-k", "-m", "-n", "-p", "-q", "-rs", "-s", "-x", "--pyargs", "--junitxml", "--reruns", "--retries", "--dist",
    "--help", "--collect-only",
}  # fmt: skip


def unknown_options(line: Line, *, old: bool = False) -> set[str]:
    """The options of a line that its program has not; ``old``: names that options had before are taken."""
    words = line.words
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    if line.program == "pytest":
        return given - PYTEST
    rest = words[1:]
    while rest[:1] == ["-p"]:
        rest = rest[2:]
    given -= {"-p"}
    if not rest or rest[0].startswith("-"):
        return given - top_level()
    known = command_options(rest)
    if old:
        found = COMMANDS
        known |= set(old_names(found.commands[rest[0]])) if not hasattr(found.commands[rest[0]], "commands") else set()
    return given - known


def ours(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.program in ("multiitem", "pytest")]


def is_form(line: Line) -> bool:
    return _FORM.search(line.text.partition(" #")[0]) is not None


def accepted(line: Line) -> bool:
    """Whether a line is of a command that this version has."""
    return not (line.words[1:2] == ["accept"] and "accept" not in COMMANDS.commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_exists(page: Path) -> None:
    """By the name that it has now; the public runbook's page has the names of the public scripts."""
    old = page.name == "runbook.md"
    wrong = {
        line.id: unknown
        for line in (*ours(lines_of(page)), *ours(inline(page)))
        if line.program and accepted(line) and _names_a_command(line) and (unknown := unknown_options(line, old=old))
    }
    assert not wrong


def _names_a_command(line: Line) -> bool:
    """Not so the title of a group, or a sentence that begins as a command: `multiitem baseline …`."""
    words = line.words[1:]
    is_group = len(words) == 1 and hasattr(COMMANDS.commands.get(words[0]), "commands")
    return bool(words) and not (line.program == "multiitem" and (is_group or words[-1] == "…"))


def test_the_check_sees_what_is_wrong() -> None:
    page = PAGES[0]
    for text, unknown in (
        ("multiitem load --ulr http://x", {"--ulr"}),
        ("multiitem matrix --base-url http://x", {"--base-url"}),
        ("pytest --bacend jax -k x", {"--bacend"}),
        ("multiitem -p mine power --backend jax --power-fault x", {"--power-fault"}),
        ("multiitem compare A.json --output-dri x", {"--output-dri"}),
        ("A=1 multiitem compare run --backend jax | tee --append x", set()),
    ):
        assert unknown_options(Line(page, 1, text, {})) == unknown
    assert not unknown_options(Line(page, 1, "multiitem matrix --base-url http://x", {}), old=True)
    with pytest.raises(AssertionError, match="no command"):
        unknown_options(Line(page, 1, "multiitem lode --url x", {}))


@pytest.mark.parametrize("page", ["docs/which-command.md", "docs/reference/cli.md"])
def test_every_command_is_named(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not [name for name in COMMANDS.commands if not re.search(rf"`multiitem {name}\b", text)]


def test_every_line_is_run_or_says_why_not() -> None:
    """By a comment, or because it is of another program, whose words are checked as far as they are ours."""
    open_ends = [
        line.id for line in LINES if line.program not in (*OTHERS, "multiitem", "pytest", "ray") and not line.marks
    ]
    assert not open_ends
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+)(?: [a-z -]+)?:", makefile, re.MULTILINE)) | {"test", "slow"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for line in LINES:
        if line.program == "make":
            assert {word for word in line.words[1:] if "=" not in word} <= targets, line.id
        if line.program == "pip":
            named = [
                extra
                for found in re.findall(r"\[([\w,-]+)\]", line.text.partition(" #")[0])
                for extra in found.split(",")
            ]
            assert set(named) <= set(extras), line.id
    for line in LINES:
        test = line.marks.get("run by")
        assert test is None or (ROOT / test).is_file(), line.id
        for named in re.findall(r"\btests/\S+\.py\b", line.marks.get("not run", "")):
            assert (ROOT / named).is_file(), line.id


def tried(page: Path) -> list[Line]:
    """The lines of a page that are run here."""
    return [
        line for line in ours(lines_of(page))
        if not {"not run", "run by"} & set(line.marks) and not is_form(line) and accepted(line)
    ]  # fmt: skip


TRIED = [page for page in PAGES if tried(page)]


def test_most_pages_with_a_story_are_tried() -> None:
    names = {page.name for page in TRIED}
    assert {"README.md", "attach-to-a-server.md", "baselines.md", "load.md", "two-step.md", "workload.md"} <= names


#: Keeps few of a run's tests: whether a line does what the page says, not what each gate does. `accept` needs all.
FEW = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    given = " ".join(config.invocation_params.args)
    if "--multiitem-accepting" in given:
        return
    every = "--require" in given or config.option.keyword or config.option.markexpr
    kept, left_out = {}, []
    for item in items:
        test, _, _ = item.nodeid.partition("[")
        own = item.nodeid.startswith("multiitem-")
        key = item.nodeid if own else test if every else test.rpartition("::")[0]
        if kept.setdefault(key, item) is not item:
            left_out.append(item)
    items[:] = kept.values()
    config.hook.pytest_deselected(items=left_out)
"""
#: What stands for the programs that the pages name.
SHIMS = {
    "multiitem": "exec {python} -c 'from pytest_multiitem.cli import main; main()' \"$@\"",
    "pytest": 'exec {python} -m pytest -p no:cacheprovider "$@"',
}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Callable[..., str]) -> Callable[[Line], Ran]:
    """A directory like a clone, in which the fake engine runs servers, and two that run already; runs a line there."""
    for name in [*os.environ]:
        if name.startswith(("MULTI_ITEM_", "FAKE_", "GITHUB_", "PYTEST_XDIST_")):
            monkeypatch.delenv(name)
    tools, work = tmp_path / "tools", tmp_path / "work"
    tools.mkdir()
    (work / "tests").mkdir(parents=True)
    for name, script in SHIMS.items():
        (tools / name).write_text(f"#!/bin/sh\n{script.format(python=shlex.quote(sys.executable))}\n")
        (tools / name).chmod(0o755)
    for name in ("regression", "parity", "bench"):
        shutil.copytree(ROOT / "tests" / name, work / "tests" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (work / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["tests/regression", "tests/parity", "tests/bench"]\n'
        "[tool.multiitem]\nproperty_examples = 5\nbench_items = 8\nbench_query_tokens = 20\nitems = [1, 8, 32]\n"
        'query_tokens = 20\nitem_tokens = 4\neffort = "quick"\n'
    )
    sample = (ROOT / "pytest_multiitem/data/search_sample.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name in ("requests.jsonl", "traffic.jsonl"):
        (work / name).write_text("".join(sample[:3]), encoding="utf-8")
    # A little slower one by one, so that a saving shows on a busy machine as well.
    slow = "sleep=0.005"
    urls = server("multi"), server("serial", "--fault", slow), server("multi")
    monkeypatch.setenv("FAKE_FAULTS", f"serial:{slow}")
    # As if each server named a model whose directory is here.
    monkeypatch.setenv("MULTI_ITEM_TOKENIZER", str(TOKENIZER))
    (tools / "few.py").write_text(FEW)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), str(ROOT), str(tools)]))
    # Whoever loads the fake engine's hooks has it; what a line says itself goes before.
    (work / "conftest.py").write_text("from fake_engine import pytest_multiitem_engines\n")
    monkeypatch.setenv("MULTI_ITEM_PLUGINS", "fake_engine")
    monkeypatch.setenv("MULTI_ITEM_ENGINE", "fake")
    plugins = without("hypothesispytest", "asyncio", "anyio", "pytest_cov", "timeout")
    monkeypatch.setenv("PYTEST_ADDOPTS", f"-p few {plugins}")

    def run(line: Line) -> Ran:
        text = _SECOND.sub(f"--b url={urls[2]}", line.text.partition(" # ")[0])
        text = _MODEL.sub(f"--tokenizer {TOKENIZER}", _SERIAL.sub(urls[1], _MULTI.sub(urls[0], text)))
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        return subprocess.run(
            ["sh", "-c", text], cwd=work, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    return run


@pytest.mark.slow
@pytest.mark.parametrize("page", TRIED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_line_of_a_page_runs(page: Path, stage: Callable[[Line], Ran]) -> None:
    wrong = []
    for line in tried(page):
        done = stage(line)
        if str(done.returncode) not in line.marks.get("exits", "0").split(" or "):
            said = done.stdout[-3000:] + done.stderr[-3000:]
            wrong.append(f"{line.id}: {line.text}\nexit status {done.returncode}\n{said}")
    assert not wrong, "\n\n".join(wrong)
