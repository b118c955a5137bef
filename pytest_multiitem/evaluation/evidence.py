"""What the verdicts rest on, read out of evaluation files: noise floors, leak visibility, score spread, doubts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_multiitem.evaluation.measure import KINDS
from pytest_multiitem.evaluation.records import Evaluation, Isolation, Mutation, Rows
from pytest_multiitem.evaluation.validity import Side
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import magnitude
from pytest_multiitem.transport.client import Scores

#: With fewer items in a request, a leak between items that are no neighbours cannot show.
MIN_ITEMS = 3


def noise_floor(answers: Iterable[tuple[Rows | None, Sequence[Rows] | None]]) -> float | None:
    """How far replays move the scores of the same request, at most; None where a request has no replay."""
    floor = 0.0
    for base, replays in answers:
        if base is None or not replays:
            return None
        floor = max(floor, *(max_abs(np.array(replay) - np.array(base)) for replay in replays), key=magnitude)
    return floor


def leak_visibility(serial: Evaluation, semantics: str) -> float | None:
    """How far a neighbour's tokens move a score on this model, at most; None where it was not measured."""
    measured = (serial.leak_visibility or {}).get(semantics)
    return max(measured.shifts, key=magnitude, default=None) if measured is not None else None


def several(side: Side) -> list[Isolation]:
    """The scored requests with more than one item: only those have untouched items."""
    return [i for i, _ in side.cases if len(i.item_ids) > 1 and i.base_scores is not None]


def mutations(isolation: Isolation, field: str) -> list[Mutation]:
    """All mutations behind a field; that field alone where a file holds no more."""
    if isolation.mutations is not None:
        return [mutation for mutation in isolation.mutations if mutation.mutation in KINDS[field]]
    return list(filter(None, [getattr(isolation, field)]))


def changes(isolation: Isolation, mutation: Mutation) -> Scores:
    """The largest score change over the labels of every item, [N]."""
    difference: Scores = np.abs(np.array(mutation.scores) - np.array(isolation.base_scores)).max(axis=1)
    return difference


def isolation_problem(multi: Side, serial: Side, field: str) -> str | None:
    """Whether the server ignores its items: mutated ones keep their scores, which serial scoring moves."""
    ours, theirs = (
        [changes(i, m)[m.mutated_index] for i in several(side) for m in mutations(i, field)] for side in (multi, serial)
    )
    if ours and theirs and max(ours) == 0.0 and max(theirs) > 0.0:
        return (
            "the mutated item keeps its own score, which the serial server moves by "
            f"{max(theirs):.3g}: the engine does not read its items"
        )
    return None


def isolation_doubt(multi: Side, field: str) -> str | None:
    """What keeps measured isolation from being shown: too few items, items that were not mutated, or not so."""
    requests = several(multi)
    if not any(len(isolation.item_ids) >= MIN_ITEMS for isolation in requests):
        return f"no request has {MIN_ITEMS} items or more"
    for isolation in requests:
        mutated = {mutation.mutated_index for mutation in mutations(isolation, field)}
        wanted = {0, len(isolation.item_ids) - 1}
        if field == "same_length_mutation":  # an empty item has no other form of its length
            wanted = {at for at in wanted if isolation.item_ids[at]}
        if missing := sorted(wanted - mutated):
            return f"item {missing[0]} was not mutated; first, middle and last ones are needed"
        for mutation in mutations(isolation, field):
            old, new = isolation.item_ids[mutation.mutated_index], mutation.mutated_item_ids
            if old == new or (len(old) == len(new)) != (field == "same_length_mutation"):
                return f"the {field.replace('_', ' ')} of item {mutation.mutated_index} is none"
    return None


def packing_note(multi: Evaluation) -> str | None:
    """A word on isolation that was measured with hardly anything packed."""
    scores = multi.attestation.get("scores")
    chunk = multi.server.get("multi_item_scoring_chunk_size")
    if scores is not None and scores.packed_sequences:
        mean = scores.packed_items / scores.packed_sequences
        if mean < MIN_ITEMS:
            return (
                f"a packed sequence held {mean:.3g} items on average (server chunk size {chunk}): measure isolation "
                f"with {MIN_ITEMS} or more as well"
            )
    elif isinstance(chunk, int) and 0 < chunk < MIN_ITEMS:
        return f"the server packs at most {chunk} items: measure isolation with {MIN_ITEMS} or more as well"
    return None


def timing_doubt(multi: Evaluation, serial: Evaluation) -> str | None:
    """Whether the two sides were timed under different conditions, or that is not known, or their scores are noise."""
    if multi.timed_request is None or serial.timed_request is None:
        return "the timed requests are not recorded"
    for side in (multi, serial):
        if side.timing_doubt is not None:
            return f"the {side.mode} side: {side.timing_doubt}"
    if multi.warmup_runs != serial.warmup_runs:
        return f"the sides had {multi.warmup_runs} and {serial.warmup_runs} warm-up runs"
    if change := _difference(multi.machine, serial.machine, ("architecture", "processor", "cpus_usable")):
        return f"the sides were timed from different machines: {change}"
    ours, theirs = ({**side.server, "backend": side.backend} for side in (multi, serial))
    if change := _difference(ours, theirs, ("backend", "dtype", "device")):
        return f"the sides were served differently: {change}"
    return None


def _difference(left: Mapping[str, Any], right: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of some fields in which two sides differ; what one of them does not tell is no difference."""
    for name in names:
        ours, theirs = left.get(name), right.get(name)
        if ours != theirs and None not in (ours, theirs):
            return f"{name} is {ours} and {theirs}"
    return None
