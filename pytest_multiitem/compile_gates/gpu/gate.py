"""The GPU compile gate: compiling by Triton and ptxas, and numbers by Triton's interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_multiitem.compile_gates.checking import Controls, Kernel, Toolchain, check
from pytest_multiitem.compile_gates.records import GpuReport
from pytest_multiitem.compile_gates.shapes import Case
from pytest_multiitem.settings.chips import GPUS
from pytest_multiitem.settings.tiers import DEFAULT_TIMEOUT, EVERY_TIER, GPU_TIERS

_CONTROLS: Controls = {
    "compile": (
        ("good", frozenset()),
        ("not_typed", frozenset({"trace"})),
        ("not_assembled", frozenset({"compile"})),
        ("too_much_shared", frozenset({"shared"})),
        ("too_much_tensor", frozenset({"tensor"})),
        ("spilling", frozenset({"spills"})),
    ),
    "interpret": (
        ("good", frozenset()),
        ("good_bfloat16", frozenset()),
        ("wrong_numbers", frozenset({"numbers"})),
        ("nothing_launched", frozenset({"no kernel"})),
    ),
}
_ALWAYS: Final[dict[str, str | None]] = {
    "TRITON_ALWAYS_COMPILE": "1",  # what comes from a cache was compiled by whoever filled it
    "CUDA_VISIBLE_DEVICES": "",  # the same on a machine with a GPU as on one without
    "TRITON_KERNEL_OVERRIDE": None,
    "DISABLE_PTXAS_OPT": None,
    "PTXAS_OPTIONS": None,
}


@dataclass(frozen=True)
class Wanted:
    """What is to be checked: see `checking.Kernel`. A case is a `gpu.case.TritonCase`.

    ``triton``: directory in which Triton is installed apart from this environment; None: it is in it, or nowhere.
    ``spills``: bytes that a thread may spill and load back, both together.
    """

    kernel: str
    cases: tuple[Case, ...] = ({},)
    chips: tuple[str, ...] = tuple(GPUS)
    tier: str = EVERY_TIER
    timeout: float = DEFAULT_TIMEOUT
    triton: Path | None = None
    spills: int = 0
    path: tuple[str, ...] = ()


def check_kernel(wanted: Wanted) -> GpuReport:
    """Compile every case for every chip and compare its numbers, with control kernels beside them.

    Raises UsageError for a kernel that does not exist or cannot be called so.
    """
    triton = Toolchain(
        name="Triton",
        module="pytest_multiitem.compile_gates.gpu.compiler",
        tiers=GPU_TIERS,
        controls=_CONTROLS,
        only={"too_much_tensor": tuple(gpu.name for gpu in GPUS.values() if gpu.tensor)},
        chips=GPUS,
        environment={
            "compile": {**_ALWAYS, "TRITON_INTERPRET": None},
            "interpret": {**_ALWAYS, "TRITON_INTERPRET": "1"},
        },
        scratch=("TRITON_CACHE_DIR",),
        apart=wanted.triton,
    )
    further = {"spills": wanted.spills}
    kernel = Kernel(wanted.kernel, wanted.cases, wanted.chips, wanted.tier, wanted.timeout, wanted.path, further)
    return check(triton, kernel, GpuReport)
