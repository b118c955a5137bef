"""Sides of a comparison on the nodes of an executor: what travels, what comes back, and what it is worth."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matrices import row

from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision.speed import versus
from pytest_multiitem.comparison.measuring import elsewhere
from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.ledger import WORKLOAD, Ledger
from pytest_multiitem.comparison.measuring.sides import Side, sides_of
from pytest_multiitem.execution.cells import Attempt, Cell, Ended, Place, Work
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.settings.resolve import resolve

GIVEN = {
    "backend": "pytorch,jax", "views": "portable", "bench_items": "8", "bench_query_tokens": "8",
    "compare_chunk_sizes": "8", "executor": "ray",
}  # fmt: skip


def measure(campaign: Campaign, sides: Sequence[Side]) -> None:
    """Stands for a node's measurement: one row a side; the one of PyTorch cannot be had."""
    (side,) = sides
    if side.backend == "pytorch" and "broken" in campaign.ledger.directory.parts:
        campaign.errors[side.label] = "its server does not start"
        return
    campaign.ledger.begin(side.backend, "portable")
    if not campaign.known(side, confirm=False):
        campaign.ledger.add(side.backend, "portable", row(8, session=f"of {side.backend}", items=8))


class Nodes:
    """`execution.cells.Executor`: each cell on a node of its own, and only what can be pickled comes through."""

    def __init__(self, directory: Path, failing: str = "") -> None:
        self.directory, self.failing, self.closed = directory, failing, False
        self.tasks: list[elsewhere.SideTask] = []
        self._ended: list[Ended] = []

    def begin(self, work: Work) -> None:
        self._work = pickle.loads(pickle.dumps(work))

    def submit(self, cell: Cell, avoid: Sequence[str]) -> Attempt | None:
        attempt, node = Attempt(cell), f"n{len(self.tasks)}"
        sent: Cell = pickle.loads(pickle.dumps(cell))
        self.tasks.append(sent.task)
        if self.failing and self.failing in cell.key:
            self._ended.append(Ended(attempt, node, reason="the node is gone"))
        else:
            (self.directory / node).mkdir()
            value = self._work.open(Place(self.directory / node, self.directory)).measure(sent)
            self._ended.append(Ended(attempt, node, pickle.loads(pickle.dumps(value))))
        return attempt

    def refusal(self, cell: Cell) -> str | None:
        return None

    def where(self, attempt: Attempt) -> str:
        return ""

    def wait(self, seconds: float) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    settings = resolve({f"multiitem_{name}": value for name, value in GIVEN.items()}, {}, {})
    directory = tmp_path / "comparison"
    directory.mkdir()
    made = workload.of_run(settings)
    artefacts.write(directory / WORKLOAD, made)
    return Campaign(settings, Ledger(directory), made, ProgressBar())


def measured(campaign: Campaign, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(elsewhere, "open_executor", lambda *_: nodes)
    sides = sides_of(campaign.settings, choose_engine("embedded"))
    elsewhere.measure_elsewhere(campaign, sides, measure)
    assert nodes.closed
    return {backend: matrix for (backend, _), matrix in campaign.ledger.matrices.items()}


def test_each_side_is_measured_on_a_node_and_its_rows_are_not_paired(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(tmp_path)
    found = measured(campaign, nodes, monkeypatch)
    assert [(task.settings.backend, task.settings.executor) for task in nodes.tasks] == [
        (("pytorch",), "local"), (("jax",), "local"),
    ]  # fmt: skip
    assert "measured on n0 alone: its runs are not paired with those of another side" in found["pytorch"].notes
    assert versus(found["pytorch"].results[0], found["jax"].results[0]).paired is False
    on_disk = Ledger(campaign.ledger.directory)
    assert on_disk.resumed == 2 and not campaign.broken, "the driver keeps the ledger"


def test_a_side_that_cannot_be_measured_leaves_the_other(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    found = measured(campaign, Nodes(tmp_path / "broken"), monkeypatch)
    assert list(found) == ["jax"] and campaign.errors == {"pytorch portable": "its server does not start"}


def test_a_side_whose_nodes_are_lost_twice_is_an_error_with_both_reasons(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(campaign, Nodes(tmp_path, failing="jax"), monkeypatch)
    assert list(found) == ["pytorch"]
    assert campaign.errors["jax portable"].count("the node is gone") == 2


def test_what_is_measured_already_goes_along_and_is_not_measured_again(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign.ledger.begin("jax", "portable")
    campaign.ledger.add("jax", "portable", row(8, session="before", items=8))
    found = measured(campaign, Nodes(tmp_path), monkeypatch)
    assert [each.session for each in found["jax"].results] == ["before"]


def test_two_measurements_of_a_side_are_compared_by_their_scores(campaign: Campaign) -> None:
    def result(**more: Any) -> elsewhere.SideResult:
        ledger = Ledger(campaign.ledger.directory)
        ledger.begin("jax", "portable")
        ledger.add("jax", "portable", row(8, items=8, **more))
        matrices = dict(ledger.matrices)
        ledger.path("jax", "portable").unlink()
        return elsewhere.SideResult(matrices, {}, {}, {})

    first = result()
    scores = first.matrices["jax", "portable"].results[0].reference_scores
    assert scores is not None
    assert elsewhere._difference(first, result(times=(1.0, 2.0, 3.0, 4.0, 5.0))) is None, "time is no difference"
    moved = [[one + 0.01 for one in each] for each in scores]
    assert elsewhere._difference(first, result(scores=moved)) == "client chunk size 8: the scores differ"
    assert elsewhere._difference(first, elsewhere.SideResult({}, {}, {}, {})) == "one of them has no result"
