"""The scorer against a fake model: every mode equals its serial reference exactly, or refuses."""

from dataclasses import replace

import numpy as np
import pytest
from fake_backend import LOG_NORMALISER, VOCAB, FakeBackend, logit
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_multiitem.engine.plan import slots_per_tile
from pytest_multiitem.engine.scorer import PrefixCache, Scorer
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.config import MaskImpl, Mode, ScorerConfig
from pytest_multiitem.scoring.layout import build_layout, packed_length
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.wire.errors import WireError

DELIMITER = 999
LABELS = [5, 6, 7]
QUERY = [10, 11, 12]
ITEMS = [[20], [21, 22, 23], [24] * 9, [25, 26], [20]]
PRODUCTION = [Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX]


def reference(query, items, labels=LABELS, apply_softmax=False):
    """The scores of N independent sequences `query + item`."""
    backend = FakeBackend()
    reads = [backend.serial([*query, *item], labels, True) for item in items]
    return np.concatenate([read.scores(apply_softmax) for read in reads])


def packed(**config):
    return ScorerConfig(**({"delimiter": DELIMITER, "mask_impl": MaskImpl.SEGMENT} | config))


def extend(**config):
    return ScorerConfig(**({"prefill_extend": True, "scoring_cache": True} | config))


def score(config, query=QUERY, items=ITEMS, labels=LABELS, apply_softmax=False, **more):
    return Scorer(FakeBackend(), config).score(query, items, labels, apply_softmax, **more)


def refused(config, query=QUERY, items=ITEMS, max_positions=4096):
    backend = FakeBackend(max_positions)
    scorer = Scorer(backend, config)
    with pytest.raises(WireError) as caught:
        scorer.score(query, items, LABELS, False)
    assert backend.calls == [], "a limit was checked only after work had begun"
    assert scorer.executed()["requests"] == 0
    return caught.value.code, caught.value.param


# -- packed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", [MaskImpl.DENSE, MaskImpl.SEGMENT])
@pytest.mark.parametrize("semantics", PRODUCTION)
@pytest.mark.parametrize("chunk_size", [0, 1, 2, 5, 32])
@pytest.mark.parametrize("delimiter", [0, DELIMITER])
@pytest.mark.parametrize(
    "items",
    [
        ITEMS,
        [[], *ITEMS],
        [[1], [], [2]],
        [*ITEMS, []],
        [[], [], []],
        [[]],
        [[1]],
        [[i, i] for i in range(1, 41)],
    ],
    ids=["plain", "empty-first", "empty-middle", "empty-last", "all-empty", "one-empty", "one", "forty"],
)
def test_packed_equals_its_serial_reference(impl, semantics, chunk_size, delimiter, items):
    config = packed(mask_impl=impl, semantics=semantics, chunk_size=chunk_size, delimiter=delimiter)
    result = score(config, items=items)
    expected = reference(semantics.serial_query(QUERY, delimiter), items)
    np.testing.assert_array_equal(result.scores, expected)
    size = chunk_size or len(items)
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    assert result.prompt_tokens == sum(packed_length(len(QUERY), [len(i) for i in chunk]) for chunk in chunks)


token = st.integers(0, VOCAB - 2)


@settings(max_examples=40, deadline=None)
@given(
    query=st.lists(token, min_size=1, max_size=12),
    items=st.lists(st.lists(token, max_size=20), min_size=1, max_size=12),
    chunk_size=st.integers(0, 6),
    impl=st.sampled_from([MaskImpl.DENSE, MaskImpl.SEGMENT]),
    semantics=st.sampled_from(PRODUCTION),
    softmax=st.booleans(),
)
def test_packed_equals_its_serial_reference_on_any_content(query, items, chunk_size, impl, semantics, softmax):
    config = packed(mask_impl=impl, semantics=semantics, chunk_size=chunk_size)
    result = score(config, query, items, apply_softmax=softmax)
    expected = reference(semantics.serial_query(query, DELIMITER), items, apply_softmax=softmax)
    np.testing.assert_array_equal(result.scores, expected)


def test_chunks_and_counters():
    scorer = Scorer(FakeBackend(), packed(chunk_size=2))
    scorer.score(QUERY, ITEMS, LABELS, False)
    ran = scorer.executed()
    assert ran["packed_sequences"] == {"dense": 0, "segment": 3}
    assert ran["packed_items"] == {"dense": 0, "segment": 5}
    assert (ran["requests"], ran["items"], ran["chunks"], ran["serial_sequences"]) == (1, 5, 3, 0)
    assert ran["largest_packed_items"] == 2
    assert ran["largest_packed_tokens"] == packed_length(3, [9, 2])
    assert ran["items_by_semantics"]["prefix_first_delim"] == 5


@pytest.mark.parametrize(("above", "impl"), [(-1, "segment"), (0, "segment"), (1, "dense")])
def test_auto_chooses_segment_up_to_the_threshold_padding_counted(above, impl):
    layout = build_layout(QUERY, ITEMS, DELIMITER, Semantics.PREFIX_FIRST_DELIM)
    padded = FakeBackend().padded_length(layout)
    assert padded > layout.length + 1, "only padding leads over the threshold"
    config = packed(mask_impl=MaskImpl.AUTO, chunk_size=0, segment_threshold=padded - above)
    scorer = Scorer(FakeBackend(), config)
    scorer.score(QUERY, ITEMS, LABELS, False)
    assert scorer.executed()["packed_sequences"] == {"dense": 0, "segment": 0} | {impl: 1}
    assert ("dense" in scorer.backend.calls) == (impl == "dense")


def test_auto_is_decided_and_counted_for_each_sequence():
    short, long = [[20], [21]], [[22] * 300, [23]]
    scorer = Scorer(FakeBackend(), packed(mask_impl=MaskImpl.AUTO, chunk_size=2, segment_threshold=200))
    for items, ran in [(short, (0, 1)), (long, (1, 1)), (short, (1, 2)), ([*long, *short], (2, 3))]:
        scorer.score(QUERY, items, LABELS, False)
        sequences = scorer.executed()["packed_sequences"]
        assert (sequences["dense"], sequences["segment"]) == ran


@pytest.mark.parametrize("impl", [MaskImpl.DENSE, MaskImpl.SEGMENT])
@pytest.mark.parametrize("threshold", [0, 100_000])
def test_a_mask_that_is_asked_for_runs_at_every_length(impl, threshold):
    scorer = Scorer(FakeBackend(), packed(mask_impl=impl, chunk_size=0, segment_threshold=threshold))
    scorer.score(QUERY, ITEMS, LABELS, False)
    assert scorer.executed()["packed_sequences"] == {"dense": 0, "segment": 0} | {impl.value: 1}


def test_the_counters_say_what_ran_and_nothing_of_what_failed():
    scorer = Scorer(FakeBackend(), packed(mask_impl=MaskImpl.DENSE))
    scorer.backend.fail_with = MemoryError("too big")
    with pytest.raises(MemoryError):
        scorer.score(QUERY, ITEMS, LABELS, False)
    assert scorer.executed() == Scorer(FakeBackend(), packed()).executed()


def test_a_snapshot_does_not_change_later():
    scorer = Scorer(FakeBackend(), packed())
    before = scorer.executed()
    scorer.score(QUERY, ITEMS, LABELS, False)
    assert before["packed_items"]["segment"] == 0


@pytest.mark.parametrize(
    ("semantics", "visible_delimiters"),
    [(Semantics.QUERY_ONLY_PREFIX, lambda start: []), (Semantics.ALL_DELIMS_PREFIX, lambda start: [start])],
)
def test_ablations_run_on_the_dense_path(semantics, visible_delimiters):
    """Auto picks dense for them whatever the length; the first item's state is computed by hand."""
    config = packed(semantics=semantics, mask_impl=MaskImpl.AUTO, segment_threshold=100_000)
    scorer = Scorer(FakeBackend(), config)
    result = scorer.score(QUERY, ITEMS, LABELS, False)
    seen = ((10, 0), (11, 1), (12, 2), *((DELIMITER, p) for p in visible_delimiters(3)), (20, 4))
    logits = np.array([logit(seen, label) for label in LABELS], dtype=np.float32)
    np.testing.assert_array_equal(result.scores[0], np.exp(logits.astype(float) - float(LOG_NORMALISER)))
    assert set(scorer.backend.calls) == {"dense"}
    assert scorer.executed()["items_by_semantics"][semantics.value] == len(ITEMS)


# -- serial -----------------------------------------------------------------------------------


def test_serial_is_one_pass_per_item():
    scorer = Scorer(FakeBackend(), ScorerConfig())
    result = scorer.score(QUERY, [*ITEMS, []], LABELS, True)
    np.testing.assert_array_equal(result.scores, reference(QUERY, [*ITEMS, []], apply_softmax=True))
    assert scorer.backend.calls == ["serial"] * 6
    assert scorer.executed()["serial_sequences"] == 6
    assert sum(scorer.executed()["packed_sequences"].values()) == 0
    assert result.prompt_tokens == 6 * len(QUERY) + 16


def test_serial_honours_item_first_and_packed_ignores_it():
    swapped = np.concatenate([reference(item, [QUERY]) for item in ITEMS])
    np.testing.assert_array_equal(score(ScorerConfig(), item_first=True).scores, swapped)
    np.testing.assert_array_equal(score(packed(), item_first=True).scores, score(packed()).scores)
    np.testing.assert_array_equal(score(ScorerConfig(), items=[[]], item_first=True).scores, reference(QUERY, [[]]))


# -- prefill+extend ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5, 32])
@pytest.mark.parametrize("items", [ITEMS, [[], *ITEMS, []], [[], []]], ids=["plain", "some-empty", "all-empty"])
def test_extend_equals_query_plus_item(batch, items):
    result = score(extend(extend_batch_size=batch), items=items)
    np.testing.assert_array_equal(result.scores, reference(QUERY, items))
    assert result.prompt_tokens == len(QUERY) + sum(map(len, items))


@settings(max_examples=25, deadline=None)
@given(
    query=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12),
    items=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=20), min_size=1, max_size=12),
    batch=st.integers(1, 6),
)
def test_extend_equals_query_plus_item_on_any_content(query, items, batch):
    np.testing.assert_array_equal(score(extend(extend_batch_size=batch), query, items).scores, reference(query, items))


def test_a_partial_batch_has_the_shape_of_a_full_one():
    scorer = Scorer(FakeBackend(), extend(extend_batch_size=4))
    scorer.score(QUERY, [[i, i] for i in range(9)], LABELS, False)
    assert scorer.backend.tile_shapes == [(slots_per_tile(12, 4), 12)] * 3


def test_the_query_is_computed_once_until_the_cache_is_flushed():
    scorer = Scorer(FakeBackend(), extend(extend_batch_size=2))
    first = scorer.score(QUERY, ITEMS, LABELS, False)
    again = scorer.score(QUERY, ITEMS[::-1], LABELS, False)
    np.testing.assert_array_equal(first.scores, again.scores[::-1])
    assert scorer.backend.calls.count("prefix") == 1
    scorer.flush_cache()
    scorer.score(QUERY, ITEMS, LABELS, False)
    assert scorer.backend.calls.count("prefix") == 2
    ran = scorer.executed()
    assert ran["prefill_extend"] == {"prefills": 2, "cache_hits": 1, "extend_batches": 9, "items": 15}
    assert ran["items_by_semantics"]["query_prefix"] == 15
    assert (ran["requests"], ran["chunks"]) == (3, 0)


def test_a_query_that_begins_like_a_cached_one_is_no_hit():
    scorer = Scorer(FakeBackend(), extend())
    for query in (QUERY, QUERY[:2], [*QUERY, 1]):
        result = scorer.score(query, ITEMS, LABELS, False)
        np.testing.assert_array_equal(result.scores, reference(query, ITEMS))
    assert scorer.executed()["prefill_extend"]["cache_hits"] == 0


def test_a_packed_sequence_reuses_a_known_prefix_where_the_cache_is_on():
    """The second chunk of a request finds the first one's, whose bits are those of a new one."""
    scorer = Scorer(FakeBackend(), packed(scoring_cache=True, chunk_size=3))
    cold, warm = (scorer.score(QUERY, ITEMS, LABELS, False) for _ in range(2))
    np.testing.assert_array_equal(cold.scores, score(packed(chunk_size=3)).scores)
    np.testing.assert_array_equal(cold.scores, warm.scores)
    assert scorer.backend.calls.count("prefix") == 1
    assert scorer.executed()["packed_prefixes"] == {"computed": 1, "reused": 3}
    scorer.flush_cache()
    np.testing.assert_array_equal(scorer.score(QUERY, ITEMS[:1], LABELS, False).scores, cold.scores[:1])
    assert scorer.executed()["packed_prefixes"] == {"computed": 2, "reused": 3}


def test_a_packed_prefix_is_computed_every_time_where_the_cache_is_off():
    scorer = Scorer(FakeBackend(), packed())
    for _ in range(2):
        scorer.score(QUERY, ITEMS, LABELS, False)
    assert scorer.backend.calls.count("prefix") == 2
    assert scorer.executed()["packed_prefixes"] == {"computed": 2, "reused": 0}


@pytest.mark.parametrize("semantics", PRODUCTION)
def test_a_packed_query_that_begins_or_ends_like_a_cached_one_is_no_hit(semantics):
    scorer = Scorer(FakeBackend(), packed(scoring_cache=True, semantics=semantics))
    for query in (QUERY, QUERY[:2], [*QUERY, 1], [9, *QUERY[1:]]):
        result = scorer.score(query, ITEMS, LABELS, False)
        np.testing.assert_array_equal(result.scores, reference(semantics.serial_query(query, DELIMITER), ITEMS))
    assert scorer.executed()["packed_prefixes"] == {"computed": 4, "reused": 0}


def test_the_same_tokens_at_other_positions_are_no_hit():
    scorer = Scorer(FakeBackend(), packed(scoring_cache=True))
    layout = build_layout(QUERY, ITEMS, DELIMITER, Semantics.QUERY_PREFIX)
    later = replace(layout, positions=layout.positions + 1)
    prefixes = [scorer._packed_prefix(each) for each in (layout, later, layout)]
    assert prefixes[0] is prefixes[2] and prefixes[0] != prefixes[1]
    assert scorer.executed()["packed_prefixes"] == {"computed": 2, "reused": 1}


def test_the_cache_is_bounded_and_drops_the_least_recently_used():
    cache = PrefixCache(2, 100)
    computed = []

    def get(key):
        return cache.get(((key, 0),), lambda: computed.append(key) or key)

    assert get(1) == (1, False) and get(2) == (2, False) and get(1) == (1, True)
    assert get(3) == (3, False)
    assert len(cache) == 2
    assert get(1) == (1, True) and get(2) == (2, False)
    assert computed == [1, 2, 3, 2]


def test_the_cache_is_bounded_by_tokens_too():
    cache = PrefixCache(8, 10)
    for tokens, left in (((1,) * 4, 1), ((2,) * 6, 2), ((3,), 2), ((4,) * 10, 1), ((5,) * 11, 1)):
        assert cache.get(tokens, lambda: "computed") == ("computed", False)
        assert len(cache) == left
    assert cache.get((5,) * 11, lambda: "again") == ("again", False), "too long to keep, but served"
    assert cache.get((4,) * 10, lambda: "again") == ("computed", True), "it drops nothing"


def test_a_failed_prefill_leaves_nothing_in_the_cache():
    scorer = Scorer(FakeBackend(), extend())
    scorer.backend.fail_with = RuntimeError("out of memory")
    with pytest.raises(RuntimeError):
        scorer.score(QUERY, ITEMS, LABELS, False)
    scorer.backend.fail_with = None
    np.testing.assert_array_equal(scorer.score(QUERY, ITEMS, LABELS, False).scores, reference(QUERY, ITEMS))


# -- limits -----------------------------------------------------------------------------------

LENGTH = packed_length(len(QUERY), [len(item) for item in ITEMS])


@pytest.mark.parametrize("config", [ScorerConfig(max_items=4), packed(max_items=4), extend(max_items=4)])
def test_too_many_items(config):
    assert refused(config) == ("too_many_items", "items")
    assert score(config, items=ITEMS[:4]).scores.shape == (4, 3)


def test_packed_length_over_the_limit_counts_per_chunk():
    assert refused(packed(max_seq_len=LENGTH - 1, chunk_size=0)) == ("sequence_too_long", "items")
    assert score(packed(max_seq_len=LENGTH, chunk_size=0)).scores.shape == (5, 3)
    assert score(packed(max_seq_len=LENGTH - 1, chunk_size=4)).scores.shape == (5, 3)


def test_a_later_chunk_that_is_too_long_stops_the_first_one():
    assert refused(packed(max_seq_len=15, chunk_size=1), items=[[1], [1] * 11]) == (
        "sequence_too_long",
        "items",
    )


@pytest.mark.parametrize("by_config", [True, False], ids=["context-length", "model"])
@pytest.mark.parametrize(
    ("config", "needed", "param"),
    [
        ({}, 12, "items[2]"),
        ({"delimiter": DELIMITER}, 14, "items"),
        ({"prefill_extend": True}, 12, "items[2]"),
    ],
    ids=["serial", "packed", "extend"],
)
def test_positions_beyond_the_model(config, needed, param, by_config):
    """The longest item has 9 tokens behind a query of 3; packing adds two delimiters."""

    def limits(positions):
        more = {"max_positions": positions} if by_config else {}
        return ScorerConfig(**config, scoring_cache=True, **more), 4096 if by_config else positions

    short, model_positions = limits(needed - 1)
    assert refused(short, max_positions=model_positions) == ("sequence_too_long", param)
    enough, model_positions = limits(needed)
    assert Scorer(FakeBackend(model_positions), enough).score(QUERY, ITEMS, LABELS, False).scores.shape == (
        5,
        3,
    )


def test_extend_counts_query_and_item_against_the_sequence_limit():
    assert refused(extend(max_seq_len=11)) == ("sequence_too_long", "items[2]")


@pytest.mark.parametrize("delimiter", [0, DELIMITER])
@pytest.mark.parametrize("impl", [MaskImpl.DENSE, MaskImpl.SEGMENT])
def test_the_delimiter_in_content_is_refused(delimiter, impl):
    config = packed(delimiter=delimiter, mask_impl=impl)
    assert refused(config, query=[1, delimiter]) == ("delimiter_in_content", "query[1]")
    assert refused(config, items=[[1], [], [2, 3, delimiter]]) == ("delimiter_in_content", "items[2][2]")


@pytest.mark.parametrize("config", [ScorerConfig(), extend(), extend(delimiter=DELIMITER)])
def test_without_packing_no_token_is_special(config):
    np.testing.assert_array_equal(
        score(config, [0, DELIMITER], [[DELIMITER], [0]]).scores,
        reference([0, DELIMITER], [[DELIMITER], [0]]),
    )


# -- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "mode", "semantics"),
    [
        (ScorerConfig(), Mode.SERIAL, Semantics.QUERY_PREFIX),
        (ScorerConfig(delimiter=0), Mode.PACKED, Semantics.PREFIX_FIRST_DELIM),
        (packed(semantics=Semantics.QUERY_PREFIX), Mode.PACKED, Semantics.QUERY_PREFIX),
        (extend(delimiter=0), Mode.PREFILL_EXTEND, Semantics.QUERY_PREFIX),
    ],
)
def test_mode_and_declared_semantics(config, mode, semantics):
    assert (config.mode, config.declared_semantics) == (mode, semantics)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"delimiter": -1}, "--multi-item-scoring-delimiter"),
        ({"chunk_size": -1}, "chunk_size"),
        ({"max_items": 0}, "max_items"),
        ({"max_positions": 0}, "--context-length"),
        ({"extend_batch_size": 0}, "extend_batch_size"),
        ({"prefill_extend": True}, "--enable-scoring-cache"),
        ({"semantics": Semantics.ALL_DELIMS_PREFIX, "mask_impl": MaskImpl.SEGMENT}, "dense"),
    ],
)
def test_contradictions_are_refused_at_the_start(values, says):
    with pytest.raises(UsageError, match=says):
        ScorerConfig(**values)


def test_a_delimiter_outside_the_vocabulary_is_refused_at_the_start():
    with pytest.raises(UsageError, match="999"):
        Scorer(FakeBackend(), ScorerConfig(delimiter=VOCAB))


# -- sets -------------------------------------------------------------------------------------

MARK = 500
SETS = [[20, MARK, 21, MARK], [MARK], [22] * 9 + [MARK] * 3, [MARK, 23, 24, MARK, 25], [20, MARK, 21, MARK]]


def places(context, item):
    """What each readout of a set has seen."""
    return [[*context, *item[: place + 1]] for place, token in enumerate(item) if token == MARK]


def set_reference(context, items, labels=LABELS):
    return np.concatenate([reference(seen, [[]], labels) for item in items for seen in places(context, item)])


@pytest.mark.parametrize("impl", [MaskImpl.DENSE, MaskImpl.SEGMENT])
@pytest.mark.parametrize("semantics", PRODUCTION)
@pytest.mark.parametrize("chunk_size", [0, 1, 2])
def test_a_packed_set_is_read_where_the_token_stands(impl, semantics, chunk_size):
    config = packed(mask_impl=impl, semantics=semantics, chunk_size=chunk_size)
    scorer = Scorer(FakeBackend(), config)
    result = scorer.score(QUERY, SETS, LABELS, False, extraction=MARK)
    assert result.readouts.tolist() == [2, 1, 3, 2, 2]
    np.testing.assert_array_equal(result.scores, set_reference(semantics.serial_query(QUERY, DELIMITER), SETS))
    ran = scorer.executed()
    assert (ran["items"], ran["packed_items"][impl]) == (5, 5) and ran["chunks"] == len(range(0, 5, chunk_size or 5))


def test_a_serial_set_is_one_pass_an_item():
    scorer = Scorer(FakeBackend(), ScorerConfig())
    result = scorer.score(QUERY, SETS, LABELS, False, extraction=MARK)
    np.testing.assert_array_equal(result.scores, set_reference(QUERY, SETS))
    assert scorer.backend.calls == ["serial"] * len(SETS)


@settings(max_examples=40, deadline=None)
@given(
    items=st.lists(
        st.lists(st.sampled_from([MARK, 1, 2, 3]), max_size=30).map(lambda item: [*item, MARK]), min_size=1, max_size=12
    ),
    behind=st.integers(0, 3),
    impl=st.sampled_from([MaskImpl.DENSE, MaskImpl.SEGMENT]),
)
def test_any_sets(items, behind, impl):
    items = [[*item, *range(10, 10 + behind)] for item in items]
    result = score(packed(mask_impl=impl), items=items, extraction=MARK)
    np.testing.assert_array_equal(result.scores, set_reference([*QUERY, DELIMITER], items))


@pytest.mark.parametrize(
    ("config", "given", "refusal"),
    [
        (packed(), {"query": [1, MARK]}, ("extraction_token_in_query", "query[1]")),
        (packed(), {"items": [[MARK], [1], []]}, ("no_extraction_token", "items[1]")),
        (ScorerConfig(), {"items": [[MARK], []]}, ("no_extraction_token", "items[1]")),
        (packed(delimiter=MARK), {}, ("invalid_score_extraction_token", "score_extraction_token")),
        (extend(), {}, ("setwise_not_supported", "score_extraction_token")),
        (packed(), {"items": [[MARK] * 1100] * 64, "labels": range(30)}, ("too_many_scores", "items")),
    ],
)
def test_no_set(config, given, refusal):
    scorer = Scorer(FakeBackend(), config)
    request = {"query": QUERY, "items": SETS, "labels": LABELS} | given
    with pytest.raises(WireError) as caught:
        scorer.score(*request.values(), False, extraction=MARK)
    assert (caught.value.code, caught.value.param) == refusal and scorer.backend.calls == []
