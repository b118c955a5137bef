"""The targets, and whether a run's results hold them. Judged from the results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.engine_speed.shapes import CANONICAL

HOLDS, MISSED, NOT_RUN = "holds", "missed", "NOT_RUN"
BACKENDS: Final = ("pytorch", "jax")

SERIAL_RATIO: Final = {"pytorch": 40.0, "jax": 30.0}
DENSE_RATIO: Final = 5.0
DENSE_MEMORY: Final = 1 / 5
SGLANG_RATIO: Final = 25.0
#: What both engines are to reach, by the processor's vendor; on a processor that is not known, the least.
MATRIX_SHARE: Final = {"AuthenticAMD": 0.55, "GenuineIntel": 0.45}
#: What "linear in N" means: the line explains all but a hundredth of the variance, and no point is far from it.
LEAST_R2: Final = 0.99
LARGEST_RESIDUAL: Final = 0.15
#: As the gate segment_vs_dense_le_1e_4 has it: what is fast must be right.
LARGEST_DIFFERENCE: Final = 1e-4

Results = Mapping[str, Any]
#: The measured value, its 95 % interval where it has one; or why there is none.
_Measured = tuple[float, tuple[float, float] | None] | str


def judge(results: Results) -> list[dict[str, Any]]:
    """Every target: ``target``, ``backend``, ``value``, ``interval_95``, ``shown``, ``verdict``, ``reason``.

    A target whose figure was not measured is NOT_RUN with the reason, never held.
    """
    at = CANONICAL.name
    found = []
    vendor = results.get("instruction_set", {}).get("vendor")
    matrix_share = MATRIX_SHARE.get(vendor, min(MATRIX_SHARE.values()))
    for backend in BACKENDS:
        limit = SERIAL_RATIO[backend]

        def faster(value: float, limit: float = limit) -> bool:
            return value >= limit

        found += [
            _target(
                f"packed segment ≥ {limit:g} × own serial one-item calls in time, {at}",
                backend,
                _ratio(results, backend, "serial"),
                faster,
                "{:.1f} ×",
            ),
            _target(
                f"packed segment ≥ {DENSE_RATIO:g} × packed dense in time, {at}",
                backend,
                _ratio(results, backend, "dense"),
                lambda value: value >= DENSE_RATIO,
                "{:.2f} ×",
            ),
            _target(
                f"peak memory above idle ≤ 1/5 of packed dense, {at}",
                backend,
                _memory(results, backend),
                lambda value: value <= DENSE_MEMORY,
                "{:.3f} of it",
            ),
            _target(
                f"packed segment ≥ {SGLANG_RATIO:g} × the real sglang server's best CPU mode in time, {at}",
                backend,
                _best_sglang(results, backend),
                lambda value: value >= SGLANG_RATIO,
                "{:.1f} ×",
            ),
            _target(
                f"needed operations ≥ {matrix_share:.0%} of the backend's own GEMM rate, {at}",
                backend,
                _share(results, backend),
                lambda value: value >= matrix_share,
                "{:.1%}",
            ),
            _target(
                "isolation: largest change of any other item's score == 0.0, bit for bit",
                backend,
                _isolation(results, backend),
                lambda value: value == 0.0,
                "{:.3g}",
            ),
            _target(
                f"scores by every path agree: largest difference ≤ {LARGEST_DIFFERENCE:g}",
                backend,
                _agreement(results, backend),
                lambda value: value <= LARGEST_DIFFERENCE,
                "{:.2g}",
            ),
            _target(
                f"time linear in N: R² ≥ {LEAST_R2:g}",
                backend,
                _fit(results, backend, "r2"),
                lambda value: value >= LEAST_R2,
                "{:.5f}",
            ),
            _target(
                f"time linear in N: largest relative residual ≤ {LARGEST_RESIDUAL:.0%}",
                backend,
                _fit(results, backend, "largest_relative_residual"),
                lambda value: value <= LARGEST_RESIDUAL,
                "{:.1%}",
            ),
        ]
    return found


def _target(
    target: str, backend: str, measured: _Measured, holds: Callable[[float], bool], shown: str
) -> dict[str, Any]:
    about: dict[str, Any] = {"target": target, "backend": backend, "value": None, "interval_95": None, "shown": "-"}
    if isinstance(measured, str):
        return {**about, "verdict": NOT_RUN, "reason": measured}
    value, interval = measured
    text = shown.format(value)
    if interval is not None:
        text += f" (95 %: {shown.format(interval[0])} to {shown.format(interval[1])})"
    about |= {"value": value, "interval_95": interval, "shown": text}
    return {**about, "verdict": HOLDS if holds(value) else MISSED, "reason": ""}


def side_of(results: Results, shape: str, backend: str, key: str) -> dict[str, Any] | str:
    """A side's record at a shape, or why there is none."""
    entry = next((entry for entry in results.get("shapes", ()) if entry["shape"] == shape), None)
    if entry is None:
        return f"{shape} was not measured"
    for side in entry["sides"]:
        if (side["backend"], side["side"]) == (backend, key):
            return f"{key}: {side['failure']}" if "failure" in side else side
    missing = results.get("missing", {})
    return missing.get(f"{backend} {key}") or missing.get(backend) or f"{backend} {key} was not measured"


def _checked(results: Results, backend: str, key: str) -> dict[str, Any] | str:
    side = side_of(results, CANONICAL.name, backend, key)
    if not isinstance(side, str) and side.get("problem"):
        return f"{backend} {key}: {side['problem']}"
    return side


def _ratio(results: Results, backend: str, slower: str) -> _Measured:
    segment, other = _checked(results, backend, "segment"), _checked(results, backend, slower)
    if isinstance(segment, str):
        return segment
    if isinstance(other, str):
        return other
    found = other["segment_faster"][backend]
    return found["ratio"], _interval(found["interval_95"])


def _memory(results: Results, backend: str) -> _Measured:
    segment, dense = _checked(results, backend, "segment"), _checked(results, backend, "dense")
    if isinstance(segment, str):
        return segment
    if isinstance(dense, str):
        return dense
    ours, theirs = segment["peak_above_idle_bytes"], dense["peak_above_idle_bytes"]
    if ours is None or not theirs:
        return "this system does not tell a process's peak memory"
    return ours / theirs, None


def _best_sglang(results: Results, backend: str) -> _Measured:
    segment = _checked(results, backend, "segment")
    if isinstance(segment, str):
        return segment
    best = best_sglang(results, CANONICAL.name)
    if isinstance(best, str):
        return best
    found = best["segment_faster"][backend]
    return found["ratio"], _interval(found["interval_95"])


def best_sglang(results: Results, shape: str) -> dict[str, Any] | str:
    """The fastest mode of the real engine at a shape, or why there is none."""
    entry = next((entry for entry in results.get("shapes", ()) if entry["shape"] == shape), None)
    if entry is None:
        return f"{shape} was not measured"
    modes = [side for side in entry["sides"] if side["backend"] == "sglang" and "failure" not in side]
    if not modes:
        return str(results.get("missing", {}).get("sglang") or "sglang was not measured")
    return dict(max(modes, key=lambda side: side["items_per_sec_p50"]))


def _share(results: Results, backend: str) -> _Measured:
    segment = _checked(results, backend, "segment")
    if isinstance(segment, str):
        return segment
    share = segment.get("share_needed")
    return "no matrix rate was measured" if share is None else (share, _interval(segment.get("share_interval_95")))


def _isolation(results: Results, backend: str) -> _Measured:
    found = [one for one in results.get("isolation", ()) if one["backend"] == backend]
    if not found:
        return f"the isolation of {backend} was not measured"
    for one in found:
        if one.get("failure") or one.get("problem"):
            return f"{one['shape']}: {one.get('failure') or one['problem']}"
        if one["touched_change"] == 0.0:
            return f"{one['shape']}: not even the mutated item's score changed, so nothing was seen"
    # A change that rounds to nothing in a difference is still one: bits are compared as well.
    hidden = any(one["scores_that_changed"] for one in found)
    largest = max(one["max_abs_change_of_others"] for one in found)
    return (float("nan") if hidden and largest == 0.0 else largest), None


def _agreement(results: Results, backend: str) -> _Measured:
    entries = results.get("shapes", ())
    found = [one["max_abs_diff"] for entry in entries for one in entry["agreement"] if one["backend"] == backend]
    return (max(found), None) if found else f"no two paths of {backend} were measured"


def _fit(results: Results, backend: str, field: str) -> _Measured:
    fit = results.get("growth_items", {}).get("fits", {}).get(backend)
    return f"the growth of {backend} with N was not measured" if fit is None else (fit[field], None)


def _interval(found: Any) -> tuple[float, float] | None:
    return None if found is None else (float(found[0]), float(found[1]))
