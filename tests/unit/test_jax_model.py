"""What is the JAX engine's own: its compiled programs, its refusals."""

import shutil

import numpy as np
import pytest
from engine_cases import DELIMITER, LABELS, MASKS, assert_close, edit_config, expected, packed, tokens, workload
from reference import Reference
from safetensors.numpy import load_file

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.semantics import Semantics

pytest.importorskip("jax")

from pytest_multiitem.engine import jax_attention, jax_programs, jax_shapes
from pytest_multiitem.engine.jax_model import JaxBackend
from pytest_multiitem.engine.jax_weights import score_bound


@pytest.fixture(scope="module")
def backend(checkpoint):
    return JaxBackend(checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def reference(checkpoint):
    return Reference(checkpoint)


# -- programs --------------------------------------------------------------------------------


def test_other_items_of_the_same_widths_compile_nothing(backend):
    query, items = workload(21)
    programs = (jax_programs.segment, jax_programs.dense_attend, jax_programs.read)

    def compiled():
        return [program.count for program in programs]

    for mask in MASKS:
        packed(backend, mask, query, items, Semantics.QUERY_PREFIX)
    before = compiled()
    rng = np.random.default_rng(0)
    for mask in MASKS:
        shuffled = [items[i] for i in rng.permutation(len(items))]
        packed(backend, mask, tokens(rng, len(query)), shuffled, Semantics.QUERY_PREFIX)
    assert compiled() == before


def test_sequence_buckets_hold_their_length_and_are_few():
    buckets = [jax_shapes.bucket(length) for length in range(1, 8193)]
    assert all(size >= length for length, size in enumerate(buckets, start=1))
    assert buckets == sorted(buckets)
    assert all(size - length < max(32, length / 4) for length, size in enumerate(buckets, start=1))
    assert len(set(buckets)) <= 8 + 4 * 5


# -- scores without their maximum taken off ----------------------------------------------------


def test_no_score_exceeds_the_bound_and_some_reach_it(backend):
    rng = np.random.default_rng(3)
    dim, layers = 16, backend._weights.layers
    q_norm, k_norm = rng.normal(size=(2, 3, dim)).astype(np.float32) * 2
    bound = score_bound(layers._replace(q_norm=q_norm, k_norm=k_norm))
    assert bound == pytest.approx(4 * (np.abs(q_norm).max(1) * np.abs(k_norm).max(1)).max())
    layer = int(np.argmax(np.abs(q_norm).max(1) * np.abs(k_norm).max(1)))
    rows = np.concatenate([rng.normal(size=(2000, dim)) * 10.0 ** rng.integers(-3, 4, (2000, 1)), np.eye(dim)])
    rows = rows.astype(np.float32)
    q, k = (np.asarray(jax_programs._rms_norm(rows, norm[layer], 1e-6), dtype=np.float64) for norm in (q_norm, k_norm))
    longest = np.linalg.norm(q, axis=1).max() * np.linalg.norm(k, axis=1).max() / np.sqrt(dim)
    assert 0.99 * bound < longest <= bound * (1 + 1e-6)


def test_unshifted_scores_are_those_of_the_reference_up_to_the_largest_bound(checkpoint, backend, weights):
    """Scores just within the limit are computed without their maximum; of larger ones exp would overflow."""
    tensors = load_file(checkpoint / "model.safetensors")
    norms = {name: tensors[name] for name in tensors if name.endswith("k_norm.weight")}
    bound = score_bound(backend._weights.layers)
    query, items = workload(31, query_length=300)
    layout = build_layout(query, items, DELIMITER, Semantics.QUERY_PREFIX)
    for largest, shifted in ((0.999 * jax_attention.LARGEST_UNSHIFTED, False), (200.0, True)):
        directory = weights(tensors | {name: norm * np.float32(largest / bound) for name, norm in norms.items()})
        backend = JaxBackend(directory, dtype="float32", device="cpu")
        assert backend._shifted == shifted
        model = Reference(directory)
        logits = model.logits(model.hidden(layout.token_ids, layout.positions, layout.mask())[layout.score_index])
        assert_close(packed(backend, "segment", query, items, Semantics.QUERY_PREFIX), expected(logits))
        shutil.rmtree(directory)
    backend._shifted = False
    with np.errstate(invalid="ignore"):
        wrong = packed(backend, "segment", query, items, Semantics.QUERY_PREFIX)
    assert not np.isfinite(wrong.label_logits).all(), "exp of these scores must overflow, or the test shows nothing"


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


def test_a_missing_device_is_named(checkpoint):
    with pytest.raises(EngineUnavailable, match="'tpu' was asked for"):
        JaxBackend(checkpoint, dtype="float32", device="tpu")
