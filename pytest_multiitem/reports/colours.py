"""The colours of verdicts in the cells of a table, on a terminal that shows colours."""

from __future__ import annotations

import os
import re
from typing import TextIO

from pytest_multiitem.results.verdict import Verdict

_RED, _GREEN, _YELLOW, _PLAIN = "\x1b[1;31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_COLOUR = {
    Verdict.PASS: _GREEN,
    Verdict.FAIL: _RED,
    Verdict.ERROR: _RED,
    Verdict.INCONCLUSIVE: _YELLOW,
    Verdict.NOT_RUN: _YELLOW,
}
#: A verdict that begins a line or a cell; a gate's mark in the kill matrix.
_CELL = re.compile(rf"(?:^|(?<= {{2}}))(?P<verdict>{'|'.join(Verdict)})\b|(?<= {2})✗")


def wanted(stream: TextIO) -> bool:
    """Whether to colour what a stream shows: a terminal, unless NO_COLOR is set; FORCE_COLOR is for all else."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


def coloured(text: str) -> str:
    """A harmless text with the verdicts of its cells in colour."""
    return _CELL.sub(lambda found: f"{_COLOUR[Verdict(found['verdict'] or 'FAIL')]}{found[0]}{_PLAIN}", text)
