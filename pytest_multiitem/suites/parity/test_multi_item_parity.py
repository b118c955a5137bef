"""Agreement: JAX with PyTorch, packed with serial, prefill+extend with its own serial reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.fixtures.factories import connect
from pytest_multiitem.gates import equivalence, parity
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.record import Measurement
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import Scores


@pytest.mark.parity
class TestCrossBackendParity:
    """The same checkpoint gives the same scores on both backends."""

    @pytest.mark.multiitem_gate(parity.JAX_SERIAL_VS_TORCH_SERIAL.name)
    def test_jax_serial_matches_torch_serial(self, multiitem_gate: GateCheck) -> None:
        _compare(multiitem_gate, _serial(multiitem_gate, "jax"), _torch_serial(multiitem_gate))

    @pytest.mark.multiitem_gate(parity.JAX_MULTI_VS_TORCH_MULTI_SEMANTIC.name)
    def test_jax_multi_matches_torch_multi_semantic(self, multiitem_gate: GateCheck, multiitem_mask: str) -> None:
        """PyTorch scores serially what an item sees in the packed sequence: an independent route."""
        _compare(multiitem_gate, _packed(multiitem_gate, "jax", multiitem_mask), _torch_serial(multiitem_gate))

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
class TestReferenceParity:
    """Serial scores equal those of transformers' own model of the same checkpoint."""

    @pytest.mark.multiitem_gate(parity.SERIAL_VS_REFERENCE.name)
    def test_serial_matches_reference(self, multiitem_gate: GateCheck, serial_server: Target) -> None:
        run = multiitem_gate.run

        def measure(gate: Gate) -> Measurement:
            reference = run.reference(serial_server)
            cases = run.cases(serial_server)
            return parity.measure(
                parity.compare(serial_server, reference, cases, delimiter=serial_server.delimiter, record=run.record)
            )

        multiitem_gate.check(measure)


@pytest.mark.parity
class TestPrefillExtendParity:
    """Prefill+extend equals serial scoring of ``query + item``, its declared semantics."""

    @pytest.mark.multiitem_gate(equivalence.EQUIVALENCE.name)
    def test_prefill_extend_matches_serial(
        self, multiitem_gate: GateCheck, prefill_extend_server: Target, serial_server: Target
    ) -> None:
        multiitem_gate.against_serial(equivalence.measure, prefill_extend_server, serial_server)


def _packed(check: GateCheck, backend: str, mask: str) -> Profile:
    settings = check.run.settings
    attached = settings.multi_url is not None
    chunk, semantics = settings.server_chunk_size[0], Semantics(settings.semantics)
    return Profile("multi", ATTACHED if attached else backend, mask, 0 if attached else chunk, semantics, check.model)


def _serial(check: GateCheck, backend: str) -> Profile:
    attached = check.run.settings.serial_url is not None
    return Profile("serial", ATTACHED if attached else backend, model=check.model)


def _torch_serial(check: GateCheck) -> Profile | None:
    """The PyTorch side: a server of the run, or None for transformers' own model."""
    settings = check.run.settings
    alone = settings.multi_url or settings.serial_url or "pytorch" not in settings.backend
    return None if settings.reference != "none" and alone else _serial(check, "pytorch")


def _compare(
    check: GateCheck,
    left: Profile,
    right: Profile | None,
    *,
    client_chunk_size: int | None = None,
    statistic: Callable[[Scores], float] = max_abs,
) -> None:
    """Judge how far two servers are apart; ``right`` None: the reference."""
    run, settings = check.run, check.run.settings
    if settings.multi_url or settings.serial_url:
        if right is not None:
            check.not_run("it compares servers of both backends; this run is attached to servers of one")
        if settings.backend != ("jax",):
            check.not_run("it is about a JAX server; say that the attached one is: --backend jax, or --engine sgl-jax")
    elif "jax" not in settings.backend:
        check.not_run("it is about a JAX server; the settings choose pytorch only")
    elif right is not None and "pytorch" not in settings.backend:
        check.not_run(
            "it compares both backends; the settings choose jax only (--reference transformers stands in for PyTorch)"
        )
    ours = connect(run, left)
    serial = None if ours.profile.role == "serial" else run.serial_at_hand(ours)

    def measure(gate: Gate) -> Measurement:
        theirs = run.reference(ours) if right is None else connect(run, right)

        def compared() -> parity.Comparison:
            return parity.compare(
                ours,
                theirs,
                run.cases(ours),
                delimiter=ours.delimiter,
                record=run.record,
                client_chunk_size=client_chunk_size,
                serial=serial,
            )

        return parity.measure(run.once((left, right, client_chunk_size), compared), statistic)

    check.check(measure)
