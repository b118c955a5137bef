"""``multiitem matrix``: one running server measured as a side of a comparison is, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import httpx
import pytest
from inner_project import wait_until

from pytest_multiitem import cli
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.decision.compare import compare
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.comparison.workload import generate
from pytest_multiitem.validation.validate import examine

SMALL = ("--client-chunk-sizes", "1,4,12", "--warmup-runs", "1", "--timed-runs", "3", "--timed-runs-confirm", "6")


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MULTI_ITEM_")]:
        monkeypatch.delenv(name)
    artefacts.write(tmp_path / "work.json", generate(query_tokens=30, num_items=12, item_tokens=5))
    return tmp_path


@pytest.fixture
def matrix(work, capsys, monkeypatch):
    """Run the command; gives exit status, standard output, and what of standard error is a message."""

    def run(url, *words, output="jax_portable_matrix.json"):
        given = ("--base-url", url, "--workload-json", "work.json", "--output-json", output, *SMALL, *words)
        monkeypatch.setattr(sys, "argv", ["multiitem", "matrix", *given])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with pytest.raises(SystemExit) as caught:
            cli.main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, [line for line in err.splitlines() if line.startswith("multiitem: ")]

    return run


def kept(path):
    return artefacts.read(path, ScoreMatrix).record


def test_the_runbooks_line_leaves_a_matrix_and_its_report(work, matrix, server):
    url = server("multi", "--chunk", "500")
    note = ("--server-config-note", "JAX portable run", "--timeout-sec", "180", "--evaluation-view", "portable")
    asked = ("--jax-server-chunk-size", "500", "--jax-mask-impl", "dense", "--backend", "jax")
    code, out, err = matrix(f"{url}/v1/score", *note, *asked, "--output-markdown", "reports/jax_portable_matrix.md")
    assert (code, err) == (0, []), err
    path = work / "jax_portable_matrix.json"
    found = kept(path)
    assert (found.backend, found.evaluation_view, found.complete) == ("jax", "portable", True)
    assert [(row.client_chunk_size, row.timed_runs) for row in found.results] == [(1, 3), (4, 3), (12, 3)]
    assert {row.timed_runs for row in found.confirm_results} == {6} and found.self_comparison is not None
    size = found.summary.final_chunk_size
    assert out.startswith(f"jax portable: client chunk size {size}, ") and f"wrote {path.name} and reports/" in out
    assert found.server_config["note"] == "JAX portable run" and found.server_config["url"] == url
    assert found.server_config["jax_multi_item_scoring_chunk_size"] == 500
    assert found.server_config["jax_multi_item_mask_impl"] == "dense"
    assert found.server_config["info"]["multi_item_scoring_chunk_size"] == 500  # what was asked, beside what it says
    assert found.workload_ref.path == "work.json" and examine(path).problems == []
    report = (work / "reports/jax_portable_matrix.md").read_text(encoding="utf-8")
    assert f"Client chunk size {size}: " in report
    assert sorted(each.name for each in work.iterdir()) == [path.name, "reports", "work.json"]
    assert httpx.get(f"{url}/health").status_code == 200  # it is somebody else's


def test_a_matrix_is_a_side_of_a_comparison(work, matrix, server):
    for backend in ("jax", "pytorch"):
        url = server("multi")
        code, _, err = matrix(url, "--backend", backend, output=f"{backend}_portable_matrix.json")
        assert (code, err) == (0, [])
    paths = [work / f"{backend}_portable_matrix.json" for backend in ("jax", "pytorch")]
    comparison = compare([(path, kept(path)) for path in paths])
    assert [row.client_chunk_size for row in comparison.views[0].rows] == [1, 4, 12]
    assert all(row.correct for row in comparison.views[0].rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--jax-mask-impl", "segment"), "says that its mask impl is dense, but segment was given (--jax-mask-impl)"),
        (("--jax-server-chunk-size", "64"), "its server chunk size is 0, but 64 was given (--jax-server-chunk-size)"),
        (("--delimiter-token-id", "7"), "its delimiter is 151643, but 7 was given (--delimiter)"),
        (("--backend", "pytorch", "--jax-mask-impl", "dense"), "--jax-mask-impl is of a JAX server, and this one runs"),
        (("--backend", "jacks"), "--backend 'jacks' is not valid"),
        (("--jax-server-chunk-size", "64,500"), "--jax-server-chunk-size '64,500' is not valid: a server has one"),
        (("--jax-mask-impl", "dense,segment"), "--jax-mask-impl 'dense,segment' is not valid: a server has one"),
        (("--client-chunk-sizes", "0"), "--compare-chunk-sizes '0' is not valid"),
        (("--timed-runs", "many"), "--bench-timed-runs 'many' is not valid"),
        (("--timeout-sec", "-1"), "--request-timeout '-1' is not valid"),
        (("--workload-json", "nowhere.json"), "--workload 'nowhere.json' is not valid: expected an existing file"),
        (("--workload-json", "broken.json"), "broken.json"),
        (
            ("--workload-json", "edited.json"),
            "edited.json, request 'canonical-0': the checksum 'canonical-0_sha256' is",
        ),
        (("--base-url", "http://127.0.0.1:9/v1/score"), "nothing listens there"),
        (("--base-url", "127.0.0.1:9"), "--url '127.0.0.1:9' is not valid"),
        (("--output-json", "work.json/m.json"), "cannot write work.json/m.json"),
        (("--output-json", "work.json"), "work.json exists; name another file with --output-json"),
        (("--output-json", "m", "--output-markdown", "./m"), "--output-json and --output-markdown both name m"),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_nothing(work, matrix, server, words, says):
    (work / "broken.json").write_text('{"schema_version": "canonical_score_workload_v1", "requests": [')
    edited = json.loads((work / "work.json").read_bytes())
    edited["requests"][0]["items_token_ids"][0][0] += 1
    (work / "edited.json").write_text(json.dumps(edited))
    before = sorted(work.iterdir())
    backend = () if "--backend" in words else ("--backend", "jax")
    code, out, err = matrix(server("multi"), *backend, *words)
    assert (code, out, len(err)) == (2, "", 1) and says in err[0], err
    assert sorted(work.iterdir()) == before


def test_a_contradicted_threshold_is_one_too(matrix, server, monkeypatch):
    """The fake server does not tell one; what it says is laid over its answer."""
    from pytest_multiitem.transport.client import ScoreClient

    ask = ScoreClient.server_info
    told = {"multi_item_segment_fallback_threshold": 32768}
    monkeypatch.setattr(ScoreClient, "server_info", lambda self: {**(ask(self) or {}), **told})
    url, asked = server("multi"), ("--backend", "jax", "--jax-segment-fallback-threshold")
    code, _, err = matrix(url, *asked, "0")
    assert code == 2 and "its segment threshold is 32768, but 0 was given (--jax-segment-fallback-threshold)" in err[0]
    assert matrix(url, *asked, "32768")[0] == 0


def test_a_server_that_does_not_say_what_serves_has_to_be_named(matrix, server):
    code, _, err = matrix(server("multi"))
    assert code == 2 and "does not say what serves it; name it: --backend" in err[0]
    assert matrix(server("multi"), "--engine", "sgl-jax")[1].startswith("jax portable: ")  # which has no other


def test_a_server_with_a_key(matrix, server, monkeypatch):
    url = server("multi", "--fault", "key=sesame")
    code, _, err = matrix(url, "--backend", "jax", "--api-key-env", "OTHER")
    assert code == 2 and "API key into the environment variable OTHER" in err[0], err
    monkeypatch.setenv("OTHER", "sesame")
    assert matrix(url, "--backend", "jax", "--api-key-env", "OTHER")[0] == 0


def test_a_finished_matrix_is_overwritten_on_purpose_alone(work, matrix, server):
    url = server("multi")
    assert matrix(url, "--backend", "jax")[0] == 0
    before = (work / "jax_portable_matrix.json").read_bytes()
    code, _, (line,) = matrix(url, "--backend", "jax")
    assert code == 2 and line.endswith("jax_portable_matrix.json exists; name another file with --output-json, or "
                                       "overwrite it with --force")  # fmt: skip
    assert (work / "jax_portable_matrix.json").read_bytes() == before
    assert matrix(url, "--backend", "jax", "--force")[0] == 0
    assert (work / "jax_portable_matrix.json").read_bytes() != before


def test_wrong_scores_are_in_the_row_and_in_the_exit_status(work, matrix, server):
    proxy = subprocess.Popen(
        [sys.executable, "-m", "pytest_multiitem.faults.proxy", "--upstream", server("multi"), "--fault",
         "wrong_row=min_items:12"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = re.search(r"http://\S+", proxy.stdout.readline()).group()
        code, _, err = matrix(url, "--backend", "jax")
    finally:
        proxy.kill()
        proxy.wait()
        proxy.stdout.close()
    assert code == 1 and "multiitem: sweep, client chunk size 12: its success rate is 0 (3 wrong_scores)" in err
    found = kept(work / "jax_portable_matrix.json")
    assert found.complete and found.summary.final_chunk_size != 12


def test_another_mask_than_it_says_is_in_the_exit_status(matrix, server):
    code, _, err = matrix(server("multi", "--fault", "lie"), "--backend", "jax", "--jax-mask-impl", "dense")
    assert code == 1 and "dense was requested, but the server executed segment" in err[0]


def test_a_server_that_ends_leaves_what_it_gave(work, matrix, server):
    """The rows that cannot be measured any more are failed ones."""
    code, _, err = matrix(server("multi", "--fault", "die_after=20"), "--backend", "jax")
    assert code == 1 and any("connection" in line for line in err), err
    assert kept(work / "jax_portable_matrix.json").results


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGKILL))],
)
def test_an_interrupted_matrix_goes_on_with_the_same_command(work, server, number):
    given = ("--base-url", server("multi", "--fault", "sleep=0.01"), "--workload-json", "work.json", *SMALL)
    command = (sys.executable, "-c", "from pytest_multiitem.cli import main; main()", "matrix", *given)
    command += ("--backend", "jax", "--output-json", "m.json")

    def start():
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def rows(path):
        content = json.loads(path.read_bytes()) if path.exists() else {"results": [], "confirm_results": []}
        return {("sweep", row["client_chunk_size"]): row for row in content["results"]} | {
            ("confirm", row["client_chunk_size"]): row for row in content["confirm_results"]
        }

    working, output = work / ".m.json.measuring/jax_portable_matrix.json", work / "m.json"
    process = start()
    wait_until(lambda: len(rows(working)) >= 2 or process.poll() is not None, within=180)
    process.send_signal(number)
    _, told = process.communicate(timeout=180)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), told
    before = rows(working)
    assert 2 <= len(before) < 6
    if number != signal.SIGKILL:
        assert "what is measured is kept: the same command goes on from there" in told
        assert rows(output) == before and json.loads(output.read_bytes())["complete"] is False
        assert examine(output).problems == []
    again = start()
    _, told = again.communicate(timeout=300)
    assert again.returncode == 0 and f"{len(before)} rows are measured already" in told, told
    after = rows(output)
    assert len(after) == 6 and {name: after[name] for name in before} == before
    assert not working.parent.exists()


def test_an_interrupted_matrix_of_another_kind_is_not_gone_on_with(work, matrix, server, monkeypatch):
    """With other settings the rows would not be of one matrix; --fresh begins anew, and keeps them."""
    from pytest_multiitem.comparison.measuring import runner

    url = server("multi")

    def interrupted(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runner, "compare_with_itself", interrupted)
        assert matrix(url, "--backend", "jax")[0] == 130
    code, _, (line,) = matrix(url, "--backend", "jax", "--timed-runs", "2")
    assert code == 2 and "begun differently: bench_timed_runs was 3, is 2; choose another --output-json" in line
    assert "--fresh" in line
    artefacts.write(work / "work.json", generate(query_tokens=31, num_items=12, item_tokens=5))
    code, _, (line,) = matrix(url, "--backend", "jax")
    assert code == 2 and "work.json has changed since rows were measured with it" in line
    assert matrix(url, "--backend", "jax", "--timed-runs", "2", "--fresh")[0] == 0
    assert kept(work / "jax_portable_matrix.json").results[0].timed_runs == 2
    assert len([*work.glob(".jax_portable_matrix.json.measuring.*")]) == 1
