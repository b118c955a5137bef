"""The workload that a matrix or a comparison names, where it lies beside it."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.records import Workload, WorkloadRef, WorkloadRequest
from pytest_multiitem.comparison.workload import file_sha256
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import request_sha256


def linked(path: Path, ref: WorkloadRef) -> tuple[WorkloadRequest | None, list[str]]:
    """The request that the artefact at ``path`` says it measured, and what contradicts the reference to it.

    None where its file is not at hand; it may have moved, together with the artefact.
    """
    file = _beside(path, ref.path)
    if file is None:
        return None, []
    try:
        workload = artefacts.read(file, Workload)
    except UsageError as error:
        return None, [f"workload_ref: {error}"]
    requests = {request.request_id: request for request in workload.record.requests}
    name = ref.request_id if ref.request_id is not None or len(requests) != 1 else next(iter(requests))
    if name is None:
        return None, []  # of several requests, it does not say which
    if name not in requests:
        return None, [f"workload_ref: {file.name} holds no request {name!r}"]
    raw = next(raw for raw in workload.content["requests"] if raw["request_id"] == name)
    return requests[name], [
        f"workload_ref: {field} is {stated:.64}, but {what} has {actual}"
        for field, stated, what, actual in (
            ("sha256", ref.sha256, file.name, file_sha256(file)),
            ("request_sha256", ref.request_sha256, f"request {name!r} of {file.name}", request_sha256(raw)),
        )
        if stated not in (None, actual)
    ]


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
