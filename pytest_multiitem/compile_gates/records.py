"""What a compile gate found, as it stands in JSON (``multiitem_tpu_check_v1``, ``multiitem_gpu_check_v1``) and in a
gate's details."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from pytest_multiitem.compile_gates.classify import Failure, Stage
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.settings.tiers import Tier

TPU_SCHEMA: Final = "multiitem_tpu_check_v1"
GPU_SCHEMA: Final = "multiitem_gpu_check_v1"


class Memory(msgspec.Struct, kw_only=True):
    """Bytes of device memory (HBM) of a compiled program, as the compiler's memory analysis says.

    ``temp``: intermediate buffers. ``alias``: output that reuses an argument's buffer. ``code``: the program.
    """

    argument: int
    output: int
    temp: int
    alias: int
    code: int


class Resources(msgspec.Struct, kw_only=True):
    """What a launch of a compiled GPU kernel takes, beside what it may.

    ``shared``: bytes of shared memory a block, as Triton asks for them at a launch; ``shared_limit``: of the chip.
    ``tensor``: columns of tensor memory a block; ``tensor_limit``: of the chip, 0 where it has none.
    ``registers`` and ``spill_stores``, ``spill_loads`` in bytes: of a thread, as ptxas says; ``spill_limit``: bytes of
    both together.
    """

    shared: int
    shared_limit: int
    tensor: int = 0
    tensor_limit: int = 0
    registers: int
    spill_stores: int
    spill_loads: int
    spill_limit: int


class Numbers(msgspec.Struct, kw_only=True):
    """How far a kernel that was interpreted is from its reference: the largest ``difference`` of two elements; None
    where one is a NaN and the other is not, or they differ in infinity. ``limit``: what the case allows."""

    difference: float | None
    limit: float


class Check(msgspec.Struct, kw_only=True):
    """One kernel, one chip, one tier.

    ``role``: the kernel under test, or a control whose result is known. ``name``: the case, as its arguments, or the
    control. ``expected``: what a control has to do. ``verdict``: of a control, whether it did it. ``error``: the
    compiler's whole message where the verdict is not PASS.

    What was observed, one of: ``kernels``, calls of a kernel in the lowered program, or while it was interpreted, with
    ``memory`` (TPU), ``resources`` (GPU) or ``numbers`` (interpreted) where there are any; ``failure``, an exception,
    without its trace; ``returncode``, of a process that ended in it; ``silent``, seconds after which it was given up;
    ``not_reached``, why it was not begun. ``must_fail``: of a control, in which stages it has to fail.
    """

    tier: Tier
    chip: str
    role: Literal["kernel", "control"]
    name: str
    verdict: Verdict
    reason: str
    expected: Literal["pass", "fail"] = "pass"
    seconds: float | None = None
    kernels: int | None = None
    memory: Memory | None = None
    resources: Resources | None = None
    numbers: Numbers | None = None
    error: str | None = None
    failure: Failure | None = None
    returncode: int | None = None
    silent: float | None = None
    not_reached: str | None = None
    must_fail: list[Stage] = []


class TierVerdict(msgspec.Struct, kw_only=True):
    """What one tier says, over all chips and cases; a tier that nobody asked for has none."""

    tier: Tier
    verdict: Verdict
    reason: str


class Report(msgspec.Struct, kw_only=True):
    """The whole of one run of a compile gate. ``cases``: the kernel's, as their arguments; each is checked for every
    chip in every tier that was asked for. What is interpreted is of no chip."""

    kernel: str
    chips: list[str]
    cases: list[str] = []
    verdict: Verdict
    reason: str
    tiers: list[TierVerdict]
    checks: list[Check]
    versions: dict[str, str] = {}
    seconds: float = 0.0


class TpuReport(Report, kw_only=True):
    """Of `multiitem tpu-check`."""

    schema_version: Literal["multiitem_tpu_check_v1"] = TPU_SCHEMA


class GpuReport(Report, kw_only=True):
    """Of `multiitem gpu-check`."""

    schema_version: Literal["multiitem_gpu_check_v1"] = GPU_SCHEMA
