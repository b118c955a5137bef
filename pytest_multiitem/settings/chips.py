"""The accelerators that kernels are compiled for."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_multiitem.settings.parsers import choice, names


@dataclass(frozen=True)
class Chip:
    """One kind of TPU.

    ``kind``: what JAX calls the device, ``cores``: per device; both as `jax.experimental.topologies` tells them.
    ``topology``: the smallest one that libtpu describes, with ``bounds`` (chips per host) where it needs them.
    """

    name: str
    kind: str
    cores: int
    topology: str
    bounds: tuple[int, int, int] | None = None


_ONE = (1, 1, 1)
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 1, "v4:2x2x1"),
        Chip("v5e", "TPU v5 lite", 1, "v5e:1x1", _ONE),
        Chip("v5p", "TPU v5", 2, "v5p:1x1x1", _ONE),
        Chip("v6e", "TPU v6 lite", 1, "v6e:1x1", _ONE),
        Chip("tpu7x", "TPU7x", 1, "tpu7x:1x1x1", _ONE),
    )
}
DEFAULT_CHIPS = ("v6e", "v5e", "v5p")


@dataclass(frozen=True)
class Gpu:
    """One architecture of NVIDIA GPUs.

    ``capability``: the compute capability, ten times. ``shared``: bytes of shared memory that one block may ask for:
    CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", maximum amount of shared memory per
    thread block. ``tensor``: columns of tensor memory, 0 where there is none: PTX ISA, "Tensor Memory".
    """

    name: str
    capability: int
    shared: int
    tensor: int = 0


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("sm_80", 80, 163 * 1024),  # A100
        Gpu("sm_90", 90, 227 * 1024),  # H100, H200
        Gpu("sm_100", 100, 227 * 1024, tensor=512),  # B200
        Gpu("sm_120", 120, 99 * 1024),  # RTX PRO 6000, RTX 5090
    )
}


def chip_names(text: str) -> tuple[str, ...]:
    """The names of chips, separated by commas. Raises ValueError saying what was expected."""
    return tuple(map(choice(*CHIPS), names(text)))


def gpu_names(text: str) -> tuple[str, ...]:
    """The names of GPU architectures, separated by commas. Raises ValueError saying what was expected."""
    return tuple(map(choice(*GPUS), names(text)))
