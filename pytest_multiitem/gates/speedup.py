"""Speed-up: one multi-item request against N one-item requests to the serial server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.bench.ceiling import Bound, bound_of, shape
from pytest_multiitem.bench.curve import CurvePoint, Curves, measure_curves
from pytest_multiitem.bench.statistics import p50
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.targets.target import Target

GATED_ITEMS = 32
#: Timed runs at an N that no gate judges, at most.
_CURVE_RUNS = 3
#: Timed runs of a shape that the servers have not seen.
_PROBE_RUNS = 5
_COMPILED = "something was compiled inside the timed runs; raise --multiitem-bench-warmup-runs"


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
    semantics = multi.profile.semantics or subject.semantics
    return measure_curve(
        multi,
        curve,
        attestation,
        tuned=against_tuned,
        bound=bound_of(multi, serial, semantics),
        tuned_bound=None if tuned is None else bound_of(multi, tuned, semantics),
        cases_of=lambda count: subject.timing_cases(serial, count),
    )


def _curves(subject: Subject, serial: Target) -> Curves:
    """The curves of all servers that are timed together; measured once for them."""
    multis, runs = subject.timed_together(subject.multi), subject.settings.bench_timed_runs
    key = ("curves", *multis)
    if key not in serial.memo:

        def cases_of(count: int) -> Sequence[Case]:
            return subject.timing_cases(serial, count)

        measured = measure_curves(
            serial,
            multis,
            cases_of,
            counts=sorted({*subject.item_counts, GATED_ITEMS}),
            warmup_runs=subject.settings.bench_warmup_runs,
            timed_runs=lambda count: runs if count == GATED_ITEMS else min(runs, _CURVE_RUNS),
            further_runs=lambda point: further_runs(point, runs),
        )
        serial.memo[key] = explained(
            measured, serial, multis, cases_of(GATED_ITEMS), warmup_runs=subject.settings.bench_warmup_runs
        )
    curves: Curves = serial.memo[key]
    return curves


def explained(
    curves: Curves, serial: Target, multis: Sequence[Target], cases: Sequence[Case], *, warmup_runs: int
) -> Curves:
    """The curves, with a slow first run at the gated N explained: ``cases`` are the requests there.

    Something was compiled where the side's engine compiles, or where the first run of another shape stands out as well:
    of another N, or of a shape that the servers have not seen, which is timed for that. Else the machine was busy: the
    block is set aside, and one more timed in its place, once.
    """
    found, unexplained = dict(curves), []
    for multi in multis:
        curve, attestation = curves[multi.profile]
        point = _gated(curve)
        others = {f"N = {other.num_items}": other for other in curve if other.num_items != GATED_ITEMS}
        reason = compiled(point, others, serial=serial, multi=multi)
        if reason is not None:
            found[multi.profile] = _with_gated(curve, replace(point, compiled=reason)), attestation
        elif _slow_sides(point) or any(map(point.suspect_first, point.sides)):
            unexplained.append(multi.profile)
    if not unexplained:
        return found
    unseen = [_unseen(case) for case in cases]
    probes = _timed_again(serial, multis, unseen, warmup_runs=warmup_runs, runs=_PROBE_RUNS)
    slow = [profile for profile in unexplained if _slow_sides(_gated(curves[profile][0]))]
    again = _timed_again(serial, multis, cases, warmup_runs=0, runs=1) if slow else {}
    for profile in unexplained:
        curve, attestation = curves[profile]
        point, probe = _gated(curve), _gated(probes[profile][0])
        reason = compiled_again(point, probe, shape(unseen[0]))
        if reason is not None:
            point = replace(point, compiled=reason)
        elif profile in slow and point.set_aside_sec is None:
            sides = " and ".join(_slow_sides(point))
            because = f"a slow first run ({sides}) that another shape does not show"
            point = point.without_first(_gated(again[profile][0]), because)
        parts = [attestation, probes[profile][1], *([again[profile][1]] if again else [])]
        found[profile] = _with_gated(curve, point), Attestation.joined(parts)
    return found


def _timed_again(
    serial: Target, multis: Sequence[Target], cases: Sequence[Case], *, warmup_runs: int, runs: int
) -> Curves:
    """The gated point once more, with other requests."""
    return measure_curves(
        serial,
        multis,
        lambda count: cases,
        counts=[GATED_ITEMS],
        warmup_runs=warmup_runs,
        timed_runs=lambda count: runs,
    )


def _gated(curve: Sequence[CurvePoint]) -> CurvePoint:
    return next(point for point in curve if point.num_items == GATED_ITEMS)


def _with_gated(curve: Sequence[CurvePoint], gated: CurvePoint) -> list[CurvePoint]:
    return [gated if point.num_items == GATED_ITEMS else point for point in curve]


def _slow_sides(point: CurvePoint) -> list[str]:
    return [side for side in point.sides if point.slow_first(side) is not None]


def _unseen(case: Case) -> Case:
    """A request of another shape: with one token less, of the query where it has two, else of each item that has."""
    if len(case.query) > 1:
        return replace(case, query=case.query[:-1])
    return replace(case, items=tuple(item[:-1] or item for item in case.items))


def compiled(point: CurvePoint, others: Mapping[str, CurvePoint], *, serial: Target, multi: Target) -> str | None:
    """What shows that the slow first run of a point compiled something; None where nothing does.

    ``others``: points of other shapes, by their names.
    """
    for side, target in (("serial", serial), ("multi", multi)):
        reason = point.slow_first(side)
        if reason is None:
            continue
        again = next((name for name, other in others.items() if other.slow_first(side) is not None), None)
        shown = compiler(target) if again is None else f"the first one of {again} stands out as well"
        if shown is not None:
            return f"{side}: {reason}; {shown}: {_COMPILED}"
    return None


def compiled_again(point: CurvePoint, unseen: CurvePoint, name: str) -> str | None:
    """The same from a point of a shape that the servers had not seen, ``name``; None where it shows nothing."""
    for side in point.sides:
        reason = point.slow_first(side) or point.suspect_first(side)
        if reason is not None and (unseen.slow_first(side) or unseen.suspect_first(side)) is not None:
            return f"{side}: {reason}; the first one of {name} stands out as well: {_COMPILED}"
    return None


def compiler(target: Target) -> str | None:
    """What says that a server's engine compiles programs for shapes while it serves; None where nothing does."""
    adapter = target.adapter
    own = (target.profile.backend, target.info.get("backend"), *(adapter.backends if adapter is not None else ()))
    if own[0] == "jax" or own[1] == "jax" or own[2:] == ("jax",):
        return "the engine compiles (jax)"
    return "the engine compiles (enable_torch_compile)" if target.info.get("enable_torch_compile") is True else None


def first_run_doubt(point: CurvePoint) -> str | None:
    """Why the times of a point are not those of a warm server; None where nothing says so."""
    if point.compiled is not None:
        return point.compiled
    for side in _slow_sides(point):
        again = (
            "it was measured again" if point.set_aside_sec is not None else "nothing shows that it compiled anything"
        )
        return f"{side}: slow first run: {point.slow_first(side)}; {again}: repeat the run without other load"
    return None


def measure_curve(
    multi: Target,
    curve: list[CurvePoint],
    attestation: Attestation,
    *,
    tuned: list[CurvePoint] | None = None,
    bound: Bound | None = None,
    tuned_bound: Bound | None = None,
    cases_of: Callable[[int], Sequence[Case]] | None = None,
) -> Measurement:
    """The gated point of a performance curve, with the whole curve as its details.

    ``tuned``: the curve against a serial server that is tuned for such calls; reported beside it, never mixed with it.
    ``bound``, ``tuned_bound``: what packing can save at most against each, of the requests of ``cases_of``.
    """
    point = next((p for p in curve if p.num_items == GATED_ITEMS), None)
    timed = None if point is None or point.refused is not None else point
    doubt = None if timed is None else first_run_doubt(timed)
    if point is not None and point.refused is not None:
        doubt = f"refused at N = {GATED_ITEMS}: {point.refused}"
    unreachable, remarks = None, []
    if timed is not None and bound is not None and cases_of is not None and SPEEDUP_N32.limit is not None:
        cases = cases_of(GATED_ITEMS)
        unreachable = bound.unreachable_with(cases, SPEEDUP_N32.limit, max_tokens=multi.max_tokens)
        ceiling = bound.ceiling_of(cases)
        if ceiling is not None and timed.speedup > ceiling:
            remarks.append(
                f"{timed.speedup:.3g} at N = {GATED_ITEMS} is above what operations alone explain ({ceiling:.3g}): the "
                "rest is what each of the serial calls costs beside them"
            )
    sent = [] if cases_of is None else cases_of(GATED_ITEMS)
    if len(sent) > 1:
        most = max(len(case.items) for case in sent)
        remarks.append(f"the {GATED_ITEMS} items are sent in {len(sent)} requests of at most {most}, as they came")
    return Measurement(
        target=multi,
        value=None if timed is None else timed.speedup,
        interval=None if timed is None else timed.interval,
        attestation=attestation,
        samples={"timed_runs": 0 if timed is None else len(timed.serial_sec)},
        details=details.Speedup(
            performance=performance(curve, bound, cases_of),
            performance_vs_tuned_serial=None if tuned is None else performance(tuned, tuned_bound, cases_of),
            refused=refusals(curve),
            refused_vs_tuned_serial={} if tuned is None else refusals(tuned),
            ceiling_basis=None if bound is None else bound.basis,
            device_flops_per_sec=None if bound is None else bound.rate,
            remarks=remarks,
        ),
        doubt=doubt,
        unreachable=unreachable,
    )


def performance(
    curve: Sequence[CurvePoint],
    bound: Bound | None = None,
    cases_of: Callable[[int], Sequence[Case]] | None = None,
) -> dict[str, details.SpeedPoint]:
    """The answered points of a curve for the results, by N, with what ``bound`` says of the requests of each."""
    points = {}
    for point in curve:
        if point.refused is not None:
            continue
        record = points[str(point.num_items)] = point.record()
        if bound is None or cases_of is None:
            continue
        cases = cases_of(point.num_items)
        record.ceiling = bound.ceiling_of(cases)
        if record.ceiling is not None:
            record.share_of_ceiling = point.speedup / record.ceiling
        record.share_of_roofline = bound.share_of_roofline(cases, p50(point.multi_sec))
    return points


def refusals(curve: Sequence[CurvePoint]) -> dict[str, str]:
    """Why there is no point, by N."""
    return {str(point.num_items): f"refused: {point.refused}" for point in curve if point.refused is not None}


SPEEDUP_N32 = Gate(
    "speedup_n32_ge_3x",
    "serial p50 / multi p50 at N = 32 (serial = N one-item calls)",
    ">=",
    3.0,
    timing=True,
    about_packing=True,
    rests_on="a confidence interval of paired timed runs",
    measure=measure,
    needs=("multi", "serial"),
    short="speed-up",
    order=16,
)
GATES = (SPEEDUP_N32,)
