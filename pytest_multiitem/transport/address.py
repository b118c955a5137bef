"""An address without the user and the password that a user gave in it, and the key that goes with it."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Self
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from pytest_multiitem.errors import UsageError
from pytest_multiitem.untrusted.secrets import Secret, without_secrets

#: The endpoint's own path, with which users of other tools give an address.
SCORE_PATH = "/v1/score"
_EXPECTED = "expected an address such as http://127.0.0.1:30010, without spaces and without ? and # behind it"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Address(str):
    """The base address of a server, as it may be shown and written. ``login``: user and password, for the connection
    alone; a text made from it has none any more."""

    login: tuple[str, Secret] | None

    def __new__(cls, text: str) -> Self:
        """Raises ValueError for anything but an http(s) address, and for one with a query or a fragment: paths are
        added to it."""
        if isinstance(text, cls):
            return text
        parts = urlsplit("")
        with suppress(ValueError):  # its own words repeat what may be a password
            split = urlsplit(text)
            parts = split if split.hostname and split.port != 0 else parts
        further = parts.query or parts.fragment or " " in text or not text.isprintable()
        if parts.scheme not in ("http", "https") or further:
            raise ValueError(_EXPECTED)
        path = parts.path.rstrip("/").removesuffix(SCORE_PATH)
        host = parts.netloc.rpartition("@")[2]
        address = super().__new__(cls, urlunsplit(SplitResult(parts.scheme, host, path, "", "")).rstrip("/"))
        user, password = parts.username, parts.password
        address.login = (unquote(user or ""), Secret(unquote(password or ""))) if user or password else None
        return address


def with_login(address: Address) -> str:
    """An address with its user and password, for a process that connects itself; never shown, never written."""
    if address.login is None:
        return str(address)
    user, password = (quote(part, safe="") for part in address.login)
    scheme, _, rest = str(address).partition("://")
    return Secret(f"{scheme}://{user}:{password}@{rest}")


def is_same_server(first: str, second: str) -> bool:
    """Whether two addresses, however they are written, lead to one server, as far as names say. Two names of one
    machine elsewhere may be two servers behind a gateway, which tells them by the name."""
    a, b = urlsplit(first), urlsplit(second)
    if a.path.rstrip("/") != b.path.rstrip("/"):
        return False
    shared = _places(a) & _places(b)
    names = {host.lower() for host in (a.hostname or "", b.hostname or "") if not _is_number(host)}
    return bool(shared) and (len(names) < 2 or any(ip_address(host).is_loopback for host, _ in shared))


def _places(parts: SplitResult) -> set[tuple[str, int]]:
    """The numeric hosts that an address leads to, with its port; none where nobody knows its name."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {(str(place[0]).partition("%")[0], port) for *_, place in found}


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def key_variable(name: str) -> str:
    """The name of the environment variable that holds the API key. Raises UsageError for what is no name: that may be
    the key itself, and is not shown."""
    if not _NAME.fullmatch(name) or without_secrets(name) != name:
        raise UsageError(
            "the option for the API key takes the NAME of an environment variable; what was given is none, and is not "
            "shown, for it may be the key itself: export it, and name the variable"
        )
    return name


def api_key(variable: str) -> Secret | None:
    """The API key that an environment variable holds, without space around it; None where it holds none.

    Raises UsageError for what no HTTP header can carry, and as `key_variable` does.
    """
    key_variable(variable)
    key = os.environ.get(variable, "").strip()
    place = next((index for index, char in enumerate(key, 1) if not "\x20" < char < "\x7f"), None)
    if place is not None:
        raise UsageError(
            f"environment variable {variable} holds no API key: character {place} of {len(key)} is none that one may "
            "have (visible ASCII); set it anew, without spaces, line breaks and quotes from a document"
        )
    return Secret(key) if key else None
