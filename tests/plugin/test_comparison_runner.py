"""Measuring a comparison on servers that start in a moment: rows, failures, restarts, resumption."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from importlib import resources
from pathlib import Path

import httpx
import psutil
import pytest
from inner_project import FAKE, wait_until
from rich.console import Console

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison import gate_verdicts as verdicts
from pytest_multiitem.comparison.measuring import runner, under_load
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.errors import UsageError
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.reports.comparison import publish
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.validation.validate import examine

SMALL = {
    "engine": "fake",
    "bench_items": "12",
    "bench_query_tokens": "30",
    "item_tokens": "5",
    "compare_chunk_sizes": "1,4,12",
    "bench_timed_runs": "5",
    "confirm_runs": "6",
    "server_chunk_size": "0",
    "mask_impl": "dense",
    "startup_timeout": "20",
}
FILES = {"canonical_workload.json", "comparison.json", "comparison.md", "final_report.md", "report.html"}


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setattr(runner, "_HARNESS_CALLS", 10)  # its own time is what test_overhead.py is about


def settings_of(**given):
    return resolve({f"multiitem_{name}": value for name, value in {**SMALL, **given}.items()}, {}, {})


def measured(base, **given):
    from fake_engine import FakeEngine

    settings, told = settings_of(**given), io.StringIO()
    with ProgressBar(Console(file=told, width=200)) as bar:
        outcome = runner.compare(settings, FakeEngine(), base, bar, publish)
    for path in outcome.directory.glob("[!.]*.json"):  # what was measured is what is written, wrong scores too
        assert [problem for problem in examine(path).problems if "expected 1 after softmax" not in problem] == []
    found = {
        f"{g.name}[{place}]": verdicts.verdict(outcome, settings, g, place) for g, place in verdicts.planned(settings)
    }
    return outcome, found, told.getvalue(), verdicts.exit_status(outcome, settings)


def matrices(directory):
    return {path.stem: artefacts.read(path, ScoreMatrix).record for path in directory.glob("*_matrix.json")}


def test_one_call_leaves_a_whole_comparison(tmp_path):
    outcome, found, told, status = measured(tmp_path)
    assert status == (0, []), status
    assert {record.verdict for record in found.values()} == {Verdict.PASS}
    assert len(found) == 2 * 3 + 2 * 4
    names = {path.name for path in outcome.directory.iterdir() if path.is_file() and not path.name.startswith(".")}
    kept = matrices(outcome.directory)
    assert names == FILES | {f"{name}{suffix}" for name in kept for suffix in (".json", ".md")}
    assert set(kept) == {f"{b}_{v}_matrix" for b in ("jax", "pytorch") for v in ("portable", "best_native")}
    for matrix in kept.values():
        assert [row.client_chunk_size for row in matrix.results] == [1, 4, 12] and matrix.complete
        assert {row.status for row in (*matrix.results, *matrix.confirm_results)} == {"ok"}
        assert matrix.own_reference.reason is None and len(matrix.own_reference.scores) == 12
        assert matrix.harness["added_ms_p50"] == matrix.harness["harness"]["p50"] - matrix.harness["raw_socket"]["p50"]
        assert matrix.summary.final_chunk_size in (1, 4, 12)
        assert matrix.workload_ref.path == "canonical_workload.json" and "requests" not in matrix.workload
    assert any(matrix.self_comparison for matrix in kept.values())
    assert outcome.comparison.status == "complete" and "comparison in" in told


def test_the_same_server_in_both_views_is_measured_once(tmp_path):
    outcome, *_ = measured(tmp_path)
    kept = matrices(outcome.directory)
    for backend in ("jax", "pytorch"):  # this engine has no launch profile of its own for a view
        views = [kept[f"{backend}_{view}_matrix"] for view in ("portable", "best_native")]
        assert [r.session for r in views[0].results] == [r.session for r in views[1].results]
    # Interleaved: a row's session is that of the other backend's.
    assert kept["jax_portable_matrix"].results[0].session == kept["pytorch_portable_matrix"].results[0].session


def test_a_server_that_dies_is_recorded_restarted_and_the_rest_is_measured(tmp_path, monkeypatch):
    # Warm-up, 5 runs of 1 request (12 items), then 3 a run: it dies in the row of chunk size 4.
    monkeypatch.setenv("FAKE_FAULTS", "multi:die_after=25")
    outcome, found, _, (status, reasons) = measured(tmp_path, views="portable", confirm_runs="3")
    assert status == 1
    for matrix in matrices(outcome.directory).values():
        rows = [*matrix.results, *matrix.confirm_results]
        dead = [row for row in rows if row.failure_reason_counts]
        alive = [row for row in rows if row.status == "ok"]
        assert dead and alive and {kind for row in dead for kind in row.failure_reason_counts} == {"connection"}
        assert [row.client_chunk_size for row in matrix.results] == [1, 4, 12]
    record = found["comparison_measured[portable]"]
    assert record.verdict is Verdict.FAIL and "connection" in record.reason
    assert any("FAIL comparison_measured" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("fault", "gate", "word"),
    [
        ("leak", "own_reference_max_abs_le_0p02", "exceeds the limit"),
        ("flat", "cross_backend_max_abs_le_0p02", "hardly differ between items"),
        ("lie", "comparison_measured", "dense was requested, but the server executed segment"),
        ("short", "comparison_measured", "bad_response"),
        ("nan", "comparison_measured", "bad_"),
    ],
)
def test_wrong_servers_do_not_pass(tmp_path, monkeypatch, fault, gate, word):
    monkeypatch.setenv("FAKE_FAULTS", f"multi:{fault}")
    _, found, _, (status, _) = measured(tmp_path, views="portable", compare_chunk_sizes="4,12", confirm_runs="5")
    records = [record for name, record in found.items() if name.startswith(gate)]
    assert status == 1
    assert any(r.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE) and word in r.reason for r in records), records


def test_a_missing_side_is_partial_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_MISSING", "jax")
    outcome, found, _, (status, reasons) = measured(tmp_path, views="portable", compare_chunk_sizes="12")
    assert status == 1 and reasons == ["not measured: jax portable: its library is not installed"]
    assert outcome.comparison.status == "partial" and "its library is not installed" in outcome.comparison.blocker
    assert found["comparison_measured[portable]"].verdict is Verdict.NOT_RUN
    assert found["cross_backend_max_abs_le_0p02[portable]"].verdict is Verdict.NOT_RUN
    assert found["own_reference_max_abs_le_0p02[pytorch-portable]"].verdict is Verdict.PASS
    assert outcome.comparison.recommendation.confidence == "none"


def test_one_side_that_was_all_that_was_asked_for_is_no_failure(tmp_path):
    outcome, found, _, status = measured(tmp_path, backend="jax", views="portable", compare_chunk_sizes="12")
    assert status == (0, []) and outcome.comparison.status == "partial"
    assert found["cross_backend_max_abs_le_0p02[portable]"].verdict is Verdict.NOT_RUN


def test_a_server_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAULTS", "multi:exit=3")
    with pytest.raises(UsageError, match=r"nothing could be measured: pytorch portable: .*exited with code 3"):
        measured(tmp_path, views="portable", compare_chunk_sizes="12")


RUN = """
    import sys
    sys.path[:0] = [{fake!r}]
    from pathlib import Path
    from fake_engine import FakeEngine
    from pytest_multiitem.comparison.measuring import runner
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.comparison import publish
    from pytest_multiitem.settings.resolve import resolve
    settings = resolve({given!r}, {{}}, {{}})
    with ProgressBar() as bar:
        runner.compare(settings, FakeEngine(), Path.cwd(), bar, publish)
"""


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT])
def test_an_interrupted_comparison_loses_no_row_and_leaves_no_process(tmp_path, number):
    given = {f"multiitem_{name}": value for name, value in {**SMALL, "views": "portable", "bench_items": "6"}.items()}
    script = textwrap.dedent(RUN).format(fake=str(FAKE), given=given)
    environment = {**os.environ, "FAKE_FAULTS": "multi:sleep=0.01"}

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )

    def rows():
        found = {}
        for path in tmp_path.glob("multiitem-results/comparisons/*/*_matrix.json"):
            content = json.loads(path.read_bytes())
            found |= {(path.name, "sweep", r["client_chunk_size"]): r for r in content["results"]}
            found |= {(path.name, "confirm", r["client_chunk_size"]): r for r in content["confirm_results"]}
        return found

    process = start()
    wait_until(lambda: len(rows()) >= 4 or process.poll() is not None)
    process.send_signal(number)
    process.wait(20)
    before = rows()
    states = [json.loads(p.read_bytes()) for p in Path(tmp_path).rglob("state.json") if "servers" in p.parts]
    wait_until(lambda: not any(psutil.pid_exists(s["engine_pid"]) for s in states))

    again = start()
    _, told = again.communicate(timeout=60)
    after = rows()
    assert again.returncode == 0, told
    assert f"{len(before)} rows are measured already" in told
    assert len(list(tmp_path.glob("multiitem-results/comparisons/*/.state.json"))) == 1
    assert len(after) > len(before) and all(after[key] == row for key, row in before.items())


def test_a_workload_of_ones_own_is_measured_as_it_stands(tmp_path):
    from pytest_multiitem.comparison.workload import generate
    from pytest_multiitem.scoring.cases import request_sha256

    own = tmp_path / "own.json"
    artefacts.write(own, generate(query_tokens=9, num_items=6, item_tokens=3, seed=5, num_requests=2))
    content = json.loads(own.read_bytes())
    for request in content["requests"]:  # as another tool may write it: without what has a default
        del request["item_first"]
        content["checksums"][f"{request['request_id']}_sha256"] = request_sha256(request)
    own.write_text(json.dumps(content))
    outcome, *_ = measured(tmp_path, workload=str(own), views="portable", compare_chunk_sizes="6")
    assert (outcome.directory / "canonical_workload.json").read_bytes() == own.read_bytes()
    (_, matrix), *_ = outcome.matrices
    row = matrix.results[0]
    assert matrix.workload["num_items"] == 12 and len(row.reference_scores) == 12
    assert (row.request_items, row.num_chunks) == ([6, 6], 2)
    assert (matrix.workload_ref.requests, matrix.workload_ref.request_id) == (2, None)
    assert any("a run sends the 2 requests of the workload" in note for note in matrix.notes)


def test_requests_of_ones_own_in_lines_are_measured_as_they_came(tmp_path):
    """Many requests stay many: each item has its own query's neighbours only, and the file says where it came from."""
    own = tmp_path / "traffic.jsonl"
    lines = [
        {"id": "text", "query": "is it sunny", "items": ["clear sky", "heavy rain", "snow"], "labels": ["yes", "no"]},
        {"id": "ids", "query": [21, 22], "items": [[31, 32], [33]], "label_token_ids": [9693, 9694]},
    ]
    own.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    tokenizer = str(resources.files("pytest_multiitem.engine") / "data")
    outcome, *_ = measured(tmp_path, workload=str(own), tokenizer=tokenizer, views="portable", compare_chunk_sizes="2")
    sent = json.loads((outcome.directory / "canonical_workload.json").read_bytes())
    assert [request["request_id"] for request in sent["requests"]] == ["text", "ids"]
    assert (
        sent["source"]["path"] == str(own) and sent["source"]["drawn"] == 2 and sent["source"]["tokenizer"] == tokenizer
    )
    (path, matrix), *_ = outcome.matrices
    row = matrix.results[0]
    assert (row.request_items, row.num_chunks, len(row.reference_scores)) == ([3, 2], 3, 5)
    assert examine(outcome.directory / path).problems == []


def test_a_workload_for_another_delimiter_is_refused(tmp_path):
    from pytest_multiitem.comparison.workload import generate

    own = tmp_path / "own.json"
    artefacts.write(own, generate(query_tokens=9, num_items=6, item_tokens=3, delimiter=77))
    with pytest.raises(UsageError, match="was made for the delimiter 77, and the run has 151643"):
        measured(tmp_path, workload=str(own), compare_chunk_sizes="6")


def test_servers_that_run_already_are_compared_and_left_running(tmp_path, server):
    urls = {side: server("multi", "--chunk", "0") for side in ("jax", "pytorch")}
    serial = server("serial")
    outcome, found, _, status = measured(
        tmp_path,
        compare_urls=",".join(f"{side}={url}" for side, url in urls.items()),
        serial_url=serial,
        compare_chunk_sizes="4,12",
    )
    assert status == (0, []), status
    assert found["own_reference_max_abs_le_0p02[jax-portable]"].verdict is Verdict.PASS
    assert [m.server_config["url"] for _, m in outcome.matrices if m.backend == "jax"] == [urls["jax"]] * 2
    assert not any(m.server_config["started_by_this_run"] for _, m in outcome.matrices)
    for url in (*urls.values(), serial):
        assert httpx.get(f"{url}/health").status_code == 200


def test_without_a_serial_server_the_own_reference_is_not_run(tmp_path, server):
    url = server("multi")
    _, found, _, (status, _) = measured(
        tmp_path, backend="jax", compare_urls=f"jax={url}", views="portable", compare_chunk_sizes="12"
    )
    record = found["own_reference_max_abs_le_0p02[jax-portable]"]
    assert status == 0 and record.verdict is Verdict.NOT_RUN and "--serial-url" in record.reason


@pytest.mark.slow
def test_the_best_rows_are_measured_under_load(tmp_path, monkeypatch):
    monkeypatch.setattr(under_load, "_LOAD_SECONDS", 0.3)
    outcome, *_ = measured(
        tmp_path, compare_load=True, views="portable", compare_chunk_sizes="12", latency_objective_ms="400"
    )
    for _, matrix in outcome.matrices:
        levels = matrix.load["levels"]
        assert [level["concurrency"] for level in levels[:3]] == [1, 2, 4] and len(levels) == 6
        assert matrix.load["latency_objective_ms"] == 400 and all(level["successful"] for level in levels[:3])
    assert "requests/s" in (outcome.directory / "final_report.md").read_text(encoding="utf-8")


@pytest.fixture
def faulty(server):
    """Starts fake servers behind a fault of the wire; gives their addresses."""
    started = []

    def start(fault):
        command = [
            sys.executable,
            "-m",
            "pytest_multiitem.faults.proxy",
            "--upstream",
            server("multi"),
            "--fault",
            fault,
        ]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return re.search(r"http://\S+", started[-1].stdout.readline()).group()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_row_that_is_wrong_at_one_chunk_size_alone_never_wins(tmp_path, faulty):
    url = faulty("wrong_row=min_items:12")
    outcome, found, told, (status, _) = measured(
        tmp_path, backend="jax", compare_urls=f"jax={url}", views="portable", compare_chunk_sizes="4,12"
    )
    ((_, matrix),) = outcome.matrices
    four, twelve = matrix.results
    assert four.status == "ok" and twelve.failure_reason_counts == {"wrong_scores": 5} and twelve.success_rate == 0
    assert "5 wrong_scores" in told and outcome.comparison.winners_by_backend["jax"].client_chunk_size == 4
    record = found["comparison_measured[portable]"]
    assert status == 1 and record.verdict is Verdict.FAIL and "chunk size 12: failed (5 wrong_scores)" in record.reason


def test_the_first_answers_are_judged_as_well(tmp_path, faulty):
    """Those to the probe and to the warm-up: no run is wrong, and the row still does not win."""
    url = faulty("wrong_row=until:2")
    outcome, found, _, (status, _) = measured(
        tmp_path, backend="jax", compare_urls=f"jax={url}", views="portable", compare_chunk_sizes="4,12"
    )
    ((_, matrix),) = outcome.matrices
    four, twelve = matrix.results
    assert (four.status, four.score_problem, twelve.status) == ("ok", None, "ok")
    assert (
        twelve.score_problem.startswith("wrong_scores: item")
        and matrix.summary.sweep_recommendation.selected.client_chunk_size == 4
    )
    assert status == 1 and "wrong_scores: item" in found["comparison_measured[portable]"].reason


def test_scores_that_are_wrong_under_load_alone_fail_the_comparison(tmp_path, faulty, monkeypatch):
    monkeypatch.setattr(under_load, "_LOAD_SECONDS", 0.5)
    given = {"backend": "jax", "compare_urls": f"jax={faulty('busy=3')}", "views": "portable"}
    outcome, found, told, (status, _) = measured(tmp_path, **given, compare_chunk_sizes="12", compare_load=True)
    ((_, matrix),) = outcome.matrices
    one, two, four = (level["errors_by_kind"].get("wrong_scores", 0) for level in matrix.load["levels"][:3])
    assert one == two == 0 < four
    assert status == 1 and "answers had wrong scores" in found["comparison_measured[portable]"].reason
    assert "wrong_scores)" in told and outcome.comparison.winners_by_backend == {}
