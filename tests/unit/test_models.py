"""A matrix of models without servers: its file, what a cell comes to, what is told of it, and what is not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_multiitem.errors import UsageError
from pytest_multiitem.execution.cells import Cell, Place
from pytest_multiitem.models.file import QUICK, Model, Where, read_models
from pytest_multiitem.models.measuring import Combination, ModelsPlace, difference
from pytest_multiitem.models.records import Expected, ModelCell, ModelMatrix, Speed
from pytest_multiitem.models.runner import plan
from pytest_multiitem.models.summary import state_of, summarise, verdict
from pytest_multiitem.reports.models import models_lines, render, table
from pytest_multiitem.results.published import PUBLISHED_THROUGHPUT
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.results.store import write_record
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.validation.validate import examine

SAME, EQUIV, CONTROL = QUICK[0], QUICK[2], QUICK[5]
ISSUE = "https://example.org/issues/1"


def settings_of(**given: str) -> Any:
    return resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})


def read(tmp_path: Path, text: str, name: str = "models.toml") -> Any:
    (tmp_path / "tiny").mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    return read_models(tmp_path / name)


# -- the file ------------------------------------------------------------------------------------


def test_a_file_names_models_and_what_is_known_of_them(tmp_path: Path) -> None:
    file = read(tmp_path, f"""
        settings = {{ labels = "1,2", bench_timed_runs = 3 }}
        [[models]]
        name = "tiny"
        model = "tiny"
        [[models.incompatible]]
        engine = "sgl-jax"
        version = "<0.5"
        reason = "the fused KV layout does not fit its heads"
        [[models.expected_failures]]
        gate = "{EQUIV}"
        backend = "jax"
        issue = "{ISSUE}"
        [[models]]
        name = "hub"
        model = "Qwen/Qwen3-0.6B"
    """)  # fmt: skip
    tiny, hub = file.models
    assert tiny.model == str((tmp_path / "tiny").resolve()) and hub.model == "Qwen/Qwen3-0.6B"
    assert file.gates == QUICK and tiny.incompatible[0].holds("sgl-jax", "0.4.2", "jax", "dense")
    assert not tiny.incompatible[0].holds("sgl-jax", "0.5", "jax", "dense")
    assert not tiny.incompatible[0].holds("embedded", "0.4.2", "jax", "dense")


def test_json_says_the_same(tmp_path: Path) -> None:
    content = {"models": [{"name": "tiny", "model": "tiny", "masks": ["dense"]}]}
    assert read(tmp_path, json.dumps(content), "m.json").models[0].masks == ("dense",)


def test_where_a_version_is_not_known_nothing_is_known_of_it() -> None:
    assert Where().holds("embedded", None, "jax", "dense")
    for version in (None, "a fork"):
        assert not Where(version=">=0").holds("embedded", version, "jax", "dense")


HEAD = '[[models]]\nname = "tiny"\nmodel = "tiny"\n'
KNOWN = f"{HEAD}[[models.incompatible]]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models = []", "models is empty; expected at least one"),
        ("", "Object missing required field `models`"),
        ("[[models]]\nname = 'a'", "Object missing required field `model` (at `models[0]`)"),
        (f"{HEAD}maks = ['dense']", "Object contains unknown field `maks` (at `models[0]`)"),
        (f"{HEAD}backends = 'jax'", "Expected `array`, got `str` (at `models[0].backends`)"),
        (f"{HEAD}backends = ['jaxx']", "models[0].backends: 'jaxx' is not known; expected pytorch, jax (did you"),
        (f"{HEAD}engine = 'vlm'", "models[0].engine: 'vlm' is not known; expected"),
        (f"gates = ['x']\n{HEAD}", "gates: 'x' is not known"),
        (f"{HEAD}{HEAD}", "models[1].name: 'tiny' stands there twice"),
        (f"{HEAD}settings = {{ lables = 1 }}", "models[0].settings: no setting is called 'lables' (did you mean"),
        (f"{HEAD}settings = {{ seed = -1 }}", "models[0].settings.seed: -1 is not valid: expected a whole number"),
        ("[[models]]\nname = 'a'\nmodel = 'no such'", "models[0].model: 'no such' is no directory beside the file"),
        (f"{KNOWN}version = '5..'\nreason = 'r'", "models[0].incompatible[0].version: '5..' is"),
        (f"{KNOWN}mask = 'dens'\nreason = 'r'", "models[0].incompatible[0].mask: 'dens' is not"),
        (f"{KNOWN}mask = 'dense'", "missing required field `reason` (at `models[0].incompatible"),
        (
            f"{HEAD}[[models.expected_failures]]\ngate = '{EQUIV}'\nissue = 'later'",
            "models[0].expected_failures[0].issue: 'later' is no link",
        ),
        (
            f"{HEAD}[[models.expected_failures]]\ngate = 'speedup_n32_ge_3x'\nissue = '{ISSUE}'",
            "models[0].expected_failures[0].gate: 'speedup_n32_ge_3x' is not known",
        ),
        ("[[models]", "not valid TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(f"models file {tmp_path}/models.toml: ") and said in str(raised.value)
    assert "\n" not in str(raised.value)


# -- the plan ------------------------------------------------------------------------------------


def test_every_model_on_every_backend_with_every_mask(tmp_path: Path) -> None:
    file = read(tmp_path, f"settings = {{ seed = 5 }}\n{HEAD}[models.settings]\nseed = 6\n")
    planned = plan(file, settings_of())
    assert [each.key for each in planned] == [
        "tiny pytorch dense", "tiny pytorch segment", "tiny jax dense", "tiny jax segment",
    ]  # fmt: skip
    assert {each.settings.seed for each in planned} == {6}, "a model's own goes before that of all"
    assert {each.settings.seed for each in plan(file, settings_of(seed="7"))} == {7}, "the user's before both"
    assert [each.key for each in plan(file, settings_of(backend="jax", mask_impl="dense"))] == ["tiny jax dense"]


def test_an_engine_has_its_own_backends_and_masks(tmp_path: Path) -> None:
    file = read(tmp_path, f'{HEAD}engine = "sgl-jax"\n')
    assert {each.backend for each in plan(file, settings_of())} == {"jax"}


@pytest.mark.parametrize("given", [{"model": "x"}, {"multi_url": "http://127.0.0.1:1"}])
def test_the_file_names_the_models(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="the file names the models"):
        plan(read(tmp_path, HEAD), settings_of(**given))


# -- what a cell comes to ------------------------------------------------------------------------


def record(gate: str, said: str, value: float | None = 0.5) -> GateRecord:
    return GateRecord(gate=gate, verdict=Verdict(said), reason=f"because {said}", relation="<=", value=value)


EXPECTED = [Expected(gate=EQUIV, issue=ISSUE)]


@pytest.mark.parametrize(
    ("verdicts", "expected", "state"),
    [
        ({SAME: "PASS", EQUIV: "PASS"}, [], "pass"),
        ({SAME: "PASS", EQUIV: "FAIL"}, [], "fail"),
        ({SAME: "PASS", EQUIV: "FAIL"}, EXPECTED, "expected_failure"),
        ({SAME: "PASS", EQUIV: "PASS"}, EXPECTED, "now_passes"),
        ({SAME: "FAIL", EQUIV: "FAIL"}, EXPECTED, "fail"),
        ({SAME: "PASS", EQUIV: "ERROR"}, EXPECTED, "error"),
        ({SAME: "PASS", EQUIV: "INCONCLUSIVE"}, EXPECTED, "inconclusive"),
        ({SAME: "PASS", EQUIV: "NOT_RUN"}, EXPECTED, "pass"),
        ({SAME: "NOT_RUN", EQUIV: "NOT_RUN"}, [], "not_run"),
        ({SAME: "INCONCLUSIVE", EQUIV: "PASS"}, EXPECTED, "now_passes"),
    ],
)
def test_the_worst_gate_is_what_a_cell_comes_to(
    verdicts: dict[str, str], expected: list[Expected], state: str
) -> None:  # fmt: skip
    assert state_of([record(gate, said) for gate, said in verdicts.items()], expected) == state


def cell(model: str, said: str = "PASS", **more: Any) -> ModelCell:
    records = [record(SAME, "PASS", 0.0), record(EQUIV, said)]
    expected = more.pop("expected", [])
    known: dict[str, Any] = {
        "gates": records,
        "expected": expected,
        "state": state_of(records, expected),
        "speed": Speed(items_per_sec=64.0, num_items=32, query_tokens=8, item_tokens=4, seconds=[0.4, 0.5, 0.6]),
    }
    return ModelCell(model=model, source="x", engine="embedded", backend="jax", mask="dense", **known | more)


def not_run(model: str, **more: Any) -> ModelCell:
    return cell(model, gates=[], speed=None, **{"state": "not_run", "reason": "no hub", **more})


def matrix(*cells: ModelCell) -> ModelMatrix:
    made = ModelMatrix(
        run_id="r", started_at_utc="t", gates=[SAME, EQUIV], planned=[f"{c.model} jax dense" for c in cells],
        cells=list(cells),
    )  # fmt: skip
    summarise(made)
    return made


def status(*cells: ModelCell, required: tuple[str, ...] = (), **allowed: bool) -> tuple[int, list[str]]:
    given = {"allow_inconclusive": False, "allow_now_passes": False, **allowed}
    return verdict(matrix(*cells), required=required, **given)


def test_what_is_expected_does_not_fail_a_run_and_what_passes_now_does() -> None:
    assert status(cell("a"), cell("b", "FAIL", expected=EXPECTED), not_run("c")) == (0, [])
    code, (problem,) = status(cell("a", "PASS", expected=EXPECTED))
    assert code == 1 and problem == (
        f"a jax dense: {EQUIV} NOW PASSES, though a failure is expected ({ISSUE}): remove it"
    )  # fmt: skip
    assert status(cell("a", "PASS", expected=EXPECTED), allow_now_passes=True) == (0, [])


def test_a_failure_an_error_and_nothing_at_all_fail_a_run() -> None:
    assert status(cell("a", "FAIL")) == (1, [f"a jax dense: {EQUIV} FAIL: because FAIL"])
    assert status(cell("a", "INCONCLUSIVE"))[0] == 1
    assert status(cell("a", "INCONCLUSIVE"), allow_inconclusive=True) == (0, [])
    error = not_run("b", state="error", reason="n1: gone; then n2: gone")
    assert status(cell("a"), error) == (1, ["b jax dense is ERROR: n1: gone; then n2: gone"])
    assert status(not_run("a")) == (1, ["nothing was measured"])
    incomplete = matrix(cell("a"))
    incomplete.planned.append("b jax dense")
    summarise(incomplete)
    assert verdict(incomplete, allow_inconclusive=False, allow_now_passes=False, required=())[1] == [
        "the matrix is not complete"
    ]


def test_a_required_gate_that_was_not_run_fails_but_not_where_the_file_says_so() -> None:
    assert status(cell("a"), not_run("b"), required=(EQUIV,))[1] == ["b jax dense: required, but not run: no hub"]
    assert status(cell("a"), not_run("b", incompatible=True), required=(EQUIV,)) == (0, [])
    assert status(cell("a", "NOT_RUN"), required=(EQUIV,)) == (1, [f"a jax dense: required, but not run: {EQUIV}"])


def test_two_measurements_of_a_cell_are_compared_by_what_they_say() -> None:
    assert difference(cell("a"), cell("a")) is None
    assert difference(cell("a"), cell("a", "FAIL")) == f"{EQUIV} is PASS and FAIL"
    assert difference(not_run("a"), cell("a")) == "not_run and pass"


# -- what is told --------------------------------------------------------------------------------


def test_a_page_and_a_terminal_show_the_same() -> None:
    made = matrix(
        cell("a"), cell("b", "FAIL", expected=EXPECTED), cell("c", "PASS", expected=EXPECTED),
        not_run("d", incompatible=True, reason="known incompatibility: heads"), cell("e", "FAIL"),
    )  # fmt: skip
    _, rows = table(made)
    assert [row[4] for row in rows] == ["passes", "fails as expected", "NOW PASSES", "incompatible", "FAIL"]
    assert rows[0][5:] == ["PASS 0", "PASS 0.50", "64.0"] and rows[3][5:] == ["-", "-", "-"]
    lines, page = "\n".join(models_lines(made)), render(made)
    for text in ("NOW PASSES", "known incompatibility: heads", "508.30 to 518.36", "64.00", ISSUE):
        assert text in lines and text in page.replace("\\", "")
    assert all(each.hardware in lines for each in PUBLISHED_THROUGHPUT)
    assert "5 of 5 combinations: 1 FAIL, 1 NOW PASSES, 1 fails as expected, 1 not run, 1 passes" in lines


def changed(at: str, value: Any) -> ModelMatrix:
    made = matrix(cell("a"), not_run("b"))
    first, second = made.cells
    if at == "state":
        first.state = value
    elif at == "verdict":
        first.gates[1].verdict = value
    elif at == "gates":
        first.gates.pop()
    elif at == "reason":
        second.reason = value
    elif at == "not run":
        second.state = value
    elif at == "speed":
        assert first.speed is not None
        first.speed.items_per_sec = value
    elif at == "twice":
        made.cells.append(msgspec.structs.replace(first))
    else:
        setattr(made, at, value)
    return made


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ("state", "expected_failure", "state is expected_failure; its verdicts give pass"),
        ("verdict", Verdict.FAIL, "state is pass; its verdicts give fail"),
        ("gates", None, "it has verdicts of"),
        ("reason", None, "without a reason"),
        ("not run", "pass", "it is pass without a verdict"),
        ("speed", 65.0, "items_per_sec is 65; its runs give 64"),
        ("twice", None, "a jax dense stands there 2 times"),
        ("planned", ["a jax dense"], "b jax dense is not planned"),
        ("counts", {"pass": 2}, "counts is"),
        ("complete", False, "complete is False"),
    ],
)
def test_a_matrix_that_contradicts_itself_is_seen(tmp_path: Path, at: str, value: Any, said: str) -> None:
    write_record(tmp_path / "good.json", matrix(cell("a"), not_run("b")))
    good = examine(tmp_path / "good.json")
    assert good.problems == [] and good.summary == "2 of 2 cells: 1 not run, 1 pass"
    write_record(tmp_path / "bad.json", changed(at, value))
    assert any(said in problem for problem in examine(tmp_path / "bad.json").problems)


# -- a cell that is not here ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ({"model": "no-such-directory"}, {}, "is no directory"),
        ({"engine": "sglang"}, {"engine": "sglang"}, "name that environment's python: --engine-python PATH"),
        (
            {"incompatible": [{"mask": "dense", "version": ">=0.0.1", "reason": "heads", "issue": ISSUE}]},
            {},
            f"known incompatibility: heads ({ISSUE})",
        ),
    ],
)
def test_what_is_not_here_is_not_run_with_the_reason(
    tmp_path: Path, model: dict[str, Any], given: dict[str, str], said: str
) -> None:  # fmt: skip
    known = msgspec.convert({"name": "m", "model": str(tmp_path), **model}, Model)
    settings = settings_of(backend="pytorch", mask_impl="dense", **given)
    place = ModelsPlace(Place(tmp_path, tmp_path))
    made = place.measure(Cell("m", Combination(known, settings, QUICK)))
    place.close()
    assert made.state == "not_run" and not made.gates and said in (made.reason or "")
    assert made.incompatible == ("known" in said)
