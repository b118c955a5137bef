"""``pytest --compare``: a test a verdict, from one measurement; the same run can keep and judge a baseline."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from inner_project import VERDICTS, Project

Faults = Callable[[str], None]

TINY = (
    "--engine=fake", "--mask-impl=dense", "--multiitem-server-chunk-size=0", "--multiitem-startup-timeout=20",
    "--multiitem-bench-items=8", "--multiitem-bench-query-tokens=20", "--multiitem-item-tokens=4",
    "--multiitem-compare-chunk-sizes=2,8", "--multiitem-bench-timed-runs=5", "--multiitem-confirm-runs=6",
    "--multiitem-views=portable", "-p", "no:cacheprovider",
)  # fmt: skip
ITEMS = {
    "comparison_measured[portable]",
    "cross_backend_max_abs_le_0p02[portable]",
    "cross_backend_mean_abs_le_0p01[portable]",
    *(
        f"own_reference_{statistic}[{backend}-portable]"
        for statistic in ("max_abs_le_0p02", "mean_abs_le_0p01")
        for backend in ("pytorch", "jax")
    ),
}


def test_every_verdict_is_a_test_of_its_own(project: Project) -> None:
    result = project.run("--compare", *TINY, "--junitxml=junit.xml")
    result.assert_outcomes(passed=len(ITEMS))
    assert result.ret == 0 and set(project.junit()) == ITEMS
    assert {r["verdict"] for r in project.matrix["gates"]} == {"PASS"} and len(project.matrix["gates"]) == len(ITEMS)
    (directory,) = project.path.glob("multiitem-results/comparisons/*")
    assert (directory / "final_report.md").is_file()
    result.stdout.fnmatch_lines(["*Confidence: *", f"comparison: *{directory.name}/"])


def test_it_comes_after_the_runs_own_tests_and_no_selection_drops_it(project: Project) -> None:
    project.write("test_own.py", VERDICTS)
    result = project.run("--compare", *TINY, "-k", "test_pass", "-v")
    result.assert_outcomes(passed=1 + len(ITEMS), deselected=4)
    lines = [line for line in result.outlines if "PASSED" in line]
    assert "test_pass" in lines[0] and len(lines) == 1 + len(ITEMS)


@pytest.mark.parametrize(
    ("fault", "failed", "words"),
    [
        ("multi:lie", "comparison_measured[portable]", "dense was requested, but the server executed segment"),
        ("multi:short", "comparison_measured[portable]", "bad_response"),
        ("multi:flat", "cross_backend_max_abs_le_0p02[portable]", "hardly differ between items"),
    ],
)
def test_a_wrong_server_fails_the_run(project: Project, faults: Faults, fault: str, failed: str, words: str) -> None:
    faults(fault)
    result = project.run("--compare", *TINY, "--junitxml=junit.xml")
    assert result.ret == 1
    failure = project.junit()[failed].find("failure")
    assert failure is not None and words in failure.attrib["message"]


def test_a_side_that_cannot_run_here_is_not_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_MISSING", "jax")
    result = project.run("--compare", *TINY)
    assert result.ret == 0 and project.verdicts["cross_backend_max_abs_le_0p02"] == ["NOT_RUN"]
    assert "its library is not installed" in project.gate("comparison_measured")["reason"]
    assert project.run("--compare", *TINY, "--require=cross_backend_max_abs_le_0p02").ret == 1


def test_a_server_that_does_not_start_is_an_error_of_every_test(project: Project, faults: Faults) -> None:
    faults("multi:exit=3")
    result = project.run("--compare", *TINY)
    assert result.ret == 1
    result.assert_outcomes(errors=len(ITEMS))
    assert "nothing could be measured" in project.gate("comparison_measured")["reason"]
    assert set(project.verdicts["own_reference_max_abs_le_0p02"]) == {"ERROR"}


@pytest.mark.slow
def test_its_timings_are_saved_and_judged(project: Project) -> None:
    assert project.run("--compare", *TINY, "--save-baseline=main").ret == 0
    cells = json.loads((project.path / "multiitem-results/baselines/main.json").read_bytes())["cells"]
    assert len(cells) >= 2 * 2 and all(cell["workload_sha256"] for cell in cells)
    result = project.run("--compare", *TINY, "--baseline=main", "--fail-if=p50 > 900%")
    result.assert_outcomes(passed=len(ITEMS) + 1)
    smaller = [word for word in TINY if "chunk-sizes" not in word]
    result = project.run("--compare", *smaller, "--multiitem-compare-chunk-sizes=8", "--baseline=main")
    assert result.ret == 1
    assert "missing in this run" in project.gate("no_regression_vs_baseline")["reason"]


def test_it_is_refused_where_it_would_not_be_alone(project: Project) -> None:
    result = project.run("--compare", *TINY, "-n", "2")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--compare measures time, and pytest-xdist runs other tests beside it*"])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--multi-url=http://127.0.0.1:1", "--multi-url does not say which side the server is"),
        ("--multiitem-compare-urls=jax", "expected BACKEND=URL or BACKEND@VIEW=URL"),
        ("--multiitem-compare-chunk-sizes=0", "whole numbers of at least 1"),
        ("--multiitem-views=portabel", "did you mean 'portable'?"),
        ("--multiitem-cost-per-hour=jax=free", "expected dollars an hour"),
        ("--mask-impl=dense,segment", "a side of the comparison runs one mask implementation"),
        ("--fail-if=p95 > 15", "expected a condition such as"),
    ],
)
def test_a_wrong_option_is_said(project: Project, option: str, words: str) -> None:
    result = project.run("--compare", *TINY, option)
    assert result.ret != 0
    assert words in "\n".join([*result.outlines, *result.errlines])


def test_without_the_option_there_is_nothing(project: Project) -> None:
    project.write("test_own.py", "def test_it(): pass\n")
    project.run(*(word for word in TINY if word != "--compare")).assert_outcomes(passed=1)
    assert not list(project.path.glob("multiitem-results"))
