"""Servers that rank, of whatever make, known by an address: how they are asked, and what is made of their answers."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from stub_targets import StubSubject

from fake_vllm import FakeVllm, Refused, relevance, serving
from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.adapters.ranking import FORMS, RerankClient, TextOnly
from pytest_multiitem.gates.record import judged
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.wire.classify import decode_classes
from pytest_multiitem.servers.errors import NeverReady
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.targets.attach import attach_ready
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

RERANK = choose_engine("rerank")
QUERY, DOCUMENTS = "what is warm?", ["bread", "ice", "the sun", "", "bread"]
SCORES = np.array([relevance(QUERY, text) for text in DOCUMENTS])


class Ranker:
    """A server of one form, with a fault."""

    def __init__(self, path: str = "/rerank", field: str = "documents", bare: bool = False, fault: str = "") -> None:
        self.path, self.field, self.bare, self.fault = path, field, bare, fault
        self.waiting: list[str] = []
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def get(self, path: str) -> dict[str, Any] | None:
        return {} if path == "/health" else None

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        self.asked.append((path, body))
        if self.fault == "down":
            raise Refused("no model is loaded")
        if path != self.path:
            return None
        if self.field not in body:
            raise Refused(f"missing field {self.field}")
        query = self._coalesced(body["query"]) if self.fault == "coalesced" else body["query"]
        scores = [relevance(query, text) for text in body[self.field]]
        if self.fault == "constant":
            scores = [0.5] * len(scores)
        if self.fault == "blend":
            scores = [0.9 * own + 0.1 * other for own, other in zip(scores, [0.0, *scores], strict=False)]
        ranked = sorted(enumerate(scores), key=lambda each: -each[1])
        if self.fault == "index":  # the place in the ranking instead of that in the request
            ranked = [(place, score) for place, (_, score) in enumerate(ranked)]
        if self.fault == "one twice":
            ranked[-1] = ranked[0]
        if self.fault == "beyond":
            ranked[-1] = (len(scores), ranked[-1][1])
        if self.fault == "short":
            ranked.pop()
        entries = [{"index": at, "score" if self.bare else "relevance_score": score} for at, score in ranked]
        if self.fault == "unsorted":
            entries.sort(key=lambda entry: entry["index"])
        if self.fault == "squashed empty":
            entries = [entry for entry in entries if body[self.field][entry["index"]]]
        if self.fault != "top" and self.field == "documents":
            entries = entries[: body.get("top_n") or None]
        return entries if self.bare else {"results": entries}

    def _coalesced(self, query: str) -> str:
        """The query of the first of those that are in flight together."""
        self.waiting.append(query)
        first = self.waiting[0]
        try:
            time.sleep(0.03)
            return first
        finally:
            self.waiting.remove(query)


@pytest.fixture
def ranker(request):
    """A client of a server that is made by the parameters."""
    made = Ranker(**getattr(request, "param", {}))
    with serving(made) as url, RerankClient(url) as made.client:
        yield made


ALL_FORMS = [
    {"path": "/v1/rerank", "bare": True}, {"path": "/v1/rerank"}, {"path": "/rerank"}, {"path": "/v2/rerank"},
    {"path": "/rerank", "field": "texts", "bare": True},
]  # fmt: skip


@pytest.mark.parametrize("ranker", ALL_FORMS, ids=str, indirect=True)
def test_a_server_is_asked_in_the_form_that_it_answers(ranker):
    assert np.array_equal(ranker.client.relevance(QUERY, DOCUMENTS), SCORES)
    assert ranker.client.form == (ranker.path, ranker.field)
    tries = len(ranker.asked)
    assert np.array_equal(ranker.client.relevance(QUERY, DOCUMENTS[:2]), SCORES[:2])
    assert len(ranker.asked) == tries + 1, "the form is found out once"


def test_every_form_is_one_of_those_that_are_tried():
    tried = {(form.path, form.documents) for form in FORMS}
    assert {(each["path"], each.get("field", "documents")) for each in ALL_FORMS} == tried


def test_the_ranking_is_as_the_server_gave_it(ranker):
    ranked = ranker.client.rank(QUERY, DOCUMENTS, top_n=3)
    assert [each.index for each in ranked] == sorted(range(5), key=lambda at: -SCORES[at])[:3]
    assert [each.score for each in ranked] == sorted(SCORES, reverse=True)[:3]


@pytest.mark.parametrize("ranker", [{"fault": "index"}], indirect=True)
def test_scores_by_the_place_in_the_ranking_are_seen_as_wrong_scores(ranker):
    """Nothing in the answer tells; the scores do."""
    assert not np.allclose(ranker.client.relevance(QUERY, DOCUMENTS), SCORES)


@pytest.mark.parametrize(
    ("ranker", "words"),
    [
        ({"fault": "one twice"}, "indexes of 5 documents, each once"),
        ({"fault": "beyond"}, "indexes of 5 documents, each once"),
        ({"fault": "short"}, "expected a score of each of 5 documents, got 4"),
    ],
    indirect=["ranker"],
)
def test_what_is_no_ranking_of_these_documents(ranker, words):
    ranker.client._form = FORMS[1]
    with pytest.raises(ScoreFailure, match=words) as failure:
        ranker.client.relevance(QUERY, DOCUMENTS)
    assert failure.value.kind is FailureKind.BAD_RESPONSE


@pytest.mark.parametrize("ranker", [{"fault": "down"}], indirect=True)
def test_a_server_that_answers_no_form_says_why_not(ranker):
    with pytest.raises(ScoreFailure, match="no form of a rerank request: /v1/rerank with documents") as found:
        ranker.client.rank(QUERY, DOCUMENTS)
    assert "/rerank with texts: HTTP 400" in str(found.value) and "no model is loaded" in str(found.value)
    assert len(ranker.asked) == len(FORMS)


def settings_of(url):
    return RERANK.fit(resolve({"multiitem_engine": "rerank", "multiitem_serial_url": url}, {}, {}))


def test_it_is_attached_by_a_request_of_text(ranker):
    settings = settings_of(ranker.client.url)
    target = attach_ready("serial", ranker.client.url, settings, RERANK)
    with target.client:
        assert {frozenset(body) for _, body in ranker.asked} == {frozenset({"query", "documents"})}
        assert target.engine == "rerank" and RERANK.modes == (ModeName.RERANK,)
        with target.attest() as attestation:
            target.client.relevance(QUERY, DOCUMENTS)
        assert attestation.mask == "unattested"
        with pytest.raises(TextOnly, match="ranks texts and takes no token ids"):
            target.score_ids([1], [[2]], [3, 4])


def test_what_does_not_rank_is_not_attached():
    class Healthy(Ranker):
        def post(self, path, body):
            return None

    with serving(Healthy()) as url, pytest.raises((ScoreFailure, NeverReady), match="no form of a rerank request"):
        attach_ready("serial", url, settings_of(url), RERANK)


def test_vllms_pooling_server_is_one_of_them():
    server = FakeVllm()
    with serving(server) as url, RerankClient(url) as client:
        assert np.array_equal(client.relevance(QUERY, DOCUMENTS), SCORES)
        assert client.form == ("/v1/rerank", "documents")
        with client.another() as other:
            other.relevance(QUERY, DOCUMENTS)
    assert {body["model"] for _, body in server.calls} == {"tiny"}, "another name would be refused"


# -- the gate of rankings, on a server of which the address is all that is known -----------------------


def judged_ranking(ranker):
    """The record of the gate, as of a run that is attached to the server on both sides."""
    settings = settings_of(ranker.client.url)
    target = attach_ready("multi", ranker.client.url, settings, RERANK)
    with target.client:
        subject = StubSubject([], multi=target, serial=target)
        return judged(gates()["rerank_agrees"], lambda gate: gate.measure(subject))


#: What a server of an unknown model and tokenizer cannot be asked.
NOT_ASKED = {"the rendered prompt by ids", "documents by index", "cold and warm caches", "known answers"}


@pytest.mark.parametrize("ranker", ALL_FORMS, ids=str, indirect=True)
def test_the_gate_of_rankings_passes_on_each_form(ranker):
    record = judged_ranking(ranker)
    assert record.verdict is Verdict.PASS, record.reason
    assert set(record.details.not_made) == NOT_ASKED | ({"the best two"} if ranker.field == "texts" else set())


@pytest.mark.parametrize(
    ("ranker", "check"),
    [
        ({"fault": "unsorted"}, "the order is that of the scores"),
        ({"fault": "index"}, "copies"),
        ({"fault": "top"}, "the best two"),
        ({"fault": "squashed empty"}, "an empty document"),
        ({"fault": "coalesced"}, "two queries at the same time"),
        ({"fault": "blend"}, "an item alone"),
        ({"fault": "constant"}, "the content of one item"),
    ],
    indirect=["ranker"],
)
def test_the_gate_of_rankings_sees_what_is_wrong(ranker, check):
    record = judged_ranking(ranker)
    assert record.verdict is Verdict.FAIL, record.reason
    assert check in record.details.broken, record.details.broken


# -- servers that classify texts ------------------------------------------------------------------

CLASSIFY = choose_engine("classify")


def judged_classes(server):
    """The record of the gate of classes on a server that takes texts."""
    with serving(server) as url:
        settings = CLASSIFY.fit(resolve({"multiitem_engine": "classify", "multiitem_multi_url": url}, {}, {}))
        target = attach_ready("multi", url, settings, CLASSIFY)
        with target.client:
            with pytest.raises(TextOnly, match="classifies texts and takes no token ids"):
                target.score_ids([1], [[2]], [3, 4])
            subject = StubSubject([], multi=target, serial=target)
            return judged(gates()["classification_agrees"], lambda gate: gate.measure(subject))


def test_the_gate_of_classes_passes_on_texts():
    record = judged_classes(FakeVllm())
    assert record.verdict is Verdict.PASS, record.reason
    assert set(record.details.not_made) == {"cold and warm caches"}


@pytest.mark.parametrize("fault", ["blend", "turned"])
def test_the_gate_of_classes_sees_what_is_wrong_with_texts(fault):
    record = judged_classes(FakeVllm(fault))
    assert record.verdict is Verdict.FAIL and "an item alone" in record.details.broken, record.reason


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"data": [{"index": 0, "probs": [0.5]}]}, "no list called data of 2 entries"),
        ({"data": [{"index": 0, "probs": [0.5]}] * 2}, "the index 0 is that of no further text"),
        ({"data": [{"index": 0, "probs": [0.5]}, {"index": 1, "probs": [0.5, 0.5]}]}, "not of one length"),
        ({"data": [{"index": 0, "probs": []}, {"index": 1}]}, "no row of finite probs"),
        ([], "no list called data"),
    ],
)
def test_what_is_no_row_of_classes_for_each_text(answer, words):
    with pytest.raises(ValueError, match=words):
        decode_classes(msgspec.json.encode(answer), 2)


def test_classes_by_their_names_are_read_in_the_order_of_these():
    first = [{"label": "b", "score": 0.9}, {"label": "a", "score": 0.1}]
    rows = [first, [{"label": "a", "score": 1}, {"label": "b", "score": 0}]]
    assert decode_classes(msgspec.json.encode({"data": rows}), 2).tolist() == [[0.1, 0.9], [1.0, 0.0]]
