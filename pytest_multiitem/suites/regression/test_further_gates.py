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


class _Further:
    """The gates without a test that need a packed server, or the others. Where there are none, nothing is collected."""

    def __init__(self, *, packed: bool) -> None:
        self.packed = packed

    def __get__(self, instance: object, owner: type) -> bool:
        return bool(self.names())

    def names(self) -> list[str]:
        suites = vars(test_multi_item_regression) | vars(test_multi_item_parity)
        tests = [test for suite in suites.values() if isinstance(suite, type) for test in vars(suite).values()]
        marks = [mark for test in tests for mark in getattr(test, "pytestmark", ())]
        have_a_test = {mark.args[0] for mark in marks if mark.name == "multiitem_gate"}
        further = [gate for gate in gates().values() if gate.measure is not None and gate.name not in have_a_test]
        return [gate.name for gate in further if self.packed is any("multi" in need for need in gate.needs)]

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        mark = pytest.mark.multiitem_gate
        metafunc.parametrize("further_gate", [pytest.param(name, marks=mark(name), id=name) for name in self.names()])


_PACKED, _OTHERS = _Further(packed=True), _Further(packed=False)


@pytest.mark.regression
class TestFurtherGatesOfPackedServers:
    """On a server of every backend, mask and server chunk size."""

    __test__, pytest_generate_tests = _PACKED, _PACKED.parametrize

    def test_it_passes(
        self, request: pytest.FixtureRequest, further_gate: str, multiitem_gate: GateCheck, multiitem_backend: str,
        multiitem_mask: str, multiitem_chunk: int,
    ) -> None:  # fmt: skip
        _measure(request, multiitem_gate, multiitem_backend, multiitem_mask, multiitem_chunk)


@pytest.mark.regression
class TestFurtherGates:
    """On every backend."""

    __test__, pytest_generate_tests = _OTHERS, _OTHERS.parametrize

    def test_it_passes(
        self, request: pytest.FixtureRequest, further_gate: str, multiitem_gate: GateCheck, multiitem_backend: str
    ) -> None:
        _measure(request, multiitem_gate, multiitem_backend)


def _measure(
    request: pytest.FixtureRequest, check: GateCheck, backend: str, mask: str | None = None, chunk: int | None = None
) -> None:
    servers = {part: request.getfixturevalue(name) for part, name in _FIXTURES.items() if part in check.gate.needs}
    assert check.measured(backend=backend, mask=mask, chunk=chunk, **servers).passes()
