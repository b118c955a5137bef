"""Benchmarks of multi-item scoring; pytest-benchmark times, warm-up and rounds come from the settings.

Off in a plain run; on with ``--bench``, or when named by path or node id.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_multiitem.fixtures.benchmark import BenchmarkRun
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import prepare


@pytest.mark.bench
class TestMultiItemScorePerformance:
    """Packed scoring against one-item calls."""

    def test_benchmark_multi_item_packed(self, multiitem_bench: BenchmarkRun, multi_item_server: Target) -> None:
        """All candidates in one request (2000/500/20 by default)."""
        _whole(multiitem_bench, "multi-item packed", multi_item_server)

    def test_benchmark_single_item_sequential(self, multiitem_bench: BenchmarkRun, serial_server: Target) -> None:
        """The same candidates as one-item calls, one after the other."""
        run, settings = multiitem_bench.run, multiitem_bench.run.settings
        count = min(settings.bench_items, 32)  # the time per item does not depend on N
        cases = run.benchmark_cases(serial_server, count)
        _time(multiitem_bench, "single-item sequential", serial_server, cases, chunk=1)

    def test_benchmark_scenario_1(self, multiitem_bench: BenchmarkRun, multi_item_server: Target) -> None:
        """Scenario 1: 2,020 tokens a candidate, 20 of them the item's (query 2,000)."""
        _shape(multiitem_bench, "scenario 1 (2020/20)", multi_item_server, 2000, 20)

    def test_benchmark_scenario_2(self, multiitem_bench: BenchmarkRun, multi_item_server: Target) -> None:
        """Scenario 2: 1,910 tokens a candidate, 10 of them the item's (query 1,900)."""
        _shape(multiitem_bench, "scenario 2 (1910/10)", multi_item_server, 1900, 10)

    def test_benchmark_chunk_scaling(
        self, multiitem_bench: BenchmarkRun, multi_item_server: Target, multiitem_bench_chunk: int
    ) -> None:
        """The same candidates in requests of different client chunk sizes."""
        run, settings = multiitem_bench.run, multiitem_bench.run.settings
        chunk = min(multiitem_bench_chunk, settings.bench_items)
        # Enough chunks to time a small chunk size, not all of them: its time per item does not depend on N.
        count = min(settings.bench_items, max(chunk, 16))
        cases = run.benchmark_cases(multi_item_server, count)
        _time(multiitem_bench, f"client chunk size {chunk}", multi_item_server, cases, chunk=chunk)


@pytest.mark.bench
class TestMultiItemPrefillExtendPerformance:
    """Prefill+extend: the query once, the items in batches against its cache."""

    def test_benchmark_multi_item_prefill_extend(
        self, multiitem_bench: BenchmarkRun, prefill_extend_server: Target
    ) -> None:
        """All candidates in one request (2000/500/20 by default)."""
        _whole(multiitem_bench, "multi-item prefill+extend", prefill_extend_server)


def _whole(bench: BenchmarkRun, name: str, target: Target) -> None:
    cases = bench.run.benchmark_cases(target, bench.run.settings.bench_items)
    _time(bench, name, target, cases, chunk=max(len(case.items) for case in cases))


def _shape(bench: BenchmarkRun, name: str, target: Target, query_tokens: int, item_tokens: int) -> None:
    count = bench.run.settings.bench_items
    case = bench.run.equal_length_case(target, query_tokens, count, item_tokens)
    _time(bench, name, target, [case], chunk=count)


def _time(bench: BenchmarkRun, name: str, target: Target, cases: Sequence[Case], *, chunk: int) -> None:
    requests = [
        prepare(case.query, case.items[at : at + chunk], case.labels)
        for case in cases
        for at in range(0, len(case.items), chunk)
    ]

    def send() -> None:
        answers = [target.client.timed_send(request)[1] for request in requests]
        for request, answer in zip(requests, answers, strict=True):
            target.client.read(answer, request)

    items = [item for case in cases for item in case.items]
    query_tokens = round(sum(len(case.query) for case in cases) / len(cases))
    shape = (query_tokens, len(items), round(sum(map(len, items)) / len(items)))
    record = bench.time(name, target, send, shape=shape, chunk=chunk, requests=requests)
    assert record.items_per_sec_p50 > 0
