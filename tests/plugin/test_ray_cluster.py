"""`--executor ray` on a real cluster of two nodes: the same verdicts as `local`, also when a node dies on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import two_nodes

from pytest_multiitem.validation.validate import examine

pytest.importorskip("torch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif((reason := two_nodes.missing()) is not None, reason=str(reason)),
]

#: Faults of the engine and of the wire; few requests, so that it ends within a minute.
POWER = (
    "power", "--backend=pytorch",
    "--multiitem-power-faults", "score_at_delimiter,short_list,leak_next=0.01",
    "--multiitem-items", "32", "--multiitem-property-examples", "20", "--multiitem-bench-timed-runs", "5",
)  # fmt: skip
MODELS = """\
gates = ["same_length_isolation_zero", "delimiter_aligned_equiv_le_0p02"]
[settings]
labels = "11,12"
delimiter = 1000
bench_timed_runs = 2
[[models]]
name = "tiny"
model = "tiny"
backends = ["pytorch"]
[[models]]
name = "needs a TPU"
model = "tiny"
backends = ["pytorch"]
masks = ["dense"]
settings = { cell_needs = "CPU=1,TPU=1" }
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[two_nodes.Cluster]:
    with two_nodes.two_nodes() as made:
        yield made


def local(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of this package on this machine alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MULTI_ITEM_", "PYTEST_"))}
    program = [sys.executable, "-c", "from pytest_multiitem.cli import main; main()"]
    return subprocess.run(
        [*program, *words], cwd=directory, capture_output=True, text=True, timeout=400, check=False, env=kept
    )


def on(cluster: two_nodes.Cluster, directory: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """The same on the cluster."""
    done = subprocess.run(
        cluster.multiitem(directory, *words), capture_output=True, text=True, timeout=400, check=False,
        env=two_nodes.environment(),
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done


def artefact(directory: Path, pattern: str) -> dict[str, Any]:
    (path,) = directory.glob(f"multiitem-results/{pattern}")
    assert examine(path).problems == []
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def said(matrix: dict[str, Any]) -> dict[str, Any]:
    """What a kill matrix says, without values and times; the healthy build's speed is the machine's."""
    return {
        build["label"]: (
            build["killed_by"],
            build["as_expected"] if build["fault"] else None,
            sorted((c["gate"], c["place"] or "", c["verdict"]) for c in build["cells"] if "speedup" not in c["gate"]),
        )
        for build in matrix["builds"]
    }


def left_behind(cluster: two_nodes.Cluster) -> list[str]:
    """Command lines of servers that are left on the nodes."""
    found = []
    for node in cluster.nodes:
        if node.process.poll() is None:
            for process in psutil.Process(node.process.pid).children(recursive=True):
                words = " ".join(process.cmdline())
                if "pytest_multiitem." in words:
                    found.append(words)
    return found


def test_a_matrix_of_models_on_two_nodes(cluster: two_nodes.Cluster, tmp_path: Path) -> None:
    assert local(tmp_path, "checkpoint", "tiny", "--vocab-size", "1024", "--num-hidden-layers", "1").returncode == 0
    (tmp_path / "models.toml").write_text(MODELS)
    on(cluster, tmp_path, "models", "models.toml", "--multiitem-node-timeout", "3", status=1)
    matrix = artefact(tmp_path, "models/*/model_matrix.json")
    cells = {(cell["model"], cell["mask"]): cell for cell in matrix["cells"]}
    assert cells["tiny", "dense"]["state"] == cells["tiny", "segment"]["state"] == "pass"
    assert {cells["tiny", mask]["node"] for mask in ("dense", "segment")} == {"10.77.18.1", "10.77.18.2"}
    lost = cells["needs a TPU", "dense"]
    assert lost["state"] == "error" and "no node of the cluster has CPU=1,TPU=1" in lost["reason"]
    assert "10.77.18.2 has CPU 1" in lost["reason"] and "waited 3 s" in lost["reason"]
    assert left_behind(cluster) == []


def test_sides_of_a_comparison_on_two_nodes_are_not_paired(cluster: two_nodes.Cluster, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    on(
        cluster, tmp_path, "compare", "run", "--multiitem-views=portable", "--multiitem-compare-chunk-sizes=8",
        "--multiitem-bench-items=8", "--multiitem-bench-query-tokens=32", "--multiitem-bench-timed-runs=2",
        "--multiitem-confirm-runs=2", "--compare-dir=multiitem-results/c",
    )  # fmt: skip
    made = artefact(tmp_path, "c/comparison.json")
    ((row,),) = [view["rows"] for view in made["views"]]
    assert row["paired"] is False and row["correct"] is True
    matrices = [json.loads(path.read_bytes()) for path in tmp_path.glob("multiitem-results/c/*matri*.json")]
    notes = {note for matrix in matrices for note in matrix["notes"] if "not paired" in note}
    assert {note.split()[2] for note in notes} == {"10.77.18.1", "10.77.18.2"}
    assert left_behind(cluster) == []


def test_places_make_room_for_cells_of_other_needs(cluster: two_nodes.Cluster, tmp_path: Path) -> None:
    """Each node has one CPU, which a place of the first cells holds for as long as it is there."""
    done = subprocess.run(
        cluster.python(tmp_path, "-m", "sleeping_cells", cluster.address, "100", "0.2", "0.2", "0.2:0.6", "0.2:0.6"),
        capture_output=True, text=True, timeout=200, check=True, env=two_nodes.environment(),
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["kind"] for each in told] == ["Measured"] * 4 and not any(each["failures"] for each in told)


def test_ctrl_c_leaves_no_server_on_any_node(cluster: two_nodes.Cluster, tmp_path: Path) -> None:
    with subprocess.Popen(
        cluster.multiitem(tmp_path, *POWER), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=two_nodes.environment(),
    ) as process:  # fmt: skip
        _until(lambda: bool(_measures(cluster.nodes[1])), process)
        (command,) = psutil.Process(process.pid).children()
        command.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    assert "interrupted; what was measured is kept" in err and "Traceback" not in err, out + err
    made = artefact(tmp_path, "power/*/kill_matrix.json")
    assert made["interrupted_by"] == "KeyboardInterrupt" and not made["complete"]
    deadline = time.monotonic() + 60
    while left_behind(cluster) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_behind(cluster) == []


def test_a_kill_matrix_is_the_same_on_two_nodes_of_which_one_dies(cluster: two_nodes.Cluster, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    worker = cluster.nodes[1]
    with subprocess.Popen(
        cluster.multiitem(there, *POWER), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=two_nodes.environment(),
    ) as process:  # fmt: skip
        _until(lambda: bool(_measures(worker)), process)  # the other node has a cell in hand
        worker.kill()
        out, err = process.communicate(timeout=400)
    assert process.returncode in (0, 1), out + err
    found = artefact(there, "power/*/kill_matrix.json")
    assert found["complete"] and found["failed"] == [], err
    assert any("was measured again: 10.77.18.2: the node or its process is gone" in each for each in found["retried"])
    assert len(found["retried"]) <= 2, "the cell in hand, and at most one that was just handed over"
    assert {build["node"] for build in found["builds"]} == {"10.77.18.1"}
    assert found["executor"] == cluster.address and left_behind(cluster) == []

    local(here, *POWER)
    expected = artefact(here, "power/*/kill_matrix.json")
    assert expected["complete"] and expected["executor"] == "local" and expected["retried"] == []
    assert said(found) == said(expected)
    assert found["killed"] == expected["killed"] == {"pytorch": found["expected"]}


def test_what_waits_for_a_place_on_a_node_that_dies_goes_elsewhere(
    cluster: two_nodes.Cluster, tmp_path: Path
) -> None:  # fmt: skip
    """Until the death is known, cells are given to places that never come to be there."""
    cluster.nodes[-1].kill()
    worker = cluster.start_worker()
    with subprocess.Popen(
        cluster.python(tmp_path, "-m", "sleeping_cells", cluster.address, "300", *["3"] * 6),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=two_nodes.environment(),
    ) as process:  # fmt: skip
        _until(lambda: all((tmp_path / f"{key} begins").exists() for key in "01"), process)
        worker.kill()
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["kind"] for each in told] == ["Measured"] * 6 and len({each["cell"] for each in told}) == 6
    lost = sum(len(each["failures"]) for each in told)
    assert 1 <= lost <= 2, "the cell in hand, and at most one that was just handed over"


def test_a_cut_cable_costs_the_cells_behind_it_only(cluster: two_nodes.Cluster, tmp_path: Path) -> None:
    """Both nodes live on; the one behind the cut goes on with its cell, and nobody hears of that."""
    cluster.nodes[-1].kill()
    cluster.start_worker()
    with subprocess.Popen(
        cluster.python(tmp_path, "-m", "sleeping_cells", cluster.address, "300", "10", "10"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=two_nodes.environment(),
    ) as process:  # fmt: skip
        _until(lambda: all((tmp_path / f"{key} begins").exists() for key in "01"), process)
        cluster.cut()
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["kind"] for each in told] == ["Measured"] * 2 and {each["cell"] for each in told} == {"0", "1"}
    assert {each["node"] for each in told} == {"10.77.18.1"}, "one of them again, on the node that is left"
    (again,) = [each["failures"] for each in told if each["failures"]]
    assert "10.77.18.2: the node or its process is gone" in again[0]


def _until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a command does."""
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _measures(node: two_nodes.Node) -> bool:
    """Whether a node has a server up."""
    words = [" ".join(each.cmdline()) for each in psutil.Process(node.process.pid).children(recursive=True)]
    return any("pytest_multiitem.engine.lab" in each for each in words)
