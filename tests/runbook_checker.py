"""The five comparisons that the public validation runbook makes of its two files."""

from __future__ import annotations

from typing import Any

#: In the order in which the runbook names them, which is that of ``multiitem check``.
GATES = (
    "same_length_isolation_zero",
    "changed_length_isolation_zero",
    "delimiter_aligned_equiv_le_0p02",
    "speedup_n32_ge_3x",
    "jax_serial_vs_torch_serial_le_0p02",
)


def runbooks_answers(multi_vs_serial: dict[str, Any], parity: dict[str, Any]) -> dict[str, bool]:
    """Gate → whether it holds by the runbook's own rule."""
    isolation, speed = multi_vs_serial["isolation"], multi_vs_serial["performance"]["32"]
    answers = (
        isolation["same_length_mutation_max_abs_diff"] == 0.0,
        isolation["changed_length_mutation_max_abs_diff"] == 0.0,
        multi_vs_serial["equivalence_query_plus_delimiter"]["max_abs_diff"] <= 0.02,
        speed["speedup_vs_serial_p50"] >= 3.0,
        parity["max_abs_diff_jax_serial_vs_torch_serial"] <= 0.02,
    )
    return dict(zip(GATES, answers, strict=True))
