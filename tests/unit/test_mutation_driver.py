"""The driver of mutation testing: what it accepts, when it refuses to be content, and that its page is up to date."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
driver = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "mutation.py")))
Mutant = driver.Mutant

FEWER = Mutant("gates.judge.judge", ("if blocks < 5:",), ("if blocks <= 5:",))
TEXT = """
# a comment
= it cannot be told apart
gates.judge.judge
  - if blocks < 5:
  + if blocks <= 5:

gates.other.measure
- a,
- b,
= another reason
gates.other.measure
- a,
+ None,
"""


def test_a_reason_holds_until_the_next_one():
    assert driver.accepted(TEXT) == {
        FEWER: "it cannot be told apart",
        Mutant("gates.other.measure", ("a,", "b,"), ()): "it cannot be told apart",
        Mutant("gates.other.measure", ("a,",), ("None,",)): "another reason",
    }


def test_a_mutant_without_a_reason_is_not_accepted():
    with pytest.raises(ValueError, match=r"no reason stands before gates\.judge\.judge"):
        driver.accepted("\n".join(FEWER.lines()))


def test_what_is_printed_can_be_accepted():
    assert driver.accepted("\n".join(["= why", *FEWER.lines()])) == {FEWER: "why"}


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("pytest_multiitem.gates.judge.x_judge__mutmut_7", "gates.judge.judge"),
        ("pytest_multiitem.gates.isolation.x__saturated__mutmut_12", "gates.isolation._saturated"),
        ("pytest_multiitem.adapters.attestation.xǁExecutedǁsince__mutmut_4", "adapters.attestation.Executed.since"),
    ],
)
def test_a_mutant_is_named_by_its_function_and_its_lines(name, function):
    diff = "--- a\n+++ a\n@@ -1,2 +1,2 @@\n def judge():\n-    if blocks < 5:\n+    if blocks <= 5:\n"
    assert driver.mutant_of(name, diff) == Mutant(function, FEWER.removed, FEWER.added)


def test_the_short_form_leaves_out_what_is_alike():
    line = "for mutation, scores in zip(mutated, answers, strict={}):"
    was, becomes = Mutant("f", (line.format(True),), (line.format(False),)).short()
    assert "strict=True" in was and "strict=False" in becomes and "mutated" not in was
    assert Mutant("f", ("details=details,",), ()).short()[1] == ""


ALL = tuple(pattern.replace("*", "x_function__mutmut_1") for pattern in driver.SCOPE)


@pytest.mark.parametrize(
    ("names", "status", "numbers", "said"),
    [
        (ALL, "killed", [True, False], None),
        ((), "killed", [True], "there is no mutant"),
        (ALL[:-1], "killed", [True], r"there is no mutant pytest_multiitem\.transport\.client\.x_read_scores__\*"),
        (ALL[1:], "killed", [True], f"there is no mutant {re.escape(driver.SCOPE[0])}"),
        (ALL, "not checked", [True], f"{len(ALL)} mutants were not run"),
        (ALL, "survived", [True], "no mutant was killed"),
        (ALL, "no tests", [True], "no mutant was killed"),
        (ALL, "killed", [False], "no change of a number"),
        (ALL, "killed", [], "no change of a number"),
    ],
)
def test_a_run_of_no_mutants_tells_nothing(names, status, numbers, said):
    found = driver.tells_nothing(dict.fromkeys(names, status), numbers)
    assert found is None if said is None else re.search(said, found or "")


def test_every_module_of_gates_is_mutated_or_left_out_by_name():
    """A new gate is, without an edit elsewhere."""
    gates = ROOT / "pytest_multiitem" / "gates"
    mutated = {path.stem for path in driver.mutated_files() if path.parent == gates}
    left_out = {Path(name).stem for name in driver.CHOSEN["do_not_mutate"]}
    assert left_out == {"metamorphic", "relation_judge", "segment", "subject", "traffic"}
    assert {path.stem for path in gates.glob("*.py")} == mutated | left_out
    counted = {pattern.split(".")[2] for pattern in driver.SCOPE if ".gates." in pattern}
    assert counted == mutated - {"__init__", "comparison", "golden", "power", "regression"}, (
        "without a function, no mutant"
    )


@pytest.mark.parametrize(("survivors", "status"), [([], 0), ([FEWER], 0), ([FEWER, Mutant("f", ("a",), ())], 1)])
def test_only_a_survivor_that_is_not_accepted_fails(survivors, status, capsys):
    assert driver.report(survivors, {FEWER: "why"}, "3 mutants") == status
    told = capsys.readouterr().out
    assert ("accepted, but noticed or gone: gates.judge.judge" in told) is (FEWER not in survivors)
    assert ("f\n- a\n" in told) is (status == 1)


SOURCE = """
LIMIT = 0.02
ZERO = 0.0
GATE = Gate(
    "name",
    limit=5,
)
NAME, FLAG = "5", True


@dataclass
class Record:
    runs: int = 3

    def method(self, default=7):
        return 9
"""


def test_numbers_outside_functions_are_made_larger_and_smaller():
    path = ROOT / "pytest_multiitem" / "gates" / "judge.py"
    found = [
        (mutant.function, mutant.added[0], changed)
        for number in driver.numbers_outside_functions(SOURCE)
        for mutant, changed in driver.changes(path, SOURCE, number)
    ]
    assert [entry[:2] for entry in found] == [
        ("gates.judge: LIMIT", "LIMIT = 0.03"),
        ("gates.judge: LIMIT", "LIMIT = 0.01"),
        ("gates.judge: ZERO", "ZERO = 1e-09"),
        ("gates.judge: GATE", "limit=6,"),
        ("gates.judge: GATE", "limit=4,"),
        ("gates.judge: Record", "runs: int = 4"),
        ("gates.judge: Record", "runs: int = 2"),
    ]
    assert found[0][2] == SOURCE.replace("0.02", "0.03")


def test_the_page_holds_the_accepted_survivors():
    page = (ROOT / "docs" / "explanation" / "mutation-testing.md").read_text(encoding="utf-8")
    known = driver.accepted((ROOT / "tests" / "mutation" / "accepted.txt").read_text(encoding="utf-8"))
    assert driver.table(known) in page, "run: python tools/mutation.py, then with --page"
