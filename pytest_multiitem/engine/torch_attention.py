"""The PyTorch engine's attention functions, over query rows [heads, R, D] and grouped keys [kv_heads, C, D].

Every function returns rows [R, heads · D] in the dtype of the queries. Softmax is taken in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Plain causal attention of one sequence."""
    out = functional.scaled_dot_product_attention(
        query[None], spread(key, query)[None], spread(value, query)[None], is_causal=True
    )
    return _rows(out[0])


def everything(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention to all keys."""
    out = functional.scaled_dot_product_attention(query[None], spread(key, query)[None], spread(value, query)[None])
    return _rows(out[0])


def segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    tiles: Sequence[tuple[int, int]],
) -> Tensor:
    """Rows of slots, each attending to the shared prefix and causally to its slot.

    ``tiles``: (G, W) of the slots one after another; rows after them are padding, and see the prefix alone.
    ``prefix_key``, ``prefix_value``: [kv_heads, P, D], the visible prefix, shared by all rows and never copied.
    """
    own_key, own_value = spread(key, query), spread(value, query)
    out, lse = _nothing(query)
    start = 0
    for slots, width in tiles:
        rows = slice(start, start + slots * width)
        start = rows.stop
        # Each slot is a problem of its own to this kernel, so how many there are changes none of them.
        own = _attend(*(_slots(x[:, rows], slots) for x in (query, own_key, own_value)), causal=True)
        out[:, rows], lse[:, rows] = map(_unslotted, own)
    return _with_prefix(query, prefix_key, prefix_value, out, lse)


def segment_last(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    tiles: Sequence[tuple[int, int]],
    last: Tensor,
) -> Tensor:
    """As :func:`segment`, for one row a slot: ``query`` [heads, n, D] has those of the slots, then padding; ``last``
    [n]: the row's place within its slot, which is the last key that it sees of it."""
    heads, _, dim = query.shape
    kv_heads = key.shape[0]
    out, lse = _nothing(query)
    start = first = 0
    for slots, width in tiles:
        rows, these = slice(start, start + slots * width), slice(first, first + slots)
        start, first = rows.stop, these.stop
        seen = torch.arange(width, device=query.device) <= last[these, None, None, None]
        # The query heads of one key head are more rows against the same keys.
        grouped = query[:, these].transpose(0, 1).reshape(slots, kv_heads, -1, dim)
        own = _attend(grouped, _slots(key[:, rows], slots), _slots(value[:, rows], slots), sight(seen, query.dtype))
        out[:, these] = own[0].reshape(slots, heads, dim).transpose(0, 1)
        lse[:, these] = own[1].reshape(slots, heads).T
    return _with_prefix(query, prefix_key, prefix_value, out, lse)


def _nothing(query: Tensor) -> tuple[Tensor, Tensor]:
    """What rows [heads, R, D] have of no key at all: outputs, and log-sum-exps [heads, R] in float32."""
    return torch.zeros_like(query), query.new_full(query.shape[:2], -torch.inf, dtype=torch.float32)


def _with_prefix(query: Tensor, prefix_key: Tensor, prefix_value: Tensor, own_out: Tensor, own_lse: Tensor) -> Tensor:
    """Rows that attend to the prefix, combined with what they have of their own slots.

    The two partial softmaxes are combined exactly by their log-sum-exp (Dao et al., FlashAttention, 2022, section 3.1),
    so nothing of size S×S is formed.
    """
    heads, rows, dim = query.shape
    # The query heads of one key head are more rows against the same keys.
    grouped = query.reshape(1, prefix_key.shape[0], -1, dim)
    shared_out, shared_lse = _attend(grouped, prefix_key[None], prefix_value[None])
    # exp(b) / (exp(a) + exp(b)) is the logistic function of b - a, which neither overflows nor divides.
    share = torch.sigmoid(own_lse - shared_lse.reshape(heads, rows))
    shared_out = shared_out.reshape(heads, rows, dim)
    return _rows(torch.lerp(shared_out.float(), own_out.float(), share[..., None]).to(query.dtype))


def _slots(x: Tensor, slots: int) -> Tensor:
    """[heads, G · W, D] as [G, heads, W, D]."""
    return x.unflatten(1, (slots, -1)).transpose(0, 1)


def _unslotted(x: Tensor) -> Tensor:
    """[G, heads, W, …] as [heads, G · W, …]."""
    return x.transpose(0, 1).flatten(1, 2)


class Sight(NamedTuple):
    """What rows R see of keys C, as the kernels take it.

    ``bias``, in the model's dtype: 0 or the logarithm of a weight, -inf where hidden; [R, C], or four axes that spread
    over [B, H, R, C]. ``blank`` [R], or as ``bias`` without its last axis: rows that see no key.
    """

    bias: Tensor
    blank: Tensor


def sight(visible: Tensor, dtype: torch.dtype) -> Sight:
    """From a mask as in `Sight`: boolean, true where visible, or logarithms of weights."""
    is_boolean = visible.dtype == torch.bool
    hidden = ~visible if is_boolean else torch.isneginf(visible)
    weights = torch.zeros_like(visible, dtype=dtype) if is_boolean else visible.to(dtype)
    bias = weights.masked_fill_(hidden, -torch.inf) if is_boolean else weights
    return Sight(bias if bias.dim() == 4 else bias[None, None], hidden.all(dim=-1))


def dense(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], seen: Sequence[Sight]) -> Tensor:
    """One block of rows against every block of keys, under the rows' part of the S×S mask.

    ``keys``, ``values``: blocks [heads, C_b, D], a head for each of the query's (`spread`); ``seen``: of each block,
    [R, C_b]. Every block is computed whole and then weighted by its share of the softmax: a block hidden from a row has
    log-sum-exp -inf and weight exp(-inf) = 0 there. It adds exact zeros and cannot change a bit of the result. Zero
    times NaN is NaN: keys and values that are not finite are taken as 0, and the rows that see them are NaN.
    """
    outs, lses = [], []
    for key, value, part in zip(keys, values, seen, strict=True):
        finite = key.isfinite().all(-1) & value.isfinite().all(-1)
        if finite.all():
            out, lse = _attend(query[None], key[None], value[None], part)
        else:
            some_key, some_value = (x.masked_fill(~finite[..., None], 0)[None] for x in (key, value))
            out, lse = _attend(query[None], some_key, some_value, part)
            lse = lse.masked_fill((~finite[:, None] & ~part.bias.isneginf()).any(-1), torch.nan)
        outs.append(out[0])
        lses.append(lse[0])
    top = torch.stack(lses).amax(0)
    total = torch.zeros_like(top)
    result = torch.zeros_like(query, dtype=torch.float32)
    for out, lse in zip(outs, lses, strict=True):
        weight = torch.exp(lse - top)
        total += weight
        result += out.float() * weight[..., None]
    return _rows((result / total[..., None]).to(query.dtype))


def _attend(
    query: Tensor, key: Tensor, value: Tensor, seen: Sight | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention [B, H, R, D] that also returns each row's log-sum-exp [B, H, R] in float32.

    ``seen``: None where every key is visible, or, with ``causal``, keys up to the row's own (R = C). A row that sees no
    key gives 0 with log-sum-exp -inf.
    """
    bias = None if seen is None else seen.bias
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=bias
        )
    else:
        out, lse = _products(query, key, value, bias, causal=causal)
    if seen is not None:
        lse = lse.masked_fill(seen.blank, -torch.inf)
    return out, lse


def _products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, causal: bool) -> tuple[Tensor, Tensor]:
    """:func:`_attend` by plain matrix products, in float32, on any device."""
    logits = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias
    if causal:
        logits = logits.masked_fill(torch.ones_like(logits[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    lse = torch.logsumexp(logits, dim=-1)
    return torch.exp(logits - lse.masked_fill(lse.isneginf(), 0)[..., None]) @ value.float(), lse


def spread(grouped: Tensor, query: Tensor) -> Tensor:
    """Repeat key or value heads so that every query head has its own."""
    return grouped.repeat_interleave(query.shape[0] // grouped.shape[0], dim=0)


def _rows(out: Tensor) -> Tensor:
    heads, rows, dim = out.shape
    return out.transpose(0, 1).reshape(rows, heads * dim)
