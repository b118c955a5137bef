"""Agreement: JAX with PyTorch, packed with serial, prefill+extend with its own serial reference."""

from __future__ import annotations

import pytest

from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.targets.target import Target


@pytest.mark.parity
class TestCrossBackendParity:
    """The same checkpoint gives the same scores on both backends."""

    @pytest.mark.multiitem_gate("jax_serial_vs_torch_serial_le_0p02")
    def test_jax_serial_matches_torch_serial(self, multiitem_gate: GateCheck) -> None:
        assert multiitem_gate.measured(backend="jax") <= 0.02

    @pytest.mark.multiitem_gate("jax_multi_vs_torch_multi_semantic_le_0p02")
    def test_jax_multi_matches_torch_multi_semantic(self, multiitem_gate: GateCheck, multiitem_mask: str) -> None:
        """PyTorch scores serially what an item sees in the packed sequence: an independent route."""
        assert multiitem_gate.measured(backend="jax", mask=multiitem_mask) <= 0.02

    @pytest.mark.multiitem_gate("cross_backend_max_abs_le_0p02")
    def test_cross_backend_max_abs(
        self, multiitem_gate: GateCheck, multiitem_mask: str, multiitem_client_chunk: int
    ) -> None:
        chunk = multiitem_client_chunk
        assert multiitem_gate.measured(backend="jax", mask=multiitem_mask, client_chunk_size=chunk) <= 0.02

    @pytest.mark.multiitem_gate("cross_backend_mean_abs_le_0p01")
    def test_cross_backend_mean_abs(
        self, multiitem_gate: GateCheck, multiitem_mask: str, multiitem_client_chunk: int
    ) -> None:
        chunk = multiitem_client_chunk
        assert multiitem_gate.measured(backend="jax", mask=multiitem_mask, client_chunk_size=chunk) <= 0.01


@pytest.mark.parity
class TestReferenceParity:
    """Serial scores equal those of transformers' own model of the same checkpoint."""

    @pytest.mark.multiitem_gate("serial_vs_reference_le_0p02")
    def test_serial_matches_reference(self, multiitem_gate: GateCheck, serial_server: Target) -> None:
        assert multiitem_gate.measured(serial=serial_server) <= 0.02


@pytest.mark.parity
class TestPrefillExtendParity:
    """Prefill+extend equals serial scoring of ``query + item``, its declared semantics."""

    @pytest.mark.multiitem_gate("delimiter_aligned_equiv_le_0p02")
    def test_prefill_extend_matches_serial(
        self, multiitem_gate: GateCheck, prefill_extend_server: Target, serial_server: Target
    ) -> None:
        assert multiitem_gate.measured(multi=prefill_extend_server, serial=serial_server) <= 0.02
