"""The helpers behind the fixtures: a gate that ends its test by a verdict, a benchmark that is recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import pytest

from pytest_multiitem.client import PreparedRequest, ScoreFailure
from pytest_multiitem.collection import requirement
from pytest_multiitem.gates.base import Gate
from pytest_multiitem.gates.measurement import Measurement, Recorder, blank_record, judged
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results.records import BenchmarkRecord, GateRecord, Verdict
from pytest_multiitem.run import Run
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.servers.errors import ServerError
from pytest_multiitem.servers.target import Target
from pytest_multiitem.session import Session
from pytest_multiitem.state import BENCHMARKS, RECORDS


class AgainstSerial(Protocol):
    """How `gates` measure a multi-item server against a serial one."""

    def __call__(
        self, multi: Target, serial: Target, cases: Sequence[Case], *, delimiter: int, record: Recorder
    ) -> Measurement: ...


class GateCheck:
    """Measures and judges the gate named by the test's ``multiitem_gate`` marker.

    ``model``: the one of a model matrix that the test is for; None where there is no matrix.
    """

    def __init__(self, gate: str, item: pytest.Item, session: Session, *, model: str | None = None) -> None:
        self.gate = gates()[gate]
        self.model = model
        self._item = item
        self._session = session
        self._settings = session.settings

    @property
    def run(self) -> Run:
        """This process's servers and cases."""
        return self._session.run

    def check(
        self, measure: Callable[[Gate], Measurement], *, explain: Callable[[], Sequence[str]] = tuple
    ) -> GateRecord:
        """Measure, judge, and end the test by the verdict.

        A request that fails is a FAIL of the gate; so is a server that dies while it is measured. ``explain``: lines
        that a failure shows above the record's fields.
        """
        if self.gate.timing:
            self.run.settle()
        record = judged(self.gate, measure)
        explained = list(explain())
        return self.conclude(record, evidence=[*explained, *_evidence(record)] if explained else None)

    def against_serial(self, measure: AgainstSerial, multi: Target, serial: Target) -> GateRecord:
        """`check` a measurement of a multi-item server against a serial one, on the run's requests."""
        run = self.run
        return self.check(
            lambda gate: measure(multi, serial, run.cases(multi), delimiter=run.settings.delimiter, record=run.record)
        )

    def not_run(self, reason: str, **details: Any) -> GateRecord:
        """End the test: the gate cannot be measured here, for this reason."""
        record = blank_record(self.gate, Verdict.NOT_RUN, reason)
        record.details = details
        return self.conclude(record)

    def fail(self, reason: str) -> GateRecord:
        """End the test: the gate fails without a measurement, for this reason."""
        return self.conclude(blank_record(self.gate, Verdict.FAIL, reason))

    def conclude(self, record: GateRecord, *, evidence: Sequence[str] | None = None) -> GateRecord:
        """End the test by a verdict that is judged already.

        ``evidence``: the lines that a failure shows below its reason, instead of the record's fields.
        """
        record.nodeid = self._item.nodeid
        if record.verdict is Verdict.PASS and record.engine is not None:
            issue = self.run.engine.known_issue(self.model or self._settings.model or "")
            if issue is not None:
                record.details["now_passes"] = issue
        self._item.stash.setdefault(RECORDS, []).append(record)
        text = f"{record.verdict}: {record.gate}: {record.reason}"
        lines = _evidence(record) if evidence is None else evidence
        shown = "\n".join([text, *(f"  {line}" for line in lines)])
        if record.verdict is Verdict.FAIL:
            pytest.fail(shown, pytrace=False)
        if record.verdict is Verdict.INCONCLUSIVE:
            if not self._settings.allow_inconclusive:
                pytest.fail(shown, pytrace=False)
            pytest.skip(text)
        if record.verdict is Verdict.NOT_RUN:
            if (by := requirement(self._item, record.gate)) is not None:
                pytest.fail(f"{text} (required by {by})", pytrace=False)
            pytest.skip(text)
        return record


class BenchmarkRun:
    """Times requests with pytest-benchmark; warm-up and rounds come from the settings."""

    def __init__(self, item: pytest.Item, session: Session, benchmark: Any) -> None:
        self.run = session.run
        self._item = item
        self._benchmark = benchmark

    def time(
        self,
        name: str,
        target: Target,
        send: Callable[[], object],
        *,
        shape: tuple[int, int, int],
        chunk: int,
        requests: Sequence[PreparedRequest] = (),
    ) -> BenchmarkRecord:
        """Time ``send``; fail where the server executed something else than what was requested.

        ``shape``: query tokens, items, tokens per item. ``chunk``: items per request. ``requests``: what is sent;
        without them a baseline cannot tell whether a later run times the same.
        """
        from pytest_multiitem.bench.statistics import P95_SAMPLES, p50, p95

        settings = self.run.settings
        self.run.settle()
        try:
            with target.attest() as attestation, target.watch():
                self._benchmark.pedantic(
                    send, rounds=settings.bench_timed_runs, warmup_rounds=settings.bench_warmup_runs, iterations=1
                )
        except (ScoreFailure, ServerError) as error:
            pytest.fail(f"{name}: {error}", pytrace=False)
        if attestation.problem is not None:
            pytest.fail(f"{name}: {attestation.problem}", pytrace=False)
        if not self._benchmark.enabled:
            pytest.skip("NOT_RUN: pytest-benchmark is disabled")
        seconds = [float(value) for value in self._benchmark.stats.stats.data]
        query_tokens, num_items, item_tokens = shape
        record = BenchmarkRecord(
            name=name,
            nodeid=self._item.nodeid,
            engine=target.engine,
            backend=target.profile.backend,
            model=str(target.model),
            mask_requested=target.profile.mask_impl,
            mask_attested=attestation.mask,
            num_items=num_items,
            query_tokens=query_tokens,
            item_tokens=item_tokens,
            client_chunk_size=chunk,
            warmup_runs=settings.bench_warmup_runs,
            runs_sec=seconds,
            p50_sec=p50(seconds),
            p95_sec=p95(seconds),
            p95_interpolated=len(seconds) < P95_SAMPLES,
            items_per_sec_p50=num_items / p50(seconds),
            workload_sha256=_checksum(requests),
            dtype=target.dtype,
            device=None if target.info.get("device") is None else str(target.info["device"]),
            server_chunk_size=target.profile.chunk_size,
        )
        self._benchmark.extra_info.update(msgspec.to_builtins(record))
        self._item.stash.setdefault(BENCHMARKS, []).append(record)
        print(  # noqa: T201 - a benchmark says its figure where -s lets it through
            f"\n{name} [{target.profile.label}, executed: {attestation.mask}]: "
            f"{record.items_per_sec_p50:.2f} items/s, p50 {record.p50_sec:.3f} s over {len(seconds)} runs"
        )
        return record


def _checksum(requests: Sequence[PreparedRequest]) -> str | None:
    """The sha256 of what is sent; None where nobody says what that is."""
    return hashlib.sha256(b"\n".join(request.body for request in requests)).hexdigest() if requests else None


def _evidence(record: GateRecord) -> list[str]:
    fields = msgspec.to_builtins(record)
    shown = (
        "value", "limit", "interval", "noise_floor", "traffic_floor", "leak_visibility", "semantic_visibility",
        "score_spread", "samples", "backend", "model", "dtype", "semantics", "mask_requested", "mask_attested",
        "server_chunk_size", "items_per_sequence", "details",
    )  # fmt: skip
    lines = [f"{name}: {fields[name]}" for name in shown if fields[name] not in (None, {})]
    return [line if len(line) <= 400 else line[:400] + " …" for line in lines]
