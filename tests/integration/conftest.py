"""A real engine in an environment of its own; NOT_RUN, with the command that builds it, where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from real_engine import PARITY, REGRESSION, STARTUP, RealEngine, SuiteRun, run_suites

from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.engine.checkpoint import CheckpointSpec, write_checkpoint
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.settings.resolve import resolve

ROOT = Path(__file__).parents[2]


def interpreter(engine: str) -> Path:
    """The python of an engine's environment, which ``NAME_PYTHON`` may name: of ``NAME-VERSION`` otherwise."""
    name = engine.partition("-")[0]
    python = Path(os.environ.get(f"{name.upper()}_PYTHON") or ROOT / ".engines" / engine / "bin/python")
    if not python.exists():
        pytest.skip(f"NOT_RUN: there is no {python}; build the environment with: make engines-{name}")
    return python


@contextmanager
def real(name: str, python: Path, base: Path, model: Path) -> Iterator[RealEngine]:
    """An engine that serves a checkpoint from its own environment."""
    engine = choose_engine(name)
    # Two threads that wait for each other take ten times as long where something else has a core.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = {
        "multiitem_engine": name,
        "multiitem_engine_python": str(python),
        "multiitem_model": str(model),
        "multiitem_startup_timeout": str(STARTUP),
    }
    settings = engine.fit(resolve(given, {}, {}))
    with ServerPool(base / "run", owner=True) as pool:
        yield RealEngine(str(python), model, settings, pool)
    monkeypatch.undo()


@pytest.fixture(scope="session")
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("causal") / "tiny-qwen3"
    write_checkpoint(model, CheckpointSpec(), full_tokenizer=True)
    return model


@pytest.fixture(scope="session")
def sglang(tmp_path_factory: pytest.TempPathFactory, causal_model: Path) -> Iterator[RealEngine]:
    python = interpreter("sglang-0.5.23")
    with real("sglang", python, tmp_path_factory.mktemp("sglang"), causal_model) as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory, causal_model: Path) -> Iterator[RealEngine]:
    python = interpreter("vllm-0.32.0")
    with real("vllm", python, tmp_path_factory.mktemp("vllm"), causal_model) as engine:
        yield engine


@pytest.fixture(scope="session")
def infinity_python() -> Path:
    return interpreter("infinity-0.0.78")


@pytest.fixture(scope="session")
def arguments(sglang: RealEngine) -> Callable[..., list[str]]:
    """The options of a run of the suites on the real engine."""
    return lambda *more: [
        "--engine=sglang",
        f"--engine-python={sglang.python}",
        f"--model={sglang.model}",
        f"--multiitem-startup-timeout={STARTUP}",
        *more,
    ]


@pytest.fixture(scope="session")
def suite_run(arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> SuiteRun:
    """The suites on servers of sglang that they start themselves, a pair of a classification checkpoint among them.
    Left out is what takes longest: the search, the ladder and the timing."""
    selection = "not relations and not every_size and not speedup"
    options = arguments("--reference=transformers", "--allow-inconclusive", "-k", selection)
    return SuiteRun(*run_suites(tmp_path_factory.mktemp("suites"), REGRESSION, PARITY, *options))
