"""The cross-backend comparison: canonical workload, chunk-size matrices, one decision with its evidence.

Imports run downwards: commands → runner, offline, validate → decide, agreement, rows → artefacts, workload → records.
"""
