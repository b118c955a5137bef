"""A saved baseline, as it stands in its file (schema ``multiitem_baseline_v1``).

Adding an optional field keeps the version; removing or changing one raises it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

BASELINE_SCHEMA: Final = "multiitem_baseline_v1"


class Cell(msgspec.Struct, kw_only=True):
    """One timing: the runs of one benchmark, or of one client chunk size of a comparison.

    ``key``: what makes it the same timing in another run. ``seconds``: every timed run. ``items``: scored in one run.
    ``workload_sha256``: of the requests. ``machine``: what is known of where it was measured. ``nodeid``: the
    benchmark's test; None of a comparison.
    """

    key: str
    seconds: list[float]
    items: int
    workload_sha256: str | None = None
    engine: str | None = None
    backend: str | None = None
    model: str | None = None
    dtype: str | None = None
    mask_attested: str | None = None
    machine: dict[str, Any] = {}
    nodeid: str | None = None


class Baseline(msgspec.Struct, kw_only=True):
    """The timings of a run that passed, under a name. ``settings``: those that times depend on, as one types them.

    ``cells_sha256``: a checksum of all timings (`results.store.checksum`), so that a file that was edited, or merged
    from two, is no baseline; null in older files.
    """

    schema_version: Literal["multiitem_baseline_v1"]
    name: str
    saved_at_utc: str
    cells: list[Cell]
    run_id: str | None = None
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    settings: dict[str, str] = {}
    cells_sha256: str | None = None
