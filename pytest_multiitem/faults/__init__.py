"""Faults that real engines had, as switchable mutants of the embedded engine or of the wire.

A fault is one class in a module here; `catalogue` finds it. Without a fault nothing of this package is in the way of a
request: `engine.serve` builds its scorer and its application from the healthy classes alone.
"""
