"""A model by its name: where its checkpoint lies, fetched from a hub if need be, and the backend that loads it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pytest_multiitem.engine.backend import SerialBackend
from pytest_multiitem.engine.checkpoint import tiny_checkpoint
from pytest_multiitem.errors import CheckpointError, EngineUnavailable

#: The backends by the extra that installs them.
EXTRAS = {"pytorch": "torch", "jax": "jax", "transformers": "torch"}

#: What a checkpoint directory needs; everything else on a model hub is left there.
_HUB_FILES = ("config.json", "*.safetensors", "model.safetensors.index.json", "tokenizer*.json")


def resolve_model(model_path: str | None, download_dir: str | None = None) -> Path:
    """The checkpoint directory: the tiny one, a local directory, or a hub id's snapshot.

    Raises CheckpointError where there is none.
    """
    if model_path is None:
        return tiny_checkpoint()
    directory = Path(model_path).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model_path):
        raise CheckpointError(
            f"--model-path is {model_path!r}, which is no directory; expected a checkpoint directory "
            "in Hugging Face layout or a hub id (OWNER/NAME). Without the flag, a tiny checkpoint is served."
        )
    return _download(model_path, download_dir)


def load_backend(name: str, directory: Path, *, dtype: str, device: str) -> SerialBackend:
    """Load a Qwen3 checkpoint with PyTorch or JAX, or any causal LM with transformers alone.

    Raises EngineUnavailable where the package or the device is missing, CheckpointError where the
    directory cannot be read.
    """
    if dtype == "auto":
        dtype = "float32"
    try:  # a process imports one of them: each takes seconds, and need not be installed
        if name == "jax":
            # JAX looks for every device that it has a library for, a TPU's included, wherever it is told of none.
            if device == "cpu":
                os.environ.setdefault("JAX_PLATFORMS", "cpu")
            from pytest_multiitem.engine.jax_model import JaxBackend

            return JaxBackend(directory, dtype=dtype, device=device)
        # Read when torch is imported: OpenMP threads that spin while they wait make every small
        # operation many times slower on a machine with other work (two servers on two cores).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if name == "transformers":
            from pytest_multiitem.engine.reference_model import ReferenceBackend

            return ReferenceBackend(directory, dtype=dtype, device=device)
        from pytest_multiitem.engine.torch_model import TorchBackend

        return TorchBackend(directory, dtype=dtype, device=device)
    except ImportError as error:
        raise EngineUnavailable(
            f"--backend {name} cannot be imported ({error}); pip install 'pytest-multiitem[{EXTRAS[name]}]'"
        ) from error


def _download(hub_id: str, download_dir: str | None) -> Path:
    what = f"--model-path is {hub_id!r}, which is no directory here, and as a hub id it"
    remedy = "Name a checkpoint directory, or leave the flag out for a tiny checkpoint."
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(f"{what} needs the package huggingface_hub: pip install it. {remedy}") from None
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_HUB_FILES), cache_dir=download_dir))
    except Exception as error:  # its taxonomy spans OSError, ValueError and its HTTP library's errors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{what} cannot be downloaded: {reason[0]} {remedy}") from error
