"""Packed multi-item scoring of sglang on a CPU: FlashInfer's item mask in plain torch.

`--enable-mis` asks for the attention backend `flashinfer` by name. On a CPU this plugin puts its own backend under
that name; on any other device sglang's own one stays. Everything else is sglang: the request's way through the
tokenizer manager and the scheduler, batches, positions, KV pool, model, readout.
"""

from __future__ import annotations

from typing import Any

NAME = "flashinfer"


def register() -> None:
    """Called by sglang in each of its processes."""
    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS, register_attention_backend

    original = ATTENTION_BACKENDS[NAME]

    @register_attention_backend(NAME)
    def create(runner: Any) -> Any:
        if str(runner.device) != "cpu":
            return original(runner)
        from sglang_mis_cpu.backend import MisCpuBackend

        return MisCpuBackend(runner)
