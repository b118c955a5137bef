"""The domain of multi-item scoring: layout, wire types, request cases. No I/O, no engine."""
