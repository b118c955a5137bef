"""The tensors of a checkpoint directory in Hugging Face layout, read from safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pytest_multiitem.errors import CheckpointError

_INDEX = "model.safetensors.index.json"
_FLOATS = ("float32", "bfloat16", "float16")


@contextmanager
def tensors(directory: Path, framework: str) -> Iterator[Callable[[str, tuple[int, ...]], Any]]:
    """A function (name, expected shape) → array over all safetensors files of a checkpoint.

    ``framework``: whose arrays, "np" or "pt". Raises CheckpointError where there are no such files, and the function
    where a tensor is missing or has another shape or an unexpected type.
    """
    with ExitStack() as stack:
        holders: dict[str, Any] = {}
        for path in _files(directory):
            try:
                file = stack.enter_context(safe_open(path, framework=framework))
                holders.update(dict.fromkeys(file.keys(), file))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{path} cannot be read as safetensors ({error}); fetch or write the checkpoint again"
                ) from None

        def read(name: str, shape: tuple[int, ...]) -> Any:
            if name not in holders:
                raise CheckpointError(
                    f"{directory} lacks the tensor {name!r} (it holds {len(holders)} others); "
                    "the checkpoint is incomplete or not a Qwen3 causal LM"
                )
            try:
                values = holders[name].get_tensor(name)
            except (TypeError, AttributeError, SafetensorError) as error:
                raise CheckpointError(f"{directory}: tensor {name!r} cannot be read: {error}") from None
            if tuple(values.shape) != shape:
                raise CheckpointError(
                    f"{directory}: tensor {name!r} has shape {list(values.shape)}, "
                    f"but config.json asks for {list(shape)}"
                )
            if (dtype := str(values.dtype).removeprefix("torch.")) not in _FLOATS:
                raise CheckpointError(
                    f"{directory}: tensor {name!r} is {dtype}; expected one of {', '.join(_FLOATS)} "
                    "(quantised checkpoints are not supported)"
                )
            return values

        yield read


def _files(directory: Path) -> list[Path]:
    """The shards named by the index, else model.safetensors, else every safetensors file."""
    index, single = directory / _INDEX, directory / "model.safetensors"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is no valid safetensors index: {error!r}") from None
        return [directory / name for name in names]
    files = [single] if single.exists() else sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory} holds no *.safetensors file")
    return files
