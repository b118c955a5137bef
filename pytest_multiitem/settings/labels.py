"""Labels as they are given on a command line: token ids, or text that stands for one token."""

from __future__ import annotations

import json
import re

_WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^",]*)\s*(?:,|$)')
_EXPECTED = (
    "expected a comma-separated list of whole numbers of at least 0 (token ids), or of text that is one token each, "
    'such as yes,no; in quotation marks where it has a comma, a space or a number: \'" yes"," no"\''
)


def label_words(text: str) -> tuple[str | int, ...]:
    """Token ids as numbers, text as text, each once. Raises ValueError saying what was expected."""
    words: list[str | int] = []
    at = 0
    while at <= len(text):
        match = _WORD.match(text, at)
        if match is None:
            raise ValueError(_EXPECTED)
        words.append(_label(match[1].strip()))
        at = match.end() if match[0].endswith(",") else len(text) + 1
    return tuple(dict.fromkeys(words))


def _label(word: str) -> str | int:
    if word.startswith('"'):
        try:
            label = json.loads(word)
        except ValueError:
            raise ValueError(_EXPECTED) from None
        if not isinstance(label, str) or not label:
            raise ValueError(_EXPECTED)
        return label
    if word.isascii() and word.isdigit():
        return int(word)
    if not word or word[0].isdigit() or word[0] in "+-" or any(map(str.isspace, word)):
        raise ValueError(_EXPECTED)
    return word
