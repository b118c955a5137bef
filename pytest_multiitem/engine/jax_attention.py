"""The JAX engine's attention, in parts whose scores stay in a core's cache.

R: rows; D: head dimension; P: prefix bucket; G, W: slots of a tile and their width. Queries are
[kv_heads, group, R, D], keys and values [kv_heads, R, D].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from pytest_multiitem.engine.jax_products import dot
from pytest_multiitem.engine.jax_shapes import bucket_step

#: The score of a hidden key, and the row maximum before any visible key. Both stand for minus infinity
#: but are finite, and apart, so that exp(hidden - maximum) is exactly 0 and never NaN.
HIDDEN, _NOTHING_SEEN = -1e30, -1e20
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


class Attention(NamedTuple):
    """Running softmax over key blocks: row maximum and sum [kv_heads, group, R], weighted values [..., D]."""

    maximum: Any
    total: Any
    values: Any


def segment_attention(
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
        own = dot("kgswd,ksud->kgswu", q.reshape(*per_slot, dim), own_k) * dim**-0.5
        own = jnp.where(own_seen, own, HIDDEN)
        own_maximum = own.max(-1)
        own = jnp.exp(own - own_maximum[..., None])
        own_total = own.sum(-1)
        own_values = dot("kgswu,ksud->kgswd", own.astype(v.dtype), own_v)
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
            scores = jnp.where(seen, dot("krd,kcd->krc", q, keys), HIDDEN)
            return attend(before, scores, lambda p: dot("krc,kcd->krd", p.astype(values.dtype), values))

        return lax.fori_loop(0, (start + rows - 1) // columns + 1, block, before_any(q))

    attended = lax.map(part, (scaled, jnp.arange(0, length, rows)))

    def joined(x: Any) -> Any:
        """[parts, kv_heads, group · rows, …] as [kv_heads, group, R, …]."""
        in_order = jnp.moveaxis(x.reshape(-1, kv_heads, group, rows, *x.shape[3:]), 0, 2)
        return in_order.reshape(kv_heads, group, length, *x.shape[3:])

    return Attention(*map(joined, attended))


def causal(q: Any, k: Any, v: Any) -> Any:
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
            p = exponentials(dot("krd,kcd->krc", q, keys) * dim**-0.5, seen)
            return dot("krc,kcd->krd", p.astype(values.dtype), values) / p.sum(-1, keepdims=True)

        # The query heads of one key head are more rows against the same keys, in one axis from here on.
        parts = jnp.moveaxis(q[:, :, start:end].reshape(kv_heads, group, -1, rows, dim), 2, 0)
        numbers = jnp.arange(start, end).reshape(-1, rows)
        attended = lax.map(part, (parts.reshape(-1, kv_heads, group * rows, dim), numbers))
        attended = attended.reshape(-1, kv_heads, group, rows, dim)
        blocks.append(jnp.moveaxis(attended, 0, 2).reshape(kv_heads, group, end - start, dim))
    return jnp.concatenate(blocks, axis=2)


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
            scores = jnp.where(some_seen[number], dot("rd,cd->rc", q, some_keys[head, number]), HIDDEN)
            return attend(before, scores, lambda p: dot("rc,cd->rd", p.astype(v.dtype), values), shifted), None

        return lax.scan(block, before_any(q, shifted), jnp.arange(len(some_seen)))[0]

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


def before_any(q: Any, shifted: bool = True) -> Attention:
    """The running softmax of queries [..., R, D] before any key; see :func:`attend`."""
    rows = q.shape[:-1]
    maximum = jnp.full(rows, _NOTHING_SEEN if shifted else 0.0, jnp.float32)
    return Attention(maximum, jnp.zeros(rows, jnp.float32), jnp.zeros(q.shape, jnp.float32))


def attend(before: Attention, scores: Any, weighted: Callable[[Any], Any], shifted: bool = True) -> Attention:
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


def exponentials(scores: Any, seen: Any) -> Any:
    """exp of the scores [..., R, C] less their row's maximum; exactly 0 where not ``seen``."""
    scores = jnp.where(seen, scores, HIDDEN)
    return jnp.exp(scores - scores.max(-1, keepdims=True))


def scores_of(q: Any, k: Any) -> Any:
    """Scaled scores [kv_heads, group, R, C] in float32: one product a key-value head, no transposed copy."""
    kv_heads, group, rows, dim = q.shape
    scores = dot("krd,kcd->krc", q.reshape(kv_heads, group * rows, dim), k) * dim**-0.5
    return scores.reshape(kv_heads, group, rows, -1)


def weighted(p: Any, v: Any) -> Any:
    """The values [kv_heads, C, D] under weights [kv_heads, group, R, C]: float32 [kv_heads, group, R, D]."""
    kv_heads, group, rows, columns = p.shape
    flat = p.astype(v.dtype).reshape(kv_heads, group * rows, columns)
    return dot("krc,kcd->krd", flat, v).reshape(kv_heads, group, rows, -1)
