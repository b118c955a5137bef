"""Which machine and which package versions a run was made with."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    "pytest-multiitem", "pytest", "pytest-benchmark", "pytest-xdist", "numpy", "scipy", "httpx", "msgspec",
    "starlette", "uvicorn", "tokenizers", "safetensors", "torch", "transformers", "jax", "jaxlib",
)  # fmt: skip


def cpu_count() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_info() -> dict[str, Any]:
    """Processor, cores and memory; no host name, no user name."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cpus_usable": cpu_count(),
        "cpus_physical": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": sys.version.split()[0],
    }


def package_versions(names: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """The installed versions of packages, those that a run's numbers depend on by default, read without importing
    them."""
    found = {name: _installed(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}


@cache
def _installed(name: str) -> str | None:
    """The version of a package, None where it is not there; each is a file to find and to parse."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpuinfo_field(name: str, cpuinfo: str | None = None) -> str | None:
    """What Linux says of the first processor under a name such as "model name"; None where it says nothing.

    ``cpuinfo``: the text of /proc/cpuinfo, by default this machine's.
    """
    if cpuinfo is None:
        cpuinfo = ""
        with suppress(OSError):
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for found, _, value in pairs if found.strip() == name), None)


def _processor() -> str:
    return cpuinfo_field("model name") or platform.processor() or "unknown"
