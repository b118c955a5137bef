"""Where a long measurement's cells are measured: on this machine, or on the nodes of a Ray cluster.

A *cell* is a part of a measurement that needs no other part. `driver` has all of them measured, on whatever `Executor`
there is; only `cluster` knows Ray.
"""
