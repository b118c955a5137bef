"""Runs over time, and which of them may be pruned: never one that is going on, never what is no run."""

import fcntl
import hashlib
import json
import os
import time
from pathlib import Path

import answers
import msgspec
import pytest
from sample_matrix import gate_record, matrix

from pytest_multiitem.acceptance.derive import derive
from pytest_multiitem.reports.history import sparkline
from pytest_multiitem.results import history, pruning, store
from pytest_multiitem.results.records import Matrix, Place
from pytest_multiitem.validation.validate import examine

#: No process on Linux has a number as high.
DEAD = 99_999_999
OLD = time.time() - 10 * 24 * 3600


def run_name(number, process=DEAD):
    return f"202601{number:02d}-120000-000-{process}"


def make_run(results, number, *, verdict="PASS", value=3.5, process=DEAD, **more):
    made = matrix(gates=[gate_record(gate="speedup_n32_ge_3x", verdict=verdict, value=value, place=Place(label="jax"))])
    made.run_id, made.summary = run_name(number, process), {verdict: 1}
    for name, each in more.items():
        setattr(made, name, each)
    directory = results / made.run_id
    directory.mkdir(parents=True)
    (directory / "matrix.json").write_bytes(msgspec.json.encode(made))
    return directory


def make_other(results, kind, number, *files, process=DEAD):
    directory = results / kind / run_name(number, process)
    directory.mkdir(parents=True)
    for name in files:
        (directory / name).write_text("{}")
        os.utime(directory / name, (OLD, OLD))
    os.utime(directory, (OLD, OLD))
    return directory


def kept(results, keep=1):
    return {old.path.name: old.kept for old in pruning.plan(results, keep)}


# -- history -------------------------------------------------------------------------------------


def test_a_row_is_what_the_run_says(tmp_path):
    make_run(tmp_path, 1)
    make_run(tmp_path, 3, verdict="FAIL", value=2.0, exit_status=1)
    broken = make_run(tmp_path, 2)
    (broken / "matrix.json").write_text("{")
    (tmp_path / "baselines").mkdir()
    (tmp_path / "latest").symlink_to(run_name(3))
    found = history.history(tmp_path)
    assert [row.run_id for row in found.runs] == [run_name(1), run_name(2), run_name(3)]
    first, unreadable, last = found.runs
    assert first.exit_status == 0 and first.failed == [] and first.gates[0].value == 3.5 and first.problem is None
    assert unreadable.problem is not None and "matrix.json" in unreadable.problem and unreadable.gates == []
    assert last.failed == ["speedup_n32_ge_3x"] and last.exit_status == 1 and last.summary["FAIL"] == 1
    (points,) = history.series(found, "speedup_n32_ge_3x").values()
    assert [(row.run_id, point.value) for row, point in points] == [(run_name(1), 3.5), (run_name(3), 2.0)]
    assert [row.run_id for row in history.history(tmp_path, last=1).runs] == [run_name(3)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["runs"].reverse(), "runs: expected each once, the oldest first"),
        (lambda c: c["runs"][0]["summary"].update(PASS=2), "its summary is"),
        (lambda c: c["runs"][1]["failed"].clear(), "failed is []; its gates give ['speedup_n32_ge_3x']"),
        (lambda c: c["runs"][1]["gates"][0].update(verdict="PASS"), "its summary is"),
    ],
)
def test_a_history_that_contradicts_itself_is_not_valid(tmp_path, change, said):
    make_run(tmp_path / "r", 1)
    make_run(tmp_path / "r", 2, verdict="FAIL", exit_status=1)
    path = tmp_path / "h.json"
    path.write_bytes(msgspec.json.encode(history.history(tmp_path / "r")))
    assert examine(path).problems == []
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    assert any(said in problem for problem in examine(path).problems)


def test_the_command_shows_runs_and_gates(multiitem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = multiitem("history")
    assert status == 2 and "there is no run in multiitem-results" in err and len(err.splitlines()) == 1
    for number, value in enumerate((3.0, 4.0, 5.0), 1):
        make_run(tmp_path / "multiitem-results", number, value=value)
    status, out, _ = multiitem("history", "--output-json", "h.json", "--last", 2)
    assert status == 0 and run_name(1) not in out and run_name(3) in out and "1 PASS" in out
    assert examine(Path("h.json")).problems == []
    status, out, _ = multiitem("history", "--gate", "speedup_n32_ge_3x")
    assert status == 0 and "▁▅█" in out.replace("▄", "▅") and "3 PASS" in out
    status, _, err = multiitem("history", "--gate", "speedup_n32_ge_3")
    assert status == 2 and "did you mean 'speedup_n32_ge_3x'?" in err


def test_a_run_of_an_acceptance_has_its_answer_and_its_exit_status(multiitem, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    plain = make_run(tmp_path, 1)
    accepted = make_run(tmp_path, 2)
    content = (accepted / "matrix.json").read_bytes()
    given = answers.given(timed=[], rows=[], not_timed="Ctrl-C", matrix_sha256=hashlib.sha256(content).hexdigest())
    answer = derive(msgspec.json.decode(content, type=Matrix), given)
    store.write_record(accepted / "answer.json", answer)
    assert (answer.answer, answer.exit_status) == ("UNDECIDED", 5)
    first, second = history.history(tmp_path).runs
    assert (first.answer, first.exit_status) == (None, 0)
    assert (second.answer, second.exit_status) == ("UNDECIDED", 5)
    _, out, _ = multiitem("history", "--results-dir", tmp_path)
    header, *_, last = [line for line in out.splitlines() if line.strip()]
    assert "answer" in header and "UNDECIDED" in last and last.split()[3] == "5"
    store.write_record(plain / "answer.json", answer)
    assert history.history(tmp_path).runs[0].answer is None, "it is of another run's results"
    (accepted / "answer.json").write_text("{")
    assert "answer.json" in history.history(tmp_path).runs[1].problem


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline([1.0, 2.0, 1.0]) == "▁█▁" and sparkline([2.0, 2.0]) == "▁▁" and sparkline([]) == "-"


# -- prune ---------------------------------------------------------------------------------------


def test_the_last_of_each_kind_stay_and_nothing_else_is_touched(multiitem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "multiitem-results"
    for number in (1, 2, 3):
        make_run(results, number)
        make_other(results, "ab", number, "ab.json")
        make_other(results, "comparisons", number, "comparison.json")
    (results / "baselines").mkdir()
    (results / "baselines/main.json").write_text("{}")
    (results / "scores").mkdir()
    (results / "scores/main.json").write_text("{}")
    (results / "notes.txt").write_text("mine")
    own = results / run_name(0)
    own.mkdir()
    (own / "thesis.tex").write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "matrix.json").write_text("{}")
    (results / "20250101-000000-000-1").symlink_to(outside)
    (results / "latest").symlink_to(run_name(3))
    before = sorted(results.rglob("*"))
    status, out, _ = multiitem("prune", "--keep", 2, "--dry-run")
    assert status == 0 and sorted(results.rglob("*")) == before
    assert "3 of 9 would be deleted" in out and f"would delete multiitem-results/ab/{run_name(1)}" in out
    status, out, _ = multiitem("prune", "--keep", 2)
    assert status == 0 and "3 of 9 deleted" in out
    gone = {path for path in before if not path.exists()}
    assert {path.name for path in gone} == {run_name(1), "matrix.json", "ab.json", "comparison.json"} and len(gone) == 6
    assert (outside / "matrix.json").exists() and (own / "thesis.tex").exists()
    status, out, _ = multiitem("prune", "--keep", 2)
    assert status == 0 and "0 of 6 deleted" in out


@pytest.mark.parametrize("lock", ["lease", "A/lease", ".lock", "x/y/lease"])
def test_a_run_whose_lock_is_held_stays(tmp_path, lock):
    run = make_run(tmp_path, 1)
    make_run(tmp_path, 2)
    held = run / lock
    held.parent.mkdir(parents=True, exist_ok=True)
    with held.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert kept(tmp_path)[run.name] == "it is going on: a process holds its lock"
    assert kept(tmp_path)[run.name] is None


def test_a_run_whose_process_lives_stays_and_one_that_inherited_its_number_does_not_count(tmp_path):
    now = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    living = tmp_path / f"{now}-000-{os.getpid()}"
    living.mkdir()
    make_run(tmp_path, 2)
    inherited = make_run(tmp_path, 1, process=os.getpid())  # this process is younger than that run
    assert kept(tmp_path)[living.name] == f"it is going on: its process {os.getpid()} lives"
    assert kept(tmp_path)[inherited.name] is None and kept(tmp_path)[run_name(2)] == "one of the last 1"


def test_a_run_without_results_may_be_going_on_elsewhere_until_it_is_quiet(tmp_path):
    run = tmp_path / run_name(1)
    (run / "servers").mkdir(parents=True)
    make_run(tmp_path, 2)
    assert "it may be going on elsewhere" in kept(tmp_path)[run.name]
    for path in (run / "servers", run):
        os.utime(path, (OLD, OLD))
    assert kept(tmp_path)[run.name] is None


def test_what_latest_leads_to_stays(tmp_path):
    for number in (1, 2):
        make_run(tmp_path, number)
    (tmp_path / "latest").symlink_to(run_name(1))
    assert kept(tmp_path)[run_name(1)] == "latest leads to it"


def test_what_stays_cannot_be_deleted_and_leftovers_go(tmp_path):
    make_run(tmp_path, 1)
    (old,) = pruning.plan(tmp_path, 1)
    with pytest.raises(ValueError, match="stays: one of the last 1"):
        pruning.delete(old)
    (tmp_path / ".pruned-x").mkdir()
    pruning.clear_leftovers(tmp_path)
    assert not (tmp_path / ".pruned-x").exists() and old.path.exists()


def test_there_must_be_something_to_prune(multiitem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = multiitem("prune", "--keep", 3)
    assert status == 2 and "there is no directory multiitem-results; name the one that runs are written to" in err
    assert multiitem("prune", "--keep", 0)[0] == 2
