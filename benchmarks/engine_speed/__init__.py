"""How fast the embedded engines score, beside what one would use instead: ``python -m benchmarks.engine_speed``."""
