"""A gate is added by one file, or by `extend`; nothing else is edited, and nothing else fails."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from stub_targets import StubSubject, baseline, make_case, multi

import pytest_multiitem.gates as package
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates import registry
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.record import judged
from pytest_multiitem.power.columns import columns, not_measured
from pytest_multiitem.reports.power import short
from pytest_multiitem.results.records import Evidence, Verdict

ROOT = Path(__file__).resolve().parents[2]
NEW = '''
from pytest_multiitem.gates.gate import Gate, Measurement

def measure(subject):
    """Two scores of one request."""
    case = subject.cases(subject.multi)[0]
    apart = abs(subject.multi.score(case) - subject.multi.score(case)).max()
    return Measurement(subject.multi, float(apart))

MINE = Gate("mine_le_1", "how far two answers are apart", "<=", 1.0, measure=measure, needs=("multi",), short="mine")
GATES = (MINE,)
'''


@pytest.fixture
def new_file(tmp_path, monkeypatch):
    """A file beside the package's own gates."""
    (tmp_path / "a_gate_of_mine.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(registry.REGISTRY, "_shipped", None)
    yield tmp_path
    sys.modules.pop(f"{package.__name__}.a_gate_of_mine", None)


def test_a_new_file_is_a_gate_a_column_and_a_row(new_file):
    gate = registry.gates()["mine_le_1"]
    assert list(registry.gates())[-1] == "mine_le_1", "a gate that states no place comes last"
    assert columns()[-1].name == "mine_le_1" and "mine_le_1" not in not_measured()
    assert columns()[-1].gate.judged_parts("jax") == {"multi"} and short("mine_le_1") == "mine"
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert "| `mine_le_1` | how far two answers are apart | <= 1 |  |" in generate["gates_table"]()
    subject = StubSubject([make_case(3)], multi=multi(), serial=baseline())
    assert judged(gate, lambda gate: gate.measure(subject)).verdict is Verdict.PASS


def test_a_new_file_makes_no_other_test_fail(new_file):
    """The tests that once listed all gates."""
    tests = (
        "test_measurement.py::test_the_gates_of_the_contract", "test_docs.py::test_gates_are_what_the_code_has",
        "test_docs.py::test_every_gate_is_explained", "test_power.py::test_every_gate_is_a_column_or_says_why_not",
        "test_power.py::test_columns_and_other_gates_stand_in_the_order_of_the_published_matrix",
    )  # fmt: skip
    program = (
        f"import sys, pytest, pytest_multiitem.gates as package; package.__path__.append({str(new_file)!r}); "
        "from pytest_multiitem.gates.registry import gates; assert 'mine_le_1' in gates(); sys.exit(pytest.main())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "-q", "-p", "no:cacheprovider", *(f"tests/unit/{test}" for test in tests)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout


def test_gates_are_added_for_a_while():
    before = registry.gates()
    first, second = (Gate(name, "something", "holds", None, order=0) for name in ("first_holds", "second_holds"))
    undo = registry.REGISTRY.extend([second, first])
    assert list(registry.gates())[:2] == ["first_holds", "second_holds"]
    assert not_measured()["first_holds"] == "it states no way to measure it"
    undo()
    assert registry.gates() == before


@pytest.mark.parametrize("name", ["same_length_isolation_zero", "twice_holds"])
def test_a_name_is_given_once(name):
    before = registry.gates()
    again = [Gate("twice_holds", "something", "holds", None), Gate(name, "something else", "holds", None)]
    with pytest.raises(UsageError, match=f"two gates are called {name}"):
        registry.REGISTRY.extend(again)
    assert registry.gates() == before


def test_a_gate_judges_what_it_needs_of_its_own_backend():
    gate = Gate("mine_le_1", "something", "<=", 1.0, needs=("extend", "serial", "opposite.multi", "reference"))
    assert gate.judged_parts("jax") == {"extend", "serial"}
    by_backend = Gate("mine_le_1", "something", "<=", 1.0, needs=("multi", "serial"), judges=lambda backend: (backend,))
    assert by_backend.judged_parts("serial") == {"serial"}


def test_what_a_pass_rests_on_is_stated_in_words_or_is_the_evidence():
    fields = frozenset({"score_spread", "noise_floor"})
    assert Gate("a", "b", "<=", 1.0, evidence=fields).pass_needs == "noise floor, score spread"
    assert Gate("a", "b", "<=", 1.0, evidence=fields, rests_on="luck").pass_needs == "luck"
    assert (Gate("a", "b", "<=", 1e-4).bound, Gate("a", "b", "holds", None).bound) == ("<= 0.0001", "holds")


def test_a_subject_with_another_server_in_the_place_of_the_packed_one():
    first, other, cases = multi(), multi(), [make_case(3)]
    subject = StubSubject([make_case(4)], multi=first, serial=baseline())
    instead = subject.instead(other, cases)
    assert (subject.multi, instead.multi) == (first, other) and instead.serial is subject.serial
    assert instead.cases(other) is cases is not subject.cases(first)
    assert subject.instead(other).cases(other) is subject.cases(first)


def test_a_measurement_that_is_judged_already_is_left_as_it_is():
    gate = Gate("mine_le_1", "something", "<=", 1.0)
    record = judged(gate, lambda gate: Measurement(multi(), 0.5, Evidence(noise_floor=0.0)))
    record.verdict = Verdict.NOT_RUN
    assert judged(gate, lambda gate: record) is record and record.verdict is Verdict.NOT_RUN
