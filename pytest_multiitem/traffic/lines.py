"""The one reader of a user's requests: JSON lines, or a canonical workload; nothing is encoded here."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.inputs import decode_json, read_bytes
from pytest_multiitem.scoring.cases import CANONICAL_WORKLOAD, wrong_checksums
from pytest_multiitem.scoring.prompts import reranker

#: Text, or token ids.
Content = str | tuple[int, ...]
#: The fields of a line that say what is scored.
FIELDS = (
    "query", "items", "documents", "labels", "label_token_ids", "id", "apply_softmax", "item_first", "instruct",
)  # fmt: skip
#: Further fields that clients of /v1/score and /v1/rerank send, by what each may say here: they change no score, or
#: must be as if they were not there.
_PASSED_OVER: dict[str, Any] = {
    "schema_version": None, "model": None, "top_n": None, "return_documents": None, "user": None,
    "temperature": (None, 1), "return_token_logprobs": (None, False),
}  # fmt: skip
#: What other tools call a field that has another name here.
_OTHER_NAMES = {
    "passages": "documents", "docs": "documents", "texts": "documents", "candidates": "items", "prompt": "query",
    "question": "query", "label_ids": "label_token_ids", "instruction": "instruct", "request_id": "id",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One request as it stands in its file. ``where``: the line, for messages; ``name``: its id, else ``where``.

    ``items``: N, each text or token ids, as the ``query`` is. ``labels``: K, each text or a token id; None where the
    line has none. ``from_documents``: it had the shape of a rerank request.
    """

    where: str
    name: str
    query: Content
    items: tuple[Content, ...]
    labels: tuple[str | int, ...] | None
    apply_softmax: bool = True
    item_first: bool = False
    from_documents: bool = False

    @property
    def needs_tokenizer(self) -> bool:
        """Whether any of its content, or a label, is text."""
        return any(isinstance(content, str) for content in (self.query, *self.items, *(self.labels or ())))


@dataclass(frozen=True)
class Traffic:
    """A file's requests. ``is_canonical``: it is a canonical workload; ``delimiter``: the one that such a one was made
    for, if it says."""

    path: Path
    sha256: str
    lines: tuple[Line, ...]
    is_canonical: bool = False
    delimiter: int | None = None

    def wrong(self, line: Line, problem: str) -> UsageError:
        """The error about a line."""
        return UsageError(f"workload {self.path}, {line.where}: {problem}")


def read_traffic(path: Path) -> Traffic:
    """Every request of a file. Raises UsageError of one line: the file, the line, and what is wrong with it."""
    content = read_bytes(path, "workload")
    text = content.removeprefix(codecs.BOM_UTF8)
    delimiter, is_canonical = None, False
    try:
        whole = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        whole = None  # several lines
    if isinstance(whole, dict) and "schema_version" in whole and "query" not in whole:
        try:
            canonical = decode_json(text)
        except ValueError as error:
            raise UsageError(f"workload {path} is not valid JSON: {error}") from None
        is_canonical, delimiter = True, canonical.get("delimiter_token_id")
        raw = _canonical_requests(path, canonical)
    else:
        raw = _json_lines(path, text)
    lines = tuple(_line(path, where, fields) for where, fields in raw)
    if not lines:
        raise UsageError(f"workload {path} holds no request; expected one JSON object a line")
    checksum = hashlib.sha256(content).hexdigest()
    return Traffic(path, checksum, lines, is_canonical, delimiter if type(delimiter) is int else None)


def _json_lines(path: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    # Only a line feed ends a line: JSON text may hold the further separators that str.splitlines knows.
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", decode_json(line)
            except ValueError as error:
                raise UsageError(
                    f"workload {path}, line {number}: not valid JSON ({error}); expected one request object a line"
                ) from None


def _canonical_requests(path: Path, workload: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if workload["schema_version"] != CANONICAL_WORKLOAD:
        raise UsageError(
            f"workload {path} is a {workload['schema_version']!r:.80} file; expected JSON lines of requests, or a "
            f"{CANONICAL_WORKLOAD} file"
        )
    if not isinstance(workload.get("requests"), list):
        raise UsageError(f"workload {path}: 'requests' must be a list; write a workload with: multiitem workload")
    checksums = workload.get("checksums")
    named = [raw for raw in workload["requests"] if isinstance(raw, dict) and isinstance(raw.get("request_id"), str)]
    for name, problem in wrong_checksums(named, checksums if isinstance(checksums, dict) else {}):
        raise UsageError(f"workload {path}, request {name!r:.80}: {problem}; write a workload with: multiitem workload")
    names = {"request_id": "id", "query_token_ids": "query", "items_token_ids": "items"}
    known = (*FIELDS, *_PASSED_OVER)
    for index, raw in enumerate(workload["requests"]):
        fields = {names.get(key, key): value for key, value in raw.items()} if isinstance(raw, dict) else raw
        if isinstance(fields, dict):  # other tools may record more of a request; its checksum covers that as well
            fields = {key: value for key, value in fields.items() if key in known}
        yield f"requests[{index}]", fields


def _line(path: Path, where: str, raw: Any) -> Line:
    def wrong(problem: str) -> UsageError:
        return UsageError(f"workload {path}, {where}: {problem}")

    if not isinstance(raw, dict):
        raise wrong(f"expected an object with query and items, got {type(raw).__name__}")
    if (problem := _unknown(raw)) is not None:
        raise wrong(problem)
    for one, other in (("items", "documents"), ("labels", "label_token_ids")):
        if one in raw and other in raw:
            raise wrong(f"{one!r} and {other!r} are two names for the same; give one of them")
    of = "documents" if "documents" in raw else "items"
    listed = raw.get(of)
    if not isinstance(listed, list) or not listed:
        raise wrong(f"{of!r} must be a list with at least one item")
    items = tuple(_content(wrong, _text_of(item) if of == "documents" else item, f"{of}[{i}]")
                  for i, item in enumerate(listed))  # fmt: skip
    query = _content(wrong, raw.get("query"), "'query'")
    if not query:
        raise wrong("'query' is empty")
    softmax, item_first = _flag(wrong, raw, "apply_softmax", True), _flag(wrong, raw, "item_first", False)
    if raw.get("instruct") is not None:
        if of != "documents" or not isinstance(raw["instruct"], str) or not _all_text(query, *items):
            raise wrong("'instruct' is text that goes with 'query' and 'documents' as text; leave it out")
        query, items = reranker.rendered(raw["instruct"], query, items)  # type: ignore[arg-type]
    name = raw.get("id")
    if name is not None and not isinstance(name, str | int):
        raise wrong(f"'id' must be text, got {name!r:.80}")
    shown = where if name in (None, "") else str(name)
    return Line(where, shown, query, items, _labels(wrong, raw), softmax, item_first, of == "documents")


def _unknown(raw: dict[str, Any]) -> str | None:
    """What is wrong with the names of a request's fields, or with a field that only may say what holds anyway."""
    for name, value in raw.items():
        allowed = _PASSED_OVER.get(name)
        if name in FIELDS or (name in _PASSED_OVER and (allowed is None or value in allowed)):
            continue
        if name in _PASSED_OVER:
            return f"{name!r} is {value!r:.80}, which is not measured here; leave it out"
        other = _OTHER_NAMES.get(name)
        hint = did_you_mean(name, FIELDS) if other is None else f" (did you mean {other!r}?)"
        return f"there is no field {name!r:.80}{hint}; expected {', '.join(FIELDS)}"
    return None


def _flag(wrong: Any, raw: dict[str, Any], name: str, usual: bool) -> bool:
    value = raw.get(name)
    if value is not None and type(value) is not bool:
        raise wrong(f"{name!r} must be true or false, got {value!r:.80}")
    return usual if value is None else value


def _text_of(document: Any) -> Any:
    """A document of a rerank request: text, or an object with text."""
    return document["text"] if isinstance(document, dict) and [*document] == ["text"] else document


def _all_text(*contents: Content) -> bool:
    return all(isinstance(content, str) for content in contents)


def _content(wrong: Any, value: Any, what: str) -> Content:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or any(type(i) is not int for i in value):
        raise wrong(f"{what} must be text or a list of token ids, got {value!r:.80}")
    return tuple(value)


def _labels(wrong: Any, raw: dict[str, Any]) -> tuple[str | int, ...] | None:
    name = "labels" if "labels" in raw else "label_token_ids"
    if name not in raw:
        return None
    given, ids_only = raw[name], name == "label_token_ids"
    if not isinstance(given, list) or not given:
        what = "token id" if ids_only else "label, each text or a token id"
        raise wrong(f"{name!r} must be a list with at least one {what}, got {given!r:.80}")
    for label in given:
        if ids_only and isinstance(label, str):
            raise wrong(f"{name!r} holds text, {label!r:.80}; labels that are text stand in 'labels'")
        if type(label) is not int and (ids_only or not isinstance(label, str) or not label):
            raise wrong(f"{name!r} holds {label!r:.80}; expected {'token ids' if ids_only else 'text or token ids'}")
    return tuple(given)
