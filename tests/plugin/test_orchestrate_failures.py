"""Every failure at every step: nothing that was created is left, what was measured is kept, and the report says what is
missing and why. The other side is not drawn in: a partial result is allowed here."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from rented import Rig, commands_of, needs_hosts

from pytest_multiitem.errors import StorageError
from pytest_multiitem.orchestration import ledger

STEPS = ("preflight", "create", "set up", "run", "collect", "tear down", "compare")
#: Orders of steps: what a failure that begins at a step still meets.
UP_TO = {step: STEPS[: STEPS.index(step) + 1] for step in STEPS}
GPU = "gpu"


@dataclass(frozen=True)
class Failure:
    """``inject``: makes it happen from now on, to the GPU side. ``meets``: by the step at which it begins, what the
    report says of it; at other steps it does no harm. ``left``: the steps from which on it keeps the machine from being
    deleted until it is repaired. ``words``: further options of the run."""

    inject: Callable[[Rig, Any, str], object]
    meets: dict[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def says(words: str, *steps: str) -> dict[str, str]:
    return dict.fromkeys(steps, words)


def api(answer: Any, *asked: str, times: int = 1_000_000) -> Callable[[Rig, Any, str], None]:
    """The API gives this answer to what is asked of the GPU, so many times."""

    def inject(rig: Rig, work: Any, step: str) -> None:
        left = [times]

        def fault(what: str, kind: str) -> Any:
            if kind != GPU or (asked and what not in asked) or not left[0]:
                return None
            left[0] -= 1
            return answer

        rig.cloud.fault = fault

    return inject


def on_the_host(act: Callable[[Rig], object]) -> Callable[[Rig, Any, str], None]:
    """Done to the GPU's machine, as soon as there is one."""

    def inject(rig: Rig, work: Any, step: str) -> None:
        if step != "create":
            with suppress(StopIteration):
                act(rig)
            return
        done = threading.Event()

        def fault(what: str, kind: str) -> None:
            with suppress(StopIteration):
                if kind == GPU and what == "describe" and not done.is_set() and rig.cloud.host(GPU):
                    done.set()
                    act(rig)

        rig.cloud.fault = fault

    return inject


def cut_for(seconds: float) -> Callable[[Rig], None]:
    def act(rig: Rig) -> None:
        host = rig.cloud.host(GPU)
        host.drop_connections()
        host.cut()
        threading.Timer(seconds, host.mend).start()

    return act


def behave(how: str) -> Callable[[Rig, Any, str], None]:
    return lambda rig, work, step: rig.behave("pytorch", how)


def tear(rig: Rig, work: Any, step: str) -> None:
    """A file is cut off, on its way from the job to here."""
    rig.behave("pytorch", "torn")
    if step == "collect":
        for path in rig.cloud.host(GPU).home.glob("*/measured/*.json"):
            path.write_bytes(path.read_bytes()[:3000])


def spend(rig: Rig, work: Any, step: str) -> None:
    work.plan.max_usd = 1e-9


def signalled(number: signal.Signals) -> Callable[[Rig, Any, str], None]:
    def inject(rig: Rig, work: Any, step: str) -> None:
        os.kill(os.getpid(), number)
        # The main thread takes the signal when it gets the processor: a short step may be over by then.
        end = time.monotonic() + 20
        while step in UP_TO["collect"] and work.stop.reason is None and time.monotonic() < end:
            time.sleep(0.01)

    return inject


DENIED = (403, "Required 'compute.instances.get' permission for 'projects/p1/zones/us-east5-b/instances/mi-g4'")
OUT = (401, "Request had invalid authentication credentials. Run: $ gcloud auth login")
SHORT = ("--boot-minutes", "0.2")
IMPATIENT = tuple(
    word
    for option in ("ConnectTimeout=2", "ServerAliveInterval=1", "ServerAliveCountMax=2")
    for word in ("--ssh-option", option)
)
AT_WORK = ("set up", "run", "collect")
FAILURES = {
    "quota": Failure(
        api("quota", "create"), says("no quota: .*Quota 'GPUS_PER_GPU_FAMILY' exceeded", *UP_TO["create"])
    ),
    "stockout": Failure(
        api("stockout", "create"), says("no capacity: .*ZONE_RESOURCE_POOL_EXHAUSTED", *UP_TO["create"])
    ),
    "permission": Failure(
        api(DENIED),
        says("permission denied: .*compute.instances.get", *UP_TO["create"]),
        left=("create", *AT_WORK, "tear down"),
    ),
    "login": Failure(api(OUT), says("not logged in: ", *UP_TO["create"]), left=("create", *AT_WORK, "tear down")),
    "service down": Failure(
        api((503, "backend error"), times=2), says("service unreachable: .*backend error", "create")
    ),
    "never ends": Failure(
        api("never ends", "create", "delete"), says("did not end within 12 s", *UP_TO["create"]), words=SHORT
    ),
    "preempted": Failure(
        on_the_host(lambda rig: rig.cloud.preempt(GPU)), says("machine gone: mi-g4 is TERMINATED", "create", *AT_WORK)
    ),
    "cut off": Failure(
        on_the_host(lambda rig: rig.cloud.host(GPU).cut()),
        says("connection lost|did not let us in", "create", *AT_WORK),
        words=("--patience-minutes", "0.03", *SHORT, *IMPATIENT),
    ),
    "lost for a moment": Failure(on_the_host(cut_for(0.7))),
    "crash": Failure(behave("crash"), says("exit status 2: multiitem: no accelerator is here", *UP_TO["run"])),
    "vanished": Failure(behave("vanish"), says("vanished without an exit status", *UP_TO["run"])),
    "torn file": Failure(tear, says("artefact unusable: .*not valid JSON", *UP_TO["collect"])),
    "other workload": Failure(behave("other"), says("artefact unusable: ", *UP_TO["run"])),
    "budget": Failure(spend, says("--max-usd 1e-09 is reached", *UP_TO["collect"])),
    "SIGTERM": Failure(signalled(signal.SIGTERM), says("ended by SIGTERM", *UP_TO["collect"])),
    "Ctrl-C": Failure(signalled(signal.SIGINT), says("ended by Ctrl-C", *UP_TO["collect"])),
}
#: These end the whole run, and with it the other side.
WHOLE = {"budget": 1, "SIGTERM": 143, "Ctrl-C": 130}
QUICK = {
    ("create", "stockout"),
    ("run", "SIGTERM"),
    ("collect", "torn file"),
}


def is_harmless(step: str, name: str) -> bool:
    return name not in WHOLE and step not in FAILURES[name].meets and step not in FAILURES[name].left


CELLS = [
    pytest.param(
        step, name, id=f"{step}-{name}".replace(" ", "_"), marks=[] if (step, name) in QUICK else [pytest.mark.slow]
    )
    for step, name in product(STEPS, FAILURES)
    if not is_harmless(step, name)
]  # fmt: skip


def at(step: str, inject: Callable[[Any], object]) -> tuple[Callable[[Any, str, str | None], None], threading.Event]:
    """Injects as a step of the GPU side, or of all, begins for the first time; and whether that has been."""
    begun = threading.Event()

    def begins(work: Any, now: str, side: str | None) -> None:
        if now == step and side in (GPU, None) and not begun.is_set():
            begun.set()
            inject(work)

    return begins, begun


@needs_hosts
@pytest.mark.parametrize(("step", "name"), CELLS)
def test_every_failure_at_every_step(rig: Rig, step: str, name: str) -> None:
    failure = FAILURES[name]
    rig.begins, begun = at(step, lambda work: failure.inject(rig, work, step))
    status, out, err = rig.run(*rig.words("--allow-partial", *failure.words))
    said = (out, err, rig.report())
    assert begun.is_set(), said
    reason, is_left = failure.meets.get(step), step in failure.left
    if not (name == "budget" and step == "tear down"):  # the other side may be done by then, or not
        assert status == (1 if is_left else WHOLE.get(name, 0) if reason or name != "budget" else 0), said

    if is_left:
        assert "mi-g4 may still be there, and paid for; type: multiitem orchestrate --teardown" in err, said
        assert [machine.name for machine in rig.ledger.left()] == ["mi-g4"] and "mi-g4 in us-east5-b" in rig.report()
        rig.cloud.fault = lambda *_: None
        status, out, err = rig.run("orchestrate", "--teardown", "--results-dir", str(rig.path / "results"))
        assert status == 0, (out, err)
    rig.nothing_is_left()

    matrices = [name.partition("_")[0] for name in rig.matrices()]
    if name in WHOLE:  # with the whole run, the other side was stopped as well, wherever it was
        assert reason is None or re.search(reason, said[2]), said
        assert reason is not None or matrices[-2:] == ["pytorch", "pytorch"], said
        assert not matrices or rig.comparison()["status"] == ("complete" if len(matrices) == 4 else "partial"), said
    elif reason is None:
        assert matrices == ["jax", "jax", "pytorch", "pytorch"], said
        assert rig.comparison()["status"] == "complete", said
    else:
        assert re.search(reason, said[2]) and matrices == ["jax", "jax"], said
        comparison = rig.comparison()
        assert comparison["status"] == "partial" and comparison["summary"].startswith("TPU-only partial: "), said
        assert re.search(reason, comparison["blocker"]) and re.search(reason, said[0]), said


@needs_hosts
@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_failures_that_come_too_late_or_pass_do_no_harm(rig: Rig, step: str) -> None:
    """All that the table above leaves out at a step, one upon the other."""
    harmless = [failure for name, failure in FAILURES.items() if is_harmless(step, name)]
    assert harmless

    def inject(work: Any) -> None:
        faults = []
        for failure in harmless:
            rig.cloud.fault = lambda *_: None
            failure.inject(rig, work, step)
            faults.append(rig.cloud.fault)
        rig.cloud.fault = lambda *asked: next(filter(None, (fault(*asked) for fault in faults)), None)

    rig.begins, begun = at(step, inject)
    status, out, err = rig.run(*rig.words(*(word for failure in harmless for word in failure.words)))
    assert begun.is_set() and status == 0, (out, err)
    assert len(rig.matrices()) == 4 and rig.comparison()["status"] == "complete", (out, err)
    rig.nothing_is_left()


@needs_hosts
@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_the_disk_here_is_full_from_a_step_on(rig: Rig, step: str) -> None:
    """Nothing is created that cannot be written down, and everything that was is given back."""

    def full(path: Path, record: object) -> None:
        raise StorageError(f"cannot write {path}: No space left on device")

    rig.begins, begun = at(step, lambda work: rig.monkeypatch.setattr(ledger, "write_record", full))
    status, out, err = rig.run(*rig.words())
    assert begun.is_set() and status == 1 and "No space left on device" in err, (out, err)
    assert not rig.cloud.machines, (out, err)


@needs_hosts
@pytest.mark.slow
@pytest.mark.parametrize("then", ["--teardown", "--resume"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step(rig: Rig, step: str, then: str) -> None:
    """SIGKILL: what is left is removed, or used further, from the ledger alone."""
    side = "" if step == "compare" else GPU
    said, _ = rig.start(*rig.words(), ends_itself=f"{step}:{side}:SIGKILL").communicate(timeout=120)
    if step in ("set up", "run", "collect"):
        assert rig.cloud.machines, said
    status, out, err = rig.run(
        "orchestrate", then, "--results-dir", str(rig.path / "results"), "--artifact-subdir", "run"
    )
    assert status == 0, (said, out, err)
    rig.nothing_is_left()
    assert not rig.matrices() or rig.comparison()["status"] == ("complete" if len(rig.matrices()) == 4 else "partial")
    if then == "--resume":
        assert rig.comparison()["status"] == "complete", (said, out, err)


@needs_hosts
def test_killed_between_asking_for_a_machine_and_knowing_of_it(rig: Rig) -> None:
    """The intent is on disk before the call, so there is a name to look for."""
    begun, processes = threading.Event(), []

    def fault(asked: str, kind: str) -> None:
        if (asked, kind) == ("create", GPU) and not processes[1:]:
            begun.wait(60)
            processes.append("killed")
            processes[0].kill()

    rig.cloud.fault = fault
    processes.append(rig.start(*rig.words()))
    begun.set()
    said, _ = processes[0].communicate(timeout=120)
    assert processes[0].returncode == -signal.SIGKILL, said
    assert [(m.name, m.state) for m in rig.ledger.machines if m.side == GPU] == [("mi-g4", "intended")]
    status, out, err = rig.run("orchestrate", "--teardown", "--results-dir", str(rig.path / "results"))
    assert status == 0 and "mi-g4" in rig.cloud.created, (out, err)
    rig.nothing_is_left()
    assert "the run was killed" in out and "the run was killed" in rig.report()


@needs_hosts
@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, rig: Rig) -> None:
    """Twenty times, with all its commands left behind; afterwards nothing is there, and nobody works on it."""
    seed = int(os.environ.get("MULTIITEM_TEST_SEED", "20260101"))
    moments = random.Random(seed)
    whole = _lasts(rig)
    for number in range(20):
        subdir = f"kill-{number}"
        process = rig.start(*rig.words("--artifact-subdir", subdir))
        time.sleep(moments.uniform(0.2, 1.0) * whole)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        directory = rig.path / "results" / "orchestrations" / subdir
        if not (directory / "ledger.json").exists():
            assert not rig.cloud.machines
            continue
        status, out, err = rig.run(
            "orchestrate", "--teardown", "--results-dir", str(rig.path / "results"), "--artifact-subdir", subdir
        )
        assert status == 0 and not rig.cloud.machines, (seed, number, out, err)
        assert commands_of(directory) == [], (seed, number)


def _lasts(rig: Rig) -> float:
    begun = time.monotonic()
    process = rig.start(*rig.words())
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and rig.comparison()["status"] == "complete", said
    return time.monotonic() - begun
