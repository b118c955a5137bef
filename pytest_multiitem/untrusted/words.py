"""A server's words are data: whatever shows them shows text, and nothing in them acts.

Everything that this package prints, writes or raises passes here: a terminal, a log, JUnit XML and a CI service that
reads commands from a log then see ordinary characters. `reports.blocks.escape` does the rest for Markdown and HTML.
"""

from __future__ import annotations

import re

#: What has no width of its own although Python calls it printable: joiners, fillers, variation selectors.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
#: How a line of a log becomes a command of a CI service: ``::error …`` at its beginning (GitHub, for which the address
#: ``::1`` is none), ``##[error]``, ``##vso[…]`` or ``##teamcity[…]`` anywhere (GitHub, Azure, TeamCity).
_ACTS = re.compile(rf"[{_INVISIBLE}]|#(?=#\w*\[)|(?<![^\s]):(?=:[^\W\d])")


def plain(text: str) -> str:
    """A text in which every character shows as itself or as its escape: no control, no line break, no bidirectional
    mark, nothing invisible, no command of a CI service. What was harmless before stays as it is."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " if char == "\t" else _escaped(char) for char in text)
    return _ACTS.sub(lambda found: _escaped(found[0]), text)


def plain_lines(text: str) -> str:
    """As `plain`, for a text whose line breaks are our own."""
    return "\n".join(map(plain, text.split("\n")))


def _escaped(char: str) -> str:
    named = {"\n": "\\n", "\r": "\\r"}.get(char)
    code = ord(char)
    return named or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
