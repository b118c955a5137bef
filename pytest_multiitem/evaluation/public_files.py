"""Combined results as the public scripts write them: multi against serial, and JAX against PyTorch, a file each.

The first holds all that combined results hold, its sections with the public fields beside ours; the second repeats the
parity figures with the scores that they come from. Laid together they say the same as the first alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.evaluation.records import COMBINED_SCHEMA, Combined
from pytest_multiitem.evaluation.reference import TorchReference
from pytest_multiitem.evaluation.validity import Side
from pytest_multiitem.transport.client import Scores

_PARITY = (
    "max_abs_diff_jax_serial_vs_torch_serial",
    "max_abs_diff_jax_multi_vs_torch_multi_semantic",
    "max_abs_diff_jax_multi_vs_torch_serial",
)


def multi_vs_serial(combined: Combined, multi: Side, serial: Side) -> dict[str, Any]:
    """Combined results, with the scores of the first request and how far they are apart, item by item."""
    content: dict[str, Any] = msgspec.to_builtins(combined)
    packed, plain, aligned = _first(multi.bases), _first(serial.bases), _first(serial.aligned)
    content["equivalence"] |= {
        "abs_diffs_multi_vs_serial": _each(packed, plain),
        "multi_scores": _rows(packed),
        "serial_scores": _rows(plain),
    }
    if aligned is not None and "equivalence_query_plus_delimiter" in content:
        content["equivalence_query_plus_delimiter"] |= {
            "abs_diffs_multi_vs_serial_query_plus_delimiter": _each(packed, aligned),
            "serial_query_plus_delimiter_scores": _rows(aligned),
        }
    return content


def parity(combined: Combined, multi: Side, serial: Side, torch: TorchReference) -> dict[str, Any]:
    """The parity figures, with the request, both sides' scores of it and those of the torch reference."""
    content = msgspec.to_builtins(combined)
    names = ("created_at_utc", "package_version", "model", "delimiter", "labels", *_PARITY)
    stated = {name: content[name] for name in names if name in content}
    asked = multi.evaluation.isolation
    packed, plain, reference, aligned = map(_first, (multi.bases, serial.bases, torch.serial, torch.aligned))
    return {
        "schema_version": COMBINED_SCHEMA,
        **stated,
        "query_ids": asked.query_ids,
        "item_ids": asked.item_ids,
        "jax_multi_scores": _rows(packed),
        "jax_serial_scores": _rows(plain),
        "torch_serial_reference_scores": _rows(reference),
        "torch_multi_semantic_reference_scores": _rows(aligned),
        "abs_diff_jax_multi_vs_torch_serial": _each(packed, reference),
        "abs_diff_jax_multi_vs_torch_multi_semantic": _each(packed, aligned),
        "abs_diff_jax_serial_vs_torch_serial": _each(plain, reference),
    }


def _first(scores: Sequence[Scores] | None) -> Scores | None:
    return scores[0] if scores else None


def _rows(scores: Scores | None) -> list[list[float]] | None:
    return None if scores is None else scores.tolist()


def _each(ours: Scores | None, theirs: Scores | None) -> list[float] | None:
    """The largest difference of every item over its labels; None where one side has no scores."""
    return None if ours is None or theirs is None else np.abs(ours - theirs).max(axis=1).tolist()
