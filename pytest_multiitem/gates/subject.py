"""What a gate may ask for, from a pytest run and from a build of the kill matrix alike."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from pytest_multiitem.compile_gates.records import Report
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.gates.traffic import Recorder
from pytest_multiitem.results.counterexample import Counterexample
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import Part
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.target import Target


class Subject(ABC):
    """The servers of one backend, requests for them, and the settings of the measurement.

    A server starts, or is connected to, when it is first asked for. EngineUnavailable: there is none here, and the
    gate is NOT_RUN with the reason. ServerError and ScoreFailure: it does not start or answer, and the gate FAILs.

    ``record``: takes a raw sample. ``client_chunk_size``: items per request of the gates between backends; None: all in
    one. ``item_counts``: the N of a performance curve beside the gated one. ``examples``: requests of the search for a
    violated relation; ``shrink``: whether it makes the one that it finds small.
    """

    backend: str
    settings: Settings
    record: Recorder
    client_chunk_size: int | None = None
    item_counts: Sequence[int] = ()
    examples: int
    shrink: bool = True

    _multi: Target | None = None
    _cases: Sequence[Case] | None = None

    @abstractmethod
    def server(self, part: Part) -> Target:
        """The server of a part."""

    @abstractmethod
    def built_in_cases(self, target: Target) -> Sequence[Case]:
        """The requests that gates are measured on; of the user's workload, where there is one."""

    @abstractmethod
    def timing_case(self, target: Target, num_items: int) -> Case:
        """A request of N items for timing."""

    def timing_cases(self, target: Target, num_items: int) -> Sequence[Case]:
        """The requests in which N items are timed: several where the user's own requests have fewer."""
        return [self.timing_case(target, num_items)]

    @property
    @abstractmethod
    def reference(self) -> Target:
        """The serial server with transformers' own model of the served checkpoint."""

    @property
    @abstractmethod
    def opposite(self) -> Subject:
        """The same of the other backend."""

    @property
    def multi(self) -> Target:
        """The packed server under test."""
        return self._multi or self.server("multi")

    @property
    def other_mask(self) -> Target:
        """The packed server of the other mask."""
        return self.server("other_mask")

    @property
    def extend(self) -> Target:
        """The server in prefill+extend mode."""
        return self.server("extend")

    @property
    def serial(self) -> Target:
        """The serial baseline."""
        return self.server("serial")

    @property
    def semantics(self) -> Semantics:
        """The semantics that the packed servers are declared to have."""
        return Semantics(self.settings.semantics)

    def cases(self, target: Target) -> Sequence[Case]:
        """The requests for a server. Raises EngineUnavailable for one that would harm it."""
        return self.built_in_cases(target) if self._cases is None else self._cases

    def instead(self, multi: Target, cases: Sequence[Case] | None = None) -> Self:
        """The same with another server in the place of the packed one, and with requests of its own where given."""
        other = copy.copy(self)
        other._multi, other._cases = multi, cases
        return other

    def with_head(self) -> tuple[Target, Target]:
        """The packed and the serial server of a tiny model with a classification head, of as many classes as the
        settings have labels. Raises EngineUnavailable where there are none."""
        raise EngineUnavailable("no servers of a model with a classification head can be started here")

    def serial_at_hand(self, target: Target) -> Target | None:
        """A serial server of a server's model that says how visible a leak would be; None starts for that alone."""
        return None

    def tuned_serial(self, serial: Target) -> Target | None:
        """The baseline with everything on that multi-item scoring switches off, where there is one."""
        return None

    def timed_together(self, multi: Target) -> Sequence[Target]:
        """The packed servers that are timed against the same serial calls, ``multi`` among them."""
        return [multi]

    def keep(self, finding: Counterexample | Report) -> None:  # noqa: B027 - nothing need be kept
        """Take what explains a verdict: a counterexample, or the compile gate's report."""
