"""Whether a failure is the kernel's or the environment's.

By where it happened and what was raised; of its text only what an environment says about itself, because the
compiler's own messages differ from version to version.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from pytest_multiitem.children.device import NO_DEVICE

Stage = Literal[
    "jax", "triton", "module", "libtpu", "topology", "case", "trace", "lower", "asked early", "no kernel", "compile",
    "shared", "tensor", "spills", "no numbers", "run", "numbers",
]  # fmt: skip
Cause = Literal["kernel", "environment"]

#: Before any kernel: the toolchain is imported, libtpu is looked for, a chip is described. Or a kernel's module has
#: asked which chip there is before any was known, or its case has nothing to compare.
_WITHOUT_KERNEL = ("jax", "triton", "libtpu", "topology", "asked early", "no numbers")
#: Of these the message is the whole reason.
SAYS_ALL: Final = ("libtpu", "triton", "asked early", "no numbers")
#: Packages whose attributes are missing where they have another version than a kernel was written for.
_TOOLCHAINS = ("jax", "jaxlib", "triton")
#: What an environment says about itself, in lower case.
_ENVIRONMENT = (
    # Kernels that have asked for the chip in a way that nobody answers.
    "device kind: cpu",
    "device_kind: 'cpu'",
    "expected tpu devices",
    "tpu version must be",
    "only tpu devices are supported",
    *NO_DEVICE,
    # What the machine lacks.
    "lockfile",
    "libtpu.so",
    "libtpu is not",
    "tpu is already in use",
    "tpu support not installed",
    "unable to initialize backend",
    "cannot find ptxas",
    "ptxas` failed with error code -9",  # a machine out of memory does that
)
#: Where to look for it: a compiler's message may go on with the whole program.
_HEAD = 1000
_SHORT = 300


class Failure(msgspec.Struct, kw_only=True):
    """An exception of the child process.

    ``bases``: names of the classes that it is an instance of. ``raised_in``: module of the innermost frame.
    ``owner``: of an AttributeError, the module that lacks the attribute, or ``TYPE`` in ``module.TYPE`` of the object.
    ``place``: ``FILE:LINE: SOURCE`` of the innermost frame outside the toolchain, where there is one.
    """

    stage: Stage
    kind: str
    bases: list[str]
    message: str
    raised_in: str = ""
    owner: str = ""
    place: str = ""
    trace: str = ""


def cause(failure: Failure) -> Cause:
    """Whose failure it is."""
    if failure.stage in _WITHOUT_KERNEL or {"ImportError", "MemoryError"} & set(failure.bases):
        return "environment"
    if "AttributeError" in failure.bases and not failure.owner.endswith("Tracer"):
        # Another version than the one that the kernel, or this package, was written for; or a device that is described
        # here says less than a real one.
        from_here = failure.owner.startswith(__package__)
        is_other = from_here or _of_toolchain(failure.owner) or _of_toolchain(failure.raised_in)
        return "environment" if is_other else "kernel"
    head = failure.message[:_HEAD].lower()
    return "environment" if any(words in head for words in _ENVIRONMENT) else "kernel"


def shortened(message: str) -> str:
    """The first line of a message that says something, in at most 300 characters."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "(no message)")
    return line if len(line) <= _SHORT else line[: _SHORT - 2] + " …"


def _of_toolchain(module: str) -> bool:
    return module.partition(".")[0] in _TOOLCHAINS
