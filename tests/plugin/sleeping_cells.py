"""A driver whose cells sleep: ``python -m sleeping_cells EXECUTOR CELL_TIMEOUT SECONDS[:CPUS]…`` says what became."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from pytest_multiitem.execution.cells import Cell, Needs, Place
from pytest_multiitem.execution.choice import open_executor
from pytest_multiitem.execution.driver import Deadlines, measure_all


class Sleep:
    """`execution.cells.Work` and its own workplace."""

    def open(self, place: Place) -> Sleep:
        return self

    def measure(self, cell: Cell) -> float:
        (Path(cell.task[1]) / f"{cell.key} begins").touch()
        time.sleep(cell.task[0])
        return float(cell.task[0])

    def close(self) -> None: ...


def main() -> None:
    executor = open_executor(sys.argv[1], Path.cwd(), f"sleep-{time.time_ns()}", {})
    cells = []
    for at, word in enumerate(sys.argv[3:]):
        seconds, _, cpus = word.partition(":")
        cells.append(Cell(f"{at}", (float(seconds), str(Path.cwd())), Needs(cpus=float(cpus or 1))))
    executor.begin(Sleep())
    for outcome in measure_all(executor, cells, Deadlines(float(sys.argv[2]), 30.0), lambda one, other: None):
        told: dict[str, Any] = {"cell": outcome.cell.key, "kind": type(outcome).__name__}
        told |= {name: getattr(outcome, name) for name in ("node", "failures", "reasons") if hasattr(outcome, name)}
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()
    executor.close()


if __name__ == "__main__":
    main()
