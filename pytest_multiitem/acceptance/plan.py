"""What each effort measures: which gates, which requests are timed, and for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_multiitem.scoring.vocabulary import CHUNK_SIZES
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.attach import is_stated


@dataclass(frozen=True)
class Shape:
    """Of the requests that are made for timing where the user brings none: tokens of the query, items, tokens of an
    item."""

    query_tokens: int
    items: int
    item_tokens: int


@dataclass(frozen=True)
class Plan:
    """``settings``: of the gates, where the user gives no others. ``without``: classes of the suites that are left out,
    by their whole names: a server's name, such as its mask, is part of every test's. ``shape``, ``requests``: made
    where the user brings none, and at most so many timed. ``serial_items``: items of a request that are timed serially,
    at most; they stand for the others. ``chunk_sizes``: those that are timed, as far as the requests have items.
    ``blocks``: interleaved runs of every size. ``timing_s``: seconds after which no further request is timed.
    ``gates_s``: what the gates take on a CPU, for the time that is left.
    """

    settings: Mapping[str, Any]
    without: Sequence[str]
    shape: Shape
    requests: int
    serial_items: int
    chunk_sizes: Sequence[int]
    blocks: int
    timing_s: float
    gates_s: float


_SEGMENT: Final = "TestMultiItemSegmentTPURegression"
_SPEEDUP: Final = "TestMultiItemSpeedup"

_QUICK: Final = Plan(
    settings={"property_examples": 8, "property_max_tokens": 256, "workload_sample": 4},
    without=(_SEGMENT, _SPEEDUP),
    shape=Shape(query_tokens=64, items=32, item_tokens=20),
    requests=2,
    serial_items=32,
    chunk_sizes=(8, 16, 32),
    blocks=6,
    timing_s=3.0,
    gates_s=12.0,
)
_NORMAL: Final = Plan(
    settings={"property_examples": 40, "items": (32,), "workload_sample": 32},
    without=(_SEGMENT,),
    shape=Shape(query_tokens=256, items=128, item_tokens=20),
    requests=16,
    serial_items=64,
    chunk_sizes=(8, 16, 32, 64, 128),
    blocks=7,
    timing_s=25.0,
    gates_s=60.0,
)
_FULL: Final = Plan(
    settings={},
    without=(_SEGMENT,),
    shape=Shape(query_tokens=2000, items=500, item_tokens=20),
    requests=64,
    serial_items=64,
    chunk_sizes=CHUNK_SIZES,
    blocks=9,
    timing_s=300.0,
    gates_s=240.0,
)
_PLANS: Final = {"quick": _QUICK, "normal": _NORMAL, "full": _FULL}


def plan_of(settings: Settings) -> Plan:
    """The plan of the settings' effort; what the user states stays."""
    plan = _PLANS[settings.effort]
    stated = {name: getattr(settings, name) for name in plan.settings if is_stated(settings, name)}
    return Plan(**{**vars(plan), "settings": {**plan.settings, **stated}})


def sizes(settings: Settings, plan: Plan, most_items: int) -> list[int]:
    """The client chunk sizes that are timed for requests of so many items at most, ascending; those that send every
    request whole are one."""
    wanted = settings.compare_chunk_sizes if is_stated(settings, "compare_chunk_sizes") else plan.chunk_sizes
    fitting = {min(size, most_items) for size in wanted}
    return sorted(fitting if is_stated(settings, "compare_chunk_sizes") else {*fitting, most_items})
