"""ScoreMatrix → Comparison, from files alone.

`compare` joins: `measured_side` (a matrix with one row a size), `agreement` and `correctness` (do two sides score
alike), `speed` (which row is faster), `guardrail` (which size wins), `recommendation` and `notes` (what to say of it).
"""
