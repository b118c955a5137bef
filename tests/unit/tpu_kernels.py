"""Kernels that tell on themselves: what the compile gate's child process does with them is tested, not compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

TILE = jax.ShapeDtypeStruct((8, 128), jnp.float32)
NOT_A_FUNCTION = 3


def fine(rows: int = 8) -> Any:
    """Lowers."""

    def kernel(tile: Any, out: Any) -> None:
        out[...] = tile[...] * 2.0

    sys.stdout.write("printing is allowed\n")
    tile = jax.ShapeDtypeStruct((rows, 128), jnp.float32)
    return pl.pallas_call(kernel, out_shape=tile), (tile,)


def needs(rows: int, heads: int) -> Any:
    """Cannot be called without arguments."""
    return fine(rows * heads)


def refuses(rows: int = 8) -> Any:
    """Raises."""
    raise ValueError(f"rows ({rows}) must be a multiple of 3")


def of_another_jax() -> Any:
    """Asks for what this JAX does not have."""
    return pltpu.NoSuchParameters()


def own_mistake() -> Any:
    """Asks for what an object of its own does not have."""
    return Path.no_such_attribute  # type: ignore[attr-defined]


def asks(rows: int = 8) -> Any:
    """Asks which chip it is for, before it is traced and while it is, as kernels with tuned tiles do."""
    kind = jax.devices()[0].device_kind

    def case(tile: Any) -> Any:
        found = {jax.local_devices()[0].device_kind, jax.devices()[0].device_kind, jax.devices("tpu")[0].device_kind}
        if found != {kind} or not kind.startswith("TPU") or jax.default_backend() != "tpu":
            raise ValueError(f"Unsupported: {found}, {kind}, {jax.default_backend()}")
        if jax.devices("cpu")[0].platform != "cpu":
            raise ValueError("the processor is still there")
        return fine(rows)[0](tile)

    return case, (jax.ShapeDtypeStruct((rows, 128), jnp.float32),)


def asks_too_much() -> Any:
    """Asks a chip what only a real one knows."""
    return jax.devices()[0].memory_stats()


def nothing() -> Any:
    """Returns what is no case."""


def plain_arguments() -> Any:
    """Returns arguments that are no abstract ones."""
    return fine()[0], (3,)


def aborts() -> Any:
    """Takes the process with it."""
    os.abort()


def hangs(pids: str) -> Any:
    """Never returns, and neither does a process that it starts; writes both ids."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(pids).write_text(f"{os.getpid()} {other.pid}", encoding="utf-8")
    time.sleep(600)


def on_one_chip() -> Any:
    """Ends the process for one chip only."""
    if "v5 lite" in str(jax.sharding.get_abstract_mesh().abstract_device):
        os.abort()
    return fine()
