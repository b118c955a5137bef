"""What an acceptance leaves out of the suites: what it means to, on every server."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from pytest_multiitem.acceptance.plan import plan_of
from pytest_multiitem.acceptance.suites import attached, command_line
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


def test_the_suites_are_told_where_each_setting_comes_from():
    given = resolve({"multiitem_dtype": "bfloat16"}, {}, {"MULTI_ITEM_MULTI_URL": "http://127.0.0.1:9"})
    words = command_line(dataclasses.replace(given, mask_impl=("segment",)), Path("run"), without=["X"], events=3)
    (told,) = [word for word in words if word.startswith("--multiitem-origins=")]
    origins = json.loads(told.partition("=")[2])
    assert origins["dtype"] == "command line" and origins["multi_url"] == "environment MULTI_ITEM_MULTI_URL"
    assert origins["mask_impl"] == "this acceptance (default)", "told, so that it is no default of the suites"


def test_what_the_acceptance_chooses_for_its_own_pair_is_said_to_be_its_own():
    pair = attached(resolve({"multiitem_max_in_flight": "3"}, {}, {}), "http://127.0.0.1:8", "http://127.0.0.1:9")
    assert {pair.origins[name] for name in ("multi_url", "serial_url", "mixed_traffic")} == {"this acceptance"}
    assert pair.origins["max_in_flight"] == "command line" and pair.max_in_flight == 3
