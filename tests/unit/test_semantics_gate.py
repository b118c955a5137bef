"""The semantics probe against servers in memory: right, wrong, causal, and undecidable."""

import numpy as np
import pytest
from stub_targets import (
    DELIMITER,
    baseline,
    hashed,
    leaking,
    make_case,
    multi,
    packed,
    packed_query_prefix,
)

from pytest_multiitem.gates.evidence import leak_visibility, semantic_visibility
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.gates.semantics import AS_DECLARED, measure
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.semantics import Semantics

CASE = make_case(lengths=[3, 0, 4, 5, 2, 6, 7, 3])
FIRST, QUERY = Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX


def check(target, samples=None):
    record = [].append if samples is None else samples.append
    return record_of(AS_DECLARED, measure(target, baseline(), [CASE], delimiter=DELIMITER, record=record))


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

    measured = measure(multi(flat), baseline(flat), [CASE], delimiter=DELIMITER, record=lambda line: None)
    record = record_of(AS_DECLARED, measured)
    assert record.verdict is Verdict.INCONCLUSIVE and "hardly apart" in record.reason


def test_a_first_request_without_tokens_is_passed_over():
    """A server refuses a request without items; that says nothing about its semantics."""
    target = multi()
    empty = make_case(lengths=[0, 0], seed=5, name="empty")
    record = record_of(
        AS_DECLARED, measure(target, baseline(), [empty, CASE], delimiter=DELIMITER, record=lambda line: None)
    )
    assert record.verdict is Verdict.PASS, record.reason
    asked = {query for query, _, _ in target.client.requests}
    assert CASE.query in asked and empty.query not in asked
