"""The workload that a matrix or a comparison names, where it lies beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.records import Workload, WorkloadRef, WorkloadRequest
from pytest_multiitem.comparison.workload import request_sha256
from pytest_multiitem.errors import UsageError


@dataclass(frozen=True)
class Linked:
    """The request that was measured, None where its file is not at hand; and what contradicts the reference to it."""

    request: WorkloadRequest | None
    problems: list[str]


def linked(path: Path, ref: WorkloadRef) -> Linked:
    """The request that the artefact at ``path`` says it measured: the file may have moved, together with it."""
    file = _beside(path, ref.path)
    if file is None:
        return Linked(None, [])
    try:
        workload = artefacts.read(file, Workload)
    except UsageError as error:
        return Linked(None, [f"workload_ref: {error}"])
    found = {
        request.request_id: (request, request_sha256(raw))
        for request, raw in zip(workload.record.requests, workload.content["requests"], strict=True)
    }
    name = ref.request_id if ref.request_id is not None or len(found) != 1 else next(iter(found))
    if name is None:
        return Linked(None, [])  # of several requests, it does not say which
    if name not in found:
        return Linked(None, [f"workload_ref: {file.name} holds no request {name!r}"])
    request, actual = found[name]
    if ref.sha256 is not None and ref.sha256 != actual:
        problem = f"workload_ref: sha256 is {ref.sha256:.64}, but request {name!r} of {file.name} has {actual}"
        return Linked(request, [problem])
    return Linked(request, [])


def _beside(path: Path, named: str | None) -> Path | None:
    if not named:
        return None
    for candidate in (path.parent / named, path.parent / PureWindowsPath(named).name):  # knows / and \ alike
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):  # what is no path here
            continue
    return None
