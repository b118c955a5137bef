"""What an acceptance leaves out of the suites: what it means to, on every server."""

import dataclasses
import re
from pathlib import Path

import pytest

from pytest_multiitem.acceptance.plan import plan_of
from pytest_multiitem.acceptance.suites import command_line
from pytest_multiitem.acceptance.timing import requests_of
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.config import MaskImpl
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.suites.regression import test_multi_item_regression as suites

EFFORTS = ("quick", "normal", "full")


def plan(effort):
    return plan_of(dataclasses.replace(resolve({}, {}), effort=effort))


@pytest.mark.parametrize("effort", EFFORTS)
def test_what_is_left_out_is_there(effort):
    for name in plan(effort).without:
        assert isinstance(getattr(suites, name), type)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("mask", [mask.value for mask in MaskImpl])
def test_no_server_s_name_leaves_a_gate_out(effort, mask):
    """pytest -k finds a word anywhere in a test's name, in small letters or large ones."""
    settings = dataclasses.replace(resolve({}, {}), effort=effort)
    words = command_line(settings, Path("run"), without=plan(effort).without, events=3)
    left_out = re.findall(r"\w+", words[words.index("-k") + 1])
    names = [word for word in left_out if word not in ("not", "or")]
    assert names == [*plan(effort).without]
    kept = f"TestMultiItemIsolation::test_same_length_isolation[jax-{mask}-chunk8-speedup]".lower()
    assert not any(name.lower() in kept for name in names)


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_request_is_timed_before_any_other(seed):
    """A measurement that is cut after the first leaves no size that is larger than a request that was timed."""
    own = [
        Case(f"r{items}", (1, 2), tuple((3, item) for item in range(items)), (7, 8), (3,)) for items in (3, 5, 40, 3, 6)
    ]
    settings = dataclasses.replace(resolve({}, {}), seed=seed)
    ordered = requests_of(settings, plan("normal"), None, own)
    assert ordered[0] is own[2] and sorted(map(id, ordered)) == sorted(map(id, own))
    drawn = requests_of(settings, plan("quick"), None, own)
    assert len(drawn) == 2 and len(drawn[0].items) == max(len(case.items) for case in drawn)
