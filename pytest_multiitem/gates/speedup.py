"""Speed-up: one multi-item request against N one-item requests to the serial server."""

from __future__ import annotations

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.bench.curve import CurvePoint, Curves, measure_curves
from pytest_multiitem.bench.statistics import recompilation
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.targets.target import Target

GATED_ITEMS = 32
#: A first timed run this many times as long as the slowest of the others did more than they did.
_COMPILED_RATIO = 2.0
#: Timed runs at an N that no gate judges, at most.
_CURVE_RUNS = 3


def further_runs(point: CurvePoint, timed_runs: int) -> int:
    """Once more, twice as many blocks, where the interval at the gated N straddles the limit."""
    limit, interval = SPEEDUP_N32.limit, point.interval
    if point.num_items != GATED_ITEMS or interval is None or limit is None:
        return 0
    return 2 * timed_runs if interval[0] < limit <= interval[1] else 0


def measure(subject: Subject) -> Measurement:
    """Time the packed server, and all that are timed together with it, against the same serial calls."""
    multi, serial = subject.multi, subject.serial
    tuned = subject.tuned_serial(serial)
    curve, attestation = _curves(subject, serial)[multi.profile]
    against_tuned = None if tuned is None else _curves(subject, tuned)[multi.profile][0]
    return measure_curve(multi, curve, attestation, tuned=against_tuned)


def _curves(subject: Subject, serial: Target) -> Curves:
    """The curves of all servers that are timed together; measured once for them."""
    multis, runs = subject.timed_together(subject.multi), subject.settings.bench_timed_runs
    key = ("curves", *multis)
    if key not in serial.memo:
        serial.memo[key] = measure_curves(
            serial,
            multis,
            lambda count: subject.timing_case(serial, count),
            counts=sorted({*subject.item_counts, GATED_ITEMS}),
            warmup_runs=subject.settings.bench_warmup_runs,
            timed_runs=lambda count: runs if count == GATED_ITEMS else min(runs, _CURVE_RUNS),
            further_runs=lambda point: further_runs(point, runs),
        )
    curves: Curves = serial.memo[key]
    return curves


def measure_curve(
    multi: Target, curve: list[CurvePoint], attestation: Attestation, *, tuned: list[CurvePoint] | None = None
) -> Measurement:
    """The gated point of a performance curve, with the whole curve as its details.

    ``tuned``: the curve against a serial server that is tuned for such calls; reported beside it, never mixed with it.
    """
    point = next((p for p in curve if p.num_items == GATED_ITEMS), None)
    return Measurement(
        target=multi,
        value=None if point is None else point.speedup,
        interval=None if point is None else point.interval,
        attestation=attestation,
        samples={"timed_runs": 0 if point is None else len(point.serial_sec)},
        details=details.Speedup(
            performance=performance(curve), performance_vs_tuned_serial=None if tuned is None else performance(tuned)
        ),
        doubt=None if point is None else compiled(point),
    )


def compiled(point: CurvePoint) -> str | None:
    """Why the times of a point are not those of a warm server; None where nothing says so.

    Stricter than the doubts that a curve shows: a first run that is merely the slowest may be the machine's doing.
    """
    for side, seconds in (("serial", point.serial_sec), ("multi", point.multi_sec)):
        reason = recompilation(seconds)
        if reason is not None and seconds[0] > _COMPILED_RATIO * max(seconds[1:]):
            return (
                f"{side}: {reason}, and more than {_COMPILED_RATIO:g} times the slowest of them: something was "
                "compiled inside the timed runs; raise --multiitem-bench-warmup-runs"
            )
    return None


def performance(curve: list[CurvePoint]) -> dict[str, details.SpeedPoint]:
    """A curve for the results, by N."""
    return {str(point.num_items): point.record() for point in curve}


SPEEDUP_N32 = Gate(
    "speedup_n32_ge_3x",
    "serial p50 / multi p50 at N = 32 (serial = N one-item calls)",
    ">=",
    3.0,
    timing=True,
    rests_on="a confidence interval of paired timed runs",
    measure=measure,
    needs=("multi", "serial"),
    short="speed-up",
    order=16,
)
GATES = (SPEEDUP_N32,)
