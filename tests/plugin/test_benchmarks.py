"""Benchmarks: off in a plain run, on when asked for, timed as the settings say."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from inner_project import BENCH, SMALL, Project

OFF = "benchmarks are off; add --bench, or name the test by path or node id"
PACKED = "TestMultiItemScorePerformance::test_benchmark_multi_item_packed"
#: A benchmark of an instant.
TINY = (
    *SMALL, "--multiitem-bench-items=4", "--multiitem-bench-query-tokens=16", "--multiitem-item-tokens=4",
    "--multiitem-bench-chunk-sizes=2,4", "--multiitem-bench-timed-runs=2",
)  # fmt: skip


@pytest.fixture
def bench(project: Project) -> Project:
    project.write("suite/bench/test_bench.py", BENCH)
    return project


@pytest.mark.parametrize("arguments", [[], ["suite"], ["-k", "packed"], ["-m", "bench"]], ids=repr)
def test_off_unless_asked_for(bench: Project, arguments: list[str]) -> None:
    result = bench.run(*TINY, *arguments)
    assert result.ret == 0
    assert "passed" not in result.parseoutcomes()
    matrix = bench.matrix
    reasons = {t["reason"] for t in matrix["tests"] if t["outcome"] != "deselected"}
    assert reasons == {OFF}
    assert matrix["benchmarks"] == []
    assert not bench.states()  # no server was started for nothing


@pytest.mark.parametrize(
    "named",
    [["suite/bench/test_bench.py"], ["suite/bench"], ["suite/bench/"], ["./suite/bench/test_bench.py"]],
    ids=repr,
)
def test_on_when_named_by_path(bench: Project, named: list[str]) -> None:
    result = bench.run(*TINY, *named, "-k", "packed")
    result.assert_outcomes(passed=1, deselected=6)
    assert [b["name"] for b in bench.matrix["benchmarks"]] == ["multi-item packed"]


def test_on_with_bench(bench: Project) -> None:
    result = bench.run(*TINY, "--bench")
    assert result.ret == 0
    result.assert_outcomes(passed=7)
    matrix = bench.matrix
    by_name = {b["name"]: b for b in matrix["benchmarks"]}
    assert set(by_name) == {
        "multi-item packed", "single-item sequential", "scenario 1 (2020/20)", "scenario 2 (1910/10)",
        "client chunk size 2", "client chunk size 4", "multi-item prefill+extend",
    }  # fmt: skip
    assert by_name["scenario 1 (2020/20)"]["query_tokens"] == 2000
    scenario_2 = by_name["scenario 2 (1910/10)"]
    assert (scenario_2["query_tokens"], scenario_2["item_tokens"]) == (1900, 10)
    assert by_name["multi-item prefill+extend"]["mask_attested"] == "prefill+extend"
    assert by_name["single-item sequential"]["mask_attested"] == "serial"
    for record in by_name.values():
        assert len(record["runs_sec"]) == 2
        assert record["p95_interpolated"] is True
        assert record["items_per_sec_p50"] == pytest.approx(record["num_items"] / record["p50_sec"])
        result.stdout.fnmatch_lines([f"{record['name']} *pytorch*"])
        assert f"| {record['name']} |" in bench.report


def test_runs_come_from_the_environment_and_pytest_benchmark_times_them(
    bench: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTI_ITEM_BENCH_TIMED_RUNS", "3")
    monkeypatch.setenv("MULTI_ITEM_BENCH_WARMUP_RUNS", "2")
    monkeypatch.setenv("MULTI_ITEM_MASK_IMPL", "segment")
    arguments = [a for a in TINY if "timed-runs" not in a and "mask-impl" not in a]
    result = bench.run(*arguments, f"suite/bench/test_bench.py::{PACKED}", "-s", "--benchmark-json=times.json")
    result.assert_outcomes(passed=1)
    (record,) = bench.matrix["benchmarks"]
    assert (len(record["runs_sec"]), record["warmup_runs"]) == (3, 2)
    assert (record["mask_requested"], record["mask_attested"]) == ("segment", "segment")
    (timed,) = json.loads((bench.path / "times.json").read_bytes())["benchmarks"]
    assert timed["stats"]["rounds"] == 3
    assert timed["stats"]["data"] == record["runs_sec"]
    assert timed["extra_info"]["mask_attested"] == "segment"
    result.stdout.fnmatch_lines(["multi-item packed *executed: segment*items/s*over 3 runs"])
    # readiness, then 2 untimed and 3 timed requests
    info = next(s["info"] for s in bench.matrix["servers"] if s["label"].startswith("multi-item"))
    assert info["executed"]["requests"] == 1
    (log,) = bench.runs[-1].glob("servers/multi-item*.log")
    assert "serving on" in log.read_text()


def test_a_mask_that_was_not_executed_fails_the_benchmark(bench: Project, faults: Callable[[str], None]) -> None:
    faults("multi:lie")
    result = bench.run(*TINY, f"suite/bench/test_bench.py::{PACKED}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*dense was requested, but the server executed segment*"])
    assert bench.matrix["benchmarks"] == []
    (failed,) = (t for t in bench.matrix["tests"] if t["outcome"] != "deselected")
    assert failed["outcome"] == "failed"


def test_a_server_that_dies_fails_the_benchmark_with_its_log(bench: Project, faults: Callable[[str], None]) -> None:
    faults("multi:die_after=2")
    result = bench.run(*TINY, f"suite/bench/test_bench.py::{PACKED}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*exited with code 9*", "*device lost*"])
    assert bench.matrix["benchmarks"] == []


def test_wrong_scores_fail_the_benchmark(bench: Project, faults: Callable[[str], None]) -> None:
    faults("multi:leak")
    result = bench.run(*TINY, "suite/bench/test_bench.py", "-k", "packed or sequential")
    result.assert_outcomes(passed=1, failed=1, deselected=5)
    result.stdout.fnmatch_lines(["*multi-item packed: wrong_scores: item * is * away from its score in a request of*"])
    assert [record["name"] for record in bench.matrix["benchmarks"]] == ["single-item sequential"]


def test_noise_does_not_fail_the_benchmark(bench: Project, faults: Callable[[str], None]) -> None:
    faults("multi:noise")
    result = bench.run(*TINY, f"suite/bench/test_bench.py::{PACKED}", "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["multi-item packed *items/s*(the same request gives other scores each time*"])


def test_switched_off_in_pytest_benchmark_is_not_run(bench: Project) -> None:
    result = bench.run(*TINY, f"suite/bench/test_bench.py::{PACKED}", "--benchmark-disable")
    result.assert_outcomes(skipped=1)
    (test,) = bench.matrix["tests"]
    assert (test["outcome"], test["reason"]) == ("skipped", "pytest-benchmark is disabled")
