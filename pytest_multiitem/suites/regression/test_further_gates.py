"""Every gate that no other test of the suites is for: a project's own (`pytest_multiitem_gates`), new files in `gates`.

A gate that states how it is measured needs no test: it is measured here, on every server that its needs ask for.
"""

from __future__ import annotations

import pytest

from pytest_multiitem.gates.registry import gates
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.suites.parity import test_multi_item_parity
from pytest_multiitem.suites.regression import test_multi_item_regression

_FIXTURES = {"multi": "multi_item_server", "serial": "serial_server", "extend": "prefill_extend_server"}


def _further(*, packed: bool) -> list[str]:
    """The gates without a test that need a packed server, or the others."""
    suites = vars(test_multi_item_regression) | vars(test_multi_item_parity)
    tests = [test for suite in suites.values() if isinstance(suite, type) for test in vars(suite).values()]
    marks = [mark for test in tests for mark in getattr(test, "pytestmark", ())]
    have_a_test = {mark.args[0] for mark in marks if mark.name == "multiitem_gate"}
    further = [gate for gate in gates().values() if gate.measure is not None and gate.name not in have_a_test]
    return [gate.name for gate in further if packed is any("multi" in need for need in gate.needs)]


class _IfAny:
    """Where there are none, nothing is collected."""

    def __init__(self, *, packed: bool) -> None:
        self._packed = packed

    def __get__(self, instance: object, owner: type) -> bool:
        return bool(_further(packed=self._packed))


def _parametrize(metafunc: pytest.Metafunc, names: list[str]) -> None:
    each = [pytest.param(name, marks=pytest.mark.multiitem_gate(name), id=name) for name in names]
    metafunc.parametrize("further_gate", each)


def _measure(
    request: pytest.FixtureRequest, check: GateCheck, backend: str, mask: str | None = None, chunk: int | None = None
) -> None:
    servers = {part: request.getfixturevalue(name) for part, name in _FIXTURES.items() if part in check.gate.needs}
    assert check.measured(backend=backend, mask=mask, chunk=chunk, **servers).passes()


@pytest.mark.regression
class TestFurtherGatesOfPackedServers:
    """On a server of every backend, mask and server chunk size."""

    __test__ = _IfAny(packed=True)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        _parametrize(metafunc, _further(packed=True))

    def test_it_passes(
        self,
        request: pytest.FixtureRequest,
        further_gate: str,
        multiitem_gate: GateCheck,
        multiitem_backend: str,
        multiitem_mask: str,
        multiitem_chunk: int,
    ) -> None:
        _measure(request, multiitem_gate, multiitem_backend, multiitem_mask, multiitem_chunk)


@pytest.mark.regression
class TestFurtherGates:
    """On every backend."""

    __test__ = _IfAny(packed=False)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        _parametrize(metafunc, _further(packed=False))

    def test_it_passes(
        self, request: pytest.FixtureRequest, further_gate: str, multiitem_gate: GateCheck, multiitem_backend: str
    ) -> None:
        _measure(request, multiitem_gate, multiitem_backend)
