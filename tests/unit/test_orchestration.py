"""The ledger, the wheel and the files of a run on rented machines, without a machine."""

import fcntl
import json
import os
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from matrices import best_pair

from pytest_multiitem.comparison import files, workload
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.errors import StorageError, UsageError
from pytest_multiitem.machines.stop import Stopped
from pytest_multiitem.orchestration import artefacts
from pytest_multiitem.orchestration import ledger as ledger_module
from pytest_multiitem.orchestration.ledger import LedgerFile, new_ledger, read_ledger
from pytest_multiitem.orchestration.limits import Limits, cost_lines
from pytest_multiitem.orchestration.records import MachineRecord, Plan, Shape, SidePlan, Step
from pytest_multiitem.orchestration.remote import measuring_command
from pytest_multiitem.orchestration.setups import setup_for
from pytest_multiitem.orchestration.wheel import write_wheel


def side(name="tpu", **more):
    given = {"provider": "gcloud", "name": f"m-{name}", "zone": "z-1", "engine": "embedded", "python": "python3"}
    return SidePlan(side=name, **(given | more))


def plan(**more):
    return Plan(sides=[side("tpu"), side("gpu")], shape=Shape(), **more)


def machine(state="ready", hours=1.0, price=3.0, **more):
    asked = datetime.now(UTC) - timedelta(hours=hours)
    given = {"side": "tpu", "name": "m", "zone": "z", "rented": True, "usd_per_hour": price}
    return MachineRecord(state=state, intended_utc=asked.isoformat(), **(given | more))


def test_a_ledger_is_on_disk_before_anything_happens(tmp_path):
    with LedgerFile(tmp_path / "run", new_ledger(plan())) as file:
        file.intend(machine("intended"))
        known = read_ledger(tmp_path / "run")
        assert [m.state for m in known.machines] == ["intended"] and known.driver.pid == os.getpid()
        seen = []

        def breaks():
            with file.step(Step.CREATE, "tpu"):
                seen.append(read_ledger(tmp_path / "run").steps[-1].state)
                raise ValueError("it broke")

        with pytest.raises(ValueError, match="broke"):
            breaks()
        assert seen == ["begun"]
        with pytest.raises(Stopped), file.step(Step.RUN, "tpu"):
            raise Stopped("enough")
        with file.step(Step.COLLECT, "tpu"):
            pass
    known = read_ledger(tmp_path / "run")
    assert [(s.step, s.state, s.reason) for s in known.steps] == [
        ("create", "failed", "it broke"), ("run", "stopped", "enough"), ("collect", "done", None)
    ]  # fmt: skip
    assert known.done(Step.COLLECT, "tpu") and not known.done(Step.COLLECT, "gpu") and known.driver is None


def test_nothing_is_created_that_cannot_be_written_down(tmp_path, monkeypatch):
    """But what is there is given back whether that can be written down or not."""
    with LedgerFile(tmp_path, new_ledger(plan())) as file:
        with monkeypatch.context() as patch:
            patch.setattr(ledger_module, "write_record", full_disk)
            with pytest.raises(StorageError, match="no space"):
                file.intend(machine("intended"))
            assert file.ledger.machines == [] and file.unwritten is None
            with file.step(Step.TEAR_DOWN, "tpu"):
                pass
            assert "no space" in str(file.unwritten)
        assert [s.state for s in file.ledger.steps] == ["done"]
    assert [s.state for s in read_ledger(tmp_path).steps] == ["done"]


def full_disk(*_):
    raise StorageError("cannot write it: no space")


def test_a_run_has_one_process_at_a_time(tmp_path):
    with (
        LedgerFile(tmp_path, new_ledger(plan())),
        pytest.raises(UsageError, match=f"process {os.getpid()} is at work on"),
    ):
        LedgerFile(tmp_path)
    with pytest.raises(UsageError, match="holds an orchestration already; go on with --resume"):
        LedgerFile(tmp_path, new_ledger(plan()))


def test_commands_that_a_killed_run_has_left_are_ended_first(tmp_path):
    """They hold the run's lock, so that they are known; nobody else is touched."""
    with LedgerFile(tmp_path, new_ledger(plan())):
        pass
    content = json.loads((tmp_path / "ledger.json").read_text())
    content["driver"] = {"pid": 2**22 + 1, "start_time": 1.0}
    (tmp_path / "ledger.json").write_text(json.dumps(content))
    lock = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with subprocess.Popen(["sleep", "300"], pass_fds=[lock]) as orphan, subprocess.Popen(["sleep", "300"]) as other:
        os.close(lock)
        with LedgerFile(tmp_path) as file:
            assert orphan.wait(10) != 0 and other.poll() is None
            assert file.ledger.driver.pid == os.getpid()
        other.kill()


def pid_given_again():
    return {"pid": os.getpid(), "start_time": psutil.Process().create_time() - 100}


def dead_but_not_buried():
    killed = subprocess.Popen(["sleep", "300"])
    known = {"pid": killed.pid, "start_time": psutil.Process(killed.pid).create_time()}
    killed.kill()
    while psutil.Process(killed.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    return known


@pytest.mark.parametrize("driver", [pid_given_again, dead_but_not_buried])
def test_a_driver_that_is_gone(tmp_path, driver):
    with LedgerFile(tmp_path, new_ledger(plan())):
        pass
    content = json.loads((tmp_path / "ledger.json").read_text())
    content["driver"] = driver()
    (tmp_path / "ledger.json").write_text(json.dumps(content))
    lock = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with subprocess.Popen(["sleep", "300"], pass_fds=[lock]) as orphan:
        os.close(lock)
        with LedgerFile(tmp_path):
            assert orphan.wait(10) != 0


@pytest.mark.parametrize(
    ("machines", "cost"),
    [
        (lambda: [], 0.0),
        (lambda: [machine(hours=2, price=3)], 6.0),
        (lambda: [machine(hours=2, price=3), machine(hours=1, price=4, side="gpu")], 10.0),
        (lambda: [machine("never", hours=50)], 0.0),
        (lambda: [machine(rented=False, price=None)], 0.0),
        (lambda: [machine(price=None), machine()], None),
        (
            lambda: [
                machine("deleted", hours=3, price=1, deleted_utc=(datetime.now(UTC) - timedelta(hours=2)).isoformat())
            ],
            1.0,
        ),
    ],
)
def test_costs(machines, cost):
    ledger = new_ledger(plan())
    ledger.machines = machines()
    assert ledger.cost(datetime.now(UTC)) == (None if cost is None else pytest.approx(cost, abs=0.2))
    said = "unknown, a machine has no price" if cost is None else f"{cost:.0f}."
    assert said in cost_lines(ledger)[-1]


def test_limits():
    ledger = new_ledger(plan(max_usd=5.0))
    limits = Limits(ledger)
    assert limits.exceeded() is None
    ledger.machines = [machine(hours=1)]
    assert limits.exceeded() is None
    ledger.machines = [machine(hours=2)]
    assert limits.exceeded().startswith("--max-usd 5 is reached (6.0")
    assert Limits(new_ledger(plan(max_minutes=1e-9))).exceeded().startswith("--max-minutes 1e-09 is reached")


def test_the_measuring_command_takes_what_the_plan_says():
    """Every option exists, and means what it says."""
    from pytest_multiitem.settings.settings import OPTIONS

    shape = Shape(jax_mask_impl="dense", model="some/model", client_chunk_sizes="8,64", timed_runs=3)
    words = measuring_command(
        Plan(sides=[], shape=shape),
        side("gpu", usd_per_hour=4.5, engine_python="engine/bin/python"),
        copied_model=False,
    )
    for part in ("--backend pytorch", "--model some/model", "--multiitem-compare-chunk-sizes 8,64",
                 "--compare-dir measured",
                 "--multiitem-bench-timed-runs 3", "--multiitem-cost-per-hour 4.5",
                 '--engine-python "$PWD"/engine/bin/python'):  # fmt: skip
        assert part in words
    known = {flag for option in OPTIONS for flag in (option.flag, option.short_flag)}
    assert {word for word in words.split() if word.startswith("--")} <= known
    assert "--mask-impl" not in words
    assert "--backend jax --engine embedded" in (
        jax := measuring_command(Plan(sides=[], shape=shape), side(), copied_model=False)
    )
    assert "--mask-impl dense" in jax
    assert '--model "$PWD"/model' in measuring_command(Plan(sides=[], shape=shape), side(), copied_model=True)


def test_set_ups(tmp_path):
    assert setup_for("sglang", None).engine_python == "engine/bin/python"
    own = tmp_path / "own.toml"
    own.write_text('[sglang]\ncommands = ["true"]\n[mine]\npython = "/opt/python"\n')
    assert setup_for("sglang", own).commands == ["true"] and setup_for("sglang", own).python == "product/bin/python"
    assert setup_for("mine", own).commands == []
    own.write_text('[sglang]\ncomands = ["true"]\n')
    with pytest.raises(
        UsageError, match=r"set-up of the engine 'sglang' in .*own.toml: Object contains unknown field `comands`"
    ):
        setup_for("sglang", own)


def test_the_wheel_is_the_product(tmp_path):
    """pip takes it, and what it installs is what runs here."""
    wheel = write_wheel(tmp_path)
    target = tmp_path / "installed"
    words = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        target,
        wheel,
    ]
    subprocess.run([sys.executable, *map(str, words)], check=True, timeout=120)
    import pytest_multiitem

    for name in ("cli.py", "orchestration/setups.toml", "adapters/profiles.toml", "results/schemas/__init__.py"):
        here = os.path.join(os.path.dirname(pytest_multiitem.__file__), name)  # noqa: PTH118, PTH120
        assert (target / "pytest_multiitem" / name).read_bytes() == open(here, "rb").read()  # noqa: PTH123, SIM115
    assert (target / "bin" / "multiitem").exists()
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "__pycache__" in name]
        first = archive.read("pytest_multiitem/__init__.py")
    assert first and wheel.read_bytes() == write_wheel(tmp_path).read_bytes()


@pytest.fixture
def machines_files(tmp_path):
    """What a machine brings, and where it is kept."""
    made = workload.generate(query_tokens=30, num_items=40, item_tokens=5, vocab_size=30_000, delimiter=29_000)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    files.write(here / "canonical_workload.json", made)
    ref = workload.reference(workload.read(here / "canonical_workload.json"))
    for view in ("portable", "best_native"):
        jax, _ = best_pair(view=view, workload_ref=ref, workload=workload.head(made))
        files.write(there / f"jax_{view}_matrix.json", jax)
    return there, here


def test_what_a_machine_brings_is_kept_byte_by_byte(machines_files):
    there, here = machines_files
    (there / "canonical_workload.json").write_text("{}")  # whatever it says it was
    found = artefacts.collect(there, "jax", here)
    assert found.is_whole and found.problems == []
    for view in ("portable", "best_native"):
        kept = here / f"jax_{view}_matrix.json"
        assert kept in found.matrices and kept.read_bytes() == (there / f"jax_{view}_matrix.json").read_bytes()
    assert artefacts.kept(here, ["jax", "pytorch"]) == [
        here / "jax_portable_matrix.json",
        here / "jax_best_native_matrix.json",
    ]


def changed(path, **values):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "is not valid JSON"),
        (lambda path: path.unlink(), "no portable matrix of jax"),
        (
            lambda path: changed(path, backend="pytorch"),
            "it is of pytorch in portable; expected jax in portable or best_native",
        ),
        (lambda path: changed(path, evaluation_view="mine"), "it is of jax in mine"),
        (lambda path: changed(path, results=[{"client_chunk_size": 8}]), "it contradicts itself"),
        (
            lambda path: changed(path, workload_ref={"path": "canonical_workload.json", "sha256": "c" * 64}),
            "contradicts itself",
        ),
        (lambda path: changed(path, workload_ref={}), "does not say which request"),
        (lambda path: changed(path, complete=False, blocker="out of memory"), "is not complete: out of memory"),
        (
            lambda path: path.write_text('{"schema_version": "score_matrix_v1", "a": 1, "a": 2}'),
            "the key 'a' stands in it 2",
        ),
    ],
)
def test_what_cannot_be_used_is_told(machines_files, change, said):
    there, here = machines_files
    change(there / "jax_portable_matrix.json")
    found = artefacts.collect(there, "jax", here)
    assert not found.is_whole and any(said in problem for problem in found.problems), found.problems
    assert found.complete == {"best_native"}


def test_what_was_measured_until_a_stop_is_not_complete(machines_files):
    there, here = machines_files
    changed(there / "jax_portable_matrix.json", complete=None)
    found = artefacts.collect(there, "jax", here, "stopped: Ctrl-C")
    kept = files.read(here / "jax_portable_matrix.json", ScoreMatrix).record
    assert (kept.complete, kept.blocker) == (False, "stopped: Ctrl-C") and found.complete == {"best_native"}
