"""Whether a failure says something of the server that it came from: of its scores, or of nothing but the circumstances.

A server that was never reached, started or logged in to has not scored wrongly. One that has scored, and then dies,
answers 5xx or something that is no answer, has.
"""

from __future__ import annotations

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.servers.errors import NeverReady, PortUnavailable, ServerDied, ServerError, ServerNotReady
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

#: Who may not ask.
UNAUTHORISED = frozenset({401, 402, 403, 407})
#: Nor who asks too often, or elsewhere: no answer to the request itself.
_NOT_ADMITTED = frozenset({*UNAUTHORISED, 429, *range(300, 400)})
#: What gateways say where nothing answers behind them.
GATEWAY = frozenset({502, 503, 504})


def is_nobodys(error: MultiItemError) -> bool:
    """Whether an error says nothing of any score, whichever server it is about."""
    answered = error.origin is not None and error.origin.answered
    if isinstance(error, ServerNotReady):
        return not isinstance(error.last_error, NeverReady) or _at_first(error.last_error.failure)
    if isinstance(error, NeverReady):
        return _at_first(error.failure)
    if isinstance(error, ServerDied):
        return error.origin is not None and not answered
    if isinstance(error, ScoreFailure):
        if error.status in _NOT_ADMITTED:
            return True
        return error.origin is not None and not answered and _at_first(error)
    return isinstance(error, PortUnavailable) or not isinstance(error, ServerError)


def _at_first(failure: MultiItemError | None) -> bool:
    """Whether a first request came to nothing for what is no answer of a scoring server, or for what it was asked."""
    if not isinstance(failure, ScoreFailure):
        return True
    if failure.kind in (FailureKind.CONNECTION, FailureKind.TIMEOUT):
        return True
    return failure.status is not None and (failure.status in GATEWAY or 300 <= failure.status < 500)
