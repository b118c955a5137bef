"""A real engine in an environment of its own, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.base import Engine, Profile, Role, choose_engine
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, RunningServer
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.ready import ScoredRequest

#: Seconds until a server on two busy cores has scored its first request.
STARTUP = 400
LABELS = (9454, 2753)
REGRESSION = "pytest_multiitem.suites.regression"
PARITY = "pytest_multiitem.suites.parity"


@dataclass
class RealEngine:
    """The engine's interpreter, a checkpoint it serves, and a way to start it."""

    python: str
    model: Path
    settings: Settings
    pool: ServerPool

    @property
    def engine(self) -> Engine:
        return choose_engine(self.settings.engine)

    def launch(self, role: Role) -> LaunchSpec:
        return self.engine.launch(Profile(role, "pytorch"), self.settings)

    def serial(self, *, restart: bool = False) -> RunningServer:
        ready = ScoredRequest(LABELS, client=self.engine.client)
        return self.pool.acquire(self.launch("serial"), ready, restart=restart)

    @contextmanager
    def packed(self, directory: Path, fault: str = "") -> Iterator[RunningServer]:
        """A server with `--enable-mis`, for as long as the block runs; ``fault``: see engines/sglang_mis_cpu."""
        spec = self.launch("multi")
        with ServerPool(directory, owner=True) as pool:
            yield pool.acquire(replace(spec, env={**spec.env, "MIS_CPU_FAULT": fault}), ScoredRequest(LABELS))


@dataclass(frozen=True)
class SuiteRun:
    """A run of the suites: its exit status, ``matrix.json``, what it printed."""

    status: int
    matrix: dict[str, Any]
    output: str

    @property
    def gates(self) -> dict[str, dict[str, Any]]:
        """Records of gates by name, without those that were not selected; of a gate's several, one that was run."""
        selected = [gate for gate in self.matrix["gates"] if "deselected" not in gate["reason"]]
        return {gate["gate"]: gate for gate in sorted(selected, key=lambda gate: gate["verdict"] != "NOT_RUN")}

    @property
    def blame(self) -> dict[str, str]:
        """The line of each gate that fails, as it was printed."""
        lines = [line.removeprefix("FAIL ") for line in self.output.splitlines() if line.startswith("FAIL ")]
        return dict(line.split(": ", 1) for line in lines)


def judged_by_its_answers(directory: Path, engine: str, url: str, gate: str) -> SuiteRun:
    """The gate of a server that takes texts, attached by its address alone; that gate is all that is measured."""
    attached = (f"--engine={engine}", f"--multi-url={url}", f"--serial-url={url}")
    run = SuiteRun(*run_suites(directory, REGRESSION, *attached))
    measured = {name for name, each in run.gates.items() if each["verdict"] != "NOT_RUN"}
    assert measured == {gate} and all(each["reason"] for each in run.gates.values()), run.output
    return run


def run_suites(directory: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """pytest on the suites in a process of its own: exit status, matrix, output."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MULTI_ITEM_", "PYTEST_"))},
    )
    path = directory / "multiitem-results/latest/matrix.json"
    matrix = json.loads(path.read_bytes()) if path.exists() else {}  # a usage error leaves none
    return done.returncode, matrix, done.stdout + done.stderr
