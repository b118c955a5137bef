"""The gates as columns of the kill matrix: how each is measured on a build, and which of its servers it judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_multiitem.bench.curve import measure_curves
from pytest_multiitem.faults.base import Part
from pytest_multiitem.gates import (
    comparison,
    equivalence,
    isolation,
    metamorphic,
    negative_control,
    parity,
    power,
    prefill_extend,
    regression,
    request_isolation,
    segment,
    semantics,
    speedup,
)
from pytest_multiitem.gates import request_contract as contract
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.record import Measurement
from pytest_multiitem.power.builds import PACKED, Build
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.targets.target import Target

#: Requests that the search tries on a build: three of every relation.
_EXAMPLES = 48
#: Items per request of the cross-backend gates.
_CLIENT_CHUNK = 8

#: Gates that are no column, with the reason.
NOT_MEASURED = {
    segment.SEGMENT_LOWERS.name: "it judges a compiler for an accelerator, not scores; its faults are broken kernels",
    comparison.COMPARISON_MEASURED.name: "it judges whether a comparison was carried out; measured by --compare only",
    comparison.OWN_REFERENCE_MAX_ABS.name: "delimiter_aligned_equiv_le_0p02 on the comparison's own workload",
    comparison.OWN_REFERENCE_MEAN_ABS.name: "delimiter_aligned_equiv_le_0p02 on the comparison's own workload",
    power.HEALTHY_PASSES.name: "it judges the gates, by this matrix",
    power.FAULT_IS_KILLED.name: "it judges the gates, by this matrix",
    regression.NO_REGRESSION.name: "it compares a run with an earlier one; measured by --baseline only",
}


@dataclass(frozen=True)
class Column:
    """``judges``: the servers of the build that a verdict is about, by backend; a fault elsewhere cannot change it."""

    gate: Gate
    judges: Callable[[str], set[Part]]
    measure: Callable[[Build, Gate], Measurement]
    place: str | None = None

    @property
    def name(self) -> str:
        """``GATE``, or ``GATE[PLACE]`` where a gate is measured at several places."""
        return self.gate.name if self.place is None else f"{self.gate.name}[{self.place}]"

    def concerns(self, build: Build) -> bool:
        """Whether the verdict on a build can depend on what is special about it: its fault, or, of a healthy build, its
        circumstances. A healthy build without either is measured by every gate.

        Time is measured where a fault is about time: it needs the machine to itself, and far longer than scores.
        """
        fault = build.fault
        if fault is None and not build.circumstances:
            return True
        if self.gate.timing and not (fault is not None and fault.timed):
            return False
        return bool(self.judges(build.backend) & (PACKED if fault is None else fault.scope))


def columns() -> tuple[Column, ...]:
    """All columns, in the order of the report."""
    return (
        Column(isolation.SAME_LENGTH, _always("multi"), _isolation),
        Column(isolation.CHANGED_LENGTH, _always("multi"), _isolation),
        Column(equivalence.EQUIVALENCE, _always("multi", "serial"), _equivalence),
        Column(equivalence.EQUIVALENCE, _always("extend", "serial"), _equivalence_of_extend, "extend"),
        Column(semantics.AS_DECLARED, _always("multi", "serial"), _semantics),
        Column(request_isolation.REQUEST_ISOLATION, _always("multi"), _request_isolation),
        Column(contract.CONTRACT, _always("multi", "serial"), _contract),
        Column(metamorphic.RELATIONS_HOLD, _always("multi"), _relations),
        Column(negative_control.NEGATIVE_CONTROL, _always("serial"), _control),
        Column(parity.SEGMENT_VS_DENSE, _always("multi", "other_mask"), _masks),
        Column(prefill_extend.PREFILL_EXTEND_REPLAY, _always("extend"), _replay),
        Column(parity.JAX_SERIAL_VS_TORCH_SERIAL, _always("serial"), _serial_sides),
        Column(parity.JAX_MULTI_VS_TORCH_MULTI_SEMANTIC, _jax_multi_or_torch_serial, _packed_vs_serial),
        Column(parity.CROSS_BACKEND_MAX_ABS, _always("multi"), _packed_sides),
        Column(parity.CROSS_BACKEND_MEAN_ABS, _always("multi"), _packed_sides),
        Column(parity.SERIAL_VS_REFERENCE, _always("serial"), _reference),
        Column(speedup.SPEEDUP_N32, _always("multi", "serial"), _speedup),
    )


def _always(*parts: Part) -> Callable[[str], set[Part]]:
    return lambda backend: set(parts)


def _jax_multi_or_torch_serial(backend: str) -> set[Part]:
    return {"multi"} if backend == "jax" else {"serial"}


def _isolation(build: Build, gate: Gate) -> Measurement:
    settings = build.settings
    return isolation.measure(
        gate,
        build.multi,
        build.serial,
        build.cases,
        delimiter=settings.delimiter,
        seed=settings.seed,
        record=build.labs.record,
    )


def _equivalence(build: Build, gate: Gate) -> Measurement:
    return equivalence.measure(build.multi, build.serial, build.cases, **_common(build))


def _equivalence_of_extend(build: Build, gate: Gate) -> Measurement:
    return equivalence.measure(build.extend, build.serial, build.cases, **_common(build))


def _semantics(build: Build, gate: Gate) -> Measurement:
    return semantics.measure(build.multi, build.serial, build.cases, **_common(build))


def _request_isolation(build: Build, gate: Gate) -> Measurement:
    return request_isolation.measure(build.multi, build.cases, **_common(build))


def _contract(build: Build, gate: Gate) -> Measurement:
    return contract.measure(build.multi, build.serial, build.cases, **_common(build))


def _relations(build: Build, gate: Gate) -> Measurement:
    settings = build.settings
    return metamorphic.measure(
        build.multi,
        labels=settings.labels,
        delimiter=settings.delimiter,
        examples=min(_EXAMPLES, settings.property_examples),
        seed=settings.seed,
        max_tokens=settings.property_max_tokens,
        record=build.labs.record,
        shrink=False,
    )


def _control(build: Build, gate: Gate) -> Measurement:
    settings = build.settings
    return negative_control.measure(
        build.serial, Semantics(settings.semantics), build.cases, seed=settings.seed, **_common(build)
    )


def _masks(build: Build, gate: Gate) -> Measurement:
    return parity.measure(parity.compare(build.multi, build.other_mask, build.cases, **_common(build)))


def _replay(build: Build, gate: Gate) -> Measurement:
    case = build.equal_length_case(build.settings.query_tokens, prefill_extend.NUM_ITEMS)
    return prefill_extend.measure(build.extend, case, record=build.labs.record)


def _serial_sides(build: Build, gate: Gate) -> Measurement:
    return _sides(build, build.serial, build.opposite.serial)


def _packed_vs_serial(build: Build, gate: Gate) -> Measurement:
    jax, torch = (build, build.opposite) if build.backend == "jax" else (build.opposite, build)
    return parity.measure(parity.compare(jax.multi, torch.serial, build.cases, **_common(build)))


def _packed_sides(build: Build, gate: Gate) -> Measurement:
    statistic = parity.mean_abs if gate is parity.CROSS_BACKEND_MEAN_ABS else max_abs
    key = ("cross-backend", build.opposite.multi)
    memo = build.multi.memo
    if key not in memo:  # both gates judge one measurement
        memo[key] = parity.compare(
            build.multi, build.opposite.multi, build.cases, client_chunk_size=_CLIENT_CHUNK, **_common(build)
        )
    return parity.measure(memo[key], statistic)


def _reference(build: Build, gate: Gate) -> Measurement:
    return _sides(build, build.serial, build.reference)


def _speedup(build: Build, gate: Gate) -> Measurement:
    settings = build.settings
    curves = measure_curves(
        build.serial,
        [build.multi],
        lambda count: build.equal_length_case(settings.query_tokens, count),
        counts=[speedup.GATED_ITEMS],
        warmup_runs=settings.bench_warmup_runs,
        timed_runs=lambda count: settings.bench_timed_runs,
        further_runs=lambda point: speedup.further_runs(point, settings.bench_timed_runs),
    )
    return speedup.measure(build.multi, *curves[build.multi.profile])


def _sides(build: Build, left: Target, right: Target) -> Measurement:
    return parity.measure(parity.compare(left, right, build.cases, **_common(build)))


def _common(build: Build) -> dict[str, Any]:
    return {"delimiter": build.settings.delimiter, "record": build.labs.record}
