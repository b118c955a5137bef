"""The negative control: the same requests, scored by the serial server as if nothing isolated items, must fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.gates import equivalence, isolation
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.judge import NOT_REPEATABLE
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.gates.semantics import CAUSAL
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import unisolated
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import Scores

_ITEMS = 8
_LEAST_ITEMS = 3


@dataclass(eq=False, kw_only=True)
class Unisolated(Target):
    """A packed server without any isolation, played by a serial one: item i is scored behind items 1 to i - 1."""

    serial: Target

    def __post_init__(self) -> None:
        """What is answered, the serial server answers."""

    def score_ids(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int], *, apply_softmax: bool = True
    ) -> Scores:
        """The serial scores [N, K] of each item behind all items before it. Raises as `Target.score_ids`."""
        seen = declared_semantics(self).serial_query(query, self.delimiter)
        joined = unisolated(items, self.delimiter)
        return self.serial.score_ids(seen, joined, labels, apply_softmax=apply_softmax)

    @contextmanager
    def another(self) -> Iterator[Target]:
        """The same over another connection to the serial server."""
        with self.serial.another() as serial:
            yield replace(self, serial=serial, client=serial.client, memo={})

    @contextmanager
    def attest(self) -> Iterator[Attestation]:
        """It executes what it says."""
        yield Attestation(CAUSAL)


def measure(subject: Subject) -> Measurement:
    """Measure isolation and equivalence on a server that has neither; the control holds where all three gates FAIL.

    Of the first case with three items or more, at most eight are used. The value is the smallest of the three
    differences: how far the weakest gate was above its limit of 0 or 0.02.
    """
    serial, semantics = subject.serial, subject.semantics
    case = next(filter(None, map(_leaking, subject.cases(serial))), None)
    if case is None:
        return Measurement(serial, None, doubt=f"no request has {_LEAST_ITEMS} items with tokens: nobody could leak")
    profile = Profile("multi", serial.profile.backend, CAUSAL, 0, semantics, serial.profile.model)
    leaking = Unisolated(profile, serial.engine, serial.client, serial=serial, delimiter=serial.delimiter)
    played = subject.instead(leaking, [case])
    records = [record_of(gate, isolation.measure(played, *isolation.KINDS[gate.name])) for gate in isolation.GATES]
    compared = equivalence.measure(played)
    records.append(record_of(equivalence.EQUIVALENCE, compared))
    unseen = [f"{each.gate} says {each.verdict}: {each.reason}" for each in records if not _is_seen(each)]
    passed = any(each.verdict is Verdict.PASS for each in records)
    message = f"the gates would not see a leak on these requests: {'; '.join(unseen)}"
    return Measurement(
        target=serial,
        value=min((each.value for each in records if each.value is not None), default=None),
        evidence=compared.evidence,
        samples={"items": len(case.items), "gates": len(records)},
        details=details.NegativeControl(
            case=case.name,
            semantics=semantics.value,
            gates={each.gate: details.Judged(verdict=each.verdict, value=each.value) for each in records},
        ),
        problem=message if passed else None,
        doubt=message if unseen else None,
        holds=f"without isolation all {len(records)} gates FAIL, as they must",
    )


def _is_seen(record: GateRecord) -> bool:
    """Whether a gate FAILs by the leak, not by a serial server that does not repeat itself."""
    return record.verdict is Verdict.FAIL and not record.reason.startswith(NOT_REPEATABLE)


def _leaking(case: Case) -> Case | None:
    """A few items of a case; None where it has too few for a leak to have somewhere to go."""
    items = tuple(item for item in case.items if item)[:_ITEMS]
    return replace(case, items=items) if len(items) >= _LEAST_ITEMS else None


NEGATIVE_CONTROL = Gate(
    "negative_control_fails",
    "whether isolation and equivalence FAIL on the same requests where every item sees all items before it",
    rests_on="a FAIL of all three gates that it measures",
    measure=measure,
    needs=("serial",),
    is_control=True,
    short="control",
    order=8,
)
GATES = (NEGATIVE_CONTROL,)
