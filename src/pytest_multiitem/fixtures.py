"""What a test asks for. Light to import: what does the work is loaded when a test first asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_multiitem import collection, factories
from pytest_multiitem.state import SESSION

if TYPE_CHECKING:
    from pytest_multiitem.checks import BenchmarkRun, GateCheck
    from pytest_multiitem.run import Run
    from pytest_multiitem.tpu_check import TpuCheck

multi_item_server = factories.multi_item_server()
serial_server = factories.serial_server()
prefill_extend_server = factories.prefill_extend_server()


@pytest.fixture
def multiitem_chunk(request: pytest.FixtureRequest) -> int:
    """A server chunk size of the settings; where there are several, the test runs for each."""
    size: int = collection.only_value(request.config, "multiitem_chunk")
    return size


@pytest.fixture
def multiitem_client_chunk(request: pytest.FixtureRequest) -> int:
    """A client chunk size of the settings; where there are several, the test runs for each."""
    size: int = collection.only_value(request.config, "multiitem_client_chunk")
    return size


@pytest.fixture
def multiitem_bench_chunk(request: pytest.FixtureRequest) -> int:
    """A client chunk size of the benchmarks; where there are several, the test runs for each."""
    size: int = collection.only_value(request.config, "multiitem_bench_chunk")
    return size


@pytest.fixture
def multiitem_model(request: pytest.FixtureRequest) -> str | None:
    """A model of ``--models``, the test runs for each; else None: the one of ``--model``."""
    model: str | None = collection.only_value(request.config, "multiitem_model")
    return model


@pytest.fixture
def multiitem_run(request: pytest.FixtureRequest) -> Run:
    """This process's servers, cases and settings."""
    return request.config.stash[SESSION].run


@pytest.fixture
def multiitem_gate(request: pytest.FixtureRequest, multiitem_model: str | None) -> GateCheck:
    """The gate of a test marked ``@pytest.mark.multiitem_gate("name")``."""
    from pytest_multiitem.checks import GateCheck
    from pytest_multiitem.collection import gate_of

    name = gate_of(request.node)
    if name is None:
        raise pytest.UsageError(
            f"{request.node.nodeid} uses the fixture multiitem_gate but names no gate; "
            'mark it with @pytest.mark.multiitem_gate("NAME")'
        )
    return GateCheck(name, request.node, request.config.stash[SESSION], model=multiitem_model)


@pytest.fixture
def multiitem_tpu_check(request: pytest.FixtureRequest) -> TpuCheck:
    """The compile gate for a kernel of the project: ``multiitem_tpu_check("kernels:segment_case", {"rows": 512})``."""
    from pytest_multiitem.tpu_check import TpuCheck

    return TpuCheck(request.node, request.config.stash[SESSION])


@pytest.fixture
def multiitem_bench(request: pytest.FixtureRequest, benchmark: Any, multiitem_model: str | None) -> BenchmarkRun:
    """Timing by pytest-benchmark, recorded with what the server attests to have executed."""
    from pytest_multiitem.checks import BenchmarkRun

    return BenchmarkRun(request.node, request.config.stash[SESSION], benchmark)
