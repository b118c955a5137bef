"""The compiled JAX programs of the Qwen3 forward pass.

Every shape in a program comes from one of: the model, the prefix bucket, one tile, or the number of
labels. No program iterates over a number of blocks that depends on the items, so no item's content or
length can change the program another item is computed by.

R: rows; H: hidden size; D: head dimension; P: prefix bucket; G, W: slots of a tile and their width.
Queries are [kv_heads, group, R, D]; keys and values are [kv_heads, R, D].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.engine.jax_ahead import program
from pytest_multiitem.engine.jax_weights import Layers, Weights
from pytest_multiitem.scoring.layout import visible
from pytest_multiitem.scoring.semantics import Semantics

#: The score of a hidden key, and the row maximum before any visible key. Both stand for minus infinity
#: but are finite, and apart, so that exp(hidden - maximum) is exactly 0 and never NaN.
_HIDDEN, _NOTHING_SEEN = -1e30, -1e20

#: Scores up to this need no maximum taken off before exp: with either sign that is a normal float32, and so is a sum of
#: it over any number of keys.
LARGEST_UNSHIFTED = 60.0

#: Rows of one block of causal attention: bounds the score matrix to this many rows at a time.
_CAUSAL_ROWS = 512
#: Sequences of more tokens are attended to in a loop, for which nothing is compiled by itself.
_LONG = 8192
#: Scores that are computed at a time: 2 MiB, so that they stay in a core's cache.
_CACHED_SCORES = 1 << 19
#: Rows of a causal block that are computed at a time, at least.
_FEWEST_ROWS = 32
#: Slots up to this many rows attend to themselves in one piece, wider ones to as many keys at a time.
_WIDEST = 384
#: Keys of a prefix that a tile attends to at a time, at most: few, so that as many rows as possible share the work of
#: preparing them for a product.
_ATTENDED_KEYS = 256


class Rotary(NamedTuple):
    """Rotary tables [positions, D / 2] in float32, rounded once from float64."""

    cos: Any
    sin: Any


class Placed(NamedTuple):
    """What the mask rule needs to know of the R rows of a placed tile, each [R].

    ``index``: index in the packed sequence, -1 for padding. ``place``: row number over all tiles.
    """

    index: Any
    item: Any
    is_delimiter: Any
    place: Any


class Attention(NamedTuple):
    """Running softmax over key blocks: row maximum and sum [kv_heads, group, R], weighted values [..., D]."""

    maximum: Any
    total: Any
    values: Any


@program("config")
def embed(config: ModelConfig, weights: Weights, tokens: Any) -> Any:
    """Token embeddings [R, H]."""
    return weights.embedding[tokens]


class Prefill(NamedTuple):
    """A causal pass over [P] tokens: keys and values [L, kv_heads, P, D], and what goes into the last layer, hidden
    states [P, H] and queries [kv_heads, group, P, D]. The last layer's rest is computed for the row that is read."""

    keys: Any
    values: Any
    hidden: Any
    queries: Any


@program("config")
def prefill(config: ModelConfig, weights: Weights, rotary: Rotary, tokens: Any, positions: Any) -> Prefill:
    """A causal pass over [P] tokens, up to the last layer's attention."""

    def layer(x: Any, number: Any) -> tuple[Any, Any]:
        p = _layer(weights, number)
        q, k, v = _project(config, p, rotary, x, positions)
        return _finish(config, p, x, _causal(q, k, v)), (k, v)

    last = config.num_hidden_layers - 1
    x, (keys, values) = lax.scan(layer, weights.embedding[tokens], jnp.arange(last))
    q, k, v = _project(config, _layer(weights, last), rotary, x, positions)
    return Prefill(jnp.concatenate([keys, k[None]]), jnp.concatenate([values, v[None]]), x, q)


@program("config")
def prefill_row(config: ModelConfig, weights: Weights, prefix: Prefill, row: Any) -> Any:
    """The final, normed state [1, H] of one row of a prefix."""
    q = lax.dynamic_slice_in_dim(prefix.queries, row, 1, axis=2)
    p = _exponentials(_scores(q, prefix.keys[-1]), jnp.arange(prefix.keys.shape[2]) <= row)
    attended = _weighted(p, prefix.values[-1]) / p.sum(-1, keepdims=True)
    last = _layer(weights, config.num_hidden_layers - 1)
    hidden = _finish(config, last, lax.dynamic_slice_in_dim(prefix.hidden, row, 1), attended)
    return _final(config, weights, hidden)


@program("config", "shifted", "kernel")
def segment(
    config: ModelConfig,
    weights: Weights,
    rotary: Rotary,
    prefix_keys: Any,
    prefix_values: Any,
    visible_prefix: Any,
    tokens: Any,
    positions: Any,
    score_row: Any,
    shifted: bool,
    kernel: Callable[..., Any] | None = None,
) -> Any:
    """The final, normed states of the row ``score_row`` [G] of each slot of a tile [G, W], and after them zeros, as
    :func:`readable` wants them: [≥ G, H].

    Slots share one matrix product against the prefix [P]. Each row: one softmax over the first ``visible_prefix``
    prefix keys and its own slot so far. In the last layer only a slot's score row needs more than its key and value.
    ``shifted``: take a row's maximum off its scores against the prefix; needless where none exceeds
    `LARGEST_UNSHIFTED`. ``kernel``: what computes attention instead of XLA's products, with the arguments of
    `engine.segment_kernel.slot_attention`.
    """
    slots, width = tokens.shape
    shared = (prefix_keys, prefix_values, visible_prefix)
    computed = _segment_layers(config, weights, rotary, *shared, tokens, positions, shifted, kernel)
    return _segment_rows(config, weights, *shared, computed, score_row, slots, width, shifted, kernel)


class Computed(NamedTuple):
    """The rows of a tile before the last layer's attention: hidden states [R, H], queries, keys and values."""

    hidden: Any
    queries: Any
    keys: Any
    values: Any


def _segment_layers(
    config: ModelConfig,
    weights: Weights,
    rotary: Rotary,
    prefix_keys: Any,
    prefix_values: Any,
    visible_prefix: Any,
    tokens: Any,
    positions: Any,
    shifted: bool,
    kernel: Callable[..., Any] | None,
) -> Computed:
    """See :func:`segment`."""
    slots, width = tokens.shape
    flat_positions = positions.reshape(-1)
    seen = jnp.arange(prefix_keys.shape[2]) < visible_prefix
    past = jnp.tril(jnp.ones((width, width), bool))

    def layer(x: Any, number: Any) -> tuple[Any, None]:
        p, shared_k, shared_v = _layer(weights, number), prefix_keys[number], prefix_values[number]
        q, k, v = _project(config, p, rotary, x, flat_positions)
        if kernel is not None:
            attended = kernel(q, k, v, shared_k, shared_v, visible_prefix, width)
        else:
            attended = _segment_attention(
                q, k, v, shared_k, shared_v, seen, jnp.broadcast_to(past, (slots, *past.shape)), shifted
            )
        return _finish(config, p, x, attended), None

    # By number, for the part of a stack that a scan goes through would be copied first.
    x, _ = lax.scan(layer, weights.embedding[tokens.reshape(-1)], jnp.arange(config.num_hidden_layers - 1))
    return Computed(x, *_project(config, _layer(weights, config.num_hidden_layers - 1), rotary, x, flat_positions))


def _segment_rows(
    config: ModelConfig,
    weights: Weights,
    prefix_keys: Any,
    prefix_values: Any,
    visible_prefix: Any,
    computed: Computed,
    score_row: Any,
    slots: int,
    width: int,
    shifted: bool,
    kernel: Callable[..., Any] | None,
) -> Any:
    """See :func:`segment_rows`."""
    x, q, k, v = computed
    last = _layer(weights, config.num_hidden_layers - 1)
    at = jnp.arange(slots) * width + score_row
    if kernel is not None:
        attended = kernel(q, k, v, prefix_keys[-1], prefix_values[-1], visible_prefix, width)[:, :, at]
    else:
        seen = jnp.arange(prefix_keys.shape[2]) < visible_prefix
        own_seen = (jnp.arange(width) <= score_row[:, None])[:, None]
        attended = _segment_attention(q[:, :, at], k, v, prefix_keys[-1], prefix_values[-1], seen, own_seen, shifted)
    states = _final(config, weights, _finish(config, last, x[at], attended))
    return jnp.pad(states, ((0, readable(slots) - slots), (0, 0)))


#: For a model and a tile whose items are read at several rows: `segment` in two, the layers up to the last one's
#: attention, and the states of one row of each slot.
segment_layers = program("config", "shifted", "kernel")(_segment_layers)
segment_rows = program("config", "slots", "width", "shifted", "kernel")(_segment_rows)


def _segment_attention(
    q: Any, k: Any, v: Any, shared_k: Any, shared_v: Any, seen: Any, own_seen: Any, shifted: bool
) -> Any:
    """Attention [kv_heads, group, G · w, D] of w rows a slot to the prefix keys [P] that are ``seen`` and to those keys
    of their slot that ``own_seen`` [G, w, W] says.

    The two are combined by their running maxima and sums, as in FlashAttention (Dao et al., 2022, section 3.1).
    """
    kv_heads, group, rows, dim = q.shape
    slots, wanted, width = own_seen.shape
    per_slot = (kv_heads, group, slots, wanted)
    if rows == width and width > _WIDEST:
        own_maximum, own_total, own_values = (x[:, :, None] for x in _long_causal(q, k, v, _WIDEST))
    else:
        own_k, own_v = (own.reshape(kv_heads, slots, width, dim) for own in (k, v))
        own = _dot("kgswd,ksud->kgswu", q.reshape(*per_slot, dim), own_k) * dim**-0.5
        own = jnp.where(own_seen, own, _HIDDEN)
        own_maximum = own.max(-1)
        own = jnp.exp(own - own_maximum[..., None])
        own_total = own.sum(-1)
        own_values = _dot("kgswu,ksud->kgswd", own.astype(v.dtype), own_v)
    shared = _attend_in_parts(q.reshape(kv_heads, group * rows, dim), shared_k, shared_v, seen, shifted)
    of_slots = Attention(*(part.reshape(*per_slot, *part.shape[2:]) for part in shared))
    maximum = jnp.maximum(of_slots.maximum, own_maximum)
    rescale, own_rescale = jnp.exp(of_slots.maximum - maximum), jnp.exp(own_maximum - maximum)
    total = of_slots.total * rescale + own_total * own_rescale
    values = of_slots.values * rescale[..., None] + own_values * own_rescale[..., None]
    return (values / total[..., None]).reshape(q.shape)


def _long_causal(q: Any, k: Any, v: Any, columns: int) -> Attention:
    """Causal softmax sums of queries [kv_heads, group, R, D] over as many keys [kv_heads, R, D]; R is a multiple of
    ``columns``.

    A few rows and so many keys after the others, keys up to the rows' end only: R × R scores are never there, and the
    program is as small for long sequences as for short ones.
    """
    kv_heads, group, length, dim = q.shape
    rows = columns // 4
    some_keys, some_values = (each.reshape(kv_heads, -1, columns, dim) for each in (k, v))
    parts = jnp.moveaxis(q.reshape(kv_heads, group, -1, rows, dim), 2, 0).reshape(-1, kv_heads, group * rows, dim)
    scaled = (parts * dim**-0.5).astype(q.dtype)

    def part(scanned: tuple[Any, Any]) -> Attention:
        q, start = scanned
        at = jnp.tile(start + jnp.arange(rows), group)[:, None]

        def block(number: Any, before: Attention) -> Attention:
            keys, values = some_keys[:, number], some_values[:, number]
            seen = number * columns + jnp.arange(columns) <= at
            scores = jnp.where(seen, _dot("krd,kcd->krc", q, keys), _HIDDEN)
            return _attend(before, scores, lambda p: _dot("krc,kcd->krd", p.astype(values.dtype), values))

        return lax.fori_loop(0, (start + rows - 1) // columns + 1, block, _before_any(q))

    attended = lax.map(part, (scaled, jnp.arange(0, length, rows)))

    def joined(x: Any) -> Any:
        """[parts, kv_heads, group · rows, …] as [kv_heads, group, R, …]."""
        in_order = jnp.moveaxis(x.reshape(-1, kv_heads, group, rows, *x.shape[3:]), 0, 2)
        return in_order.reshape(kv_heads, group, length, *x.shape[3:])

    return Attention(*map(joined, attended))


def _attend_in_parts(q: Any, k: Any, v: Any, seen: Any, shifted: bool) -> Attention:
    """Softmax sums of queries [kv_heads, n, D] over the keys [kv_heads, P, D] that are ``seen`` [P].

    One head, a few rows and a few keys after the others, so that their scores stay in cache.
    """
    kv_heads, count, dim = q.shape
    columns = _columns(k.shape[1])
    parts = -(-count // (_CACHED_SCORES // columns))
    rows = -(-count // parts)
    some_keys, some_values = (each.reshape(kv_heads, -1, columns, dim) for each in (k, v))
    some_seen = seen.reshape(-1, columns)

    def part(scanned: tuple[Any, Any]) -> Attention:
        q, head = scanned

        def block(before: Attention, number: Any) -> tuple[Attention, None]:
            values = some_values[head, number]
            scores = jnp.where(some_seen[number], _dot("rd,cd->rc", q, some_keys[head, number]), _HIDDEN)
            return _attend(before, scores, lambda p: _dot("rc,cd->rd", p.astype(v.dtype), values), shifted), None

        return lax.scan(block, _before_any(q, shifted), jnp.arange(len(some_seen)))[0]

    scaled = (q * dim**-0.5).astype(q.dtype)
    padded = jnp.pad(scaled, ((0, 0), (0, parts * rows - count), (0, 0))).reshape(kv_heads * parts, rows, dim)
    attended = lax.map(part, (padded, jnp.repeat(jnp.arange(kv_heads), parts)))
    return Attention(*(x.reshape(kv_heads, parts * rows, *x.shape[2:])[:, :count] for x in attended))


def _columns(keys: int) -> int:
    """How many of a prefix's keys [P] are attended to at a time: an even part of them."""
    parts = -(-keys // _ATTENDED_KEYS)
    while keys % parts:
        parts += 1
    return keys // parts


def _before_any(q: Any, shifted: bool = True) -> Attention:
    """The running softmax of queries [..., R, D] before any key; see :func:`_attend`."""
    rows = q.shape[:-1]
    maximum = jnp.full(rows, _NOTHING_SEEN if shifted else 0.0, jnp.float32)
    return Attention(maximum, jnp.zeros(rows, jnp.float32), jnp.zeros(q.shape, jnp.float32))


def _attend(before: Attention, scores: Any, weighted: Callable[[Any], Any], shifted: bool = True) -> Attention:
    """A running softmax after keys with these ``scores`` [..., R, C]; ``weighted``: their values under weights like it.

    ``shifted``: by the running maximum; else that stays as it is.
    """
    if not shifted:
        p = jnp.exp(scores)
        return Attention(before.maximum, before.total + p.sum(-1), before.values + weighted(p))
    maximum = jnp.maximum(before.maximum, scores.max(-1))
    p = jnp.exp(scores - maximum[..., None])
    rescale = jnp.exp(before.maximum - maximum)
    return Attention(maximum, before.total * rescale + p.sum(-1), before.values * rescale[..., None] + weighted(p))


def _exponentials(scores: Any, seen: Any) -> Any:
    """exp of the scores [..., R, C] less their row's maximum; exactly 0 where not ``seen``."""
    scores = jnp.where(seen, scores, _HIDDEN)
    return jnp.exp(scores - scores.max(-1, keepdims=True))


@program("config")
def dense_project(
    config: ModelConfig, weights: Weights, rotary: Rotary, layer: Any, x: Any, positions: Any
) -> tuple[Any, Any, Any]:
    """Queries, keys and values of R rows in layer number ``layer``."""
    return _project(config, _layer(weights, layer), rotary, x, positions)


@program("semantics")
def dense_mask(semantics: Semantics, rows: Placed, columns: Placed) -> Any:
    """One block [R, C] of the S×S mask. Padding sees itself alone and is seen by nobody else."""
    allowed = visible(
        semantics,
        query_index=rows.index[:, None],
        query_item=rows.item[:, None],
        key_index=columns.index[None, :],
        key_item=columns.item[None, :],
        key_is_delimiter=columns.is_delimiter[None, :],
    )
    real = (rows.index >= 0)[:, None] & (columns.index >= 0)[None, :]
    return (allowed & real) | (rows.place[:, None] == columns.place[None, :])


@program()
def dense_start(q: Any) -> Attention:
    """The running softmax of R rows before any key block."""
    return _before_any(q)


@program(donated=("state",))
def dense_attend(q: Any, k: Any, v: Any, mask: Any, state: Attention) -> Attention:
    """Add one key block to the running softmax of R rows. ``mask`` [R, C]: boolean, or logarithms of weights.

    A block that a row does not see leaves that row's state as it is, bit for bit: the maximum stays,
    so the rescaling is exp(0) = 1, and exact zeros are added. Zero times NaN is NaN, so a value that is not finite is
    taken as 0 and its key as NaN: the rows that see it are NaN and no others.
    """
    finite = jnp.isfinite(v).all(-1, keepdims=True)
    k, v = jnp.where(finite, k, jnp.nan), jnp.where(finite, v, 0)
    scores = _scores(q, k)
    if mask.dtype == jnp.bool_:
        scores = jnp.where(mask, scores, _HIDDEN)
    else:
        scores = jnp.where(jnp.isneginf(mask), _HIDDEN, scores + mask)
    return _attend(state, scores, lambda p: _weighted(p, v))


@program("config")
def dense_finish(config: ModelConfig, weights: Weights, layer: Any, x: Any, state: Attention) -> Any:
    """The rest of layer number ``layer`` after attention, for R rows."""
    return _finish(config, _layer(weights, layer), x, state.values / state.total[..., None])


@program("config")
def final_states(config: ModelConfig, weights: Weights, hidden: Any, rows: Any) -> Any:
    """The final, normed states [n, H] at ``rows`` [n] of hidden states [R, H] after the last layer."""
    return _final(config, weights, hidden[rows])


@program("normalise")
def read(weights: Weights, states: Any, labels: Any, normalise: bool) -> tuple[Any, Any]:
    """In float32: the label logits [n, K] of states [n, H]; if ``normalise``, log-sum-exp over the vocabulary [n]."""
    logits = _dot("nh,kh->nk", states, weights.head[labels])
    if not normalise:
        return logits, None
    return logits, jax.nn.logsumexp(_dot("nh,vh->nv", states, weights.head), axis=-1)


def readable(rows: int) -> int:
    """How many states are read at once for the sake of ``rows``: a power of two, so that tiles of several shapes share
    the programs of :func:`read`."""
    return 1 << (rows - 1).bit_length()


def _final(config: ModelConfig, weights: Weights, hidden: Any) -> Any:
    """The last normalisation of states [n, H]."""
    return _rms_norm(hidden, weights.final_norm, config.rms_norm_eps)


def _layer(weights: Weights, layer: Any) -> Layers:
    return Layers(*(lax.dynamic_index_in_dim(stack, layer, keepdims=False) for stack in weights.layers))


def _dot(equation: str, a: Any, b: Any, out: Any = jnp.float32) -> Any:
    """A product accumulated in float32; accelerators must not round float32 operands.

    XLA's CPU backend lacks some bfloat16 products with a float32 result, so there the operands are
    widened first, which is exact.
    """
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT

    def product(a: Any, b: Any) -> Any:
        return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=out)

    if a.dtype == out:
        return product(a, b)
    return lax.platform_dependent(a, b, cpu=lambda a, b: product(a.astype(out), b.astype(out)), default=product)


def _scores(q: Any, k: Any) -> Any:
    """Scaled scores [kv_heads, group, R, C] in float32: one product a key-value head, no transposed copy."""
    kv_heads, group, rows, dim = q.shape
    scores = _dot("krd,kcd->krc", q.reshape(kv_heads, group * rows, dim), k) * dim**-0.5
    return scores.reshape(kv_heads, group, rows, -1)


def _weighted(p: Any, v: Any) -> Any:
    """The values [kv_heads, C, D] under weights [kv_heads, group, R, C]: float32 [kv_heads, group, R, D]."""
    kv_heads, group, rows, columns = p.shape
    flat = p.astype(v.dtype).reshape(kv_heads, group * rows, columns)
    return _dot("krc,kcd->krd", flat, v).reshape(kv_heads, group, rows, -1)


def _rms_norm(x: Any, weight: Any, epsilon: float) -> Any:
    """Normalise in float32, round to the model's type, then scale (as transformers' Qwen3RMSNorm)."""
    wide = x.astype(jnp.float32)
    wide = wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + epsilon)
    return weight * wide.astype(x.dtype)


def _rotate(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary positions on [R, heads, D], halves rotated against each other."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, None].astype(x.dtype), sin[:, None].astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _project(config: ModelConfig, p: Layers, rotary: Rotary, x: Any, positions: Any) -> tuple[Any, Any, Any]:
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    normed = _rms_norm(x, p.input_norm, config.rms_norm_eps)
    rows = _dot("rh,ho->ro", normed, p.qkv, x.dtype).reshape(len(x), heads + 2 * kv_heads, dim)
    q, k, v = jnp.split(rows, (heads, heads + kv_heads), axis=1)
    cos, sin = rotary.cos[positions], rotary.sin[positions]
    q = _rotate(_rms_norm(q, p.q_norm, config.rms_norm_eps), cos, sin)
    k = _rotate(_rms_norm(k, p.k_norm, config.rms_norm_eps), cos, sin)
    q = q.swapaxes(0, 1).reshape(kv_heads, -1, len(x), dim)
    return q, k.swapaxes(0, 1), v.swapaxes(0, 1)


def _finish(config: ModelConfig, p: Layers, x: Any, attended: Any) -> Any:
    """Output projection and SwiGLU, with their residuals; ``attended`` [kv_heads, group, R, D]."""
    rows = jnp.moveaxis(attended, 2, 0).reshape(len(x), -1).astype(x.dtype)
    x = x + _dot("ro,oh->rh", rows, p.output, x.dtype)
    normed = _rms_norm(x, p.post_norm, config.rms_norm_eps)
    gate, up = jnp.split(_dot("rh,hi->ri", normed, p.gate_up, x.dtype), 2, axis=-1)
    return x + _dot("ri,ih->rh", jax.nn.silu(gate) * up, p.down, x.dtype)


def _causal(q: Any, k: Any, v: Any) -> Any:
    """Causal attention [kv_heads, group, R, D], block of rows by block of rows, keys up to its end only.

    Few blocks, for each is compiled by itself. Within a block a few rows after the others, by a loop: of products side
    by side XLA would keep all scores at once.
    """
    kv_heads, group, length, dim = q.shape
    if length > _LONG:
        attended = _long_causal(q, k, v, _CAUSAL_ROWS)
        return attended.values / attended.total[..., None]
    step = length if length <= _CAUSAL_ROWS else min(_CAUSAL_ROWS, 2 * bucket_step(length))
    blocks = []
    for start in range(0, length, step):
        end = min(start + step, length)
        keys, values = k[:, :end], v[:, :end]
        rows = end - start
        while rows % 2 == 0 and rows > _FEWEST_ROWS and kv_heads * group * rows * end > _CACHED_SCORES:
            rows //= 2

        def part(scanned: tuple[Any, Any], keys: Any = keys, values: Any = values) -> Any:
            q, at = scanned
            seen = jnp.tile(at, group)[:, None] >= jnp.arange(keys.shape[1])
            p = _exponentials(_dot("krd,kcd->krc", q, keys) * dim**-0.5, seen)
            return _dot("krc,kcd->krd", p.astype(values.dtype), values) / p.sum(-1, keepdims=True)

        # The query heads of one key head are more rows against the same keys, in one axis from here on.
        parts = jnp.moveaxis(q[:, :, start:end].reshape(kv_heads, group, -1, rows, dim), 2, 0)
        numbers = jnp.arange(start, end).reshape(-1, rows)
        attended = lax.map(part, (parts.reshape(-1, kv_heads, group * rows, dim), numbers))
        attended = attended.reshape(-1, kv_heads, group, rows, dim)
        blocks.append(jnp.moveaxis(attended, 0, 2).reshape(kv_heads, group, end - start, dim))
    return jnp.concatenate(blocks, axis=2)


def bucket_step(length: int) -> int:
    """The granularity of sequence shapes at ``length`` tokens: an eighth of the octave, at least 32."""
    return max(32, (1 << (length - 1).bit_length()) // 8)


def tile_bucket(rows: int) -> int:
    """The padded rows of a tile in dense scoring: tiles of several slot widths then share their programs."""
    return -(-rows // 128) * 128 if rows > 64 else max(32, 1 << (rows - 1).bit_length())


def bucket(length: int) -> int:
    """The padded length of a causal sequence: few distinct shapes, at most a quarter of padding beyond 128."""
    step = bucket_step(length)
    return -(-length // step) * step
