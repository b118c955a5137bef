"""The files of the public two-step evaluation: of what kind they are, and whether their scores give their figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pytest_multiitem.evaluation.records import COMBINED_SCHEMA, EVALUATION_SCHEMA
from pytest_multiitem.results.figures import differs

_PARITY = "max_abs_diff_jax_serial_vs_torch_serial"
#: The fields that tell a kind whose files do not name it.
_KINDS = {
    EVALUATION_SCHEMA: [{"mode", "isolation", "performance"}],
    COMBINED_SCHEMA: [{"multi_url", "serial_url", "equivalence", "isolation"}, {_PARITY}],
}


def kind_of(content: dict[str, Any]) -> str | None:
    """The schema of a file that names none; None where its fields are those of no kind."""
    return next((schema for schema, forms in _KINDS.items() if any(form <= content.keys() for form in forms)), None)


def problems(content: dict[str, Any]) -> Iterator[str]:
    """Where a figure of combined results is not what the scores beside it give; what is not there is not judged."""
    plain = _section(content, "equivalence")
    aligned = _section(content, "equivalence_query_plus_delimiter")
    packed = plain.get("multi_scores")
    yield from _difference("equivalence", plain, "abs_diffs_multi_vs_serial", packed, plain.get("serial_scores"))
    name, scores = "abs_diffs_multi_vs_serial_query_plus_delimiter", aligned.get("serial_query_plus_delimiter_scores")
    yield from _difference("equivalence_query_plus_delimiter", aligned, name, packed, scores)
    multi, serial = content.get("jax_multi_scores"), content.get("jax_serial_scores")
    torch, semantic = (content.get(f"torch_{kind}_reference_scores") for kind in ("serial", "multi_semantic"))
    for what, ours, theirs in (
        ("jax_serial_vs_torch_serial", serial, torch),
        ("jax_multi_vs_torch_serial", multi, torch),
        ("jax_multi_vs_torch_multi_semantic", multi, semantic),
    ):
        yield from _listed("", f"abs_diff_{what}", content.get(f"abs_diff_{what}"), ours, theirs)
        largest = content.get(f"max_abs_diff_{what}")
        if (each := _each(ours, theirs)) is not None:
            yield from differs(f"max_abs_diff_{what}", largest, float(each.max()), "the scores give")


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _difference(section: str, stated: dict[str, Any], name: str, ours: Any, theirs: Any) -> Iterator[str]:
    yield from _listed(f"{section}.", name, stated.get(name), ours, theirs)
    each = stated.get(name)
    if not isinstance(each, list) or not each:
        return
    for figure, wanted in (("max_abs_diff", max(each)), ("mean_abs_diff", float(np.mean(each)))):
        if stated.get("abs_diffs") is None:  # else they are of all requests, and these lists of the first alone
            yield from differs(f"{section}.{figure}", stated.get(figure), wanted, f"{name} gives")


def _listed(where: str, name: str, stated: Any, ours: Any, theirs: Any) -> Iterator[str]:
    """Whether a list of differences, one an item, is that of the scores."""
    if (each := _each(ours, theirs)) is None or not isinstance(stated, list):
        return
    if len(stated) != len(each):
        yield f"{where}{name} has {len(stated)} entries, the scores {len(each)} items"
        return
    for at, (mine, wanted) in enumerate(zip(stated, each.tolist(), strict=True)):
        yield from differs(f"{where}{name}[{at}]", mine, wanted, "the scores give")


def _each(ours: Any, theirs: Any) -> Any:
    """The largest difference of every item over its labels; None where there are no scores of both of one shape."""
    try:
        a, b = (np.asarray(scores, dtype=float) for scores in (ours, theirs))
    except (TypeError, ValueError):
        return None
    return np.abs(a - b).max(axis=1) if a.ndim == 2 and a.shape == b.shape and a.size else None
