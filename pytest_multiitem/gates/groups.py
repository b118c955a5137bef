"""The gates by what they ask of a server, for tables that have no room for each."""

from __future__ import annotations

from pytest_multiitem.gates.registry import gates

#: Groups in the order of a table's columns. A gate of a mode is of the group ``modes``; one that is named nowhere, such
#: as a project's own, of ``other``.
GROUPS = {
    "isolation": (
        "same_length_isolation_zero", "changed_length_isolation_zero", "content_isolation", "length_isolation",
        "request_isolation_le_0p02",
    ),
    "equality": (
        "delimiter_aligned_equiv_le_0p02", "equivalence_at_floor", "metamorphic_relations_hold", "every_size_agrees",
        "every_label_agrees", "every_score_agrees",
    ),
    "semantics": ("semantics_as_declared", "negative_control_fails", "label_mass_not_zero"),
    "requests": ("traffic_agrees", "request_contract_holds"),
    "paths": (
        "segment_vs_dense_le_1e_4", "prefill_extend_replay_le_1e_4", "jax_serial_vs_torch_serial_le_0p02",
        "jax_multi_vs_torch_multi_semantic_le_0p02", "cross_backend_max_abs_le_0p02", "cross_backend_mean_abs_le_0p01",
        "serial_vs_reference_le_0p02", "segment_lowers",
    ),
    "modes": (),
    "speed": ("speedup_n32_ge_3x",),
    "other": (),
}  # fmt: skip


def group_of(name: str) -> str:
    """The group of a gate, by its name."""
    for group, members in GROUPS.items():
        if name in members:
            return group
    gate = gates().get(name)
    return "modes" if gate is not None and gate.mode is not None else "other"
