"""Rerank and decisions: what is rendered is scored as any other request, and mapped back."""

import asyncio
import math

import httpx
import numpy as np
import pytest
from reference import Reference

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.checkpoint import CheckpointSpec, write_checkpoint
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.service import Service
from pytest_multiitem.engine.tokenizer import load_tokenizer
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.scoring.prompts import reranker
from pytest_multiitem.scoring.wire.rerank import RERANK_PATHS

PACKAGES = {"pytorch": "torch", "jax": "jax"}
DELIMITER = 151_643
WAYS = {
    "serial": ScorerConfig(),
    "packed": ScorerConfig(delimiter=DELIMITER),
    "extend": ScorerConfig(prefill_extend=True, scoring_cache=True),
}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip
DOCUMENTS = ["snow in May", "", "rain", "a long dry summer with hail in the end", "rain"]
CHOICE = {"id": "sky", "type": "choice", "question": "which?",
          "options": [{"name": "blue"}, {"name": "grey", "description": "as today"}, {"name": "red"}]}  # fmt: skip
SCALE = {"id": "wet", "type": "score", "question": "how wet?", "levels": ["dry", "damp", "wet"]}
YES_NO = {"id": "mild", "type": "yes_no", "question": "is it mild?"}
DECISIONS = {"input": {"weather": "rain"}, "questions": [CHOICE, SCALE, YES_NO]}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A causal LM and one with a classification head of one class, both with the whole vocabulary."""
    base = tmp_path_factory.mktemp("prompted")
    for name, more in (("causal", {}), ("one class", {"num_labels": 1})):
        write_checkpoint(base / name, CheckpointSpec(**SIZES, **more))
    return {name: base / name for name in ("causal", "one class")}


@pytest.fixture(scope="module", params=PACKAGES)
def backends(request, directories):
    pytest.importorskip(PACKAGES[request.param])
    return {
        name: load_backend(request.param, directory, dtype="float32", device="cpu")
        for name, directory in directories.items()
    }


@pytest.fixture(scope="module")
def references(directories):
    return {name: Reference(directory) for name, directory in directories.items()}


@pytest.fixture(scope="module")
def words(directories):
    return load_tokenizer(directories["causal"])


def served(backend, config, words):
    return Service(
        scorer=Scorer(backend, config),
        tokenizer=words,
        model="served",
        vocab_size=backend.vocab_size,
        max_positions=backend.max_positions,
        probe_ids=[0, 1],
        info={},
    )


def asked(service, path, *bodies):
    async def all_at_once():
        transport = httpx.ASGITransport(app=create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await asyncio.gather(*(client.post(path, json=body) for body in bodies))

    return asyncio.run(all_at_once())


def answer(service, path, **fields):
    (response,) = asked(service, path, fields)
    assert response.status_code == 200, response.text
    return response.json()


def refusal(service, path, **fields):
    (response,) = asked(service, path, fields)
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def rank(service, **fields):
    return answer(service, "/v1/rerank", **({"query": "weather?", "documents": DOCUMENTS} | fields))


def by_index(ranking):
    return [each["score"] for each in sorted(ranking, key=lambda each: each["index"])]


# -- rerank -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_a_ranking_has_the_scores_of_the_rendered_prompts(backends, references, words, config):
    service = served(backends["causal"], config, words)
    query, items = reranker.rendered(reranker.INSTRUCT, "weather?", DOCUMENTS)
    labels = [words.id_of("yes"), words.id_of("no")]
    body = {"query": query, "items": items, "label_token_ids": labels, "apply_softmax": True}
    mode_1 = [row[0] for row in answer(service, "/v1/score", **body)["scores"]]
    ranking = rank(service)
    assert by_index(ranking) == mode_1
    reference = references["causal"]
    context = config.declared_semantics.serial_query(words.encode(query), DELIMITER)
    for index, item in enumerate(items):
        yes, no = reference.serial_logits([*context, *words.encode(item)])[labels]
        assert abs(mode_1[index] - 1 / (1 + math.exp(no - yes))) < 1e-5
    assert [each["score"] for each in ranking] == sorted(mode_1, reverse=True)
    assert all(each["document"] == DOCUMENTS[each["index"]] for each in ranking)
    assert np.ptp(mode_1) > 0.05


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_one_class_ranks_by_its_sigmoid(backends, references, words, config):
    service = served(backends["one class"], config, words)
    query, items = reranker.rendered("find rain", "weather?", DOCUMENTS)
    logits = [row[0] for row in answer(service, "/v1/score", query=query, items=items)["scores"]]
    scores = by_index(rank(service, instruct="find rain"))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.array(logits))), rtol=0, atol=1e-12)
    reference = references["one class"]
    context = config.declared_semantics.serial_query(words.encode(query), DELIMITER)
    for item, logit in zip(items, logits, strict=True):
        state = reference.serial_states([*context, *words.encode(item)])[-1:]
        assert abs(reference.classes(state)[0, 0] - logit) < 1e-5


def test_the_form_of_each_path(backends, words):
    service = served(backends["causal"], WAYS["packed"], words)
    bare = rank(service)
    for path, is_bare in RERANK_PATHS.items():
        found = answer(service, path, query="weather?", documents=DOCUMENTS, model="mine")
        if is_bare:
            assert found == bare
            continue
        assert found["model"] == "mine" and found["usage"]["completion_tokens"] == 0 < found["usage"]["prompt_tokens"]
        assert [(each["index"], each["relevance_score"], each["document"]["text"]) for each in found["results"]] == [
            (each["index"], each["score"], each["document"]) for each in bare
        ]


def test_what_a_request_for_a_ranking_may_say(backends, words):
    service = served(backends["causal"], WAYS["packed"], words)
    whole = rank(service)
    assert rank(service, top_n=2) == whole[:2] and rank(service, top_n=99) == whole
    assert rank(service, return_documents=False) == [
        {key: value for key, value in each.items() if key != "document"} for each in whole
    ]
    assert by_index(rank(service, instruct="another task")) != by_index(whole)
    assert rank(service, instruct=reranker.INSTRUCT) == whole
    (first, second) = [each["index"] for each in whole if each["document"] == "rain"]
    assert (first, second) == (2, 4), "of two documents of one score the earlier comes first"


def test_what_else_a_ranking_refuses(backends, words):
    few = served(backends["causal"], ScorerConfig(max_items=2), words)
    assert refusal(few, "/rerank", query="q", documents=["a"] * 3) == (400, "too_many_items", "documents")
    short = served(backends["causal"], ScorerConfig(max_positions=300), words)
    long = {"query": "q", "documents": ["a", "a b c d e f g h " * 30]}
    assert refusal(short, "/rerank", **long) == (400, "sequence_too_long", "documents[1]")
    without = served(backends["causal"], ScorerConfig(), None)
    assert refusal(without, "/rerank", query="q", documents=["a"]) == (400, "text_not_supported", "query")

    class OtherWords(type(words)):
        def __init__(self):
            self.__dict__.update(vars(words))

        def encode(self, text):
            return [1, 2] if text == "no" else super().encode(text)

    other = served(backends["causal"], ScorerConfig(), OtherWords())
    assert refusal(other, "/rerank", query="q", documents=["a"]) == (400, "rerank_not_supported", None)
    packed = served(backends["causal"], WAYS["packed"], words)
    assert refusal(packed, "/rerank", query="q", documents=["a", "<|endoftext|>"]) == (
        400, "delimiter_in_content", "documents[1]",
    )  # fmt: skip


def test_queries_in_flight_never_mix(backends, words):
    service = served(backends["causal"], WAYS["packed"], words)
    bodies = [{"query": f"weather {number}?", "documents": DOCUMENTS} for number in range(8)]
    alone = [answer(service, "/v1/rerank", **body) for body in bodies]
    assert [response.json() for response in asked(service, "/v1/rerank", *bodies)] == alone
    assert len({tuple(by_index(ranking)) for ranking in alone}) == len(bodies)


@pytest.mark.parametrize("name", ["causal", "one class"])
def test_no_document_changes_anothers_score_by_one_bit(backends, words, name):
    service = served(backends[name], WAYS["packed"], words)
    before = by_index(rank(service))
    for other in ("", "storm and hail, and then for weeks nothing at all"):
        after = by_index(rank(service, documents=[*DOCUMENTS[:2], other, *DOCUMENTS[3:]]))
        assert after[:2] + after[3:] == before[:2] + before[3:] and after[2] != before[2]


# -- decisions --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_decisions_equal_the_scores_of_the_ids_that_they_name(backends, references, words, config, temperature):
    service = served(backends["causal"], config, words)
    found = answer(service, "/v1/decisions", **DECISIONS, temperature=temperature, return_prompt_token_ids=True)
    assert found["object"] == "decisions" and found["usage"]["completion_tokens"] == 0
    assert [*found["answers"]] == ["sky", "wet", "mild"]
    reference = references["causal"]
    for name, decided in found["answers"].items():
        prompt, split, labels = (decided[key] for key in ("prompt_token_ids", "query_tokens", "label_token_ids"))
        body = {"query": prompt[:split], "items": [prompt[split:]], "label_token_ids": labels}
        again = answer(service, "/v1/score", **body, apply_softmax=True, temperature=temperature)["scores"][0]
        np.testing.assert_allclose([*decided["probabilities"].values()], again, rtol=0, atol=1e-6)
        plain = answer(service, "/v1/score", **body)["scores"][0]
        assert abs(decided["label_mass"] - sum(plain)) < 1e-7 and 0 < decided["label_mass"] < 1
        context = config.declared_semantics.serial_query(prompt[:split], DELIMITER)
        logits = reference.serial_logits([*context, *prompt[split:]])[labels] / temperature
        want = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose([*decided["probabilities"].values()], want, rtol=0, atol=1e-5)
        assert decided["type"] == {"sky": "choice", "wet": "score", "mild": "yes_no"}[name]
    sky, wet, mild = found["answers"].values()
    assert [*sky["probabilities"]] == ["blue", "grey", "red"]
    assert sky["choice"] == max(sky["probabilities"], key=sky["probabilities"].get) and "score" not in sky
    assert abs(wet["score"] - sum(level * share for level, share in enumerate(wet["probabilities"].values()))) < 1e-12
    assert [*mild["probabilities"]] == ["yes", "no"] and not {"choice", "score"} & set(mild)
    assert sky["label_token_ids"] == [words.id_of(label) for label in "ABC"]
    assert wet["label_token_ids"] == [words.id_of(label) for label in "012"]


def test_a_temperature_leaves_the_label_mass(backends, words):
    service = served(backends["causal"], WAYS["packed"], words)
    cold, hot = (answer(service, "/v1/decisions", **DECISIONS, temperature=t)["answers"] for t in (0.5, 4.0))
    for name in cold:
        assert cold[name]["label_mass"] == hot[name]["label_mass"]
        spread = [max(each[name]["probabilities"].values()) for each in (cold, hot)]
        assert spread[0] > spread[1]
        assert not {"prompt_token_ids", "query_tokens", "label_token_ids"} & set(cold[name])


def test_no_question_changes_anothers_answer_by_one_bit(backends, words):
    """Other words of a question, of other lengths; its labels stay."""
    service = served(backends["causal"], WAYS["packed"], words)
    before = answer(service, "/v1/decisions", **DECISIONS)["answers"]
    for words_of_it in ("x", "and how wet is it, in the end, after all that was said?"):
        questions = [CHOICE, SCALE | {"question": words_of_it}, YES_NO]
        after = answer(service, "/v1/decisions", input=DECISIONS["input"], questions=questions)["answers"]
        assert {name: after[name] for name in ("sky", "mild")} == {name: before[name] for name in ("sky", "mild")}
        assert after["wet"] != before["wet"]


def test_what_else_decisions_refuse(backends, words):
    few = served(backends["causal"], ScorerConfig(max_items=2), words)
    assert refusal(few, "/v1/decisions", **DECISIONS) == (400, "too_many_items", "questions")
    short = served(backends["causal"], ScorerConfig(max_positions=60), words)
    long = {"input": "a", "questions": [YES_NO, SCALE | {"question": "a b c d e f g h " * 8}]}
    assert refusal(short, "/v1/decisions", **long) == (400, "sequence_too_long", "questions[1]")
    without = served(backends["causal"], ScorerConfig(), None)
    assert refusal(without, "/v1/decisions", **DECISIONS) == (400, "text_not_supported", "input")
    packed = served(backends["causal"], WAYS["packed"], words)
    split = DECISIONS | {"input": "<|endoftext|>"}
    assert refusal(packed, "/v1/decisions", **split) == (400, "delimiter_in_content", "input")

    class OtherWords(type(words)):
        def __init__(self):
            self.__dict__.update(vars(words))

        def encode(self, text):
            return [1, 2] if text == "2" else super().encode(text)

    other = served(backends["causal"], ScorerConfig(), OtherWords())
    assert refusal(other, "/v1/decisions", **DECISIONS) == (400, "decisions_not_supported", "questions[1]")
