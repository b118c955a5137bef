"""What a figure depends on beside the code: the machine's matrix rate, the commit, the weights."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.results.machine import cpuinfo_field

ROOT = Path(__file__).parents[2]
#: Variables that decide how many threads compute, and how they wait.
_THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS")

#: The widest of these decides how fast a processor multiplies; /proc/cpuinfo's flags, the widest first.
_VECTORS = {"amx_tile": "AVX-512 and AMX", "avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}


def matrix_rate(
    backend: str, *, device: str = "cpu", dtype: str = "float32", size: int = 2048, repeats: int = 15
) -> dict[str, Any]:
    """The best rate of a product of two [size, size] matrices, FLOP/s, from a process of its own.

    Raises EngineUnavailable where the backend or the device is missing.
    """
    command = [sys.executable, str(ROOT / "benchmarks/matrix_rate.py"), "--backend", backend, "--device", device]
    command += ["--dtype", dtype, "--size", str(size), "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise EngineUnavailable(last)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def git_state() -> dict[str, Any]:
    """The commit, and whether tracked files differ from it; nulls outside of a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "--short", "HEAD"), "modified": None if changes is None else bool(changes)}


def instruction_set(cpuinfo: str | None = None) -> dict[str, str | None]:
    """What kind of processor computes, where its name alone does not say: ``vendor``, ``family``, ``model``, and the
    widest ``vectors`` that it has; nulls where the system does not tell.

    ``cpuinfo``: the text of Linux' /proc/cpuinfo, by default this machine's.
    """
    flags = set((cpuinfo_field("flags", cpuinfo) or "").split())
    return {
        "vendor": cpuinfo_field("vendor_id", cpuinfo),
        "family": cpuinfo_field("cpu family", cpuinfo),
        "model": cpuinfo_field("model", cpuinfo),
        "vectors": next((shown for flag, shown in _VECTORS.items() if flag in flags), None),
    }


def thread_variables() -> dict[str, str]:
    """Those that are set."""
    return {name: os.environ[name] for name in _THREADS if name in os.environ}


def checkpoint_facts(directory: Path, config: ModelConfig) -> dict[str, Any]:
    """Sizes and checksum of a checkpoint with one file of weights; no path."""
    with (directory / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    return {
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "weights_sha256": digest,
    }
