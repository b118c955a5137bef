"""Every command line of the contract selects tests of this repository's suites; they run for real elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from inner_project import without

REPOSITORY = Path(__file__).parents[2]
BENCH = "tests/bench/test_bench_multi_item_score.py"
SEGMENT = "tests/regression/test_multi_item_regression.py::TestMultiItemSegmentTPURegression"


@pytest.mark.parametrize(
    ("command", "selected"),
    [
        ("pytest", "test_same_length_isolation[pytorch-dense]"),
        ("pytest", "test_jax_serial_matches_torch_serial"),
        ("pytest", "test_benchmark_scenario_1[jax-segment]"),
        ("pytest -m tpu_segment", "test_segment_mode_runs_on_tpu[jax]"),
        ("pytest -m regression", "test_speedup_over_serial[pytorch-segment]"),
        ("pytest -m parity", "test_cross_backend_max_abs[dense-client8]"),
        ("pytest -m bench", "test_benchmark_chunk_scaling[pytorch-dense-bench8]"),
        ("pytest --backend=pytorch --bench", "test_benchmark_multi_item_packed[pytorch-dense]"),
        ("pytest --backend=jax --bench", "test_benchmark_multi_item_packed[jax-dense]"),
        ("pytest --backend=all", "test_same_length_isolation[jax-segment]"),
        (
            "MULTI_ITEM_MASK_IMPL=dense MULTI_ITEM_BENCH_WARMUP_RUNS=1 MULTI_ITEM_BENCH_TIMED_RUNS=3 pytest -q -s "
            f"{BENCH}::TestMultiItemScorePerformance::test_benchmark_multi_item_packed",
            "test_benchmark_multi_item_packed[pytorch-dense]",
        ),
        (
            "MULTI_ITEM_MASK_IMPL=segment MULTI_ITEM_BENCH_WARMUP_RUNS=1 MULTI_ITEM_BENCH_TIMED_RUNS=3 pytest -q -s "
            f"{BENCH}::TestMultiItemScorePerformance::test_benchmark_multi_item_packed",
            "test_benchmark_multi_item_packed[pytorch-segment]",
        ),
        (
            f"pytest -q -s {BENCH}::TestMultiItemPrefillExtendPerformance::test_benchmark_multi_item_prefill_extend",
            "test_benchmark_multi_item_prefill_extend[pytorch]",
        ),
        (f"pytest -q -s {SEGMENT}::test_segment_mode_runs_on_tpu", "test_segment_mode_runs_on_tpu[pytorch]"),
        (f"pytest -q -s {SEGMENT}::test_segment_matches_dense_scores", "test_segment_matches_dense_scores[jax]"),
        (
            f"pytest -q -s {SEGMENT}::test_segment_prefill_extend_flow_no_regression",
            "test_segment_prefill_extend_flow_no_regression[jax]",
        ),
        ("pytest -n 2", "test_delimiter_aligned_equivalence[pytorch-dense]"),
        (
            "pytest --pyargs pytest_multiitem.suites.regression.test_multi_item_regression",
            "test_same_length_isolation[pytorch-dense]",
        ),
    ],
)
def test_command(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, command: str, selected: str) -> None:
    variables = [word for word in shlex.split(command) if word.startswith("MULTI_ITEM_")]
    for name, _, value in (variable.partition("=") for variable in variables):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTEST_ADDOPTS", without("hypothesispytest", "cacheprovider"))
    before = set(REPOSITORY.glob("multiitem-results/*"))
    monkeypatch.chdir(REPOSITORY)
    arguments = shlex.split(command)[len(variables) + 1 :]
    result = pytester.runpytest_inprocess(*(a for a in arguments if a != "-q"), "--collect-only", "-q")
    assert result.ret == 0
    found = [line.rpartition("::")[2] for line in result.outlines if "::" in line]
    assert selected in found
    for line in result.outlines:
        assert "tests/unit" not in line and "tests/plugin" not in line
    assert set(REPOSITORY.glob("multiitem-results/*")) <= before | set(REPOSITORY.glob("multiitem-results/2*"))


def test_masks_and_backends_narrow_what_is_collected(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PYTEST_ADDOPTS", without("hypothesispytest", "cacheprovider"))
    arguments = ("tests/regression", "--collect-only", "-q", "--backend=jax", "--mask-impl=segment")
    result = pytester.runpytest_inprocess(*arguments)
    found = [line for line in result.outlines if "::" in line]
    assert found
    assert not [line for line in found if "pytorch" in line or "-dense]" in line]
