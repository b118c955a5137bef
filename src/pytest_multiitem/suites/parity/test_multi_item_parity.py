"""Agreement: JAX with PyTorch, packed with serial, prefill+extend with its own serial reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_multiitem.checks import GateCheck
from pytest_multiitem.client import Scores
from pytest_multiitem.factories import connect
from pytest_multiitem.gates import equivalence, parity
from pytest_multiitem.gates.measurement import max_abs
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.engines import Profile
from pytest_multiitem.servers.target import Target


@pytest.mark.parity
class TestCrossBackendParity:
    """The same checkpoint gives the same scores on both backends."""

    @pytest.mark.multiitem_gate(parity.JAX_SERIAL_VS_TORCH_SERIAL.name)
    def test_jax_serial_matches_torch_serial(self, multiitem_gate: GateCheck) -> None:
        _compare(multiitem_gate, Profile("serial", "jax"), Profile("serial", "pytorch"))

    @pytest.mark.multiitem_gate(parity.JAX_MULTI_VS_TORCH_MULTI_SEMANTIC.name)
    def test_jax_multi_matches_torch_multi_semantic(self, multiitem_gate: GateCheck, multiitem_mask: str) -> None:
        """PyTorch scores serially what an item sees in the packed sequence: an independent route."""
        _compare(multiitem_gate, _packed(multiitem_gate, "jax", multiitem_mask), Profile("serial", "pytorch"))

    @pytest.mark.multiitem_gate(parity.CROSS_BACKEND_MAX_ABS.name)
    def test_cross_backend_max_abs(
        self, multiitem_gate: GateCheck, multiitem_mask: str, multiitem_client_chunk: int
    ) -> None:
        _compare(
            multiitem_gate,
            _packed(multiitem_gate, "jax", multiitem_mask),
            _packed(multiitem_gate, "pytorch", multiitem_mask),
            client_chunk_size=multiitem_client_chunk,
        )

    @pytest.mark.multiitem_gate(parity.CROSS_BACKEND_MEAN_ABS.name)
    def test_cross_backend_mean_abs(
        self, multiitem_gate: GateCheck, multiitem_mask: str, multiitem_client_chunk: int
    ) -> None:
        _compare(
            multiitem_gate,
            _packed(multiitem_gate, "jax", multiitem_mask),
            _packed(multiitem_gate, "pytorch", multiitem_mask),
            client_chunk_size=multiitem_client_chunk,
            statistic=parity.mean_abs,
        )


@pytest.mark.parity
class TestPrefillExtendParity:
    """Prefill+extend equals serial scoring of ``query + item``, its declared semantics."""

    @pytest.mark.multiitem_gate(equivalence.EQUIVALENCE.name)
    def test_prefill_extend_matches_serial(
        self, multiitem_gate: GateCheck, prefill_extend_server: Target, serial_server: Target
    ) -> None:
        run = multiitem_gate.run
        multiitem_gate.check(
            lambda gate: equivalence.measure(
                prefill_extend_server,
                serial_server,
                run.cases(prefill_extend_server),
                delimiter=run.settings.delimiter,
                record=run.record,
            )
        )


def _packed(check: GateCheck, backend: str, mask: str) -> Profile:
    settings = check.run.settings
    return Profile("multi", backend, mask, settings.server_chunk_size[0], Semantics(settings.semantics))


def _compare(
    check: GateCheck,
    left: Profile,
    right: Profile,
    *,
    client_chunk_size: int | None = None,
    statistic: Callable[[Scores], float] = max_abs,
) -> None:
    run, settings = check.run, check.run.settings
    if settings.multi_url or settings.serial_url:
        check.not_run("it compares servers of both backends; this run is attached to servers of one")
    if len(settings.backend) < 2:
        check.not_run(f"it compares both backends; the settings choose {settings.backend[0]} only")
    ours, theirs = connect(run, left), connect(run, right)

    def compared() -> parity.Comparison:
        return parity.compare(
            ours,
            theirs,
            run.cases(ours),
            delimiter=settings.delimiter,
            record=run.record,
            client_chunk_size=client_chunk_size,
        )

    check.check(lambda gate: parity.measure(run.once((left, right, client_chunk_size), compared), statistic))
