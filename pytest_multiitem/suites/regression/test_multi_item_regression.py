"""Isolation, equivalence, speed-up, and the segment mask, on a server of every backend and mask.

A gate measures its value on the servers that its test names; what the test asserts is the gate's own criterion, and a
failure shows the evidence.
"""

from __future__ import annotations

import pytest

from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.targets.target import Target


@pytest.mark.regression
class TestMultiItemIsolation:
    """Mutating the first, a middle or the last item leaves every other item's score bit-identical."""

    @pytest.mark.multiitem_gate("same_length_isolation_zero")
    def test_same_length_isolation(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.measured(multi=multi_item_server, serial=serial_server) == 0.0

    @pytest.mark.multiitem_gate("changed_length_isolation_zero")
    def test_changed_length_isolation(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.measured(multi=multi_item_server, serial=serial_server) == 0.0

    @pytest.mark.multiitem_gate("content_isolation")
    def test_content_isolation(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        """At the same shapes, where rounding is the same."""
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("length_isolation")
    def test_length_isolation(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        """At other shapes, against what they do where nothing leaks."""
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)


@pytest.mark.regression
class TestMultiItemEquivalence:
    """Packed scores equal the serial scores of the semantics that the engine declares."""

    @pytest.mark.multiitem_gate("delimiter_aligned_equiv_le_0p02")
    def test_delimiter_aligned_equivalence(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.measured(multi=multi_item_server, serial=serial_server) <= 0.02

    @pytest.mark.multiitem_gate("equivalence_at_floor")
    def test_equivalence_at_floor(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        """By a multiple of what rounding does, where that is known."""
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)


@pytest.mark.regression
class TestMultiItemSemantics:
    """Packed scores are those of the semantics that the engine declares, and of no other."""

    @pytest.mark.multiitem_gate("semantics_as_declared")
    def test_semantics_as_declared(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)


@pytest.mark.regression
class TestMultiItemRequestIsolation:
    """What comes before a request, or runs beside it, leaves its scores alone."""

    @pytest.mark.multiitem_gate("request_isolation_le_0p02")
    def test_surrounded_requests(self, multiitem_gate: GateCheck, multi_item_server: Target) -> None:
        assert multiitem_gate.measured(multi=multi_item_server) <= 0.02


@pytest.mark.regression
class TestMultiItemRequestContract:
    """What is asked for is what is answered, and what cannot be scored is refused."""

    @pytest.mark.multiitem_gate("request_contract_holds")
    def test_request_contract(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)


@pytest.mark.regression
class TestMultiItemTraffic:
    """A request scores what it scores alone: among many others, over fresh connections, beside other endpoints."""

    @pytest.mark.multiitem_gate("traffic_agrees")
    def test_full_traffic(self, multiitem_gate: GateCheck, multi_item_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server)


@pytest.mark.regression
class TestMultiItemLadder:
    """An item scores the same in requests of every size, and labels of every quarter of the vocabulary as serially."""

    @pytest.mark.multiitem_gate("every_size_agrees")
    def test_every_size(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("every_label_agrees")
    def test_every_label(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)


@pytest.mark.regression
class TestMultiItemNegativeControl:
    """The gates on this run's own requests FAIL where nothing isolates items."""

    @pytest.mark.multiitem_gate("negative_control_fails")
    def test_without_isolation(self, multiitem_gate: GateCheck, serial_server: Target) -> None:
        """Played by the serial server: item i is scored behind all items before it."""
        assert multiitem_gate.holds(serial=serial_server)


@pytest.mark.regression
class TestMultiItemProperties:
    """No relation that must not change scores is violated, on requests that a search finds and makes small."""

    @pytest.mark.multiitem_gate("metamorphic_relations_hold")
    def test_metamorphic_relations(self, multiitem_gate: GateCheck, multi_item_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server)


@pytest.mark.regression
class TestMultiItemModes:
    """The other ways to ask for scores, each where the server speaks it, and whether anybody asked for the labels."""

    @pytest.mark.multiitem_gate("text_agrees")
    def test_text(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("labels_per_item_agree")
    def test_labels_per_item(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("temperature_isolates")
    def test_temperature(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("setwise_agrees")
    def test_setwise(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("classification_agrees")
    def test_classification(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        """Of a tiny model with a head beside the others, where the server's own has none."""
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("setwise_classification_agrees")
    def test_setwise_classification(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("rerank_agrees")
    def test_rerank(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("decisions_agree")
    def test_decisions(self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("generative_scoring_agrees")
    def test_generative_scoring(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.holds(multi=multi_item_server, serial=serial_server)

    @pytest.mark.multiitem_gate("label_mass_not_zero")
    def test_label_mass(self, multiitem_gate: GateCheck, multi_item_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server)


@pytest.mark.regression
class TestMultiItemSpeedup:
    """One multi-item request is at least three times as fast as 32 one-item requests."""

    @pytest.mark.multiitem_gate("speedup_n32_ge_3x")
    def test_speedup_over_serial(
        self, multiitem_gate: GateCheck, multi_item_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.measured(multi=multi_item_server, serial=serial_server) >= 3.0


@pytest.mark.regression
@pytest.mark.tpu_segment
class TestMultiItemSegmentTPURegression:
    """The segment mask: it runs on the accelerator, agrees with dense, and leaves prefill+extend alone."""

    @pytest.mark.multiitem_gate("segment_lowers")
    def test_segment_mode_runs_on_tpu(self, multiitem_gate: GateCheck, multiitem_backend: str) -> None:
        """By a real run on an accelerator, or by compiling JAX's kernel for one: the record says which."""
        assert multiitem_gate.holds(backend=multiitem_backend, mask="segment", chunk=0)

    @pytest.mark.multiitem_gate("segment_vs_dense_le_1e_4")
    def test_segment_matches_dense_scores(self, multiitem_gate: GateCheck, multiitem_backend: str) -> None:
        assert multiitem_gate.measured(backend=multiitem_backend, mask="segment", chunk=0) <= 1e-4

    @pytest.mark.multiitem_gate("prefill_extend_replay_le_1e_4")
    def test_segment_prefill_extend_flow_no_regression(
        self, multiitem_gate: GateCheck, prefill_extend_server: Target
    ) -> None:
        assert multiitem_gate.measured(extend=prefill_extend_server) <= 1e-4


@pytest.mark.regression
class TestMultiItemEveryScore:
    """No score that the run has received contradicts another one."""

    @pytest.mark.multiitem_gate("every_score_agrees")
    def test_every_score(self, multiitem_gate: GateCheck, multi_item_server: Target) -> None:
        assert multiitem_gate.holds(multi=multi_item_server)
