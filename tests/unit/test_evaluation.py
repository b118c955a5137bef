"""The two-step evaluation: what each file holds, how they are joined, and that no fault gets past `check`."""

import json
import math
import socket
import subprocess
import sys
import threading
import time

import httpx
import msgspec
import numpy as np
import pytest
from evaluations import SMALL, answering, raw
from stub_targets import DELIMITER, LABELS, hashed, leaking, packed, packed_query_prefix, serial

from pytest_multiitem.bench.statistics import p50, ratio_interval
from pytest_multiitem.evaluation import check as judging

GATES = [gate.name for gate in judging.RELEASE_GATES]
SAME, CHANGED, EQUIVALENCE, SPEEDUP, PARITY = GATES
PARITY_FIELD = "max_abs_diff_jax_serial_vs_torch_serial"


def verdicts(out):
    """Gate → verdict and the whole line, from what ``check`` prints."""
    found = {}
    for line in out.splitlines()[2 : 2 + len(GATES)]:
        verdict, gate = line.split()[:2]
        found[gate] = (verdict, line)
    return found


def without(value, *paths):
    """A deep copy in which dotted paths are gone."""
    copy = json.loads(json.dumps(value))
    for path in paths:
        *parents, last = path.split(".")
        holder = copy
        for name in parents:
            holder = holder[name]
        holder.pop(last, None)
    return copy


def changed(value, path, new):
    copy = json.loads(json.dumps(value))
    *parents, last = path.split(".")
    holder = copy
    for name in parents:
        holder = holder[int(name) if isinstance(holder, list) else name]
    holder[int(last) if isinstance(holder, list) else last] = new
    return copy


# A healthy pair


def test_a_healthy_pair_passes_every_gate(multiitem, joined):
    path = joined()
    code, out, err = multiitem("check", path, "--require", "all")
    assert (code, err) == (0, ""), out
    assert {gate: verdict for gate, (verdict, _) in verdicts(out).items()} == dict.fromkeys(GATES, "PASS")
    for gate, limit in zip(GATES, ("== 0", "== 0", "<= 0.02", ">= 3", "<= 0.02"), strict=True):
        assert limit in verdicts(out)[gate][1]
    assert "not gated: packed vs query + item" in out and "N=32 64.00x" in out


def test_the_evaluation_has_the_final_names(evaluated):
    code, _, multi, err = evaluated("multi", packed)
    assert code == 0 and "timing: 32 items" in err
    assert multi["schema_version"] == "multiitem_evaluation_v1" and multi["complete"] is True and "failure" not in multi
    assert (multi["mode"], multi["url"], multi["model"]) == ("multi", "http://multi", "tiny")
    assert (multi["labels"], multi["delimiter"], multi["backend"]) == (list(LABELS), DELIMITER, "jax")
    isolation = multi["isolation"]
    assert len(isolation["item_ids"]) == 26 and all(isolation["item_ids"])
    assert np.shape(isolation["base_scores"]) == (26, 2)
    for name in ("same_length_mutation", "changed_length_mutation"):
        mutation = isolation[name]
        assert set(mutation) >= {
            "mutated_index", "mutated_item_ids", "scores", "unchanged_item_abs_diffs", "max_abs_diff_unchanged",
            "mean_abs_diff_unchanged",
        }  # fmt: skip
        assert len(mutation["unchanged_item_abs_diffs"]) == 25 and mutation["max_abs_diff_unchanged"] == 0.0
    assert {m["mutated_index"] for m in isolation["mutations"]} == {0, 13, 25}
    assert {m["mutation"] for m in isolation["mutations"]} == {"same_length", "longer", "shorter"}
    assert len(isolation["replays"]) == 2
    assert "semantic_alignment" not in multi and "leak_visibility" not in multi
    assert set(multi["performance"]) == {"1", "32"}
    assert set(multi["performance"]["32"]) == {
        "latencies_sec", "p50_sec", "p95_sec", "items_per_sec_p50", "items_per_sec_p95", "p95_interpolated",
    }  # fmt: skip


def test_a_serial_evaluation_sends_one_item_requests(evaluated):
    sizes = set()

    def scores(query, items, labels):
        sizes.add(len(items))
        return serial(query, items, labels)

    code, _, plain, _ = evaluated("serial", scores)
    assert code == 0 and sizes == {1}
    alignment = plain["semantic_alignment"]
    assert alignment["query_plus_delimiter_ids"] == [*plain["isolation"]["query_ids"], DELIMITER]
    expected = packed(plain["isolation"]["query_ids"], plain["isolation"]["item_ids"], LABELS)
    assert alignment["base_scores_query_plus_delimiter"] == expected.tolist()
    assert set(plain["leak_visibility"]) == {"prefix_first_delim", "query_prefix"}
    assert all(max(found["shifts"]) > 0.1 for found in plain["leak_visibility"].values())


def test_both_modes_send_the_same_requests(evaluated):
    _, _, multi, _ = evaluated("multi", packed)
    _, _, plain, _ = evaluated("serial", serial)
    for name in ("query_ids", "item_ids", "name", "labels"):
        assert multi["isolation"][name] == plain["isolation"][name]
    assert multi["timed_request"] == plain["timed_request"]
    assert len(multi["timed_request"]["item_ids"]) == 32
    assert multi["isolation"]["same_length_mutation"]["mutated_item_ids"] in [
        m["mutated_item_ids"] for m in plain["isolation"]["mutations"]
    ]


def test_the_combined_file_has_the_final_names(joined):
    combined = json.loads(joined().read_text())
    assert combined["schema_version"] == "multiitem_combined_v1"
    assert combined["isolation"]["same_length_mutation_max_abs_diff"] == 0.0
    assert combined["isolation"]["changed_length_mutation_max_abs_diff"] == 0.0
    assert combined["equivalence"]["max_abs_diff"] > 0.1
    assert combined["equivalence_query_plus_delimiter"]["max_abs_diff"] == 0.0
    assert combined["performance"]["32"]["speedup_vs_serial_p50"] == pytest.approx(64)
    assert combined["performance"]["1"]["speedup_vs_serial_p50"] == pytest.approx(2)
    assert combined[PARITY_FIELD] == 0.0
    assert combined["max_abs_diff_jax_multi_vs_torch_multi_semantic"] == 0.0
    assert combined["max_abs_diff_jax_multi_vs_torch_serial"] == combined["equivalence"]["max_abs_diff"]
    assert set(combined["evidence"]) == set(GATES)


def test_query_prefix_is_gated_against_query_only(multiitem, joined):
    path = joined(packed_query_prefix, multi_words=("--semantics", "query_prefix"))
    combined = json.loads(path.read_text())
    assert combined["equivalence"]["max_abs_diff"] == 0.0
    assert combined["equivalence_query_plus_delimiter"]["max_abs_diff"] > 0.1
    assert combined["max_abs_diff_jax_multi_vs_torch_multi_semantic"] == 0.0
    assert multiitem("check", path)[0] == 0


def test_the_declared_semantics_counts(multiitem, joined):
    path = joined(packed_query_prefix)
    code, out, _ = multiitem("check", path)
    assert code == 1 and verdicts(out)[EQUIVALENCE][0] == "FAIL"


def test_an_endpoint_address_of_other_tools(multiitem, served, tmp_path):
    url = served("multi", packed) + "/v1/score/"
    code, _, _ = multiitem("evaluate", "--mode", "multi", "--url", url, "--output-json", tmp_path / "sub" / "m", *SMALL)
    assert code == 0 and (tmp_path / "sub" / "m").exists()


def test_further_fields_of_others_are_no_error(multiitem, joined):
    path = joined()
    content = json.loads(path.read_text()) | {"somebody_else": {"x": 1}}
    path.write_text(json.dumps(content))
    assert multiitem("check", path)[0] == 0


# Faulty servers


def drifting(scores):
    """Every answer off the last one."""
    calls = iter(range(10**9))

    def moved(query, items, labels):
        found = scores(query, items, labels)
        shift = 0.02 * next(calls)
        return np.column_stack([found[:, 0] + shift, found[:, 1] - shift])

    return moved


def constant(query, items, labels):
    return np.full((len(items), len(labels)), 1 / len(labels))


def blind(query, items, labels):
    """Does not read its items: each position has a score of its own."""
    return np.array([hashed([*query, at], labels) for at in range(len(items))])


@pytest.mark.parametrize(
    "leaks",
    [lambda i, j, n: j < i, lambda i, j, n: j == i - 1, lambda i, j, n: i == n - 1 and j == 0, lambda i, j, n: j > i],
    ids=["causal", "neighbour", "first into last", "backwards"],
)
def test_a_leaking_server_fails(multiitem, joined, leaks):
    code, out, _ = multiitem("check", joined(leaking(leaks)), "--allow-inconclusive")
    assert code == 1
    assert verdicts(out)[SAME][0] == "FAIL" and verdicts(out)[CHANGED][0] == "FAIL"


@pytest.mark.parametrize(
    ("multi", "plain"),
    [
        pytest.param(drifting(packed), serial, id="drifting multi"),
        pytest.param(packed, drifting(serial), id="drifting serial"),
        pytest.param(constant, constant, id="constant"),
        pytest.param(constant, serial, id="constant multi"),
        pytest.param(blind, serial, id="blind"),
        pytest.param(serial, serial, id="serial as multi"),
    ],
)
def test_a_faulty_server_does_not_pass(multiitem, joined, multi, plain):
    code, out, _ = multiitem("check", joined(multi, plain, torch=None))
    assert code == 1
    found = {gate: verdict for gate, (verdict, _) in verdicts(out).items()}
    assert found[EQUIVALENCE] != "PASS", out
    if multi not in (serial, packed):
        assert found[SAME] != "PASS" and found[CHANGED] != "PASS", out


def test_a_server_that_does_not_read_its_items_fails(multiitem, joined):
    _, out, _ = multiitem("check", joined(blind))
    assert verdicts(out)[SAME][0] == "FAIL" and "does not read its items" in verdicts(out)[SAME][1]


def wrong_at(size, count=10**9, scores=packed, begin=0):
    """The first row of some answers with N items is another one's: of ``count``, after the first ``begin``."""
    calls = iter(range(10**9))

    def answer(query, items, labels):
        rows = scores(query, items, labels)
        if len(items) == size and begin <= next(calls) < begin + count:
            rows[0] = rows[0][::-1]
        return rows

    return answer


@pytest.mark.parametrize(
    ("multi", "plain", "side", "runs"),
    [
        pytest.param(wrong_at(32), serial, "multi", 6, id="every packed request of 32"),
        pytest.param(wrong_at(32, 1), serial, "multi", 1, id="the packed warm-up"),
        pytest.param(wrong_at(32, 1, begin=3), serial, "multi", 1, id="one packed run"),
    ],
)
def test_wrong_scores_in_the_timing_fail_the_speed_gate(multiitem, joined, tmp_path, multi, plain, side, runs):
    path = joined(multi, plain)
    evaluated = json.loads((tmp_path / f"{side}.json").read_text())
    assert (
        evaluated["performance"]["32"]["wrong_scores"] == runs and "wrong_scores" not in evaluated["performance"]["1"]
    )
    assert evaluated["failure"]["kind"] == "wrong_scores" and evaluated["failure"]["stage"] == "timing"
    assert "item 1 of 32" in evaluated["failure"]["message"] and evaluated["complete"] is False
    assert json.loads(path.read_text())["performance"]["32"][f"{side}_wrong_scores"] == runs
    code, out, _ = multiitem("check", path)
    assert code == 1 and [verdicts(out)[gate][0] for gate in GATES] == ["PASS", "PASS", "PASS", "FAIL", "PASS"]
    assert f"the {side} evaluation: wrong_scores" in verdicts(out)[SPEEDUP][1]


def test_a_wrong_answer_to_what_is_asked_again_counts_too(multiitem, joined, tmp_path):
    path = joined(wrong_at(16, 1))  # no timed request has 16 items, a smaller one has
    evaluated = json.loads((tmp_path / "multi.json").read_text())
    assert evaluated["failure"]["kind"] == "wrong_scores" and "wrong_scores" not in evaluated["performance"]["32"]
    assert verdicts(multiitem("check", path)[1])[SPEEDUP][0] == "FAIL"


def test_a_wrong_score_of_a_mutated_item_fails_equivalence(multiitem, joined, tmp_path):
    """Which no isolation gate looks at: they are about the other items."""
    whole: list[set] = []

    def answer(query, items, labels):
        rows = packed(query, items, labels)
        if len(items) == 26:
            whole.append({*map(tuple, items)})
            for index, item in enumerate(items):
                if tuple(item) not in whole[0]:
                    rows[index] = rows[index][::-1]
        return rows

    path = joined(answer)
    assert " of 26 " in json.loads((tmp_path / "multi.json").read_text())["score_problem"]
    code, out, _ = multiitem("check", path)
    assert code == 1 and [verdicts(out)[gate][0] for gate in GATES] == ["PASS", "PASS", "FAIL", "PASS", "PASS"]
    assert "the multi side: wrong_scores: item" in verdicts(out)[EQUIVALENCE][1]


def test_one_wrong_answer_of_the_serial_side_is_an_error_of_the_speed_gate(multiitem, joined, evaluated):
    asked = []

    def count(query, items, labels):
        asked.append(query)
        return serial(query, items, labels)

    _, _, content, _ = evaluated("serial", count)
    timed = content["timed_request"]["query_ids"]
    first = asked.index(timed)
    broken = wrong_at(1, 1, scores=serial, begin=first + 3)
    path = joined(packed, broken, torch=None)
    code, out, _ = multiitem("check", path)
    assert (
        code == 1
        and verdicts(out)[SPEEDUP][0] == "ERROR"
        and "the serial evaluation: wrong" in verdicts(out)[SPEEDUP][1]
    )
    assert verdicts(out)[EQUIVALENCE][0] == "PASS"


def test_wrong_scores_that_a_file_tells_of_count_wherever_they_stand(multiitem, joined, tmp_path):
    path = joined()
    content = json.loads(path.read_text())
    content["performance"]["32"]["multi_wrong_scores"] = 1
    path.write_text(json.dumps(content))
    code, out, _ = multiitem("check", path)
    assert code == 1 and verdicts(out)[SPEEDUP][0] == "FAIL"
    multi = tmp_path / "multi.json"
    content = json.loads(multi.read_text())
    content["performance"]["1"]["wrong_scores"] = 2
    multi.write_text(json.dumps(content))
    again = tmp_path / "again.json"
    assert multiitem("combine", "--multi", multi, "--serial", tmp_path / "serial.json", "--output-json", again)[0] == 0
    code, out, _ = multiitem("check", again)
    assert code == 1 and "wrong_scores in timed runs: 2 at N = 1" in verdicts(out)[SPEEDUP][1]


def test_noise_in_the_timing_is_no_wrong_score_but_leaves_it_undecided(multiitem, joined, tmp_path):
    turn = iter(range(10**9))

    def noisy(query, items, labels):
        shift = 0.1 * np.random.default_rng(next(turn)).uniform(-1, 1, (len(items), 1))
        return packed(query, items, labels) + (shift * [1, -1] if len(query) == 8 else 0)

    path = joined(noisy)
    content = json.loads((tmp_path / "multi.json").read_text())
    assert "failure" not in content and "wrong_scores" not in content["performance"]["32"]
    _, out, _ = multiitem("check", path)
    assert verdicts(out)[SPEEDUP][0] == "INCONCLUSIVE" and "noise" in verdicts(out)[SPEEDUP][1]


def not_a_number(query, items, labels):
    return np.full((len(items), len(labels)), math.nan)


def short(query, items, labels):
    return packed(query, items, labels)[:-1]


@raw
def error_body(body):
    return httpx.Response(200, json={"error": {"message": "no"}})


@raw
def no_json(body):
    return httpx.Response(200, text="<html>")


@raw
def out_of_memory(body):
    return httpx.Response(500, text="RESOURCE_EXHAUSTED:\nout of memory")


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        (not_a_number, "bad_json"),
        (short, "bad_response"),
        (error_body, "bad_response"),
        (no_json, "bad_json"),
        (out_of_memory, "oom"),
    ],
)
def test_garbage_is_a_failure(multiitem, evaluated, tmp_path, scores, kind):
    code, multi, content, err = evaluated("multi", scores)
    assert code == 1 and content["failure"]["kind"] == kind and content["failure"]["stage"] == "scores"
    assert content["complete"] is False and err.count("\n") == 2 and f"failed at scores: {kind}" in err
    _, plain, _, _ = evaluated("serial", serial)
    out = tmp_path / "out.json"
    assert multiitem("combine", "--multi", multi, "--serial", plain, "--output-json", out)[0] == 0
    code, text, _ = multiitem("check", out)
    found = verdicts(text)
    assert code == 1 and [found[gate][0] for gate in GATES] == ["FAIL"] * 4 + ["NOT_RUN"]
    assert f"the multi evaluation ended at scores: {kind}" in found[SAME][1]


def failing_from(call, error, scores=packed):
    """Answers until the given call, then raises."""
    calls = iter(range(10**9))

    @raw
    def answer(body):
        if next(calls) >= call:
            raise error
        return answering(scores)(body)

    return answer


@pytest.mark.parametrize(
    ("error", "kind"),
    [(httpx.ConnectError("refused"), "connection"), (httpx.ReadTimeout("slow"), "timeout")],
)
@pytest.mark.parametrize(("call", "stage"), [(0, "scores"), (2, "scores"), (5, "mutations"), (13, "timing")])
def test_what_was_measured_before_a_failure_is_kept(evaluated, error, kind, call, stage):
    code, _, content, _ = evaluated("multi", failing_from(call, error))
    assert code == 1 and content["failure"]["stage"] == stage and content["failure"]["kind"] == kind
    assert content["isolation"]["item_ids"]  # what was asked
    assert ("base_scores" in content["isolation"]) == (call > 0)
    if call == 2:
        assert len(content["isolation"]["replays"]) == 1
    if stage == "mutations":
        assert len(content["isolation"]["mutations"]) == 2
    if stage == "timing":
        assert 0 < len(content["performance"]["1"]["latencies_sec"]) < 5


def test_a_failure_at_the_end_fails_the_speed_gate_alone(multiitem, joined):
    path = joined(failing_from(20, httpx.ReadTimeout("slow")))
    code, out, _ = multiitem("check", path)
    assert code == 1
    assert [verdicts(out)[gate][0] for gate in GATES] == ["PASS", "PASS", "PASS", "FAIL", "PASS"]
    assert "the multi evaluation ended at timing: timeout" in verdicts(out)[SPEEDUP][1]


def test_a_serial_server_that_refuses_the_delimiter(multiitem, joined):
    @raw
    def refusing(body):
        if DELIMITER in body["query"]:
            return httpx.Response(400, json={"error": {"code": "delimiter_in_content"}})
        return answering(serial)(body)

    code, out, _ = multiitem("check", joined(packed, refusing))
    assert code == 1 and verdicts(out)[EQUIVALENCE][0] == "ERROR"
    assert "ended at query plus delimiter: http_error" in verdicts(out)[EQUIVALENCE][1]


def test_a_server_that_trickles_bytes_is_no_hang(multiitem, tmp_path):
    stop = threading.Event()

    def trickle(listener):
        connection, _ = listener.accept()
        with connection:
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"H")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=trickle, args=(listener,), daemon=True).start()
        start = time.monotonic()
        url, path = f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path / "e.json"
        code, _, err = multiitem(
            "evaluate", "--mode", "multi", "--url", url, "--output-json", path, "--timeout", "0.5", *SMALL
        )
        stop.set()
    assert time.monotonic() - start < 10
    assert code == 1 and ("timeout" in err or "connection" in err)


def test_nobody_listens(multiitem, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    path = tmp_path / "e.json"
    url = f"http://127.0.0.1:{port}"
    code, _, _ = multiitem("evaluate", "--mode", "serial", "--url", url, "--output-json", path, *SMALL)
    content = json.loads(path.read_text())
    assert code == 1 and content["failure"]["kind"] == "connection" and "base_scores" not in content["isolation"]


def test_ctrl_c_keeps_what_was_measured(multiitem, served, tmp_path):
    path = tmp_path / "e.json"
    url = served("multi", failing_from(5, KeyboardInterrupt()))
    assert multiitem("evaluate", "--mode", "multi", "--url", url, "--output-json", path, *SMALL)[0] == 130
    content = json.loads(path.read_text())
    assert content["failure"]["kind"] == "interrupted" and len(content["isolation"]["mutations"]) == 2


# What the server says


def counting(mask):
    """`/get_server_info` of a server that executes ``mask`` for every request."""
    calls = iter(range(1, 10**9))

    def info():
        done = next(calls)
        return {
            "backend": "jax",
            "vocab_size": 900,
            "multi_item_mask_impl": "segment",
            "multi_item_scoring_chunk_size": 0,
            "api_key": "secret",
            "executed": {
                "packed_sequences": {"dense": 0, "segment": 0} | ({mask: done} if mask else {}),
                "packed_items": {"dense": 0, "segment": 0} | ({mask: 9 * done} if mask else {}),
                "prefill_extend": {"items": 0},
                "serial_sequences": 0 if mask else done,
            },
        }

    return info


def test_what_was_executed_is_recorded(multiitem, joined, evaluated):
    _, _, content, _ = evaluated("multi", packed, info=counting("segment"))
    assert content["attestation"]["scores"]["mask"] == "segment"
    assert content["attestation"]["timing"]["packed_items"] > 0
    assert content["server"]["multi_item_mask_impl"] == "segment" and "api_key" not in content["server"]
    assert multiitem("check", joined(info=counting("segment")))[0] == 0


def test_another_mask_than_the_declared_one_fails(multiitem, joined):
    code, out, _ = multiitem("check", joined(info=counting("dense")))
    assert code == 1
    assert [verdicts(out)[gate][0] for gate in GATES] == ["FAIL"] * 4 + ["PASS"]
    assert "segment was requested, but the server executed dense" in verdicts(out)[SAME][1]


def test_hardly_packed_items_are_noted(multiitem, joined):
    def info():
        return {"multi_item_scoring_chunk_size": 2, "multi_item_mask_impl": "segment"}

    code, out, _ = multiitem("check", joined(info=info))
    assert code == 0 and "packs at most 2 items" in out


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"multi_item_scoring_delimiter": 7}, "its delimiter is 7, but 999 was given (--delimiter)"),
        ({"backend": "pytorch"}, "its backend is pytorch, but jax was given (--backend)"),
        ({"vocab_size": 800}, "its vocab size is 800, but 900 was given (--vocab-size)"),
        ({"semantics": {"declared": "all_delims_prefix"}}, "equals no serial scoring"),
        ({"multi_item_scoring_delimiter": None}, "scores serially (it has no delimiter); give the"),
        ({"enable_mis": False}, "says that it scores serially"),
    ],
)
def test_the_server_contradicts_the_options(evaluated, info, message):
    code, _, content, err = evaluated("multi", packed, info=lambda: info)
    assert (code, content) == (2, None) and message in err and err.count("\n") == 1
    assert "the multi-item server http://multi " in err


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"multi_item_scoring_delimiter": 7}, "packs items (with the delimiter 7); the baseline scores serially"),
        ({"enable_mis": True}, "packs items (with enable_mis)"),
        ({"multi_item_enable_prefill_extend": True}, "runs prefill+extend; the baseline"),
    ],
)
def test_what_says_that_it_is_no_serial_server_is_no_baseline(evaluated, info, message):
    code, _, content, err = evaluated("serial", serial, info=lambda: info)
    assert (code, content) == (2, None) and message in err and "the serial server http://serial " in err


def test_the_servers_own_delimiter_counts_where_nobody_says_another(multiitem, served, tmp_path):
    """A healthy server that packs with the delimiter 5, evaluated with the options at their defaults."""

    def packed_with_5(query, items, labels):
        assert 5 not in query and not any(5 in item for item in items)
        return serial([*query, 5], items, labels)

    multi = served("multi", packed_with_5, lambda: {"multi_item_scoring_delimiter": 5})
    words = ["--labels", "6,7", "--vocab-size", "900", "--items", "1,32", "--query-tokens", "8", "--item-tokens", "3"]
    paths = [tmp_path / name for name in ("multi.json", "serial.json", "combined.json")]
    assert multiitem("evaluate", "--mode", "multi", "--url", multi, "--output-json", paths[0], *words)[0] == 0
    plain = ["--mode", "serial", "--url", served("serial", serial), "--output-json", paths[1], "--delimiter", "5"]
    assert multiitem("evaluate", *plain, *words)[0] == 0
    both = ["--multi", paths[0], "--serial", paths[1], "--output-json", paths[2]]
    assert multiitem("combine", *both)[0] == 0
    _, out, _ = multiitem("check", paths[2])
    assert [verdicts(out)[gate][0] for gate in (SAME, CHANGED, EQUIVALENCE)] == ["PASS"] * 3, out


def test_the_engine_declares_its_semantics_and_backend(multiitem, joined):
    path = joined(packed_query_prefix, multi_words=("--engine", "sglang"), backend=None, info=lambda: {"enable_mis": 1})
    _, out, _ = multiitem("check", path)
    assert verdicts(out)[EQUIVALENCE][0] == "PASS", out


def test_an_engine_that_masks_nothing_on_this_device(multiitem, joined):
    def info():
        return {"multi_item_scoring_delimiter": DELIMITER, "attention_backend": "native", "device": "cpu"}

    code, out, _ = multiitem("check", joined(info=info, multi_words=("--engine", "sgl-jax")))
    assert code == 1 and "no item mask" in verdicts(out)[SAME][1]


# Joining


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (("--seed", "7"), "isolation.query_ids[0] is"),
        (("--labels", "5,7"), "labels[1] is 6 and 7"),
        (("--delimiter", "998"), "delimiter is 999 and 998"),
        (("--items", "1,32,40"), "timed_request.item_ids has 32 and 40 entries"),
        (("--vocab-size", "800"), "isolation.query_ids["),
        (("--model", "elsewhere/other"), "is of the model 'tiny'"),
    ],
)
def test_other_requests_are_refused(multiitem, evaluated, tmp_path, words, difference):
    _, multi, _, _ = evaluated("multi", packed)
    code, plain, _, err = evaluated("serial", serial, *words)
    assert code == 0, err
    out = tmp_path / "out.json"
    code, _, err = multiitem("combine", "--multi", multi, "--serial", plain, "--output-json", out)
    assert code == 2 and difference in err and err.count("\n") == 1 and not out.exists()


def test_the_same_model_in_another_directory(multiitem, evaluated, tmp_path):
    _, multi, _, _ = evaluated("multi", packed, "--model", "/data/tiny")
    _, plain, _, _ = evaluated("serial", serial, "--model", "hub/tiny")
    out = tmp_path / "out.json"
    assert multiitem("combine", "--multi", multi, "--serial", plain, "--output-json", out)[0] == 0


def test_the_sides_are_not_exchanged(multiitem, evaluated, tmp_path):
    _, multi, _, _ = evaluated("multi", packed)
    _, plain, _, _ = evaluated("serial", serial)
    code, _, err = multiitem("combine", "--multi", plain, "--serial", multi, "--output-json", tmp_path / "out.json")
    assert code == 2 and "mode is 'serial'" in err


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("isolation.base_scores.3.1", math.nan, "isolation.base_scores[3][1] is nan; expected a finite number"),
        ("isolation.base_scores.3.1", math.inf, "isolation.base_scores[3][1] is inf"),
        ("isolation.base_scores.3.1", "0.5", "Expected `float`, got `str` - at `$.isolation.base_scores[3][1]`"),
        ("isolation.base_scores.3", [0.5], "isolation.base_scores[3] has 1 scores; expected one for each of 2 labels"),
        ("isolation.base_scores", [[0.5, 0.5]], "isolation.base_scores has 1 rows; expected one for each of 26 items"),
        ("isolation.replays.0", [], "isolation.replays[0] has 0 rows"),
        ("isolation.same_length_mutation.mutated_index", 26, "mutated_index is 26; expected 0 to 25"),
        ("isolation.mutations.0.scores.0.0", math.nan, "isolation.mutations[0].scores[0][0] is nan"),
        ("performance.32.latencies_sec", [0.0], "performance.32 holds 0.0"),
        ("performance.32.latencies_sec", [], "performance.32.latencies_sec is empty"),
        ("performance.32.p50_sec", math.nan, "performance.32 holds nan"),
        ("semantics", "all_delims_prefix", "semantics"),
        ("schema_version", "multiitem_evaluation_v2", "is a 'multiitem_evaluation_v2' file"),
        ("labels", [], "labels is empty"),
        ("isolation.mutations.0.mutated_item_ids.0", 10, "isolation.mutations[0].mutated_item_ids["),
    ],
)
def test_a_damaged_evaluation_is_refused(multiitem, evaluated, tmp_path, path, new, message):
    _, multi, content, _ = evaluated("multi", packed)
    _, plain, _, _ = evaluated("serial", serial)
    multi.write_text(json.dumps(changed(content, path, new)))
    code, _, err = multiitem("combine", "--multi", multi, "--serial", plain, "--output-json", tmp_path / "out.json")
    assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize("field", ["isolation", "performance", "labels", "isolation.item_ids", "isolation.base_scores"])
def test_a_missing_field_is_named(multiitem, evaluated, tmp_path, field):
    _, multi, content, _ = evaluated("multi", packed)
    _, plain, _, _ = evaluated("serial", serial)
    multi.write_text(json.dumps(without(content, field)))
    code, _, err = multiitem("combine", "--multi", multi, "--serial", plain, "--output-json", tmp_path / "out.json")
    assert code == 2 and field.split(".")[-1] in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"), [("", "not valid JSON"), ("[]", "no object"), ("[" * 100_000, "not valid JSON")]
)
def test_a_file_that_is_no_evaluation(multiitem, tmp_path, text, message):
    path = tmp_path / "e.json"
    path.write_text(text)
    code, _, err = multiitem("combine", "--multi", path, "--serial", path, "--output-json", tmp_path / "o.json")
    assert code == 2 and message in err and err.count("\n") == 1


def test_two_torch_references_are_one_too_many(multiitem, tmp_path):
    both = ("--torch-serial", "x", "--reference", "y")
    code, _, err = multiitem("combine", "--multi", "m", "--serial", "s", *both, "--output-json", tmp_path / "o.json")
    assert code == 2 and "give one of them" in err


def test_a_torch_reference_served_by_jax_is_none(multiitem, evaluated, tmp_path):
    _, multi, _, _ = evaluated("multi", packed)
    _, plain, _, _ = evaluated("serial", serial)
    words = ("--serial", plain, "--torch-serial", plain, "--output-json", tmp_path / "o.json")
    code, _, err = multiitem("combine", "--multi", multi, *words)
    assert code == 2 and "backend is 'jax'" in err


def test_torch_that_differs_fails_parity(multiitem, joined):
    def off(query, items, labels):
        return serial(query, items, labels) + np.array([0.03, -0.03])

    code, out, _ = multiitem("check", joined(torch=off))
    assert code == 1 and verdicts(out)[PARITY][0] == "FAIL"


@pytest.mark.parametrize(("backend", "verdict"), [("pytorch", "NOT_RUN"), (None, "INCONCLUSIVE")])
def test_parity_needs_jax_on_the_serial_side(multiitem, joined, backend, verdict):
    code, out, _ = multiitem("check", joined(backend=backend))
    assert verdicts(out)[PARITY][0] == verdict
    assert code == (0 if verdict == "NOT_RUN" else 1)


def test_sides_served_by_different_backends(multiitem, evaluated, tmp_path):
    _, multi, _, _ = evaluated("multi", packed)
    _, plain, _, _ = evaluated("serial", serial, backend="pytorch")
    out = tmp_path / "out.json"
    multiitem("combine", "--multi", multi, "--serial", plain, "--output-json", out)
    code, text, _ = multiitem("check", out)
    assert code == 1 and verdicts(text)[SPEEDUP][0] == "INCONCLUSIVE" and "pytorch" in verdicts(text)[SPEEDUP][1]


def test_the_reference_computed_here(multiitem, evaluated, tmp_path, monkeypatch):
    from pytest_multiitem.engine import model_files as engine
    from pytest_multiitem.scoring.readout import Readout

    class Backend:
        vocab_size, classes = 1000, None
        versions = {"torch": "x"}  # noqa: RUF012

        def serial(self, tokens, labels, normalise):
            return Readout(np.log(hashed(tokens, labels))[None].astype(np.float32))

    asked = []
    monkeypatch.setattr(engine, "resolve_model", lambda model: asked.append(model))
    monkeypatch.setattr(engine, "load_backend", lambda name, directory, dtype, device: asked.append(name) or Backend())
    _, multi, _, _ = evaluated("multi", packed)
    _, plain, _, _ = evaluated("serial", serial)
    out = tmp_path / "out.json"
    words = ("--serial", plain, "--reference", "some/model", "--output-json", out)
    assert multiitem("combine", "--multi", multi, *words)[0] == 0
    assert asked == ["some/model", "transformers"]
    combined = json.loads(out.read_text())
    assert combined[PARITY_FIELD] < 1e-6 and combined["max_abs_diff_jax_multi_vs_torch_multi_semantic"] < 1e-6
    assert multiitem("check", out, "--require", "all")[0] == 0

    monkeypatch.setattr(Backend, "vocab_size", 900)
    code, _, err = multiitem("combine", "--multi", multi, *words)
    assert code == 2 and "token ids below 900" in err


def test_a_reference_that_does_not_exist(multiitem, evaluated, tmp_path):
    _, multi, _, _ = evaluated("multi", packed)
    _, plain, _, _ = evaluated("serial", serial)
    words = ("--serial", plain, "--reference", tmp_path / "absent", "--output-json", tmp_path / "o.json")
    code, _, err = multiitem("combine", "--multi", multi, *words)
    assert code == 2 and err.startswith("multiitem: --reference ") and err.count("\n") == 1


def test_sides_timed_on_different_machines(multiitem, evaluated, joined, tmp_path):
    joined()
    plain = tmp_path / "serial.json"
    content = json.loads(plain.read_text())
    plain.write_text(json.dumps(changed(content, "machine.processor", "another")))
    out = tmp_path / "out.json"
    multiitem("combine", "--multi", tmp_path / "multi.json", "--serial", plain, "--output-json", out)
    code, text, _ = multiitem("check", out)
    assert code == 1 and verdicts(text)[SPEEDUP][0] == "INCONCLUSIVE" and "processor" in verdicts(text)[SPEEDUP][1]


# A workload


def lines_of(path, *requests):
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


@pytest.mark.parametrize("field", ["same_length_mutation", "changed_length_mutation"])
def test_a_mutation_that_changes_nothing(multiitem, joined, tmp_path, field):
    joined()
    for name in ("multi", "serial"):
        path = tmp_path / f"{name}.json"
        content = json.loads(path.read_text())
        kinds = ("same_length",) if field == "same_length_mutation" else ("longer", "shorter")
        for mutation in content["isolation"]["mutations"]:
            if mutation["mutation"] in kinds:
                mutation["mutated_item_ids"] = content["isolation"]["item_ids"][mutation["mutated_index"]]
        path.write_text(json.dumps(content))
    out = tmp_path / "out.json"
    words = ("--serial", tmp_path / "serial.json", "--output-json", out)
    assert multiitem("combine", "--multi", tmp_path / "multi.json", *words)[0] == 0
    code, text, _ = multiitem("check", out)
    gate = SAME if field == "same_length_mutation" else CHANGED
    assert code == 1 and verdicts(text)[gate][0] == "INCONCLUSIVE" and "is none" in verdicts(text)[gate][1]


def test_every_request_of_a_workload_is_measured(multiitem, joined, tmp_path):
    one = {"query": [20, 21], "items": [[30, 31], [32], [33, 34, 35]]}
    other = {"query": [22], "items": [[40], [41, 42], [43]], "label_token_ids": [6, 7]}
    workload = lines_of(tmp_path / "w.jsonl", one, other, one)

    def leaks_behind_22(query, items, labels):
        return (leaking(lambda i, j, n: j < i) if query == [22] else packed)(query, items, labels)

    path = joined(packed, serial, "--workload", workload)
    assert multiitem("check", path)[0] == 0
    content = json.loads((tmp_path / "multi.json").read_text())
    assert [c["isolation"]["labels"] for c in content["further_cases"]] == [[6, 7], [5, 6]]
    assert all(len(c["isolation"]["replays"]) == 2 for c in content["further_cases"])
    assert [c["semantic_alignment"] for c in content["further_cases"] if "semantic_alignment" in c] == []
    code, out, _ = multiitem("check", joined(leaks_behind_22, serial, "--workload", workload))
    assert code == 1 and verdicts(out)[SAME][0] == "FAIL"


def test_a_workload_without_three_items(multiitem, joined, tmp_path):
    workload = lines_of(tmp_path / "w.jsonl", {"query": [20, 21], "items": [[30, 31], [32, 33]]})
    _, out, _ = multiitem("check", joined(packed, serial, "--workload", workload))
    assert verdicts(out)[SAME][0] == "INCONCLUSIVE" and "three" in verdicts(out)[SAME][1].replace("3 items", "three")


def test_a_workload_of_single_items(multiitem, joined, tmp_path):
    workload = lines_of(tmp_path / "w.jsonl", {"query": [20, 21], "items": [[30, 31]]})
    code, out, _ = multiitem("check", joined(packed, serial, "--workload", workload))
    assert code == 1 and verdicts(out)[SAME][0] == "NOT_RUN"


def test_an_unusable_workload_is_one_line(evaluated, tmp_path):
    code, _, content, err = evaluated("multi", packed, "--workload", lines_of(tmp_path / "w", {"query": "text"}))
    assert (code, content) == (2, None) and "line 1" in err


# Files of other tools


FURTHER = (
    "schema_version", "created_at_utc", "package_version", "semantics", "backend", "seed", "warmup_runs", "complete",
    "further_cases", "leak_visibility", "timed_request", "attestation", "server", "machine", "isolation.name",
    "isolation.labels", "isolation.replays", "isolation.mutations", "semantic_alignment.replays",
)  # fmt: skip


def foreign(content):
    paths = [path for path in FURTHER if path.split(".")[0] in content]
    return without(content, *paths)


def test_a_foreign_pair_is_inconclusive(multiitem, joined, tmp_path):
    joined()
    for name in ("multi", "serial", "torch"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(foreign(json.loads(path.read_text()))))
    out = tmp_path / "out.json"
    words = [
        f"--{n}={tmp_path / f}.json" for n, f in (("multi", "multi"), ("serial", "serial"), ("torch-serial", "torch"))
    ]
    code, _, err = multiitem("combine", *words, "--output-json", out)
    assert code == 0, err
    combined = json.loads(out.read_text())
    assert combined["equivalence_query_plus_delimiter"]["max_abs_diff"] == 0.0
    code, text, _ = multiitem("check", out)
    assert code == 1 and {verdict for verdict, _ in verdicts(text).values()} == {"INCONCLUSIVE"}
    assert "not measured" in verdicts(text)[SAME][1]
    assert multiitem("check", out, "--allow-inconclusive")[0] == 0


def combined_of_another_tool(**change):
    """The two files of the tool whose field names these are."""
    latencies = [0.01] * 3
    multi = {
        "model": "m",
        "labels": [5, 6],
        "isolation": {"same_length_mutation_max_abs_diff": 0.0, "changed_length_mutation_max_abs_diff": 0.0},
        "equivalence": {"max_abs_diff": 0.4},
        "equivalence_query_plus_delimiter": {"max_abs_diff": 0.0148},
        "performance": {
            "32": {
                "speedup_vs_serial_p50": 4.69,
                "multi_latencies_sec": latencies,
                "serial_latencies_sec": [4.69 * s for s in latencies],
            }
        },
    }
    parity = {"model": "m", "labels": [5, 6], PARITY_FIELD: 0.0041}
    for path, new in change.items():
        side = parity if path == PARITY_FIELD else multi
        side.update(changed(side, path.replace("__", "."), new))
    return multi, parity


@pytest.fixture
def other_tools_files(tmp_path):
    def write(**change):
        paths = [tmp_path / "multi_vs_serial.json", tmp_path / "parity.json"]
        for path, content in zip(paths, combined_of_another_tool(**change), strict=True):
            path.write_text(json.dumps(content))
        return paths

    return write


def test_foreign_results_are_inconclusive(multiitem, other_tools_files):
    code, out, _ = multiitem("check", *other_tools_files())
    assert code == 1 and {verdict for verdict, _ in verdicts(out).values()} == {"INCONCLUSIVE"}
    assert multiitem("check", *other_tools_files(), "--allow-inconclusive", "--require", "all")[0] == 0


@pytest.mark.parametrize(
    ("path", "value", "gate"),
    [
        ("isolation__same_length_mutation_max_abs_diff", 1e-9, SAME),
        ("isolation__changed_length_mutation_max_abs_diff", 0.0117, CHANGED),
        ("isolation__same_length_mutation_max_abs_diff", -1.0, SAME),
        ("equivalence_query_plus_delimiter__max_abs_diff", math.nan, EQUIVALENCE),
        ("equivalence_query_plus_delimiter__max_abs_diff", math.inf, EQUIVALENCE),
        ("equivalence_query_plus_delimiter__max_abs_diff", math.nextafter(0.02, 1), EQUIVALENCE),
        ("performance__32__speedup_vs_serial_p50", math.nan, SPEEDUP),
        (PARITY_FIELD, 0.5, PARITY),
        (PARITY_FIELD, None, PARITY),
        ("isolation__same_length_mutation_max_abs_diff", None, SAME),
    ],
)
def test_a_bad_value_needs_no_evidence_to_fail(multiitem, other_tools_files, path, value, gate):
    code, out, _ = multiitem("check", *other_tools_files(**{path: value}), "--allow-inconclusive")
    assert code == 1 and verdicts(out)[gate][0] == "FAIL"


def test_files_of_different_evaluations(multiitem, other_tools_files):
    multi, parity = other_tools_files()
    parity.write_text(json.dumps(json.loads(parity.read_text()) | {"model": "another"}))
    code, _, err = multiitem("check", multi, parity)
    assert code == 2 and "differ in model" in err


# Judging


@pytest.fixture
def edited(joined, tmp_path):
    """A healthy combined file, changed."""
    path = joined()
    content = json.loads(path.read_text())

    def write(*, drop=(), **change):
        new = without(content, *drop)
        for where, value in change.items():
            new = changed(new, where.replace("__", "."), value)
        path.write_text(json.dumps(new))
        return path

    return write


def test_the_edge_of_a_limit(multiitem, edited):
    """Of a file without its evaluations: with them, any other value than theirs contradicts them."""

    def at(value):
        return edited(drop=["sources"], equivalence_query_plus_delimiter={"max_abs_diff": value, "abs_diffs": [value]})

    assert multiitem("check", at(0.02), "--allow-inconclusive")[0] == 0
    code, out, _ = multiitem("check", at(math.nextafter(0.02, 1)), "--allow-inconclusive")
    assert code == 1 and "0.020000000000000004" in verdicts(out)[EQUIVALENCE][1]


@pytest.mark.parametrize(
    ("field", "gate"),
    [
        ("isolation", SAME),
        ("isolation.same_length_mutation_max_abs_diff", SAME),
        ("isolation.changed_length_mutation_max_abs_diff", CHANGED),
        ("equivalence_query_plus_delimiter", EQUIVALENCE),
        ("equivalence_query_plus_delimiter.max_abs_diff", EQUIVALENCE),
        ("performance", SPEEDUP),
    ],
)
def test_a_missing_value_fails_and_is_named(multiitem, edited, field, gate):
    code, out, _ = multiitem("check", edited(drop=[field]), "--allow-inconclusive")
    verdict, line = verdicts(out)[gate]
    assert (code, verdict) == (1, "FAIL") and field in line and "missing" in line


@pytest.mark.parametrize("gate", GATES)
def test_a_value_without_its_evidence_is_inconclusive(multiitem, edited, gate):
    path = edited(drop=[f"evidence.{gate}", "sources"])
    code, out, _ = multiitem("check", path)
    assert code == 1 and verdicts(out)[gate][0] == "INCONCLUSIVE"
    assert multiitem("check", path, "--allow-inconclusive")[0] == 0


@pytest.mark.parametrize(
    ("evidence", "value", "verdict"),
    [
        ("noise_floor", 1e-3, "INCONCLUSIVE"),
        ("noise_floor", math.nan, "FAIL"),
        ("leak_visibility", 0.0, "INCONCLUSIVE"),
        ("leak_visibility", math.nan, "FAIL"),
        ("leak_visibility", math.inf, "FAIL"),
        ("score_spread", 0.0, "INCONCLUSIVE"),
        ("doubt", "why", "INCONCLUSIVE"),
        ("problem", "why", "FAIL"),
    ],
)
def test_evidence_counts(multiitem, edited, evidence, value, verdict):
    code, out, _ = multiitem("check", edited(drop=["sources"], **{f"evidence__{SAME}__{evidence}": value}))
    assert code == 1 and verdicts(out)[SAME][0] == verdict


def point(serial_sec, multi_sec, **more):
    """One N of combined results, with all figures that follow from its times."""
    sides = {"serial": serial_sec, "multi": multi_sec}
    figures = {f"{side}_latencies_sec": seconds for side, seconds in sides.items()}
    return figures | {
        "speedup_vs_serial_p50": p50(serial_sec) / p50(multi_sec),
        "speedup_interval_95": ratio_interval(serial_sec, multi_sec, paired=False),
    } | more  # fmt: skip


@pytest.mark.parametrize(
    ("timed", "verdict"),
    [
        (point([4.0, 4.1, 4.0, 3.9, 4.0], [1.0] * 5), "INCONCLUSIVE"),  # a PASS, but for the evaluations
        (point([2.0, 2.1, 2.0, 1.9, 2.0], [1.0] * 5), "FAIL"),
        (point([3.5, 2.5, 3.6, 2.4, 3.4], [1.0] * 5), "INCONCLUSIVE"),
        (point([4.0] * 5, [1.0] * 5, speedup_interval_95=None), "INCONCLUSIVE"),
        (point([4.0] * 5, [1.0] * 4), "INCONCLUSIVE"),
        (point([4.0] * 5, [1.0] * 5, speedup_vs_serial_p50=math.nan), "FAIL"),
        (point([4.0] * 5, [1.0] * 5, speedup_vs_serial_p50=None), "FAIL"),
        (point([4.0] * 5, [1.0] * 5, speedup_vs_serial_p50=5.0), "FAIL"),
        (point([4.0] * 5, [1.0] * 5, speedup_interval_95=[4.0, 9.0]), "FAIL"),
        (point([4.0] * 5, [1.0] * 5, multi_p50_sec=2.0), "FAIL"),
        (point([4.0] * 5, [1.0] * 5, serial_latencies_sec=[4.0, 4.0, -4.0]), "FAIL"),
    ],
)
def test_the_speed_gate(multiitem, edited, timed, verdict):
    path = edited(drop=["sources"], performance__32=timed)
    code, out, _ = multiitem("check", path)
    assert code == 1 and verdicts(out)[SPEEDUP][0] == verdict


def test_not_run_fails_only_where_it_is_required(multiitem, joined, edited):
    path = joined(torch=None)
    code, out, _ = multiitem("check", path)
    assert code == 0 and verdicts(out)[PARITY][0] == "NOT_RUN" and "--torch-model" in verdicts(out)[PARITY][1]
    assert multiitem("check", path, "--require", SAME)[0] == 0
    assert multiitem("check", path, "--require", f"{SAME},{PARITY}")[0] == 1
    assert multiitem("check", path, "--require", "all", "--allow-inconclusive")[0] == 1


def test_an_item_count_that_was_not_timed(multiitem, joined):
    path = joined(packed, serial, "--items", "1,8")
    code, out, _ = multiitem("check", path)
    assert code == 0 and verdicts(out)[SPEEDUP][0] == "NOT_RUN" and "N = 32" in verdicts(out)[SPEEDUP][1]


def test_nothing_measured_is_no_success(multiitem, edited):
    path = edited(drop=["sources"], **{f"evidence__{gate}": {"not_run": "no"} for gate in GATES})
    code, out, _ = multiitem("check", path)
    assert code == 1 and {verdict for verdict, _ in verdicts(out).values()} == {"NOT_RUN"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "these are no combined results"),
        ('{"schema_version": "multiitem_evaluation_v1"}', "is a 'multiitem_evaluation_v1' file"),
        ('{"isolation": {"same_length_mutation_max_abs_diff": "0"}}', "Expected `float | null`, got `str`"),
        ('{"isolation": {"same_length_mutation_max_abs_diff": true}}', "got `bool`"),
        ('{"performance": []}', "$.performance"),
        ("nothing", "not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_judged(multiitem, tmp_path, text, message):
    path = tmp_path / "c.json"
    path.write_text(text)
    code, out, err = multiitem("check", path)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_an_absent_file(multiitem, tmp_path):
    code, _, err = multiitem("check", tmp_path / "absent.json")
    assert code == 2 and "No such file" in err


def test_an_unknown_required_gate(multiitem, edited):
    code, _, err = multiitem("check", edited(), "--require", "same_length_isolation")
    assert code == 2 and f"did you mean {SAME!r}" in err


# Options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--url", "localhost:3"), "--url 'localhost:3' is not valid"),
        (("--labels", "-1"), "--labels '-1' is not valid: expected a comma-separated list"),
        (("--labels", "a"), "option --labels: 'a' is not valid: it is text, and there is no tokenizer for it"),
        (("--timed-runs", "0"), "--bench-timed-runs '0' is not valid"),
        (("--semantics", "causal"), "--semantics 'causal' is not valid"),
        (("--timeout", "-1"), "--request-timeout '-1' is not valid"),
        (("--vocab-size", "2"), "leaves"),
        (("--workload", "absent"), "--workload 'absent' is not valid: expected an existing file"),
        (("--engine", "sglan"), "no engine is called 'sglan'"),
    ],
)
def test_an_option_that_cannot_be_used(multiitem, served, tmp_path, words, message):
    url = served("multi", packed)
    path = tmp_path / "e.json"
    code, _, err = multiitem("evaluate", "--mode", "multi", "--url", url, "--output-json", path, *SMALL, *words)
    assert code == 2 and message in err and err.count("\n") == 1 and not path.exists()


def test_an_unknown_mode(multiitem, tmp_path):
    assert multiitem("evaluate", "--mode", "both", "--url", "http://x", "--output-json", tmp_path / "e")[0] == 2


def test_an_output_that_cannot_be_written(multiitem, served, tmp_path):
    url = served("multi", packed)
    code, _, err = multiitem("evaluate", "--mode", "multi", "--url", url, "--output-json", tmp_path, *SMALL)
    assert code == 2 and "cannot write" in err


def test_help_imports_no_engine():
    program = (
        "import sys; sys.argv = ['multiitem', '--help']\n"
        "from pytest_multiitem import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'jax', 'scipy', 'numpy', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]" and "evaluate" in done.stdout


def test_an_unpaired_interval():
    fast, slow = [1.0, 1.1, 0.9, 1.0, 1.05], [4.0, 4.2, 3.9, 4.1]
    low, high = ratio_interval(slow, fast, paired=False)
    assert 3.4 < low <= 4.05 <= high < 4.8
    assert ratio_interval([1.0] * 5, [2.0] * 5, paired=False) == (0.5, 0.5)
    assert ratio_interval([1.0, 2.0], fast, paired=False) is None


def test_the_records_survive_a_round_trip(evaluated):
    from pytest_multiitem.evaluation.records import Evaluation

    _, _, content, _ = evaluated("serial", serial)
    assert json.loads(msgspec.json.encode(msgspec.convert(content, Evaluation))) == content
