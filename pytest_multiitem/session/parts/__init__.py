"""Measurements that a run's options add to it, one a file."""

from __future__ import annotations

from importlib import import_module

import pytest

from pytest_multiitem.session.part import Part
from pytest_multiitem.settings.settings import Settings

#: The modules of the parts, in the order of their tests and of the summary, each with the settings that ask for it. One
#: that nobody asks for is not imported. The baseline comes last: it judges what all others have timed.
_PARTS = (("power", ("power",)), ("comparison", ("compare",)), ("baseline", ("baseline", "save_baseline")))


def parts_of(config: pytest.Config, settings: Settings) -> tuple[Part, ...]:
    """The parts that the settings ask for: of each module, what it calls ``PART``."""
    return tuple(
        import_module(f"{__name__}.{name}").PART(config, settings)
        for name, asked_by in _PARTS
        if any(getattr(settings, setting) for setting in asked_by)
    )
