"""The PyTorch side of parity: a third evaluation, or transformers' own model of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_multiitem.errors import CheckpointError, UsageError
from pytest_multiitem.evaluation.evidence import noise_floor
from pytest_multiitem.evaluation.records import Evaluation
from pytest_multiitem.evaluation.validity import Side
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import magnitude
from pytest_multiitem.transport.client import Scores


@dataclass(frozen=True, eq=False)
class TorchReference:
    """Serial scores of every request, [N, K] each: behind ``query``, and behind ``query + delimiter`` (None where
    that was not scored). ``floor``: how far replays move them; None where there were none. ``about``: where they
    are from. ``doubt``: what keeps them from being a reference. ``evaluation``: where they are of one."""

    serial: list[Scores]
    aligned: list[Scores] | None
    floor: float | None
    about: dict[str, Any]
    doubt: str | None = None
    evaluation: Evaluation | None = None


def from_evaluation(side: Side) -> TorchReference:
    """The scores of a serial server that runs PyTorch. Raises UsageError where it runs something else."""
    evaluation = side.evaluation
    if evaluation.backend not in ("pytorch", "transformers", None):
        raise UsageError(f"{side.path}: backend is {evaluation.backend!r}; a torch reference is served by pytorch")
    if any(isolation.base_scores is None for isolation, _ in side.cases):
        raise UsageError(f"{side.path}: isolation.base_scores is missing: that evaluation failed")
    doubt = None
    if evaluation.backend is None:
        doubt = f"{side.path.name} does not say which backend served it; evaluate it with --backend pytorch"
    return TorchReference(
        side.bases,
        side.aligned,
        noise_floor((isolation.base_scores, isolation.replays) for isolation, _ in side.cases),
        {"file": side.path.name, "url": evaluation.url, "backend": evaluation.backend, "model": evaluation.model},
        doubt,
        evaluation,
    )


def from_transformers(model: str, side: Side) -> TorchReference:
    """Score a side's requests with transformers' AutoModelForCausalLM, float32, on the processor.

    ``model``: a checkpoint directory, which is read from there alone, or a hub id. A checkpoint's own code is
    never run. Raises EngineUnavailable without the packages, and UsageError where there is no such checkpoint or
    the requests do not fit it.
    """
    from pytest_multiitem.engine.model_files import load_backend, resolve_model

    try:
        backend = load_backend("transformers", resolve_model(model), dtype="float32", device="cpu")
    except CheckpointError as error:
        raise UsageError(f"--reference {model}: {error}") from None
    delimiter = side.evaluation.delimiter
    serial, aligned, floor = [], [], 0.0
    for isolation, _ in side.cases:
        labels = isolation.labels or side.evaluation.labels
        highest = max([delimiter, *labels, *isolation.query_ids, *(max(i, default=0) for i in isolation.item_ids)])
        if highest >= backend.vocab_size:
            raise UsageError(
                f"--reference {model} has token ids below {backend.vocab_size}, but {side.path} holds {highest}"
            )
        scores, again, behind_delimiter = (
            np.concatenate([backend.serial([*query, *item], labels, False).scores(True) for item in isolation.item_ids])
            for query in (isolation.query_ids, isolation.query_ids, [*isolation.query_ids, delimiter])
        )
        floor = max(floor, max_abs(again - scores), key=magnitude)
        serial.append(scores)
        aligned.append(behind_delimiter)
    about = {"backend": "transformers", "model": model, "dtype": "float32", **backend.versions}
    return TorchReference(serial, aligned, floor, about)
