"""Whether a failure is the kernel's or the environment's.

By where it happened and what was raised; of its text only what an environment says about itself, because the
compiler's own messages differ from version to version.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Stage = Literal["jax", "module", "libtpu", "topology", "case", "trace", "lower", "no kernel", "compile"]
Cause = Literal["kernel", "environment"]

#: Before any kernel: JAX is imported, libtpu is looked for, a chip is described.
_WITHOUT_KERNEL = ("jax", "libtpu", "topology")
#: What an environment says about itself, in lower case.
_ENVIRONMENT = (
    "device kind: cpu",
    "lockfile",
    "libtpu.so",
    "libtpu is not",
    "tpu is already in use",
    "tpu support not installed",
    "unable to initialize backend",
)
#: Where to look for it: a compiler's message may go on with the whole program.
_HEAD = 1000
_SHORT = 300


class Failure(msgspec.Struct, kw_only=True):
    """An exception of the child process.

    ``bases``: names of the classes that it is an instance of. ``raised_in``: module of the innermost frame.
    ``owner``: of an AttributeError, the module that lacks the attribute, or ``TYPE`` in ``module.TYPE`` of the object.
    """

    stage: Stage
    kind: str
    bases: list[str]
    message: str
    raised_in: str = ""
    owner: str = ""
    trace: str = ""


def cause(failure: Failure) -> Cause:
    """Whose failure it is."""
    if failure.stage in _WITHOUT_KERNEL or {"ImportError", "MemoryError"} & set(failure.bases):
        return "environment"
    if "AttributeError" in failure.bases and not failure.owner.endswith("Tracer"):
        # A JAX of another version than the one that the kernel, or this package, was written for.
        return "environment" if _is_jax(failure.owner) or _is_jax(failure.raised_in) else "kernel"
    head = failure.message[:_HEAD].lower()
    return "environment" if any(words in head for words in _ENVIRONMENT) else "kernel"


def shortened(message: str) -> str:
    """The first line of a message that says something, in at most 300 characters."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "(no message)")
    return line if len(line) <= _SHORT else line[: _SHORT - 2] + " …"


def _is_jax(module: str) -> bool:
    return module.partition(".")[0] in ("jax", "jaxlib")
