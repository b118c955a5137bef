"""The semantics probe against servers in memory: right, wrong, causal, and undecidable."""

import numpy as np
import pytest
from stub_targets import (
    DELIMITER,
    StubSubject,
    baseline,
    hashed,
    leaking,
    make_case,
    multi,
    packed,
    packed_query_prefix,
)

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.gates import semantics as gate
from pytest_multiitem.gates.evidence import leak_visibility, semantic_visibility
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.gates.semantics import AS_DECLARED, measure
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.semantics import Semantics

CASE = make_case(lengths=[3, 0, 4, 5, 2, 6, 7, 3])
FIRST, QUERY = Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX


def check(target, samples=None):
    record = [].append if samples is None else samples.append
    return record_of(AS_DECLARED, measure(StubSubject([CASE], multi=target, serial=baseline(), record=record)))


def causal(query, items, labels):
    rows, seen = [], [*query]
    for item in items:
        seen += [DELIMITER, *item]
        rows.append(hashed(seen, labels))
    return np.array(rows)


@pytest.mark.parametrize(("scores", "semantics"), [(packed, FIRST), (packed_query_prefix, QUERY)])
def test_a_server_that_has_what_it_declares_passes(scores, semantics):
    samples = []
    record = check(multi(scores, semantics=semantics), samples)
    assert record.verdict is Verdict.PASS and record.value == 0.0, record.reason
    assert record.details.nearest == semantics.value and set(record.details.distances) == {FIRST, QUERY, "causal"}
    assert record.samples == {"items": 6} and record.mask_attested == "dense"
    assert "semantics" in {sample["kind"] for sample in samples}
    alone = baseline()
    assert record.leak_visibility == leak_visibility(alone, [CASE], semantics, DELIMITER, [].append)[0] > 0.02
    assert record.semantic_visibility == semantic_visibility(alone, [CASE], DELIMITER, [].append) > 0.02


@pytest.mark.parametrize(("scores", "declared", "had"), [(packed, QUERY, FIRST), (packed_query_prefix, FIRST, QUERY)])
def test_another_semantics_than_the_declared_one_fails_by_name(scores, declared, had):
    record = check(multi(scores, semantics=declared))
    assert record.verdict is Verdict.FAIL and f"its scores are those of {had.value}" in record.reason
    assert record.value > 0.02 and record.details.distances[had.value] == 0.0


@pytest.mark.parametrize("declared", [FIRST, QUERY])
def test_plain_causal_attention_fails_by_name(declared):
    record = check(multi(causal, semantics=declared))
    assert record.verdict is Verdict.FAIL and "its scores are those of causal" in record.reason


@pytest.mark.parametrize(
    "scores",
    [leaking(lambda i, j, n: j > i), lambda query, items, labels: np.full((len(items), 2), 0.5)],
    ids=["leaking from the right", "constant"],
)
def test_what_resembles_nothing_fails(scores):
    record = check(multi(scores))
    assert record.verdict is Verdict.FAIL and "of no other semantics either" in record.reason


@pytest.mark.parametrize(("away", "expected"), [(0.019, Verdict.PASS), (0.021, Verdict.FAIL)])
def test_nearest_is_not_near_enough_beyond_the_limit(away, expected):
    def shifted(query, items, labels):
        return packed(query, items, labels) + np.array([away, -away])

    record = check(multi(shifted))
    assert record.verdict is expected, record.reason
    assert record.details.nearest == FIRST.value


def test_a_model_on_which_all_semantics_look_alike_decides_nothing():
    def flat(query, items, labels):
        return np.full((len(items), 2), 0.5)

    measured = measure(StubSubject([CASE], multi=multi(flat), serial=baseline(flat)))
    record = record_of(AS_DECLARED, measured)
    assert record.verdict is Verdict.INCONCLUSIVE and "hardly apart" in record.reason


def test_a_first_request_without_tokens_is_passed_over():
    """A server refuses a request without items; that says nothing about its semantics."""
    target = multi()
    empty = make_case(lengths=[0, 0], seed=5, name="empty")
    record = record_of(AS_DECLARED, measure(StubSubject([empty, CASE], multi=target, serial=baseline())))
    assert record.verdict is Verdict.PASS, record.reason
    asked = {query for query, _, _ in target.client.requests}
    assert CASE.query in asked and empty.query not in asked


# -- causal attention with restarting positions, which no serial request expresses -------------


def restarting(query, items, labels):
    """Some scores in which an item sees all before it, and which are not those of plain causal attention."""
    return causal([*query, 0], items, labels)


@pytest.fixture
def asked(monkeypatch):
    """The requests for scores that no serial server has; they are `restarting`, by packed sequence."""
    requests = []

    def scores(request):
        requests.append(request)
        return np.concatenate([restarting(request.query, items, request.labels) for items in request.sequences])

    monkeypatch.setattr(gate, "restarting_scores", scores)
    return requests


def in_sequences(scores, size):
    def chunked(query, items, labels):
        return np.concatenate([scores(query, items[at : at + size], labels) for at in range(0, len(items), size)])

    return chunked


@pytest.mark.parametrize("scores", [restarting, causal])
@pytest.mark.parametrize("size", [0, 2])
def test_causal_attention_fails_by_the_name_of_its_positions(asked, scores, size):
    record = check(multi(in_sequences(scores, size or 8), chunk=size))
    name = scores.__name__.replace("restarting", "causal_restarting")
    assert record.verdict is Verdict.FAIL and f"its scores are those of {name}: 0 away from it" in record.reason
    assert record.details.nearest == name and record.details.distances["causal_restarting"] >= 0
    (request,) = asked
    filled = [item for item in CASE.items if item][:6]
    assert [len(items) for items in request.sequences] == ([2, 2, 2] if size else [6])
    assert [item for items in request.sequences for item in items] == filled
    assert (request.model, request.query, request.labels) == ("stub-model", CASE.query, CASE.labels)
    assert (request.delimiter, request.semantics) == (DELIMITER, FIRST)


def test_the_checkpoint_that_the_user_names_comes_first(asked):
    measure(StubSubject([CASE], multi=multi(restarting), serial=baseline(), model="/models/mine"))
    assert asked[0].model == "/models/mine"


def test_a_server_that_has_what_it_declares_is_compared_with_serial_requests_alone(asked):
    assert check(multi()).verdict is Verdict.PASS and asked == []


def test_a_server_that_packs_one_item_a_sequence_is_compared_as_any_other():
    assert check(multi(chunk=1)).verdict is Verdict.PASS


def test_a_second_name_for_the_same_scores_excuses_nothing(monkeypatch):
    monkeypatch.setattr(
        gate, "restarting_scores", lambda request: causal(request.query, request.sequences[0], request.labels)
    )
    record = check(multi(causal))
    assert record.verdict is Verdict.FAIL and "its scores are those of causal: " in record.reason


@pytest.mark.parametrize(("away", "named"), [(0.019, True), (0.021, False)])
def test_scores_that_are_far_from_every_reference_are_not_named_by_the_nearest(away, named):
    def shifted(query, items, labels):
        return causal(query, items, labels) + np.array([away, -away])

    record = check(multi(shifted))
    assert record.verdict is Verdict.FAIL and record.details.nearest == "causal"
    assert ("its scores are those of causal" in record.reason) is named
    assert ("of no other semantics either" in record.reason) is not named


@pytest.mark.parametrize(("scores", "told"), [(restarting, True), (causal, False)])
def test_what_was_not_compared_is_told_where_nothing_has_a_name(monkeypatch, scores, told):
    def missing(request):
        raise EngineUnavailable("no weights")

    monkeypatch.setattr(gate, "restarting_scores", missing)
    record = check(multi(scores))
    assert record.verdict is Verdict.FAIL
    assert ("; causal_restarting was not compared: no weights" in record.reason) is told
    assert record.details.not_compared == {"causal_restarting": "no weights"}


def test_a_server_that_names_no_checkpoint_is_said_so(asked):
    record = check(multi(restarting, executed=None))
    assert "the server does not name its checkpoint; name it: --model DIR" in record.reason and asked == []
