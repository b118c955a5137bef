"""The test that a baseline adds to a run, and what of it is settled before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_multiitem.baselines import store
from pytest_multiitem.baselines.judging import judge, record_of
from pytest_multiitem.baselines.records import Baseline
from pytest_multiitem.gates.regression import NO_REGRESSION
from pytest_multiitem.session.current import SESSION
from pytest_multiitem.session.gate_item import GateItem, suite
from pytest_multiitem.session.keys import SETTINGS
from pytest_multiitem.settings.conditions import parse
from pytest_multiitem.settings.settings import Settings

if TYPE_CHECKING:
    from pytest_multiitem.session.gate_check import GateCheck

SUITE = "multiitem-baseline"
_BASELINE: pytest.StashKey[tuple[str, Baseline]] = pytest.StashKey()


def prepare(config: pytest.Config, settings: Settings) -> None:
    """Read the baseline to compare with, and check the name to save under. Raises UsageError."""
    base = config.invocation_params.dir
    if settings.save_baseline is not None:
        store.check_name(settings.save_baseline)
    if settings.baseline is not None:
        path = store.find(settings.baseline, base / settings.results_dir.expanduser(), base)
        config.stash[_BASELINE] = (_label(path), store.read(path))


def baseline_items(session: pytest.Session) -> list[GateItem]:
    """The test ``multiitem-baseline::no_regression_vs_baseline[NAME]``."""
    config = session.config
    label, baseline = config.stash[_BASELINE]
    conditions = [parse(text) for text in config.stash[SETTINGS].fail_if]

    def measure(check: GateCheck) -> None:
        judgement = judge(baseline, config.stash[SESSION].timings(), conditions, name=label)
        check.conclude(record_of(judgement), evidence=judgement.lines())

    return [GateItem.make(suite(session, SUITE), NO_REGRESSION.name, measure, label=label, required=True)]


def _label(path: Path) -> str:
    """What the baseline is called in the test's id."""
    return path.stem.translate(str.maketrans("[]:", "___"))
