"""How a long measurement shows that it goes on: a bar with the time left on a terminal, a line a step elsewhere."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """Progress on standard error. Its units are those of whoever measures: an estimate of the time that each step
    takes, so that the time left is one."""

    def __init__(self, console: Console | None = None, *, redraws_per_second: float = 10) -> None:
        self._console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        hidden = not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, disable=hidden, refresh_per_second=redraws_per_second)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def print(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, soft_wrap=True)

    def describe(self, text: str) -> None:
        """What is going on now."""
        self._bar.update(self._task, description=text)

    def set_total(self, units: float) -> None:
        """How much there is to do altogether."""
        self._bar.update(self._task, total=units)

    def advance(self, units: float) -> None:
        """So much more is done."""
        self._bar.advance(self._task, units)

    def set_completed(self, units: float) -> None:
        """So much is done altogether."""
        self._bar.update(self._task, completed=units)
