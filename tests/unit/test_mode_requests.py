"""Requests of the modes: who speaks which, answers of another shape than asked, and what a run leaves out."""

import msgspec
import numpy as np
import pytest
from stub_targets import DELIMITER, StubClient, StubSubject, make_case, packed, serial
from test_power import settings_of

from pytest_multiitem.adapters.base import Engine, Profile
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.gates.label_mass import LABEL_MASS
from pytest_multiitem.gates.mode_rerank import RERANK
from pytest_multiitem.gates.record import judged, record_of
from pytest_multiitem.gates.registry import gates, left_out, required
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.wire.rerank import RerankRequest
from pytest_multiitem.scoring.wire.score import ScoreRequest
from pytest_multiitem.targets.modes import decided, modes_of, ranked, require_mode, tables
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

CASE = make_case(lengths=[3, 4, 5, 2])
SETS = ScoreRequest(query=[1], items=[[2], [3]], label_token_ids=[4, 5], apply_softmax=True, score_extraction_token="~")


class Answering(StubClient):
    """A server that answers every request in another mode alike. ``said``: of the modes that it speaks."""

    def __init__(self, answer=None, said=None, model="stub-model", scores=packed):
        super().__init__(scores, "dense", model)
        self.answer, self.said, self.bodies = answer, said, []

    def ask(self, path, body, *, numbers):
        self._counts["dense"] += 1
        self.bodies.append((path, msgspec.json.decode(body)))
        answer = self.answer(self.bodies[-1][1]) if callable(self.answer) else self.answer
        return answer if isinstance(answer, bytes) else msgspec.json.encode(answer)

    def server_info(self):
        return {**super().server_info(), **({} if self.said is None else {"modes": self.said})}


class Declaring(Engine):
    name = "declaring"

    def spoken(self, info):
        return (ModeName.RERANK,)


def target(*args, adapter=None, **more):
    profile = Profile("multi", "stub", "dense", 0, Semantics.PREFIX_FIRST_DELIM)
    return Target(profile, "stub", Answering(*args, **more), adapter=adapter, delimiter=DELIMITER)


def alone():
    return Target(Profile("serial", "stub"), "stub", StubClient(serial, "serial"), delimiter=DELIMITER)


# -- who speaks what ------------------------------------------------------------------------------


def test_a_server_is_taken_at_its_word_before_its_adapter():
    assert modes_of(target()) is None
    assert modes_of(target(adapter=Declaring())) == {ModeName.RERANK}
    said = target(said=["setwise", "a mode of tomorrow"], adapter=Declaring())
    assert modes_of(said) == {ModeName.SETWISE}
    require_mode(said, ModeName.SETWISE)
    with pytest.raises(EngineUnavailable, match=r"does not speak mode rerank, .* it speaks setwise$"):
        require_mode(said, ModeName.RERANK)
    with pytest.raises(EngineUnavailable, match=r"nobody says whether .* speaks mode rerank"):
        require_mode(target(), ModeName.RERANK)


@pytest.mark.parametrize("name", [name for name, gate in gates().items() if gate.mode is not None])
def test_a_mode_that_nobody_speaks_is_not_run(name):
    subject = StubSubject([CASE], multi=target(), serial=alone())
    record = judged(gates()[name], lambda gate: gate.measure(subject))
    assert record.verdict is Verdict.NOT_RUN and record.value is None


@pytest.mark.parametrize("name", [name for name, gate in gates().items() if gate.mode is not None])
def test_a_run_leaves_out_modes_that_it_does_not_name(name):
    gate = gates()[name]
    assert left_out(gate, settings_of()) is None
    assert left_out(gate, settings_of(mode=gate.mode.value)) is None
    assert "the settings choose ids only (--mode)" in left_out(gate, settings_of(mode="ids"))


def test_a_run_that_requires_all_requires_the_modes_that_it_names():
    of_modes = {name for name, gate in gates().items() if gate.mode is not None}
    assert not of_modes & set(required(settings_of(require="all")))
    assert of_modes & set(required(settings_of(require="all", mode="setwise"))) == {"setwise_agrees"}
    assert set(required(settings_of(require="all", mode="all"))) > of_modes


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "scores is null"),
        ({}, "scores is null; expected 2 rows"),
        ({"scores": [[[0.5, 0.5]]]}, "scores is 1 rows; expected 2"),
        ({"scores": [[0.5, 0.5], [[0.5, 0.5]] * 2]}, r"scores\[0\] is 2; expected 1 by 2 numbers"),
        ({"scores": [[[0.5, 0.5]], [[0.5, 0.5]]]}, r"scores\[1\] is 1 by 2; expected 2 by 2 numbers"),
        ({"scores": [[[0.5, 0.5]], [[0.5], [0.5, 0.5]]]}, r"scores\[1\] is no table of numbers"),
        ({"scores": [[[0.5, None]], [[0.5, 0.5]] * 2]}, r"scores\[0\] has numbers that are not finite"),
        ({"scores": [[["a", "b"]], [[0.5, 0.5]] * 2]}, r"scores\[0\] is no table of numbers"),
    ],
)
def test_scores_of_another_shape_are_refused(answer, words):
    with pytest.raises(ScoreFailure, match=words) as caught:
        tables(target(answer), SETS, readouts=[1, 2])
    assert caught.value.kind is FailureKind.BAD_RESPONSE


def test_scores_and_logprobs_are_read_item_by_item():
    answer = {"scores": [[[0.5, 0.5]], [[0.1, 0.9], [0.3, 0.7]]]}
    found = tables(target(answer), SETS, readouts=[1, 2])
    assert [each.shape for each in found.scores] == [(1, 2), (2, 2)] and found.logprobs is None
    wanted = msgspec.structs.replace(SETS, return_token_logprobs=True)
    with pytest.raises(ScoreFailure, match="token_logprobs is null; expected 2 rows"):
        tables(target(answer), wanted, readouts=[1, 2])
    own = ScoreRequest(query=[1], items=[[2], [3]], label_token_ids=[[4], [5, 6]])
    server = target({"scores": [[0.5], [0.1, 0.9]]})
    np.testing.assert_array_equal(tables(server, own).scores[1], [0.1, 0.9])
    assert server.client.bodies == [
        ("/v1/score", {"model": "default", "query": [1], "items": [[2], [3]], "label_token_ids": [[4], [5, 6]]})
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([{"index": 0, "score": 1.0}] * 2, r"2 documents has the indices \[0, 0\]"),
        ([{"index": 2, "score": 1.0}], r"2 documents has the indices \[2\]"),
        ([{"score": 1.0}], "has no index and no finite score"),
        ({"results": 3}, "without a list of results"),
    ],
)
def test_a_ranking_of_other_documents_is_refused(answer, words):
    with pytest.raises(ScoreFailure, match=words):
        ranked(target(answer), RerankRequest(query="a", documents=["b", "c"]))


def test_answers_to_other_questions_are_refused():
    answer = {"answers": {"b": {"type": "yes_no", "probabilities": {"yes": 1.0}, "label_mass": 1.0}}, "model": "m"}
    with pytest.raises(ScoreFailure, match="answers to b; expected a"):
        decided(target(answer), {"input": "i", "questions": [{"id": "a"}]})
    with pytest.raises(ScoreFailure, match="no answers to decisions"):
        decided(target({"answers": {"a": {}}, "model": "m"}), {"input": "i", "questions": [{"id": "a"}]})


# -- what is known of a model ---------------------------------------------------------------------


def ranks(best):
    """A server that scores by a rule; ``best``: whether a text is relevant."""

    def answer(body):
        scores = [(0.9 if best(body["query"], text) else 0.1) + len(text) * 1e-3 for text in body["documents"]]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.get("top_n")]
        return [{"index": index, "score": scores[index]} for index in order]

    return answer


def relevant(query, text):
    return any(word in text for word in ("Paris", "egg", "boiling", "Snow", "bread")) and query[0] != "w"


@pytest.mark.parametrize(
    ("model", "rule", "expected"),
    [
        ("Qwen/Qwen3-Reranker-0.6B", relevant, Verdict.PASS),
        ("Qwen/Qwen3-Reranker-0.6B", lambda query, text: not relevant(query, text), Verdict.FAIL),
        ("tiny", lambda query, text: not relevant(query, text), Verdict.PASS),
    ],
)
def test_a_model_that_is_known_to_rank_is_asked_for_known_answers(model, rule, expected):
    multi = target(ranks(rule), ["ids", "rerank"], model)
    record = record_of(RERANK, RERANK.measure(StubSubject([CASE], multi=multi, serial=alone())))
    assert record.verdict is expected, record.reason
    assert expected is Verdict.PASS or "is said to be more relevant than" in record.reason
    assert ("known answers" in record.details.not_made) == (model == "tiny")


@pytest.mark.parametrize(("workload", "expected"), [(None, Verdict.PASS), ("mine", Verdict.INCONCLUSIVE)])
def test_requests_of_the_users_own_ask_for_their_labels(workload, expected):
    """Random tokens ask for none: their label mass is reported, and decides nothing as long as there is some."""

    def rare(query, items, labels):
        return packed(query, items, labels) * (1e-5 if len(labels) > 2 else 1)

    multi = target(None, None, scores=rare)
    record = record_of(LABEL_MASS, LABEL_MASS.measure(StubSubject([CASE], multi=multi, workload=workload)))
    assert record.verdict is expected and 0 < record.value < 1e-4
    assert ("near zero" in record.reason) == (expected is Verdict.PASS)
    assert ("a template is missing" in record.reason) == (expected is Verdict.INCONCLUSIVE)
