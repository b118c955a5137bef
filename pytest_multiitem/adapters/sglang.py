"""The adapter of sglang (PyTorch), in both generations of its multi-item flags.

Up to 0.5.10.post1 the delimiter is a flag and nothing checks the attention backend: with anything but
FlashInfer the server answers 200 with plain causal scores, in which items leak into each other. From 0.5.11
on `--enable-mis` insists on FlashInfer, and the server refuses to start without it. On a CPU the package
sglang-mis-cpu (engines/sglang_mis_cpu) stands in for FlashInfer, and the server calls it by that name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from pytest_multiitem.adapters.attestation import UNATTESTED, Attestation
from pytest_multiitem.adapters.base import Profile, role_of
from pytest_multiitem.adapters.launched import InstalledEngine
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.modes import MODES, ModeName
from pytest_multiitem.transport.client import ScoreClient

_FLASHINFER = "flashinfer"
#: The version that brought labels per item, temperature, sets and decisions.
_MODES_SINCE = Version("0.5.21")


class SglangClient(ScoreClient):
    """A client of sglang, which tells in ``/model_info`` alone whether a model has a classification head."""

    _model: Mapping[str, Any] | None = None

    def server_info(self) -> dict[str, Any] | None:
        """As of any server, with ``is_generation`` of its model, which is asked for once."""
        info = super().server_info()
        if info is None:
            return None
        if self._model is None:
            self._model = self.model_info() or {}
        return {**info, **{name: self._model[name] for name in ("is_generation",) if name in self._model}}


class SglangEngine(InstalledEngine):
    """`adapters.base.Engine` of sglang."""

    name = "sglang"
    backends = ("pytorch",)
    masks = (_FLASHINFER,)
    #: From 0.5.21 on; earlier versions have those of ids and of text.
    modes = tuple(mode.name for mode in MODES if mode.name is not ModeName.GENERATIVE_SCORING)
    serves_heads = True
    client = SglangClient
    module = "sglang.launch_server"
    package = "sglang"
    sources = "srt/server_args.py srt/arg_groups/**/*.py"
    distribution = "sglang"
    surroundings = ("torch", "transformers", "flashinfer-python", "sgl-kernel", "sglang-mis-cpu", "triton", "numpy")
    refusals = (
        re.compile(r"(?:Error|Exception): (Multi-item scoring requires .*)"),
        re.compile(r"(?:Error|Exception): (.*(?:multi-item|enable-mis|flashinfer).*)", re.IGNORECASE),
    )

    def spoken(self, info: Mapping[str, Any]) -> tuple[ModeName, ...]:
        """Of a server that tells its version: those that came with 0.5.21, sets where neither a prefix cache nor
        chunked prefill is on, decisions where nothing packs. Rankings need a template that nobody tells of."""
        try:
            is_new = Version(str(info.get("version"))) >= _MODES_SINCE
        except InvalidVersion:
            return ()
        # `is_embedding` is the flag alone: a classification checkpoint is served without it.
        classifies, sets = info.get("is_generation") is False or bool(info.get("is_embedding")), False
        if is_new:
            sets = bool(info.get("disable_radix_cache")) and info.get("chunked_prefill_size") == -1
        if classifies:
            further = (ModeName.SETWISE_CLASSIFICATION,) if sets else ()
            return (ModeName.TEXT, ModeName.CLASSIFICATION, *further)
        known = [ModeName.IDS, ModeName.TEXT]
        if is_new:
            known += [ModeName.LABELS_PER_ITEM, ModeName.TEMPERATURE]
            known += [ModeName.SETWISE] if sets else []
            known += [] if role_of(info) == "multi" else [ModeName.DECISIONS]
        return tuple(known)

    def hazard(self, profile: Profile, case: Case) -> str | None:
        """Requests that end the server's scheduler, and with it the server."""
        if not case.query and profile.role == "multi":
            return "an empty query ends an sglang server that packs: its first delimiter gets the position -1"
        if not case.query and not all(case.items):
            return "an empty query with an empty item ends an sglang server"
        return None

    def attest(self, profile: Profile, info: Mapping[str, Any], log: Path | None) -> Attestation:
        """Whether multi-item scoring is on, and on the one attention backend that isolates items."""
        if not info:
            return Attestation()
        packs = role_of(info) in ("multi", "extend")
        if profile.role != "multi":
            problem = "serial scoring was requested, but the server runs with multi-item scoring on"
            is_wrong = packs and profile.role == "serial"
            return Attestation("multi-item" if packs else "serial", problem=problem if is_wrong else None)
        if not packs:
            return Attestation("serial", problem="multi-item scoring was requested, but the server runs without it")
        backend = info.get("prefill_attention_backend") or info.get("attention_backend")
        if backend is None:
            return Attestation(UNATTESTED)
        if backend == _FLASHINFER:
            return Attestation(_FLASHINFER)
        problem = (
            f"multi-item scoring runs on the attention backend {backend}, which has no item mask: scores "
            "are those of plain causal attention; only flashinfer isolates items"
        )
        return Attestation(f"causal ({backend})", problem=problem)


ENGINE = SglangEngine()
