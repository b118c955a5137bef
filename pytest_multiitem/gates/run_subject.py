"""What a run gives a gate: servers that are given, and all others by the run's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.engine.checkpoint import tiny_checkpoint
from pytest_multiitem.errors import EngineUnavailable, MultiItemError
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.record import answers_judged, judged
from pytest_multiitem.gates.registry import left_out, reference_stands_in
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED, Part
from pytest_multiitem.targets.modes import require_ids
from pytest_multiitem.targets.run import Run
from pytest_multiitem.targets.target import Target, declared_semantics


def server_of(run: Run, profile: Profile, url: str | None = None) -> Target:
    """The server of a profile. Raises EngineUnavailable where it cannot run here, or is known not to; else the
    MultiItemError with which it does not start or answer."""
    try:
        return run.target(profile, url)
    except EngineUnavailable:
        raise
    except MultiItemError as error:
        issue = run.engine.known_issue(profile.model or run.settings.model or "")
        if issue is None:
            raise
        raise EngineUnavailable(
            f"known incompatibility, as expected: {issue} ({str(error).splitlines()[0]})"
        ) from error


def judged_in(run: Run, gate: Gate, measure: Callable[[Gate], Measurement | GateRecord]) -> GateRecord:
    """Measure, where time is measured after no server starts any more, and judge; then every answer by itself."""
    if gate.timing:
        run.settle()
    record = judged(gate, measure)
    return answers_judged(gate, record, run.connected, seed=run.settings.seed)


@dataclass(eq=False)
class RunSubject(Subject):
    """One backend of a run. ``given``: servers that are there already. ``mask``, ``chunk``: of packed servers that
    none of them is; chunk None: by the settings. ``model``: one of several that the run validates."""

    run: Run
    backend: str
    given: Mapping[Part, Target] = field(default_factory=dict)
    mask: str | None = None
    chunk: int | None = None
    client_chunk_size: int | None = None
    model: str | None = None
    _reference_of: Target | None = None

    def __post_init__(self) -> None:
        self.settings, self.record = self.run.settings, self.run.record
        self.examples, self.item_counts = self.settings.property_examples, self.settings.items

    def require(self, gate: Gate) -> None:
        """Raises EngineUnavailable where the run's options leave out the servers that a gate compares with, and where
        it is about packing and the engine does not pack, and where it is about labels and a given server has none."""
        reason = left_out(gate, self.settings)
        if reason is None and gate.about_packing:
            reason = self.run.engine.packs_nothing
        if reason is not None:
            raise EngineUnavailable(reason)
        if gate.mode is None:
            for target in self.given.values():
                require_ids(target)

    def server(self, part: Part) -> Target:
        """The one that is given; else one by the settings."""
        if part in self.given:
            return self.given[part]
        if part == "multi":
            return self._packed(self.mask)
        if part == "other_mask":
            return self._packed("dense" if self.mask == "segment" else "segment")
        if part == "extend":
            profile = Profile("extend", self.backend, semantics=Semantics.QUERY_PREFIX, model=self.model)
            return server_of(self.run, profile)
        if self._reference_of is not None:
            return self.run.reference(self._reference_of)
        attached = self.settings.serial_url is not None
        return server_of(self.run, Profile("serial", ATTACHED if attached else self.backend, model=self.model))

    @property
    def reference(self) -> Target:
        """Transformers' own model of the checkpoint that the serial server has."""
        return self.run.reference(self.serial)

    @property
    def opposite(self) -> RunSubject:
        """The other backend; of the serial servers, transformers' own model stands in where the run has one backend."""
        other = "pytorch" if self.backend == "jax" else "jax"
        tested = self._tested if reference_stands_in(self.settings) else None
        return replace(self, backend=other, given={}, _reference_of=tested)

    @property
    def delimiter(self) -> int:
        """That of the server that is given, else that of the run."""
        given = next(iter(self.given.values()), None)
        return self.run.delimiter if given is None else given.delimiter

    @property
    def semantics(self) -> Semantics:
        """What the settings declare, or what the attached server says itself."""
        if self.settings.multi_url is None:
            return super().semantics
        return declared_semantics(server_of(self.run, self._profile(ATTACHED, ATTACHED, 0)))

    def built_in_cases(self, target: Target) -> Sequence[Case]:
        """The run's requests for a server."""
        return self.run.cases(target)

    def timing_case(self, target: Target, num_items: int) -> Case:
        """The run's request of N items."""
        return self.run.timing_case(target, num_items)

    def timing_cases(self, target: Target, num_items: int) -> Sequence[Case]:
        """The run's requests of N items together."""
        return self.run.timing_cases(target, num_items)

    def with_head(self) -> tuple[Target, Target]:
        """Beside the others, of the embedded engine alone: how another one serves such a model is not known here."""
        engine = self.run.engine.name
        if not self.multi.owned or engine != EMBEDDED.name:
            raise EngineUnavailable(
                f"the {self.multi.place} has no classification head, and none of engine {engine} is started for that; "
                "attach servers of such a model: --multi-url and --serial-url"
            )
        model = str(tiny_checkpoint(num_labels=len(self.settings.labels)))
        packed = replace(self.multi.profile, model=model)
        return self.run.beside(packed), self.run.beside(Profile("serial", packed.backend, model=model))

    def serial_at_hand(self, target: Target) -> Target | None:
        """The one that the run has or plans anyway."""
        return self.run.serial_at_hand(target)

    def tuned_serial(self, serial: Target) -> Target | None:
        """That of the engine's launch profile."""
        return self.run.tuned_serial(serial)

    def timed_together(self, multi: Target) -> Sequence[Target]:
        """Every mask of the settings, where the run starts the servers."""
        if not multi.owned:
            return [multi]
        return [self.run.target(replace(multi.profile, mask_impl=mask)) for mask in self.settings.mask_impl]

    @property
    def _tested(self) -> Target:
        given = next(iter(self.given.values()), None)
        return given or (self.serial if self.mask is None else self.multi)

    def _packed(self, mask: str | None) -> Target:
        """The packed server of a mask. Raises EngineUnavailable where no such one can be had."""
        if self.backend == ATTACHED:
            target = server_of(self.run, self._profile(ATTACHED, ATTACHED, 0))
            if target.profile.mask_impl != mask:
                runs = "prefill+extend" if target.profile.role == "extend" else f"mask {target.profile.mask_impl}"
                raise EngineUnavailable(
                    f"the {target.place} runs {runs}; this gate needs one that packs with mask {mask}"
                )
            return target
        if self.settings.multi_url is not None:
            return server_of(self.run, self._profile(ATTACHED, mask, 0))
        if mask not in self.run.engine.masks:
            raise EngineUnavailable(f"engine {self.run.engine.name} has no {mask} mask")
        chunk = self.settings.server_chunk_size[0] if self.chunk is None else self.chunk
        return server_of(self.run, self._profile(self.backend, mask, chunk))

    def _profile(self, backend: str, mask: str | None, chunk: int) -> Profile:
        return Profile("multi", backend, mask, chunk, Semantics(self.settings.semantics), self.model)
