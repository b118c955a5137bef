"""What a run leaves on disk, and what it does where it cannot write."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from inner_project import REGRESSION, SMALL, VERDICTS, Project

from pytest_multiitem.results import store


def test_files_of_a_run(project: Project) -> None:
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, "-k", "length_isolation and not test_length")
    result.assert_outcomes(passed=2)
    run = project.runs[-1]
    latest = project.path / "multiitem-results/latest"
    assert latest.is_symlink() and latest.resolve() == run
    reports = {"gates.csv", "report.html", "report.md"}
    assert {p.name for p in run.iterdir()} == {"matrix.json", *reports, "samples.jsonl", "servers", "lease"}
    result.stdout.fnmatch_lines([f"results: multiitem-results/{run.name}/report.html, report.md, matrix.json"])

    matrix = project.matrix
    assert store.schema_problems(matrix) == []
    assert matrix["run_id"] == run.name
    assert matrix["complete"] is True and matrix["interrupted_by"] is None
    assert {s["label"]: s["owned"] for s in matrix["servers"]} == {
        "serial pytorch": True,
        "multi-item pytorch dense": True,
    }
    assert matrix["command_line"] and matrix["machine"] and matrix["versions"]["pytest-multiitem"]

    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    kinds = {sample["kind"] for sample in samples}
    assert {"server", "scores", "isolation mutated", "replay", "leak visibility"} <= kinds
    # The verdict follows from the samples.
    changes = [s["max_abs_diff_unchanged"] for s in samples if s["kind"] == "isolation mutated"]
    assert max(changes) == project.gate("same_length_isolation_zero")["value"] == 0.0
    for text in (matrix["run_id"], "same_length_isolation_zero", "Qwen3-0.6B", "hash-model"):
        assert text in project.report or text == matrix["run_id"]


@pytest.mark.parametrize("arguments", [(), ("-n", "1")], ids=["plain", "xdist"])
def test_every_verdict_names_its_place_measured_or_not(project: Project, arguments: tuple[str, ...]) -> None:
    project.write("test_it.py", REGRESSION)
    project.run(*SMALL, "-k", "same_length_isolation", "--multiitem-server-chunk-size=2,4", *arguments)
    gates = project.matrix["gates"]
    assert {gate["verdict"] for gate in gates} == {"PASS", "NOT_RUN"}
    for gate in gates:
        assert gate["place"].get("label", "") == gate["nodeid"].partition("[")[2].rstrip("]")
    own = [gate for gate in gates if gate["gate"] == "same_length_isolation_zero"]
    assert [gate["place"] for gate in own] == [
        {"label": f"pytorch-dense-chunk{size}", "backend": "pytorch", "mask": "dense"} for size in (2, 4)
    ]
    assert [(gate["role"], gate["server_chunk_size"]) for gate in own] == [("multi", 2), ("multi", 4)]


def test_a_second_run_leaves_the_first_alone(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    project.run("test_it.py::test_pass")
    (first,) = project.runs
    content = (first / "matrix.json").read_bytes()
    project.run("test_it.py::test_fail", "-n", "1")  # a process of its own: the name of a run holds its pid
    assert len(project.runs) == 2
    assert (first / "matrix.json").read_bytes() == content
    assert project.verdicts == {"changed_length_isolation_zero": ["FAIL"]}


def test_results_directory_can_be_chosen(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    result = project.run("test_it.py::test_pass", "--results-dir=elsewhere/deep")
    assert store.read_matrix(project.path / "elsewhere/deep/latest").summary["PASS"] == 1
    result.stdout.fnmatch_lines(["results: elsewhere/deep/*/report.html, report.md, matrix.json"])
    assert not (project.path / "multiitem-results").exists()


def test_a_results_directory_that_cannot_be_made_is_a_usage_error(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    project.write("taken", "a file")
    result = project.run("test_it.py::test_pass", "--results-dir=taken/results")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "\n".join([*result.errlines, *result.outlines])
    assert "cannot write results to" in said and "choose another place with --results-dir DIR" in said
    assert "Traceback" not in said and "INTERNALERROR" not in said


def test_a_results_directory_that_cannot_be_made_is_a_usage_error_under_xdist(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    project.write("taken", "a file")
    result = project.run("test_it.py::test_pass", "--results-dir=taken/results", "-n", "1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "\n".join([*result.errlines, *result.outlines])
    assert said.count("cannot write results to") == 1 and "choose another place with --results-dir DIR" in said
    assert "Traceback" not in said and "INTERNALERROR" not in said
    assert not [*Path(tempfile.gettempdir()).glob("multiitem-plan-*.json")]


def test_a_link_that_is_none_is_left_alone(project: Project) -> None:
    project.write("multiitem-results/latest/precious", "")
    project.write("test_it.py", VERDICTS)
    result = project.run("test_it.py::test_pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "\n".join([*result.errlines, *result.outlines])
    assert "latest exists and is not a link; remove it, or choose another --results-dir" in said
    assert "Traceback" not in said
    assert (project.path / "multiitem-results/latest/precious").exists()


def test_collecting_only_writes_nothing(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    result = project.run("--collect-only", "--require=all")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_pass*"])
    assert not project.runs


def test_a_collection_error_is_reported_as_an_incomplete_run(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    project.write("test_other.py", "import nowhere_to_be_found")
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert project.matrix["complete"] is False
    assert project.matrix["summary"] == {
        "PASS": 0, "FAIL": 0, "ERROR": 0, "INCONCLUSIVE": 0, "NOT_RUN": 5,
    }  # fmt: skip


def test_a_project_may_edit_the_matrix(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        def pytest_multiitem_update_matrix(config, matrix):
            for record in matrix.gates:
                record.details.entries["ticket"] = config.getini("minversion") or "T-1"
        """,
    )
    project.write("test_it.py", VERDICTS)
    project.run("test_it.py::test_pass")
    assert project.gate("same_length_isolation_zero")["details"]["entries"] == {"ticket": "T-1"}
    assert store.schema_problems(project.matrix) == []


def test_an_edit_that_breaks_the_schema_is_refused(project: Project) -> None:
    project.write("conftest.py", "def pytest_multiitem_update_matrix(matrix): matrix.gates[0].verdict = 'GREAT'\n")
    project.write("test_it.py", VERDICTS)
    result = project.run("test_it.py::test_pass")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*multi-item scoring validation*", "error: matrix.json does not match its schema: *"])
    result.assert_outcomes(passed=1)
    assert not (project.path / "multiitem-results/latest").exists()


def test_github_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("test_it.py", VERDICTS)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    result = project.run()
    lines = [line for line in result.outlines if line.startswith("::")]
    assert [line.partition(" title=")[0] for line in lines] == ["::error", "::error", "::warning", "::notice"]
    assert lines[0].startswith("::error title=FAIL changed_length_isolation_zero::")
    assert "1 FAIL" in (project.path / "summary.md").read_text(encoding="utf-8")
    assert result.outlines[-1].startswith("results: multiitem-results/")
