"""Both engines against an independent float64 reference, against transformers, against each other, and
against themselves, bitwise."""

from itertools import product

import numpy as np
import pytest
from engine_cases import (
    DELIMITER,
    LABELS,
    MASKS,
    PRODUCTION,
    assert_close,
    changes,
    expected,
    packed,
    tokens,
    workload,
)
from reference import Reference

from pytest_multiitem.engine.checkpoint import tiny_checkpoint
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.readout import Readout
from pytest_multiitem.scoring.semantics import Semantics

ABLATIONS = [semantics for semantics in Semantics if not semantics.has_serial_reference]
PACKAGES = {"pytorch": "torch", "jax": "jax"}


@pytest.fixture(scope="module", params=PACKAGES)
def backends(request, checkpoint):
    pytest.importorskip(PACKAGES[request.param])
    return {
        dtype: load_backend(request.param, checkpoint, dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16")
    }


@pytest.fixture(scope="module")
def backend(backends):
    return backends["float32"]


@pytest.fixture(scope="module")
def reference(checkpoint):
    return Reference(checkpoint)


# -- against independent references ----------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("semantics", PRODUCTION)
def test_packed_scores_equal_the_float64_reference(backend, reference, semantics, seed):
    query, items = workload(seed)
    layout = build_layout(query, items, DELIMITER, semantics)
    states = reference.hidden(layout.token_ids, layout.positions, layout.mask())
    want = expected(reference.logits(states[layout.score_index]))
    serial_query = semantics.serial_query(query, DELIMITER)
    want_serial = expected(np.stack([reference.serial_logits([*serial_query, *item]) for item in items]))
    np.testing.assert_allclose(want.scores(True), want_serial.scores(True), rtol=0, atol=1e-12)
    assert np.ptp(want.scores(True), axis=0).max() > 0.2, "the scores must discriminate between items"
    reads = {mask: packed(backend, mask, query, items, semantics) for mask in MASKS}
    for read in reads.values():
        assert_close(read, want)
    assert_close(reads["segment"], reads["dense"])
    for i, item in enumerate(items):
        read = backend.serial([*serial_query, *item], LABELS, True)
        assert_close(read, Readout(want.label_logits[[i]], want.log_normaliser[[i]]))


@pytest.mark.parametrize("semantics", ABLATIONS)
def test_dense_ablations_equal_the_float64_reference(backend, reference, semantics):
    query, items = workload(11)
    layout = build_layout(query, items, DELIMITER, semantics)
    states = reference.hidden(layout.token_ids, layout.positions, layout.mask())
    want = expected(reference.logits(states[layout.score_index]))
    assert_close(packed(backend, "dense", query, items, semantics), want)


def test_a_long_query_is_computed_in_blocks_and_stays_exact(backend, reference):
    rng = np.random.default_rng(5)
    query, items = tokens(rng, 700), [tokens(rng, 20), tokens(rng, 22)]
    want = expected(np.stack([reference.serial_logits([*query, DELIMITER, *item]) for item in items]))
    assert_close(packed(backend, "segment", query, items, Semantics.PREFIX_FIRST_DELIM), want)
    read = backend.serial([*query, DELIMITER, *items[0]], LABELS, True)
    assert_close(read, Readout(want.label_logits[:1], want.log_normaliser[:1]))


def test_items_longer_than_a_tile(backend, reference):
    rng = np.random.default_rng(3)
    query, items = tokens(rng, 20), [tokens(rng, 400), tokens(rng, 3)]
    want = expected(np.stack([reference.serial_logits([*query, *item]) for item in items]))
    assert_close(packed(backend, "segment", query, items, Semantics.QUERY_PREFIX), want)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 300])
def test_serial_does_not_depend_on_padding(backend, reference, length):
    ids = tokens(np.random.default_rng(length), length)
    assert_close(backend.serial(ids, LABELS, True), expected(reference.serial_logits(ids)[None]))


def test_serial_logits_equal_transformers(backend, checkpoint):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = tokens(np.random.default_rng(1), 70)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    read = backend.serial(ids, LABELS, True)
    np.testing.assert_allclose(read.label_logits[0], logits[list(LABELS)].numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(read.log_normaliser[0], logits.logsumexp(0).item(), rtol=0, atol=1e-4)


def test_the_backends_agree(checkpoint):
    """JAX against PyTorch, packed and serial, in float32."""
    for package in PACKAGES.values():
        pytest.importorskip(package)
    torch, jax = (load_backend(name, checkpoint, dtype="float32", device="cpu") for name in PACKAGES)
    query, items = workload(31)
    for semantics in PRODUCTION:
        for mask in MASKS:
            assert_close(packed(jax, mask, query, items, semantics), packed(torch, mask, query, items, semantics))
    assert_close(jax.serial(query, LABELS, True), torch.serial(query, LABELS, True))


@pytest.mark.parametrize("name", PACKAGES)
def test_the_default_checkpoint_at_its_full_vocabulary(name):
    pytest.importorskip(PACKAGES[name])
    directory = tiny_checkpoint()
    backend = load_backend(name, directory, dtype="float32", device="cpu")
    ids = np.random.default_rng(0).integers(0, 150_000, 60).tolist()
    assert_close(backend.serial(ids, LABELS, True), expected(Reference(directory).serial_logits(ids)[None]))


def test_bfloat16_stays_near_float32(backends):
    query, items = workload(2)
    for mask in MASKS:
        scores = [
            packed(backends[dtype], mask, query, items, Semantics.PREFIX_FIRST_DELIM).scores(True)
            for dtype in ("float32", "bfloat16")
        ]
        difference = np.abs(scores[0] - scores[1])
        assert 0 < difference.max() < 0.1 and difference.mean() < 0.02


# -- mask implementation `auto` ---------------------------------------------------------------


@pytest.mark.parametrize("semantics", PRODUCTION)
def test_auto_is_decided_by_the_rows_that_segment_computes(backend, semantics, monkeypatch):
    """Segment at the threshold, dense one token above it, though the sequence without its padding is below it."""
    query, items = workload(6)
    layout = build_layout(query, items, DELIMITER, semantics)
    rows = []

    def seen(prefix, visible_prefix, blocks, *rest, run=backend.segment):
        unused = [block.rows - sum((tile.packed_index >= 0).sum() for tile in block.tiles) for block in blocks]
        rows.append(layout.length + sum(unused) + prefix.keys[0].shape[1] - layout.prefix_length)
        return run(prefix, visible_prefix, blocks, *rest)

    monkeypatch.setattr(backend, "segment", seen)
    padded = backend.padded_length(layout)
    assert padded > layout.length + 1
    for threshold, ran in [(padded, (0, 1)), (padded - 1, (1, 0)), (layout.length, (1, 0))]:
        scorer = Scorer(
            backend,
            ScorerConfig(delimiter=DELIMITER, chunk_size=0, semantics=semantics, segment_threshold=threshold),
        )
        scorer.score(query, items, LABELS, True)
        sequences = scorer.executed()["packed_sequences"]
        assert (sequences["dense"], sequences["segment"]) == ran
    assert rows == [padded]


# -- isolation, bitwise ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "mask", "semantics", "seed"),
    [(*case, seed) for seed, case in enumerate(product(("float32", "bfloat16"), MASKS, PRODUCTION))],
)
def test_no_item_changes_another_items_scores_by_one_bit(backends, dtype, mask, semantics, seed):
    query, items = workload(100 + seed)
    rng = np.random.default_rng(seed)
    last = len(items) - 1
    anywhere = int(rng.integers(1, last))
    before = packed(backends[dtype], mask, query, items, semantics)
    for index, length in ((0, "40 tokens"), (last // 2, "0 tokens"), (last, "7 tokens"), (anywhere, None)):
        others = np.arange(len(items)) != index
        for name, changed in changes(items, index, rng).items():
            if changed[index] == items[index] or (length not in (None, name) and name != "in place"):
                continue
            after = packed(backends[dtype], mask, query, changed, semantics)
            where = f"item {index}: {name}"
            assert np.array_equal(after.label_logits[others], before.label_logits[others]), where
            assert np.array_equal(after.log_normaliser[others], before.log_normaliser[others]), where
            assert not np.array_equal(after.label_logits[index], before.label_logits[index]), where


@pytest.mark.parametrize("mask", MASKS)
def test_adding_items_that_change_no_tile_shape_changes_nothing(backend, mask):
    """N decides the tile shapes, rounded; items that follow are as invisible as items that differ."""
    query, items = workload(4, count=28)
    few = packed(backend, mask, query, items[:25], Semantics.QUERY_PREFIX)
    many = packed(backend, mask, query, items, Semantics.QUERY_PREFIX)
    assert np.array_equal(few.label_logits, many.label_logits[:25])


def test_the_ablation_that_shows_every_delimiter_does_leak(backend):
    """The negative control: the bitwise comparison sees a leak where there is one."""
    query, items = workload(4)
    before, after = (
        packed(backend, "dense", query, changed, Semantics.ALL_DELIMS_PREFIX).label_logits
        for changed in (items, changes(items, 0, np.random.default_rng(0))["in place"])
    )
    assert not np.array_equal(before[1:], after[1:])


def test_repeated_calls_are_identical(backends):
    query, items = workload(9)
    for backend in backends.values():
        for mask in MASKS:
            first, second = (packed(backend, mask, query, items, Semantics.QUERY_PREFIX).label_logits for _ in range(2))
            assert np.array_equal(first, second)


def test_normaliser_only_where_asked_for(backend):
    query, items = workload(0)
    for mask in MASKS:
        assert packed(backend, mask, query, items, Semantics.QUERY_PREFIX, False).log_normaliser is None
    assert backend.serial(query, LABELS, False).log_normaliser is None
