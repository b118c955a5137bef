"""The project's exceptions: each message says what was expected, what came, and what to do next."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_multiitem.untrusted.secrets import without_secrets
from pytest_multiitem.untrusted.words import plain_lines


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is most like it, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


@dataclass(frozen=True)
class Origin:
    """Which server a failure is of. ``role``: what it is there for; ``backend``: what computes there.
    ``answered``: whether it has scored anything before; one that never did could not be started, reached or used."""

    role: str
    backend: str
    answered: bool


class MultiItemError(Exception):
    """Base of everything this package raises on purpose. ``origin``: of a server's failure, which server's it is. Its
    message is harmless wherever it is shown, whoever's words it quotes, and tells no secret."""

    origin: Origin | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(plain_lines(without_secrets(message)))


class UsageError(MultiItemError):
    """The user asked for something that cannot be done as asked (a wrong value, a missing file)."""


class StorageError(UsageError):
    """A file or a directory cannot be made or written: a full disk, a quota, permissions. Nobody's score."""


class EngineUnavailable(MultiItemError):
    """An engine cannot run on this machine (package or device missing). A gate reports it as NOT_RUN."""


class CheckpointError(MultiItemError):
    """A model directory is missing, incomplete, damaged or of an unsupported architecture."""
