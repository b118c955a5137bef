"""The TPU kernel, interpreted on the CPU: against a dense float64 softmax, bitwise against itself, in the engine."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from engine_cases import (
    DELIMITER,
    MASKS,
    PRODUCTION,
    assert_close,
    changes,
    packed,
    workload,
)

from pytest_multiitem.engine.plan import place
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.semantics import Semantics

jax = pytest.importorskip("jax")
jnp = jax.numpy
segment_kernel = pytest.importorskip("pytest_multiitem.engine.segment_kernel")
jax_model = pytest.importorskip("pytest_multiitem.engine.jax_model")

pytestmark = pytest.mark.slow

#: Operands of one shape share one compiled program, whatever the items' lengths and the visible prefix.
SHAPE = {"kv_heads": 2, "group": 2, "dim": 32, "prefix": 700}
ROWS, SLOT = 385, 24
SLOTS = [SLOT] * (ROWS // SLOT) + [ROWS % SLOT]


def operands(seed, lengths, *, kv_heads, group, dim, prefix, dtype="float32"):
    """Random q, k, v, prefix_k, prefix_v, and the segment_start of items of these lengths, one after the other."""
    rng = np.random.default_rng(seed)
    rows = sum(lengths)
    shapes = [(kv_heads, group, rows, dim), *[(kv_heads, rows, dim)] * 2, *[(kv_heads, prefix, dim)] * 2]
    return [*(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes), starts(lengths)]


def starts(lengths):
    return np.repeat(np.cumsum([0, *lengths[:-1]]), lengths).astype(np.int32)


def interpreted(q, k, v, prefix_k, prefix_v, segment_start, visible):
    return np.asarray(
        segment_kernel.segment_attention(
            q, k, v, prefix_k, prefix_v, np.int32(visible), jnp.asarray(segment_start), interpret=True
        )
    )


def dense(q, k, v, prefix_k, prefix_v, segment_start, visible):
    """The definition, in float64: one softmax a row over every key, hidden keys at minus infinity."""
    q, k, v, prefix_k, prefix_v = (np.asarray(each, np.float64) for each in (q, k, v, prefix_k, prefix_v))
    rows, prefix = q.shape[2], prefix_k.shape[1]
    row, key = np.arange(rows)[:, None], np.arange(rows)[None, :]
    seen = np.hstack([np.tile(np.arange(prefix) < visible, (rows, 1)), (segment_start[:, None] <= key) & (key <= row)])
    scores = np.einsum("kgrd,kcd->kgrc", q, np.concatenate([prefix_k, k], axis=1)) / np.sqrt(q.shape[-1])
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("kgrc,kcd->kgrd", weights, np.concatenate([prefix_v, v], axis=1))


def assert_dense(case, visible):
    np.testing.assert_allclose(interpreted(*case, visible), dense(*case, visible), rtol=0, atol=1e-5)


# -- against the definition --------------------------------------------------------------------


def test_what_the_cases_below_cover():
    """Two query tiles, four own tiles, the last of them a tail of one row; two prefix tiles."""
    tiling = segment_kernel._tiling(SHAPE["group"], ROWS, SHAPE["prefix"])
    assert tiling == (256, 128, 512, 512)


@pytest.mark.parametrize("visible", [700, 699, 513, 512, 511, 1, 0])
def test_a_prefix_seen_in_part(visible):
    assert_dense(operands(visible, SLOTS, **SHAPE), visible)


@pytest.mark.parametrize(
    "lengths",
    [
        [5, 1, 20, 3, 41, 12, 24, 7, 1, 1, 90, 33, 147],
        [1] * ROWS,
        [ROWS],
        [128, 128, 128, 1],
        [127, 2, 126, 130],
        [1, 383, 1],
    ],
    ids=["ragged", "one-token items", "one item", "whole tiles", "across tile edges", "an item of three own tiles"],
)
def test_items_of_any_length(lengths):
    assert_dense(operands(len(lengths), lengths, **SHAPE), 690)


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ({"kv_heads": 1, "group": 1, "dim": 64, "prefix": 128}, [64] * 2),
        ({"kv_heads": 2, "group": 2, "dim": 128, "prefix": 7}, [12, 12]),
        ({"kv_heads": 1, "group": 5, "dim": 32, "prefix": 20}, [17] * 9),
        ({"kv_heads": 1, "group": 16, "dim": 32, "prefix": 20}, [17] * 9),
        ({"kv_heads": 1, "group": 1, "dim": 32, "prefix": 1}, [1]),
        ({"kv_heads": 1, "group": 2, "dim": 32, "prefix": 30}, [24] * 40 + [300]),
    ],
    ids=["one head of 64", "heads of 128", "a group of 5", "a group of 16", "one row", "wide own tiles"],
)
def test_other_shapes(shape, lengths):
    assert_dense(operands(1, lengths, **shape), shape["prefix"])


def test_bfloat16_operands_are_read_as_they_are_and_rounded_once():
    """What is left is the rounding of the weights and of the result to bfloat16, 2^-9 relative each."""
    case = operands(0, SLOTS, **SHAPE, dtype="bfloat16")
    got = interpreted(*case, 690)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float64), dense(*case, 690), rtol=2**-8, atol=2**-9)


def test_large_scores_neither_overflow_nor_vanish():
    """Whole numbers and a head dimension with an exact root: float32 scores of thousands have no rounding error."""
    q, k, v, prefix_k, prefix_v, segment_start = operands(1, [64] * 2, kv_heads=1, group=1, dim=64, prefix=128)
    q, k, prefix_k = jnp.round(q * 300), jnp.round(k * 2), jnp.round(prefix_k * 2)
    scores = np.einsum("kgrd,kcd->kgrc", q, prefix_k) / 8
    assert np.abs(scores).max() > 2000
    assert_dense([q, k, v, prefix_k, prefix_v, segment_start], 128)


# -- isolation, bitwise ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("slot", [0, 10, 15])
def test_a_slot_changes_no_bit_of_another_slots_rows(dtype, slot):
    """Slot 10 lies across a tile's edge."""
    q, k, v, *rest = operands(2, SLOTS, **SHAPE, dtype=dtype)
    other = operands(3, SLOTS, **SHAPE, dtype=dtype)
    rows = np.arange(slot * SLOT, (slot + 1) * SLOT)
    others = np.delete(np.arange(ROWS), rows)
    before = interpreted(q, k, v, *rest, 690)
    for scale in (1, 1e4):
        changed = [
            mine.at[..., rows, :].set(theirs[..., rows, :] * scale)
            for mine, theirs in zip((q, k, v), other[:3], strict=True)
        ]
        after = interpreted(*changed, *rest, 690)
        assert np.array_equal(before[:, :, others], after[:, :, others])
        assert not np.array_equal(before[:, :, rows], after[:, :, rows])


def test_hidden_prefix_keys_change_no_bit():
    q, k, v, prefix_k, prefix_v, segment_start = operands(4, SLOTS, **SHAPE)
    before = interpreted(q, k, v, prefix_k, prefix_v, segment_start, 600)
    changed = (each.at[:, 600:].multiply(-1e4) for each in (prefix_k, prefix_v))
    assert np.array_equal(before, interpreted(q, k, v, *changed, segment_start, 600))


def test_other_lengths_behind_a_row_change_no_bit_of_it():
    *arrays, segment_start = operands(5, [20] * 6 + [265], **SHAPE)
    before = interpreted(*arrays, segment_start, 690)
    after = interpreted(*arrays, starts([20] * 6 + [1] * 265), 690)
    assert np.array_equal(before[:, :, :120], after[:, :, :120])
    after = interpreted(*arrays, starts([20] * 4 + [305]), 690)
    assert not np.array_equal(before[:, :, :120], after[:, :, :120])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("slot", [0, 10, 16])
def test_what_is_not_finite_in_a_slot_or_in_the_hidden_prefix_reaches_no_other_row(dtype, bad, slot):
    """Zero times NaN is NaN, and slots meet in tiles. Slot 10 lies across a tile's edge, 16 is a tail of one row."""
    q, k, v, prefix_k, prefix_v, segment_start = operands(6, SLOTS, **SHAPE, dtype=dtype)
    before = interpreted(q, k, v, prefix_k, prefix_v, segment_start, 500)
    rows = np.flatnonzero(np.arange(ROWS) // SLOT == slot)
    prefix_k, prefix_v = (each.at[:, 500:].set(bad) for each in (prefix_k, prefix_v))
    for changed in ((k.at[:, rows[0]].set(bad), v), (k, v.at[:, rows[0], 3].set(bad))):
        after = interpreted(q, *changed, prefix_k, prefix_v, segment_start, 500)
        others = np.delete(np.arange(ROWS), rows)
        assert np.array_equal(before[:, :, others], after[:, :, others])
        assert np.isnan(after[:, :, rows]).all() or changed[0] is not k, "a row that sees it must not look healthy"


# -- tiles, refusals, the case of the compile gate ------------------------------------------------


@pytest.mark.parametrize("group", [1, 2, 3, 5, 8, 16, 64])
@pytest.mark.parametrize("rows", [1, 24, 128, 384, 1024, 1025, 12_000, 524_288])
def test_tiles_fit_the_hardware(group, rows):
    tiling = segment_kernel._tiling(group, rows, rows)
    assert tiling.own % 128 == 0 and tiling.shared % 128 == 0
    assert tiling.query % 16 == 0 and tiling.query & (tiling.query - 1) == 0
    assert tiling.query * group <= max(512, 16 * group)
    assert tiling.rows % tiling.query == 0 and rows <= tiling.rows < rows + tiling.query
    assert (tiling.rows - 1) // tiling.own == (rows - 1) // tiling.own, "no own tile begins behind the last key"
    assert 4 * tiling.rows // tiling.query <= 2**17, "what is prefetched must leave most of the 1 MiB of scalar memory"


@pytest.mark.parametrize(("rows", "prefix"), [(12_000, 2048), (12_001, 700)], ids=["canonical", "odd"])
def test_no_operand_of_a_tile_or_more_is_copied(rows, prefix):
    """Padding to whole tiles would copy queries, keys, values and result: 141 MiB a layer at the canonical shape."""
    case, arguments = segment_kernel.tpu_case(rows=rows, prefix=prefix)
    smallest = min(each.size for each in arguments[:5])

    def large(program):
        for equation in program.eqns:
            inner = equation.params.get("jaxpr")
            if equation.primitive.name != "pallas_call" and inner is not None:
                yield from large(inner.jaxpr)
            elif any(each.aval.size >= smallest for each in equation.outvars):
                yield equation.primitive.name

    assert list(large(jax.make_jaxpr(case)(*arguments).jaxpr)) == ["pallas_call"]


def test_another_visible_prefix_or_other_lengths_compile_nothing():
    *arrays, segment_start = operands(7, SLOTS, **SHAPE)
    interpreted(*arrays, segment_start, 30)
    before = segment_kernel._attend._cache_size()
    interpreted(*arrays, starts([100, 285]), 600)
    assert segment_kernel._attend._cache_size() == before


def test_operands_that_do_not_fit_are_refused():
    q, k, v, prefix_k, prefix_v, segment_start = operands(8, SLOTS, **SHAPE)
    with pytest.raises(ValueError, match="need keys and values"):
        interpreted(q, k[:, 1:], v, prefix_k, prefix_v, segment_start, 30)
    with pytest.raises(ValueError, match="and segment_start"):
        interpreted(q, k, v, prefix_k, prefix_v, segment_start[1:], 30)
    with pytest.raises(ValueError, match="need prefix keys"):
        interpreted(q, k, v, prefix_k[:1], prefix_v, segment_start, 30)
    with pytest.raises(ValueError, match="all float32 or all bfloat16, got bfloat16, float32"):
        interpreted(q, k, v.astype(jnp.bfloat16), prefix_k, prefix_v, segment_start, 30)
    with pytest.raises(ValueError, match="multiple of kv_heads"):
        segment_kernel.tpu_case(heads=3, kv_heads=2)


def lowered_for_tpu(function, *arguments, **static):
    """The program for a v6e that is not here, as text: Pallas' own lowering, without the TPU compiler."""
    sharding = jax.sharding
    if not hasattr(sharding, "AbstractDevice") or not hasattr(sharding, "use_abstract_mesh"):
        pytest.skip(f"jax {jax.__version__} cannot lower for a TPU that is not here")
    platform = {"platform": "tpu"} if "platform" in inspect.signature(sharding.AbstractDevice).parameters else {}
    device = sharding.AbstractDevice("TPU v6 lite", 1, **platform)
    with sharding.use_abstract_mesh(sharding.AbstractMesh((1,), ("x",), abstract_device=device)):
        return function.trace(*arguments, **static).lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_no_product_rounds_its_operands(dtype, precision):
    """A TPU would round float32 operands to bfloat16 unless told otherwise; a CPU shows no difference."""
    case, arguments = segment_kernel.tpu_case(dtype=dtype, rows=24, prefix=7)
    program = str(jax.make_jaxpr(case)(*arguments))
    assert program.count("dot_general[") == 4
    assert program.count(f"precision=(Precision.{precision}, Precision.{precision})") == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [{}, {"rows": 24, "prefix": 7, "heads": 4, "kv_heads": 2, "head_dim": 32}])
def test_the_case_lowers_for_a_tpu(shape, dtype):
    case, arguments = segment_kernel.tpu_case(dtype=dtype, **shape)
    assert "tpu_custom_call" in lowered_for_tpu(jax.jit(case), *arguments)


# -- in the engine -------------------------------------------------------------------------------


def on_tpu(*arguments):
    """What a backend on a TPU computes a tile's attention with, interpreted."""
    return segment_kernel.slot_attention(*arguments, interpret=True)


@pytest.fixture(scope="module")
def backends(checkpoint):
    backends = {dtype: jax_model.JaxBackend(checkpoint, dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16")}
    for backend in backends.values():
        backend._segment_kernel = on_tpu
    return backends


@pytest.mark.parametrize("semantics", PRODUCTION)
def test_the_engines_scores_by_the_kernel_equal_its_dense_scores(backends, semantics):
    query, items = workload(41)
    assert [] in items
    by_mask = {mask: packed(backends["float32"], mask, query, items, semantics) for mask in MASKS}
    assert_close(by_mask["segment"], by_mask["dense"])


def test_bfloat16_scores_by_the_kernel_stay_near_float32(backends):
    query, items = workload(41)
    scores = [
        packed(backend, "segment", query, items, Semantics.QUERY_PREFIX).scores(True) for backend in backends.values()
    ]
    difference = np.abs(scores[0] - scores[1])
    assert 0 < difference.max() < 0.1 and difference.mean() < 0.02


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_item_changes_another_items_scores_by_one_bit(backends, dtype):
    query, items = workload(42)
    before = packed(backends[dtype], "segment", query, items, Semantics.PREFIX_FIRST_DELIM)
    for index in (0, 13):
        others = np.arange(len(items)) != index
        for name, changed in changes(items, index, np.random.default_rng(index)).items():
            after = packed(backends[dtype], "segment", query, changed, Semantics.PREFIX_FIRST_DELIM)
            assert np.array_equal(after.label_logits[others], before.label_logits[others]), name
            assert np.array_equal(after.log_normaliser[others], before.log_normaliser[others]), name
            assert not np.array_equal(after.label_logits[index], before.label_logits[index]), name


def test_the_kernel_is_a_tpus_alone(checkpoint):
    kernel_for = jax_model._segment_kernel_for
    assert kernel_for(SimpleNamespace(platform="tpu")) is segment_kernel.slot_attention
    assert kernel_for(SimpleNamespace(platform="cuda")) is None
    assert jax_model.JaxBackend(checkpoint, dtype="float32", device="cpu")._segment_kernel is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engines_program_for_a_tpu_holds_the_kernel(backends, dtype):
    query, items = workload(43)
    plan = place(build_layout(query, items, DELIMITER, Semantics.QUERY_PREFIX))
    backend, tile = backends[dtype], plan.tiles[0]
    prefix = backend.prefix(*plan.layout.prefix)
    model = (backend._config, backend._weights, backend._rotary)
    arguments = (
        *model,
        prefix.keys,
        prefix.values,
        np.int32(plan.visible_prefix),
        tile.tokens,
        tile.positions,
        tile.score_row,
    )
    for kernel in (None, segment_kernel.slot_attention):
        text = lowered_for_tpu(jax_model.programs.segment.jitted(), *arguments, shifted=False, kernel=kernel)
        assert ("tpu_custom_call" in text) == (kernel is not None)
