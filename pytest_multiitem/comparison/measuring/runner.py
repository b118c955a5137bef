"""Measuring a comparison: sweep every chunk size, confirm the best ones, and join the matrices to one decision."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.adapters.base import Engine
from pytest_multiitem.bench.load import measure_load
from pytest_multiitem.bench.overhead import measure_overhead, null_server
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision import decide
from pytest_multiitem.comparison.decision.compare import compare as decide_between
from pytest_multiitem.comparison.decision.speed import versus
from pytest_multiitem.comparison.measuring import ledger
from pytest_multiitem.comparison.measuring.ledger import Ledger
from pytest_multiitem.comparison.measuring.rows import chunked, encoded, new_session, row_of, sample
from pytest_multiitem.comparison.measuring.sides import Connected, Side, described, missing, serial_of, sides_of
from pytest_multiitem.comparison.records import (
    Outcome,
    OwnReference,
    Row,
    SelfComparison,
    Workload,
    WorkloadRef,
)
from pytest_multiitem.errors import EngineUnavailable, MultiItemError, UsageError
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.results.store import write_atomically
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

#: Items that are scored alone as a side's own reference, spread over the request.
_REFERENCE_ITEMS = 32
#: Of those, how many are scored again for the noise floor.
_REFERENCE_REPLAYS = 8
#: Load: senders in the closed loop, arrival rates as shares of what one sender gets, seconds a level.
_SENDERS = (1, 2, 4)
_RATES = (0.5, 0.8, 1.2)
_LOAD_SECONDS = 10.0


def compare(
    settings: Settings, engine: Engine, base: Path, bar: ProgressBar, publish: Callable[[Outcome], object]
) -> Outcome:
    """Measure what the settings ask for, in a directory below ``base``, decide, and have the outcome published.

    An interrupted comparison of the same settings goes on where it ended. Raises UsageError for settings that
    nothing can be measured with.
    """
    sides = sides_of(settings, engine)
    if not sides:
        reasons = "; ".join(missing(settings, sides).values())
        raise UsageError(f"there is nothing to compare: {reasons or 'no backend and no view was chosen'}")
    with ledger.opened(settings, base) as kept:
        place = kept.directory.relative_to(base) if kept.directory.is_relative_to(base) else kept.directory
        if kept.resumed:
            bar.print(f"resuming {place}: {kept.resumed} rows are measured already")
        else:
            bar.print(f"comparison in {place}")
        work = _workload(settings, kept.directory)
        for reason in workload.degenerate(work):
            bar.print(f"the workload hardly tells items apart: {reason}")
        runner = _Runner(settings, kept, work, bar)
        runner.measure(sides)
        runner.not_run |= missing(settings, sides)
        outcome = runner.outcome()
        publish(outcome)
        if not outcome.failures:
            kept.finish()
        return outcome


def _workload(settings: Settings, directory: Path) -> Workload:
    """The comparison's workload: as it was begun, the user's own, or the canonical one of the settings' shape."""
    path = directory / ledger.WORKLOAD
    if path.exists():
        return artefacts.read(path, Workload).record
    if settings.workload is not None:
        own = artefacts.read(settings.workload, Workload)
        if not own.record.requests:
            raise UsageError(f"workload {settings.workload} holds no request")
        made_for = own.record.delimiter_token_id
        if made_for not in (None, settings.delimiter):
            raise UsageError(
                f"workload {settings.workload} was made for the delimiter {made_for}, and the run has "
                f"{settings.delimiter}; run with --multiitem-delimiter {made_for}"
            )
        try:  # byte by byte: its checksums are of what stands there
            write_atomically(path, settings.workload.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot copy {settings.workload} to {path}: {error.strerror}") from None
        return own.record
    made = workload.of_run(settings)
    artefacts.write(path, made)
    return made


class _Runner:
    """One pass over a comparison's sides; what its ledger holds already is left out."""

    def __init__(self, settings: Settings, kept: Ledger, work: Workload, bar: ProgressBar) -> None:
        self.settings = settings
        self.failures: dict[str, str] = {}
        self.not_run: dict[str, str] = {}
        self._kept = kept
        self._work = work
        self._request = work.requests[0]
        self._items = len(self._request.items_token_ids)
        self._sizes = sorted({min(size, self._items) for size in settings.compare_chunk_sizes}, reverse=True)
        self._bar = bar
        self._attempt = 1 + len(list(kept.directory.glob("servers/*")))
        content = artefacts.load_json(kept.directory / ledger.WORKLOAD)
        self._head: dict[str, Any] = {
            "workload_ref": WorkloadRef(
                path=ledger.WORKLOAD,
                sha256=workload.request_sha256(content["requests"][0]),
                request_id=self._request.request_id,
            ),
            "workload": workload.head(work),
            "harness": None,
        }

    def measure(self, sides: Sequence[Side]) -> None:
        """Measure all sides: interleaved where their servers can be up together, else one after the other."""
        self._bar.set_total(self._expected(sides))
        self._head["harness"] = self._harness()
        together = all(side.url is not None or side.settings.device == "cpu" for side in sides)
        for group in [list(sides)] if together else [[side] for side in sides]:
            self._group(group)

    def outcome(self) -> Outcome:
        """Compare what was measured."""
        directory = self._kept.directory
        for (backend, view), matrix in self._kept.matrices.items():
            self._kept.change(backend, view, summary=decide.summary_of(matrix))
        matrices = [(Path(self._kept.path(*key).name), matrix) for key, matrix in self._kept.matrices.items()]
        reasons = {**self.not_run, **self.failures}
        blocker = self.settings.blocker or "; ".join(f"{side}: {reason}" for side, reason in reasons.items()) or None
        if not matrices:
            raise EngineUnavailable(f"nothing could be measured: {blocker}")
        comparison = decide_between(matrices, blocker=blocker if reasons else None)
        return Outcome(directory, matrices, comparison, self.failures, self.not_run)

    # -- one group of servers ------------------------------------------------------------------

    def _group(self, sides: Sequence[Side]) -> None:
        with ExitStack() as stack:
            connected = self._open([side for side in sides if self._left(side)], stack)
            for size in self._sizes:
                self._rows([(c, size) for c in connected], connected, confirm=False)
            # First the best of each side, together: that is the pair that decides.
            choices = [(c, self._choice(c.side)) for c in connected]
            self._rows([(c, size) for c, size in choices if size is not None], connected, confirm=True)
            for size in self._sizes:
                again = [(c, size) for c in connected if size in self._to_confirm(c.side)]
                self._rows(again, connected, confirm=True)
            self._compare_with_itself(connected)
            if self.settings.compare_load:
                self._under_load(connected)
        for side in sides:
            self._refer(side)
            complete = not self._left(side)
            for view in side.views:
                if (side.backend, view) in self._kept.matrices:
                    self._kept.change(side.backend, view, complete=complete, blocker=self.failures.get(side.label))

    def _open(self, sides: Sequence[Side], stack: ExitStack) -> list[Connected]:
        """The servers of the sides, ready; those that cannot be had are noted."""
        begun = []
        for side in sides:
            connected = Connected(side, self._directory_of(side))
            stack.callback(connected.close)
            begun.append(connected)
        opened = []
        for connected in begun:
            self._bar.describe(f"starting {connected.side.label}")
            if self._guarded(connected.side, connected.open) is not None:
                opened.append(connected)
                head = {
                    **self._head,
                    **described(connected),
                    "cost_per_hour_usd": connected.side.cost_per_hour,
                    "notes": self._notes(connected.side),
                }
                for view in connected.side.views:
                    self._kept.enter(connected.side.backend, view, head)
        return opened

    def _guarded(self, side: Side, action: Callable[[], Any]) -> Any:
        """The action's result; None where the side's server cannot be had, which is noted."""
        try:
            return action()
        except UsageError:
            raise
        except EngineUnavailable as error:
            self.not_run[side.label] = str(error)
        except MultiItemError as error:
            self.failures[side.label] = str(error)
            self._bar.print(f"{side.label}: {error}")
        return None

    def _rows(self, asked: Sequence[tuple[Connected, int]], connected: list[Connected], *, confirm: bool) -> None:
        """Measure servers at chunk sizes, interleaved, unless that is known; one that is gone leaves ``connected``.

        A server that would only compute once more what another one has just computed takes over its row.
        """
        wanted = [(c, size) for c, size in asked if size not in self._known(c.side, confirm)]
        leaders: dict[object, Side] = {}
        own: list[tuple[Connected, int]] = []
        alike: list[tuple[Connected, int, Side]] = []
        for c, size in wanted:
            leader = leaders.setdefault(c.side.executes(size) or object(), c.side)
            if leader is c.side:
                own.append((c, size))
            else:
                alike.append((c, size, leader))
        self._measure(own, connected, confirm=confirm)
        for c, size, leader in alike:
            row = self._known(leader, confirm)[size]
            if row.status == "ok" and self._computes_the_same(c, size, row):
                self._enter(c.side, row, confirm=confirm)
                self._note(
                    c.side,
                    f"requests that its server chunk size does not split make it compute what {leader.label} computes; "
                    "such rows were measured there, after a first request to each had given exactly the same scores",
                )
                self._bar.print(f"{_phase(confirm)} {size:>4} {c.side.label:<29} the same as {leader.label}")
            else:
                self._measure([(c, size)], connected, confirm=confirm)

    def _measure(self, wanted: Sequence[tuple[Connected, int]], connected: list[Connected], *, confirm: bool) -> None:
        if not wanted:
            return
        sizes = "/".join(map(str, dict.fromkeys(size for _, size in wanted)))
        self._bar.describe(f"{_phase(confirm)} {sizes} items a request")
        session = new_session()
        samples = sample(
            [(c.target, size) for c, size in wanted],
            self._request,
            warmup_runs=self.settings.bench_warmup_runs,
            timed_runs=self._runs(confirm),
        )
        for (c, size), sampled in zip(wanted, samples, strict=True):
            row = row_of(
                sampled, chunk_size=size, num_items=self._items, session=session, cost_per_hour=c.side.cost_per_hour
            )
            self._enter(c.side, row, confirm=confirm)
            self._bar.print(f"{_phase(confirm)} {size:>4} {c.side.label:<29} {_told(row)}")
            if (sampled.given_up or FailureKind.CONNECTION in row.failure_reason_counts) and not self._revived(
                c, unresponsive=sampled.given_up
            ):
                connected.remove(c)

    def _enter(self, side: Side, row: Row, *, confirm: bool) -> None:
        for view in side.views:
            self._kept.add(side.backend, view, row, confirm=confirm)
        self._bar.advance(self._cost(row.client_chunk_size, self._runs(confirm)))

    def _note(self, side: Side, text: str) -> None:
        for view in side.views:
            notes = self._kept.matrices[side.backend, view].notes
            if text not in notes:
                self._kept.change(side.backend, view, notes=[*notes, text])

    def _computes_the_same(self, connected: Connected, size: int, row: Row) -> bool:
        """Whether a first request to a server is answered with exactly a row's scores, in one packed sequence."""
        request = chunked(self._request, size)[0][0]
        try:
            with connected.target.attest() as attestation:
                scores = connected.target.client.send(request)
        except ScoreFailure:
            return False
        one = attestation.packed_sequences == 1 and attestation.packed_items == request.num_items
        known = row.reference_scores or []
        return one and attestation.problem is None and scores.tolist() == known[: request.num_items]

    def _revived(self, connected: Connected, *, unresponsive: bool) -> bool:
        """Start a side's server again where it has ended; whether the side can go on."""

        def revive() -> bool:
            connected.revive(unresponsive=unresponsive)
            return True

        return self._guarded(connected.side, revive) is not None

    def _compare_with_itself(self, connected: Sequence[Connected]) -> None:
        """A/A of the first server that has a choice: what this machine makes of no difference at all."""
        for c in connected:
            first = self._kept.matrices[c.side.backend, c.side.views[0]]
            size = decide.summary_of(first).final_recommendation
            if size is None:
                continue
            if first.self_comparison is None:
                self._bar.describe("A/A: a server against itself")
                runs = self.settings.confirm_runs
                session = new_session()
                both = sample([(c.target, size)] * 2, self._request, warmup_runs=0, timed_runs=runs)
                rows = [row_of(s, chunk_size=size, num_items=self._items, session=session) for s in both]
                found = _self_comparison(*rows)
                for view in c.side.views:
                    self._kept.change(c.side.backend, view, self_comparison=found)
            return

    def _under_load(self, connected: Sequence[Connected]) -> None:
        """Each side's best chunk size at several concurrencies, and at arrival rates around what it can answer."""
        for c in connected:
            matrix = self._kept.matrices[c.side.backend, c.side.views[0]]
            size = decide.summary_of(matrix).final_recommendation
            row = {**self._known(c.side, confirm=False), **self._known(c.side, confirm=True)}.get(size or 0)
            if matrix.load is not None or row is None or not row.mean_chunk_call_ms:
                continue
            self._bar.describe(f"load on {c.side.label}")
            answered = 1000 / row.mean_chunk_call_ms  # requests a second of one sender
            report = measure_load(
                c.target.url,
                chunked(self._request, row.client_chunk_size)[0],
                concurrency=_SENDERS,
                rates=[share * answered for share in _RATES],
                duration=_LOAD_SECONDS,
                objective_ms=self.settings.latency_objective_ms,
                seed=self.settings.seed,
                timeout=self.settings.request_timeout,
                api_key=os.environ.get(self.settings.api_key_env) or None,
                ca_file=self.settings.ca_file,
            )
            self._bar.print(f"load         {c.side.label:<29} goodput {report.max_goodput_items_per_sec:.1f} items/s")
            for view in c.side.views:
                self._kept.change(c.side.backend, view, load=msgspec.to_builtins(report))

    def _refer(self, side: Side) -> None:
        """Score some items alone on the side's serial server, unless the matrix has that already."""
        measured = [view for view in side.views if (side.backend, view) in self._kept.matrices]
        lacking = [v for v in measured if self._kept.matrices[side.backend, v].own_reference is None]
        if not lacking:
            return
        semantics = self._kept.matrices[side.backend, lacking[0]].semantics
        known = next(
            (
                m.own_reference
                for (backend, _), m in self._kept.matrices.items()
                if backend == side.backend and m.semantics == semantics and m.own_reference is not None
            ),
            None,
        )
        for view in lacking:
            found = known or self._own_reference(side, semantics)
            known = found
            self._kept.change(side.backend, view, own_reference=found)

    def _own_reference(self, side: Side, semantics: str | None) -> OwnReference:
        found = OwnReference(semantics=semantics)
        if semantics is None:
            found.reason = "the server declares no semantics"
            return found
        self._bar.describe(f"serial reference of {side.backend}")
        try:
            serial = serial_of(side)
            connected = Connected(serial, self._directory_of(serial))
            try:
                target = connected.open()
                found.source = f"serial {target.engine} {target.profile.backend}"
                request = self._request
                query = Semantics(semantics).serial_query(tuple(request.query_token_ids), self.settings.delimiter)
                indices = np.unique(np.linspace(0, self._items - 1, min(_REFERENCE_ITEMS, self._items)).astype(int))
                singles = [encoded(request, query, [request.items_token_ids[i]]) for i in indices]
                with target.watch():
                    scores = np.concatenate([target.client.send(single) for single in singles])
                    again = np.concatenate([target.client.send(s) for s in singles[:_REFERENCE_REPLAYS]])
            finally:
                connected.close()
        except UsageError:
            raise
        except (EngineUnavailable, MultiItemError) as error:
            found.reason = str(error).splitlines()[0]
            return found
        found.item_indices = [int(i) for i in indices]
        found.scores = scores.tolist()
        found.noise_floor = max_abs(again - scores[: len(again)])
        return found

    def _notes(self, side: Side) -> list[str]:
        """What a reader of a matrix should know of how it was measured."""
        warmups = self.settings.bench_warmup_runs
        found = [f"before the timed runs of a row, {warmups} warm-up with one request of every shape in it"]
        if len(self._work.requests) > 1:
            found.append(
                f"the workload has {len(self._work.requests)} requests; {self._request.request_id} was measured"
            )
        if len(side.views) > 1:
            found.append(f"the server is the same in {' and '.join(side.views)}, and was measured once for both")
        return found

    # -- what is known and what is left --------------------------------------------------------

    def _known(self, side: Side, confirm: bool) -> dict[int, Row]:
        return self._kept.rows(side.backend, side.views[0], confirm=confirm)

    def _choice(self, side: Side) -> int | None:
        """The sweep's choice."""
        return decide.recommend(list(self._known(side, confirm=False).values()))

    def _to_confirm(self, side: Side) -> list[int]:
        return decide.confirm_chunk_sizes(self._sizes, self._choice(side))

    def _left(self, side: Side) -> bool:
        """Whether any row of a side is still to be measured."""
        swept = self._known(side, confirm=False)
        if any(size not in swept for size in self._sizes):
            return True
        return any(size not in self._known(side, confirm=True) for size in self._to_confirm(side))

    def _runs(self, confirm: bool) -> int:
        return self.settings.confirm_runs if confirm else self.settings.bench_timed_runs

    def _cost(self, size: int, runs: int) -> float:
        """About how long a row takes, in tokens: what is computed for it, and a request's fixed part."""
        tokens = len(self._request.query_token_ids) + 200
        items = sum(len(item) + 1 for item in self._request.items_token_ids)
        return float(runs * (-(-self._items // size) * tokens + items))

    def _expected(self, sides: Sequence[Side]) -> float:
        swept = sum(self._cost(size, self.settings.bench_timed_runs) for size in self._sizes)
        likely = {*self._sizes[:3], *([1] if 1 in self._sizes else [])}
        confirmed = sum(self._cost(size, self.settings.confirm_runs) for size in likely)
        return len(sides) * (swept + confirmed)

    def _harness(self) -> dict[str, Any]:
        """The harness's own time for the whole request, against a server that does nothing."""
        self._bar.describe("the harness's own time")
        request = self._request
        whole = encoded(request, request.query_token_ids, request.items_token_ids)
        try:
            with null_server(whole.num_items, whole.num_labels) as url:
                return measure_overhead(url, whole, repeats=50, warmup=5)
        except (ScoreFailure, OSError) as error:
            return {"reason": f"it could not be measured: {error}"}

    def _directory_of(self, side: Side) -> Path:
        return self._kept.directory / "servers" / str(self._attempt) / f"{side.backend}-{'-'.join(side.views)}"


def _self_comparison(first: Row, second: Row) -> SelfComparison:
    """A/A of two rows of one server."""
    found = versus(first, second)
    times = [[r.total_e2e_ms for r in row.run_records if r.total_e2e_ms is not None] for row in (first, second)]
    return SelfComparison(
        client_chunk_size=first.client_chunk_size,
        first_ms=times[0],
        second_ms=times[1],
        ratio_p50=found.ratio,
        ratio_interval_95=found.interval,
    )


def _phase(confirm: bool) -> str:
    return "confirm" if confirm else "sweep  "


def _told(row: Row) -> str:
    """A row in a line."""
    if row.p50_total_e2e_ms is None or row.throughput_items_sec is None:
        failures = ", ".join(f"{count} {kind}" for kind, count in row.failure_reason_counts.items())
        return f"{row.status}: {failures}"
    text = f"p50 {row.p50_total_e2e_ms:9.1f} ms  {row.throughput_items_sec:8.1f} items/s"
    flags = [f"{count} {kind}" for kind, count in row.failure_reason_counts.items()]
    flags += [flag for flag in (row.attestation_problem, row.recompilation, row.unstable) if flag]
    return f"{text}  ({'; '.join(flags)})" if flags else text
