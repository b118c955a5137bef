"""Kernels that are there already, as ``multiitem kernel-check pytest_multiitem.kernels.ready:NAME`` takes them.

torch, JAX and FlashInfer are imported where a case is asked for. The embedded engines' own kernels are in
`engine.kernel_cases`.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.kernels.abilities import Abilities
from pytest_multiitem.kernels.layout import Layout, Pages
from pytest_multiitem.kernels.planted import Tiled
from pytest_multiitem.kernels.subject import Attention

Case = tuple[Attention, Abilities]

#: A dense mask of more rows takes seconds and hundreds of megabytes.
_DENSE_ROWS = 4200
_DENSE: dict[str, Any] = {
    "arrays": "torch",
    "dtypes": ("float32", "bfloat16"),
    "head_dims": (64, 16, 128),
    "groups": (1, 2, 4),
    "max_rows": _DENSE_ROWS,
    "max_sequences": None,
    "keeps_nonfinite": False,
}


#: Keys of a block of JAX's ragged paged attention. Left to itself it asks which TPU it runs on.
_RAGGED_KEYS = 64


def _imported(what: str, *modules: str, remedy: str = "") -> list[Any]:
    try:
        return [importlib.import_module(name) for name in modules]
    except ImportError as error:
        raise EngineUnavailable(f"{what} cannot be imported: {error}{remedy}") from None


def _torch() -> Any:
    return _imported("torch", "torch", remedy="; pip install 'pytest-multiitem[torch]'")[0]


def _mask(torch: Any, layout: Layout, device: Any) -> Any:
    return torch.from_numpy(layout.mask()).to(device)


def numpy_tiled() -> Case:
    """FlashAttention-2's loop in NumPy."""
    can = Abilities(dtypes=("float32", "float16"), head_dims=(64, 80), groups=(1, 3), max_rows=2400, max_sequences=None)
    return Tiled(), can


def torch_dense() -> Case:
    """Scores of all pairs in float32, a mask, a softmax, and a product."""
    torch = _torch()

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        group = q.shape[1] // k.shape[1]
        key, value = (each.float().repeat_interleave(group, dim=1).transpose(0, 1) for each in (k, v))
        scores = q.float().transpose(0, 1) @ key.transpose(1, 2) * q.shape[2] ** -0.5
        weights = scores.masked_fill(~_mask(torch, layout, q.device), -torch.inf).softmax(dim=-1)
        return (weights @ value).transpose(0, 1).to(q.dtype)

    return attention, Abilities(**_DENSE)


def torch_sdpa() -> Case:
    """torch's scaled_dot_product_attention with a boolean mask."""
    torch = _torch()

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        group = q.shape[1] // k.shape[1]
        key, value = (each.repeat_interleave(group, dim=1).transpose(0, 1)[None] for each in (k, v))
        mask = _mask(torch, layout, q.device)[None, None]
        out = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1)[None], key, value, attn_mask=mask)
        return out[0].transpose(0, 1)

    return attention, Abilities(**_DENSE)


def flex_attention() -> Case:
    """torch's FlexAttention with the mask as a function of indices, not compiled: that needs a C++ compiler."""
    torch = _torch()
    flex = importlib.import_module("torch.nn.attention.flex_attention")

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        first, prefix_end, own_start = (torch.from_numpy(each).to(q.device) for each in layout.bounds)

        def seen(batch: Any, head: Any, row: Any, key: Any) -> Any:
            return ((first[row] <= key) & (key < prefix_end[row])) | ((own_start[row] <= key) & (key <= row))

        rows = layout.rows
        mask = flex.create_block_mask(seen, None, None, rows, rows, device=q.device)
        query, keys, values = (each.transpose(0, 1)[None] for each in (q, k, v))
        out = flex.flex_attention(query, keys, values, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return out[0].transpose(0, 1)

    return attention, Abilities(**{**_DENSE, "head_dims": (64, 16), "groups": (1, 2), "max_rows": 1100})


def splash_attention() -> Case:
    """JAX's splash attention for TPUs with a dense mask, in Pallas' interpreter."""
    jnp, jax, splash = _imported(
        "JAX's splash attention", "jax.numpy", "jax", "jax.experimental.pallas.ops.tpu.splash_attention"
    )
    tile = 128
    # A kernel is an argument here, so that one program serves all masks of a shape.
    run = jax.jit(lambda kernel, query, key, value: kernel(query, key, value))
    made: dict[Any, Any] = {}

    def kernel_of(layout: Layout, padded: int, heads: int) -> Any:
        name = (layout.semantics, layout.lengths, heads)
        if name not in made:
            mask = np.eye(padded, dtype=np.bool_)  # a row of padding sees itself, so that none sees nothing
            mask[: layout.rows, : layout.rows] = layout.mask()
            masks = splash.splash_attention_mask
            made[name] = splash.make_splash_mha(
                masks.MultiHeadMask([masks.NumpyMask(mask)] * heads), head_shards=1, q_seq_shards=1, interpret=True
            )
        return made[name]

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        padded = layout.rows + -layout.rows % tile
        group = q.shape[1] // k.shape[1]
        end = [(0, padded - layout.rows), (0, 0), (0, 0)]
        query, *others = (np.asarray(each) for each in (q, k, v))
        whole = [query * query.dtype.type(q.shape[2] ** -0.5), *(each.repeat(group, axis=1) for each in others)]
        given = [
            jnp.asarray(np.pad(each, end, constant_values=each.dtype.type(layout.unused)).transpose(1, 0, 2))
            for each in whole
        ]
        out = run(kernel_of(layout, padded, q.shape[1]), *given)
        return np.asarray(out)[:, : layout.rows].transpose(1, 0, 2)

    can = Abilities(arrays="jax", head_dims=(128,), groups=(2,), max_rows=140, max_items=8, keeps_nonfinite=False)
    return attention, can


class _Sequences(NamedTuple):
    """Items as sequences of their own in a paged cache, in the order of the rows.

    Each has the whole pages of its prefix and then its own, which begin with what is left of the prefix: S sequences.
    ``rows``: the rows that ``pages`` holds, of one sequence after the other. ``tables``: the pages of each. ``keys``,
    ``queries``: how many keys and rows each has, int32 [S].
    """

    pages: Pages
    rows: NDArray[np.int64]
    tables: list[NDArray[np.int32]]
    keys: NDArray[np.int32]
    queries: NDArray[np.int32]


def _sequences(layout: Layout) -> _Sequences:
    size = layout.pages().size
    held: list[NDArray[np.int64]] = []
    prefixes: list[tuple[int, int]] = []
    queries: list[int] = []
    for start, each in zip(layout.starts[:-1], layout.sequences, strict=True):
        rows = np.arange(start, start + each.length)
        shared = each.visible_prefix_length // size
        prefixes += [(len(held), 0), *[(len(held), shared)] * each.num_items]
        blocks = [rows[each.block(item)] for item in range(each.num_items)]
        left = rows[shared * size : each.visible_prefix_length]
        held += [rows[: each.prefix_length], *(np.concatenate([left, block]) for block in blocks)]
        queries += [each.prefix_length, *map(len, blocks)]
    pages = layout.pages(map(len, held))
    own = np.split(pages.indices, pages.indptr[1:-1])
    tables = [np.concatenate([own[first][:shared], mine]) for (first, shared), mine in zip(prefixes, own, strict=True)]
    keys = [shared * size + len(mine) for (_, shared), mine in zip(prefixes, held, strict=True)]
    return _Sequences(pages, np.concatenate(held), tables, np.array(keys, np.int32), np.array(queries, np.int32))


def ragged_paged_attention() -> Case:
    """JAX's ragged paged attention for TPUs, in Pallas' interpreter.

    It is causal over a sequence and takes no mask, so an item is a sequence of its own behind the prefix's pages.
    """
    pallas = "jax.experimental.pallas"
    jnp, tpu, ragged = _imported(
        "JAX's ragged paged attention", "jax.numpy", f"{pallas}.tpu", f"{pallas}.ops.tpu.ragged_paged_attention"
    )
    if missing := [name for name in ("force_tpu_interpret_mode", "store") if not hasattr(tpu, name)]:
        raise EngineUnavailable(f"this JAX cannot interpret its ragged paged attention: no pallas.tpu.{missing[0]}")

    def store(ref: Any, value: Any, *, mask: Any) -> None:
        ref[...] = jnp.where(mask, value, ref[...])

    def padded(x: Any, *sizes: int, fill: float = 0) -> Any:
        """``x`` up to powers of two, and to ``sizes`` at least: each shape is compiled once, for seconds."""
        to = [max(least, 1 << (size - 1).bit_length()) for size, least in zip(x.shape, sizes, strict=False)]
        widths = [(0, size - now) for size, now in zip(to, x.shape, strict=False)]
        widths += [(0, 0)] * (x.ndim - len(widths))
        return np.pad(x, widths, constant_values=x.dtype.type(fill))

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        query, key, value = (np.asarray(each) for each in (q, k, v))
        heads, group = k.shape[1], q.shape[1] // k.shape[1]
        # It takes no 9 key-value heads; and several blocks of heads are as several of rows.
        parts = [(first, min(first + 2, heads)) for first in range(0, heads, 2)]
        found = [attend(query[:, a * group : b * group], key[:, a:b], value[:, a:b], layout) for a, b in parts]
        return np.concatenate(found, axis=1)

    def attend(query: Any, key: Any, value: Any, layout: Layout) -> Any:
        query = padded(query, 256, fill=layout.unused)
        pages, rows, tables, keys, queries = _sequences(layout)
        cache = np.full((pages.total + 1, pages.size, 2 * key.shape[1], key.shape[2]), layout.unused, dtype=key.dtype)
        slots = cache.reshape(-1, *cache.shape[2:])
        slots[pages.slots, 0::2], slots[pages.slots, 1::2] = key[rows], value[rows]
        table = np.full((len(tables), max(map(len, tables))), pages.total, dtype=np.int32)
        for mine, wanted in zip(table, tables, strict=True):
            mine[: len(wanted)] = wanted
        table = padded(table, 64, 64, fill=pages.total)
        ends = np.cumsum(queries, dtype=np.int32)
        ends = np.pad(ends, (1, len(table) - len(ends)))
        # JAX 0.10's interpreter fails at a masked store into a part of an array, which that of 0.8 and 0.9 makes as
        # this does. The other one that Pallas has for TPUs fails at a copy's array that is reshaped.
        with mock.patch.object(tpu, "store", store), tpu.force_tpu_interpret_mode(True):
            out = ragged.ragged_paged_attention(
                query,
                jnp.asarray(padded(cache, 64, fill=layout.unused)),
                jnp.asarray(np.pad(keys, (0, len(table) - len(keys)))),
                jnp.asarray(table),
                jnp.asarray(ends),
                jnp.asarray([len(keys)], jnp.int32),
                sm_scale=query.shape[2] ** -0.5,
                num_kv_pages_per_block=_RAGGED_KEYS // pages.size,
                # All rows: from one block of rows to the next it keeps its place in scalar memory, and the interpreter
                # hands it the first place again.
                num_queries_per_block=len(query),
            )
        return np.asarray(out)[: layout.rows]

    can = Abilities(
        arrays="jax",
        dtypes=("float32", "bfloat16"),
        head_dims=(128,),
        groups=(1, 2),
        page_sizes=(16,),
        max_rows=530,
        max_sequences=None,
        keeps_nonfinite=False,  # a later NaN of its own sequence reaches a row
    )
    return attention, can


def _flashinfer() -> tuple[Any, Any]:
    torch = _torch()
    (flashinfer,) = _imported("FlashInfer", "flashinfer", remedy="; pip install flashinfer-python")
    if not torch.cuda.is_available():
        raise EngineUnavailable("FlashInfer's wrappers need a CUDA device, and torch sees none")
    return torch, flashinfer


#: FlashInfer's own working memory, in bytes.
_WORKSPACE = 128 * 2**20
_FLASHINFER: dict[str, Any] = {
    "arrays": "torch",
    "device": "cuda",
    "dtypes": ("bfloat16", "float16"),
    "head_dims": (64, 128),
    "groups": (1, 2, 4),
    "max_sequences": None,
    "max_item_length": 65_535,
    "keeps_nonfinite": False,
}


def _mis(torch: Any, layout: Layout) -> dict[str, Any]:
    """The four arguments for multi-item scoring, on the device."""
    arrays = layout.mis_arrays()._asdict()
    return {name: torch.from_numpy(x).cuda() if isinstance(x, np.ndarray) else x for name, x in arrays.items()}


def flashinfer_paged() -> Case:
    """FlashInfer's prefill wrapper for a paged cache, with its four arguments for multi-item scoring."""
    torch, flashinfer = _flashinfer()
    workspace = torch.empty(_WORKSPACE, dtype=torch.uint8, device="cuda")

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        pages = layout.pages()
        caches = []
        for each in (k, v):
            cache = torch.full(
                (pages.total * pages.size, *each.shape[1:]), layout.unused, dtype=each.dtype, device=each.device
            )
            cache[torch.from_numpy(pages.slots).to(each.device)] = each
            caches.append(cache.view(pages.total, pages.size, *each.shape[1:]))
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        wrapper.plan(
            torch.from_numpy(layout.starts.astype(np.int32)).cuda(),
            *(torch.from_numpy(each).cuda() for each in (pages.indptr, pages.indices, pages.last_page_len)),
            q.shape[1],
            k.shape[1],
            q.shape[2],
            pages.size,
            causal=True,
            q_data_type=q.dtype,
            **_mis(torch, layout),
        )
        return wrapper.run(q, tuple(caches))

    return attention, Abilities(**_FLASHINFER, page_sizes=(1, 16))


def flashinfer_ragged() -> Case:
    """FlashInfer's prefill wrapper for keys and values one behind the other, with the same four arguments."""
    torch, flashinfer = _flashinfer()
    workspace = torch.empty(_WORKSPACE, dtype=torch.uint8, device="cuda")

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        starts = torch.from_numpy(layout.starts.astype(np.int32)).cuda()
        wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
        wrapper.plan(
            starts,
            starts,
            q.shape[1],
            k.shape[1],
            q.shape[2],
            causal=True,
            q_data_type=q.dtype,
            **_mis(torch, layout),
        )
        return wrapper.run(q, k, v)

    return attention, Abilities(**_FLASHINFER)
