"""The project's exceptions: each message says what was expected, what came, and what to do next."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is most like it, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class MultiItemError(Exception):
    """Base of everything this package raises on purpose."""


class UsageError(MultiItemError):
    """The user asked for something that cannot be done as asked (a wrong value, a missing file)."""


class EngineUnavailable(MultiItemError):
    """An engine cannot run on this machine (package or device missing). A gate reports it as NOT_RUN."""


class CheckpointError(MultiItemError):
    """A model directory is missing, incomplete, damaged or of an unsupported architecture."""
