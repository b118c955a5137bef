"""Every mode of the embedded engine, packed and serial, on both backends: against a float64 reference, against
transformers, and, bitwise, against itself beside other items."""

import asyncio

import httpx
import numpy as np
import pytest
from engine_cases import DELIMITER, LABELS, changes, tokens
from reference import Reference

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.service import Service
from pytest_multiitem.engine.tokenizer import load_tokenizer
from pytest_multiitem.faults.catalogue import fault
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.semantics import Semantics

PACKAGES = {"pytorch": "torch", "jax": "jax"}
SERIAL = ScorerConfig()
DENSE, SEGMENT = (
    ScorerConfig(delimiter=DELIMITER, mask_impl=impl, chunk_size=0) for impl in MaskImpl if impl != "auto"
)
QUERY_PREFIX = ScorerConfig(delimiter=DELIMITER, mask_impl=MaskImpl.SEGMENT, semantics=Semantics.QUERY_PREFIX)
EXTEND = ScorerConfig(prefill_extend=True, scoring_cache=True)
WAYS = {"serial": SERIAL, "dense": DENSE, "segment": SEGMENT, "query_prefix": QUERY_PREFIX}
PACKED = {name: config for name, config in WAYS.items() if config.delimiter is not None}
#: A token of the tokenizer, in the small vocabulary, that no item has by itself.
TOKEN = "Ġthe"


@pytest.fixture(scope="module", params=PACKAGES)
def backend(request, checkpoint):
    pytest.importorskip(PACKAGES[request.param])
    return load_backend(request.param, checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="module", params=PACKAGES)
def classes(request, classifier):
    pytest.importorskip(PACKAGES[request.param])
    return load_backend(request.param, classifier, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def reference(checkpoint):
    return Reference(checkpoint)


@pytest.fixture(scope="module")
def class_reference(classifier):
    return Reference(classifier)


@pytest.fixture(scope="module")
def words(checkpoint):
    return load_tokenizer(checkpoint)


@pytest.fixture(scope="module")
def mark(words):
    token = words.id_of(TOKEN)
    assert token is not None and token < DELIMITER
    return token


def served(backend, config, words=None):
    return Service(
        scorer=Scorer(backend, config),
        tokenizer=words,
        model="served",
        vocab_size=backend.vocab_size,
        max_positions=backend.max_positions,
        probe_ids=[0, 1],
        info={},
    )


def asked(service, path="/v1/score", **fields):
    async def once():
        transport = httpx.ASGITransport(app=create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.post(path, json=fields)

    return asyncio.run(once())


def answer(service, path="/v1/score", **fields):
    response = asked(service, path, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def refusal(service, path="/v1/score", **fields):
    response = asked(service, path, **fields)
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def content(rng, length, mark=None):
    """Tokens without the extraction token and the delimiter."""
    return [token if token != mark else token + 1 for token in tokens(rng, length)]


def sets(seed, mark, count=7):
    """A query and items of several readouts each, some of them adjacent, at the start or at the end."""
    rng = np.random.default_rng(seed)
    query = content(rng, 30, mark)
    items = []
    for readouts in rng.integers(1, 6, count).tolist():
        item = content(rng, int(rng.integers(0, 5)), mark)
        for _ in range(readouts):
            item += [mark, *content(rng, int(rng.integers(0, 9)), mark)]
        items.append(item)
    items[1] = [mark]
    items[2] = [*content(rng, 12, mark), mark, mark]
    return query, items


def context(config, query):
    """What stands before an item alone."""
    return query if config.delimiter is None else config.semantics.serial_query(query, DELIMITER)


def soft(rows):
    shares = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def log_probabilities(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def assert_near(found, want):
    np.testing.assert_allclose(np.array(found), want, rtol=0, atol=1e-5)


# -- labels per item, temperature ---------------------------------------------------------------


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_labels_per_item_equal_the_float64_reference(backend, reference, config):
    rng = np.random.default_rng(1)
    query, items = content(rng, 40), [content(rng, n) for n in (9, 1, 20, 3, 0)]
    labels = [[17, 403, 8], [5], [8, 17], [999, 0, 1, 2, 3], [403, 8]]
    service = served(backend, config)
    logits = [log_probabilities(reference.serial_logits([*context(config, query), *item])) for item in items]
    given = {"query": query, "items": items, "label_token_ids": labels, "return_token_logprobs": True}
    plain = answer(service, **given)
    half = answer(service, **given, apply_softmax=True, temperature=0.5)
    for number, own in enumerate(labels):
        want = logits[number][own]
        assert_near(plain["scores"][number], np.exp(want))
        assert_near(half["scores"][number], soft(want / 0.5))
        np.testing.assert_allclose(plain["token_logprobs"][number], want, rtol=0, atol=1e-4)
    assert half["token_logprobs"] == plain["token_logprobs"]


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("more", [{}, {"apply_softmax": True}, {"apply_softmax": True, "temperature": 3.0}])
def test_labels_per_item_equal_one_request_for_each_list(backend, config, more):
    rng = np.random.default_rng(2)
    query, items = content(rng, 20), [content(rng, n) for n in (9, 1, 20)]
    labels = [[17, 403], [5, 8, 6], [8, 17]]
    service = served(backend, config)
    found = answer(service, query=query, items=items, label_token_ids=labels, **more)["scores"]
    assert [len(row) for row in found] == [2, 3, 2]
    for number, own in enumerate(labels):
        alone = answer(service, query=query, items=items, label_token_ids=own, **more)["scores"]
        np.testing.assert_allclose(found[number], alone[number], rtol=0, atol=1e-6)


# -- setwise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_setwise_scores_equal_the_float64_reference(backend, reference, words, mark, config):
    query, items = sets(3, mark)
    service = served(backend, config, words)
    given = {"query": query, "items": items, "label_token_ids": LABELS, "score_extraction_token": TOKEN}
    found = answer(service, **given, return_token_logprobs=True)
    hot = answer(service, **given, apply_softmax=True, temperature=2.0)["scores"]
    varied = []
    for number, item in enumerate(items):
        before = context(config, query)
        states = reference.serial_states([*before, *item])
        places = [len(before) + place for place, token in enumerate(item) if token == mark]
        want = log_probabilities(reference.logits(states[places]))[:, LABELS]
        assert_near(found["scores"][number], np.exp(want))
        assert_near(hot[number], soft(want / 2.0))
        np.testing.assert_allclose(found["token_logprobs"][number], want, rtol=0, atol=1e-4)
        varied.append(soft(want))
    assert np.ptp(np.concatenate(varied), axis=0).max() > 0.2, "the scores must discriminate between places"


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_setwise_with_labels_per_item(backend, words, mark, config):
    query, items = sets(4, mark, 4)
    labels = [[17, 403], [5], [8, 17, 6], [403, 5]]
    service = served(backend, config, words)
    given = {"query": query, "items": items, "score_extraction_token": TOKEN, "apply_softmax": True}
    found = answer(service, **given, label_token_ids=labels)["scores"]
    for number, own in enumerate(labels):
        alone = answer(service, **given, label_token_ids=own)["scores"][number]
        np.testing.assert_allclose(found[number], alone, rtol=0, atol=1e-6)


def read(scorer, query, items, mark, labels=LABELS):
    """The scores of each item's readouts, without a softmax."""
    result = scorer.score(query, items, labels, False, extraction=mark)
    return np.split(result.scores, np.cumsum(result.readouts)[:-1])


@pytest.mark.parametrize("config", PACKED.values(), ids=PACKED)
def test_no_set_changes_another_sets_scores_by_one_bit(backend, mark, config):
    """Other content, another length, other readouts, and more of them than any item had."""
    query, items = sets(5, mark, 9)
    scorer, rng = Scorer(backend, config), np.random.default_rng(6)
    before = read(scorer, query, items, mark)
    for index in (0, 4, 8):
        variants = {
            **{name: [*changed[index], mark] for name, changed in changes(items, index, rng).items()},
            "the same length": [mark, *content(rng, len(items[index]) - 1, mark)],
            "more readouts": [mark] * 11,
            "one readout": [*content(rng, 3, mark), mark],
        }
        for name, variant in variants.items():
            after = read(scorer, query, [*items[:index], variant, *items[index + 1 :]], mark)
            for other in set(range(len(items))) - {index}:
                assert np.array_equal(after[other], before[other]), (index, name, other)


@pytest.mark.parametrize("label", ["causal", "state_leaks=1e-06", "positions_not_reset"])
def test_a_leak_between_sets_is_seen_by_the_test_above(backend, mark, label):
    """What moves other sets is a fault, in packed scoring by either mask."""
    query, items = sets(5, mark, 9)
    longer = [[*content(np.random.default_rng(6), 9, mark), *items[0]], *items[1:]]
    for config in PACKED.values():
        scorer = Scorer(backend, config, fault(label).before).steps
        before, after = (read(scorer, query, each, mark) for each in (items, longer))
        assert not all(np.array_equal(after[i], before[i]) for i in range(1, len(items)))


@pytest.mark.parametrize("config", PACKED.values(), ids=PACKED)
def test_a_set_alone_equals_the_set_among_others(backend, mark, config):
    query, items = sets(7, mark)
    scorer = Scorer(backend, config)
    together = read(scorer, query, items, mark)
    for item, rows in zip(items, together, strict=True):
        np.testing.assert_allclose(read(scorer, query, [item], mark)[0], rows, rtol=1e-4, atol=1e-9)


def test_readouts_inside_a_set_follow_their_own_order(backend, mark):
    """A readout depends on what stands before it in its item, and on nothing behind it."""
    query, _ = sets(8, mark)
    scorer = Scorer(backend, SEGMENT)
    rng = np.random.default_rng(9)
    item = [*content(rng, 4, mark), mark, *content(rng, 4, mark), mark]
    behind = [*item[:5], *content(rng, 4, mark), mark]
    before = [*content(rng, 4, mark), *item[4:]]
    (own,), (first,), (second,) = (read(scorer, query, [each], mark) for each in (item, behind, before))
    assert np.array_equal(first[0], own[0]) and np.abs(first[1] - own[1]).max() > 1e-6
    assert (np.abs(second - own).max(axis=1) > 1e-6).all()


def test_what_setwise_refuses(backend, words, mark):
    good = {"query": [1, 2], "items": [[3, mark], [mark]], "label_token_ids": [7], "score_extraction_token": TOKEN}
    service = served(backend, SEGMENT, words)
    answer(service, **good)
    name = "score_extraction_token"
    for fields, want in (
        ({"query": [1, mark]}, (400, "extraction_token_in_query", "query[1]")),
        ({"items": [[mark], [3]]}, (400, "no_extraction_token", "items[1]")),
        ({"items": [[mark], []]}, (400, "no_extraction_token", "items[1]")),
        ({name: "no such token"}, (400, "invalid_score_extraction_token", name)),
        ({name: ""}, (400, "invalid_score_extraction_token", name)),
        ({name: "<|im_end|>"}, (400, "invalid_score_extraction_token", name)),  # beyond the small vocabulary
        ({"item_first": True}, (400, "item_first_not_supported", "item_first")),
    ):
        assert refusal(service, **(good | fields)) == want
    delimited = served(backend, ScorerConfig(delimiter=mark), words)
    assert refusal(delimited, **good) == (400, "invalid_score_extraction_token", name)
    assert refusal(served(backend, EXTEND, words), **good) == (400, "setwise_not_supported", name)
    assert refusal(served(backend, SEGMENT), **good) == (400, "text_not_supported", name)


# -- classification -----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [*WAYS.values(), EXTEND], ids=[*WAYS, "extend"])
def test_classification_equals_the_float64_reference(classes, class_reference, config):
    rng = np.random.default_rng(11)
    query, items = content(rng, 40), [content(rng, n) for n in (9, 1, 20, 0, 33)]
    service = served(classes, config)
    states = np.stack([class_reference.serial_states([*context(config, query), *item])[-1] for item in items])
    want = class_reference.classes(states)
    assert want.shape == (5, 3) and np.ptp(want, axis=0).min() > 0.2
    given = {"query": query, "items": items}
    logits = answer(service, **given)
    assert set(logits) == {"scores", "model", "object", "usage"}
    assert_near(logits["scores"], want)
    pooled = answer(service, **given, return_pooled_hidden_states=True)
    assert_near(pooled["pooled_hidden_states"], states)
    assert_near(pooled["scores"], want)
    shares = answer(service, **given, apply_softmax=True, label_token_ids=[7])["scores"]
    assert_near(shares, soft(want))
    assert_near(answer(service, **given, apply_softmax=True, temperature=0.25)["scores"], soft(want / 0.25))
    both = answer(service, **given, apply_softmax=True, return_pooled_hidden_states=True)
    np.testing.assert_allclose(both["scores"], shares, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_setwise_classification_equals_the_float64_reference(classes, class_reference, words, mark, config):
    query, items = sets(12, mark)
    service = served(classes, config, words)
    given = {"query": query, "items": items, "score_extraction_token": TOKEN}
    found = answer(service, **given, return_pooled_hidden_states=True)
    cold = answer(service, **given, apply_softmax=True, temperature=0.5)["scores"]
    for number, item in enumerate(items):
        before = context(config, query)
        places = [len(before) + place for place, token in enumerate(item) if token == mark]
        states = class_reference.serial_states([*before, *item])[places]
        want = class_reference.classes(states)
        assert_near(found["scores"][number], want)
        assert_near(found["pooled_hidden_states"][number], states)
        assert_near(cold[number], soft(want / 0.5))


@pytest.mark.parametrize("config", PACKED.values(), ids=PACKED)
def test_no_item_changes_another_items_classes_by_one_bit(classes, mark, config):
    query, items = sets(13, mark, 9)
    scorer, rng = Scorer(classes, config), np.random.default_rng(14)
    everything = range(3 + classes.pooled)
    plain = scorer.score(query, items, everything, False).scores
    before = read(scorer, query, items, mark, everything)
    for index in (0, 5, 8):
        others = np.arange(len(items)) != index
        for changed in changes(items, index, rng).values():
            after = scorer.score(query, changed, everything, False).scores
            assert np.array_equal(after[others], plain[others])
            changed[index] = [*changed[index], mark, mark]
            setwise = read(scorer, query, changed, mark, everything)
            assert all(np.array_equal(setwise[i], before[i]) for i in np.flatnonzero(others))


@pytest.fixture(scope="module")
def transformers_classifier(classifier):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.Qwen3ForSequenceClassification.from_pretrained(classifier, dtype=torch.float32).eval()

    def logits(ids):
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].numpy()

    return logits


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_classification_equals_transformers(classes, transformers_classifier, mark, config):
    query, items = sets(15, mark, 4)
    scorer = Scorer(classes, config)
    found = scorer.score(query, items, range(3), False).scores
    assert_near(found, np.stack([transformers_classifier([*context(config, query), *item]) for item in items]))
    for item, rows in zip(items, read(scorer, query, items, mark, range(3)), strict=True):
        ends = [place + 1 for place, token in enumerate(item) if token == mark]
        want = np.stack([transformers_classifier([*context(config, query), *item[:end]]) for end in ends])
        assert_near(rows, want)


def test_the_reference_backend_has_the_classification_head(classifier, transformers_classifier, mark):
    pytest.importorskip("torch")
    plain = load_backend("transformers", classifier, dtype="float32", device="cpu")
    assert (plain.classes, plain.pooled) == (3, 0)
    query, items = sets(16, mark, 3)
    scorer = Scorer(plain, SERIAL)
    want = np.stack([transformers_classifier([*query, *item]) for item in items])
    assert_near(scorer.score(query, items, range(3), False).scores, want)
    for item, rows in zip(items, read(scorer, query, items, mark, range(3)), strict=True):
        assert len(rows) == item.count(mark)
        assert_near(rows[0], transformers_classifier([*query, *item[: item.index(mark) + 1]]))
    service = served(plain, SERIAL)
    want = (400, "pooled_hidden_states_not_supported", "return_pooled_hidden_states")
    assert refusal(service, query=[1], items=[[2]], return_pooled_hidden_states=True) == want


def test_the_reference_backend_reads_at_places(checkpoint, reference, mark):
    pytest.importorskip("torch")
    plain = load_backend("transformers", checkpoint, dtype="float32", device="cpu")
    query, items = sets(17, mark, 3)
    for item, rows in zip(items, read(Scorer(plain, SERIAL), query, items, mark), strict=True):
        places = [len(query) + place for place, token in enumerate(item) if token == mark]
        logits = reference.logits(reference.serial_states([*query, *item])[places])
        assert_near(rows, np.exp(log_probabilities(logits))[:, LABELS])


def test_what_a_classification_head_refuses(classes, words):
    service = served(classes, SEGMENT, words)
    good = {"query": [1], "items": [[2]]}
    assert refusal(service, **good, return_token_logprobs=True) == (
        400, "token_logprobs_not_supported", "return_token_logprobs",
    )  # fmt: skip
    assert refusal(service, "/v1/rerank", query="a", documents=["b"]) == (400, "rerank_not_supported", None)
    question = {"id": "a", "type": "yes_no", "question": "b"}
    assert refusal(service, "/v1/decisions", input="a", questions=[question]) == (400, "decisions_not_supported", None)


# -- what a server says that it speaks ------------------------------------------------------------


def modes(service):
    async def once():
        transport = httpx.ASGITransport(app=create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            health = await client.get("/health_generate")
            generated = await client.post("/generate", json={"input_ids": [1, 2]})
            assert (health.status_code, generated.status_code) == (200, 200)
            return (await client.get("/get_server_info")).json()["modes"]

    return asyncio.run(once())


def test_the_modes_of_a_server(backend, classes, words):
    ids = ["ids", "labels_per_item", "temperature"]
    assert modes(served(backend, SERIAL)) == ids
    assert modes(served(backend, SEGMENT, words)) == ["ids", "text", *ids[1:], "setwise", "decisions"]
    assert modes(served(backend, EXTEND, words)) == ["ids", "text", *ids[1:], "decisions"]
    assert modes(served(classes, SEGMENT)) == ["classification"]
    assert modes(served(classes, DENSE, words)) == ["text", "classification", "setwise_classification"]
