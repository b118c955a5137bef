"""Content isolation: requests of the same shapes that differ in what one item says.

The same shapes are the same operations in every precision, so that other items' scores must not move by a bit. No shape
floor is in it, and no tolerance but that of a server whose replays differ: a leak of content shows as nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import Baseline, baseline, evidence_of, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement, larger_floor, magnitude
from pytest_multiitem.gates.judge import NOISE_FACTOR, blindness
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import sample
from pytest_multiitem.results import details
from pytest_multiitem.results.records import Evidence
from pytest_multiitem.scoring.cases import Case, Mutation, mutations
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import Scores

#: Scores closer than this to 0 or 1: a real change could round away.
_SATURATED = 1e-6
#: Lengths of the items of the further request, every one of which is mutated: single tokens before long items, where
#: off-by-ones at the borders of items show.
_LENGTHS = (1, 24, 2, 33, 1, 18, 3)
#: Items of a request whose pairs are kept, at most.
_MOST_PAIRED = 16
#: A server whose replays are further apart says nothing of leaks that matter.
_LARGEST_FLOOR = 0.02
#: What models call the number of their experts.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, eq=False)
class Mutated:
    """The unchanged requests, and what became of other items' scores where one item was mutated, largest change
    first. ``pairs``: of the last request whose items were mutated in turn."""

    unchanged: list[Baseline]
    attestations: list[Attestation]
    worst: list[details.MutatedItem]
    pairs: details.SeenPairs | None = None

    @property
    def value(self) -> float | None:
        """The largest change of any untouched item; None where nothing was mutated."""
        return self.worst[0].max_abs_diff_unchanged if self.worst else None

    @property
    def own_change(self) -> float | None:
        """The largest change of a mutated item's own score."""
        return max((entry.own_change or 0.0 for entry in self.worst), default=None)

    @property
    def problem(self) -> str | None:
        """That no mutated item has another score, although scores are not saturated."""
        saturated = all(max_abs(np.minimum(b.scores, 1 - b.scores)) < _SATURATED for b in self.unchanged)
        if self.own_change == 0.0 and not saturated:
            return "the mutated item keeps its own score: the engine does not read its items"
        return None


def changes(subject: Subject, cases: Sequence[Case], kinds: Sequence[str]) -> Mutated:
    """Mutate the first, a middle and the last item of every case of two items or more, and compare all others."""
    seed = subject.settings.seed
    return changes_by(subject, [(case, mutations(case, kinds, seed=seed)) for case in cases if len(case.items) > 1])


def changes_by(subject: Subject, mutated: Sequence[tuple[Case, Sequence[Mutation]]]) -> Mutated:
    """The same by given mutations of each case."""
    multi, record = subject.multi, subject.record
    unchanged = [baseline(multi, case, record) for case, _ in mutated]
    attestations = [base.attestation for base in unchanged]
    worst: list[details.MutatedItem] = []
    pairs: details.SeenPairs | None = None
    for (case, wanted), base in zip(mutated, unchanged, strict=True):
        if not wanted:
            continue
        answers, attestation = _answers(multi, wanted)
        attestations.append(attestation)
        changes_of = [np.abs(scores - base.scores).max(axis=1) for scores in answers]
        if [mutation.index for mutation in wanted] == [*range(len(case.items))] and len(case.items) <= _MOST_PAIRED:
            pairs = details.SeenPairs(
                case=case.name, lengths=[*map(len, case.items)], moved=[moved.tolist() for moved in changes_of]
            )
        for mutation, scores, moved in zip(wanted, answers, changes_of, strict=True):
            others = np.delete(moved, mutation.index)
            entry = details.MutatedItem(
                case=case.name,
                mutation=mutation.kind,
                mutated_index=mutation.index,
                max_abs_diff_unchanged=float(others.max()),
                mean_abs_diff_unchanged=float(others.mean()),
                changed_items=int((others != 0).sum()),
                own_change=float(moved[mutation.index]),
            )
            sample(record, "isolation mutated", **msgspec.structs.asdict(entry), scores=scores)
            worst.append(entry)
    worst.sort(key=lambda entry: -magnitude(entry.max_abs_diff_unchanged or 0.0))
    return Mutated(unchanged, attestations, worst, pairs)


def _answers(multi: Target, wanted: Sequence[Mutation]) -> tuple[list[Scores], Attestation]:
    """The answers to mutated requests: once for a server, whichever gates need them."""
    key = ("mutated", *(mutation.case for mutation in wanted))
    if key not in multi.memo:
        with multi.attest() as attestation:
            answers = [multi.score(mutation.case) for mutation in wanted]
        multi.memo[key] = (answers, attestation)
    known: tuple[list[Scores], Attestation] = multi.memo[key]
    return known


def contents(subject: Subject) -> Mutated:
    """What the gate compares: the subject's requests, and a short one with every item mutated in turn."""
    multi = subject.multi
    cases = [case for case in subject.cases(multi) if len(case.items) > 1]
    key = ("content isolation", *cases)
    if key not in multi.memo:
        mutated = [(case, mutations(case, ("same_length",), seed=subject.settings.seed)) for case in cases]
        if cases and (short := borders(cases[0], multi.max_tokens)) is not None:
            mutated.append((short, _each_mutated(short, subject.settings.seed)))
        multi.memo[key] = changes_by(subject, mutated)
    known: Mutated = multi.memo[key]
    return known


def borders(case: Case, max_tokens: int | None) -> Case | None:
    """A short request of a case's query and tokens whose items have all kinds of lengths; None where a server does not
    take one so long."""
    needed = len(case.query) + 1 + sum(length + 1 for length in _LENGTHS)
    if max_tokens is not None and needed > max_tokens:
        return None
    ids = np.random.default_rng(len(case.query)).integers(0, len(case.pool), sum(_LENGTHS)).tolist()
    tokens = iter([case.pool[place] for place in ids])
    items = tuple(tuple(next(tokens) for _ in range(length)) for length in _LENGTHS)
    return replace(case, name=f"{case.name}, borders", items=items)


def _each_mutated(case: Case, seed: int) -> list[Mutation]:
    """Every item of a case mutated in turn, in its own length."""
    alone = [replace(case, items=(item,)) for item in case.items]
    return [
        Mutation(each.kind, index, case.with_item(index, each.case.items[0]))
        for index, one in enumerate(alone)
        for each in mutations(one, ("same_length",), seed=seed + index)
    ]


def leaks(mutated: Mutated) -> bool:
    """Whether other items' scores moved by more than quiet replays do."""
    floor = larger_floor(*(base.floor for base in mutated.unchanged)) or 0.0
    value = mutated.value
    return value is not None and not value <= NOISE_FACTOR * floor


def mixes_experts(target: Target) -> bool:
    """Whether the model routes tokens to experts by their content, by what the server says or the checkpoint does."""
    config: Any = {}
    with suppress(OSError, ValueError):
        config = json.loads((Path(target.model or "") / "config.json").read_bytes()) if target.model else {}
    known = [target.info, config, *(v for v in target.info.values() if isinstance(v, dict))]
    return any(isinstance(c, dict) and isinstance(c.get(n), int) and c[n] > 1 for c in known for n in _EXPERTS)


def measure(subject: Subject) -> Measurement:
    """The largest change of an untouched item's score at the same shapes. It must be 0; of a server whose quiet replays
    differ, no more than they do.

    A mixture of experts sends tokens to experts by their content, so that its batches change shape with it: what is
    above 0 there is not decided, up to the contract's limit of equivalence.
    """
    multi, record = subject.multi, subject.record
    mutated = contents(subject)
    usable = [case for case in subject.cases(multi) if len(case.items) > 1]
    if not usable:
        return Measurement(target=multi, value=None, samples={"cases": 0, "mutations": 0, "items": 0})
    evidence = evidence_of(multi, subject.serial, usable, record, scored=mutated.unchanged, spread=mutated.unchanged)
    evidence.traffic_floor = None  # what moves in traffic is judged by a gate of its own; here nothing else runs
    value, allowed = mutated.value, NOISE_FACTOR * (evidence.noise_floor or 0.0)
    problem = doubt = holds = None
    if value is None:
        doubt = "no item could be mutated"
    elif not value <= allowed:
        at = mutated.worst[0]
        what = (
            f"an item's score moves by {value:.6g} when only the content of item {at.mutated_index} changes "
            f"({at.case}); the same shapes allow {f'{allowed:.3g}' if allowed else 'nothing'}"
        )
        if value <= _LARGEST_FLOOR and mixes_experts(multi):
            doubt = f"{what}, but for a mixture of experts, whose batches change shape with the content"
        else:
            problem = what
    elif allowed > _LARGEST_FLOOR:
        doubt = f"replaying the same request moves scores by {evidence.noise_floor:.3g}: it would hide a leak"
    else:
        doubt = blindness(_without_floors(evidence), allowed, ("noise_floor", "leak_visibility", "score_spread"))
        holds = f"the content of one item moves others by {value:.3g}, and the same shapes allow {allowed:.3g}"
    return Measurement(
        target=multi,
        value=value,
        evidence=evidence,
        attestation=Attestation.joined(mutated.attestations),
        samples={
            "cases": len(mutated.unchanged),
            "mutations": len(mutated.worst),
            "items": sum(len(base.scores) for base in mutated.unchanged),
        },
        details=details.ContentIsolation(
            worst=mutated.worst[:6],
            allowed=allowed,
            mutated_item_change_max=mutated.own_change,
            pairs=mutated.pairs,
        ),
        problem=problem or mutated.problem,
        doubt=doubt,
        holds=holds if doubt is None else None,
    )


def _without_floors(evidence: Evidence) -> Evidence:
    """The same, of a server whose noise is in the limit already."""
    return msgspec.structs.replace(evidence, noise_floor=0.0, traffic_floor=None)


CONTENT_ISOLATION = Gate(
    "content_isolation",
    "max abs score change of untouched items when the content of one item changes, at the same shapes",
    rests_on="noise floor, leak visibility, score spread",
    measure=measure,
    needs=("multi", "serial"),
    judges=lambda backend: ("multi",),
    short="content",
    order=2.3,
)
GATES = (CONTENT_ISOLATION,)
