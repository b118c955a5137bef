"""The cross-backend comparison: canonical workload, chunk-size matrices, one decision with its evidence.

settings → `workload` → `measuring` → ScoreMatrix (`records`, `files`) → `decision` → Comparison → `gate_verdicts`
"""
