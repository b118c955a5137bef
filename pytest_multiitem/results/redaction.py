"""Keeps secrets out of results: servers tell their API key to whoever asks for their arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

REDACTED = "[redacted]"
_SECRET = re.compile(r"(?:^|[_-])(?:api[_-]key|password|secret|hf[_-]token|auth[_-]token)$", re.IGNORECASE)


def redacted(value: Any) -> Any:
    """A JSON value without the values of keys that name a secret."""
    if isinstance(value, dict):
        return {k: REDACTED if v and _SECRET.search(str(k)) else redacted(v) for k, v in value.items()}
    if isinstance(value, list):
        return [redacted(entry) for entry in value]
    return value


def redacted_command(command: Sequence[str]) -> list[str]:
    """A command line without the values of flags that name a secret."""
    words: list[str] = []
    hide = False
    for word in command:
        flag, equals, _ = word.partition("=")
        secret = flag.startswith("--") and _SECRET.search(flag) is not None
        words.append(REDACTED if hide else f"{flag}={REDACTED}" if secret and equals else word)
        hide = secret and not equals
    return words


def without_credentials(url: str) -> str:
    """An address without the user and the password that may stand in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
