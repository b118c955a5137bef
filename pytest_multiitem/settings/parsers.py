"""From the text of an option to its value."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.scoring.vocabulary import BACKENDS, CHUNK_SIZES, EVERY_GATE, MASKS, VIEWS
from pytest_multiitem.settings.chips import parse_chip


def _choice(choices: Sequence[str], *, many: bool = False, everything: bool = False) -> Callable[[str], Any]:
    """A parser for one of ``choices`` (or a comma-separated list of them; ``all`` means every one)."""

    def parse(text: str) -> Any:
        words = [word.strip() for word in text.split(",")] if many else [text.strip()]
        if everything and words == ["all"]:
            return tuple(choices)
        for word in words:
            if word not in choices:
                valid = [*choices, *(["all"] if everything else [])]
                kind = "a comma-separated list of" if many else "one of"
                raise ValueError(f"expected {kind} {', '.join(valid)}{did_you_mean(word, valid)}")
        return tuple(dict.fromkeys(words)) if many else words[0]

    return parse


def _integer(least: int, most: int | None = None) -> Callable[[str], int]:
    wanted = f"a whole number of at least {least}" + ("" if most is None else f" and at most {most}")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"expected {wanted}") from None
        if value < least or (most is not None and value > most):
            raise ValueError(f"expected {wanted}")
        return value

    return parse


def _integers(least: int) -> Callable[[str], tuple[int, ...]]:
    one = _integer(least)

    def parse(text: str) -> tuple[int, ...]:
        try:
            values = tuple(one(word.strip()) for word in text.split(","))
        except ValueError:
            raise ValueError(f"expected a comma-separated list of whole numbers of at least {least}") from None
        return tuple(dict.fromkeys(values))

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError("expected a number of seconds above 0")
    return value


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("expected 1 or 0 (true/false, yes/no, on/off)")


def parse_url(text: str) -> str:
    """An http(s) address without a slash at its end. Raises ValueError for anything else."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise ValueError("expected an address such as http://127.0.0.1:30010")
    return text.rstrip("/")


def _existing_file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError("expected an existing file")
    return path


def _masks(text: str) -> tuple[str, ...]:
    own = MASKS[:3]  # flashinfer is one engine's only mask, and never one of several
    return own if text.strip() == "all" else _choice((*MASKS, "all"), many=True)(text)


def _program(text: str) -> str:
    found = shutil.which(Path(text).expanduser())
    if found is None:
        raise ValueError("expected a program that exists, such as /opt/sglang/bin/python")
    return str(Path(found).absolute())


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not all(names):
        raise ValueError("expected a comma-separated list of names, none of them empty")
    return names


def _chunk_sizes(text: str) -> tuple[int, ...]:
    return CHUNK_SIZES if text.strip() == "all" else tuple(sorted(_integers(1)(text)))


def _side_urls(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of a side, ``backend`` or ``backend@view``, and its address."""
    found: dict[str, str] = {}
    for entry in text.split(","):
        side, equals, url = entry.strip().partition("=")
        backend, at, view = side.partition("@")
        if not equals or backend not in BACKENDS or (at and view not in VIEWS):
            raise ValueError(
                f"expected BACKEND=URL or BACKEND@VIEW=URL, with a backend of {', '.join(BACKENDS)} and a view of "
                f"{', '.join(VIEWS)}"
            )
        found[side] = parse_url(url)
    return tuple(found.items())


def _prices(text: str) -> tuple[tuple[str, float], ...]:
    """Pairs of a backend ("" for all of them) and US dollars an hour."""
    found: dict[str, float] = {}
    for entry in text.split(","):
        backend, equals, price = entry.strip().rpartition("=")
        try:
            dollars = float(price)
        except ValueError:
            dollars = -1.0
        if not 0 < dollars < float("inf") or (equals and backend not in BACKENDS):
            raise ValueError("expected dollars an hour, such as 2.70 or pytorch=1.10,jax=2.70")
        found[backend] = dollars
    return tuple(found.items())


def _conditions(text: str) -> tuple[str, ...]:
    from pytest_multiitem.settings.conditions import parse

    conditions = tuple(dict.fromkeys(condition.strip() for condition in text.split(",")))
    for condition in conditions:
        parse(condition)
    return conditions


def _chips(text: str) -> tuple[str, ...]:
    return tuple(parse_chip(name) for name in _names(text))


def _directory_of_libtpu(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not (path / "libtpu").is_dir():
        raise ValueError("expected a directory that holds libtpu, as made by: pip install --target DIR libtpu")
    return path


def _gate_names(text: str) -> tuple[str, ...]:
    from pytest_multiitem.gates.registry import gate_names

    names: tuple[str, ...] = _choice((*gate_names(), EVERY_GATE), many=True)(text)
    return (EVERY_GATE,) if EVERY_GATE in names else names


def _fault_names(text: str) -> tuple[str, ...]:
    from pytest_multiitem.faults.catalogue import fault

    names = _names(text)
    try:
        return tuple(fault(name).label for name in names)
    except UsageError as error:
        raise ValueError(str(error)) from None
