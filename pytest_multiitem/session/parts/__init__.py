"""Measurements that a run's options add to it, one a file."""
