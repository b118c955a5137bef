"""Reading a user's files, which may be anything: too large, no file at all, or JSON that means two things."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from pytest_multiitem.errors import UsageError

#: A larger file is refused before it is read: decoded, it may take twenty times its size in memory.
MAX_BYTES: Final = 64 * 2**20
#: Whole numbers beyond this fit no integer of other tools, and no float.
_MAX_INTEGER = 2**63 - 1
Content = TypeVar("Content")


def read_bytes(path: Path, what: str = "") -> bytes:
    """A regular file's content; ``what``: what it is called in errors. Raises UsageError, and never waits: not for a
    writer of a FIFO either."""
    called = f"{what} {path}" if what else str(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return _content(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise UsageError(f"cannot read {called}: {error.strerror}") from None
    except ValueError as error:  # as well of a path that holds a null byte
        raise UsageError(f"cannot read {called}: {error}") from None


def _content(handle: int) -> bytes:
    status = os.fstat(handle)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size <= MAX_BYTES:
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) <= MAX_BYTES:
            return content
    raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB, the most that is read")


def decode_json(content: bytes) -> Any:
    """Decoded JSON, in UTF-8; NaN and Infinity, which other tools write, are read as what they are.

    Raises ValueError for everything else that is no JSON, and for what other readers read as something else: a key
    that stands twice in one object, a whole number beyond 64 bits, half a character.
    """
    try:
        decoded = json.loads(content.decode(), object_pairs_hook=_without_repeats, parse_int=_whole)
        if b"\\u" in content:  # an escape may stand for half a character, which no file and no terminal takes
            json.dumps(decoded, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it holds half a character (a lone surrogate)") from None
    return decoded


def read_json(path: Path, what: str = "") -> Any:
    """A file's decoded content. Raises UsageError, as `read_bytes` and `decode_json`."""
    content = read_bytes(path, what)
    try:
        return decode_json(content)
    except ValueError as error:
        called = f"{what} {path}" if what else str(path)
        raise UsageError(f"{called} is not valid JSON: {error}") from None


def read_typed(path: Path, what: str, kind: type[Content]) -> Content:
    """The content of a file that a user writes, in JSON where its name ends so, else in TOML; ``what``: what it is
    called in errors.

    Raises UsageError, which says where in the file what was expected.
    """
    content = read_bytes(path, what)
    try:
        decoded = decode_json(content) if path.suffix == ".json" else tomllib.loads(content.decode())
        return msgspec.convert(decoded, kind)
    except msgspec.ValidationError as error:
        placed = re.sub(r" - at `\$\.?(.+)`$", r" (at `\1`)", str(error))  # the place as a user would write it
        raise UsageError(f"{what} {path}: {placed}") from None
    except (ValueError, RecursionError) as error:  # of TOML, of JSON, of what is no UTF-8
        written = "JSON" if path.suffix == ".json" else "TOML"
        raise UsageError(f"{what} {path}: not valid {written}: {error}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose every key stands in it once: of two, one would be dropped unseen."""
    made = dict(pairs)
    if len(made) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {key!r:.80} stands in it {count} times")
    return made


def _whole(digits: str) -> int:
    if len(digits) <= len(str(_MAX_INTEGER)) + 1 and abs(number := int(digits)) <= _MAX_INTEGER:
        return number
    raise ValueError(f"a whole number beyond 64 bits: {digits[:24]}{'…' if digits[24:] else ''}")
