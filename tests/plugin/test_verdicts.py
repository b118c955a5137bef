"""Each verdict, and that the outcome, the exit code and every report say the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from inner_project import REGRESSION, SMALL, VERDICTS, Project

Faults = Callable[[str], None]

GATES = {
    "test_pass": ("same_length_isolation_zero", "PASS", "0 is within the limit 0"),
    "test_fail": ("changed_length_isolation_zero", "FAIL", "0.25 exceeds the limit 0"),
    "test_inconclusive": (
        "delimiter_aligned_equiv_le_0p02",
        "INCONCLUSIVE",
        "the noise floor 0.03 is above the limit 0.02: a violation could not be told from noise",
    ),
    "test_error": ("request_contract_holds", "ERROR", "cannot read the file: nobody wrote it"),
    "test_not_run": ("segment_lowers", "NOT_RUN", "no accelerator here"),
}


def properties(case: ElementTree.Element) -> dict[str, str]:
    return {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}


@pytest.mark.parametrize("allow", [False, True], ids=["inconclusive-fails", "--allow-inconclusive"])
def test_outcome_table_matrix_report_and_junit_agree(project: Project, allow: bool) -> None:
    project.write("test_it.py", VERDICTS)
    result = project.run("--junitxml=junit.xml", "-v", *(["--allow-inconclusive"] if allow else []))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1 if allow else 2, skipped=2 if allow else 1, errors=1)
    words = {"FAIL": "FAILED", "PASS": "PASSED", "NOT_RUN": "NOT_RUN", "INCONCLUSIVE": "FAILED", "ERROR": "ERROR"}
    if allow:
        words["INCONCLUSIVE"] = "INCONCLUSIVE"
    junit, said = project.junit(), "\n".join(result.outlines)
    for test, (gate, verdict, reason) in GATES.items():
        record = project.gate(gate)
        assert (record["verdict"], record["reason"]) == (verdict, reason)
        result.stdout.fnmatch_lines([f"test_it.py::{test} {words[verdict]}*"])
        assert re.search(rf"^{gate} .*\b{verdict}\b", said, re.MULTILINE)
        assert re.search(rf"^\| {gate} \|.*\| {verdict}\b", project.report, re.MULTILINE)
        told = properties(junit[test])
        assert {"multiitem_traffic_floor", "multiitem_semantic_visibility", "multiitem_score_spread"} <= set(told)
        assert (told["multiitem_gate"], told["multiitem_verdict"]) == (gate, verdict)
        assert told["multiitem_reason"] == reason
        failure, skipped, error = (junit[test].find(tag) for tag in ("failure", "skipped", "error"))
        assert (failure is not None) == (words[verdict] == "FAILED")
        assert (error is not None) == (words[verdict] == "ERROR")
        assert (skipped is not None) == (words[verdict] in ("NOT_RUN", "INCONCLUSIVE"))
        if verdict != "PASS":
            assert f"{verdict} {gate}: {reason}" in said
            assert f"**{verdict}** `{gate}`" in project.report
            assert reason in "".join(e.attrib["message"] for e in (failure, skipped, error) if e is not None)
    assert project.matrix["summary"] == {"PASS": 1, "FAIL": 1, "ERROR": 1, "INCONCLUSIVE": 1, "NOT_RUN": 1}
    assert project.matrix["exit_status"] == 1
    assert project.matrix["complete"] is True
    tests = {t["nodeid"]: t for t in project.matrix["tests"]}
    assert {t["verdict"] for t in tests.values()} == {"PASS", "FAIL", "ERROR", "INCONCLUSIVE", "NOT_RUN"}
    assert tests["test_it.py::test_inconclusive"]["outcome"] == ("skipped" if allow else "failed")


@pytest.mark.parametrize(
    ("chosen", "arguments", "status"),
    [
        ("pass", [], 0),
        ("fail", [], 1),
        ("fail", ["--allow-inconclusive"], 1),
        ("inconclusive", [], 1),
        ("inconclusive", ["--allow-inconclusive"], 0),
        ("error", [], 1),
        ("error", ["--allow-inconclusive"], 1),
        ("not_run", [], 5),
        ("not_run", ["--allow-nothing"], 0),
        ("not_run", ["--require=segment_lowers"], 1),
        ("not_run", ["--require=segment_lowers", "--allow-inconclusive"], 1),
        ("pass", ["--require=same_length_isolation_zero"], 0),
    ],
)
def test_exit_status(project: Project, chosen: str, arguments: list[str], status: int) -> None:
    project.write("test_it.py", VERDICTS)
    result = project.run(f"test_it.py::test_{chosen}", *arguments)
    assert result.ret == status
    assert project.matrix["exit_status"] == status


def test_no_test_without_a_verdict_shows_as_a_pass(project: Project) -> None:
    """Deselected, skipped, not reached, xfailed, without a verdict: none of it is a PASS."""
    project.write(
        "test_it.py",
        """
        import pytest

        def gate(name, **more):
            return pytest.mark.multiitem_gate(name)

        @gate("same_length_isolation_zero")
        def test_ends_without_a_verdict(multiitem_gate):
            pass

        @gate("same_length_isolation_zero")
        def test_never_asks_for_its_gate():
            pass

        @gate("changed_length_isolation_zero")
        @pytest.mark.skip(reason="not today")
        def test_skipped(multiitem_gate):
            pass

        @gate("changed_length_isolation_zero")
        def test_skips_itself(multiitem_gate):
            pytest.skip("not here")

        @gate("segment_vs_dense_le_1e_4")
        @pytest.mark.xfail(reason="known")
        def test_xfails(multiitem_gate):
            assert False

        @gate("speedup_n32_ge_3x")
        def test_breaks(multiitem_gate):
            raise RuntimeError("unexpected")

        @pytest.fixture
        def broken():
            raise RuntimeError("the fixture broke")

        @gate("segment_lowers")
        def test_fixture_breaks(multiitem_gate, broken):
            pass

        @gate("delimiter_aligned_equiv_le_0p02")
        def test_deselected(multiitem_gate):
            pass

        @gate("prefill_extend_replay_le_1e_4")
        def test_x_stops(multiitem_gate):
            assert False

        @gate("jax_serial_vs_torch_serial_le_0p02")
        def test_z_not_reached(multiitem_gate):
            pass
        """,
    )
    result = project.run("-k", "not deselected", "--maxfail=5", "--junitxml=junit.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts == {
        "same_length_isolation_zero": ["ERROR", "ERROR"],
        "changed_length_isolation_zero": ["NOT_RUN", "NOT_RUN"],
        "segment_vs_dense_le_1e_4": ["NOT_RUN"],
        "speedup_n32_ge_3x": ["ERROR"],
        "segment_lowers": ["ERROR"],
        "prefill_extend_replay_le_1e_4": ["FAIL"],
        "jax_serial_vs_torch_serial_le_0p02": ["NOT_RUN"],
        "delimiter_aligned_equiv_le_0p02": ["NOT_RUN"],
    }
    reasons = {r["nodeid"].partition("::")[2]: r["reason"] for r in project.matrix["gates"]}
    assert reasons["test_ends_without_a_verdict"].endswith("the test ended without a verdict")
    assert reasons["test_skipped"] == "not today"
    assert reasons["test_skips_itself"] == "not here"
    assert "known" in reasons["test_xfails"]
    assert "RuntimeError: unexpected" in reasons["test_breaks"]
    assert "setup: RuntimeError: the fixture broke" in reasons["test_fixture_breaks"]
    assert reasons["test_deselected"] == "deselected on the command line"
    assert reasons["test_z_not_reached"] == "the run ended before this test"
    assert "PASS" not in "\n".join(result.outlines)
    assert not re.search(r"\bPASS\b(?! is)", project.report.replace("What is not a PASS", ""))
    for case in project.junit().values():
        assert len(case) > 0, f"{case.attrib['name']} passes in JUnit"
    assert project.matrix["complete"] is False
    result.stdout.fnmatch_lines(["incomplete: *", "gates: 1 FAIL, 4 ERROR, 5 NOT_RUN"])


def test_a_good_server_passes(project: Project, faults: Faults) -> None:
    # Long enough that another process on the machine delays no run to twice its time.
    faults("serial:sleep=0.008 multi:sleep=0.02")
    project.write("test_it.py", REGRESSION)
    chosen = "Isolation or Equivalence or Semantics or Contract or Control or Speedup or Properties"
    result = project.run(*SMALL, "-k", chosen, "--multiitem-items=32")
    result.assert_outcomes(passed=12)
    for name in ("same_length_isolation_zero", "changed_length_isolation_zero", "delimiter_aligned_equiv_le_0p02"):
        record = project.gate(name)
        assert (record["verdict"], record["value"], record["noise_floor"]) == ("PASS", 0.0, 0.0)
        assert record["leak_visibility"] > 0.02 < record["score_spread"]
        assert record["traffic_floor"] == 0.0
        assert (record["mask_requested"], record["mask_attested"]) == ("dense", "dense")
        assert (record["engine"], record["backend"], record["model"]) == ("fake", "pytorch", "hash-model")
        assert record["items_per_sequence"] > 3
    apart, contract = project.gate("request_isolation_le_0p02"), project.gate("request_contract_holds")
    assert apart["verdict"] == contract["verdict"] == "PASS" and apart["value"] == 0.0
    assert len(contract["details"]["held"]) == 7 and apart["leak_visibility"] > 0.02
    control = project.gate("negative_control_fails")
    assert {found["verdict"] for found in control["details"]["gates"].values()} == {"FAIL"}
    speed = project.gate("speedup_n32_ge_3x")
    assert speed["verdict"] == "PASS"
    assert speed["value"] == speed["details"]["performance"]["32"]["speedup_vs_serial_p50"] > 3
    assert {s["label"] for s in project.matrix["servers"]} == {"serial pytorch", "multi-item pytorch dense"}


@pytest.mark.parametrize(
    ("fault", "test", "mask", "verdict", "reason"),
    [
        ("multi:leak", "same_length_isolation", "dense", "FAIL", r"exceeds the limit 0"),
        ("multi:lie", "same_length_isolation", "segment", "FAIL", r"segment was requested, but .* executed dense"),
        ("multi:nan", "delimiter_aligned", "dense", "FAIL", r"bad_json: .*NaN"),
        ("multi:short", "delimiter_aligned", "dense", "FAIL", r"expected 26 rows of 2 scores, got 25"),
        ("multi:labels", "same_length_isolation", "dense", "FAIL", r"expected 26 rows of 2 scores"),
        ("multi:error", "delimiter_aligned", "dense", "FAIL", r"HTTP 200 without scores: .*out of slots"),
        ("multi:truncated", "same_length_isolation", "dense", "FAIL", r"bad_json: .*truncated"),
        ("multi:permuted", "same_length_isolation", "dense", "FAIL", r"exceeds the limit 0"),
        ("multi:permuted", "delimiter_aligned", "dense", "FAIL", r"exceeds the limit 0\.02"),
        ("serial:flat", "same_length_isolation", "dense", "INCONCLUSIVE", r"a leak would not show"),
        ("multi:flat", "same_length_isolation", "dense", "FAIL", r"does not read its items"),
        ("multi:noise", "same_length_isolation", "dense", "INCONCLUSIVE", r"replaying the same request"),
        ("multi:memory", "surrounded", "dense", "FAIL", r"exceeds the limit 0.02"),
        ("multi:cut", "contract", "dense", "FAIL", r"over-long input: an item of 65537 tokens was scored"),
        ("serial:flat", "without_isolation", "dense", "INCONCLUSIVE", r"would not see a leak on these requests"),
        ("multi:die_after=5", "same_length_isolation", "dense", "FAIL", r"exited with code 9 [\s\S]*device lost"),
        (
            "multi:exit=3",
            "same_length_isolation",
            "dense",
            "ERROR",
            r"exited with code 3 [\s\S]*cannot allocate 96 GiB",
        ),
        ("serial:exit=3", "delimiter_aligned", "dense", "ERROR", r"exited with code 3 [\s\S]*cannot allocate 96 GiB"),
        ("multi:die_after=5", "speedup", "dense", "FAIL", r"exited with code 9 [\s\S]*device lost"),
        ("multi:sleep=0.2", "speedup", "dense", "FAIL", r"is below 3"),
    ],
)
def test_a_misbehaving_server(
    project: Project, faults: Faults, fault: str, test: str, mask: str, verdict: str, reason: str
) -> None:
    faults(fault)
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, f"--mask-impl={mask}", "-k", test, "--multiitem-items=32")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (record,) = (r for r in project.matrix["gates"] if r["reason"] != "deselected on the command line")
    assert record["verdict"] == verdict
    assert re.search(reason, record["reason"])
    result.stdout.re_match_lines([rf".*{reason.split('[')[0]}"])
    assert not project.processes()


@pytest.mark.parametrize(
    ("value", "status"),
    [("0.02", 0), ("0.020000000000000004", 1), ("float('nan')", 1), ("float('inf')", 1), ("None", 1)],
    ids=["the limit", "the next float", "nan", "inf", "nothing"],
)
def test_the_exit_status_at_the_limit(project: Project, value: str, status: int) -> None:
    project.write("test_it.py", VERDICTS.replace("measured(0.01, floor=0.03)", f"measured({value})"))
    assert project.run("test_it.py::test_inconclusive").ret == project.matrix["exit_status"] == status
    assert (project.gate("delimiter_aligned_equiv_le_0p02")["verdict"] == "PASS") is (status == 0)


#: Requests that show nothing: one item, and items that are all the same.
EMPTY = {"one item": "[[11, 12, 13]]", "the same items": "[[11, 12, 13], [11, 12, 13], [11, 12, 13]]"}


@pytest.mark.parametrize("test", ["length_isolation", "delimiter_aligned"])
@pytest.mark.parametrize("items", EMPTY)
@pytest.mark.parametrize(
    "allow",
    [
        pytest.param(False, id="inconclusive-fails"),
        pytest.param(True, id="--allow-inconclusive", marks=pytest.mark.slow),  # quick in test_exit_status
    ],
)
def test_requests_that_show_nothing_are_no_pass(project: Project, items: str, test: str, allow: bool) -> None:
    project.write("own.jsonl", f'{{"query": [7, 8, 9], "items": {EMPTY[items]}, "labels": [9454, 2753]}}\n')
    project.write("test_it.py", REGRESSION)
    arguments = ["--workload=own.jsonl", "-k", test, *(["--allow-inconclusive"] if allow else [])]
    result = project.run(*SMALL, *arguments)
    assert result.ret == (0 if allow else 1)
    ran = [r["verdict"] for r in project.matrix["gates"] if r["reason"] != "deselected on the command line"]
    assert ran and set(ran) == {"INCONCLUSIVE"}
    traffic = project.matrix["traffic"]
    assert (traffic["path"].rpartition("/")[2], traffic["requests"], traffic["drawn"]) == ("own.jsonl", 1, 1)
    result.stdout.fnmatch_lines(["multiitem: requests: 1 request of *own.jsonl, sha256 *"])
    assert f"Requests: 1 request of {traffic['path']}" in project.report


def test_a_single_timed_run_is_no_pass(project: Project, faults: Faults) -> None:
    faults("serial:sleep=0.004")
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, "-k", "speedup", "--multiitem-items=32", "--multiitem-bench-timed-runs=1")
    assert result.ret == 1
    record = project.gate("speedup_n32_ge_3x")
    assert record["verdict"] == "INCONCLUSIVE" and record["samples"]["timed_runs"] == 1
    assert record["reason"].startswith("1 timed runs of each side")


def test_a_backend_that_cannot_run_here_is_not_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_MISSING", "jax")
    project.write("test_it.py", REGRESSION)
    arguments = ("--engine=fake", "--mask-impl=dense", "-k", "delimiter_aligned")
    result = project.run(*arguments)
    assert result.ret == 0
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["NOT_RUN delimiter_aligned_equiv_le_0p02*: its library is not installed"])
    aligned = [r for r in project.matrix["gates"] if "aligned" in r["nodeid"]]
    by_column = {r["nodeid"].partition("[")[2]: r["verdict"] for r in aligned}
    assert by_column == {"jax-dense]": "NOT_RUN", "pytorch-dense]": "PASS"}


def test_leak_visibility_starts_no_server(project: Project) -> None:
    """It is shown where the run has a serial server, and no server starts for it alone."""
    project.write("test_it.py", REGRESSION)
    for chosen, labels in (("segment_matches_dense", 2), ("segment_matches_dense or semantics", 3)):
        result = project.run("--engine=fake", "--backend=pytorch", "--mask-impl=dense", "-k", chosen)
        assert result.ret == 0
        record = project.gate("segment_vs_dense_le_1e_4")
        assert record["verdict"] == "PASS" and len(project.matrix["servers"]) == labels
        assert (record["leak_visibility"] is None) == (labels == 2)


def test_attached_servers_are_asked_for_what_they_say_they_withstand(
    project: Project, server: Callable[..., str]
) -> None:
    project.write("test_it.py", REGRESSION)
    urls = [f"--{role}-url={server(role)}" for role in ("multi", "serial")]
    result = project.run(*urls, "-k", "surrounded or contract or without_isolation")
    result.assert_outcomes(passed=3)
    contract = project.gate("request_contract_holds")["details"]
    assert set(contract["not_made"]) == {
        "an empty item", "the delimiter inside an item", "over-long input", "text", "temperature",
        "token log-probabilities",
    }  # fmt: skip
    assert project.gate("negative_control_fails")["backend"] == "attached"
    assert project.gate("request_isolation_le_0p02")["leak_visibility"] > 0.02
    alone = project.run(urls[0], "-k", "surrounded")
    alone.assert_outcomes(passed=1)
    assert project.gate("request_isolation_le_0p02")["leak_visibility"] is None
