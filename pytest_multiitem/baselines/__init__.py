"""Saved timings of a run, and the verdict on whether a later run is slower."""
