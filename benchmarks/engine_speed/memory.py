"""Memory of a server: resident now, and at most since a moment, from Linux's ``/proc``.

``VmHWM`` of ``/proc/PID/status`` is the peak of the resident set; writing 5 to ``/proc/PID/clear_refs`` sets it back to
what is resident now (proc(5)). Of a server of several processes, their sum.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from pytest_multiitem.servers.process import RunningServer

HOW = "VmHWM of /proc/PID/status, set back by writing 5 to /proc/PID/clear_refs; idle: VmRSS once ready"


def processes(server: RunningServer) -> list[int]:
    """The process ids of a server that this run has started, without its guard."""
    engine = json.loads((server.directory / "state.json").read_bytes())["engine_pid"]
    return [engine, *(child.pid for child in psutil.Process(engine).children(recursive=True))]


def resident(pids: Iterable[int]) -> int | None:
    """Bytes resident now; None where the system does not say."""
    return _sum(pids, "VmRSS")


def peak(pids: Iterable[int]) -> int | None:
    """Bytes resident at most since :func:`forget_peak`; None where the system does not say."""
    return _sum(pids, "VmHWM")


def forget_peak(pids: Iterable[int]) -> None:
    """Count peaks from now on. Where the system cannot, they stay peaks since the start."""
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _sum(pids: Iterable[int], field: str) -> int | None:
    total = 0
    for pid in pids:
        try:
            found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text("utf-8"), re.MULTILINE)
        except OSError:
            return None
        if found is None:
            return None
        total += 1024 * int(found[1])
    return total
