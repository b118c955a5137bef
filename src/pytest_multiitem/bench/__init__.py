"""Timing and its statistics."""
