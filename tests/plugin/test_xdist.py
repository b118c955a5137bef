"""pytest-xdist: one set of servers, one matrix, the same verdicts; nothing is timed beside other tests."""

from __future__ import annotations

from typing import Any

import pytest
from inner_project import BENCH, PARITY, REGRESSION, VERDICTS, Project

from pytest_multiitem.results import store

TIMED = "it measures time, and pytest-xdist runs other tests at the same time; run it without -n"


def comparable(matrix: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What must not depend on the number of workers."""
    return {
        r["nodeid"]: (r["gate"], r["verdict"], r["value"], r["mask_attested"])
        for r in matrix["gates"]
        if r["gate"] != "speedup_n32_ge_3x"
    }


@pytest.mark.slow
def test_two_workers_share_servers_and_agree_with_a_plain_run(project: Project) -> None:
    project.write("test_it.py", REGRESSION)
    project.write("test_parity.py", PARITY)
    chosen = ("--engine=fake", "--mask-impl=dense", "--multiitem-client-chunk-sizes=8,32")
    result = project.run(*chosen, "-n", "2", "--junitxml=junit.xml", "-k", "not Segment and not PrefillExtend")
    assert result.ret == 0, "\n".join(result.outlines)
    together = project.matrix
    assert store.schema_problems(together) == []
    assert together["complete"] is True
    launches = [*project.runs[-1].glob("servers/*/*/state.json")]
    assert len(launches) == len({path.parent.parent for path in launches}) == len(project.states())
    labels = {"serial jax", "serial pytorch", "multi-item jax dense", "multi-item pytorch dense"}
    assert len(launches) == len(labels)
    assert {s["label"] for s in together["servers"]} == labels
    assert not project.processes()
    assert not [path for path in project.runs[-1].iterdir() if path.name.startswith(".")]

    speed = [r for r in together["gates"] if r["gate"] == "speedup_n32_ge_3x"]
    assert {(r["verdict"], r["reason"]) for r in speed} == {("NOT_RUN", TIMED)}
    result.stdout.fnmatch_lines(["multiitem: engine=fake (command line)", f"NOT_RUN speedup_n32_ge_3x*: {TIMED}"])
    properties = {
        p.attrib["name"]: p.attrib["value"]
        for p in project.junit()["test_speedup_over_serial[jax-dense]"].iter("property")
    }
    assert properties["multiitem_verdict"] == "NOT_RUN"

    assert project.run(*chosen, "-k", "not Segment and not PrefillExtend and not Speedup").ret == 0
    alone = project.matrix
    assert comparable(together) == comparable(alone)
    assert {r["verdict"] for r in alone["gates"]} == {"PASS", "NOT_RUN"}
    assert len(alone["gates"]) == len(alone["tests"]) == len(together["tests"]) > 15


@pytest.mark.parametrize("forms", [["--bench", "-n", "2"], ["--bench", "-n", "2", "--dist=loadfile"]])
def test_benchmarks_beside_each_other_are_a_usage_error(project: Project, forms: list[str]) -> None:
    project.write("test_it.py", BENCH)
    result = project.run(*forms)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--bench cannot run under pytest-xdist*run the benchmarks without -n"])
    assert not project.runs


def test_a_named_benchmark_is_not_run(project: Project) -> None:
    project.write("test_it.py", BENCH)
    name = "TestMultiItemScorePerformance::test_benchmark_multi_item_packed"
    result = project.run("--engine=fake", "-n", "1", f"test_it.py::{name}")
    assert result.ret == 0
    assert {t["outcome"] for t in project.matrix["tests"]} == {"skipped"}
    assert {t["reason"] for t in project.matrix["tests"]} == {TIMED}
    assert project.matrix["benchmarks"] == []
    assert not project.states()


def test_no_worker_is_one_process(project: Project) -> None:
    """``-n 0`` runs everything here, so that times may be measured."""
    project.write("test_it.py", VERDICTS)
    result = project.run("-n", "0", "--bench", "-k", "pass or fail")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.matrix["summary"] == {
        "PASS": 1, "FAIL": 1, "ERROR": 0, "INCONCLUSIVE": 0, "NOT_RUN": 3,
    }  # fmt: skip


def test_verdicts_cross_from_the_workers(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    result = project.run("-n", "2", "--junitxml=junit.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.matrix["summary"] == dict.fromkeys(("PASS", "FAIL", "ERROR", "INCONCLUSIVE", "NOT_RUN"), 1)
    told = {
        p.attrib["value"]
        for case in project.junit().values()
        for p in case.iter("property")
        if p.attrib["name"] == "multiitem_verdict"
    }
    assert told == {"PASS", "FAIL", "ERROR", "INCONCLUSIVE", "NOT_RUN"}


def test_a_worker_that_crashes_leaves_an_error(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os
        import pytest

        @pytest.mark.multiitem_gate("segment_lowers")
        def test_crashes(multiitem_gate):
            os._exit(11)
        """,
    )
    result = project.run("-n", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    record = project.gate("segment_lowers")
    assert record["verdict"] == "ERROR"
    assert "crashed" in record["reason"]
