"""From the text of an option to its value; each raises ValueError saying what was expected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pytest_multiitem import data
from pytest_multiitem.errors import did_you_mean
from pytest_multiitem.scoring.vocabulary import ALL, CHUNK_SIZES, VIEWS
from pytest_multiitem.transport.address import Address

#: What turns a switch on, and off.
SWITCH_WORDS = {True: ("1", "true", "yes", "on"), False: ("0", "false", "no", "off")}
#: Where the files of launch variants lie that ship, and what their names begin with.
_DATA = Path(data.__file__).parent
_VARIANTS = "profile_matrix_"


def choice(*known: str) -> Callable[[str], str]:
    """A parser for one of the known words."""

    def parse(text: str) -> str:
        word = text.strip()
        if word not in known:
            raise ValueError(f"expected one of {', '.join(known)}{did_you_mean(word, known)}")
        return word

    return parse


def choices(*known: str) -> Callable[[str], tuple[str, ...]]:
    """A parser for a comma-separated list of known words; ``all`` means every one."""

    def parse(text: str) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
        if words == (ALL,):
            return known
        for word in words:
            if word not in known:
                valid = (*known, ALL)
                raise ValueError(f"expected a comma-separated list of {', '.join(valid)}{did_you_mean(word, valid)}")
        return words

    return parse


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser for a whole number."""
    wanted = f"a whole number of at least {least}" + ("" if most is None else f" and at most {most}")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise ValueError(f"expected {wanted}")
        return value

    return parse


def part(text: str) -> str:
    """K/N: the K-th of N parts, from 1."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError("expected K/N, the K-th of N parts, such as 1/2")
    return f"{int(number)}/{int(count)}"


def integers(least: int) -> Callable[[str], tuple[int, ...]]:
    """A parser for a comma-separated list of whole numbers, each once."""
    one = integer(least)

    def parse(text: str) -> tuple[int, ...]:
        try:
            values = tuple(one(word.strip()) for word in text.split(","))
        except ValueError:
            raise ValueError(f"expected a comma-separated list of whole numbers of at least {least}") from None
        return tuple(dict.fromkeys(values))

    return parse


def seconds(text: str) -> float:
    """A time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError("expected a number of seconds above 0")
    return value


def switch(text: str) -> bool:
    """On or off. Raises ValueError for any other word."""
    for value, words in SWITCH_WORDS.items():
        if text.strip().lower() in words:
            return value
    raise ValueError("expected 1 or 0 (true/false, yes/no, on/off)")


def existing_file(text: str) -> Path:
    """The path of a file that is there."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError("expected an existing file")
    return path


def variants_file(text: str) -> Path:
    """The path of a file of launch variants that is there; else one that ships, by the name of its engine."""
    path = Path(text).expanduser()
    shipped = {file.stem.removeprefix(_VARIANTS): file for file in _DATA.glob(f"{_VARIANTS}*.toml")}
    if path.is_file():
        return path
    if text not in shipped:
        raise ValueError(f"expected an existing file, or the name of one that ships: {', '.join(sorted(shipped))}")
    return shipped[text]


def program(text: str) -> str:
    """The absolute path of a program, which may be named by its path or stand on PATH."""
    path = shutil.which(Path(text).expanduser())
    if path is None:
        raise ValueError("expected a program that exists, such as /opt/sglang/bin/python")
    return str(Path(path).absolute())


def names(text: str) -> tuple[str, ...]:
    """A list of names, each once. What they name is known later: engines, gates and faults may be a project's own."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not all(words):
        raise ValueError("expected a comma-separated list of names, none of them empty")
    return words


def names_or_all(text: str) -> tuple[str, ...]:
    """As `names`; ``all`` among them stands for every one that there is."""
    words = names(text)
    return (ALL,) if ALL in words else words


def chunk_sizes(text: str) -> tuple[int, ...]:
    """Client chunk sizes, ascending; ``all`` are those of the comparison contract."""
    return CHUNK_SIZES if text.strip() == ALL else tuple(sorted(integers(1)(text)))


def side_urls(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of a side, ``backend`` or ``backend@view``, and its address."""
    addresses: dict[str, str] = {}
    for entry in text.split(","):
        side, equals, url = entry.strip().partition("=")
        backend, at, view = side.partition("@")
        if not equals or not backend or (at and view not in VIEWS):
            raise ValueError(f"expected BACKEND=URL or BACKEND@VIEW=URL, with a view of {', '.join(VIEWS)}")
        addresses[side] = Address(url)
    return tuple(addresses.items())


def prices(text: str) -> tuple[tuple[str, float], ...]:
    """Pairs of a backend ("" for all of them) and US dollars an hour."""
    dollars_of: dict[str, float] = {}
    for entry in text.split(","):
        backend, equals, price = entry.strip().rpartition("=")
        try:
            dollars = float(price)
        except ValueError:
            dollars = -1.0
        if not 0 < dollars < float("inf") or (equals and not backend):
            raise ValueError("expected dollars an hour, such as 2.70 or pytorch=1.10,jax=2.70")
        dollars_of[backend] = dollars
    return tuple(dollars_of.items())


def directory_of(package: str) -> Callable[[str], Path]:
    """The absolute path of a directory that a package is installed in."""

    def parse(text: str) -> Path:
        path = Path(text).expanduser().absolute()
        if not (path / package).is_dir():
            raise ValueError(
                f"expected a directory that holds {package}, as made by: pip install --target DIR {package}"
            )
        return path

    return parse
