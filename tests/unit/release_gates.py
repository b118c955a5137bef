"""The gates that are released, by name: when each holds. Their names and limits are final."""

CONTRACT = {
    "same_length_isolation_zero": ("==", 0.0),
    "changed_length_isolation_zero": ("==", 0.0),
    "delimiter_aligned_equiv_le_0p02": ("<=", 0.02),
    "speedup_n32_ge_3x": (">=", 3.0),
    "jax_serial_vs_torch_serial_le_0p02": ("<=", 0.02),
    "segment_lowers": ("holds", None),
    "segment_vs_dense_le_1e_4": ("<=", 1e-4),
    "prefill_extend_replay_le_1e_4": ("<=", 1e-4),
    "jax_multi_vs_torch_multi_semantic_le_0p02": ("<=", 0.02),
    "cross_backend_max_abs_le_0p02": ("<=", 0.02),
    "cross_backend_mean_abs_le_0p01": ("<=", 0.01),
}
RELEASED = CONTRACT | {
    "request_isolation_le_0p02": ("<=", 0.02),
    "request_contract_holds": ("holds", None),
    "negative_control_fails": ("holds", None),
    "healthy_build_passes": ("holds", None),
    "fault_is_killed": ("holds", None),
    "metamorphic_relations_hold": ("holds", None),
    "semantics_as_declared": ("holds", None),
    "serial_vs_reference_le_0p02": ("<=", 0.02),
    "comparison_measured": ("holds", None),
    "own_reference_max_abs_le_0p02": ("<=", 0.02),
    "own_reference_mean_abs_le_0p01": ("<=", 0.01),
    "no_regression_vs_baseline": ("holds", None),
}
