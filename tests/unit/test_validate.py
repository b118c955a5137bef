"""Artefacts are examined: what holds passes, and whatever does not is one line that says so."""

import copy
import json
import math

import msgspec
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import drop, set_to
from sample_matrix import SEEN, gate_record, matrix

from pytest_multiitem import cli
from pytest_multiitem.bench.statistics import percentiles
from pytest_multiitem.commands.validate import validate as validate_command
from pytest_multiitem.commands.workload import workload as workload_command
from pytest_multiitem.comparison.decision import compare as offline
from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.records import Comparison, ScoreMatrix
from pytest_multiitem.comparison.workload import generate, head, request_sha256
from pytest_multiitem.errors import UsageError
from pytest_multiitem.validation.validate import examine

ITEMS = 6
#: Client chunk size → the shortest run in milliseconds; 1 is beyond the guardrail of 3.
FASTEST = {1: 90.0, 3: 60.0, 6: 40.0}


def problems(path):
    return examine(path).problems


def workload_content():
    return json.loads(msgspec.json.encode(generate(query_tokens=10, num_items=ITEMS, item_tokens=4)))


def run_of(total, chunks, **more):
    return {"ok": True, "total_e2e_ms": total, "call_latencies_ms": [0.95 * total / chunks] * chunks} | more


def row_of(size, runs=5, shortest=None, scores=True):
    """A row as a careful foreign tool writes it: computed from its runs, without any of our further fields."""
    chunks = math.ceil(ITEMS / size)
    totals = [(shortest or FASTEST[size]) + step for step in (2, 0, 4, 1, 3, 5, 6)[:runs]]
    calls = [call for total in totals for call in run_of(total, chunks)["call_latencies_ms"]]
    row = {
        "client_chunk_size": size,
        "status": "ok",
        "num_chunks": chunks,
        "timed_runs": runs,
        "successful_runs": runs,
        "success_rate": 1.0,
        "p50_total_e2e_ms": float(np.median(totals)),
        "p95_total_e2e_ms": float(np.percentile(totals, 95)),
        "mean_total_e2e_ms": float(np.mean(totals)),
        "mean_chunk_call_ms": float(np.mean(calls)),
        "p95_chunk_call_ms": float(np.percentile(calls, 95)),
        "throughput_items_sec": 1000 * ITEMS / float(np.mean(totals)),
        "failure_reason_counts": {},
        "run_records": [run_of(total, chunks) for total in totals],
    }
    return row | {"reference_scores": [[0.1 * i, 1 - 0.1 * i] for i in range(ITEMS)]} if scores else row


def failing_row(size, kinds):
    """A row in which the first runs failed, by these kinds."""
    row = row_of(size)
    for run, kind in zip(row["run_records"], kinds, strict=False):
        run |= {"ok": False, "failure_reason": kind, "total_e2e_ms": None, "call_latencies_ms": []}
    totals = [run["total_e2e_ms"] for run in row["run_records"] if run["ok"]]
    row |= {
        "status": "partial_failure" if totals else "failed",
        "successful_runs": len(totals),
        "success_rate": len(totals) / 5,
        "failure_reason_counts": {kind: kinds.count(kind) for kind in kinds},
    }
    figures = [np.median(totals), np.percentile(totals, 95), np.mean(totals)] if totals else [None] * 3
    names = ("p50_total_e2e_ms", "p95_total_e2e_ms", "mean_total_e2e_ms")
    row |= {n: f if f is None else float(f) for n, f in zip(names, figures, strict=True)}
    calls = [call for run in row["run_records"] for call in run["call_latencies_ms"]]
    row |= (
        {"mean_chunk_call_ms": float(np.mean(calls)), "p95_chunk_call_ms": float(np.percentile(calls, 95))}
        if calls
        else dict.fromkeys(("mean_chunk_call_ms", "p95_chunk_call_ms"))
    )
    return row | {"throughput_items_sec": 1000 * ITEMS / figures[2] if totals else None}


def matrix_content():
    workload = generate(query_tokens=10, num_items=ITEMS, item_tokens=4)
    return {
        "schema_version": "score_matrix_v1",
        "backend": "jax",
        "evaluation_view": "portable",
        "workload_ref": {
            "path": "canonical_workload.json",
            "request_id": "canonical-0",
            "request_sha256": workload.checksums["canonical-0_sha256"],
        },
        "workload": head(workload),
        "results": [row_of(1), row_of(3), row_of(6, shortest=58.0)],
        "confirm_results": [row_of(3, 7), row_of(6, 7, shortest=58.5)],
        "summary": {
            "guardrail_ratio": 1.25,
            "sweep_recommendation": {"selected": {"client_chunk_size": 6}},
            "confirm_chunk_sizes": [1, 3, 6],
            "confirm_recommendation": {"selected": {"client_chunk_size": 6}},
            "final_recommendation": {"selected": {"client_chunk_size": 6}},
        },
    }


def side_row(p95, throughput, **more):
    return {
        "p50_ms": p95 - 2,
        "p95_ms": p95,
        "throughput_items_sec": throughput,
        "success_rate": 1.0,
        "eligible": True,
        "why_not": None,
    } | more


def compared_row(size, a, b, **more):
    return {
        "client_chunk_size": size,
        "sides": {"jax": side_row(*a), "pytorch": side_row(*b)},
        "correct": True,
        "checks": [{"gate": "cross_backend_max_abs_le_0p02", "verdict": "PASS", "reason": "0 is within the limit"}],
        "p95_delta_percent": 100 * (a[0] / b[0] - 1),
        "throughput_delta_percent": 100 * (a[1] / b[1] - 1),
    } | more


def winner(backend, size, p95, throughput, view="portable"):
    return {
        "backend": backend,
        "view": view,
        "client_chunk_size": size,
        "throughput_items_sec": throughput,
        "p50_ms": p95 - 2,
        "p95_ms": p95,
    }


def comparison_content():
    """Two views of two backends; row 1 is beyond the guardrail, row 64 is not correct."""
    rows = [
        compared_row(1, (900.0, 90.0), (950.0, 80.0)),
        compared_row(8, (100.0, 100.0), (105.0, 110.0)),
        compared_row(
            64,
            (101.0, 500.0),
            (102.0, 600.0),
            correct=False,
            checks=[{"gate": "cross_backend_max_abs_le_0p02", "verdict": "FAIL", "reason": "0.3 exceeds the limit"}],
        ),
        compared_row(500, (110.0, 120.0), (104.0, 105.0)),
    ]
    rows[2]["sides"]["jax"] |= {"eligible": False, "why_not": "the scores disagree"}
    rows[2]["sides"]["pytorch"] |= {"eligible": False, "why_not": "the scores disagree"}
    jax, torch = winner("jax", 500, 110.0, 120.0), winner("pytorch", 8, 105.0, 110.0)
    return {
        "schema_version": "cross_backend_comparison_v1",
        "status": "complete",
        "workload_ref": matrix_content()["workload_ref"],
        "sides": [{"backend": b, "view": "portable", "complete": True} for b in ("jax", "pytorch")],
        "views": [
            {
                "view": "portable",
                "backends": ["jax", "pytorch"],
                "rows": rows,
                "guardrail_p95_ms": 125.0,
                "winner": jax,
                "winners_by_backend": {"jax": jax, "pytorch": torch},
            }
        ],
        "winners_by_backend": {"jax": jax, "pytorch": torch},
        "recommendation": {"text": "JAX at 500", "confidence": "high", "winner": jax},
    }


def partial_content():
    content = comparison_content() | {"status": "partial", "blocker": "no quota"}
    view = content["views"][0]
    view |= {"backends": ["jax"], "winner": None, "deferred": "no quota"}
    for row in view["rows"]:
        del row["sides"]["pytorch"]
        row |= {"correct": None, "checks": [], "p95_delta_percent": None, "throughput_delta_percent": None}
        row["sides"]["jax"] |= {"eligible": True, "why_not": None}
    best = winner("jax", 64, 101.0, 500.0)
    view["winners_by_backend"] = content["winners_by_backend"] = {"jax": best}
    content["sides"] = content["sides"][:1]
    content["recommendation"] = {"text": "none yet", "confidence": "none"}
    return content


CONTENTS = {
    "workload": workload_content,
    "matrix": matrix_content,
    "comparison": comparison_content,
    "partial": partial_content,
}


@pytest.fixture
def beside(tmp_path):
    """Write a file beside its canonical workload."""

    def write(content, name="file.json"):
        (tmp_path / "canonical_workload.json").write_text(json.dumps(workload_content()))
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


def changed(kind, change):
    content = json.loads(json.dumps(CONTENTS[kind]()))  # no part of it stands in two places
    change(content)
    return content


# -- what holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_valid_file(kind, beside):
    path = beside(CONTENTS[kind]())
    assert problems(path) == []


def test_a_run_of_the_gates_is_examined_by_its_own_schema(beside):
    content = json.loads(msgspec.json.encode(matrix([gate_record(**SEEN)])))
    assert problems(beside(content)) == []
    del content["run_id"]
    content["further"] = math.nan
    assert problems(beside(content)) == ["further: NaN or Infinity", "top level: 'run_id' is a required property"]


BASELINE = {
    "schema_version": "multiitem_baseline_v1",
    "name": "main",
    "saved_at_utc": "2026-01-01T00:00:00+00:00",
    "cells": [{"key": "a", "seconds": [0.1, 0.2], "items": 5}],
}


def test_a_baseline_is_examined_as_baselines_are(beside):
    assert problems(beside(BASELINE)) == []
    (line,) = problems(beside(BASELINE | {"cells": [{"key": "a", "seconds": [], "items": 5}]}))
    assert line == "cell 'a': it has no run"


def test_what_a_valid_file_holds_is_said_in_a_few_words(beside):
    said = {kind: examine(beside(make())).summary for kind, make in CONTENTS.items()}
    assert said == {
        "workload": "1 request of 10/6/4",
        "matrix": "jax portable, chunk sizes 1, 3, 6, 2 confirmed, no noise floor: compared, INCONCLUSIVE",
        "comparison": "complete: jax portable, pytorch portable",
        "partial": "partial: jax portable",
    }


# -- files of other tools ----------------------------------------------------------------------

BARE = {
    "workload": lambda: {
        "schema_version": "canonical_score_workload_v1",
        "requests": [
            {
                "request_id": "r",
                "query_token_ids": [1, 2],
                "items_token_ids": [[3, 4, 5], [6]],
                "label_token_ids": [8, 9],
            }
        ],
    },
    "matrix": lambda: {
        "schema_version": "score_matrix_v1",
        "backend": "jax",
        "evaluation_view": "portable",
        "results": [{"client_chunk_size": 8, "status": "ok"}, {"client_chunk_size": 16, "status": "failed"}],
    },
    "comparison": lambda: {
        "schema_version": "cross_backend_comparison_v1",
        "views": [
            {
                "view": "portable",
                "backends": ["jax", "pytorch"],
                "rows": [{"client_chunk_size": 8, "sides": {"jax": {}, "pytorch": {}}}],
                "winner": {"backend": "jax", "view": "portable", "client_chunk_size": 8, "throughput_items_sec": 5.0},
            }
        ],
    },
}


@pytest.mark.parametrize(
    ("kind", "expected"), [("workload", ["request r: it has no checksum"]), ("matrix", []), ("comparison", [])]
)
def test_only_what_no_tool_can_leave_out(kind, expected, beside):
    assert problems(beside(BARE[kind]())) == expected


@pytest.mark.parametrize("kind", CONTENTS)
def test_unknown_fields_are_no_problem(kind, beside):
    def with_unknown(value):
        if isinstance(value, dict):
            return {**{key: with_unknown(entry) for key, entry in value.items()}, "x_unknown": [{"y": None}]}
        return [with_unknown(entry) for entry in value] if isinstance(value, list) else value

    content = with_unknown(CONTENTS[kind]())
    if kind == "workload":  # there a checksum covers all of a request, and an unknown checksum is one
        del content["checksums"]["x_unknown"]
        content["checksums"]["canonical-0_sha256"] = request_sha256(content["requests"][0])
        content["discrimination"] = {}
    if kind != "workload":
        for row in content.get("results", []) + content.get("confirm_results", []):
            row["failure_reason_counts"] = {}
        content.get("winners_by_backend", {}).pop("x_unknown", None)
        for view in content.get("views", []):
            view["winners_by_backend"].pop("x_unknown")
            for row in view["rows"]:
                row["sides"].pop("x_unknown")
    assert problems(beside(content)) == []


@pytest.mark.parametrize("kind", CONTENTS)
def test_any_optional_field_may_be_missing(kind, beside):
    """Each field is left out in turn, wherever it stands: a problem at most where the schema needs it."""
    needed = {
        "schema_version", "requests", "request_id", "query_token_ids", "items_token_ids", "label_token_ids", "backend",
        "evaluation_view", "results", "client_chunk_size", "status", "ok", "selected", "view", "backends", "rows",
        "sides",
        "throughput_items_sec", "gate", "verdict", "reason", "text", "confidence",
    }  # fmt: skip
    names = {name for content in [CONTENTS[kind]()] for name in fields_of(content)} - needed
    assert len(names) >= 5
    for name in names:
        content = without(CONTENTS[kind](), name)
        if kind == "workload" and content["checksums" if name != "checksums" else "requests"]:
            content["checksums"] = {"canonical-0_sha256": request_sha256(content["requests"][0])}
        expected = {
            "blocker": ["status is partial, but no blocker is named"] if kind == "partial" else [],
            "views": ["it holds no view: neither views, nor portable_view, nor best_native_view"],
        }.get(name, [])
        assert problems(beside(content)) == expected, name


def fields_of(value):
    if isinstance(value, dict):
        return {key for key in value if key not in ("jax", "pytorch", "canonical-0_sha256")}.union(
            *(fields_of(entry) for entry in value.values())
        )
    return set().union(*(fields_of(entry) for entry in value)) if isinstance(value, list) else set()


def without(value, name):
    if isinstance(value, dict):
        return {key: without(entry, name) for key, entry in value.items() if key != name}
    return [without(entry, name) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("key", ["request_sha256", "sha256"])
def test_a_checksum_of_the_only_request_may_be_called_otherwise(key, beside):
    content = workload_content()
    content["checksums"] = {key: content["checksums"]["canonical-0_sha256"]}
    assert problems(beside(content)) == []
    content["checksums"][key] = "0" * 64
    (line,) = problems(beside(content))
    assert line.startswith(f"request canonical-0: the checksum '{key}' is 000")


def test_another_definition_of_p95_is_another_figure(beside):
    """What the public scripts write is what their runs give, interpolated linearly; perhaps rounded."""
    content = matrix_content()
    row = content["results"][0]
    row["p95_total_e2e_ms"] = round(row["p95_total_e2e_ms"])
    assert problems(beside(content)) == []
    for other in (row["p50_total_e2e_ms"], 93.3, 93.9):
        row["p95_total_e2e_ms"] = other
        (line,) = problems(beside(content))
        assert line == f"results, chunk size 1: p95_total_e2e_ms is {other}; its runs give 93.8"


def test_the_workload_is_looked_for_beside_the_file(beside):
    content = matrix_content()
    content["workload_ref"]["path"] = r"C:\elsewhere\canonical_workload.json"
    content["workload_ref"]["sha256"] = "0" * 64
    (line,) = problems(beside(content))
    assert line.startswith("workload_ref: sha256 is 000") and "canonical_workload.json has" in line
    for gone in ("absent.json", "bad\0name", "x" * 5000, ""):
        content["workload_ref"]["path"] = gone
        assert problems(beside(content)) == []


# -- what does not hold ------------------------------------------------------------------------


def request_change(**fields):
    """Change the request, and its checksum with it."""

    def change(content):
        content["requests"][0] |= fields
        content["discrimination"] = {}
        content["checksums"]["canonical-0_sha256"] = request_sha256(content["requests"][0])

    return change


def item_change(index, item):
    def change(content):
        items = copy.deepcopy(content["requests"][0]["items_token_ids"])
        items[index] = item
        request_change(items_token_ids=items)(content)

    return change


def both(*changes):
    def change(content):
        for one in changes:
            one(content)

    return change


WORKLOAD = {
    "content changed": (
        lambda c: c["requests"][0]["query_token_ids"].reverse(),
        "request canonical-0: the checksum 'canonical-0_sha256' is ",
    ),
    "no checksum": (set_to("checksums", {}), "request canonical-0: it has no checksum"),
    "a checksum of no request": (
        set_to("checksums", "other", "0" * 64),
        "checksums: 'other' is no request of this file",
    ),
    "items missing": (
        lambda c: request_change(items_token_ids=c["requests"][0]["items_token_ids"][1:])(c),
        "request canonical-0: 5 items, but num_items is 6",
    ),
    "a shorter query": (
        lambda c: request_change(query_token_ids=c["requests"][0]["query_token_ids"][1:])(c),
        "request canonical-0: a query of 9 tokens, but query_tokens is 10",
    ),
    "a longer item": (
        item_change(2, [5, 6, 7, 8, 10]),
        "request canonical-0: item 2 has 5 tokens, but item_tokens is 4",
    ),
    "other labels": (
        request_change(label_token_ids=[9454, 2754]),
        "request canonical-0: labels [9454, 2754], but label_token_ids is [9454, 2753]",
    ),
    "a label twice": (
        both(request_change(label_token_ids=[7, 7]), set_to("label_token_ids", [7, 7])),
        "request canonical-0: labels [7, 7]: one stands twice",
    ),
    "a label that is the delimiter": (
        both(request_change(label_token_ids=[7, 151643]), set_to("label_token_ids", [7, 151643])),
        "request canonical-0: the label 151643 is the delimiter",
    ),
    "the delimiter in the query": (
        request_change(query_token_ids=[1, 2, 3, 4, 151643, 6, 7, 8, 9, 10]),
        "request canonical-0: the query holds the delimiter, 151643",
    ),
    "the delimiter in items": (
        both(item_change(3, [1, 2, 3, 151643]), item_change(5, [1, 2, 4, 151643])),
        "request canonical-0: item 3 holds the delimiter, 151643 (and 1 more)",
    ),
    "a label in an item": (item_change(3, [1, 2, 9454, 3]), "request canonical-0: item 3 holds a label, 9454"),
    "a negative id": (item_change(0, [1, 2, -3, 4]), "request canonical-0: item 0 holds -3, which is no token id"),
    "no items": (
        both(request_change(items_token_ids=[]), set_to("num_items", 0)),
        "request canonical-0: the list of items is empty",
    ),
    "no query": (
        both(request_change(query_token_ids=[]), set_to("query_tokens", 0)),
        "request canonical-0: the query is empty",
    ),
    "no labels": (
        both(request_change(label_token_ids=[]), set_to("label_token_ids", [])),
        "request canonical-0: the list of labels is empty",
    ),
    "one token, repeated": (
        request_change(query_token_ids=[4] * 10),
        "request canonical-0: the query is one token, repeated 10 times",
    ),
    "two alternating tokens": (
        request_change(items_token_ids=[[3, 4, 3, 4], [4, 3, 4, 3], [3, 3, 4, 4]] * 2),
        "request canonical-0: all items are built of 2 distinct tokens",
    ),
    "items alike": (
        request_change(items_token_ids=[[1, 2, 3, 4]] * 5 + [[5, 6, 7, 8]]),
        "request canonical-0: 2 of 6 items are distinct; expected half",
    ),
    "one item": (
        both(request_change(items_token_ids=[[1, 2, 3, 4]]), set_to("num_items", 1)),
        "request canonical-0: one item; there is nothing to tell it apart from",
    ),
    "one name for two requests": (
        lambda c: c["requests"].append(c["requests"][0]),
        "request canonical-0: 2 requests are called that",
    ),
    "no request": (set_to("requests", []), "requests: there is none"),
}

#: One row of a matrix, whose recommendations are left out where it is one of them.
ROW = ("results", 0)

MATRIX = {
    "num_chunks": (
        both(
            set_to(*ROW, "num_chunks", 5),
            lambda c: [run.pop("call_latencies_ms") for run in c["results"][0]["run_records"]],
        ),
        "results, chunk size 1: num_chunks is 5, but 6 items make 6",
    ),
    "chunk size 0": (
        both(set_to(*ROW, "client_chunk_size", 0), drop(*ROW, "num_chunks")),
        "results, chunk size 0: expected at least 1 item a request",
    ),
    "timed_runs": (set_to(*ROW, "timed_runs", 6), "results, chunk size 1: timed_runs is 6, but run_records hold 5"),
    "successful_runs": (
        set_to(*ROW, "successful_runs", 4),
        "results, chunk size 1: successful_runs is 4, but run_records hold 5",
    ),
    "success_rate": (
        set_to(*ROW, "success_rate", 0.8),
        "results, chunk size 1: success_rate is 0.8, but 5 of 5 runs succeeded",
    ),
    "status": (
        set_to(*ROW, "status", "partial_failure"),
        "results, chunk size 1: status is partial_failure, but 5 of 5 runs succeeded: ok",
    ),
    "status of a row that failed": (
        lambda c: c["results"].__setitem__(0, failing_row(1, ["oom"] * 5) | {"status": "partial_failure"}),
        "results, chunk size 1: status is partial_failure, but 0 of 5 runs succeeded: failed",
    ),
    "more successes than runs": (
        lambda c: c["results"].__setitem__(
            0, without(row_of(1), "run_records") | {"successful_runs": 6, "success_rate": 1.0}
        ),
        "results, chunk size 1: successful_runs is 6, of 5 timed_runs",
    ),
    "rate without runs": (
        lambda c: c["results"].__setitem__(0, without(row_of(1), "run_records") | {"success_rate": 0.5}),
        "results, chunk size 1: success_rate is 0.5, but 5 of 5 runs succeeded",
    ),
    "failures that did not happen": (
        set_to(*ROW, "failure_reason_counts", {"timeout": 1, "oom": 0}),
        "results, chunk size 1: failure_reason_counts add up to 1, but 0 runs failed",
    ),
    "failures by other names": (
        lambda c: c["results"].__setitem__(
            0, failing_row(1, ["oom", "timeout"]) | {"failure_reason_counts": {"oom": 2}}
        ),
        "results, chunk size 1: failure_reason_counts are {'oom': 2}, but the runs failed by {'oom': 1, 'timeout': 1}",
    ),
    "failures without runs": (
        lambda c: c["results"].__setitem__(
            0, without(failing_row(1, ["oom"]), "run_records") | {"failure_reason_counts": {"oom": 2}}
        ),
        "results, chunk size 1: failure_reason_counts add up to 2, but 1 runs failed",
    ),
    "p50": (
        set_to(*ROW, "p50_total_e2e_ms", 91.9),
        "results, chunk size 1: p50_total_e2e_ms is 91.9; expected 92, the median of its 5 successful runs",
    ),
    "p95 above the maximum": (
        set_to(*ROW, "p95_total_e2e_ms", 94.1),
        "results, chunk size 1: p95_total_e2e_ms is 94.1; expected 92 to 94, from the median to the maximum of its 5 ",
    ),
    "p95 below the median": (
        set_to(*ROW, "p95_total_e2e_ms", 91.0),
        "results, chunk size 1: p95_total_e2e_ms is 91; expected 92 to 94, from the median to the maximum of its 5 ",
    ),
    "p95 below p50, without runs": (
        lambda c: c["results"].__setitem__(0, without(row_of(1), "run_records") | {"p95_total_e2e_ms": 91.0}),
        "results, chunk size 1: p95_total_e2e_ms is 91, below p50_total_e2e_ms, 92",
    ),
    "mean": (
        set_to(*ROW, "mean_total_e2e_ms", 92.001),
        "results, chunk size 1: mean_total_e2e_ms is 92.001; expected 92, the mean of its 5 successful runs",
    ),
    "mean of requests": (
        set_to(*ROW, "mean_chunk_call_ms", 20.0),
        "results, chunk size 1: mean_chunk_call_ms is 20; expected 14.25 to 14.88",
    ),
    "p95 of requests": (
        set_to(*ROW, "p95_chunk_call_ms", 14.9),
        "results, chunk size 1: p95_chunk_call_ms is 14.9; expected 14.25 to 14.88",
    ),
    "throughput": (
        set_to(*ROW, "throughput_items_sec", 70.0),
        "results, chunk size 1: throughput_items_sec is 70; expected 65.2173913, N over the mean of its 5",
    ),
    "figures of a row that failed": (
        lambda c: c["results"].__setitem__(0, failing_row(1, ["oom"] * 5) | {"p50_total_e2e_ms": 5.0}),
        "results, chunk size 1: p50_total_e2e_ms is 5, but no run succeeded",
    ),
    "a run without its time": (
        set_to(*ROW, "run_records", 0, "total_e2e_ms", None),
        "results, chunk size 1: run 0 is ok, but has no total_e2e_ms",
    ),
    "a run of no time": (
        set_to(*ROW, "run_records", 1, {"ok": True, "total_e2e_ms": -90.0}),
        "results, chunk size 1: run 1 takes -90 ms",
    ),
    "a failure in a run that is ok": (
        set_to(*ROW, "run_records", 1, "failure_reason", "oom"),
        "results, chunk size 1: run 1 is ok, but has the failure_reason 'oom'",
    ),
    "requests longer than their run": (
        both(
            set_to(*ROW, "run_records", 1, "call_latencies_ms", [16.0] * 6),
            set_to(*ROW, "mean_chunk_call_ms", 14.8),
        ),
        "results, chunk size 1: run 1 takes 90 ms, but its requests 96 ms",
    ),
    "requests missing in a run": (
        set_to(*ROW, "run_records", 1, "call_latencies_ms", [14.5] * 5),
        "results, chunk size 1: run 1 has 5 call_latencies_ms, but num_chunks is 6",
    ),
    "scores missing": (
        lambda c: c["results"][0]["reference_scores"].pop(),
        "results, chunk size 1: reference_scores has 5 rows, but there are 6 items",
    ),
    "a score missing": (
        lambda c: c["results"][0]["reference_scores"][4].pop(),
        "results, chunk size 1: reference_scores/4 has 1 scores, expected 2",
    ),
    "scores that are no probabilities": (
        set_to(*ROW, "reference_scores", 4, [0.5, 0.502]),
        "results, chunk size 1: reference_scores/4 adds up to 1.002, expected 1 after softmax",
    ),
    "a confirmed row": (
        set_to("confirm_results", 0, "timed_runs", 6),
        "confirm_results, chunk size 3: timed_runs is 6, but run_records hold 7",
    ),
    "a chunk size twice": (
        lambda c: c["results"].append(c["results"][0]),
        "results: chunk size 1 stands in 2 rows",
    ),
    "another workload": (set_to("workload_ref", "sha256", "0" * 64), "workload_ref: sha256 is 000"),
    "no such request": (
        set_to("workload_ref", "request_id", "other"),
        "workload_ref: canonical_workload.json holds no request 'other'",
    ),
    "no workload": (
        set_to("workload_ref", "path", "file.json"),
        "workload_ref: ",
    ),
    "a recommendation without its row": (
        set_to("summary", "sweep_recommendation", "selected", "client_chunk_size", 4),
        "summary: sweep_recommendation is 4, which was not measured",
    ),
    "a confirmation without its row": (
        set_to("summary", "confirm_recommendation", "selected", "client_chunk_size", 1),
        "summary: confirm_recommendation is 1, which was not measured",
    ),
    "a recommended row that failed": (
        both(
            lambda c: c["results"].__setitem__(0, failing_row(1, ["oom"])),
            set_to("summary", "sweep_recommendation", "selected", "client_chunk_size", 1),
        ),
        "summary: sweep_recommendation is 1, which may not win: its success rate is 0.8 (1 oom)",
    ),
    "a recommendation beyond the guardrail": (
        set_to("summary", "sweep_recommendation", "selected", "client_chunk_size", 1),
        "summary: sweep_recommendation is 1, whose p95 of 93.8 ms exceeds the guardrail, 77.25 ms",
    ),
    "a final recommendation beyond the guardrail": (
        set_to("summary", "final_recommendation", "selected", "client_chunk_size", 1),
        "summary: final_recommendation is 1, whose p95 of 93.8 ms exceeds the guardrail, 80.25 ms",
    ),
}

VIEW = ("views", 0)
COMPARISON = {
    "p95 delta": (
        set_to(*VIEW, "rows", 1, "p95_delta_percent", 5.0),
        "view portable, chunk size 8: p95_delta_percent is 5, but 100 against 105 is -4.7619",
    ),
    "throughput delta": (
        set_to(*VIEW, "rows", 1, "throughput_delta_percent", 9.0),
        "view portable, chunk size 8: throughput_delta_percent is 9, but 100 against 110 is -9.09",
    ),
    "correct against its check": (
        set_to(*VIEW, "rows", 1, "checks", 0, "verdict", "FAIL"),
        "view portable, chunk size 8: correct is true, but cross_backend_max_abs_le_0p02 is FAIL",
    ),
    "a chunk size twice": (
        lambda c: c["views"][0]["rows"].append(c["views"][0]["rows"][0]),
        "view portable: chunk size 1 stands in 2 rows",
    ),
    "a winner that is no row": (
        set_to(*VIEW, "winner", winner("jax", 7, 110.0, 120.0)),
        "view portable: the winner (jax, chunk size 7) is no row of this file",
    ),
    "a winner of no side": (
        set_to(*VIEW, "winner", winner("other", 8, 110.0, 120.0)),
        "view portable: the winner (other, chunk size 8) is no row of this file",
    ),
    "a winner of another view": (
        set_to(*VIEW, "winner", winner("jax", 500, 110.0, 120.0, view="best_native")),
        "view portable: the winner (jax, chunk size 500) is of the view 'best_native'",
    ),
    "a winner that is not eligible": (
        both(
            set_to(*VIEW, "rows", 1, "sides", "pytorch", "eligible", False),
            set_to(*VIEW, "rows", 1, "sides", "pytorch", "why_not", "it failed once"),
            set_to(*VIEW, "winner", winner("pytorch", 8, 105.0, 110.0)),
        ),
        "view portable: the winner (pytorch, chunk size 8) is a row that may not win: it failed once",
    ),
    "a winner that is not correct": (
        set_to(*VIEW, "winner", winner("jax", 64, 101.0, 500.0)),
        "view portable: the winner (jax, chunk size 64) is a row that is not correct",
    ),
    "a winner that is not shown to be correct": (
        both(
            set_to(*VIEW, "rows", 1, "correct", None),
            set_to(*VIEW, "winner", winner("pytorch", 8, 105.0, 110.0)),
        ),
        "view portable: the winner (pytorch, chunk size 8) is a row that is not shown to be correct",
    ),
    "a winner beyond the guardrail": (
        set_to(*VIEW, "winner", winner("jax", 1, 900.0, 90.0)),
        "view portable: the winner (jax, chunk size 1) has a p95 of 900 ms, above the guardrail, 125 ms",
    ),
    "a winner with other numbers": (
        set_to(*VIEW, "winner", winner("jax", 500, 110.0, 400.0)),
        "view portable: the winner (jax, chunk size 500) has a throughput_items_sec of 400, but its row 120",
    ),
    "a backend's winner that is not correct": (
        set_to(*VIEW, "winners_by_backend", "jax", winner("jax", 64, 101.0, 500.0)),
        "view portable: the winner of jax (jax, chunk size 64) is a row that is not correct",
    ),
    "a backend's winner beyond its guardrail": (
        set_to(*VIEW, "winners_by_backend", "jax", winner("jax", 1, 900.0, 90.0)),
        "view portable: the winner of jax (jax, chunk size 1) has a p95 of 900 ms, above the guardrail, 125 ms",
    ),
    "a backend's winner that failed": (
        both(
            set_to(*VIEW, "rows", 1, "sides", "pytorch", "success_rate", 0.8),
            drop("winners_by_backend"),
        ),
        "view portable: the winner of pytorch (pytorch, chunk size 8) is a row that may not win",
    ),
    "a winner of another backend": (
        set_to(*VIEW, "winners_by_backend", "jax", winner("pytorch", 8, 105.0, 110.0)),
        "view portable: the winner of jax is of pytorch",
    ),
    "a winner of a view that is not there": (
        set_to("winners_by_backend", "jax", winner("jax", 500, 110.0, 120.0, view="other")),
        "winners_by_backend: the winner of jax is of the view 'other', which this file does not hold",
    ),
    "a winner over all views that is not correct": (
        set_to("winners_by_backend", "jax", winner("jax", 64, 101.0, 500.0)),
        "winners_by_backend: the winner of jax (jax, chunk size 64) is a row that is not correct",
    ),
    "a recommendation that is not correct": (
        set_to("recommendation", "winner", winner("jax", 64, 101.0, 500.0)),
        "recommendation: the winner (jax, chunk size 64) is a row that is not correct",
    ),
    "a recommendation of a view that is not there": (
        set_to("recommendation", "winner", winner("jax", 64, 101.0, 500.0, view="other")),
        "recommendation: the winner is of the view 'other', which this file does not hold",
    ),
    "complete with an unfinished side": (
        set_to("sides", 1, "complete", False),
        "status is complete, but the matrix of pytorch portable is not",
    ),
    "another workload": (set_to("workload_ref", "sha256", "0" * 64), "workload_ref: sha256 is 000"),
}
PARTIAL = {
    "no blocker": (set_to("blocker", " "), "status is partial, but no blocker is named"),
    "a winner of a view": (
        both(set_to(*VIEW, "winner", winner("jax", 8, 100.0, 100.0)), drop(*VIEW, "rows", 1, "correct")),
        "status is partial, but view portable has a winner across backends",
    ),
    "a recommended winner": (
        both(
            set_to("recommendation", "winner", winner("jax", 8, 100.0, 100.0)), drop(*VIEW, "rows", 1, "correct")
        ),
        "status is partial, but the recommendation has a winner",
    ),
    "a winner that is no row": (
        set_to("winners_by_backend", "jax", winner("jax", 7, 110.0, 120.0)),
        "winners_by_backend: the winner of jax (jax, chunk size 7) is no row of this file",
    ),
}  # fmt: skip
SCHEMA = {
    "workload": [
        (drop("requests"), "top level: 'requests' is a required property"),
        (
            set_to("requests", 0, "query_token_ids", 0, "x"),
            "requests/0/query_token_ids/0: 'x' is not of type 'integer'",
        ),
        (set_to("num_items", "6"), "num_items: '6' is not of type 'integer'"),
        (set_to("num_items", 6.0), "Expected `int | null`, got `float` - at `$.num_items`"),
    ],
    "matrix": [
        (drop("results", 1, "status"), "results/1: 'status' is a required property"),
        (set_to("results", 1, "status", "fine"), "results/1/status: 'fine' is not one of "),
        (set_to("summary", "guardrail_ratio", [1]), "summary/guardrail_ratio: [1] is not of type 'number'"),
        (set_to("results", 1, "p50_total_e2e_ms", math.nan), "results/1/p50_total_e2e_ms: NaN or Infinity"),
        (set_to("hardware", {"a": [0, -math.inf]}), "hardware/a/1: NaN or Infinity"),
        (
            set_to("results", 2, "reference_scores", [[math.nan, math.inf]] * ITEMS),
            "results/2/reference_scores/0/0: NaN or Infinity, and at 11 more places",
        ),
        (set_to("results", "x" * 900), f"results: '{'x' * 89} … {'x' * 60}"),
    ],
    "comparison": [
        (drop("views", 0, "rows", 0, "sides"), "views/0/rows/0: 'sides' is a required property"),
        (set_to("status", "done"), "status: 'done' is not one of ['complete', 'partial']"),
        (set_to("views", 0, "winner", "backend", 5), "views/0/winner/backend: 5 is not of type 'string'"),
    ],
}
MUTATIONS = [
    *(("workload", *case) for case in WORKLOAD.items()),
    *(("matrix", *case) for case in MATRIX.items()),
    *(("comparison", *case) for case in COMPARISON.items()),
    *(("partial", *case) for case in PARTIAL.items()),
    *((kind, f"schema {i}", case) for kind, cases in SCHEMA.items() for i, case in enumerate(cases)),
]


@pytest.mark.parametrize(
    ("kind", "mutation"),
    [(kind, mutation) for kind, _, mutation in MUTATIONS],
    ids=[f"{kind}: {name}" for kind, name, _ in MUTATIONS],
)
def test_what_does_not_hold_is_one_line(kind, mutation, beside):
    change, expected = mutation
    found = problems(beside(changed(kind, change)))
    assert len(found) == 1 and found[0].startswith(expected), found


def test_several_things_at_once_are_several_lines(beside):
    names = ("another workload", "success_rate", "p50", "a confirmed row", "a recommendation without its row")
    content = changed("matrix", both(*(MATRIX[name][0] for name in names)))
    found = problems(beside(content))
    assert len(found) == 5
    assert all(line.startswith(MATRIX[name][1]) for line, name in zip(found, names, strict=True))


def test_without_softmax_scores_need_not_add_up(beside, tmp_path):
    content = changed("matrix", MATRIX["scores that are no probabilities"][0])
    content["workload"]["apply_softmax"] = False
    path = beside(content)
    assert len(problems(path)) == 1  # the workload that was measured says softmax, whatever the head says
    (tmp_path / "canonical_workload.json").unlink()
    assert problems(path) == []


def test_figures_of_other_tools_may_be_rounded(beside):
    matrix_of_others, compared = matrix_content(), comparison_content()
    matrix_of_others["results"][0] = failing_row(1, ["oom", "oom"]) | {"success_rate": 0.6}
    matrix_of_others["results"][1] |= {"mean_chunk_call_ms": 31.0, "p95_chunk_call_ms": 32.0}
    for run in matrix_of_others["results"][1]["run_records"]:
        run["call_latencies_ms"] = [round(run["total_e2e_ms"] / 2)] * 2
    for row in compared["views"][0]["rows"]:
        for name in ("p95_delta_percent", "throughput_delta_percent"):
            row[name] = round(row[name], 1)
    assert problems(beside(matrix_of_others)) == problems(beside(compared)) == []


# -- what this package writes ------------------------------------------------------------------


def own_matrix(backend, shortest):
    """A matrix as other tools write it, with the recommendations of this package."""
    content = matrix_content() | {"backend": backend}
    content["results"] = [
        row_of(1, shortest=3 * shortest),
        row_of(3, shortest=2 * shortest),
        row_of(6, shortest=shortest),
    ]
    content["confirm_results"] = []
    for row in content["results"]:
        row["noise_floor"] = 0.0
    found = msgspec.convert(content, ScoreMatrix)
    found.summary = guardrail.summary_of(found)
    return found


def test_recommendations_of_this_package_hold(beside):
    for shortest in (1.0, 40.0, 9000.0):
        assert problems(beside(msgspec.to_builtins(own_matrix("jax", shortest)))) == []


@pytest.mark.parametrize("backends", [("jax",), ("jax", "pytorch")])
def test_comparisons_of_this_package_hold(backends, beside):
    made = offline.compare([(None, own_matrix(name, 40.0 + 9 * i)) for i, name in enumerate(backends)])
    assert isinstance(made, Comparison) and made.winners_by_backend
    assert (made.status, made.views[0].winner is None) == (
        ("partial", True) if len(backends) == 1 else ("complete", False)
    )
    assert problems(beside(json.loads(msgspec.json.encode(made)))) == []


# -- robust ------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(1 - 2**63, 2**63 - 1),
    st.integers(-3, 10),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just([[0.5, 0.5]]),
)


def places(value, at=()):
    """Every place in a content, as a path."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, entry in inner for place in places(entry, (*at, key)))]


@pytest.mark.parametrize("kind", CONTENTS)
def test_whatever_stands_anywhere_is_examined(kind, tmp_path_factory):
    directory = tmp_path_factory.mktemp(kind)
    (directory / "canonical_workload.json").write_text(json.dumps(workload_content()))
    path = directory / "file.json"
    valid = CONTENTS[kind]()
    known = [place for place in places(valid) if place not in ((), ("schema_version",))]

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(st.tuples(st.sampled_from(known), VALUES), min_size=1, max_size=3))
    def examined(changes):
        content = json.loads(json.dumps(valid))
        for (*keys, last), value in changes:
            inner = content
            try:
                for key in keys:
                    inner = inner[key]
                inner[last] = value
            except (KeyError, IndexError, TypeError):
                pass  # an earlier change took this place away
        path.write_text(json.dumps(content))
        found = problems(path)
        assert all(isinstance(line, str) and len(line) < 700 for line in found)
        assert found == list(dict.fromkeys(found))

    examined()


def test_content_that_is_nested_very_deeply(beside):
    content = matrix_content() | {"hardware": "HERE"}
    deep = '{"a":' * 400 + "NaN" + "}" * 400
    path = beside(content)
    path.write_text(path.read_text().replace('"HERE"', deep))
    (line,) = problems(path)
    assert line.endswith("/a: NaN or Infinity")


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def validate(multiitem, monkeypatch):
    """Run ``multiitem validate``."""
    app = typer.Typer()
    app.command("validate")(validate_command)
    app.command("workload")(workload_command)
    monkeypatch.setattr(cli, "app", app)
    return lambda *files: multiitem("validate", *files)


def test_all_valid(validate, beside):
    first, second = beside(matrix_content(), "m.json"), beside(comparison_content(), "c.json")
    status, out, err = validate(first, second)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{first}: valid score_matrix_v1, written by another tool, jax portable, chunk sizes 1, 3, 6, 2 confirmed, "
        "no noise floor: compared, INCONCLUSIVE",
        f"{second}: valid cross_backend_comparison_v1, written by another tool, complete: jax portable, "
        "pytorch portable",
    ]


def test_a_valid_file_without_anything_to_say(validate, beside):
    path = beside(BASELINE)
    assert validate(path) == (0, f"{path}: valid multiitem_baseline_v1\n", "")


def test_a_line_for_every_problem(validate, beside):
    content = changed("matrix", both(MATRIX["p50"][0], MATRIX["success_rate"][0]))
    good, bad = beside(matrix_content(), "good.json"), beside(content, "bad.json")
    status, out, err = validate(bad, good)
    assert status == 1 and err == ""
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(bad), str(bad), str(good)]


UNUSABLE = {
    "absent": (None, "No such file or directory"),
    "no JSON": ("{nonsense", "is not valid JSON"),
    "no text": (b"\xff\xfe\x00", "is not valid JSON"),
    "too deep": ("[" * 100_000, "is not valid JSON"),
    "beyond 64 bits": ('{"seed": 9223372036854775808}', "a whole number beyond 64 bits: 9223372036854775808"),
    "no object": ("[1]", "holds no object"),
    "no schema": ("{}", "has no schema_version; expected one of canonical_score_workload_v1, score_matrix_v1"),
    "unknown schema": (
        '{"schema_version": "score_matrix_v2"}',
        'has the unknown schema_version "score_matrix_v2"; expected one of canonical_score_workload_v1, '
        "score_matrix_v1, cross_backend_comparison_v1, multiitem_matrix_v1, multiitem_answer_v1, "
        "multiitem_baseline_v1, multiitem_scores_v1, score_load_v1, multiitem_evaluation_v1, multiitem_combined_v1, "
        "multiitem_counterexample_v1, kill_matrix_v1, multiitem_tpu_check_v1, multiitem_gpu_check_v1, "
        "model_matrix_v1, multiitem_history_v1, multiitem_ab_v1 (did you mean 'score_matrix_v1'?)",
    ),
    "a schema that is no name": ('{"schema_version": ["score_matrix_v1"]}', "has the unknown schema_version ["),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_that_cannot_be_used_is_no_reason_to_stop(validate, beside, tmp_path, name):
    content, expected = UNUSABLE[name]
    path = tmp_path / "unusable.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError):
        examine(path)
    good, bad = beside(matrix_content(), "good.json"), beside(changed("matrix", MATRIX["p50"][0]), "bad.json")
    status, out, err = validate(path, bad, good)
    assert status == 2
    assert err.startswith("multiitem: ") and str(path) in err and expected in err
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(bad), str(good)]


def test_a_directory_is_no_artefact(validate, tmp_path):
    status, _, err = validate(tmp_path)
    assert status == 2 and f"cannot read {tmp_path}: Is a directory" in err


def test_no_file_at_all(validate):
    assert validate()[0] == 2


def load_report(**changes):
    """Four requests of a level of a second, one of them timed out."""
    records = [
        {"state": "successful", "items": 4, "due_sec": due, "started_sec": due, "finished_sec": due + 0.1,
         "latency_ms": 1000 * (due + 0.1 - due)}
        for due in (0.0, 0.1, 0.2)
    ]  # fmt: skip
    records.append(
        {"state": "errored", "items": 4, "due_sec": 0.3, "started_sec": 0.3, "finished_sec": 0.9,
         "failure_kind": "timeout"}
    )  # fmt: skip
    level = {
        "mode": "closed", "concurrency": 2, "duration_sec": 1.0, "elapsed_sec": 1.0, "requests": 4, "successful": 3,
        "errored": 1, "incomplete": 0, "items_per_sec": 12.0, "goodput_items_per_sec": 12.0,
        "latency_ms": percentiles([record["latency_ms"] for record in records[:3]]),
        "mean_latency_ms": float(np.mean([record["latency_ms"] for record in records[:3]])),
        "share_within_objective": 0.75, "lateness_ms_p50": 0.0, "lateness_ms_max": 0.0,
        "errors_by_kind": {"timeout": 1}, "records": records, **changes,
    }  # fmt: skip
    return {
        "schema_version": "score_load_v1", "url": "http://127.0.0.1:1", "seed": 1, "duration_sec": 1.0,
        "timeout_sec": 9.0, "latency_objective_ms": 500.0, "items_per_request": [4], "levels": [level],
        "max_goodput_items_per_sec": 12.0,
    }  # fmt: skip


GIVE = "its requests give"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, None),
        ({"records": []}, "levels[0]: requests is 4, but there are 0 records"),
        ({"requests": 5}, "levels[0]: requests is 5, but there are 4 records"),
        ({"errors_by_kind": {}}, f"levels.0.errors_by_kind.timeout is missing; {GIVE} 1"),
        ({"items_per_sec": 11.0}, f"levels.0.items_per_sec is 11.0; {GIVE} 12.0"),
        ({"successful": 2, "incomplete": 1}, f"levels.0.successful is 2; {GIVE} 3"),
        ({"goodput_items_per_sec": 9.0}, f"levels.0.goodput_items_per_sec is 9.0; {GIVE} 12.0"),
        ({"share_within_objective": 1.0}, f"levels.0.share_within_objective is 1.0; {GIVE} 0.75"),
        ({"saturated": True}, f"levels.0.saturated is True; {GIVE} None"),
        ({"concurrency": None}, "levels[0]: it is closed, of concurrency None and None requests/s"),
        ({"elapsed_sec": 0.5}, "levels[0]: records[3] was due, sent and over at [0.3, 0.3, 0.9] s, of 0.5 s"),
        ({"duration_sec": 9.0}, "levels[0]: duration_sec is 9, that of the measurement 1"),
        ({"requests": "4"}, "levels/0/requests: '4' is not of type 'integer'"),
    ],
)
def test_a_load_report_adds_up(tmp_path, changes, line):
    path = tmp_path / "load.json"
    path.write_text(json.dumps(load_report(**changes)))
    found = problems(path)
    assert found == [] if line is None else line in found, found


@pytest.mark.parametrize(
    ("at", "changes", "line"),
    [
        (0, {"items": 5}, "has 5 items; in its turn it has 4"),
        (0, {"latency_ms": 5.0}, "has a latency_ms that is 5; from due to over it is 100"),
        (0, {"latency_ms": None}, "is successful, its latency is None and its failure None"),
        (0, {"failure_kind": "timeout"}, "is successful, its latency is 100.0 and its failure timeout"),
        (0, {"state": "incomplete"}, "is incomplete, its latency is 100.0 and its failure None"),
        (0, {"finished_sec": None}, "is successful, but was over at None"),
        (3, {"failure_kind": None}, "is errored, but its failure is None"),
        (3, {"state": "incomplete"}, "is incomplete, but its failure is timeout"),
    ],
)
def test_a_request_of_a_load_report_is_what_its_state_says(tmp_path, at, changes, line):
    content, path = load_report(), tmp_path / "load.json"
    content["levels"][0]["records"][at] |= changes
    path.write_text(json.dumps(content))
    assert f"levels[0]: records[{at}] {line}" in problems(path)
