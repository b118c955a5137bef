"""A verdict once given stays, whoever runs the test again: in matrix.json, report, JUnit and exit status alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from inner_project import REGRESSION, SMALL, VERDICTS, Project, without

#: A gate whose first measurement comes to something else than all further ones, whichever process makes it.
ONCE = (
    VERDICTS
    + """
    import os
    from pathlib import Path

    def is_first():
        try:
            os.close(os.open(Path(__file__).with_name("first"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def broken(gate):
        raise UsageError("cannot read the file")

    {mark}
    @pytest.mark.multiitem_gate("content_isolation")
    def test_once(multiitem_gate):
        if is_first():
            {first}
        {then}
"""
)
FIRST = {
    "FAIL": 'multiitem_gate.fail("a leak")',
    "ERROR": "multiitem_gate.check(broken)",
    "INCONCLUSIVE": "multiitem_gate.check(lambda gate: Measurement(TARGET, None, doubt='too few'))",
}
PASSES = "multiitem_gate.check(lambda gate: Measurement(TARGET, None, Evidence(), holds='it holds'))"
NO_MARK = "@pytest.mark.usefixtures()"
AGAIN = {
    "rerunfailures": ("rerunfailures", "", ["--reruns=2"]),
    "rerunfailures, flaky": ("rerunfailures", "@pytest.mark.flaky(reruns=2)", []),
    "retry": ("pytest-retry", "", ["--retries=2"]),
    "retry, flaky": ("pytest-retry", "@pytest.mark.flaky(retries=2)", ["--retries=0"]),
    "repeat": ("repeat", "", ["--count=3"]),
    "each": ("", "", ["--dist=each", "--tx=2*popen"]),
}
#: Those that need no process of their own.
CHEAP = ("rerunfailures", "repeat")


def use(monkeypatch: pytest.MonkeyPatch, plugin: str) -> None:
    """Let the inner runs load one of the plugins that run tests again."""
    given = without("hypothesispytest", "asyncio", "anyio", "pytest_cov", "timeout")
    monkeypatch.setenv("PYTEST_ADDOPTS", given.replace(f"-p no:{plugin}", "") if plugin else given)


def agreed(project: Project, result: pytest.RunResult, verdict: str) -> None:
    """Whether everything that a run says of its one gate says this."""
    said = "\n".join(result.outlines)
    assert result.ret == project.matrix["exit_status"] == 1, said
    ran = [r for r in project.matrix["gates"] if r["reason"] != "deselected on the command line"]
    assert verdict in {r["verdict"] for r in ran}
    assert project.matrix["summary"][verdict] >= 1
    assert f"**{verdict}** `content_isolation`" in project.report
    assert re.search(rf"^{verdict} content_isolation: ", said, re.MULTILINE)
    cases = [*ElementTree.parse(project.path / "junit.xml").iter("testcase")]
    tags = {child.tag for case in cases for child in case}
    assert ("error" if verdict == "ERROR" else "failure") in tags
    told = {p.attrib["value"] for case in cases for p in case.iter("property") if p.attrib["name"].endswith("_verdict")}
    assert verdict in told


@pytest.mark.parametrize(
    ("again", "verdict"),
    [*((again, "FAIL") for again in AGAIN), *((again, each) for again in CHEAP for each in ("ERROR", "INCONCLUSIVE"))],
)
def test_the_worst_verdict_stays(project: Project, monkeypatch: pytest.MonkeyPatch, again: str, verdict: str) -> None:
    plugin, mark, arguments = AGAIN[again]
    use(monkeypatch, plugin)
    project.write("test_it.py", ONCE.format(mark=mark or NO_MARK, first=FIRST[verdict], then=PASSES))
    agreed(project, project.run("-k", "once", "--junitxml=junit.xml", *arguments), verdict)
    assert (project.path / "first").exists()


@pytest.mark.parametrize("then", ["pytest.skip('not again')", "multiitem_gate.not_run('not again')", "pass"])
@pytest.mark.parametrize("again", ["rerunfailures", "retry"])
def test_a_second_run_that_measures_nothing_changes_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, again: str, then: str
) -> None:
    plugin, _, arguments = AGAIN[again]
    use(monkeypatch, plugin)
    project.write("test_it.py", ONCE.format(mark=NO_MARK, first=FIRST["FAIL"], then=then))
    agreed(project, project.run("-k", "once", "--junitxml=junit.xml", *arguments), "FAIL")


@pytest.mark.parametrize("again", AGAIN)
def test_what_passes_each_time_passes(project: Project, monkeypatch: pytest.MonkeyPatch, again: str) -> None:
    plugin, mark, arguments = AGAIN[again]
    use(monkeypatch, plugin)
    project.write("test_it.py", ONCE.format(mark=mark or NO_MARK, first=PASSES, then=PASSES))
    result = project.run("-k", "once", "--junitxml=junit.xml", *arguments)
    assert result.ret == project.matrix["exit_status"] == 0, "\n".join(result.outlines)
    assert "FAIL" not in project.matrix["summary"] or project.matrix["summary"]["FAIL"] == 0


@pytest.mark.parametrize("again", ["rerunfailures", "retry", "repeat", "each"])
def test_one_wrong_answer_in_a_servers_life(
    project: Project, faults: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    plugin, _, arguments = AGAIN[again]
    use(monkeypatch, plugin)
    faults("multi:once=4")
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, "-k", "content_isolation", "--junitxml=junit.xml", *arguments)
    agreed(project, result, "FAIL")
