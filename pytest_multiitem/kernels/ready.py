"""Kernels that are there already, as ``multiitem kernel-check pytest_multiitem.kernels.ready:NAME`` takes them.

torch, JAX and FlashInfer are imported where a case is asked for. The embedded engines' own kernels are in
`engine.kernel_cases`.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.kernels.abilities import Abilities
from pytest_multiitem.kernels.layout import Layout
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


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise EngineUnavailable(f"torch cannot be imported: {error}; pip install 'pytest-multiitem[torch]'") from None


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
    try:
        jnp = importlib.import_module("jax.numpy")
        jax = importlib.import_module("jax")
        splash = importlib.import_module("jax.experimental.pallas.ops.tpu.splash_attention")
    except ImportError as error:
        raise EngineUnavailable(f"JAX's splash attention cannot be imported: {error}") from None
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


def ragged_paged_attention() -> Case:
    """JAX's ragged paged attention for TPUs: it has no argument for items."""
    raise EngineUnavailable(
        "jax.experimental.pallas.ops.tpu.ragged_paged_attention is causal over each sequence and takes no mask, so a "
        "sequence of several items cannot be told to it"
    )


def _flashinfer() -> tuple[Any, Any]:
    torch = _torch()
    try:
        flashinfer = importlib.import_module("flashinfer")
    except ImportError as error:
        raise EngineUnavailable(f"FlashInfer cannot be imported: {error}; pip install flashinfer-python") from None
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
