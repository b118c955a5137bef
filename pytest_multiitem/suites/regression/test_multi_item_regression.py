"""Isolation, equivalence, speed-up, and the segment mask, on a server of every backend and mask."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.bench.curve import Curves, measure_curves
from pytest_multiitem.errors import UsageError
from pytest_multiitem.fixtures.factories import connect
from pytest_multiitem.fixtures.tpu import wanted
from pytest_multiitem.gates import (
    equivalence,
    isolation,
    metamorphic,
    negative_control,
    parity,
    prefill_extend,
    request_isolation,
    semantics,
    speedup,
)
from pytest_multiitem.gates import request_contract as contract
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.record import Measurement
from pytest_multiitem.gates.segment import SEGMENT_LOWERS
from pytest_multiitem.gates.segment import judge as judge_segment
from pytest_multiitem.reports.counterexample import failure_lines
from pytest_multiitem.reports.tpu import report_lines
from pytest_multiitem.results.counterexample import Counterexample
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.targets.run import Run
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.tpu.gate import check_kernel

#: Timed runs at an N that no gate judges.
_CURVE_RUNS = 3
#: What the embedded engine's TPU kernel is compiled for: its default, a layer of Qwen3-0.6B at the canonical workload,
#: in both precisions, and the generated checkpoint, whose heads are narrower than a vector register.
_TPU_CASES: tuple[dict[str, int | str], ...] = (
    {},
    {"dtype": "float32"},
    {"heads": 4, "kv_heads": 2, "head_dim": 32, "rows": 512, "prefix": 256, "slot_width": 32, "dtype": "float32"},
)


@pytest.mark.regression
class TestMultiItemIsolation:
    """Mutating the first, a middle or the last item leaves every other item's score bit-identical."""

    @pytest.mark.multiitem_gate(isolation.SAME_LENGTH.name)
    def test_same_length_isolation(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        self._check(multiitem_gate, multi_item_server, serial_server)

    @pytest.mark.multiitem_gate(isolation.CHANGED_LENGTH.name)
    def test_changed_length_isolation(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        self._check(multiitem_gate, multi_item_server, serial_server)

    def _check(self, check: GateCheck, multi: Target, serial: Target) -> None:
        settings = check.run.settings
        check.check(
            lambda gate: isolation.measure(
                gate,
                multi,
                serial,
                check.run.cases(multi),
                delimiter=settings.delimiter,
                seed=settings.seed,
                record=check.run.record,
            )
        )


@pytest.mark.regression
class TestMultiItemEquivalence:
    """Packed scores equal the serial scores of the semantics that the engine declares."""

    @pytest.mark.multiitem_gate(equivalence.EQUIVALENCE.name)
    def test_delimiter_aligned_equivalence(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        multiitem_gate.against_serial(equivalence.measure, multi_item_server, serial_server)


@pytest.mark.regression
class TestMultiItemSemantics:
    """Packed scores are those of the semantics that the engine declares, and of no other."""

    @pytest.mark.multiitem_gate(semantics.AS_DECLARED.name)
    def test_semantics_as_declared(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        multiitem_gate.against_serial(semantics.measure, multi_item_server, serial_server)


@pytest.mark.regression
class TestMultiItemRequestIsolation:
    """What comes before a request, or runs beside it, leaves its scores alone."""

    @pytest.mark.multiitem_gate(request_isolation.REQUEST_ISOLATION.name)
    def test_surrounded_requests(self, multiitem_gate: GateCheck, multi_item_server: Target) -> None:
        run = multiitem_gate.run
        serial = run.serial_at_hand(multi_item_server)
        multiitem_gate.check(
            lambda gate: request_isolation.measure(
                multi_item_server,
                run.cases(multi_item_server),
                delimiter=run.settings.delimiter,
                record=run.record,
                serial=serial,
            )
        )


@pytest.mark.regression
class TestMultiItemRequestContract:
    """What is asked for is what is answered, and what cannot be scored is refused."""

    @pytest.mark.multiitem_gate(contract.CONTRACT.name)
    def test_request_contract(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        multiitem_gate.against_serial(contract.measure, multi_item_server, serial_server)


@pytest.mark.regression
class TestMultiItemNegativeControl:
    """The gates on this run's own requests FAIL where nothing isolates items."""

    @pytest.mark.multiitem_gate(negative_control.NEGATIVE_CONTROL.name)
    def test_without_isolation(self, multiitem_gate: GateCheck, serial_server: Target) -> None:
        """Played by the serial server: item i is scored behind all items before it."""
        run = multiitem_gate.run
        settings = run.settings
        multiitem_gate.check(
            lambda gate: negative_control.measure(
                serial_server,
                _declared(run),
                run.cases(serial_server),
                delimiter=settings.delimiter,
                seed=settings.seed,
                record=run.record,
            )
        )


@pytest.mark.regression
class TestMultiItemProperties:
    """No relation that must not change scores is violated, on requests that a search finds and makes small."""

    @pytest.mark.multiitem_gate(metamorphic.RELATIONS_HOLD.name)
    def test_metamorphic_relations(self, multiitem_gate: GateCheck, multi_item_server: Target) -> None:
        run, explained = multiitem_gate.run, list[str]()
        settings, attached = run.settings, not multi_item_server.owned
        key = settings.api_key_env if attached and os.environ.get(settings.api_key_env) else None

        def keep(found: Counterexample) -> None:
            explained.extend(failure_lines(found, run.keep_counterexample(found), api_key_env=key))

        multiitem_gate.check(
            lambda gate: metamorphic.measure(
                multi_item_server,
                labels=settings.labels,
                delimiter=settings.delimiter,
                examples=settings.property_examples,
                seed=settings.seed,
                max_tokens=settings.property_max_tokens,
                record=run.record,
                keep=keep,
            ),
            explain=lambda: explained,
        )


@pytest.mark.regression
class TestMultiItemSpeedup:
    """One multi-item request is at least three times as fast as 32 one-item requests."""

    @pytest.mark.multiitem_gate(speedup.SPEEDUP_N32.name)
    def test_speedup_over_serial(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        run = multiitem_gate.run
        tuned = run.tuned_serial(serial_server)

        def measure(gate: Gate) -> Measurement:
            curve, attestation = _curves(run, multi_item_server, serial_server)[multi_item_server.profile]
            beside = None
            if tuned is not None:
                beside, _ = _curves(run, multi_item_server, tuned)[multi_item_server.profile]
            return speedup.measure(multi_item_server, curve, attestation, tuned=beside)

        multiitem_gate.check(measure)


@pytest.mark.regression
@pytest.mark.tpu_segment
class TestMultiItemSegmentTPURegression:
    """The segment mask: it runs on the accelerator, agrees with dense, and leaves prefill+extend alone."""

    @pytest.mark.multiitem_gate(SEGMENT_LOWERS.name)
    def test_segment_mode_runs_on_tpu(self, multiitem_gate: GateCheck, multiitem_backend: str) -> None:
        """A real run where the server's device is an accelerator, and the compile gate on JAX's kernel: the record
        says which of the two the verdict rests on. Without either, the segment path still has to run and to attest
        itself; the gate then stays NOT_RUN, because nothing was compiled for an accelerator."""
        segment = _multi(multiitem_gate, multiitem_backend, "segment")
        run = multiitem_gate.run
        case = run.cases(segment)[0]
        with segment.attest() as attestation:
            segment.score(case)
        report = None
        if _has_tpu_kernel(run, segment):
            settings = run.settings
            cases = _TPU_CASES if settings.origins["tpu_kernel"] == "default" else ()
            asked = wanted(settings, settings.tpu_kernel, cases)
            try:
                report = run.once("compile gate", lambda: check_kernel(asked))
            except UsageError as error:
                multiitem_gate.fail(str(error))
        multiitem_gate.conclude(
            judge_segment(segment, attestation, report), evidence=None if report is None else report_lines(report)
        )

    @pytest.mark.multiitem_gate(parity.SEGMENT_VS_DENSE.name)
    def test_segment_matches_dense_scores(self, multiitem_gate: GateCheck, multiitem_backend: str) -> None:
        segment, dense = (_multi(multiitem_gate, multiitem_backend, mask) for mask in ("segment", "dense"))
        run = multiitem_gate.run
        serial = run.serial_at_hand(segment)
        multiitem_gate.check(
            lambda gate: parity.measure(
                parity.compare(
                    segment,
                    dense,
                    run.cases(segment),
                    delimiter=run.settings.delimiter,
                    record=run.record,
                    serial=serial,
                )
            )
        )

    @pytest.mark.multiitem_gate(prefill_extend.PREFILL_EXTEND_REPLAY.name)
    def test_segment_prefill_extend_flow_no_regression(
        self, multiitem_gate: GateCheck, prefill_extend_server: Target
    ) -> None:
        run = multiitem_gate.run
        case = run.timing_case(prefill_extend_server, prefill_extend.NUM_ITEMS)
        multiitem_gate.check(lambda gate: prefill_extend.measure(prefill_extend_server, case, record=run.record))


def _has_tpu_kernel(run: Run, segment: Target) -> bool:
    """Whether the settings' TPU kernel is what a server runs: the embedded JAX engine's by default."""
    if segment.profile.backend == "pytorch":
        return False
    embedded = segment.owned and run.engine.name == "embedded"
    return embedded or run.settings.origins["tpu_kernel"] != "default"


def _curves(run: Run, multi: Target, serial: Target) -> Curves:
    """The curves of every mask of a backend, measured side by side against the same serial calls."""
    profiles = [replace(multi.profile, mask_impl=mask) for mask in run.settings.mask_impl]
    multis = [run.target(p) for p in profiles] if multi.owned else [multi]
    timed_runs = run.settings.bench_timed_runs

    def measure() -> Curves:
        return measure_curves(
            serial,
            multis,
            lambda count: run.timing_case(serial, count),
            counts=sorted({*run.settings.items, speedup.GATED_ITEMS}),
            warmup_runs=run.settings.bench_warmup_runs,
            timed_runs=lambda count: timed_runs if count == speedup.GATED_ITEMS else min(timed_runs, _CURVE_RUNS),
            further_runs=lambda point: speedup.further_runs(point, timed_runs),
        )

    return run.once(("curves", serial.profile, *(m.profile for m in multis)), measure)


def _declared(run: Run) -> Semantics:
    """The semantics that the packed servers of the run are declared to have; an attached one may say it itself."""
    semantics = Semantics(run.settings.semantics)
    if run.settings.multi_url is None:
        return semantics
    return declared_semantics(connect(run, Profile("multi", ATTACHED, ATTACHED, 0, semantics)))


def _multi(check: GateCheck, backend: str, mask: str) -> Target:
    """The packed server of a stated mask, whatever masks the settings choose; an attached one as it is."""
    declared = Semantics(check.run.settings.semantics)
    attached = backend == ATTACHED
    profile = Profile("multi", backend, ATTACHED if attached else mask, 0, declared, check.model)
    if not attached and mask not in check.run.engine.masks:
        check.not_run(f"engine {check.run.engine.name} has no {mask} mask")
    target: Target = connect(check.run, profile)
    if target.profile.mask_impl != mask:
        check.not_run(f"the attached server is set to mask {target.profile.mask_impl}; this gate needs one of {mask}")
    return target
