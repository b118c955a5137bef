"""Whether figures of times are what the times give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_multiitem.bench.curve import summary
from pytest_multiitem.bench.statistics import p50, ratio_interval
from pytest_multiitem.results.figures import NEAR, differs

_GIVE = "its times give"
#: Of one side's times.
_FIGURES = ("p50_sec", "p95_sec", "items_per_sec_p50", "items_per_sec_p95")


def of_times(
    where: str, items: int, seconds: Sequence[float], stated: object, *, prefix: str = "", own: bool = True
) -> Iterator[str]:
    """A line for every figure of N ``items`` that is another one than ``seconds`` give. ``stated`` has them as
    attributes, some perhaps, behind ``prefix``. ``own``: this tool's; others define a 95th percentile differently, but
    none below the median."""
    if not is_usable(seconds):
        yield f"{where}{prefix}latencies_sec: expected numbers above 0, one a run"
        return
    wanted = summary(seconds, items)
    slowest = wanted if own else summary([max(seconds)], items)
    for name in _FIGURES:
        value, found = getattr(stated, f"{prefix}{name}", None), getattr(wanted, name)
        if not own and name in ("p95_sec", "items_per_sec_p95"):
            least, most = sorted((getattr(wanted, name.replace("95", "50")), getattr(slowest, name)))
            if isinstance(value, float | int) and not least * (1 - NEAR) <= value <= most * (1 + NEAR):
                yield f"{where}{prefix}{name} is {value:.9g}; {_GIVE} {least:.9g} to {most:.9g}"
        else:
            yield from differs(f"{where}{prefix}{name}", value, found, _GIVE)


def of_ratio(
    where: str, serial: Sequence[float], multi: Sequence[float], stated: Any, *, paired: bool
) -> Iterator[str]:
    """A line where the speed-up of ``stated``, or its interval, is another one than usable times give."""
    name = "speedup_vs_serial_p50"
    yield from differs(f"{where}{name}", getattr(stated, name), p50(serial) / p50(multi), _GIVE)
    interval = ratio_interval(serial, multi, paired=paired)
    for at, bound in enumerate(stated.speedup_interval_95 or ()):
        wanted = None if interval is None else interval[at]
        yield from differs(f"{where}speedup_interval_95[{at}]", bound, wanted, _GIVE)


def is_usable(seconds: Sequence[float]) -> bool:
    """Whether these are times."""
    return bool(seconds) and all(0 < each < float("inf") for each in seconds)
