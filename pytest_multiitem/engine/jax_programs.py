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
from pytest_multiitem.engine.jax_attention import (
    HIDDEN,
    Attention,
    attend,
    before_any,
    causal,
    exponentials,
    scores_of,
    segment_attention,
    weighted,
)
from pytest_multiitem.engine.jax_products import dot
from pytest_multiitem.engine.jax_shapes import readable
from pytest_multiitem.engine.jax_weights import Layers, Weights
from pytest_multiitem.scoring.layout import visible
from pytest_multiitem.scoring.semantics import Semantics


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
        return _finish(config, p, x, causal(q, k, v)), (k, v)

    last = config.num_hidden_layers - 1
    x, (keys, values) = lax.scan(layer, weights.embedding[tokens], jnp.arange(last))
    q, k, v = _project(config, _layer(weights, last), rotary, x, positions)
    return Prefill(jnp.concatenate([keys, k[None]]), jnp.concatenate([values, v[None]]), x, q)


@program("config")
def prefill_row(config: ModelConfig, weights: Weights, prefix: Prefill, row: Any) -> Any:
    """The final, normed state [1, H] of one row of a prefix."""
    q = lax.dynamic_slice_in_dim(prefix.queries, row, 1, axis=2)
    p = exponentials(scores_of(q, prefix.keys[-1]), jnp.arange(prefix.keys.shape[2]) <= row)
    attended = weighted(p, prefix.values[-1]) / p.sum(-1, keepdims=True)
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
    `engine.jax_attention.LARGEST_UNSHIFTED`. ``kernel``: what computes attention instead of XLA's products, with the
    arguments of `engine.segment_kernel.slot_attention`.
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
            attended = segment_attention(
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
        attended = segment_attention(q[:, :, at], k, v, prefix_keys[-1], prefix_values[-1], seen, own_seen, shifted)
    states = _final(config, weights, _finish(config, last, x[at], attended))
    return jnp.pad(states, ((0, readable(slots) - slots), (0, 0)))


#: For a model and a tile whose items are read at several rows: `segment` in two, the layers up to the last one's
#: attention, and the states of one row of each slot.
segment_layers = program("config", "shifted", "kernel")(_segment_layers)
segment_rows = program("config", "slots", "width", "shifted", "kernel")(_segment_rows)


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
    return before_any(q)


@program(donated=("state",))
def dense_attend(q: Any, k: Any, v: Any, mask: Any, state: Attention) -> Attention:
    """Add one key block to the running softmax of R rows. ``mask`` [R, C]: boolean, or logarithms of weights.

    A block that a row does not see leaves that row's state as it is, bit for bit: the maximum stays,
    so the rescaling is exp(0) = 1, and exact zeros are added. Zero times NaN is NaN, so a value that is not finite is
    taken as 0 and its key as NaN: the rows that see it are NaN and no others.
    """
    finite = jnp.isfinite(v).all(-1, keepdims=True)
    k, v = jnp.where(finite, k, jnp.nan), jnp.where(finite, v, 0)
    scores = scores_of(q, k)
    if mask.dtype == jnp.bool_:
        scores = jnp.where(mask, scores, HIDDEN)
    else:
        scores = jnp.where(jnp.isneginf(mask), HIDDEN, scores + mask)
    return attend(state, scores, lambda p: weighted(p, v))


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
    logits = dot("nh,kh->nk", states, weights.head[labels])
    if not normalise:
        return logits, None
    return logits, jax.nn.logsumexp(dot("nh,vh->nv", states, weights.head), axis=-1)


def _final(config: ModelConfig, weights: Weights, hidden: Any) -> Any:
    """The last normalisation of states [n, H]."""
    return _rms_norm(hidden, weights.final_norm, config.rms_norm_eps)


def _layer(weights: Weights, layer: Any) -> Layers:
    return Layers(*(lax.dynamic_index_in_dim(stack, layer, keepdims=False) for stack in weights.layers))


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
    rows = dot("rh,ho->ro", normed, p.qkv, x.dtype).reshape(len(x), heads + 2 * kv_heads, dim)
    q, k, v = jnp.split(rows, (heads, heads + kv_heads), axis=1)
    cos, sin = rotary.cos[positions], rotary.sin[positions]
    q = _rotate(_rms_norm(q, p.q_norm, config.rms_norm_eps), cos, sin)
    k = _rotate(_rms_norm(k, p.k_norm, config.rms_norm_eps), cos, sin)
    q = q.swapaxes(0, 1).reshape(kv_heads, -1, len(x), dim)
    return q, k.swapaxes(0, 1), v.swapaxes(0, 1)


def _finish(config: ModelConfig, p: Layers, x: Any, attended: Any) -> Any:
    """Output projection and SwiGLU, with their residuals; ``attended`` [kv_heads, group, R, D]."""
    rows = jnp.moveaxis(attended, 2, 0).reshape(len(x), -1).astype(x.dtype)
    x = x + dot("ro,oh->rh", rows, p.output, x.dtype)
    normed = _rms_norm(x, p.post_norm, config.rms_norm_eps)
    gate, up = jnp.split(dot("rh,hi->ri", normed, p.gate_up, x.dtype), 2, axis=-1)
    return x + dot("ri,ih->rh", jax.nn.silu(gate) * up, p.down, x.dtype)
