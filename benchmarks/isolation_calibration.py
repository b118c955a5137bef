"""What the isolation gates say of rounding, and of leaks on top of it: ``python benchmarks/isolation_calibration.py``.

Runs the gates on scorers in this process: healthy ones whose rounding depends on the shape of the batch
(`shape_noise`), another one for every seed, in float32 and bfloat16; and three leaks on top of bfloat16's. Exit status
1 where a healthy one does not pass `content_isolation` and `length_isolation`, where a gate that allows nothing says
anything but "rounding", or where a leak passes both or is called rounding.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.engine.backend import SerialBackend
from pytest_multiitem.engine.model_files import load_backend, resolve_model
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.faults.active import ActiveFaults
from pytest_multiitem.faults.base import ScorerFault
from pytest_multiitem.faults.variations import ShapeNoise
from pytest_multiitem.gates.content_isolation import CONTENT_ISOLATION
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.isolation import CHANGED_LENGTH, SAME_LENGTH
from pytest_multiitem.gates.judge import ROUNDING
from pytest_multiitem.gates.length_isolation import LENGTH_ISOLATION
from pytest_multiitem.gates.record import judged
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.scoring.cases import Case, built_in_cases
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.steps import Reading, Scores, ScoringSteps
from pytest_multiitem.targets.target import Target

LABELS = (9454, 2753)
DELIMITER = 151_643
GATES = (CONTENT_ISOLATION, LENGTH_ISOLATION, SAME_LENGTH, CHANGED_LENGTH)
LEAKS = ("leak_next=1e-3", "positions_not_reset=0.1", "leak_boundary")
#: Contents of requests; each noise seed goes with one of them.
_CONTENTS = 4


class Remembered(ScorerFault):
    """Computes a packed sequence once: noise is added behind it."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Any, Scores] = {}

    def compute(self, layout: PackedLayout, implementation: MaskImpl, read: Reading) -> Scores:
        """The scores of the first time."""
        bias = None if layout.bias is None else layout.bias().tobytes()
        key = (layout.token_ids.tobytes(), layout.positions.tobytes(), bias, implementation, read)
        if key not in self._known:
            self._known[key] = self.inner.compute(layout, implementation, read)
        return self._known[key]

    def before(self, scorer: ScoringSteps) -> ScoringSteps:
        """What is remembered is shared."""
        mutant = copy.copy(self)
        mutant.inner = scorer
        return mutant


@dataclass(eq=False)
class LocalClient:
    """A client of a scorer in this process."""

    scorer: ScoringSteps
    backend: SerialBackend
    known: dict[Any, Any] = field(default_factory=dict)
    url: str = "http://in-process"

    def score(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int], *, apply_softmax: bool = True
    ) -> Any:
        """As `transport.client.ScoreClient.score`."""
        return np.array(self.scorer.score(query, items, labels, apply_softmax).scores)

    def server_info(self) -> Mapping[str, Any]:
        """As `transport.client.ScoreClient.server_info`."""
        return {"dtype": self.backend.dtype, "device": self.backend.device, "max_multi_item_seq_len": 4096}

    def get(self, path: str) -> Any:
        """Nothing more is known."""
        raise LookupError(path)


@dataclass(eq=False)
class LocalTarget(Target):
    """A scorer in this process."""

    @contextmanager
    def another(self) -> Iterator[Target]:
        """The same one: it computes one request at a time."""
        yield replace(self, memo={})


class Local(Subject):
    """Scorers in this process."""

    backend = "pytorch"

    def __init__(self, multi: Target, serial: Target, cases: Sequence[Case], seed: int) -> None:
        self._servers = {"multi": multi, "serial": serial}
        self._requests = cases
        self.record = lambda line: None
        self.settings = SimpleNamespace(seed=seed)  # type: ignore[assignment]

    opposite = reference = None  # type: ignore[assignment]

    def server(self, part: str) -> Target:
        """The packed or the serial one."""
        return self._servers[part]

    def built_in_cases(self, target: Target) -> Sequence[Case]:
        """The seeded requests."""
        return self._requests

    def timing_case(self, target: Target, num_items: int) -> Case:
        """Nothing is timed."""
        raise NotImplementedError


class Bench:
    """One backend, and what it has computed."""

    def __init__(
        self, backend: SerialBackend, mask: str, delimiter: int = DELIMITER, labels: tuple[int, ...] = LABELS
    ) -> None:
        self.backend, self._mask = backend, MaskImpl(mask)
        self._delimiter, self._labels = delimiter, labels
        self._remembered: dict[str | None, Remembered] = {}
        self._serial = LocalTarget(
            Profile("serial", "pytorch"),
            "local",
            LocalClient(Scorer(backend, ScorerConfig()).steps, backend),  # type: ignore[arg-type]
            delimiter=delimiter,
        )

    def records(self, noise: ShapeNoise, leak: str | None, *, contents: int) -> dict[str, GateRecord]:
        """What the gates say, by name."""
        faults = ActiveFaults.parse([leak] if leak else [])
        remembered = self._remembered.setdefault(leak, Remembered())
        scorer = Scorer(
            self.backend,
            ScorerConfig(delimiter=self._delimiter, chunk_size=0, mask_impl=self._mask),
            lambda steps: faults.mutate(noise.before(remembered.before(steps))),
        )
        profile = Profile("multi", "pytorch", self._mask.value, 0, Semantics.PREFIX_FIRST_DELIM)
        client: Any = LocalClient(scorer.steps, self.backend)
        multi = LocalTarget(profile, "local", client, delimiter=self._delimiter)
        cases = built_in_cases(
            seed=contents,
            labels=self._labels,
            delimiter=self._delimiter,
            vocab_size=self.backend.vocab_size,
            empty_item=True,
            mixed_items=8,
            equal_items=6,
        )
        subject = Local(multi, self._serial, cases, contents)
        return {gate.name: judged(gate, lambda gate: _measured(gate, subject)) for gate in GATES}


def _measured(gate: Gate, subject: Subject) -> Any:
    assert gate.measure is not None
    return gate.measure(subject)


def healthy_is_right(records: Mapping[str, GateRecord]) -> bool:
    """Whether the gates leave rounding alone, and those that allow nothing call it so."""
    decided = (records[gate.name] for gate in (CONTENT_ISOLATION, LENGTH_ISOLATION, SAME_LENGTH))
    changed = records[CHANGED_LENGTH.name]
    rounding = changed.verdict is Verdict.INCONCLUSIVE and ROUNDING in changed.reason
    return all(record.verdict is Verdict.PASS for record in decided) and (rounding or changed.value == 0)


def leak_is_seen(records: Mapping[str, GateRecord]) -> bool:
    """Whether one of the gates that decide fails, and none of those that allow nothing calls it rounding."""
    decided = [records[gate.name].verdict for gate in (CONTENT_ISOLATION, LENGTH_ISOLATION)]
    return Verdict.FAIL in decided and records[CHANGED_LENGTH.name].verdict is Verdict.FAIL


def main() -> int:
    """Run, print the table, and judge; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--healthy", type=int, default=200, help="seeds of each precision (default: %(default)s)")
    parser.add_argument("--leaking", type=int, default=20, help="seeds of each leak (default: %(default)s)")
    parser.add_argument("--mask", choices=("segment", "dense"), default="segment")
    options = parser.parse_args()
    strengths = dict(zip(("float32", "bfloat16"), ShapeNoise.strengths, strict=True))
    rows, missed = [], 0
    for dtype, strength in strengths.items():
        bench = Bench(load_backend("pytorch", resolve_model(None), dtype=dtype, device="cpu"), options.mask)
        for leak in (None, *(LEAKS if dtype == "bfloat16" else ())):
            seeds = options.healthy if leak is None else options.leaking
            noises = [ShapeNoise(strength, seed) for seed in range(seeds)]
            found = [bench.records(noise, leak, contents=noise.seed % _CONTENTS) for noise in noises]
            is_right = healthy_is_right if leak is None else leak_is_seen
            wrong = [records for records in found if not is_right(records)]
            missed += len(wrong)
            for record in (record for records in wrong for record in records.values()):
                print(f"{dtype}, {leak or 'no leak'}: {record.gate} {record.verdict.value}: {record.reason}")  # noqa: T201
            right = seeds - len(wrong)
            rows.append([dtype, leak or "no leak", f"{right} of {seeds}", *(_cell(found, gate) for gate in GATES)])
    header = ["shape_noise", "leak", "right", *(gate.name for gate in GATES)]
    print("\n".join(terminal_table(header, rows)))  # noqa: T201
    return 1 if missed else 0


def _cell(found: Sequence[Mapping[str, GateRecord]], gate: Gate) -> str:
    records = [records[gate.name] for records in found]
    verdicts = Counter(record.verdict.value for record in records)
    largest = max((record.value or 0.0 for record in records), default=0.0)
    return f"{', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())}; ≤ {largest:.2g}"


if __name__ == "__main__":
    sys.exit(main())
