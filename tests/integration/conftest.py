"""A real engine in an environment of its own; NOT_RUN, with the command that builds it, where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_engine import STARTUP, RealEngine

from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.engine.checkpoint import CheckpointSpec, write_checkpoint
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.settings.resolve import resolve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    python = Path(os.environ.get("SGLANG_PYTHON") or ROOT / ".engines/sglang-0.5.23/bin/python")
    if not python.exists():
        pytest.skip(f"NOT_RUN: there is no {python}; build the environment with: make engines")
    base = tmp_path_factory.mktemp("sglang")
    model = base / "tiny-qwen3"
    write_checkpoint(model, CheckpointSpec(), full_tokenizer=True)
    engine = choose_engine("sglang")
    # Two threads that wait for each other take ten times as long where something else has a core.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = {
        "multiitem_engine": "sglang",
        "multiitem_engine_python": str(python),
        "multiitem_model": str(model),
        "multiitem_startup_timeout": str(STARTUP),
    }
    settings = engine.fit(resolve(given, {}, {}))
    with ServerPool(base / "run", owner=True) as pool:
        yield RealEngine(str(python), model, settings, pool)
    monkeypatch.undo()


@pytest.fixture
def arguments(sglang: RealEngine) -> Callable[..., list[str]]:
    """The options of a run of the suites on the real engine."""
    return lambda *more: [
        "--engine=sglang",
        f"--engine-python={sglang.python}",
        f"--model={sglang.model}",
        f"--multiitem-startup-timeout={STARTUP}",
        *more,
    ]
