"""Refusals by size: what servers say of a request that is larger than they take."""

from __future__ import annotations

import re

from pytest_multiitem.transport.client import ScoreFailure

_STATUS = (400, 413, 422)
_LIMIT_WORDS = re.compile(r"too.?(long|many|large)|exceed|maximum|at most|context.?length|limit", re.IGNORECASE)


def refused_for_size(failure: ScoreFailure) -> bool:
    """Whether a server says that it refused a request for its size, by its status and its words.

    Who has seen it answer a request as large knows better.
    """
    return failure.status in _STATUS and _LIMIT_WORDS.search(str(failure)) is not None
