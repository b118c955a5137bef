"""What goes wrong with a machine, by kind: a quota of zero never clears by waiting, a stockout may."""

from __future__ import annotations

from enum import StrEnum

from pytest_multiitem.errors import MultiItemError

_LONGEST = 600  # characters of somebody else's words


class Kind(StrEnum):
    """What kind of failure it is; decides what there is to do."""

    CLIENT = "client missing"
    LOGIN = "not logged in"
    PERMISSION = "permission denied"
    QUOTA = "no quota"
    CAPACITY = "no capacity"
    OFFER = "not offered"
    ABSENT = "not found"
    EXISTS = "exists already"
    SERVICE = "service unreachable"
    TIME = "no answer in time"
    GONE = "machine gone"
    CONNECTION = "connection lost"
    REMOTE = "failed on the machine"
    ARTEFACT = "artefact unusable"
    OTHER = "failed"


_ADVICE = {
    Kind.CLIENT: "install it, or have it on PATH",
    Kind.LOGIN: "log in with: gcloud auth login",
    Kind.PERMISSION: "ask the project's owner for the role, or enable the API it names",
    Kind.QUOTA: "waiting does not help: request it for this project and region; there is no other machine instead",
    Kind.CAPACITY: "try again later, or in another zone; there is no other machine instead",
    Kind.OFFER: "choose a zone that has it; there is no other machine instead",
    Kind.EXISTS: "choose another name, or take it as it is with CREATE_RESOURCES=0",
    Kind.SERVICE: "try again with --resume when it answers",
    Kind.TIME: "try again with --resume",
    Kind.GONE: "try again with --resume",
    Kind.CONNECTION: "check network and firewall, then --resume",
}


class MachineError(MultiItemError):
    """A machine cannot be had, reached, used or given back. ``words``: the service's or the machine's own."""

    def __init__(self, kind: Kind, about: str, words: str) -> None:
        self.kind = kind
        self.words = shortened(words)
        advice = _ADVICE.get(kind)
        super().__init__(f"{about}: {kind.value}: {self.words}" + (f"; {advice}" if advice else ""))


def shortened(words: str) -> str:
    """Somebody else's words on one line, its middle left out where it is long."""
    line = " ".join(words.split())
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} … {line[-half:]}"
