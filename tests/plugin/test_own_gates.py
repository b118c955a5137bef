"""A project's own gates: its tests assert their limits, and what has no test is measured by the suite."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from inner_project import SMALL, Project

#: Gates that measure what their name says, without a server; and those that measure one.
CONFTEST = """
    import types

    from fake_engine import pytest_multiitem_engines
    from pytest_multiitem.adapters.base import Profile
    from pytest_multiitem.gates.gate import Gate, Measurement
    from pytest_multiitem.results.records import Evidence

    TARGET = types.SimpleNamespace(
        engine="fake", model="hash-model", dtype="float32", profile=Profile("serial", "pytorch")
    )

    def stated(name, relation, limit, value, floor=0.0, **more):
        evidence = Evidence(noise_floor=floor, leak_visibility=0.5, score_spread=0.5)
        measurement = Measurement(TARGET, value, evidence, **more)
        return Gate(name, "a stated value", relation, limit, measure=lambda subject: measurement, needs=("serial",))

    def replayed(subject):
        case = subject.cases(subject.multi)[0]
        apart = abs(subject.multi.score(case) - subject.multi.score(case)).max()
        return Measurement(subject.multi, float(apart))

    def unlike(subject):
        case = subject.cases(subject.serial)[0]
        apart = abs(subject.multi.score(case) - subject.serial.score(case)).max()
        return Measurement(subject.multi, float(apart))

    def answered(subject):
        subject.serial.score(subject.cases(subject.serial)[0])
        return Measurement(subject.serial, None, holds="it answers")

    STATED = [
        stated("small_zero", "==", 0.0, 0.0),
        stated("large_zero", "==", 0.0, 0.25),
        stated("small_le_0p02", "<=", 0.02, 0.01),
        stated("noisy_le_0p02", "<=", 0.02, 0.01, floor=0.03),
        stated("fast_ge_3x", ">=", 3.0, 4.0, interval=(3.5, 4.5), samples={"timed_runs": 5}),
        stated("true_holds", "holds", None, None, holds="it does"),
        stated("wrong_holds", "holds", None, None, problem="it does not"),
    ]
    MEASURED = [
        Gate("replays_zero", "what two answers differ by", "==", 0.0, measure=replayed, needs=("multi",)),
        Gate("unlike_zero", "how far packed is from serial", "==", 0.0, measure=unlike, needs=("multi", "serial")),
        Gate("answers_holds", "whether it answers", "holds", None, measure=answered, needs=("serial",)),
    ]

    def pytest_multiitem_gates():
        return GATES
"""
HEAD = "import pytest\n\ngate = pytest.mark.multiitem_gate\n"


def test_an_assertion_ends_its_test_by_the_verdict(project: Project) -> None:
    project.write("conftest.py", f"{CONFTEST}\n    GATES = STATED\n")
    tests = {
        "small_zero": ("measured(backend='jax') == 0.0", "PASS"),
        "large_zero": ("measured(backend='jax') == 0.0", "FAIL"),
        "small_le_0p02": ("measured(backend='jax') <= 0.02", "PASS"),
        "noisy_le_0p02": ("measured(backend='jax') <= 0.02", "INCONCLUSIVE"),
        "fast_ge_3x": ("measured(backend='jax') >= 3.0", "PASS"),
        "true_holds": ("holds(backend='jax')", "PASS"),
        "wrong_holds": ("holds(backend='jax')", "FAIL"),
    }
    project.write("test_it.py", HEAD + "\n".join(
        f"@gate('{name}')\ndef test_{name}(multiitem_gate):\n    assert multiitem_gate.{asserted}\n"
        for name, (asserted, _) in tests.items()
    ))  # fmt: skip
    result = project.run()
    result.assert_outcomes(passed=4, failed=3)
    assert project.verdicts == {name: [verdict] for name, (_, verdict) in tests.items()}
    result.stdout.fnmatch_lines(
        ["FAIL: large_zero: 0.25 exceeds the limit 0", "  value: 0.25", "  noise_floor: 0.0", "  model: hash-model"]
    )
    assert project.gate("small_zero")["role"] == "serial"
    project.run("--allow-inconclusive").assert_outcomes(passed=4, failed=2, skipped=1)


@pytest.mark.parametrize(
    ("gate", "asserted", "said"),
    [
        ("small_le_0p02", "assert measured <= 0.05", "asserts that the value <= 0.05*own criterion is <= 0.02"),
        ("small_le_0p02", "assert measured <= 0.01", "asserts that the value <= 0.01*own criterion is <= 0.02"),
        ("small_le_0p02", "assert measured >= 0.02", "asserts that the value >= 0.02*own criterion is <= 0.02"),
        ("small_le_0p02", "assert measured", "asserts that the value holds*own criterion is <= 0.02"),
        ("small_zero", "assert measured <= 0.0", "asserts that the value <= 0.0*own criterion is == 0"),
        ("fast_ge_3x", "assert measured >= 2.5", "asserts that the value >= 2.5*own criterion is >= 3"),
        ("true_holds", "assert measured == 0.0", "asserts that the value == 0.0*own criterion is holds"),
        ("small_zero", "measured", "the test ended without a verdict"),
        ("small_zero", "assert measured is not None", "the test ended without a verdict"),
    ],
)
def test_another_assertion_than_the_gate_s_own_is_an_error(
    project: Project, gate: str, asserted: str, said: str
) -> None:
    project.write("conftest.py", f"{CONFTEST}\n    GATES = STATED\n")
    project.write("test_it.py", f"{HEAD}\n@gate('{gate}')\ndef test_it(multiitem_gate):\n"
                  f"    measured = multiitem_gate.measured(backend='jax')\n    {asserted}\n")  # fmt: skip
    result = project.run()
    result.assert_outcomes(errors=1)
    record = project.gate(gate)
    assert record["verdict"] == "ERROR"
    result.stdout.fnmatch_lines([f"ERROR {gate}: *{said}*"])


RETRYING = """
    from _pytest.runner import runtestprotocol

    ANSWERS = iter([0.25, 0.0, 0.0])

    def once_wrong(subject):
        return Measurement(TARGET, next(ANSWERS), Evidence(noise_floor=0.0, leak_visibility=0.5, score_spread=0.5))

    GATES = [Gate("once_zero", "wrong once", "==", 0.0, measure=once_wrong, needs=("serial",))]

    def pytest_runtest_protocol(item, nextitem):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for attempt in range(3):  # as plugins do that run a failed test again
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            if all(report.passed for report in reports) or attempt == 2:
                break
            item._initrequest()
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True
"""


def test_a_test_that_is_run_again_keeps_its_worst_verdict(project: Project) -> None:
    project.write("conftest.py", f"{CONFTEST}{RETRYING}")
    project.write("test_it.py", f"{HEAD}\n@gate('once_zero')\ndef test_it(multiitem_gate):\n"
                  "    assert multiitem_gate.measured(backend='jax') == 0.0\n")  # fmt: skip
    result = project.run("--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    assert result.ret == 1
    record = project.gate("once_zero")
    assert (record["verdict"], record["value"]) == ("FAIL", 0.25)
    assert "this verdict stays" in record["reason"]
    assert 'failures="1"' in (project.path / "junit.xml").read_text(encoding="utf-8")


def test_a_value_that_is_compared_twice_has_one_verdict(project: Project) -> None:
    project.write("conftest.py", f"{CONFTEST}\n    GATES = STATED\n")
    project.write("test_it.py", f"{HEAD}\n@gate('small_zero')\ndef test_it(multiitem_gate):\n"
                  "    measured = multiitem_gate.measured(backend='jax')\n"
                  "    assert measured == 0.0 and 0.0 == measured and measured.passes()\n")  # fmt: skip
    project.run().assert_outcomes(passed=1)
    assert project.verdicts == {"small_zero": ["PASS"]}


def test_what_has_no_measure_and_what_names_no_server_is_said(project: Project) -> None:
    project.write("conftest.py", f"{CONFTEST}\n    GATES = STATED\n")
    project.write("test_it.py", f"{HEAD}\n@gate('small_zero')\ndef test_it(multiitem_gate):\n"
                  "    assert multiitem_gate.measured() == 0.0\n"
                  "@gate('comparison_measured')\ndef test_other(multiitem_gate):\n"
                  "    assert multiitem_gate.holds(backend='jax')\n")  # fmt: skip
    result = project.run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["FAIL small_zero: *name a server to measure*", "FAIL comparison_measured: *states no way to measure it*"]
    )


def test_a_gate_without_a_test_is_measured_on_every_server_that_it_needs(project: Project) -> None:
    project.write("conftest.py", f"{CONFTEST}\n    GATES = MEASURED\n")
    project.write("test_further.py", "from pytest_multiitem.suites.regression.test_further_gates import *\n")
    result = project.run("--engine=fake", "--backend=pytorch", "--mask-impl=dense,segment", "-v")
    result.assert_outcomes(passed=3, failed=2)
    assert project.verdicts == {
        "replays_zero": ["PASS"] * 2, "unlike_zero": ["FAIL"] * 2, "answers_holds": ["PASS"]
    }  # fmt: skip
    result.stdout.fnmatch_lines(
        ["test_further.py::TestFurtherGatesOfPackedServers::test_it_passes?replays_zero-pytorch-dense? PASSED*",
         "test_further.py::TestFurtherGates::test_it_passes?answers_holds-pytorch? PASSED*"]
    )  # fmt: skip


def test_where_every_gate_has_a_test_nothing_more_is_collected(project: Project) -> None:
    project.write("conftest.py", f"{CONFTEST}\n    GATES = []\n")
    project.write("test_further.py", "from pytest_multiitem.suites.regression.test_further_gates import *\n")
    result = project.run(*SMALL)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not project.runs


def test_the_guide_s_gate_is_measured_as_it_stands(project: Project) -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/add-a-gate.md").read_text(encoding="utf-8")
    gate, test = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    project.write("my_gate.py", gate)
    project.write("test_mine.py", test)
    project.write("test_further.py", "from pytest_multiitem.suites.regression.test_further_gates import *\n")
    project.pytester.syspathinsert()
    project.run("-p", "my_gate", *SMALL).assert_outcomes(passed=2)
    assert project.verdicts == {"rows_sum_to_one": ["PASS", "PASS"]}
