"""The attention backend: torch's own, and for packed requests the item mask."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from sglang.srt.layers.attention.flashinfer_backend import FlashInferAttnBackend, MultiItemScoringParams
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.runtime_context import get_exec

from sglang_mis_cpu.mask import Fault, Items, attend

logger = logging.getLogger(__name__)

FAULT = "MIS_CPU_FAULT"


class MisCpuBackend(TorchNativeAttnBackend):
    """`TorchNativeAttnBackend` that isolates the items of packed requests.

    ``MIS_CPU_FAULT`` in the environment names a fault to plant: see `mask.Fault`. Raises ValueError for any other.
    """

    def __init__(self, runner: Any) -> None:
        super().__init__(runner)
        self.enable_mis = get_exec().features.enable_mis
        self._fault = Fault.read(os.environ.get(FAULT, ""))
        self._params = MultiItemScoringParams()
        logger.info("sglang-mis-cpu: the item mask of FlashInfer in plain torch; planted fault: %s", self._fault)

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """As FlashInfer's backend does it, with its own code: item tables, and positions that restart."""
        super().init_forward_metadata(forward_batch)
        self._params = FlashInferAttnBackend._process_multi_item_scoring(self, forward_batch)

    def _run_sdpa_forward_extend(
        self,
        query: torch.Tensor,
        output: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        extend_prefix_lens: torch.Tensor,
        extend_seq_lens: torch.Tensor,
        *more: Any,
        scaling: float | None = None,
        **options: Any,
    ) -> torch.Tensor:
        if not self._params.is_enabled():  # not one packed request in this batch
            return super()._run_sdpa_forward_extend(
                query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, extend_prefix_lens,
                extend_seq_lens, *more, scaling=scaling, **options,
            )  # fmt: skip
        lengths = zip(seq_lens.tolist(), extend_prefix_lens.tolist(), extend_seq_lens.tolist(), strict=True)
        start = 0
        for index, (total, cached, new) in enumerate(lengths):
            tokens = req_to_token[req_pool_indices[index], :total]
            rows = slice(start, start + new)
            output[rows] = attend(
                query[rows],
                k_cache[tokens].to(query.dtype),
                v_cache[tokens].to(query.dtype),
                self._items(index, total),
                first_row=cached,
                scale=scaling,
                leaks=self._fault.leaks(index),
            )
            start += new
        return output

    def _items(self, index: int, total: int) -> Items:
        """The tables of one request of the batch, out of those that sglang builds for FlashInfer."""
        params = self._params
        width = params.token_pos_in_items_len
        offsets = params.token_pos_in_items_ptr.to(torch.int64)[index * width : (index + 1) * width]
        prefix = int(params.prefix_len_ptr.to(torch.int64)[index])
        return Items(prefix, offsets[: total - prefix], int(params.max_item_len_ptr.to(torch.int64)[index]))
