"""The semantics probe against servers in memory: right, wrong, causal, and undecidable; and against the embedded engine
with causal attention."""

import engine_cases
import numpy as np
import pytest
from stub_targets import (
    DELIMITER,
    StubClient,
    baseline,
    hashed,
    leaking,
    make_case,
    multi,
    packed,
    packed_query_prefix,
)

from pytest_multiitem.engine import causal_reference
from pytest_multiitem.engine.scorer import MaskImpl, Scorer, ScorerConfig
from pytest_multiitem.engine.serve import load_backend
from pytest_multiitem.faults.catalogue import fault
from pytest_multiitem.gates.measurement import leak_visibility, record_of, semantic_visibility
from pytest_multiitem.gates.semantics import AS_DECLARED, measure
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.engines import Profile, choose_engine
from pytest_multiitem.servers.target import Target

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
    assert record.details["nearest"] == semantics.value and set(record.details["distances"]) == {FIRST, QUERY, "causal"}
    assert record.samples == {"items": 6} and record.mask_attested == "dense"
    assert "semantics" in {sample["kind"] for sample in samples}
    alone = baseline()
    assert record.leak_visibility == leak_visibility(alone, [CASE], semantics, DELIMITER, [].append)[0] > 0.02
    assert record.semantic_visibility == semantic_visibility(alone, [CASE], DELIMITER, [].append) > 0.02


@pytest.mark.parametrize(("scores", "declared", "had"), [(packed, QUERY, FIRST), (packed_query_prefix, FIRST, QUERY)])
def test_another_semantics_than_the_declared_one_fails_by_name(scores, declared, had):
    record = check(multi(scores, semantics=declared))
    assert record.verdict is Verdict.FAIL and f"its scores are those of {had.value}" in record.reason
    assert record.value > 0.02 and record.details["distances"][had.value] == 0.0


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
    assert record.details["nearest"] == FIRST.value


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


# -- on a real model: causal attention, with positions that grow or restart -----------------------


@pytest.fixture(scope="module")
def backend(checkpoint):
    pytest.importorskip("torch")
    return load_backend("pytorch", checkpoint, dtype="float32", device="cpu")


class SglJaxOnACpu(StubClient):
    """What an attached sgl-jax server on a CPU says of itself, whether its attention masks or not."""

    def server_info(self):
        return {"model_path": self.model, "device": "cpu", "attention_backend": "fa", "multi_item_mask_impl": "segment",
                "multi_item_scoring_delimiter": engine_cases.DELIMITER}  # fmt: skip


def probe(backend, checkpoint, *faults, semantics=FIRST, chunk=0, model="the checkpoint"):
    """The probe on the embedded engine behind the words of sgl-jax."""
    kind = Scorer
    for name in faults:
        kind = fault(name).scorer(kind)
    config = {"delimiter": engine_cases.DELIMITER, "mask_impl": MaskImpl.DENSE, "semantics": semantics}
    engine, plain = kind(backend, ScorerConfig(chunk_size=chunk, **config)), Scorer(backend, ScorerConfig())

    def scores(which):
        return lambda query, items, labels: which.score(list(query), list(map(list, items)), labels, True).scores

    client = SglJaxOnACpu(scores(engine), None, str(checkpoint) if model == "the checkpoint" else model)
    target = Target(
        Profile("multi", "jax", "segment", chunk, semantics), "sgl-jax", client, None, choose_engine("sgl-jax")
    )
    rng = np.random.default_rng(5)
    query, *items = (tuple(engine_cases.tokens(rng, n)) for n in (20, 3, 9, 1, 12, 7, 5))
    case = Case("case", query, tuple(items), engine_cases.LABELS[:2], tuple(range(engine_cases.DELIMITER)))
    measured = measure(target, baseline(scores(plain)), [case], delimiter=engine_cases.DELIMITER, record=[].append)
    return record_of(AS_DECLARED, measured)


@pytest.mark.parametrize("semantics", [FIRST, QUERY])
def test_a_healthy_engine_on_a_cpu_passes_by_its_scores_alone(backend, checkpoint, semantics, monkeypatch):
    monkeypatch.setattr(causal_reference.subprocess, "run", None)  # no model is loaded for it
    record = probe(backend, checkpoint, semantics=semantics)
    assert (record.verdict, record.mask_attested) == (Verdict.PASS, "unattested"), record.reason
    assert set(record.details["distances"]) == {FIRST, QUERY, "causal"} and "not_compared" not in record.details


@pytest.mark.parametrize(
    ("semantics", "chunk"),
    [(FIRST, 0), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((FIRST, 2), (QUERY, 0)))],
)
@pytest.mark.parametrize("name", ["causal", "causal_restarting"])
def test_causal_attention_fails_by_the_name_of_its_positions(backend, checkpoint, name, semantics, chunk):
    record = probe(backend, checkpoint, name, semantics=semantics, chunk=chunk)
    assert (record.verdict, record.mask_attested) == (Verdict.FAIL, "unattested")
    assert f"its scores are those of {name}: " in record.reason, record.reason
    assert record.details["nearest"] == name and record.details["distances"][name] < 1e-5


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("/no/such/checkpoint", "no checkpoint '/no/such/checkpoint' lies on this machine"),
        ("nobody/no-such-model", "nobody/no-such-model"),
        (None, "the server does not name its checkpoint"),
    ],
)
def test_without_its_weights_restarting_positions_are_not_named(backend, checkpoint, model, words):
    record = probe(backend, checkpoint, "causal_restarting", model=model)
    assert record.verdict is Verdict.FAIL and "of no other semantics either" in record.reason
    assert "causal_restarting was not compared: " in record.reason and words in record.reason
    assert words in record.details["not_compared"]["causal_restarting"]


def test_without_its_weights_plain_causal_attention_still_has_its_name(backend, checkpoint):
    record = probe(backend, checkpoint, "causal", model=None)
    assert "its scores are those of causal: " in record.reason and "not compared" not in record.reason
