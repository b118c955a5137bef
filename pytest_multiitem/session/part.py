"""What a measurement that a run's options add to it must say of itself, and which a run has."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import pytest

from pytest_multiitem.results.records import Matrix
from pytest_multiitem.settings.settings import Settings

#: A line of the terminal's summary, with its markup.
Line = tuple[str, dict[str, bool]]


class Part:
    """One such measurement; there is one of it from when the settings are known to the summary. Subclass it.

    ``not_parallel``: why it cannot run under pytest-xdist, for the user who asks for both. ``required_gate``: the gate
    for which NOT_RUN fails the run, because to ask for this part is to require it.
    """

    not_parallel: ClassVar[str]
    required_gate: str | None = None

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings

    def check_settings(self) -> None:
        """Refuse, before anything is measured, what it cannot be measured with. Raises UsageError."""

    def items(self, session: pytest.Session) -> Iterable[pytest.Item]:
        """The tests that it adds to the run."""
        return ()

    def close(self) -> None:
        """Stop what it has started: the tests are over."""

    def enter(self, matrix: Matrix) -> None:
        """Add what the results hold of it beside its verdicts, before they are written."""

    def end(self, matrix: Matrix | None) -> bool:
        """The results are written (None: no test of the run uses the plugin); whether the run fails for this part."""
        return False

    def artefacts(self) -> Iterable[Path]:
        """The files with records of its own that it has written."""
        return ()

    def lines(self) -> Iterable[Line]:
        """What it says in the summary."""
        return ()


PARTS: pytest.StashKey[tuple[Part, ...]] = pytest.StashKey()
#: The modules of the parts, in the order of their tests and of the summary, each with the settings that ask for it. One
#: that nobody asks for is not imported. The baseline comes last: it judges what all others have timed.
_PARTS = (
    ("variants", ("profile_matrix",)),
    ("power", ("power",)),
    ("comparison", ("compare",)),
    ("scores", ("scores", "save_scores")),
    ("baseline", ("baseline", "save_baseline")),
)


def parts_of(config: pytest.Config, settings: Settings) -> tuple[Part, ...]:
    """The parts that the settings ask for: of each module, what it calls ``PART``."""
    return tuple(
        import_module(f"pytest_multiitem.session.parts.{name}").PART(config, settings)
        for name, asked_by in _PARTS
        if any(getattr(settings, setting) for setting in asked_by)
    )
