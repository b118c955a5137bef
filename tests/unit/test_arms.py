"""An A/B pair: what an arm is, what cannot be one, and that it is measured interleaved."""

import io
import json
import socket
import sys
from pathlib import Path
from typing import ClassVar

import httpx
import msgspec
import numpy as np
import pytest
from rich.console import Console
from stub_targets import multi, packed

from pytest_multiitem.comparison.measuring import arms
from pytest_multiitem.comparison.records import PairRecord
from pytest_multiitem.errors import UsageError
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.transport.address import is_same_server
from pytest_multiitem.validation.validate import examine

MASKS = (["MULTI_ITEM_MASK_IMPL=dense"], ["MULTI_ITEM_MASK_IMPL=segment"])

JAX = {"multiitem_backend": "jax"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.delenv("MULTI_ITEM_MASK_IMPL", raising=False)


def test_an_arm_is_its_variables_over_what_both_share(monkeypatch):
    monkeypatch.setenv("MULTI_ITEM_BENCH_TIMED_RUNS", "9")
    a, b = arms.arms_of(*MASKS, {"multiitem_backend": "jax"}, "packed")
    assert [arm.side.profile.mask_impl for arm in (a, b)] == ["dense", "segment"]
    assert [arm.side.profile.backend for arm in (a, b)] == ["jax", "jax"]
    assert a.side.settings.bench_timed_runs == b.side.settings.bench_timed_runs == 9
    assert a.side.settings.origins["mask_impl"] == "environment MULTI_ITEM_MASK_IMPL"


@pytest.mark.parametrize(("mode", "role"), [("packed", "multi"), ("prefill_extend", "extend"), ("serial", "serial")])
def test_each_mode_has_its_server(mode, role):
    a, _ = arms.arms_of(["MULTI_ITEM_EXTEND_BATCH_SIZE=4"], [], {**JAX, "multiitem_mask_impl": "dense"}, mode)
    assert a.side.profile.role == role and a.side.settings.extend_batch_size == 4


@pytest.mark.parametrize(
    ("a", "b", "options", "said"),
    [
        (["MULTI_ITEM_MASK_IMP=dense"], [], JAX, "did you mean 'MULTI_ITEM_MASK_IMPL'?"),
        (["dense"], [], JAX, "is no NAME=VALUE"),
        (["MULTI_ITEM_MASK_IMPL=dens"], [], JAX, "'dens' is not valid"),
        (*MASKS, {}, "arm A has backend pytorch,jax; name one: --backend, or MULTI_ITEM_BACKEND"),
        (["MULTI_ITEM_SEED=1"], ["MULTI_ITEM_SEED=2"], JAX, "arm A has mask_impl dense,segment"),
        (*MASKS, {**JAX, "multiitem_mask_impl": "dense"}, "both arms have the same settings"),
        (MASKS[0], MASKS[0], JAX, "both arms have the same settings"),
        (["url=http://a"], ["url=http://a/v1/score"], {}, "both arms have the same settings"),
        (["url=http://a"], MASKS[0], {}, "arm A is the address of a server that runs already (url=), and arm B has no"),
        (MASKS[0], ["python=/usr/bin/python3"], JAX, "arm B is the interpreter of an environment (python=), and arm A"),
        (["url=http://a", *MASKS[0]], ["url=http://b"], {}, "arm A: MULTI_ITEM_MASK_IMPL cannot be varied beside url="),
        (["url=http://a", "url=http://c"], ["url=http://b"], {}, "arm A has url= twice"),
        (["url=http://a", "python=x"], ["url=http://b"], {}, "arm A has url= and python=; what differs is one thing"),
        (["url=http://a"], ["url=http://b"], {"multiitem_multi_url": "http://c"}, "--multi-url says it of both arms"),
        (["url=a"], ["url=http://b"], {}, "arm A: url='a' is not valid: expected an address such as http://"),
        (["url="], ["url=http://b"], {}, "arm A: url= is empty; expected the address"),
        (
            ["MULTI_ITEM_SERIAL_URL=http://a"],
            ["MULTI_ITEM_SERIAL_URL=http://b"],
            {},
            "names no server that mode packed",
        ),
        (*MASKS, {"multiitem_multi_url": "http://c"}, "--multi-url (command line) names one server that runs already"),
        (["python=/no/such"], ["python=/nor/this"], JAX, "arm A: python='/no/such' is not valid: expected a program"),
        (["checkout=/no/such"], ["checkout=/nor/this"], {**JAX, "multiitem_mask_impl": "dense"}, "no directory /no"),
        (["ulr=http://a"], ["url=http://b"], {}, "did you mean 'url'?"),
    ],
)
def test_what_is_no_pair_is_refused(a, b, options, said):
    with pytest.raises(UsageError) as caught:
        arms.arms_of(a, b, options, "packed")
    assert said in str(caught.value)


def test_two_addresses_are_two_servers_that_run_already_and_none_of_its_own():
    first, second = arms.arms_of(
        ["url=http://u:pass-word@a"], ["url=http://b", "MULTI_ITEM_REQUEST_TIMEOUT=9"], {}, "packed"
    )
    assert [arm.side.url for arm in (first, second)] == ["http://a", "http://b"]
    assert second.side.settings.request_timeout == 9 and "pass-word" not in " ".join(first.words)
    serial = arms.arms_of(["url=http://a"], ["url=http://b"], {}, "serial")
    assert [arm.side.settings.serial_url for arm in serial] == ["http://a", "http://b"]


def test_arms_that_start_one_and_the_same_server_are_refused(tmp_path):
    pair = arms.arms_of(["MULTI_ITEM_SEED=1"], ["MULTI_ITEM_SEED=2"], {**JAX, "multiitem_mask_impl": "dense"}, "packed")
    with pytest.raises(UsageError, match="both arms start the same server: MULTI_ITEM_SEED changes nothing"):
        arms.measure(pair, tmp_path)


def checkout(directory, inner="."):
    package = directory / inner / "pytest_multiitem"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '7'\n")
    return directory


def launched(arm):
    return arm.side.engine.launch(arm.side.profile, arm.side.settings)


def test_a_checkout_is_where_the_servers_sources_come_from(tmp_path):
    old, new = checkout(tmp_path / "old"), checkout(tmp_path / "new", "src")
    options = {**JAX, "multiitem_mask_impl": "dense"}
    pair = arms.arms_of([f"checkout={old}"], [f"checkout={new}"], options, "packed")
    assert [launched(arm).env["PYTHONPATH"] for arm in pair] == [str(old), str(new / "src")]
    assert {launched(arm).env["PYTHONSAFEPATH"] for arm in pair} == {"1"}
    assert {launched(arm).command[0] for arm in pair} == {sys.executable}
    installed = [arm.side.engine._installed(sys.executable) for arm in pair]
    assert [Path(each.places[0]) for each in installed] == [old / "pytest_multiitem", new / "src/pytest_multiitem"]
    (tmp_path / "link").symlink_to(old)
    with pytest.raises(UsageError, match="both arms have the same settings"):
        arms.arms_of([f"checkout={old}"], [f"checkout={tmp_path / 'link'}"], options, "packed")
    with pytest.raises(UsageError, match=r"is no checkout of embedded: expected pytest_multiitem/__init__\.py in it"):
        arms.arms_of([f"checkout={tmp_path}"], [f"checkout={old}"], options, "packed")


def test_an_interpreter_runs_what_is_installed_in_it(tmp_path):
    (tmp_path / "python").symlink_to(sys.executable)
    other = tmp_path / "python"
    pair = arms.arms_of(
        [f"python={sys.executable}"], [f"python={other}"], {**JAX, "multiitem_mask_impl": "dense"}, "packed"
    )
    assert [launched(arm).command[0] for arm in pair] == [sys.executable, str(other)]
    assert {launched(arm).env["PYTHONPATH"] for arm in pair} == {""}
    words = {"multiitem_engine": "sglang", "multiitem_model": "m", "multiitem_device": "cpu"}
    pair = arms.arms_of([f"python={sys.executable}"], [f"python={other}"], words, "serial")
    assert [arm.side.settings.engine_python for arm in pair] == [sys.executable, str(other)]


class Up:
    """A side whose server is up already: answers in ``seconds`` a request, by the order of the log."""

    log: ClassVar[list] = []

    def __init__(self, side, directory):
        self.side, self.target = side, multi(mask=side.profile.mask_impl)
        self.closed = False

    def open(self):
        seconds = {"dense": 0.3, "segment": 0.1}[self.side.profile.mask_impl]
        score = self.target.client.score

        def timed_send(request):
            body = json.loads(request.body)
            self.log.append(self.side.profile.mask_impl)
            scores = score(body["query"], body["items"], body["label_token_ids"])
            return seconds, httpx.Response(200, json={"scores": scores.tolist()})

        self.target.client.timed_send = timed_send
        return self.target

    def close(self):
        self.log.append("closed")


def test_two_names_of_one_address_are_one_server(monkeypatch, tmp_path):
    monkeypatch.setattr(arms, "Connected", Up)
    pair = arms.arms_of(["url=http://127.0.0.1:9"], ["url=http://localhost:9"], {}, "packed")
    with pytest.raises(UsageError, match=r"both arms are the same server: http://127.0.0.1:9 and http://localhost:9"):
        arms.measure(pair, tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("http://127.0.0.1:9", "http://localhost:9", True),
        ("http://127.0.0.1:9", "http://localhost:8", False),
        ("http://127.0.0.1", "http://127.0.0.1:80", True),
        ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b", False),
        ("http://a.example:9", "http://10.0.0.1:9", True),
        ("http://a.example:9", "http://b.example:9", False),
        ("http://nowhere.invalid:9", "http://127.0.0.1:9", False),
    ],
)
def test_which_addresses_are_of_one_server(monkeypatch, first, second, same):
    known = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "10.0.0.1": "10.0.0.1"}
    known |= {"a.example": "10.0.0.1", "b.example": "10.0.0.1"}

    def found(host, port, **_):
        if host not in known:
            raise socket.gaierror("no such host")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[host], port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    assert is_same_server(first, second) is same


def test_a_pair_says_how_far_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(arms, "Connected", Up)
    monkeypatch.setattr(Up, "log", [])
    options = {**JAX, "multiitem_bench_items": "6", "multiitem_bench_query_tokens": "9"}
    options |= {"multiitem_bench_timed_runs": "6", "multiitem_item_tokens": "3"}
    out = io.StringIO()
    arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path, ProgressBar(Console(file=out)))
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["arm A: starting its server", "arm B: starting its server", "warming both up"]
    assert lines[3:] == [f"timed: run {run} of 6 of each arm" for run in range(1, 7)]


def test_the_command_says_where_its_file_is(multiitem, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arms, "Connected", Up)
    words = ("--backend=jax", "--bench-items=6", "--bench-query-tokens=9", "--bench-timed-runs=6", "--item-tokens=3")
    code, out, _ = multiitem("ab", "--a", *MASKS[0], "--b", *MASKS[1], *words)
    (written,) = tmp_path.glob("multiitem-results/ab/*/ab.json")
    assert code == 0 and out.splitlines()[-1] == f"results: {written.relative_to(tmp_path)}"


def test_a_pair_that_is_refused_leaves_nothing(multiitem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("ab", "--a", "url=http://127.0.0.1:9", "--b", "url=http://localhost:9")
    code, _, err = multiitem(*words)
    assert code == 2 and "both arms are the same server" in err and [*tmp_path.iterdir()] == []
    (tmp_path / "kept").mkdir()
    multiitem(*words, "--results-dir", "kept")
    assert [*tmp_path.iterdir()] == [tmp_path / "kept"], "what was there stays"


@pytest.mark.parametrize("runs", [5, 6])
def test_a_pair_is_interleaved_and_judged_by_its_interval(monkeypatch, tmp_path, runs):
    monkeypatch.setattr(arms, "Connected", Up)
    monkeypatch.setattr(Up, "log", [])
    options = {**JAX, "multiitem_bench_items": "6", "multiitem_bench_query_tokens": "9"}
    options |= {"multiitem_bench_timed_runs": str(runs), "multiitem_item_tokens": "3"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    names = (["dense", "segment", "segment", "dense"] * 3)[: 2 * runs]
    assert Up.log == ["dense", "segment", *names, "closed", "closed"]
    assert pair.record.ratio_p50 == pytest.approx(3.0) and len({row.session for row in pair.rows}) == 1
    few = "not compared: 5 successful runs to compare; at least 6 are needed"
    assert pair.record.verdict == (few if runs < 6 else "B is faster")
    header, (first, second) = arms.table(pair)
    assert header[0] == "arm" and first[:2] == ["A", "MULTI_ITEM_MASK_IMPL=dense"] and second[3] == "segment"
    assert arms.problems(pair) == [] and pair.record.agreement.max_abs_diff == 0.0
    assert json.loads(msgspec.json.encode(pair.record))["ratio_p50"] == pair.record.ratio_p50


def test_an_arm_with_wrong_scores_is_a_problem_and_not_compared(monkeypatch, tmp_path):
    class Wrong(Up):
        def open(self):
            target = super().open()
            call, segment = target.client.timed_send, self.side.profile.mask_impl == "segment"

            def timed_send(request):
                seconds, answer = call(request)
                rows = json.loads(answer.text)["scores"]
                return seconds, httpx.Response(200, json={"scores": rows[::-1] if segment else rows})

            target.client.timed_send = timed_send
            return target

    monkeypatch.setattr(arms, "Connected", Wrong)
    options = {**JAX, "multiitem_bench_items": "6", "multiitem_bench_query_tokens": "9"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    found = arms.problems(pair)
    assert not any(problem.startswith("arm A") for problem in found)
    assert any(problem.startswith("arm B: failed: wrong_scores: item") for problem in found)
    assert pair.record.verdict == "not compared: the scores of arm B are wrong"
    assert pair.rows[0].status == "ok" and set(pair.rows[1].failure_reason_counts) == {"wrong_scores"}


def test_another_path_than_asked_for_is_a_problem(monkeypatch, tmp_path):
    class Dense(Up):
        def __init__(self, side, directory):
            super().__init__(side, directory)
            self.target = multi(packed, mask=side.profile.mask_impl, executed="dense")

    monkeypatch.setattr(arms, "Connected", Dense)
    options = {**JAX, "multiitem_bench_items": "6", "multiitem_bench_query_tokens": "9"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    (problem,) = arms.problems(pair)
    assert "arm B: segment was requested, but the server executed dense" in problem


def moved(by):
    """Arms of which the segment one scores otherwise, by this much, and agrees with itself."""

    class Moved(Up):
        def __init__(self, side, directory):
            super().__init__(side, directory)
            if side.profile.mask_impl == "segment":
                change = np.array([[by, -by]])
                self.target = multi(lambda query, items, labels: packed(query, items, labels) + change, mask="segment")

    return Moved


@pytest.mark.parametrize(("by", "alike"), [(1e-6, True), (0.019, True), (0.03, False)])
def test_arms_that_do_not_score_alike_are_a_problem_and_not_compared(monkeypatch, tmp_path, by, alike):
    monkeypatch.setattr(arms, "Connected", moved(by))
    options = {**JAX, "multiitem_bench_items": "6", "multiitem_bench_query_tokens": "9"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    said = "the arms do not score alike: they are up to 0.03 apart, above 0.02"
    assert arms.problems(pair) == ([] if alike else [f"{said}; the speed of one says nothing about the other"])
    assert pair.record.verdict == ("B is faster" if alike else f"not compared: {said}")
    assert pair.record.agreement.max_abs_diff == pytest.approx(by)
    shown = arms.lines(pair)
    assert shown[1].startswith(f"scores differ by at most {by:.2g}, {by:.2g} on average; rank correlation (Kendall's")
    assert shown[1].endswith("noise floor A 0, B 0") and shown[2].startswith("items that differ most, with the first")


def test_a_workload_of_many_requests_is_timed_as_many(monkeypatch, tmp_path):
    requests = [{"query": [11, 12], "items": [[20 + n], [30 + n, 31]], "label_token_ids": [5, 6]} for n in range(3)]
    (tmp_path / "traffic.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in requests))
    monkeypatch.setattr(arms, "Connected", Up)
    monkeypatch.setattr(Up, "log", [])
    options = {**JAX, "multiitem_workload": str(tmp_path / "traffic.jsonl"), "multiitem_vocab_size": "900"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    assert pair.record.requests == 3 and [len(row.reference_scores) for row in pair.rows] == [6, 6]
    assert [len(run.call_latencies_ms) for run in pair.rows[0].run_records] == [3] * 7
    assert arms.problems(pair) == [] and Up.log[:5] == [
        "dense",
        "segment",
        *["dense"] * 3,
    ]  # the warm-up of their one shape, then blocks of three
    path = tmp_path / "ab.json"
    path.write_bytes(msgspec.json.encode(pair.record))
    assert examine(path).problems == []
    assert msgspec.json.decode(path.read_bytes(), type=PairRecord).served["A"]["backend"] == "stub"


def test_servers_that_say_they_are_of_different_models_are_noted(monkeypatch, tmp_path):
    class Other(Up):
        def __init__(self, side, directory):
            super().__init__(side, directory)
            self.target.client.model = f"model of {side.profile.mask_impl}"

    monkeypatch.setattr(arms, "Connected", Other)
    options = {**JAX, "multiitem_bench_items": "4", "multiitem_bench_query_tokens": "9"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    assert "note: model is model of dense of A, model of segment of B" in arms.lines(pair)
