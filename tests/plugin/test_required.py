"""``--require``: a gate that did not run fails the run, however it came not to run."""

from __future__ import annotations

import pytest
from inner_project import VERDICTS, Project


def test_a_required_gate_that_cannot_run_fails_its_test(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    result = project.run("test_it.py::test_not_run", "--require=segment_lowers", "--junitxml=junit.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    assert project.gate("segment_lowers")["verdict"] == "NOT_RUN"
    assert project.junit()["test_not_run"].find("failure") is not None
    result.stdout.fnmatch_lines(
        ["NOT_RUN segment_lowers: no accelerator here", "required gate not run: segment_lowers"]
    )


def test_a_required_gate_that_is_skipped_fails_its_test(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.multiitem_gate("segment_lowers")
        @pytest.mark.skip(reason="not today")
        def test_it(multiitem_gate): pass
        """,
    )
    result = project.run("--require=segment_lowers")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    record = project.gate("segment_lowers")
    assert (record["verdict"], record["reason"]) == ("NOT_RUN", "not today")
    result.stdout.fnmatch_lines(["*segment_lowers is required by --require, but: not today*"])
    assert project.run("--allow-nothing").ret == 0


@pytest.mark.parametrize(
    ("arguments", "gate", "passed"),
    [
        (["-k", "pass", "--require=segment_lowers"], "segment_lowers", 1),
        (["-k", "nothing", "--require=segment_lowers"], "segment_lowers", 0),
        (["--deselect", "test_it.py::test_pass", "-k", "pass", "--require=all"], "same_length_isolation_zero", 0),
        (["test_it.py::test_pass", "--require=all"], "speedup_n32_ge_3x", 1),
        (["-k", "pass", "--require", "same_length_isolation_zero,segment_lowers"], "segment_lowers", 1),
        (["-k", "pass", "-n", "1", "--require=segment_lowers"], "segment_lowers", 1),
    ],
)
def test_a_required_gate_that_is_deselected_fails_the_run(
    project: Project, arguments: list[str], gate: str, passed: int
) -> None:
    project.write("test_it.py", VERDICTS)
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"required gate not run: {gate}"])
    assert project.matrix["exit_status"] == 1
    assert project.matrix["summary"]["PASS"] == passed


@pytest.mark.parametrize(
    ("content", "workers"),
    [("", []), ("def test_foreign(): pass\n", []), ("def test_foreign(): pass\n", ["-n", "1"])],
    ids=["no-test", "foreign-tests-only", "foreign-tests-only-xdist"],
)
def test_a_required_gate_without_any_test_of_the_plugin_fails_the_run(
    project: Project, content: str, workers: list[str]
) -> None:
    project.write("test_it.py", content)
    result = project.run("--require=segment_lowers", *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*multi-item scoring validation*", "required gate not run: segment_lowers"])
    assert not project.runs


def test_a_worse_exit_code_stays(project: Project) -> None:
    project.write("test_it.py", "import nowhere_to_be_found")
    assert project.run("--require=segment_lowers").ret == pytest.ExitCode.INTERRUPTED


def test_all_means_every_gate_that_the_options_ask_for(project: Project) -> None:
    from pytest_multiitem.gates.registry import gates

    project.write("test_it.py", VERDICTS)
    result = project.run("test_it.py::test_pass", "--require=all")
    missing = [line.rpartition(" ")[2] for line in result.outlines if line.startswith("required gate not run: ")]
    not_asked_for = ("same_length_isolation_zero", "serial_vs_reference_le_0p02")  # measured; without --reference
    others = [gate for name, gate in gates().items() if name not in not_asked_for]
    assert missing == [gate.name for gate in others if gate.asked_by is None and gate.mode is None]
    assert {gate.asked_by for gate in others} == {None, "compare", "baseline", "scores", "power"}
