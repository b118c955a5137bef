"""The wire of the further modes: one condition, one status, one code, one param; answers read back."""

import json
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_multiitem.scoring.modes import MODES, ModeName, scoring_mode
from pytest_multiitem.scoring.prompts import decisions as decision_prompts
from pytest_multiitem.scoring.wire.decisions import (
    DecisionAnswer,
    DecisionResponse,
    encode_decisions,
    parse_decision_request,
)
from pytest_multiitem.scoring.wire.errors import ErrorBody, WireError
from pytest_multiitem.scoring.wire.fields import Usage
from pytest_multiitem.scoring.wire.generative import (
    GenerativeScore,
    GenerativeScoringRequest,
    GenerativeScoringResponse,
    decode_generative_scores,
    label_order,
)
from pytest_multiitem.scoring.wire.rerank import (
    Ranked,
    RerankRequest,
    decode_ranking,
    encode_ranking,
    parse_rerank_request,
    ranking,
)
from pytest_multiitem.scoring.wire.score import (
    ScoreRequest,
    ScoreResponse,
    encode_score_response,
    parse_score_request,
)

VOCAB = 1000
SCORE = {"query": [1, 2], "items": [[3], [4, 5]], "label_token_ids": [[7, 8], [9]]}
PLAIN = SCORE | {"label_token_ids": [7]}
CLASSES = {"query": [1, 2], "items": [[3], [4, 5]]}
RERANK = {"query": "q", "documents": ["a", ""]}
CHOICE = {"id": "a", "type": "choice", "question": "which?", "options": [{"name": "x"}, {"name": "y"}]}
SCALE = {"id": "b", "type": "score", "question": "how?", "levels": ["low", "high"]}
YES_NO = {"id": "c", "type": "yes_no", "question": "is it?"}
DECISIONS = {"input": "text", "questions": [CHOICE, SCALE, YES_NO]}


def score(fields, **more):
    return parse_score_request(json.dumps(fields).encode(), vocab_size=VOCAB, max_items=3, **more)


def classify(fields):
    return score(fields, classifies=True)


def rerank(fields):
    return parse_rerank_request(json.dumps(fields).encode(), max_items=3)


def decide(fields):
    return parse_decision_request(json.dumps(fields).encode(), max_items=3)


def asked(question):
    return DECISIONS | {"questions": [question]}


REFUSED = [
    # labels per item
    (score, SCORE | {"label_token_ids": [[7]]}, 400, "label_lists_mismatch", "label_token_ids"),
    (score, SCORE | {"label_token_ids": [[7], 8]}, 400, "invalid_label_token_ids_type", "label_token_ids[1]"),
    (score, SCORE | {"label_token_ids": [[7], []]}, 400, "empty_label_token_ids", "label_token_ids[1]"),
    (score, SCORE | {"label_token_ids": [[7], [8, 9, 8]]}, 400, "duplicate_label_token_id", "label_token_ids[1][2]"),
    (score, SCORE | {"label_token_ids": [[7], [8, True]]}, 400, "invalid_token_id_type", "label_token_ids[1][1]"),
    (score, SCORE | {"label_token_ids": [[-1], [8]]}, 422, "token_id_negative", "label_token_ids[0][0]"),
    (score, SCORE | {"label_token_ids": [[7], [VOCAB]]}, 422, "token_id_exceeds_vocab", "label_token_ids[1][0]"),
    (score, SCORE | {"label_token_ids": [7, [8]]}, 400, "invalid_token_id_type", "label_token_ids[1]"),
    # setwise
    (score, PLAIN | {"score_extraction_token": 5}, 400, "invalid_score_extraction_token_type",
     "score_extraction_token"),
    (score, PLAIN | {"score_extraction_token": "<s>", "item_first": True}, 400, "item_first_not_supported",
     "item_first"),
    # classification
    (score, PLAIN | {"return_pooled_hidden_states": True}, 400, "pooled_hidden_states_not_supported",
     "return_pooled_hidden_states"),
    (score, PLAIN | {"return_pooled_hidden_states": 1}, 400, "invalid_return_pooled_hidden_states_type",
     "return_pooled_hidden_states"),
    (classify, CLASSES | {"return_token_logprobs": True}, 400, "token_logprobs_not_supported",
     "return_token_logprobs"),
    (classify, CLASSES | {"temperature": 2.0}, 400, "invalid_temperature", "temperature"),
    (score, CLASSES, 400, "missing_label_token_ids", "label_token_ids"),
    # rerank
    (rerank, {"documents": ["a"]}, 400, "missing_query", "query"),
    (rerank, {"query": "q"}, 400, "missing_documents", "documents"),
    (rerank, RERANK | {"query": [1]}, 400, "invalid_query_type", "query"),
    (rerank, RERANK | {"query": " \n"}, 400, "empty_query", "query"),
    (rerank, RERANK | {"documents": "a"}, 400, "invalid_documents_type", "documents"),
    (rerank, RERANK | {"documents": ["a", 3]}, 400, "invalid_documents_type", "documents[1]"),
    (rerank, RERANK | {"documents": []}, 400, "empty_documents", "documents"),
    (rerank, RERANK | {"documents": ["a"] * 4}, 400, "too_many_items", "documents"),
    (rerank, RERANK | {"top_n": 0}, 400, "invalid_top_n", "top_n"),
    (rerank, RERANK | {"top_n": -1}, 400, "invalid_top_n", "top_n"),
    (rerank, RERANK | {"top_n": 1.0}, 400, "invalid_top_n_type", "top_n"),
    (rerank, RERANK | {"top_n": True}, 400, "invalid_top_n_type", "top_n"),
    (rerank, RERANK | {"instruct": 1}, 400, "invalid_instruct_type", "instruct"),
    (rerank, RERANK | {"return_documents": "yes"}, 400, "invalid_return_documents_type", "return_documents"),
    (rerank, RERANK | {"model": 1}, 400, "invalid_model_type", "model"),
    (rerank, [RERANK], 400, "invalid_request", None),
    # decisions
    (decide, {"questions": [YES_NO]}, 400, "missing_input", "input"),
    (decide, {"input": "text"}, 400, "missing_questions", "questions"),
    (decide, DECISIONS | {"input": 3}, 400, "invalid_input_type", "input"),
    (decide, DECISIONS | {"input": " "}, 400, "empty_input", "input"),
    (decide, DECISIONS | {"questions": {}}, 400, "invalid_questions_type", "questions"),
    (decide, DECISIONS | {"questions": []}, 400, "empty_questions", "questions"),
    (decide, DECISIONS | {"questions": [YES_NO] * 4}, 400, "too_many_items", "questions"),
    (decide, DECISIONS | {"questions": [YES_NO, "x"]}, 400, "invalid_questions_type", "questions[1]"),
    (decide, DECISIONS | {"questions": [YES_NO, YES_NO]}, 400, "duplicate_question_id", "questions[1].id"),
    (decide, DECISIONS | {"temperature": 0}, 400, "invalid_temperature", "temperature"),
    (decide, DECISIONS | {"temperature": "1"}, 400, "invalid_temperature_type", "temperature"),
    (decide, DECISIONS | {"return_prompt_token_ids": 1}, 400, "invalid_return_prompt_token_ids_type",
     "return_prompt_token_ids"),
    (decide, asked(YES_NO | {"id": " "}), 400, "invalid_question_id", "questions[0].id"),
    (decide, asked(YES_NO | {"type": "maybe"}), 400, "invalid_question_kind", "questions[0].type"),
    (decide, asked(YES_NO | {"type": []}), 400, "invalid_question_kind", "questions[0].type"),
    (decide, asked(YES_NO | {"question": None}), 400, "invalid_question_type", "questions[0].question"),
    (decide, asked(YES_NO | {"question": {}}), 400, "empty_question", "questions[0].question"),
    (decide, asked(YES_NO | {"no": 1}), 400, "invalid_description_type", "questions[0].no"),
    (decide, asked(CHOICE | {"options": [{"name": "x"}]}), 400, "invalid_options", "questions[0].options"),
    (decide, asked(CHOICE | {"options": [{"name": str(i)} for i in range(27)]}), 400, "invalid_options",
     "questions[0].options"),
    (decide, asked(CHOICE | {"options": [{"name": "x"}, {"name": "\n"}]}), 400, "invalid_option",
     "questions[0].options[1]"),
    (decide, asked(CHOICE | {"options": [{"name": "x"}, {"name": "a\nb"}]}), 400, "invalid_option",
     "questions[0].options[1]"),
    (decide, asked(CHOICE | {"options": [{"name": "x"}, {"name": "X "}]}), 400, "duplicate_option",
     "questions[0].options[1]"),
    (decide, asked(CHOICE | {"options": [{"name": "x", "description": 1}, {"name": "y"}]}), 400,
     "invalid_description_type", "questions[0].options[0].description"),
    (decide, asked(SCALE | {"levels": ["low"]}), 400, "invalid_levels", "questions[0].levels"),
    (decide, asked(SCALE | {"levels": ["low"] * 11}), 400, "invalid_levels", "questions[0].levels"),
    (decide, asked(SCALE | {"levels": ["low", " "]}), 400, "empty_level", "questions[0].levels[1]"),
    (decide, asked(SCALE | {"levels": ["low", 1]}), 400, "invalid_level_type", "questions[0].levels[1]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("parse", "fields", "status", "code", "param"), REFUSED, ids=[f"{i}-{case[3]}" for i, case in enumerate(REFUSED)]
)
def test_each_condition_has_its_status_code_and_param(parse, fields, status, code, param):
    with pytest.raises(WireError) as caught:
        parse(fields)
    error = caught.value
    assert (error.status, error.code, error.param) == (status, code, param)
    body = msgspec.json.decode(error.body(), type=ErrorBody).error
    assert (body.code, body.param, body.type) == (code, param, "invalid_request_error")
    assert body.message and len(body.message) < 400


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([(rerank, RERANK), (decide, DECISIONS), (score, SCORE), (classify, CLASSES)]), st.data())
def test_any_field_is_parsed_or_refused_with_a_wire_error(endpoint, data):
    parse, good = endpoint
    fields = dict(good)
    if "questions" in fields:
        part = data.draw(st.sampled_from(["id", "type", "question", "options", "levels", "yes"]))
        fields["questions"] = [data.draw(st.sampled_from(fields["questions"])) | {part: data.draw(_anything)}]
    more = ["temperature", "top_n", "instruct", "score_extraction_token", "apply_softmax", "return_documents"]
    fields[data.draw(st.sampled_from(sorted(fields.keys() - {"questions"}) + more))] = data.draw(_anything)
    refused = None
    try:
        assert parse(fields) is not None
    except WireError as error:
        refused = error
    assert refused is None or (refused.status in (400, 422) and refused.code and refused.message)


# -- scores -----------------------------------------------------------------------------------


def test_labels_per_item():
    request = score(SCORE)
    assert request == ScoreRequest(**SCORE)
    assert request.label_lists == [[7, 8], [9]]
    assert score(PLAIN).label_lists == [[7], [7]]


def test_a_classification_head_needs_no_labels_and_ignores_any():
    for labels in ({}, {"label_token_ids": [7]}, {"label_token_ids": "seven"}):
        assert classify(CLASSES | labels) == ScoreRequest(**CLASSES)
    full = {"apply_softmax": True, "temperature": 2.0, "return_pooled_hidden_states": True}
    assert classify(CLASSES | full) == ScoreRequest(**CLASSES, **full)


def test_nested_scores_survive_the_wire():
    tables = {"scores": [[[0.5], [0.25]], [[1.0]]], "token_logprobs": [[[-1.5], [-2.0]], [[-3.0]]]}
    response = ScoreResponse(model="m", **tables)
    assert msgspec.json.decode(encode_score_response(response), type=ScoreResponse) == response


@pytest.mark.parametrize("table", ["scores", "token_logprobs", "pooled_hidden_states"])
@pytest.mark.parametrize("rows", [[[0.5], [math.nan]], [[[0.5]], [[0.5], [math.inf]]]], ids=["flat", "nested"])
def test_numbers_that_are_none_are_never_encoded(table, rows):
    response = ScoreResponse(**({"scores": [[0.5], [0.5]], "model": "m"} | {table: rows}))
    with pytest.raises(ValueError, match=f"the {table} of item 1 are not finite"):
        encode_score_response(response)


# -- rankings ---------------------------------------------------------------------------------


def ranked(scores, **more):
    documents = [f"d{i}" for i in range(len(scores))]
    return ranking(RerankRequest(query="q", documents=documents, **more), scores)


def test_a_ranking_is_stable_and_names_the_place_in_the_request():
    found = ranked([0.5, 0.9, 0.5, 0.1, 0.9])
    assert [(each.index, each.score, each.document) for each in found] == [
        (1, 0.9, "d1"), (4, 0.9, "d4"), (0, 0.5, "d0"), (2, 0.5, "d2"), (3, 0.1, "d3"),
    ]  # fmt: skip


@pytest.mark.parametrize(("top_n", "left"), [(1, [2]), (2, [2, 0]), (3, [2, 0, 1]), (9, [2, 0, 1]), (None, [2, 0, 1])])
def test_the_best_so_many(top_n, left):
    assert [each.index for each in ranked([0.5, 0.1, 0.9], top_n=top_n)] == left


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("texts", [True, False])
def test_a_ranking_of_either_form_reads_back(bare, texts):
    found = ranked([0.25, 0.75], return_documents=texts)
    body = encode_ranking(found, model="m", usage=Usage.of(9), bare=bare)
    assert decode_ranking(body) == found
    answer = json.loads(body)
    assert isinstance(answer, list) is bare
    first = answer[0] if bare else answer["results"][0]
    want = {"index": 1, "score" if bare else "relevance_score": 0.75}
    assert first == want | ({"document": "d1" if bare else {"text": "d1"}} if texts else {})
    with pytest.raises(ValueError, match="not finite"):
        encode_ranking([Ranked(index=0, score=math.nan)], model="m", usage=Usage.of(9), bare=bare)


@pytest.mark.parametrize(
    "body", [b"{", b"3", b"{}", b'{"results": 3}', b"[3]", b'[{"index": 0}]', b'[{"index": "0", "score": 1}]']
)
def test_no_ranking(body):
    with pytest.raises(ValueError, match=r"ranking|score"):
        decode_ranking(body)


# -- decisions --------------------------------------------------------------------------------


def test_a_full_decision_request():
    request = decide(DECISIONS | {"input": {"a": [1]}, "temperature": 2, "model": "m"})
    assert (request.temperature, request.model, request.return_prompt_token_ids) == (2.0, "m", False)
    assert [question.names for question in request.questions] == [["x", "y"], ["0", "1"], ["yes", "no"]]
    assert [question.details for question in request.questions] == [[None, None], ["low", "high"], [None, None]]
    assert [decision_prompts.labels(question) for question in request.questions] == [
        ["A", "B"], ["0", "1"], ["yes", "no"],
    ]  # fmt: skip


def test_the_prompt_of_each_kind_of_question():
    described = YES_NO | {"yes": "sure", "no": {"b": 2}}
    options = [{"name": "x", "description": "first"}, {"name": "y"}]
    request = decide({"input": {"a": [1]}, "questions": [CHOICE | {"options": options}, SCALE, described]})
    assert decision_prompts.rendered_input(request.input) == '<|im_start|>user\n{"a":[1]}\n\n'
    tail = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert [decision_prompts.rendered_question(question).removesuffix(tail) for question in request.questions] == [
        "Question: which?\nA: x - first\nB: y\nAnswer with the letter of one option only.",
        "Question: how?\n0: low\n1: high\nAnswer with the number of one level only.",
        'Is the following true? is it?\nyes: sure\nno: {"b":2}\nAnswer with yes or no only.',
    ]


def test_decisions_are_finite():
    answer = DecisionAnswer(type="yes_no", probabilities={"yes": 0.5, "no": 0.5}, label_mass=0.1)
    response = DecisionResponse(answers={"a": answer}, model="m")
    assert json.loads(encode_decisions(response))["answers"]["a"] == {
        "type": "yes_no", "probabilities": {"yes": 0.5, "no": 0.5}, "label_mass": 0.1,
    }  # fmt: skip
    bad = msgspec.structs.replace(answer, label_mass=math.nan)
    with pytest.raises(ValueError, match="'a' are not finite"):
        encode_decisions(msgspec.structs.replace(response, answers={"a": bad}))


# -- generative scoring -----------------------------------------------------------------------


def test_generative_scores_are_read_by_index():
    data = [GenerativeScore(index=1, score=0.25), GenerativeScore(index=0, score=0.75)]
    body = msgspec.json.encode(GenerativeScoringResponse(data=data, model="m"))
    assert decode_generative_scores(body, 2) == [0.75, 0.25]
    for count in (1, 3):
        with pytest.raises(ValueError, match=r"items \[0, 1\]"):
            decode_generative_scores(body, count)


@pytest.mark.parametrize(
    "data",
    ["3", '[{"index": 0}]', '[{"index": 0, "score": null}]', '[{"index": 0, "score": 1}, {"index": 0, "score": 1}]'],
)
def test_no_generative_scores(data):
    with pytest.raises(ValueError, match=r"score|data"):
        decode_generative_scores(f'{{"data": {data}}}'.encode(), 1)


def test_a_label_is_asked_for_by_putting_it_first():
    assert label_order([7, 8, 9], 8) == [8, 7, 9]
    with pytest.raises(ValueError, match="5 is none"):
        label_order([7, 8], 5)
    request = GenerativeScoringRequest(query=[1], items=[[2]], label_token_ids=[7], apply_softmax=False)
    assert json.loads(msgspec.json.encode(request)) == {
        "query": [1], "items": [[2]], "label_token_ids": [7], "apply_softmax": False,
    }  # fmt: skip


# -- the table --------------------------------------------------------------------------------


def test_every_mode_is_in_the_table_once():
    assert [mode.name for mode in MODES] == list(ModeName)
    assert [mode.number for mode in MODES] == [*range(1, 10), None]
    for mode in MODES:
        assert scoring_mode(mode.name) is mode
        assert mode.paths and mode.heads and mode.fields and mode.answer and mode.reference


def test_every_field_of_the_table_is_one_of_the_messages():
    known = {"/v1/score": ScoreRequest, "/v1/rerank": RerankRequest, "/generative_scoring": GenerativeScoringRequest}
    for mode in MODES:
        message = known.get(mode.paths[0])
        if message is not None:
            assert set(mode.fields) <= set(message.__struct_fields__), mode.name
