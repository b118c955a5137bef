"""Does a run find a wrong row, wherever it is? Random faults, and as many healthy servers, judged by the gates.

    make field                                          # 200 faults and 200 healthy servers
    python -m benchmarks.field --faults 20 --healthy 20
    python -m benchmarks.field --page docs/reference/field.md

Each run has a server of its own with its own seed: a fault of the wire makes one row of some answers wrong, by item
index, item length, request size, label, connection, moment or load, within what the run's largest timed request has.
Exit status 0: every fault made its run FAIL, and no healthy run did anything but PASS. 1: not so. 2: usage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.faults.base import Fault
from pytest_multiitem.faults.catalogue import fault
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.record import answers_judged, judged
from pytest_multiitem.power.builds import Build, Labs
from pytest_multiitem.power.columns import columns
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.settings.resolve import resolve

#: Items, and tokens of query and item, of the largest request that is timed.
ITEMS, QUERY_TOKENS, ITEM_TOKENS = 128, 256, 20
_LARGEST = QUERY_TOKENS + 1 + ITEMS * (ITEM_TOKENS + 1)
#: Requests in flight at the same time; and how many a fault may wait for: those that are sent together overlap in part.
IN_FLIGHT, LOAD = 16, 8
#: Answers to scoring requests that a run is sure to have, by far.
_SURELY = 300
_SEED = 20_260_101
HEADER = ("a row is wrong by", "drawn from", "found", "the first gate that fails")

Random = np.random.Generator


def _between(least: int, most: int) -> Callable[[Random, int], str]:
    return lambda random, vocab_size: str(int(random.integers(least, most + 1)))


def _label_range(random: Random, vocab_size: int) -> str:
    """A shard of the vocabulary: a 64th to a quarter of it."""
    width = vocab_size // int(random.integers(4, 65))
    first = int(random.integers(0, vocab_size - width))
    return f"{first}-{first + width}"


#: What a wrong row may depend on, and from which range that is drawn.
CONDITIONS: dict[str, Callable[[Random, int], str]] = {
    "item": _between(0, ITEMS - 1),
    "length": _between(1, 40),
    "min_tokens": _between(50, _LARGEST),
    "min_items": _between(2, ITEMS),
    "label": _label_range,
    "connection": _between(2, 8),
    "every": _between(2, 60),
    "from": _between(1, _SURELY),
    "until": _between(1, 60),
    "once": _between(1, _SURELY),
    "load": _between(2, LOAD),
}


@dataclass(frozen=True)
class Drawn:
    """One run. ``condition``: of its fault; None: healthy."""

    number: int
    backend: str
    seed: int
    condition: str | None = None

    @property
    def fault(self) -> Fault | None:
        """The fault of its server."""
        return None if self.condition is None else fault(f"wrong_row={self.condition}")


@dataclass
class Outcome:
    """What a run came to. ``gate``: the first that says so; ``answers``: of the server under test."""

    drawn: Drawn
    verdict: Verdict
    gate: str = ""
    reason: str = ""
    answers: int = 0
    gates: int = 0
    seconds: float = 0.0


@dataclass
class Field:
    """All runs of one campaign."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def found(self) -> list[Outcome]:
        """Runs with a fault that FAIL."""
        return [each for each in self.outcomes if each.drawn.condition and each.verdict is Verdict.FAIL]

    @property
    def missed(self) -> list[Outcome]:
        """Runs with a fault that do not."""
        return [each for each in self.outcomes if each.drawn.condition and each.verdict is not Verdict.FAIL]

    @property
    def alarms(self) -> list[Outcome]:
        """Healthy runs that do not pass."""
        return [each for each in self.outcomes if not each.drawn.condition and each.verdict is not Verdict.PASS]

    @property
    def calm(self) -> list[Outcome]:
        """Healthy runs that pass."""
        return [each for each in self.outcomes if not each.drawn.condition and each.verdict is Verdict.PASS]


def drawn(faults: int, healthy: int, *, seed: int, backends: Sequence[str], vocab_size: int) -> Iterator[Drawn]:
    """The runs of a campaign: conditions in turn, backends in turn."""
    random = np.random.default_rng(seed)
    kinds = list(CONDITIONS)
    for number in range(max(faults, healthy)):
        backend = backends[number % len(backends)]
        if number < faults:
            kind = kinds[number % len(kinds)]
            condition = f"{kind}:{CONDITIONS[kind](random, vocab_size)}"
            yield Drawn(number, backend, int(random.integers(1, 2**31)), condition)
        if number < healthy:
            yield Drawn(number, backend, int(random.integers(1, 2**31)))


def measured_gates() -> list[Gate]:
    """The gates about one packed server beside its serial baseline; the one that takes the clock is the last."""
    gates = [
        column.gate for column in columns() if column.place is None and {*column.gate.needs} <= {"multi", "serial"}
    ]
    return sorted((gate for gate in gates if "multi" in gate.needs), key=lambda gate: gate.timing)


def play(labs: Labs, run: Drawn, gates: Sequence[Gate]) -> Outcome:
    """Judge a fresh server by every gate, until one FAILs. Times decide nothing here, but timed answers are judged."""
    begin = time.perf_counter()
    build = Build(labs, run.backend, None, {"seed": run.seed})
    multi = labs.target(Profile("multi", run.backend, "segment", 0, build.semantics), build.settings, run.fault)
    subject = build.instead(multi)
    subject.item_counts = (ITEMS,)
    outcome = Outcome(run, Verdict.PASS)
    for gate in gates:
        measure = gate.measure
        assert measure is not None
        record = judged(gate, lambda gate, measure=measure: measure(subject))  # type: ignore[misc]
        timed_only = gate.timing and record.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE)
        if timed_only:  # a few runs of a busy machine are no verdict about speed
            record.verdict = Verdict.PASS
        record = answers_judged(gate, record, [subject.multi, subject.serial], seed=run.seed)
        outcome.gates += 1
        if record.verdict is not Verdict.PASS and outcome.verdict is not Verdict.FAIL:
            outcome.verdict, outcome.gate, outcome.reason = record.verdict, gate.name, record.reason
        if record.verdict is Verdict.FAIL:
            break
    outcome.answers = multi.answers.total.answers
    multi.client.close()
    outcome.seconds = time.perf_counter() - begin
    return outcome


def campaign(faults: int, healthy: int, *, seed: int, backends: Sequence[str], say: Callable[[Outcome], None]) -> Field:
    """Play all runs, those of each backend in a thread of their own."""
    settings = resolve(
        {
            "multiitem_backend": ",".join(backends),
            "multiitem_effort": "quick",
            "multiitem_max_in_flight": str(IN_FLIGHT),
            "multiitem_query_tokens": str(QUERY_TOKENS),
            "multiitem_item_tokens": str(ITEM_TOKENS),
            "multiitem_bench_timed_runs": "1",
        },
        {},
        {},
    )
    gates, result = measured_gates(), Field()
    with (
        tempfile.TemporaryDirectory(prefix="multiitem-field-") as scratch,
        ServerPool(Path(scratch), owner=True) as pool,
    ):
        labs = {backend: Labs(pool, settings) for backend in backends}
        vocab_size = labs[backends[0]].healthy(backends[0], {}).serial.vocab_size
        assert vocab_size is not None
        runs = list(drawn(faults, healthy, seed=seed, backends=backends, vocab_size=vocab_size))

        def work(backend: str) -> None:
            for run in runs:
                if run.backend == backend:
                    outcome = play(labs[backend], run, gates)
                    labs[backend].take_samples()  # of verdicts alone something is made
                    result.outcomes.append(outcome)
                    say(outcome)

        with ThreadPoolExecutor(len(backends)) as threads:
            for future in [threads.submit(work, backend) for backend in backends]:
                future.result()
    result.outcomes.sort(key=lambda each: (each.drawn.number, each.drawn.condition or ""))
    return result


def by_kind(result: Field) -> list[tuple[str, ...]]:
    """What was drawn of each kind of condition, how much of it was found, and by which gates."""
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for each in result.outcomes:
        if each.drawn.condition:
            kinds[each.drawn.condition.partition(":")[0]].append(each)
    rows: list[tuple[str, ...]] = []
    for kind, outcomes in kinds.items():
        found = [each for each in outcomes if each.verdict is Verdict.FAIL]
        values = [each.drawn.condition.partition(":")[2] for each in outcomes if each.drawn.condition]
        numbers = sorted(values, key=lambda text: int(text.partition("-")[0]))
        gates = Counter(each.gate for each in found)
        seen_by = ", ".join(f"{gate} {count}" for gate, count in gates.most_common())
        rows.append((kind, f"{numbers[0]} … {numbers[-1]}", f"{len(found)} of {len(outcomes)}", seen_by))
    return rows


def page(result: Field, seed: int) -> str:
    """The page of a campaign, in Markdown."""
    found, missed, alarms = result.found, result.missed, result.alarms
    healthy = [*result.calm, *alarms]
    lines = [
        "# Field: wrong rows wherever they are",
        "",
        "A wire proxy makes one row of some answers of a healthy server wrong; the gates must say so. What the fault",
        "depends on, and where, is drawn at random within the largest request that a run times "
        f"({QUERY_TOKENS}/{ITEMS}/{ITEM_TOKENS}).",
        "As many healthy servers must pass every gate. `make field` repeats it.",
        "",
        f"Found: {len(found)} of {len(found) + len(missed)} faults. False alarms: {len(alarms)} of {len(healthy)} "
        f"healthy runs. Seed {seed}.",
        "",
        f"| {' | '.join(HEADER)} |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in by_kind(result)),
        "",
    ]
    if healthy:
        answers = sorted(each.answers for each in healthy)
        lines += [f"A healthy run judges {answers[0]} to {answers[-1]} answers of the server under test.", ""]
    for title, outcomes in (("Not found", missed), ("False alarms", alarms)):
        if outcomes:
            lines += [f"## {title}", ""]
            lines += [
                f"- {each.drawn.condition or 'healthy'} ({each.drawn.backend}, seed {each.drawn.seed}): "
                f"{each.verdict.value} {each.gate} {each.reason}"
                for each in outcomes
            ]
            lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Play a campaign, print it, and judge it; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.field", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--healthy", type=int, default=200)
    parser.add_argument("--seed", type=int, default=_SEED)
    parser.add_argument("--backend", default="pytorch,jax")
    parser.add_argument("--page", type=Path, help="write the page here")
    args = parser.parse_args(argv)
    begin = time.perf_counter()

    def say(outcome: Outcome) -> None:
        what = outcome.drawn.condition or "healthy"
        seen = f"{outcome.verdict.value} {outcome.gate}".strip()
        print(
            f"{outcome.drawn.number:4} {outcome.drawn.backend:8} {what:22} {seen} ({outcome.gates} gates, "
            f"{outcome.answers} answers, {outcome.seconds:.1f} s) {outcome.reason[:160]}",
            flush=True,
        )

    try:
        backends = tuple(args.backend.split(","))
        result = campaign(args.faults, args.healthy, seed=args.seed, backends=backends, say=say)
    except MultiItemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(terminal_table(HEADER, by_kind(result))))
    print(
        f"found {len(result.found)} of {len(result.found) + len(result.missed)}, false alarms {len(result.alarms)} of "
        f"{len(result.calm) + len(result.alarms)}, {time.perf_counter() - begin:.0f} s"
    )
    if args.page is not None:
        args.page.write_text(page(result, args.seed), encoding="utf-8")
    return 1 if result.missed or result.alarms else 0


if __name__ == "__main__":
    sys.exit(main())
