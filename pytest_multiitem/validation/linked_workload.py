"""The workload that a matrix or a comparison names, where it lies beside it."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.records import Workload, WorkloadRef, WorkloadRequest
from pytest_multiitem.comparison.workload import file_sha256, requests_sha256
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import request_sha256


def linked(path: Path, ref: WorkloadRef) -> tuple[list[WorkloadRequest], list[str]]:
    """The requests that the artefact at ``path`` says it measured, and what contradicts the reference to them.

    None where their file is not at hand; it may have moved, together with the artefact.
    """
    file = _beside(path, ref.path)
    if file is None:
        return [], []
    try:
        workload = artefacts.read(file, Workload)
    except UsageError as error:
        return [], [f"workload_ref: {error}"]
    known, raw = workload.record.requests, workload.content["requests"]
    if ref.requests is not None:
        if len(known) != ref.requests:
            return [], [f"workload_ref: {file.name} holds {len(known)} requests, and {ref.requests} were measured"]
        return known, _differing(ref, file, f"the requests of {file.name}", requests_sha256(raw))
    requests = {request.request_id: request for request in known}
    name = ref.request_id if ref.request_id is not None or len(requests) != 1 else next(iter(requests))
    if name is None:
        return [], []  # of several requests, it does not say which
    if name not in requests:
        return [], [f"workload_ref: {file.name} holds no request {name!r}"]
    own = next(each for each in raw if each["request_id"] == name)
    return [requests[name]], _differing(ref, file, f"request {name!r} of {file.name}", request_sha256(own))


def _differing(ref: WorkloadRef, file: Path, what: str, actual: str) -> list[str]:
    """Which checksums of a reference are not those of the file, and of ``what`` was measured."""
    return [
        f"workload_ref: {field} is {stated:.64}, but {of} has {found}"
        for field, stated, of, found in (
            ("sha256", ref.sha256, file.name, file_sha256(file)),
            ("request_sha256", ref.request_sha256, what, actual),
        )
        if stated not in (None, found)
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
