"""`multiitem orchestrate` against a fake cloud and real hosts: how tests run it, and what they look at afterwards."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_cloud import FakeCloud
from inner_project import running
from real_hosts import LOOPBACK_PORT, missing, namespaces

from pytest_multiitem import cli
from pytest_multiitem.comparison import files, workload
from pytest_multiitem.comparison.records import WorkloadRef
from pytest_multiitem.orchestration.ledger import read_ledger
from pytest_multiitem.orchestration.records import Ledger
from pytest_multiitem.signals import ENDING

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from matrices import ITEMS, best_pair

HERE = Path(__file__).parent
CLIENT = HERE / "fake_client"
needs_hosts = pytest.mark.skipif(missing() is not None, reason=f"NOT_RUN: {missing()}")
needs_gcloud = pytest.mark.skipif(
    shutil.which("gcloud") is None, reason="NOT_RUN: no gcloud on PATH; install google-cloud-cli"
)
PROGRAM = "from pytest_multiitem.cli import main; main()"


VARIABLES = (
    "PROJECT", "TPU_ZONE", "GPU_ZONE", "TPU_NAME", "GPU_NAME", "ARTIFACT_SUBDIR", "CREATE_RESOURCES", "TEARDOWN_AT_END",
)  # fmt: skip


@dataclass
class Rig:
    """``path``: a directory of its own. ``begins``: called as a step of a run in this process begins, with what the run
    shares, the step's name and its side."""

    path: Path
    cloud: FakeCloud
    monkeypatch: pytest.MonkeyPatch
    begins: Callable[[Any, str, str | None], object] = lambda *_: None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.path / "results" / "orchestrations" / "run"

    @property
    def ledger(self) -> Ledger:
        return read_ledger(self.directory)

    def use_client(self, *, real: bool) -> None:
        self.environment = self.cloud.environment()
        if not real:
            self.environment["PATH"] = f"{CLIENT}{os.pathsep}{os.environ['PATH']}"
        for name in (
            "PROJECT",
            "TPU_ZONE",
            "GPU_ZONE",
            "TPU_NAME",
            "GPU_NAME",
            "ARTIFACT_SUBDIR",
            "CREATE_RESOURCES",
            "TEARDOWN_AT_END",
        ):
            self.monkeypatch.delenv(name, raising=False)
        for name, value in self.environment.items():
            self.monkeypatch.setenv(name, value)

    def words(self, *more: str, job: bool = True) -> list[str]:
        """A new run whose machines bring recorded matrices; or (``job`` false) measure what ``more`` says."""
        words = [
            "orchestrate", "--project", "p1", "--artifact-subdir", "run", "--results-dir", str(self.path / "results"),
            "--tpu-engine", "embedded", "--gpu-engine", "embedded", "--ssh-user", "root", "--poll-seconds", "0.1",
            "--boot-minutes", "2", "--patience-minutes", "1", "--tpu-usd-per-hour", "2.7",
            "--gpu-usd-per-hour", "4.5",
        ]  # fmt: skip
        if not namespaces():
            words += ["--ssh-option", f"Port={LOOPBACK_PORT}"]
        if job:
            words += [
                "--remote-python",
                str(self.recorded / "python"),
                "--workload-json",
                str(self.recorded / "workload.json"),
            ]
        return [*words, *more]

    @property
    def recorded(self) -> Path:
        """Where recorded matrices are, made when first asked for."""
        directory = self.path / "recorded"
        if not directory.exists():
            record(directory)
        return directory

    def behave(self, backend: str, how: str) -> None:
        """How the job of a side goes wrong: see `fake_client/measures`."""
        (self.recorded / f"{backend}.behaviour").write_text(how)

    def run(self, *words: str) -> tuple[int, str, str]:
        """``multiitem`` in this process: exit status, standard output, standard error."""
        from pytest_multiitem.orchestration.work import Work

        begins = Work.begins

        def watched(work: Work, step: Any, side: Any, said: str) -> None:
            begins(work, step, side, said)
            self.begins(work, step.value, side)

        out, err = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in ENDING}
        with self.monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(Work, "begins", watched)
            patch.setattr(sys, "argv", ["multiitem", *words])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()

    def start(self, *words: str, ends_itself: str = "") -> subprocess.Popen[str]:
        """``multiitem`` in a process of its own. ``ends_itself``: ``STEP:SIDE:SIGNAL``, which it gets there."""
        program = PROGRAM
        if ends_itself:
            step, side, number = ends_itself.split(":")
            program = (
                "import os, signal\nfrom pytest_multiitem.orchestration.work import Work\nbegins = Work.begins\n"
                "def watched(work, step, side, said):\n    begins(work, step, side, said)\n"
                f"    if step.value == {step!r} and (side or '') == {side!r}: os.kill(os.getpid(), signal.{number})\n"
                f"Work.begins = watched\n{PROGRAM}"
            )
        return subprocess.Popen(
            [sys.executable, "-c", program, *words], env={**os.environ, **self.environment}, cwd=self.path,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def nothing_is_left(self, planted: int = 0) -> None:
        """No machine in the cloud, none in the ledger, and nobody works on the run."""
        assert len(self.cloud.machines) == planted, self.cloud.machines.keys()
        if (self.directory / "ledger.json").exists():
            assert [machine.name for machine in self.ledger.left()] == []
        assert commands_of(self.directory) == []

    def matrices(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("*_matrix.json"))

    def comparison(self) -> dict[str, Any]:
        return json.loads((self.directory / "comparison.json").read_text())

    def report(self) -> str:
        return (self.directory / "orchestration.md").read_text()


def commands_of(directory: Path) -> list[psutil.Process]:
    """Processes, but this one, whose command line names a run."""
    named = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(directory) in " ".join(process.cmdline()):
                named.append(process)
        except psutil.Error:
            continue
    return running(named)


def record(directory: Path) -> None:
    """Matrices of both backends in both views, of one workload, as a run would leave them; and who brings them."""
    directory.mkdir()
    made = workload.generate(
        query_tokens=200, num_items=ITEMS, item_tokens=20, vocab_size=30_000, labels=(9454, 2753), delimiter=29_000
    )
    files.write(directory / "workload.json", made)
    shutil.copy(directory / "workload.json", directory / "canonical_workload.json")
    ref = workload.reference(workload.read(directory / "canonical_workload.json"))
    for view in ("portable", "best_native"):
        for matrix in best_pair(view=view, workload_ref=ref, workload=workload.head(made)):
            files.write(directory / f"{matrix.backend}_{view}_matrix.json", matrix)
    other = best_pair(
        workload_ref=WorkloadRef(path="canonical_workload.json", sha256="b" * 64, request_id="canonical-0")
    )
    files.write(directory / "other_matrix.json", other[0])
    shutil.copy(CLIENT / "measures", directory / "python")


def wait_for(condition: Callable[[], object], within: float = 60) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)
