"""The JAX engine against an independent float64 reference, against transformers, and against itself, bitwise."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pytest_multiitem.engine.checkpoint import CheckpointSpec, tiny_checkpoint, write_checkpoint
from pytest_multiitem.engine.config import read_config
from pytest_multiitem.engine.plan import place
from pytest_multiitem.errors import CheckpointError, EngineUnavailable
from pytest_multiitem.scoring.layout import Semantics, build_layout
from pytest_multiitem.scoring.readout import Readout
from reference import Reference

pytest.importorskip("jax")

from pytest_multiitem.engine import jax_programs
from pytest_multiitem.engine.jax_model import JaxBackend

SPEC = CheckpointSpec(64, 160, 2, 4, 2, 16, 1000, seed=7)
DELIMITER, LABELS = 999, (17, 403, 8)
MASKS = ("dense", "segment")
PRODUCTION = [semantics for semantics in Semantics if semantics.has_serial_reference]
ABLATIONS = [semantics for semantics in Semantics if not semantics.has_serial_reference]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "small"
    write_checkpoint(directory, SPEC)
    return directory


@pytest.fixture(scope="module")
def backends(checkpoint):
    return {dtype: JaxBackend(checkpoint, dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16")}


@pytest.fixture(scope="module")
def backend(backends):
    return backends["float32"]


@pytest.fixture(scope="module")
def reference(checkpoint):
    return Reference(checkpoint)


def workload(seed, query_length=45, count=25):
    """A query and ``count`` items of 1 to 40 tokens, one of them empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 41, count)
    lengths[rng.integers(count)] = 0
    lengths[[1, count - 2]] = 40, 1
    return tokens(rng, query_length), [tokens(rng, length) for length in lengths]


def tokens(rng, count):
    return rng.integers(0, DELIMITER, count).tolist()


def packed(backend, mask, query, items, semantics, normalise=True):
    """The readout [N] of one packed sequence holding every item (server chunk size 0)."""
    plan = place(build_layout(query, items, DELIMITER, semantics))
    if mask == "dense":
        return backend.dense(plan, LABELS, normalise)
    prefix = backend.prefix(plan.prefix_tokens, plan.prefix_positions)
    logits = np.full((len(items), len(LABELS)), np.nan, dtype=np.float32)
    normaliser = np.full(len(items), np.nan, dtype=np.float32)
    for tile in plan.reading_tiles():
        read = backend.segment_tile(prefix, plan.visible_prefix, tile, LABELS, normalise)
        logits[tile.item[tile.reads]] = read.label_logits[tile.reads]
        if normalise:
            normaliser[tile.item[tile.reads]] = read.log_normaliser[tile.reads]
    for item in plan.empty_items:
        read = backend.prefix_readout(prefix, plan.empty_score_row, LABELS, normalise)
        logits[item] = read.label_logits[0]
        if normalise:
            normaliser[item] = read.log_normaliser[0]
    return Readout(logits, normaliser if normalise else None)


def expected(logits):
    """The float64 readout of full logits [n, V]."""
    return Readout(logits[:, list(LABELS)], np.log(np.exp(logits).sum(axis=1)))


def assert_close(read, want):
    np.testing.assert_allclose(read.scores(True), want.scores(True), rtol=0, atol=1e-5)
    log_probabilities = [np.log(each.scores(False)) for each in (read, want)]
    np.testing.assert_allclose(*log_probabilities, rtol=0, atol=1e-4)


def changes(items, index, rng):
    """Named variants of ``items`` that differ in item ``index`` only."""
    content = {
        "in place": [(token + 1 + int(rng.integers(DELIMITER - 1))) % DELIMITER for token in items[index]],
        **{f"{length} tokens": tokens(rng, length) for length in (40, 1, 0, 7)},
    }
    return {name: [*items[:index], new, *items[index + 1 :]] for name, new in content.items()}


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


def test_the_default_checkpoint_at_its_full_vocabulary():
    directory = tiny_checkpoint()
    backend = JaxBackend(directory, dtype="float32", device="cpu")
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


# -- isolation, bitwise ----------------------------------------------------------------------


@pytest.mark.parametrize("semantics", PRODUCTION)
@pytest.mark.parametrize(("mask", "seed"), [("dense", 0), ("segment", 1), ("segment", 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
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


# -- programs --------------------------------------------------------------------------------


def test_other_items_of_the_same_widths_compile_nothing(backend):
    query, items = workload(21)
    programs = (jax_programs.segment, jax_programs.dense_attend, jax_programs.read)

    def compiled():
        return [program._cache_size() for program in programs]

    for mask in MASKS:
        packed(backend, mask, query, items, Semantics.QUERY_PREFIX)
    before = compiled()
    rng = np.random.default_rng(0)
    for mask in MASKS:
        shuffled = [items[i] for i in rng.permutation(len(items))]
        packed(backend, mask, tokens(rng, len(query)), shuffled, Semantics.QUERY_PREFIX)
    assert compiled() == before


def test_sequence_buckets_hold_their_length_and_are_few():
    buckets = [jax_programs.bucket(length) for length in range(1, 8193)]
    assert all(size >= length for length, size in enumerate(buckets, start=1))
    assert buckets == sorted(buckets)
    assert all(size - length < max(32, length / 4) for length, size in enumerate(buckets, start=1))
    assert len(set(buckets)) <= 8 + 4 * 5


def test_positions_beyond_the_model_are_computed_not_clamped(checkpoint, tmp_path, reference):
    directory = tmp_path / "short"
    shutil.copytree(checkpoint, directory)
    edit_config(directory, max_position_embeddings=64)
    backend = JaxBackend(directory, dtype="float32", device="cpu")
    assert backend.max_positions == 64
    ids = tokens(np.random.default_rng(0), 100)
    assert_close(backend.serial(ids, LABELS, True), expected(reference.serial_logits(ids)[None]))


# -- what a backend says of itself, and refuses ------------------------------------------------


def test_a_backend_names_what_it_runs(backend):
    assert (backend.name, backend.dtype, backend.device) == ("jax", "float32", "cpu")
    assert (backend.vocab_size, backend.max_positions) == (1000, 40_960)
    assert set(backend.versions) == {"jax", "jaxlib"}


def test_normaliser_only_where_asked_for(backend):
    query, items = workload(0)
    for mask in MASKS:
        assert packed(backend, mask, query, items, Semantics.QUERY_PREFIX, False).log_normaliser is None
    assert backend.serial(query, LABELS, False).log_normaliser is None


def test_a_missing_device_is_named(checkpoint):
    with pytest.raises(EngineUnavailable, match="'tpu' was asked for"):
        JaxBackend(checkpoint, dtype="float32", device="tpu")


@pytest.fixture
def weights(checkpoint, tmp_path):
    """A function (tensors, config changes) → a checkpoint directory with these tensors."""

    def write(tensors, **config):
        directory = tmp_path / "changed"
        shutil.copytree(checkpoint, directory)
        save_file(tensors, directory / "model.safetensors")
        edit_config(directory, **config)
        return directory

    return write


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_missing_tensor_is_named(checkpoint, weights):
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'model.layers.1.self_attn.k_norm.weight'"):
        JaxBackend(weights(tensors), dtype="float32", device="cpu")


def test_a_tensor_of_another_shape_is_named(checkpoint, weights):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(63, np.float32)
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' has shape \[63\].*asks for \[64\]"):
        JaxBackend(weights(tensors), dtype="float32", device="cpu")


def test_a_quantised_tensor_is_refused(checkpoint, weights):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(64, np.int8)
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' is int8"):
        JaxBackend(weights(tensors), dtype="float32", device="cpu")


def test_a_damaged_file_is_named(checkpoint, tmp_path):
    directory = tmp_path / "damaged"
    shutil.copytree(checkpoint, directory)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        JaxBackend(directory, dtype="float32", device="cpu")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"holds no \*\.safetensors"):
        JaxBackend(directory, dtype="float32", device="cpu")


def test_an_untied_head_must_be_there_and_is_used(checkpoint, weights):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"][::-1].copy()
    directory = weights(tensors, tie_word_embeddings=False)
    ids = tokens(np.random.default_rng(0), 10)
    read = JaxBackend(directory, dtype="float32", device="cpu").serial(ids, LABELS, True)
    assert_close(read, expected(Reference(directory).serial_logits(ids)[None]))
    del tensors["lm_head.weight"]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'lm_head.weight'"):
        JaxBackend(directory, dtype="float32", device="cpu")


def test_shards_and_bfloat16_files(checkpoint, tmp_path):
    import ml_dtypes

    directory = tmp_path / "shards"
    shutil.copytree(checkpoint, directory)
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    (directory / "model.safetensors").unlink()
    weight_map = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        chosen = {n: tensors[n].astype(ml_dtypes.bfloat16) for n in names if weight_map[n] == shard}
        save_file(chosen, directory / shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read_config(directory).vocab_size == 1000
    ids = tokens(np.random.default_rng(0), 10)
    read = JaxBackend(directory, dtype="float32", device="cpu").serial(ids, LABELS, True)
    assert_close(read, expected(Reference(directory).serial_logits(ids)[None]))
    next(directory.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        JaxBackend(directory, dtype="float32", device="cpu")
