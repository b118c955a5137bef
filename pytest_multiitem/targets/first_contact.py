"""What to do about a server that cannot be asked, by what came of the first request to it."""

from __future__ import annotations

import re

from pytest_multiitem.servers.errors import NeverReady
from pytest_multiitem.settings.settings import OPTION_OF, Settings
from pytest_multiitem.targets.blame import GATEWAY, UNAUTHORISED
from pytest_multiitem.transport.address import SCORE_PATH
from pytest_multiitem.transport.client import FailureKind, ScoreFailure


def _flag(setting: str) -> str:
    return OPTION_OF[setting].flag


#: Characters of a server's own words that are quoted.
_QUOTED = 300
#: What a broken connection says, and what helps; the first that fits.
_CONNECTIONS = (
    (r"certificate|CERTIFICATE_VERIFY", f"give the authority that signed its certificate: {_flag('ca_file')} FILE"),
    (r"WRONG_VERSION_NUMBER|record layer|SSL", "write http:// in its address: it may not speak https"),
    (r"Name or service|name resolution|nodename|getaddrinfo|Errno -", "correct the host's name: no such host is known"),
    (r"refused", "start the server, or correct host and port: nothing listens there"),
    (r"unreachable|No route", "correct the address: no network leads there"),
    (r"disconnected|reset|RemoteProtocol", "if it speaks https, write https:// in its address: it hangs up"),
)


def explained(
    error: ScoreFailure | NeverReady, place: str, settings: Settings, *, path: str = SCORE_PATH
) -> ScoreFailure | NeverReady:
    """The same error, of one line, with the server's name and what to do next.

    ``place``: the server by its role and its address without credentials. ``path``: where it was asked for scores.
    """
    failure = error.failure if isinstance(error, NeverReady) else error
    if not isinstance(failure, ScoreFailure):
        return error
    words = " ".join(failure.message.split())
    words = words if len(words) <= _QUOTED else f"{words[:_QUOTED]} …"
    text = f"{place} cannot be asked: {words}. Next: {_advice(failure, settings, path)}"
    if isinstance(error, NeverReady):
        return NeverReady(text, failure)
    return ScoreFailure(failure.kind, text, failure.status)


def _advice(failure: ScoreFailure, settings: Settings, path: str) -> str:
    status = failure.status
    if failure.kind is FailureKind.TIMEOUT:
        limit = f"{settings.request_timeout:g} s ({_flag('request_timeout')})"
        return f"see whether it is overloaded or still starting; it has {limit}"
    if status is None:
        fitting = (advice for pattern, advice in _CONNECTIONS if re.search(pattern, failure.message))
        return next(fitting, "see whether the server runs, and whether its address is right")
    if status in UNAUTHORISED:
        return f"put its API key into the environment variable {settings.api_key_env}"
    if status in (404, 405):
        advice = f"give the address before {path}; a server of this endpoint must stand there"
        elsewhere = f", or name an engine that is asked elsewhere: {_flag('engine')} vllm, {_flag('engine')} rerank"
        return advice + (elsewhere if path == SCORE_PATH else "")
    if 300 <= status < 400:
        return "give the address that it points to: redirects are not followed"
    if status == 429:
        return "wait, or use a server without this limit: it takes no more requests now"
    if status in GATEWAY:
        return "wait until the server behind is ready: what answers is a gateway, or a server that is still starting"
    if 400 <= status < 500 and "https" in failure.message.lower():
        return "write https:// in its address: it speaks https"
    if 400 <= status < 500:
        return f"make what is asked fit it: {_flag('labels')} (ids of its vocabulary), {_flag('vocab_size')}"
    return "see what its log says"
