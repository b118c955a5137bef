"""The adapter of TensorRT-LLM: packed scoring in its process (``LLM.encode``), behind a bridge that serves the wire.

Packing is the attention backend FlashInfer's and needs a CUDA GPU; items follow the query's positions and see neither
delimiter nor each other. The bridge (`bridges.trtllm`) is run by the engine's interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from pytest_multiitem import bridges
from pytest_multiitem.adapters.attestation import UNATTESTED, Attestation
from pytest_multiitem.adapters.base import Profile, role_of
from pytest_multiitem.adapters.launched import InstalledEngine
from pytest_multiitem.adapters.profiles import Flags, LaunchProfile
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.settings.settings import Settings

_BRIDGE = Path(bridges.__file__).with_name("trtllm.py")
_FLASHINFER = "flashinfer"
#: The field of a prompt by which a version shows that it packs, as `adapters.installed` writes names.
_PACKS = "multi-item-part-lens"


class TrtllmEngine(InstalledEngine):
    """`adapters.base.Engine` of TensorRT-LLM."""

    name = "trtllm"
    backends = ("pytorch",)
    masks = (_FLASHINFER,)
    modes = (ModeName.IDS,)
    package = "tensorrt_llm"
    sources = "inputs/data.py"
    distribution = "tensorrt_llm"
    surroundings = ("torch", "transformers", "flashinfer-python", "numpy")

    @override
    def program(self, profile: Profile, settings: Settings) -> list[str]:
        """The bridge."""
        return [settings.engine_python or "python", str(_BRIDGE)]

    @override
    def chosen_flags(self, launch: LaunchProfile, settings: Settings) -> Flags:
        """The bridge's own, which no version of the engine changes; but not every version packs."""
        if settings.engine_python is not None:
            installed = self.installed(settings)
            if launch.role == "multi" and installed.lacking([_PACKS]):
                raise EngineUnavailable(
                    f"tensorrt_llm {installed.version} in {installed.python} has no packed scoring: its prompts have "
                    "no multi_item_part_lens; install a version whose LLM.encode has them"
                )
        return launch.alternatives()[0]

    @override
    def unavailable(self, profile: Profile, settings: Settings) -> str | None:
        """It needs a GPU, an environment, and a version that packs."""
        if settings.device != "cuda":
            return (
                f"TensorRT-LLM needs a CUDA GPU, and the device is {settings.device}; on a machine with one: pytest "
                f"--engine trtllm --engine-python {settings.engine_python} --model {settings.model}"
            )
        return super().unavailable(profile, settings)

    @override
    def spoken(self, info: Mapping[str, Any]) -> tuple[ModeName, ...]:
        """The bridge's one."""
        return self.modes

    @override
    def hazard(self, profile: Profile, case: Case) -> str | None:
        """What the bridge refuses as a whole."""
        if not case.query or not all(case.items):
            return "the TensorRT-LLM bridge refuses an empty query and an empty item: they have no token to be read at"
        return None

    @override
    def attest(self, profile: Profile, info: Mapping[str, Any], log: Path | None) -> Attestation:
        """Of a bridge whose counters cannot be read: by its arguments."""
        if not info:
            return Attestation()
        return Attestation(UNATTESTED if role_of(info) == "multi" else "serial")


ENGINE = TrtllmEngine()
