"""The adapter of sgl-jax (JAX, TPU): packed mode where the version has it, prefill+extend, serial.

Packed mode masks items in the `fa` attention backend only. On a CPU the engine replaces `fa` by its native
backend with no more than a warning in the log, goes on telling `fa`, and is causal attention with restarting
positions. With another attention installed `fa` may run on a CPU as well: the device alone says nothing. Versions
with and without packed mode have the same number: only the flags tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.attestation import UNATTESTED, Attestation
from pytest_multiitem.adapters.base import ROLE_WORDS, Profile, role_of
from pytest_multiitem.adapters.launched import InstalledEngine
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.modes import ModeName

_FALLBACK = re.compile(r"^.*attention.*falling back to native.*$", re.IGNORECASE | re.MULTILINE)
_LOG_START = 2**20  # bytes; the fallback is announced at the start
_WITHOUT_WARNINGS = ("error", "critical")  # log levels at which the fallback is not announced


class SglJaxEngine(InstalledEngine):
    """`adapters.base.Engine` of sgl-jax."""

    name = "sgl-jax"
    backends = ("jax",)
    modes = (ModeName.IDS, ModeName.TEXT)
    module = "sgl_jax.launch_server"
    package = "sgl_jax"
    sources = "srt/server_args.py"
    distribution = "sglang-jax"
    surroundings = ("jax", "jaxlib", "libtpu", "flax", "transformers", "numpy")
    refusals = (re.compile(r"AssertionError: (.*)"),)

    def known_issue(self, model: str) -> str | None:
        """Two models fail on their first request: the fused KV layout does not fit their heads."""
        if re.search(r"Qwen2\.5-(1\.5B|3B)-Instruct", model):
            return "sgl-jax fails on the first request: reshape((2, -1, 8, 128)) does not fit the fused KV layout"
        return None

    def hazard(self, profile: Profile, case: Case) -> str | None:
        """An empty item ends a server in prefill+extend mode."""
        if profile.role == "extend" and not all(case.items):
            return "an empty item ends an sgl-jax server in prefill+extend mode"
        return None

    def attest(self, profile: Profile, info: Mapping[str, Any], log: Path | None) -> Attestation:
        """The mode from the server's arguments; packed mode counts only on an attention backend that masks.

        On a CPU the log says whether `fa` was replaced. Without a log that would say so the mask is unattested, and the
        measured scores decide.
        """
        if not info:
            return Attestation()
        mode, wanted = ROLE_WORDS[role_of(info) or "serial"], ROLE_WORDS[profile.role]
        if mode != wanted:
            return Attestation(mode, problem=f"{wanted} was requested, but the server runs {mode}")
        if profile.role != "multi":
            return Attestation(mode)
        mask, backend = str(info.get("multi_item_mask_impl")), str(info.get("attention_backend"))
        fallback = _fallback(log)
        if backend != "fa" or fallback:
            why = fallback or f"attention backend {backend} on {info.get('device')}"
            problem = f"{mask} was requested, but the native attention backend has no item mask ({why})"
            return Attestation("causal (native)", problem=problem)
        if profile.mask_impl not in (mask, None):
            return Attestation(mask, problem=f"{profile.mask_impl} was requested, but the server is set to {mask}")
        silent = log is None or str(info.get("log_level")).lower() in _WITHOUT_WARNINGS
        return Attestation(UNATTESTED if info.get("device") == "cpu" and silent else mask)


def _fallback(log: Path | None) -> str | None:
    """The line of the log that tells of the fallback to the native backend."""
    if log is None:
        return None
    with log.open("rb") as file:
        line = _FALLBACK.search(file.read(_LOG_START).decode("utf-8", errors="replace"))
    return line and line[0].strip()


ENGINE = SglJaxEngine()
