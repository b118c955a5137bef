"""A user's own requests as a canonical workload, and their matrix: all of them, with where they came from."""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from pytest_multiitem.comparison import files, row_figures, workload
from pytest_multiitem.comparison.own_requests import canonical_of
from pytest_multiitem.comparison.records import Row, RunRecord, ScoreMatrix, Workload
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import Case, first_items
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.traffic.loading import fitted
from pytest_multiitem.validation.validate import examine

DATA = Path(str(resources.files("pytest_multiitem")))
SAMPLE, SHIPPED = DATA / "data" / "reranker_sample.jsonl", str(DATA / "engine" / "data")
LINES = [
    {"id": "a", "query": [11, 12], "items": [[20, 21], [22], [23, 24, 25]], "labels": [5, 6]},
    {"id": "a", "query": [13], "items": [[30], [31, 32]], "labels": [5, 6], "apply_softmax": False, "item_first": True},
]


def settings_of(path, **given):
    named = {"workload": path, "tokenizer": SHIPPED, **given}
    return resolve({f"multiitem_{name}": str(value) for name, value in named.items()}, {}, {})


def written(tmp_path, lines=LINES):
    path = tmp_path / "traffic.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_requests_stand_in_it_as_they_were_asked(tmp_path):
    made = canonical_of(settings_of(written(tmp_path)))
    first, second = made.requests
    assert (first.request_id, second.request_id) == ("a", "a, request 1")
    assert (first.items_token_ids, second.query_token_ids) == ([[20, 21], [22], [23, 24, 25]], [13])
    assert (first.apply_softmax, first.item_first) == (True, False)
    assert (second.apply_softmax, second.item_first) == (False, True)
    assert (made.query_tokens, made.num_items, made.item_tokens, made.label_token_ids) == (None, None, None, [5, 6])


def test_the_source_is_told_and_the_file_is_valid(tmp_path):
    made = canonical_of(settings_of(SAMPLE, workload_sample=4))
    files.write(tmp_path / "w.json", made)
    found = examine(tmp_path / "w.json")
    assert found.problems == []  # though the prompts name their labels, "yes" and "no"
    source = json.loads((tmp_path / "w.json").read_bytes())["source"]
    assert (source["drawn"], source["requests"], source["tokenizer"]) == (4, 20, SHIPPED)
    assert source["sha256"] == workload.file_sha256(SAMPLE) and source["path"] == str(SAMPLE)
    assert made.requests[0].label_token_ids == [9693, 9694]


def test_what_was_made_still_needs_no_label_in_its_content(tmp_path):
    made = canonical_of(settings_of(SAMPLE, workload_sample=4))
    made.source = None
    files.write(tmp_path / "w.json", made)
    assert any("holds a label" in problem for problem in examine(tmp_path / "w.json").problems)


def test_a_request_of_one_item_is_no_doubt_beside_others(tmp_path):
    lone = {"query": [40], "items": [[41]], "labels": [5, 6]}
    assert workload.doubts(canonical_of(settings_of(written(tmp_path, [LINES[0], lone])))) == []
    made = canonical_of(settings_of(written(tmp_path, [lone, lone])))
    assert "one item; there is nothing to tell it apart from" in workload.doubts(made)[0]


def test_requests_of_different_numbers_of_labels_are_no_matrix(tmp_path):
    path = written(tmp_path, [LINES[0], {**LINES[0], "labels": [5, 6, 7]}])
    with pytest.raises(UsageError, match="its requests have 2 and 3 labels"):
        canonical_of(settings_of(path))


def test_the_delimiter_of_the_run_stands_in_none(tmp_path):
    own = settings_of(written(tmp_path))
    with pytest.raises(UsageError, match=r"line 2: items\[1\] holds the delimiter 32"):
        canonical_of(replace(own, delimiter=32))


# -- rows over several requests ------------------------------------------------------------------


def row_of_several(size=2):
    runs = [
        RunRecord(ok=True, run_index=n, total_e2e_ms=float(30 + n), call_latencies_ms=[10.0, 10.0, 10.0 + n])
        for n in range(5)
    ]
    scores = [[0.1 * n, 1 - 0.1 * n] for n in range(5)]
    row = Row(client_chunk_size=size, status="failed", run_records=runs, reference_scores=scores, request_items=[3, 2])
    row_figures.fill(row, 5)
    return row


@pytest.mark.parametrize(("items", "size", "chunks"), [([3, 2], 2, 3), ([3, 3], 2, 4), ([1, 1, 1], 500, 3), ([], 2, 3)])
def test_a_row_counts_the_chunks_of_each_request(items, size, chunks):
    """None of them joins two requests."""
    row = Row(client_chunk_size=size, status="failed", request_items=items)
    row_figures.fill(row, sum(items) or 5)
    assert row.num_chunks == chunks


def test_the_figures_of_a_row_follow_from_its_own_requests():
    assert [*row_figures.contradictions(row_of_several())] == []
    wrong = row_of_several()
    wrong.request_items = [1] * 5
    assert any("num_chunks" in text for text in row_figures.contradictions(wrong))


def matrix_of(tmp_path, **change):
    made = canonical_of(settings_of(written(tmp_path, [LINES[0], {**LINES[1], "apply_softmax": True}])))
    files.write(tmp_path / "w.json", made)
    ref = workload.reference(files.read(tmp_path / "w.json", Workload))
    matrix = ScoreMatrix(
        schema_version="score_matrix_v1", backend="jax", evaluation_view="portable", results=[row_of_several()],
        workload_ref=ref, workload=workload.head(made),
    )  # fmt: skip
    for name, value in change.items():
        setattr(matrix.results[0] if hasattr(matrix.results[0], name) else matrix.workload_ref, name, value)
    files.write(tmp_path / "m.json", matrix)
    return matrix, [text for text in examine(tmp_path / "m.json").problems if "summary" not in text]


def test_a_matrix_of_several_requests_is_valid(tmp_path):
    matrix, problems = matrix_of(tmp_path)
    assert problems == []
    assert matrix.workload["num_items"] == 5 and matrix.workload_ref.requests == 2
    assert matrix.workload_ref.request_id is None and len(matrix.workload_ref.request_sha256) == 64


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"request_items": [4, 1]}, "request_items are [4, 1], but the workload has 5 items"),
        ({"request_items": [3, 3]}, "request_items are [3, 3], but the workload has 5 items"),
        ({"requests": 3}, "w.json holds 2 requests, and 3 were measured"),
        ({"request_sha256": "0" * 64}, "request_sha256 is 000"),
    ],
)
def test_a_matrix_that_says_something_else_of_its_requests(tmp_path, change, expected):
    assert any(expected in text for text in matrix_of(tmp_path, **change)[1])


def test_the_checksum_of_several_requests_is_that_of_each(tmp_path):
    made = msgspec.to_builtins(canonical_of(settings_of(written(tmp_path))).requests)
    assert workload.requests_sha256(made) == workload.requests_sha256(json.loads(json.dumps(made)))
    assert len({workload.requests_sha256(each) for each in (made, made[::-1], made[:1])}) == 3


# -- the first items of requests -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [1]), (3, [3]), (4, [3, 1]), (5, [3, 2]), (7, [3, 2, 2]), (10, [3, 2, 3, 2])],
)
def test_the_first_items_stand_in_their_own_requests(count, expected):
    cases = [Case("a", (1,), ((2,), (3,), (4,)), (8, 9), ()), Case("b", (5,), ((6,), (7,)), (8, 9), ())]
    chosen = first_items(cases, count)
    assert [len(case.items) for case in chosen] == expected
    for number, case in enumerate(chosen):
        own = cases[number % 2]
        assert (case.query, case.items) == (own.query, own.items[: len(case.items)])


def test_a_negative_token_of_an_unknown_vocabulary_is_told_no_made_up_end(tmp_path):
    path = tmp_path / "traffic.jsonl"
    path.write_text(json.dumps({"query": [1], "items": [[-1]], "label_token_ids": [2, 3]}))
    with pytest.raises(UsageError, match=r"holds token id -1; expected 0 or more$"):
        fitted(resolve({"multiitem_workload": str(path)}, {}, {}))
