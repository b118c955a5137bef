"""The padded lengths that JAX programs are compiled for: few of them, so that requests share programs."""

from __future__ import annotations


def readable(rows: int) -> int:
    """How many states are read at once for the sake of ``rows``: a power of two, so that tiles of several shapes share
    the programs of :func:`read`."""
    return 1 << (rows - 1).bit_length()


def bucket_step(length: int) -> int:
    """The granularity of sequence shapes at ``length`` tokens: an eighth of the octave, at least 32."""
    return max(32, (1 << (length - 1).bit_length()) // 8)


def tile_bucket(rows: int) -> int:
    """The padded rows of a tile in dense scoring: tiles of several slot widths then share their programs."""
    return -(-rows // 128) * 128 if rows > 64 else max(32, 1 << (rows - 1).bit_length())


def bucket(length: int) -> int:
    """The padded length of a causal sequence: few distinct shapes, at most a quarter of padding beyond 128."""
    step = bucket_step(length)
    return -(-length // step) * step
