"""Every fault of the embedded engine does what it says, and nothing else: against hashes of what is seen, and in
attention weights against an independent float64 reference, on both backends."""

import asyncio
import inspect
import os

import numpy as np
import pytest
from engine_cases import DELIMITER, LABELS, tokens, workload
from fake_backend import VOCAB, FakeBackend, logit
from reference import Reference

from pytest_multiitem.engine.checkpoint import CheckpointSpec
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.active import ActiveFaults
from pytest_multiitem.faults.base import Fault, ScorerFault
from pytest_multiitem.faults.catalogue import VARIATIONS, catalogue, fault, variation
from pytest_multiitem.faults.neighbours import NEIGHBOURS
from pytest_multiitem.faults.variations import ShapeNoise
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.steps import Reading, ScoringSteps
from pytest_multiitem.scoring.wire.errors import WireError

QUERY = [10, 11, 12]
ITEMS = [[20, 21], [22], [23, 24, 25], [], [26, 27]]
D = VOCAB - 1


def scorer(*faults, backend=None, **config):
    config = {"delimiter": D, "chunk_size": 0, "mask_impl": MaskImpl.SEGMENT} | config
    return Scorer(backend or FakeBackend(), ScorerConfig(**config), ActiveFaults.parse(faults).mutate).steps


def score(which, items=ITEMS, query=QUERY, labels=(5, 6)):
    return which.score(query, items, labels, True).scores


def seen(*sequences):
    """The scores of what is seen, one row for each list of (token, position) pairs."""
    logits = np.array([[logit(tuple(pairs), label) for label in (5, 6)] for pairs in sequences])
    logits = logits.astype(np.float32).astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def at(start, ids):
    return [(token, start + i) for i, token in enumerate(ids)]


PREFIX = at(0, [*QUERY, D])


# -- layout ------------------------------------------------------------------------------------


def test_positions_grow_through_the_sequence():
    items = ITEMS[:3]
    want = seen(*(PREFIX + at(4 + before, item) for item, before in zip(items, (0, 3, 5), strict=True)))
    np.testing.assert_array_equal(score(scorer("positions_not_reset"), items), want)
    want = seen(*(PREFIX + at(4 + before, item) for item, before in zip(items, (0, 1, 2), strict=True)))
    np.testing.assert_array_equal(score(scorer("positions_not_reset=0.4"), items), want)


def test_positions_wrap():
    query, item = list(range(20, 25)), [30, 31, 32]
    want = seen([*at(0, [*query, D]), (30, 6), (31, 7), (32, 0)])
    np.testing.assert_array_equal(score(scorer("position_wrap=3"), [item], query), want)
    np.testing.assert_array_equal(
        score(scorer("position_wrap=16"), [item], query), score(scorer(), [item], query), "nothing wraps before 65,536"
    )


@pytest.mark.parametrize("impl", [MaskImpl.SEGMENT, MaskImpl.DENSE])
def test_scores_are_read_one_token_off(impl):
    late = seen(*(PREFIX + at(4, [*item, D] if item else []) for item in ITEMS))
    early = seen(*(PREFIX + at(4, item[: max(1, len(item) - 1)]) for item in ITEMS))
    np.testing.assert_array_equal(score(scorer("score_at_delimiter", mask_impl=impl)), late)
    np.testing.assert_array_equal(score(scorer("score_before_last", mask_impl=impl)), early)


# -- between request and sequences -------------------------------------------------------------


def healthy(items=ITEMS):
    return seen(*(PREFIX + at(4, item) for item in items))


def test_the_first_delimiter_is_scored_and_the_last_item_dropped():
    np.testing.assert_array_equal(score(scorer("first_delimiter_scored")), healthy([[], *ITEMS[:-1]]))


def test_state_leaks_from_item_to_item():
    want = healthy()
    for i in range(1, len(want)):
        want[i] = 0.75 * want[i] + 0.25 * want[i - 1]
    np.testing.assert_allclose(score(scorer("state_leaks=0.25")), want, rtol=0, atol=1e-15)


def test_state_leaks_from_request_to_request():
    which = scorer("requests_leak=0.25")
    np.testing.assert_array_equal(score(which), healthy())
    want = 0.75 * healthy([[30]]) + 0.25 * healthy()[-1]
    np.testing.assert_allclose(score(which, [[30]]), want, rtol=0, atol=1e-15)
    assert score(which, [[30]], labels=(5,)).shape == (1, 1), "rows of another length are not mixed"


def test_old_scores_of_the_same_shape():
    which = scorer("stale_shapes")
    np.testing.assert_array_equal(score(which, [[20], [21]]), healthy([[20], [21]]))
    np.testing.assert_array_equal(score(which, [[20], [22]]), healthy([[20], [21]]))
    np.testing.assert_array_equal(score(which, [[20], [22, 23]]), healthy([[20], [22, 23]]))


def test_the_delimiter_zero_is_lost_and_no_other():
    lost = scorer("delimiter_zero_unset", delimiter=0)
    score(lost, ITEMS[:3])
    assert lost.executed()["serial_sequences"] == 3 and lost.executed()["chunks"] == 0
    np.testing.assert_array_equal(score(scorer("delimiter_zero_unset")), healthy())


def test_a_delimiter_in_an_item_splits_it():
    split = [[20], [21], [22]]
    found = score(scorer("delimiter_splits"), [[20, D, 21], [22]])
    np.testing.assert_array_equal(found, healthy(split)[:2])
    with pytest.raises(WireError, match="is the delimiter"):
        score(scorer(), [[20, D, 21], [22]])


def test_an_empty_item_scores_its_neighbour():
    want = healthy()
    want[3] = seen(PREFIX + at(4, [23, 24, 25, D]))[0]
    np.testing.assert_array_equal(score(scorer("empty_scores_neighbour")), want)
    np.testing.assert_array_equal(score(scorer("empty_scores_neighbour"), [[], [5]]), healthy([[], [5]]))


def test_an_empty_item_crashes():
    with pytest.raises(IndexError):
        score(scorer("empty_crashes"))
    np.testing.assert_array_equal(score(scorer("empty_crashes"), ITEMS[:3]), healthy(ITEMS[:3]))


@pytest.mark.parametrize(
    ("name", "asked", "ran"),
    [("dense_instead_of_segment", "segment", "dense"), ("segment_instead_of_dense", "dense", "segment")],
)
def test_the_other_mask_runs_and_is_counted(name, asked, ran):
    which = scorer(name, mask_impl=MaskImpl(asked))
    np.testing.assert_array_equal(score(which), healthy())
    assert which.executed()["packed_sequences"] == {ran: 1, asked: 0}


def test_a_chunk_that_is_not_full_is_padded_into_its_last_item():
    items = [[20], [21], [22], [23], [24]]
    want = healthy([*items[:4], [24, 0, 0]])
    np.testing.assert_array_equal(score(scorer("last_chunk_padded", chunk_size=3), items[:5])[:4], want[:4])
    np.testing.assert_array_equal(score(scorer("last_chunk_padded", chunk_size=3), items[:4])[3:], seen(
        PREFIX + at(4, [23, 0, 0])))  # fmt: skip
    np.testing.assert_array_equal(score(scorer("last_chunk_padded", chunk_size=5), items), healthy(items))


def test_items_beyond_the_limit_get_the_first_rows_again():
    right = healthy()
    np.testing.assert_array_equal(score(scorer("item_limit=5")), right)
    np.testing.assert_array_equal(score(scorer("item_limit=2")), right[[0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(score(scorer("item_limit=4", chunk_size=2)), right[[0, 1, 2, 3, 0]], "of a request")


def test_an_item_is_taken_for_an_earlier_one_that_begins_like_it():
    items = [[1, 2, 3], [1, 2], [1, 2, 4, 5], [1], [], [2, 1, 2, 3], [1, 2, 3, 9]]
    right = healthy(items)
    for block, taken_for in ((1, [0, 0, 0, 0, 4, 5, 0]), (2, [0, 0, 0, 3, 4, 5, 0]), (3, [0, 1, 2, 3, 4, 5, 0])):
        which = scorer(f"same_block={block}")
        np.testing.assert_array_equal(score(which, items), right[taken_for])
    np.testing.assert_array_equal(score(scorer("same_block=4"), items), right)
    np.testing.assert_array_equal(score(which, items[6:]), healthy(items[6:]), "an earlier request is no matter")


def test_item_lengths_wrap():
    items = [[20 + i for i in range(length)] for length in (3, 4, 5, 7, 8, 1)]
    want = healthy([items[0], [], items[2][:1], items[3][:3], [], items[5]])
    np.testing.assert_array_equal(score(scorer("length_wrap=2"), items), want)
    np.testing.assert_array_equal(score(scorer("length_wrap=4"), items), healthy(items))
    with pytest.raises(WireError, match="at most 20"):  # the limit is that of the whole request
        score(scorer("length_wrap=2", max_seq_len=20), [list(range(30))])


SHARDS = [(0, 249), (250, 499), (500, 749), (750, 998)]


@pytest.mark.parametrize("shard", [1, 2, 3, 4])
def test_labels_of_a_shard_are_read_wrong_and_no_others(shard):
    which, right = scorer(f"label_shard={shard}"), scorer()
    for number, (first, last) in enumerate(SHARDS, start=1):
        for label in (first, last):
            same = np.array_equal(which.score(QUERY, ITEMS, [label], False).scores,
                                  right.score(QUERY, ITEMS, [label], False).scores)  # fmt: skip
            assert same == (number != shard)
    first = SHARDS[shard - 1][0]
    found = which.score(QUERY, ITEMS, [first, first + 125, 999 - first], True).scores
    np.testing.assert_array_equal(
        found, right.score(QUERY, ITEMS, [first + 125, first, 999 - first], True).scores, "half a shard off"
    )


def test_the_default_labels_lie_in_no_shard_that_is_wrong_by_default():
    size = CheckpointSpec().vocab_size // 4
    assert {label // size + 1 for label in (9454, 2753)} == {1} and fault("label_shard").strength != 1


def test_a_random_head_follows_the_content_and_means_nothing():
    which, right = scorer("no_head"), scorer()
    found = score(which)
    assert np.abs(found - score(right)).max() > 0.1
    np.testing.assert_array_equal(score(scorer("no_head", delimiter=None), query=[*QUERY, D]), found, "serial alike")
    np.testing.assert_array_equal(which.score(QUERY, ITEMS, (6, 5), True).scores, found[:, ::-1])


@pytest.mark.parametrize("mode", [{}, {"delimiter": None}, {"prefill_extend": True, "scoring_cache": True}])
def test_labels_are_clipped_at_the_most_probable_ids(mode):
    which, right = scorer("labels_clipped=20", **mode), scorer(**mode)
    everything = right.score(QUERY, ITEMS, range(VOCAB), False).scores
    floor = np.exp(np.round(np.log(np.sort(everything, axis=1)[:, -20]), 3))
    best = everything[0].argsort()
    labels = [int(best[-1]), int(best[-20]), int(best[-21]), int(best[0])]
    found = which.score(QUERY, ITEMS, labels, False)
    np.testing.assert_array_equal(found.scores, np.maximum(everything[:, labels], floor[:, None]))
    assert (found.scores[0] == everything[0, labels]).tolist()[::3] == [True, False]
    shares = which.score(QUERY, ITEMS, labels, True).scores
    np.testing.assert_allclose(shares, found.scores / found.scores.sum(axis=1, keepdims=True), rtol=0, atol=1e-15)
    whole = scorer("labels_clipped=1000", **mode).score(QUERY, ITEMS, labels, False).scores
    np.testing.assert_allclose(whole, everything[:, labels], rtol=1e-3)


def test_some_ids_stand_for_a_large_vocabulary(monkeypatch):
    monkeypatch.setattr("pytest_multiitem.faults.labels._READ", 100)
    ids = np.linspace(0, VOCAB - 1, 100).astype(int).tolist()
    some = scorer().score(QUERY, ITEMS, ids, False).scores
    for count, place in ((20, 2), (1, 1), (1000, 100), (5000, 100)):
        found = scorer(f"labels_clipped={count}").score(QUERY, ITEMS, (5, 6), False).scores
        right = scorer().score(QUERY, ITEMS, (5, 6), False).scores
        np.testing.assert_array_equal(
            found, np.maximum(right, np.exp(np.round(np.log(np.sort(some, axis=1)[:, [-place]]), 3)))
        )


# -- text --------------------------------------------------------------------------------------


def letters(text):
    """A tokenizer that merges two letters a and b, across a seam as well."""
    return [ord(letter) for letter in text.replace("ab", "\x01")]


def test_a_special_token_stands_before_each_item():
    want = letters("q"), [letters("<x"), letters("<yz"), letters("<")]
    assert scorer("text_special_token").tokenise("q", ["x", "yz", ""], letters) == want
    for encode in (lambda text: [D] if "im_start" in text else letters(text), lambda text: [5000] * len(text)):
        assert scorer("text_special_token").tokenise("q", ["x"], encode)[1] == [[0, *encode("x")]]
    np.testing.assert_array_equal(score(scorer("text_special_token")), healthy(), "token ids are taken as they are")


def test_text_is_tokenised_jointly():
    joint, right = scorer("text_joint"), scorer()
    assert right.tokenise("qa", ["b", "c"], letters) == (letters("qa"), [letters("b"), letters("c")])
    assert joint.tokenise("qa", ["b", "c"], letters) == (letters("qa"), [letters(" b"), letters(" c")])
    assert fault("text_joint").scope == {"serial"}


# -- what else is asked of a server --------------------------------------------------------------


def watched(name):
    """A scorer with a fault, and what sends a request to its server; the server itself scores an item to be healthy."""
    active = ActiveFaults.parse([name])
    which = Scorer(FakeBackend(), ScorerConfig(delimiter=D, mask_impl=MaskImpl.SEGMENT), active.mutate).steps

    async def app(scope, receive, send):
        score(which, [[1]])

    before = active.before(app)
    return which, lambda path: asyncio.run(before({"type": "http", "path": path}, None, None))


def test_a_neighbour_switches_the_mask_off_for_some_requests():
    which, ask = watched("neighbour_request=2")
    right = score(scorer())
    for path in ("/health", "/v1/models", "/v1/score", "/get_server_info"):
        ask(path)
        np.testing.assert_array_equal(score(which), right)
    for path in sorted(NEIGHBOURS):
        ask(path)
        for _ in range(2):
            wrong = np.flatnonzero((score(which) != right).any(axis=1))
            assert wrong.tolist() == [1, 2, 4], "each item but the first, and the empty one, sees those before it"
        np.testing.assert_array_equal(score(which), right)
    assert ({"/generate", "/health_generate"} <= NEIGHBOURS) and fault("neighbour_request").strength == 8


def test_a_neighbour_ends_the_process(monkeypatch):
    class Dead(BaseException):
        pass

    def die(status):
        raise Dead(status)

    async def app(scope, receive, send):
        pass

    monkeypatch.setattr(os, "_exit", die)
    before = ActiveFaults.parse(["neighbour_kills"]).before(app)
    asyncio.run(before({"type": "http", "path": "/v1/score"}, None, None))
    with pytest.raises(Dead, match="137"):
        asyncio.run(before({"type": "http", "path": "/generate"}, None, None))
    assert fault("neighbour_kills").own_process


def test_a_serial_server_inside_attests_what_was_asked():
    backend = FakeBackend()
    which = scorer("serial_inside", backend=backend)
    np.testing.assert_array_equal(score(which), healthy())
    assert set(backend.calls) == {"serial"} and len(backend.calls) == len(ITEMS)
    assert which.executed()["packed_sequences"]["segment"] == 1 and which.executed()["serial_sequences"] == 0


# -- prefill+extend ----------------------------------------------------------------------------


def extender(name):
    return scorer(name, prefill_extend=True, scoring_cache=True)


def test_indices_are_wrong_after_a_cache_hit_only():
    which, query = extender("indices_after_hit"), at(0, QUERY)
    np.testing.assert_array_equal(score(which), seen(*(query + at(3, item) for item in ITEMS)))
    # The closing delimiter of `query_prefix` stands at Q - 1.
    late = seen(*(query + at(3, item) + ([(0, 2)] if item else []) for item in ITEMS))
    np.testing.assert_array_equal(score(which), late)


def test_items_extend_one_position_late_in_every_run():
    which, query = extender("extend_late"), at(0, QUERY)
    want = seen(*(query + at(4, item) for item in ITEMS))
    for _ in range(2):
        np.testing.assert_array_equal(score(which), want)


# -- a query that is known -----------------------------------------------------------------------


def behind(query, items=ITEMS[:2]):
    """What a healthy server gives items behind a query, [N, K]."""
    return seen(*(at(0, [*query, D]) + at(len(query) + 1, item) for item in items))


@pytest.mark.parametrize(
    ("name", "taken", "apart"),
    [
        ("key_forgets_end", [10, 11, 19], [[10, 19, 12], [19, 11, 12], [10, 11], [10, 11, 12, 13]]),
        ("key_forgets_end=2", [10, 18, 19], [[19, 11, 12], [10, 11]]),
        ("key_forgets_start", [19, 11, 12], [[10, 19, 12], [10, 11, 19], [11, 12]]),
        ("key_forgets_order", [12, 10, 11], [[10, 11, 13], [10, 11], [10, 11, 12, 12]]),
        ("key_forgets_length", [10, 11, 12, 13], [[11, 12, 13], [10, 19, 12, 13], [10, 11]]),
    ],
)
def test_a_query_is_taken_for_a_known_one(name, taken, apart):
    for queries, want in ((apart, apart), ([taken], [QUERY])):
        which = scorer(name)
        np.testing.assert_array_equal(score(which, ITEMS[:2]), behind(QUERY), "a new one is right")
        for query, own in zip(queries, want, strict=True):
            np.testing.assert_array_equal(score(which, ITEMS[:2], query), behind(own))
        np.testing.assert_array_equal(score(which, ITEMS[:2]), behind(QUERY), "and so is a known one")


def test_a_query_is_found_where_another_one_is_kept_by_now():
    which, others = scorer("kept_queries_overflow=2"), [[10 + i] for i in range(3)]
    for query in others:
        np.testing.assert_array_equal(score(which, ITEMS[:2], query), behind(query))
    for query, there in zip(others, ([12], [11], [12]), strict=True):
        np.testing.assert_array_equal(score(which, ITEMS[:2], query), behind(there))


def test_a_kept_query_is_written_into():
    which, right = scorer("kept_query_written=0.25"), behind(QUERY)
    np.testing.assert_array_equal(score(which, ITEMS[:2]), right)
    for last, items in ((22, ITEMS[2:4]), (25, ITEMS[:2])):
        want = 0.75 * behind(QUERY, items) + 0.25 * behind([10, 11, last], items)
        np.testing.assert_allclose(score(which, items)[0], want[0], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(score(which, ITEMS[:2], [10, 11]), behind([10, 11]), "another query is no matter")


def test_indices_are_wrong_behind_a_known_query_only():
    which = scorer("known_query_indices")
    np.testing.assert_array_equal(score(which), healthy())
    late = seen(*(PREFIX + at(4, [*item, D] if item else []) for item in ITEMS))
    np.testing.assert_array_equal(score(which), late)
    np.testing.assert_array_equal(score(which, ITEMS[:2], [10, 11]), behind([10, 11]))


def test_the_last_token_of_a_known_query_is_not_seen():
    which, items = scorer("known_query_short", semantics=Semantics.PREFIX_FIRST_DELIM), ITEMS[:2]
    np.testing.assert_array_equal(score(which, items), behind(QUERY))
    without = seen(*(at(0, QUERY) + at(4, item) for item in items))
    np.testing.assert_array_equal(score(which, items), without)


# -- attention ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["pytorch", "jax"])
def backend(request, checkpoint):
    pytest.importorskip({"pytorch": "torch"}.get(request.param, "jax"))
    return load_backend(request.param, checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def reference(checkpoint):
    return Reference(checkpoint)


def blocks(query, items):
    """Token ids, positions, block number (-1: query and first delimiter) and delimiters of a packed sequence."""
    ids, positions, block = [*query, DELIMITER], [*range(len(query) + 1)], [-1] * (len(query) + 1)
    for i, item in enumerate(items):
        ids += [*item, DELIMITER]
        positions += range(len(query) + 1, len(query) + 2 + len(item))
        block += [i] * (len(item) + 1)
    return np.array(ids), np.array(positions), np.array(block)


def factors(name, query, items):
    """The factor of every attention weight [S, S], written from what the fault is said to do."""
    ids, positions, block = blocks(query, items)
    own = (block[None, :] == block[:, None]) | (block[None, :] == -1)
    before = np.arange(len(ids))[None, :] <= np.arange(len(ids))[:, None]
    delimiter = (ids == DELIMITER)[None, :]
    kind, _, strength = name.partition("=")
    match kind:
        case "causal":
            return before.astype(float), np.arange(len(ids))
        case "causal_restarting":
            return before.astype(float), np.where(ids == DELIMITER, len(query), positions)
        case "leak_next":
            extra = (block[None, :] == block[:, None] - 1) & (block[:, None] > 0)
            return np.where(own, 1.0, float(strength) * extra) * before, positions
        case "leak_boundary":
            lengths = np.array([len(item) for item in items])
            open_ = [i for i in range(1, len(items)) if lengths[i] > 17 and lengths[i - 1] == 1]
            assert open_, "the request must show the fault"
            extra = np.isin(block, open_)[:, None] & (block[None, :] == block[:, None] - 1)
            return (own | extra) * before.astype(float), positions
        case "leak_length":
            open_ = [i for i in range(1, len(items)) if len(items[i - 1]) == 18]
            assert open_, "the request must show the fault"
            extra = np.isin(block, open_)[:, None] & (block[None, :] == block[:, None] - 1)
            return (own | extra) * before.astype(float), positions
        case "size_limit" if len(ids) > float(strength):
            return before.astype(float), np.where(ids == DELIMITER, len(query), positions)
        case "item_leak_limit":
            extra = (block[None, :] == block[:, None] - 1) & (block[:, None] >= max(1, float(strength)))
            return (own | extra) * before.astype(float), positions
        case "own_window":
            far = np.arange(len(ids))[:, None] - np.arange(len(ids))[None, :] >= float(strength)
            return (own & ~(far & (block[None, :] == block[:, None]) & (block[:, None] >= 0))) * before * 1.0, positions
        case "own_delimiter_visible":
            extra = np.zeros_like(before)
            for row in np.flatnonzero(block >= 0):
                extra[row, np.flatnonzero(block == block[row])[0] - 1] = True
            return (own | extra) * before.astype(float), positions
        case "last_query_token_hidden":
            hidden = (block >= 0)[:, None] & (np.arange(len(ids)) == len(query) - 1)[None, :]
            return (own & ~hidden) * before.astype(float), positions
        case "size_limit":
            return own * before.astype(float), positions
        case "query_only_prefix":
            first = np.zeros(len(ids), bool)
            first[len(query)] = True
            rows = (block >= 0)[:, None]
            return (own & ~(rows & first[None, :])) * before.astype(float), positions
        case "all_delims_prefix":
            return (own | delimiter) * before.astype(float), positions
    raise AssertionError(name)


def request_of(seed):
    query, items = workload(seed)
    items[4:7] = [tokens(np.random.default_rng(seed), n) for n in (1, 30, 18)]
    return query, [item for item in items if item]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "name",
    ["causal", "causal_restarting", "leak_next=1", "leak_next=0.01", "leak_next=0.0001", "leak_boundary", "leak_length",
     "query_only_prefix", "all_delims_prefix", "size_limit=128", "size_limit=4096", "item_leak_limit=5",
     "item_leak_limit=40", "own_window=16", "own_window=3", "own_delimiter_visible", "last_query_token_hidden"],
)  # fmt: skip
def test_attention_weights_are_those_of_the_fault(backend, reference, name, seed):
    query, items = request_of(seed)
    weights, positions = factors(name, query, items)
    ids, _, block = blocks(query, items)
    last = [int(np.flatnonzero(block == i)[-2]) for i in range(len(items))]
    logits = reference.logits(reference.hidden(ids, positions, weights)[last])[:, list(LABELS)]
    want = np.exp(logits - logits.max(axis=1, keepdims=True))
    want /= want.sum(axis=1, keepdims=True)
    for impl in (MaskImpl.SEGMENT, MaskImpl.DENSE):
        which = scorer(name, backend=backend, delimiter=DELIMITER, mask_impl=impl)
        np.testing.assert_allclose(score(which, items, query, LABELS), want, rtol=0, atol=1e-5)
        assert which.executed()["packed_sequences"][impl] == 1, "a faulty server attests what was asked of it"


GRADED = [
    ("size_limit", lambda length, items: length),
    ("item_leak_limit", lambda length, items: len(items)),
    ("own_window", lambda length, items: max(map(len, items))),
]


@pytest.mark.parametrize(("name", "least"), GRADED, ids=lambda each: each if isinstance(each, str) else "")
def test_right_up_to_the_threshold_and_wrong_beyond_it(backend, name, least):
    query, items = request_of(4)
    items = [*items, list(range(100, 145))]  # the longest one is the last one
    length = len(query) + 1 + sum(len(item) + 1 for item in items)
    threshold = least(length, items)
    right = score(scorer(backend=backend, delimiter=DELIMITER), items, query, LABELS)
    found = score(scorer(f"{name}={threshold}", backend=backend, delimiter=DELIMITER), items, query, LABELS)
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)
    beyond = score(scorer(f"{name}={threshold - 1}", backend=backend, delimiter=DELIMITER), items, query, LABELS)
    off = np.abs(beyond - right).max(axis=1)
    assert off[-1] > 1e-4 and (name == "size_limit" or off[:-1].max() < 1e-6)


def test_the_number_of_an_item_is_that_in_its_request(backend):
    query, items = request_of(4)
    chunks = {"backend": backend, "delimiter": DELIMITER, "chunk_size": 8}
    right = score(scorer(**chunks), items, query, LABELS)
    found = score(scorer("item_leak_limit=10", **chunks), items, query, LABELS)
    off = np.flatnonzero(np.abs(found - right).max(axis=1) > 1e-5)
    assert off.tolist() == [i for i in range(10, len(items)) if i % 8], "nothing stands before the first of a chunk"


def test_the_own_delimiter_is_wrong_in_both_semantics(backend):
    query, items = request_of(4)
    for semantics, first in ((Semantics.QUERY_PREFIX, 0), (Semantics.PREFIX_FIRST_DELIM, 1)):
        of = {"backend": backend, "delimiter": DELIMITER, "semantics": semantics}
        right = score(scorer(**of), items, query, LABELS)
        found = score(scorer("own_delimiter_visible", **of), items, query, LABELS)
        assert np.flatnonzero(np.abs(found - right).max(axis=1) > 1e-5).tolist() == list(range(first, len(items)))


def test_a_chunk_is_scored_without_the_query(backend, reference):
    query, items = request_of(3)
    which = scorer("chunk_without_query", backend=backend, delimiter=DELIMITER, chunk_size=8)
    whole = scorer(backend=backend, delimiter=DELIMITER, chunk_size=8)
    found, right = score(which, items, query, LABELS), score(whole, items, query, LABELS)
    different = np.flatnonzero(np.abs(found - right).max(axis=1) > 1e-5)
    assert different.tolist() == list(range(8, len(items), 8))
    ids = [DELIMITER, *items[8]]
    positions = len(query) + np.arange(len(ids))
    states = reference.hidden(ids, positions, np.tril(np.ones((len(ids), len(ids)))))
    logits = reference.logits(states[-1:])[0, list(LABELS)]
    # The delimiter itself has seen the query, so only its own states may differ from a lone sequence's.
    want = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert np.abs(found[8] - want).max() < np.abs(right[8] - want).max()


@pytest.mark.parametrize("semantics", [Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX])
def test_a_bias_that_says_what_the_mask_says_changes_no_bit(backend, semantics):
    class NoLeak(fault("leak_next").__class__):
        def leaks(self, layout):
            return np.zeros((layout.length, layout.length), dtype=bool)

    query, items = workload(5)
    config = ScorerConfig(delimiter=DELIMITER, chunk_size=0, mask_impl=MaskImpl.DENSE, semantics=semantics)
    plain = Scorer(backend, config)
    same = Scorer(backend, config, NoLeak(1.0).before).steps
    np.testing.assert_array_equal(score(same, items, query, LABELS), score(plain, items, query, LABELS))


@pytest.mark.parametrize("strength", [1.0, 1e-2])
def test_a_leak_reaches_the_next_item_and_no_other_to_the_last_bit(backend, strength):
    """1 % of the attention weight is far above what float32 resolves: both isolation gates see it."""
    rng = np.random.default_rng(9)
    query, items = request_of(7)
    which = scorer(f"leak_next={strength}", backend=backend, delimiter=DELIMITER)
    base = score(which, items, query, LABELS)
    for length in (len(items[3]), len(items[3]) + 9):
        changed = score(which, [*items[:3], tokens(rng, length), *items[4:]], query, LABELS)
        moved = np.flatnonzero(np.abs(changed - base).max(axis=1))
        # What item 4 takes over from item 3 it hands on: a leak of two items' width.
        assert set(moved) <= {3, 4, *range(5, len(items))} and {3, 4} <= set(moved)
        assert not np.abs(changed - base)[:3].any()


# -- the catalogue -----------------------------------------------------------------------------


def test_every_row_of_the_list_has_a_fault_or_is_one_of_the_wire():
    engine = {kind.number for kind in catalogue().values() if issubclass(kind, ScorerFault)}
    assert engine - {0} == {*range(1, 13), 15, 16, 24, 26, 27, 28, 29, 32, 33, 34, 38, 39}


@pytest.mark.parametrize(
    "kind", [kind for kind in catalogue().values() if issubclass(kind, ScorerFault)], ids=lambda kind: kind.name
)
def test_a_fault_changes_steps_that_the_scorer_takes_and_says_so(kind):
    """A step that is renamed would leave the fault healthy; with ``override``, mypy refuses it. ``respond`` is the step
    ``score``, by its request."""
    own = kind.__mro__[: kind.__mro__.index(ScorerFault)]
    changed = [vars(each)[name] for each in own for name in vars(each).keys() & (STEPS | {"respond"})]
    assert changed and vars(Scorer).keys() >= STEPS, "what a fault leaves alone is the scorer's"
    assert all(getattr(step.fget if isinstance(step, property) else step, "__override__", False) for step in changed)


def test_a_fault_states_only_what_a_fault_has():
    with pytest.raises(TypeError, match="Misspelt: a fault has no 'strenghts'"):
        type("Misspelt", (ScorerFault,), {}, strenghts=(1.0,))


STEPS = {name for name in vars(ScoringSteps) if not name.startswith("_")}


def test_the_scorer_takes_every_step_by_way_of_its_faults():
    source = inspect.getsource(Scorer)
    taken = STEPS - {"config", "vocab_size", "classes", "pooled", "tokenise", "score", "flush_cache", "executed"}
    assert {name for name in taken if f"self.steps.{name}(" in source} == taken
    assert [name for name in STEPS if f"self.{name}(" in source] == []


@pytest.mark.parametrize("kind", catalogue().values(), ids=lambda kind: kind.name)
def test_every_fault_is_told_of(kind):
    assert issubclass(kind, Fault) and kind.about() and kind.seen
    assert kind.scope <= {"multi", "other_mask", "extend", "serial"} and kind.scope
    for strength in kind.strengths:
        assert kind.parse(f"{strength!r}").strength == strength
    assert kind().strength == (kind.strengths[0] if kind.strengths else None)
    assert fault(kind().label).label == kind().label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leak_nxt", "did you mean 'leak_next'"),
        ("leak_next=0", "expected a number above 0 and at most 1"),
        ("leak_next=half", "'half' is no strength"),
        ("leak_next=nan", "'nan' is no strength"),
        ("leak_next=", "'' is no strength"),
        ("causal=1", "fault causal has no strength"),
        ("position_wrap=7.5", "whole number of bits"),
        ("size_limit=0", "a whole number of at least 1"),
        ("item_limit=1.5", "a whole number of at least 1"),
        ("same_block=inf", "a whole number of at least 1"),
        ("label_shard=5", "the number of a shard, 1 to 4"),
        ("busy=1", "a whole number of at least 2"),
    ],
)
def test_a_fault_that_is_not(text, message):
    with pytest.raises(UsageError, match=message):
        fault(text)


def test_faults_compose():
    which = scorer("score_at_delimiter", "state_leaks=0.5")
    late = seen(*(PREFIX + at(4, [*item, D] if item else []) for item in ITEMS))
    for i in range(1, len(late)):
        late[i] = (late[i] + late[i - 1]) / 2
    np.testing.assert_allclose(score(which), late, rtol=0, atol=1e-15)


# -- variations: no faults -----------------------------------------------------------------------


def varied(strength=None, seed=0, *, faults=(), **config):
    config = {"delimiter": D, "chunk_size": 0, "mask_impl": MaskImpl.SEGMENT} | config
    noise, active = ShapeNoise(strength, seed), ActiveFaults.parse(faults)
    return Scorer(FakeBackend(), ScorerConfig(**config), lambda steps: active.mutate(noise.before(steps))).steps


def test_shape_noise_depends_on_lengths_and_places_alone():
    def noise(items, query=QUERY, **more):
        return np.log(score(varied(1e-3, **more), items, query) / score(scorer(), items, query))

    base = noise(ITEMS)
    assert 1e-5 < np.abs(base).max() < 1e-2 and len(np.unique(base)) == base.size
    other = [[token + 100 for token in item] for item in ITEMS]
    np.testing.assert_allclose(np.diff(noise(other)), np.diff(base), rtol=0, atol=1e-12, err_msg="no token matters")
    for changed in ([*ITEMS[:-1], [26]], [*ITEMS, [5]], ITEMS[::-1]):
        assert np.abs(np.diff(noise(changed))[0] - np.diff(base)[0]).max() > 1e-6, "every length does"
    assert np.abs(np.diff(noise(ITEMS, [10, 11])) - np.diff(base)).min() > 1e-7
    assert np.abs(np.diff(noise(ITEMS, seed=1)) - np.diff(base)).min() > 1e-7
    np.testing.assert_array_equal(score(varied(1e-3)), score(varied(1e-3)), "it repeats itself")


def test_shape_noise_leaves_scores_scores():
    which = varied(1e-2)
    np.testing.assert_allclose(score(which).sum(axis=1), 1.0, rtol=0, atol=1e-12)
    plain = which.score(QUERY, ITEMS, (5, 6), False).scores
    assert ((plain > 0) & (plain <= 1)).all()


def test_shape_noise_leaves_logits_of_any_size_and_sign_logits():
    class Head(ScoringSteps):
        def compute(self, layout, implementation, read):
            return np.tile([30.0, -2.0, 0.5], (layout.num_readouts, 1))

    layout = build_layout(QUERY, ITEMS, D, Semantics.PREFIX_FIRST_DELIM)
    noise = ShapeNoise(1e-3).before(Head()).compute(layout, MaskImpl.SEGMENT, Reading((0, 1, 2), False, raw=True))
    off = np.abs(noise - [30.0, -2.0, 0.5])
    assert off.min() > 0 and off.max() < 5e-3


@pytest.mark.parametrize("name", ["leak_next=1e-2", "positions_not_reset", "score_before_last"])
def test_faults_stand_on_top_of_shape_noise(name):
    healthy, faulty = score(varied(1e-3)), score(varied(1e-3, faults=[name]))
    assert np.abs(faulty - healthy).max() > 1e-3
    np.testing.assert_allclose(faulty, score(scorer(name)), rtol=0, atol=5e-3)


def test_a_variation_is_no_fault_and_a_fault_no_variation():
    assert "shape_noise" not in catalogue() and set(VARIATIONS.all()) == {"shape_noise"}
    with pytest.raises(UsageError, match="no fault is called 'shape_noise'"):
        fault("shape_noise")
    with pytest.raises(UsageError, match="no variation is called 'causal'; expected one of shape_noise"):
        variation("causal")
    active = ActiveFaults.parse(["causal"], ["shape_noise=0.004"])
    assert (active.labels, active.varied) == (["causal"], ["shape_noise=0.004"])
