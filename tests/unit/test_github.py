"""What GitHub is told of a run: a summary of the step and annotations, whoever's words they hold."""

from __future__ import annotations

import re

import pytest
from sample_matrix import SEEN, benchmark, gate_record, matrix, not_run

from hostile_words import EVIL, FORGED, harmless
from pytest_multiitem.reports.github import log_commands, step_summary
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.session.github import tell


def failing(reason="0.3 exceeds 0.02", verdict=Verdict.FAIL, **more):
    return gate_record("changed_length_isolation_zero", verdict, reason=reason, **more)


@pytest.mark.parametrize(
    ("verdict", "light", "level"),
    [
        (Verdict.FAIL, "🔴", "error"),
        (Verdict.ERROR, "🔴", "error"),
        (Verdict.INCONCLUSIVE, "🟡", "warning"),
        (Verdict.NOT_RUN, "⚪", "notice"),
    ],
)
def test_what_is_not_a_pass_is_told(verdict, light, level):
    run = matrix([gate_record(**SEEN), failing(verdict=verdict)], benchmarks=[benchmark()])
    assert log_commands(run) == [f"::{level} title={verdict} changed_length_isolation_zero::0.3 exceeds 0.02"]
    page = step_summary(run)
    assert page.startswith(f"## {light} Multi-item scoring: ")
    assert f"| {light} {verdict} | changed_length_isolation_zero | pytorch-dense | 0.3 exceeds 0.02 |" in page
    assert "| same_length_isolation_zero | == 0 | PASS 0 \\| 0 \\| 0.40 |" in page and "### Benchmarks" in page


def test_a_good_run_has_no_annotation():
    run = matrix([gate_record()])
    assert log_commands(run) == []
    page = step_summary(run)
    assert page.startswith("## 🟢 Multi-item scoring: 1 PASS\n") and "What is not a PASS" not in page


def test_a_run_without_a_gate_has_no_green_light():
    assert step_summary(matrix([])).startswith("## ⚪ Multi-item scoring: no gate was measured\n")


def test_an_interrupted_run_says_so():
    run = matrix([gate_record()], complete=False, interrupted_by="SIGTERM")
    assert "incomplete: SIGTERM" in step_summary(run)


@pytest.mark.parametrize("words", EVIL)
def test_words_of_a_server_stay_words(words):
    run = matrix([failing(f"the server says: {words}", where="pytorch-dense"), not_run(reason=words)])
    told = log_commands(run)
    assert len(told) == 2
    for line in told:
        command, _, message = line[2:].partition("::")
        assert re.fullmatch(r"(error|notice) title=\w+ \w+", command)
        assert harmless(line[2:]) and harmless(message) and not message.lstrip().startswith("::")
    page = step_summary(run)
    assert harmless(page) and f"\n{FORGED}" not in page and "<script" not in page.replace("\\<script", "")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(row.count(" | ") == 3 for row in rows[2:4]), "no word makes a cell"


def test_percent_signs_and_the_ends_of_properties_are_escaped():
    run = matrix([failing("p95 > 15%0A::error::x, 50 %")])
    assert log_commands(run) == [
        "::error title=FAIL changed_length_isolation_zero::p95 > 15%250A::error::x, 50 %25"
    ]  # fmt: skip


def test_no_more_annotations_than_are_shown():
    gates = [failing(f"reason {n}") for n in range(25)] + [not_run(reason=f"why {n}") for n in range(10)]
    told = log_commands(matrix(gates))
    errors = [line for line in told if line.startswith("::error")]
    assert len(errors) == 10 and errors[-1] == "::error title=16 more::they are in the report of the run"
    assert len([line for line in told if line.startswith("::notice")]) == 10
    assert log_commands(matrix([failing("same"), failing("same")]))[0].startswith(
        "::error title=FAIL changed_length_isolation_zero (2 tests)::"
    )


def test_a_summary_is_no_longer_than_it_may_be():
    page = step_summary(matrix([failing("x" * 5000, where=f"a{n}") for n in range(3000)]))
    assert len(page.encode()) < 1_048_576 and page.endswith("More is in the report of the run.\n")
    assert page.startswith("## 🔴 Multi-item scoring: ")


def test_nothing_is_told_elsewhere(tmp_path):
    run, file = matrix([failing()]), tmp_path / "summary"
    assert tell(run, {}) == [] and tell(run, {"GITHUB_ACTIONS": "false"}) == []
    file.write_text("before\n")
    assert tell(run, {"GITHUB_STEP_SUMMARY": str(file)}) == []
    assert file.read_text().startswith("before\n## 🔴")
    assert len(tell(run, {"GITHUB_ACTIONS": "true"})) == 1
    (line,) = tell(run, {"GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert line.startswith("the summary of the step cannot be written: ")
