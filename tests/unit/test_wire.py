"""The wire of POST /v1/score: one condition, one status, one code, one param."""

import json
import math
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_multiitem.scoring.wire.errors import ErrorBody, WireError, internal_error
from pytest_multiitem.scoring.wire.fields import Usage
from pytest_multiitem.scoring.wire.score import ScoreRequest, ScoreResponse, encode_score_response, parse_score_request

VOCAB = 1000
GOOD = {"query": [1, 2], "items": [[3], [4, 5]], "label_token_ids": [7, 8]}
SOFT = GOOD | {"apply_softmax": True}
BIG = 2**63


def parse(fields) -> ScoreRequest:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return parse_score_request(body, vocab_size=VOCAB)


def refusal(fields) -> WireError:
    with pytest.raises(WireError) as caught:
        parse(fields)
    return caught.value


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


REFUSED = [
    # part 1's table
    (without("query"), 400, "missing_query", "query"),
    (without("items"), 400, "missing_items", "items"),
    (without("label_token_ids"), 400, "missing_label_token_ids", "label_token_ids"),
    (GOOD | {"query": None}, 400, "missing_query", "query"),
    (GOOD | {"query": []}, 400, "empty_query", "query"),
    (GOOD | {"query": "", "items": ["a"]}, 400, "empty_query", "query"),
    (GOOD | {"items": []}, 400, "empty_items", "items"),
    (GOOD | {"label_token_ids": []}, 400, "empty_label_token_ids", "label_token_ids"),
    (GOOD | {"query": 5}, 400, "invalid_query_type", "query"),
    (GOOD | {"query": {"a": 1}}, 400, "invalid_query_type", "query"),
    (GOOD | {"query": True}, 400, "invalid_query_type", "query"),
    (GOOD | {"items": 5}, 400, "invalid_items_type", "items"),
    (GOOD | {"items": {}}, 400, "invalid_items_type", "items"),
    (GOOD | {"items": [1, 2, 3]}, 400, "invalid_items_type", "items[0]"),
    (GOOD | {"items": [[1], None]}, 400, "invalid_items_type", "items[1]"),
    (GOOD | {"items": ["text"]}, 400, "mixed_input_types", "items"),
    (GOOD | {"items": "text"}, 400, "mixed_input_types", "items"),
    (GOOD | {"query": "text"}, 400, "mixed_input_types", "items"),
    (GOOD | {"items": [[1], "text"]}, 400, "mixed_input_types", "items[1]"),
    (GOOD | {"query": "q", "items": ["text", [1]]}, 400, "mixed_input_types", "items[1]"),
    (GOOD | {"query": [1, "2"]}, 400, "invalid_token_id_type", "query[1]"),
    (GOOD | {"query": [True]}, 400, "invalid_token_id_type", "query[0]"),
    (GOOD | {"items": [[1], [2, 1.0]]}, 400, "invalid_token_id_type", "items[1][1]"),
    (GOOD | {"items": [[[1]]]}, 400, "invalid_token_id_type", "items[0][0]"),
    (GOOD | {"items": [[BIG]]}, 400, "invalid_token_id_type", "items[0][0]"),
    (GOOD | {"items": [[10**40]]}, 400, "invalid_token_id_type", "items[0][0]"),
    (GOOD | {"items": [[-BIG - 1]]}, 400, "invalid_token_id_type", "items[0][0]"),
    (GOOD | {"label_token_ids": [1, False]}, 400, "invalid_token_id_type", "label_token_ids[1]"),
    (GOOD | {"label_token_ids": [None]}, 400, "invalid_token_id_type", "label_token_ids[0]"),
    (GOOD | {"label_token_ids": [1, -1]}, 422, "token_id_negative", "label_token_ids[1]"),
    (GOOD | {"label_token_ids": [VOCAB]}, 422, "token_id_exceeds_vocab", "label_token_ids[0]"),
    # beyond the table
    (GOOD | {"query": [-1]}, 422, "token_id_negative", "query[0]"),
    (GOOD | {"query": [1, BIG - 1]}, 422, "token_id_exceeds_vocab", "query[1]"),
    (GOOD | {"items": [[], [1], [], [VOCAB]]}, 422, "token_id_exceeds_vocab", "items[3][0]"),
    (GOOD | {"label_token_ids": "7,8"}, 400, "invalid_label_token_ids_type", "label_token_ids"),
    (GOOD | {"label_token_ids": 7}, 400, "invalid_label_token_ids_type", "label_token_ids"),
    (GOOD | {"apply_softmax": 1}, 400, "invalid_apply_softmax_type", "apply_softmax"),
    (GOOD | {"apply_softmax": "true"}, 400, "invalid_apply_softmax_type", "apply_softmax"),
    (GOOD | {"item_first": 0}, 400, "invalid_item_first_type", "item_first"),
    (GOOD | {"model": 3}, 400, "invalid_model_type", "model"),
    (SOFT | {"temperature": "1"}, 400, "invalid_temperature_type", "temperature"),
    (SOFT | {"temperature": True}, 400, "invalid_temperature_type", "temperature"),
    (SOFT | {"temperature": 0}, 400, "invalid_temperature", "temperature"),
    (SOFT | {"temperature": -0.5}, 400, "invalid_temperature", "temperature"),
    (SOFT | {"temperature": 10**400}, 400, "invalid_temperature", "temperature"),
    (GOOD | {"temperature": 1.0}, 400, "invalid_temperature", "temperature"),
    (GOOD | {"return_token_logprobs": 1}, 400, "invalid_return_token_logprobs_type", "return_token_logprobs"),
    ([GOOD], 400, "invalid_request", None),
    ("text", 400, "invalid_request", None),
    (b"null", 400, "invalid_request", None),
    (b"", 400, "invalid_json", None),
    (json.dumps(GOOD).encode()[:-3], 400, "invalid_json", None),
    (json.dumps(GOOD).encode() + b"}", 400, "invalid_json", None),
    (b'{"query": [NaN], "items": [[1]], "label_token_ids": [1]}', 400, "invalid_json", None),
    (b'{"query": "\xff\xfe", "items": ["a"], "label_token_ids": [1]}', 400, "invalid_json", None),
    (b'{"query": "\\ud800", "items": ["a"], "label_token_ids": [1]}', 400, "invalid_json", None),
    (b"[" * 200_000, 400, "invalid_json", None),
    (b'{"query": [1' + b"0" * 6000 + b"]}", 400, "invalid_json", None),
    (b"x" * 2**20, 400, "invalid_json", None),
]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"), REFUSED, ids=[f"{i}-{case[2]}" for i, case in enumerate(REFUSED)]
)
def test_each_condition_has_its_status_code_and_param(fields, status, code, param):
    error = refusal(fields)
    assert (error.status, error.code, error.param) == (status, code, param)
    body = msgspec.json.decode(error.body(), type=ErrorBody).error
    assert (body.code, body.param, body.type) == (code, param, "invalid_request_error")
    assert body.message and len(body.message) < 400


def test_a_message_says_the_value_and_what_was_expected():
    message = refusal(GOOD | {"items": [[3], [4, 5000]]}).message
    assert "items[1][1]" in message and "5000" in message and "999" in message
    assert "12345" in refusal(GOOD | {"query": 12345}).message


def test_the_internal_error_is_a_server_error():
    error = json.loads(internal_error().body())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (internal_error().status, error["code"], error["type"]) == (500, "internal_error", "server_error")


def test_a_full_request():
    request = parse(GOOD | {"apply_softmax": True, "item_first": True, "model": "m", "unknown": 1})
    assert request == ScoreRequest(**GOOD, apply_softmax=True, item_first=True, model="m")


def test_defaults_and_nulls():
    request = parse(GOOD | {"model": None, "apply_softmax": None})
    assert (request.apply_softmax, request.item_first, request.model) == (False, False, None)


@pytest.mark.parametrize(("items", "expected"), [("one", ["one"]), ("", [""]), (["a", ""], ["a", ""])], ids=repr)
def test_text_items(items, expected):
    assert parse(GOOD | {"query": "q", "items": items}).items == expected


def test_empty_items_and_duplicate_labels_are_kept():
    request = parse(GOOD | {"items": [[], [1], []], "label_token_ids": [8, 7, 8, 0, VOCAB - 1]})
    assert request.items == [[], [1], []] and request.label_token_ids == [8, 7, 8, 0, VOCAB - 1]


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["query", "items", "label_token_ids", "apply_softmax", "model"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_parsed_or_refused_with_a_wire_error(value):
    try:
        request = parse(value)
    except WireError:
        return
    assert request.query and request.items and request.label_token_ids


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_refused_with_a_wire_error(body):
    assert refusal(body).status == 400


def test_a_request_survives_the_wire():
    request = ScoreRequest(**GOOD, model="m")
    assert parse(msgspec.json.encode(request)) == request


def test_a_large_request_is_checked_in_milliseconds():
    body = json.dumps(GOOD | {"query": [5] * 2000, "items": [[6] * 20] * 525}).encode()
    best = math.inf
    for _ in range(10):
        start = time.perf_counter()
        parse(body)
        best = min(best, time.perf_counter() - start)
    assert best < 0.02  # about 0.0016 on an idle core


def test_a_response_survives_the_wire():
    usage = Usage(prompt_tokens=9, total_tokens=9)
    response = ScoreResponse(scores=[[0.1 + 0.2, 1e-300]], model="m", usage=usage)
    encoded = encode_score_response(response)
    assert msgspec.json.decode(encoded, type=ScoreResponse) == response
    assert json.loads(encoded)["object"] == "scoring"
    assert json.loads(encoded)["usage"] == {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_never_encoded(bad):
    with pytest.raises(ValueError, match="item 1"):
        encode_score_response(ScoreResponse(scores=[[0.5], [bad]], model="m"))
