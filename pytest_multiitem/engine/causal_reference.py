"""Causal attention with restarting positions: scores that no serial request has, by transformers' own model.

In a serial sequence no two tokens share a position, so a serial server cannot play this one. `restarting_scores` asks a
process of its own, which loads the checkpoint for one forward pass on the processor:
``python -m pytest_multiitem.engine.causal_reference``, a `Request` as JSON on standard input.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.errors import EngineUnavailable, MultiItemError
from pytest_multiitem.scoring.layout import build_layout, restarting_positions
from pytest_multiitem.scoring.semantics import Semantics

_TIMEOUT = 600.0  # seconds; a large checkpoint is read from disk first


class Request(msgspec.Struct, frozen=True):
    """A packed request. ``model``: a checkpoint directory, or a hub id that lies in this machine's cache.
    ``sequences``: the items of each packed sequence. ``semantics``: the one whose item positions are taken."""

    model: str
    query: tuple[int, ...]
    sequences: tuple[tuple[tuple[int, ...], ...], ...]
    labels: tuple[int, ...]
    delimiter: int
    semantics: Semantics


@cache
def restarting_scores(request: Request) -> NDArray[np.float64]:
    """The softmax scores [N, K] of a request where every token sees all before it, and positions restart.

    Raises EngineUnavailable where the checkpoint is not at hand, or transformers cannot compute it.
    """
    if not Path(request.model).is_dir() and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", request.model):
        raise EngineUnavailable(f"no checkpoint {request.model!r} lies on this machine")
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=msgspec.json.encode(request),
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # a hub id is looked up, never downloaded
        )
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(f"transformers did not answer within {_TIMEOUT:g} s") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineUnavailable(last[-1])
    return np.array(msgspec.json.decode(done.stdout))


def main() -> int:
    """Answer the request on standard input; the exit code."""
    from pytest_multiitem.engine.model_files import load_backend, resolve_model

    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        backend = load_backend("transformers", resolve_model(request.model), dtype="float32", device="cpu")
        from pytest_multiitem.engine.reference_model import ReferenceBackend

        assert isinstance(backend, ReferenceBackend)
        rows: list[list[float]] = []
        for items in request.sequences:
            layout = build_layout(request.query, items, request.delimiter, request.semantics)
            read = backend.causal(layout.token_ids, restarting_positions(layout), layout.score_index, request.labels)
            rows += read.scores(True).tolist()
    except MultiItemError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.buffer.write(msgspec.json.encode(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
