"""Hypothesis makes the choices: it draws scenarios, and makes one that is violated as small as it can."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, configuration
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from pytest_multiitem.scoring.relations import Choices, Relation, Scenario, Space

T = TypeVar("T")

#: Hypothesis also draws numbers that stand in the code of whatever modules are loaded, where they are in range. None is
#: in this one, so that a seed means the same scenarios in every process.
_OUT_OF_REACH = 2**200


class Violated(Exception):
    """A scenario does not hold."""


class Drawn:
    """`scoring.relations.Choices` that Hypothesis makes, and can make again smaller."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def number(self, least: int, most: int) -> int:
        """As `Choices.number`; smaller numbers are simpler."""
        return self._draw(st.integers(least + _OUT_OF_REACH, most + _OUT_OF_REACH)) - _OUT_OF_REACH

    def among(self, options: Sequence[T]) -> T:
        """As `Choices.among`; earlier ones are simpler."""
        return options[self.number(0, len(options) - 1)]

    def several(self, one: Callable[[Choices], T], least: int, most: int) -> list[T]:
        """As `Choices.several`; shorter lists are simpler."""
        return self._draw(st.lists(_each(one), min_size=least, max_size=most))


@st.composite
def _each(draw: st.DrawFn, one: Callable[[Choices], T]) -> T:
    return one(Drawn(draw))


@st.composite
def scenarios(draw: st.DrawFn, relation: Relation, space: Space) -> Scenario:
    """A strategy for the scenarios of a relation."""
    return relation.scenario(Drawn(draw), space)


def search(
    relation: Relation,
    space: Space,
    holds: Callable[[Scenario], bool],
    *,
    examples: int,
    seed: int,
    shrink: bool = True,
) -> None:
    """Try up to ``examples`` scenarios; once one does not hold, only smaller ones, unless ``shrink`` is off.

    The first is the simplest there is. ``holds`` keeps what it saw: the last scenario that did not hold is the
    smallest. It must not raise, and must say the same of the same scenario.
    """

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(scenarios(relation, space))
    def relation_holds(scenario: Scenario) -> None:
        if not holds(scenario):
            raise Violated

    with _no_trace(), suppress(Violated, Flaky):
        relation_holds()


@contextmanager
def _no_trace() -> Iterator[None]:
    """Keep Hypothesis from leaving a directory of its own in the working directory of whoever runs the suite."""
    there = configuration.storage_directory("examples", intent_to_write=False)
    home = there.parent if isinstance(there, Path) else there.home_directory
    with tempfile.TemporaryDirectory(prefix="multiitem-search-") as scratch:
        configuration.set_hypothesis_home_dir(scratch)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(home)
