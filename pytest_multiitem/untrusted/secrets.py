"""Keeps secrets out of what is shown and written: users give them in addresses, and servers tell theirs to whoever asks
for their arguments, or repeat ours in their errors."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NO_LETTER = re.compile(r"[^a-z0-9]+")
#: Ends of names, as words with "_" between them.
_SECRET = re.compile(
    r"(?:^|_)(?:(?:api|access|private|secret|signing|encryption|master|admin|auth)_?keys?|passwd|passwords?|passphrases?"
    r"|secrets?|credentials?|authorization|(?:basic|http|proxy)_auth|(?:set_)?cookies?|bearer)$|_pwd$"
)
_TOKEN = re.compile(r"(?:^|_)tokens?$")
#: Tokens of a vocabulary, or of a text.
_NO_SECRET = re.compile(
    r"(?:^|_)(?:bos|eos|pad|unk|sep|cls|mask|image|audio|video|stop|special|added|additional|start|end|begin|delimiter"
    r"|label|item|query|first|last|next|prev|per|max|min|num|total|input|output|prompt|unexpected|expected)_tokens?$"
)

#: A name and what joins it with its value, and a value, which may be quoted. Possessive: linear in any text.
_NAMED = re.compile(r"""(?P<name>(?<![\w.-])[\w.-]++)\\?["']?\s*+(?:=>|[:=])\s*+(?:[bru](?=["']))?""")
_VALUE = re.compile(r"""\\?"(?:[^"\\]|\\(?!"$).)*+"?|'(?:[^'\\]|\\.)*+'?|[^\s,;&)}\]"'\\]++""", re.DOTALL)
_FLAG = re.compile(r"(?P<flag>(?<!\S)--?[\w-]++)(?P<joint>\s++)(?P<value>\S++)")
_HEADER = re.compile(
    r"(?P<head>authorization\\?[\"']?\s*+[:=]\s*+(?:b(?=[\"']))?\\?[\"']?)(?:(?:bearer|basic|digest|token|apikey)\s++)?[^\s\"',;\\]++",
    re.IGNORECASE,
)
_COOKIE = re.compile(r"(?P<head>cookie\s*+:\s*+)[^\r\n\"']++", re.IGNORECASE)
_BEARER = re.compile(r"(?P<head>\bbearer\s++)[\w.~+/=-]{6,}", re.IGNORECASE)
#: Up to the last "@" before a space: a password may hold nearly anything, and rather the host goes than a part of it.
_USERINFO = re.compile(r"(?<=://)(?:(?!://)\S)*@")
_NOTHING = ("None", "null", "True", "False", "true", "false")
#: What well-known services give out.
_KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


#: Characters of a secret that is looked for in other words; a shorter one stands in them by chance.
_SHORTEST = 4


class Secret(str):
    """A text that a debugger or a traceback with local variables does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(REDACTED)


def names_secret(name: str) -> bool:
    """Whether a field, a flag, a variable or a header of that name holds a secret."""
    words = _words(name)
    return _SECRET.search(words) is not None or _names_token(words)


def redacted(value: Any) -> Any:
    """A JSON value without secrets, at any depth: those of fields that name one, of flags in lists, and in texts."""
    if isinstance(value, dict):
        named = any(isinstance(value.get(key), str) and names_secret(value[key]) for key in ("name", "key"))
        return {
            _text(key): REDACTED if _is_secret(key, entry) or (named and key == "value") else redacted(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return _entries(value)
    return without_secrets(value) if isinstance(value, str) else value


def redacted_command(command: Sequence[str]) -> list[str]:
    """A command line without the values of flags that name a secret, and without what words of it hold."""
    words: list[str] = []
    hide = False
    for word in command:
        flag, equals, _ = word.partition("=")
        secret = names_secret(flag)
        words.append(REDACTED if hide else f"{flag}={REDACTED}" if secret and equals else without_credentials(word))
        hide = secret and not equals and word.startswith("-")
    return words


def without_secrets(text: str) -> str:
    """A text without what it says to be a secret: ``--api-key K``, ``token=K``, ``"password": "K"``, an authorization
    header, the user and the password of an address, and keys by the form that well-known services give them."""
    text = _USERINFO.sub(f"{REDACTED}@", text)
    for pattern in (_HEADER, _COOKIE, _BEARER):
        text = pattern.sub(rf"\g<head>{REDACTED}", text)
    text = _without_values(text)
    text = _FLAG.sub(lambda f: f"{f['flag']}{f['joint']}{REDACTED}" if names_secret(f["flag"]) else f[0], text)
    return _KNOWN.sub(REDACTED, text)


def without_credentials(url: str) -> str:
    """A user's own word for an address, valid or not, without the user, the password and the keys that stand in it."""
    scheme, joint, rest = url.partition("://")
    if joint and "@" in rest:
        url = f"{scheme}://{REDACTED}@{rest.rpartition('@')[2]}"
    return without_secrets(url)


def without(text: str, secrets: Iterable[str]) -> str:
    """A text without these secrets, in whatever form it repeats them."""
    for secret in secrets:
        for form in _forms(str(secret)):
            text = text.replace(form, REDACTED)
    return text


@lru_cache(maxsize=16)
def _forms(secret: str) -> tuple[str, ...]:
    """How a secret may be written, the longest first."""
    if len(secret) < _SHORTEST:
        return ()
    encoded = base64.b64encode(secret.encode()).decode()
    forms = {
        secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1],
        repr(secret)[1:-1], repr(secret.encode())[2:-1], encoded, encoded.rstrip("="),
    }  # fmt: skip
    return tuple(sorted(forms, key=len, reverse=True))


def _entries(values: Sequence[Any]) -> list[Any]:
    """A list's entries; what follows a flag, or the name in a pair, is its value."""
    shown: list[Any] = []
    for index, value in enumerate(values):
        before = values[index - 1] if index else None
        is_name = isinstance(before, str) and names_secret(before) and (before.startswith("-") or len(values) == 2)
        shown.append(REDACTED if is_name and isinstance(value, str) and "=" not in str(before) else redacted(value))
    return shown


def _is_secret(name: object, value: Any) -> bool:
    """Whether a field holds a secret; one that is off or empty does not, and one of the vocabulary's is a number."""
    words = _words(str(name))
    if not value or isinstance(value, bool):
        return False
    return _SECRET.search(words) is not None or (_names_token(words) and _is_text(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and any(isinstance(entry, str) for entry in value))


def _words(name: str) -> str:
    return _NO_LETTER.sub("_", _HUMP.sub("_", name).lower()).strip("_")


def _names_token(words: str) -> bool:
    return _TOKEN.search(words) is not None and _NO_SECRET.search(words) is None


def _without_values(text: str) -> str:
    """A text without the values of names that name a secret."""
    shown, done, place = [], 0, 0
    while named := _NAMED.search(text, place):
        place = named.end()
        if (
            names_secret(named["name"])
            and (value := _VALUE.match(text, place))
            and _may_be_secret(named["name"], value[0])
        ):
            shown += [text[done:place], REDACTED]
            done = place = value.end()
    return "".join([*shown, text[done:]])


def _may_be_secret(name: str, value: str) -> bool:
    plain = value.strip("\"'\\")
    if not plain or plain in _NOTHING or plain == REDACTED[:-1]:
        return False
    return not (plain.isdecimal() and _names_token(_words(name)))


def _text(word: object) -> str:
    return without_secrets(str(word))
