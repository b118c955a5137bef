"""Cells and the driver that has them measured: a lost node, a cell that fails twice, one that ends twice, no node."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_multiitem.errors import EngineUnavailable, StorageError, UsageError
from pytest_multiitem.execution.cells import GIB, Attempt, Cell, Ended, ExecutorClosed, Needs, Place
from pytest_multiitem.execution.choice import executor_name, open_executor, parse_needs
from pytest_multiitem.execution.driver import Deadlines, Failed, Measured, Repeated, measure_all
from pytest_multiitem.execution.local import NAME, LocalExecutor
from pytest_multiitem.execution.quiet import alone, busy
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.registry import REGISTRY
from pytest_multiitem.power.runner import PowerRun
from pytest_multiitem.settings.placement import deadlines_of, needs_of
from pytest_multiitem.settings.resolve import resolve

CELLS = [Cell(name, name.upper()) for name in ("a", "b", "c")]


def differ(one: Any, other: Any) -> str | None:
    return None if one == other else f"{one} and {other}"


class FakeCluster:
    """Nodes by name, one cell each at a time. ``script``: what becomes of the tries of a cell: a value, an exception
    ("the reason"), or None: nothing, until `release`. Time passes only while somebody waits."""

    def __init__(self, nodes: Sequence[str], **script: Sequence[object]) -> None:
        self.nodes, self.script, self.now = list(nodes), {k: list(v) for k, v in script.items()}, 0.0
        self.running: dict[Attempt, tuple[str, object]] = {}
        self.tried: list[tuple[str, str]] = []
        self.at: Callable[[FakeCluster], None] = lambda cluster: None

    def clock(self) -> float:
        return self.now

    def begin(self, work: object) -> None: ...

    def submit(self, cell: Cell, avoid: Sequence[str]) -> Attempt | None:
        taken = {node for node, _ in self.running.values()}
        wanted = [node for node in self.nodes if node not in avoid] or self.nodes
        free = [node for node in wanted if node not in taken]
        if not free:
            return None
        attempt = Attempt(cell)
        outcomes = self.script.get(cell.key, [])
        self.running[attempt] = (free[0], outcomes.pop(0) if outcomes else cell.task)
        self.tried.append((cell.key, free[0]))
        return attempt

    def refusal(self, cell: Cell) -> str | None:
        return None if self.nodes else f"no node has {cell.needs}"

    def where(self, attempt: Attempt) -> str:
        return self.running[attempt][0]

    def wait(self, seconds: float) -> list[Ended]:
        self.now += 1.0
        self.at(self)
        ended = []
        for attempt, (node, outcome) in list(self.running.items()):
            if outcome is None and node in self.nodes:
                continue
            del self.running[attempt]
            if node not in self.nodes:
                ended.append(Ended(attempt, node, reason="the node is gone"))
            elif isinstance(outcome, Exception):
                ended.append(Ended(attempt, node, reason=str(outcome)))
            else:
                ended.append(Ended(attempt, node, outcome))
        return ended

    def release(self, key: str, value: object) -> None:
        """A cell that went on by itself ends after all."""
        for attempt, (node, outcome) in self.running.items():
            if attempt.cell.key == key and outcome is None:
                self.running[attempt] = (node, value)

    def close(self) -> None: ...


def outcomes_of(cluster: FakeCluster, **deadlines: float) -> list[Any]:
    found = []
    for outcome in measure_all(cluster, CELLS, Deadlines(**deadlines), differ, clock=cluster.clock):
        found.append(outcome)
        assert len(found) < 20 and cluster.now < 1000
    return found


# -- the driver ----------------------------------------------------------------------------------


def test_every_cell_is_measured_once() -> None:
    cluster = FakeCluster(["n1", "n2"])
    found = outcomes_of(cluster)
    assert {(each.cell.key, each.value) for each in found} == {("a", "A"), ("b", "B"), ("c", "C")}
    assert len(cluster.tried) == len(found) == 3 and not any(each.failures for each in found)


def test_a_lost_node_costs_its_unfinished_cells_only() -> None:
    cluster = FakeCluster(["n1", "n2"], b=[None])

    def lose(cluster: FakeCluster) -> None:
        if cluster.now == 3 and "n2" in cluster.nodes:
            cluster.nodes.remove("n2")

    cluster.at = lose
    found = {each.cell.key: each for each in outcomes_of(cluster)}
    assert [node for key, node in cluster.tried if key == "b"] == ["n2", "n1"], "elsewhere"
    assert sorted(key for key, _ in cluster.tried) == ["a", "b", "b", "c"], "no other cell ran again"
    assert found["b"] == Measured(CELLS[1], "n1", "B", ("n2: the node is gone",))


def test_a_cell_that_fails_twice_is_an_error_with_both_reasons() -> None:
    cluster = FakeCluster(["n1", "n2"], b=[RuntimeError("no memory"), RuntimeError("no disk")])
    (failed,) = [each for each in outcomes_of(cluster) if isinstance(each, Failed)]
    nodes = [node for key, node in cluster.tried if key == "b"]
    assert sorted(nodes) == ["n1", "n2"], "the second try is elsewhere"
    assert failed.reasons == (f"{nodes[0]}: no memory", f"{nodes[1]}: no disk")
    assert str(failed.as_error) == (
        f"b could not be measured: {nodes[0]}: no memory; then {nodes[1]}: no disk"
    )  # fmt: skip


@pytest.mark.parametrize(("late", "difference"), [("B", None), ("X", "B and X")])
def test_a_cell_that_ends_twice_is_compared_and_not_added(late: str, difference: str | None) -> None:
    """A cut cable: the first try goes on, and its answer comes when the second one has been taken."""
    cluster = FakeCluster(["n1", "n2", "n3"], b=[None], c=[None, None])

    def heal(cluster: FakeCluster) -> None:
        if cluster.now == 14:
            cluster.release("b", late)
        if cluster.now == 20:
            cluster.release("c", "C")

    cluster.at = heal
    found = outcomes_of(cluster, cell=10)
    of_b = [each for each in found if each.cell.key == "b"]
    assert of_b == [
        Measured(CELLS[1], of_b[0].node, "B", ("n2: it did not end within 10 s",)),
        Repeated(CELLS[1], (of_b[0].node, "n2"), difference),
    ]
    assert of_b[0].node != "n2", "the second try is elsewhere"


def test_a_cell_that_never_ends_is_an_error() -> None:
    cluster = FakeCluster(["n1", "n2", "n3", "n4"], b=[None, None])
    (failed,) = [each for each in outcomes_of(cluster, cell=5) if isinstance(each, Failed)]
    nodes = [node for key, node in cluster.tried if key == "b"]
    assert failed.reasons == tuple(f"{node}: it did not end within 5 s" for node in nodes)
    assert len({*nodes}) == 2 and cluster.now < 20


def test_nobody_waits_for_ever_for_a_node() -> None:
    cluster = FakeCluster([])
    found = outcomes_of(cluster, node=7)
    assert [each.reasons for each in found] == [("no node has CPU=1; waited 7 s for one",)] * 3
    assert 7 < cluster.now < 12


def test_a_node_that_comes_in_time_takes_the_cells() -> None:
    cluster = FakeCluster([])
    cluster.at = lambda c: c.nodes.append("late") if c.now == 4 else None
    assert [type(each) for each in outcomes_of(cluster, node=7)] == [Measured] * 3


def test_two_cells_of_one_name_would_be_one_result() -> None:
    with pytest.raises(ValueError, match="one key"):
        list(measure_all(FakeCluster(["n1"]), [CELLS[0], CELLS[0]], Deadlines(), differ))


# -- this machine --------------------------------------------------------------------------------


class Work:
    """Calls what a cell's task is; counts its places."""

    def __init__(self) -> None:
        self.opened: list[Place] = []
        self.closed: list[Place] = []

    def open(self, place: Place) -> Any:
        work = self
        work.opened.append(place)

        class At:
            def measure(self, cell: Cell) -> Any:
                return cell.task(place)

            def close(self) -> None:
                work.closed.append(place)

        return At()


def measured_here(tmp_path: Path, *cells: Cell) -> tuple[list[Any], Work]:
    work, executor = Work(), LocalExecutor(tmp_path)
    executor.begin(work)
    try:
        return list(measure_all(executor, cells, Deadlines(), differ)), work
    finally:
        executor.close()


def test_lanes_run_beside_each_other_and_share_one_place(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=60)
    cells = [Cell(f"{lane}{i}", lambda place: both.wait() >= 0, lane=lane) for lane in "xy" for i in range(2)]
    found, work = measured_here(tmp_path, *cells)
    assert [each.value for each in found] == [True] * 4 and {each.node for each in found} == {NAME}
    assert [place.directory for place in work.opened] == [tmp_path] and work.closed == work.opened


def test_one_lane_runs_one_cell_at_a_time(tmp_path: Path) -> None:
    running: list[int] = []

    def task(place: Place) -> int:
        running.append(1)
        time.sleep(0.02)
        most = len(running)
        running.pop()
        return most

    found, _ = measured_here(tmp_path, *(Cell(str(i), task, lane="x") for i in range(4)))
    assert [each.value for each in found] == [1] * 4


def test_what_failed_here_is_tried_again_at_a_new_place(tmp_path: Path) -> None:
    def task(place: Place) -> str:
        if place.directory == tmp_path:
            raise EngineUnavailable("its server was killed")
        return place.directory.name

    found, work = measured_here(tmp_path, Cell("a", task), Cell("b", lambda place: "fine", lane="other"))
    by_key = {each.cell.key: each for each in found}
    assert by_key["a"].value == "again-1" and by_key["a"].failures == (f"{NAME}: its server was killed",)
    assert by_key["b"].value == "fine" and len(work.opened) == len(work.closed) == 2


def test_a_bug_in_a_cell_is_an_error_of_that_cell(tmp_path: Path) -> None:
    found, _ = measured_here(tmp_path, Cell("a", lambda place: 1 / 0), Cell("b", lambda place: 1))
    assert {type(each) for each in found} == {Failed, Measured}
    (failed,) = [each for each in found if isinstance(each, Failed)]
    assert failed.reasons == (f"{NAME}: ZeroDivisionError: division by zero",) * 2


def test_a_full_disk_is_nobodys_result(tmp_path: Path) -> None:
    def task(place: Place) -> None:
        raise StorageError("the disk is full")

    with pytest.raises(UsageError, match="disk is full"):
        measured_here(tmp_path, Cell("a", task))


def test_closing_ends_the_driver(tmp_path: Path) -> None:
    executor, release = LocalExecutor(tmp_path), threading.Event()
    executor.begin(Work())
    threading.Timer(0.2, executor.close).start()
    with pytest.raises(ExecutorClosed):
        list(measure_all(executor, [Cell("a", lambda place: release.wait(60))], Deadlines(), differ))
    release.set()


# -- the machine to oneself ----------------------------------------------------------------------


def test_whoever_measures_time_is_alone_and_nobody_goes_past_him(tmp_path: Path) -> None:
    events: list[str] = []
    inside, release = threading.Event(), threading.Event()

    def first() -> None:
        with busy(tmp_path):
            inside.set()
            release.wait(60)
            events.append("first ends")

    def timed() -> None:
        with alone(tmp_path):
            events.append("timed begins")
            time.sleep(0.05)
            events.append("timed ends")

    def later() -> None:
        with busy(tmp_path):
            events.append("later")

    threads = [threading.Thread(target=task) for task in (first, timed, later)]
    threads[0].start()
    assert inside.wait(60)
    with busy(tmp_path):
        pass  # beside the first one
    threads[1].start()
    time.sleep(0.3)  # it waits now
    threads[2].start()
    time.sleep(0.1)
    assert events == []
    release.set()
    for thread in threads:
        thread.join(60)
    assert events == ["first ends", "timed begins", "timed ends", "later"]


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["local", "ray", "ray://10.0.0.1:6379", "ray://[::1]:6379"])
def test_names_of_executors(name: str) -> None:
    assert executor_name(f" {name} ") == name


@pytest.mark.parametrize("name", ["Ray", "ray:", "ray://", "ray://head", "ray://:1", "ray://h:x", "dask", ""])
def test_a_name_of_none_says_what_is_expected(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected local, ray or ray://HOST:PORT"):
        executor_name(name)


def test_what_a_cell_needs() -> None:
    assert parse_needs("TPU=4, CPU=2,memory=8") == Needs(2.0, 0.0, 8 * GIB, (("TPU", 4.0),))
    assert str(parse_needs("GPU=1,CPU=0")) == "GPU=1" and parse_needs("CPU=0").cpus == 0
    for wrong in ("TPU", "TPU=", "=1", "TPU=-1", "TPU=nan", "TPU=inf", ""):
        with pytest.raises(ValueError, match="expected NAME=NUMBER"):
            parse_needs(wrong)


@pytest.mark.parametrize(
    ("given", "needs"),
    [
        ({}, "CPU=1"),
        ({"device": "tpu"}, "CPU=1,TPU=1"),
        ({"device": "cuda"}, "CPU=1,GPU=1"),
        ({"device": "tpu", "cell_needs": "CPU=8,TPU=4"}, "CPU=8,TPU=4"),
    ],
)
def test_a_cell_needs_what_its_device_is(given: dict[str, str], needs: str) -> None:
    settings = resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})
    assert str(needs_of(settings)) == needs
    assert deadlines_of(settings) == Deadlines(1800, 60)


def test_a_wrong_executor_names_the_option() -> None:
    with pytest.raises(UsageError, match=r"option --multiitem-executor: 'dask' is not valid: expected local"):
        resolve({"multiitem_executor": "dask"}, {}, {})


def test_a_gate_of_a_project_is_refused_elsewhere(tmp_path: Path) -> None:
    """Nodes load no plugins: its column would be empty, and nobody would know why."""
    undo = REGISTRY.extend([Gate("my_own_gate", "mine", measure=lambda subject: pytest.fail("not here"))])
    try:
        settings = resolve({"multiitem_executor": "ray", "multiitem_backend": "jax"}, {}, {})
        with pytest.raises(UsageError, match=r"do not know the gates that a project adds \(my_own_gate\)"):
            PowerRun(settings, tmp_path / "run", "run")
        assert not (tmp_path / "run").exists()
    finally:
        undo()


# -- Ray is imported where it is asked for, and only there -----------------------------------------


def test_nothing_imports_ray_unasked(tmp_path: Path) -> None:
    """Where importing it fails, everything but ``--executor ray`` works; that says what to install."""
    program = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] != 'ray', 'somebody imports ray'\n"
        "sys.meta_path.insert(0, No())\n"
        "import pytest_multiitem.cli, pytest_multiitem.plugin, pytest_multiitem.power.runner\n"
        "import pytest_multiitem.comparison.measuring.runner, pytest_multiitem.execution.choice\n"
        "from pathlib import Path\n"
        "pytest_multiitem.execution.choice.open_executor('local', Path('x'), 'r', {}).close()\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'ray']\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=tmp_path)


def test_without_ray_it_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as raised:
        open_executor("ray://10.0.0.1:6379", tmp_path, "run", {})
    assert str(raised.value) == (
        "--executor ray://10.0.0.1:6379 needs Ray; install it with: pip install 'pytest-multiitem[ray]'"
    )  # fmt: skip


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'pytest-multiitem[ray]'")
    with pytest.raises(UsageError, match=r"the Ray cluster at 127.0.0.1:1 does not answer: Connection refused; start"):
        open_executor("ray://127.0.0.1:1", tmp_path, "run", {})


@pytest.mark.parametrize(
    ("address", "file", "said"),
    [
        ("", None, "this machine belongs to no Ray cluster; start one with `ray start --head`"),
        ("", "127.0.0.1:1", "the Ray cluster at 127.0.0.1:1 does not answer: Connection refused"),
        ("127.0.0.1:2", "127.0.0.1:1", "the Ray cluster at 127.0.0.1:2 does not answer: Connection refused"),
        ("", "no address", "the Ray cluster at no address does not answer: "),
    ],
)
def test_the_cluster_of_this_machine_is_asked_for_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str, file: str | None, said: str
) -> None:  # fmt: skip
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'pytest-multiitem[ray]'")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", address)
    if file is not None:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(file)
    with pytest.raises(UsageError) as raised:
        open_executor("ray", tmp_path, "run", {})
    assert str(raised.value).startswith(said)
