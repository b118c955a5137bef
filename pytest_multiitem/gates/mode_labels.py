"""Labels per item: each list gives what a request with that list for all items gives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from pytest_multiitem.gates.checks import NotMade
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import Measurement
from pytest_multiitem.gates.mode_isolation import Isolation
from pytest_multiitem.gates.mode_probe import Checks, ModeProbe, largest, measured, mode_gate
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import TokenIds
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.wire.score import ScoreRequest
from pytest_multiitem.targets.modes import tables
from pytest_multiitem.targets.target import Target

_Listed = tuple[TokenIds, list[int]]
#: Labels that are asked for beside those of the case.
_MORE = 5
#: A difference of logarithms that equals one of 2 % in a probability.
_MASS = float(np.log(1.02))


def measure(subject: Subject) -> Measurement:
    """Give each of six items a list of labels of its own, of two to five, and compare each row with that of a request
    with this list for all items: with a softmax, without one, and with lists of one length. Items take their lists
    along wherever `gates.mode_isolation` puts them."""
    return measured(subject, ModeName.LABELS_PER_ITEM, _checks)


def _checks(probe: ModeProbe) -> Checks:
    pool = [token for token in probe.case.pool if token not in probe.case.labels][:_MORE]
    known = [*dict.fromkeys(probe.case.labels), *pool]
    lists = [
        [known[(number + place) % len(known)] for place in range(2 + number % max(1, len(known) - 2))]
        for number in range(len(probe.case.items))
    ]
    return {
        "one request for each list": partial(_one_by_one, probe, lists, softmax=True),
        "probabilities without softmax": partial(_one_by_one, probe, lists, softmax=False),
        "lists of one length": partial(_one_by_one, probe, [each[:2] for each in lists], softmax=True),
        "against the serial server": partial(_serially, probe, lists),
        **_isolation(probe, lists).checks,
    }


def _isolation(probe: ModeProbe, lists: list[list[int]]) -> Isolation[_Listed]:
    """Of items that take their lists along."""

    def asked(listed: Sequence[_Listed], server: Target) -> list[np.ndarray]:
        request = ScoreRequest(
            query=list(probe.case.query),
            items=[list(item) for item, _ in listed],
            label_token_ids=[own for _, own in listed],
            apply_softmax=True,
        )
        return tables(server, request).scores

    return Isolation(
        probe,
        [*zip(probe.case.items, lists, strict=True)],
        asked,
        lambda listed, number: (probe.other(listed[0], number), listed[1]),
        lambda listed, by: (probe.longer(listed[0], by), listed[1]),
    )


def _asked(probe: ModeProbe, lists: list[list[int]], *, softmax: bool) -> list[np.ndarray]:
    case = probe.case
    items = [list(item) for item in case.items]
    request = ScoreRequest(query=list(case.query), items=items, label_token_ids=lists, apply_softmax=softmax)
    return tables(probe.multi, request).scores


def _one_by_one(probe: ModeProbe, lists: list[list[int]], *, softmax: bool) -> str:
    """A request with one list for all items, for each list."""
    case, apart = probe.case, []
    for number, found in enumerate(_asked(probe, lists, softmax=softmax)):
        whole = probe.multi.score_ids(case.query, case.items, lists[number], apply_softmax=softmax)
        if softmax:
            apart.append(max_abs(found - whole[number]))
        elif (whole[number] > 0).all() and (found > 0).all():
            apart.append(max_abs(np.log(found / whole[number])))
    if not apart:
        raise NotMade("the labels' probabilities round to 0")
    lengths = f"{min(map(len, lists))} to {max(map(len, lists))} labels"
    if softmax:
        return probe.within(largest(apart), f"{len(lists)} lists of {lengths}")
    return probe.within(largest(apart), f"logarithms of {len(lists)} lists of {lengths}", _MASS)


def _serially(probe: ModeProbe, lists: list[list[int]]) -> str:
    """Each item alone on the serial server, at its own labels."""
    case, found = probe.case, _asked(probe, lists, softmax=True)
    rows = [probe.alone(case.query, [item], own, softmax=True)[0] for item, own in zip(case.items, lists, strict=True)]
    apart = [max_abs(ours - theirs) for ours, theirs in zip(found, rows, strict=True)]
    return probe.within(largest(apart), f"{len(rows)} items alone")


LABELS_PER_ITEM = mode_gate(
    ModeName.LABELS_PER_ITEM,
    "labels_per_item_agree",
    "labels of each item's own, against a request for each list of labels; the isolation of their rows, to the bit "
    "where the engine promises it",
    measure,
    short="labels per item",
    order=30,
)
GATES = (LABELS_PER_ITEM,)
