"""A tokenizer's ordinary tokens: the ids that content can be drawn from."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import ucd_3_2_0

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import TokenIds

#: A pool of fewer ids than this makes items that look alike.
MIN_CONTENT_IDS = 100
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class ContentTokens:
    """``ids``: what content is drawn from, ascending. ``vocab_size``: one more than the tokenizer's highest id."""

    ids: TokenIds
    vocab_size: int


def content_tokens(source: str, excluded: Collection[int], *, vocab_size: int | None = None) -> ContentTokens:
    """The ids of a tokenizer that are ordinary text, none of the ``excluded`` ones.

    Ordinary: no special and no added token; printable text that encodes back to that very id, so that no half of
    a character and nothing that the tokenizer itself never produces is among them. ``vocab_size``: ids from there
    on are left out. ``source``: a directory with a tokenizer.json, such a file, or a hub id.

    Raises UsageError where there is no such tokenizer, or where it has fewer than 100 such ids.
    """
    tokenizer = load_tokenizer(source)
    known = set(tokenizer.get_vocab(with_added_tokens=True).values())
    banned = {*excluded, *tokenizer.get_added_tokens_decoder()}
    wanted = sorted(i for i in known - banned if vocab_size is None or i < vocab_size)
    texts = tokenizer.decode_batch([[i] for i in wanted], skip_special_tokens=False)
    clean = [(i, text) for i, text in zip(wanted, texts, strict=True) if _is_clean(text)]
    encodings = tokenizer.encode_batch([text for _, text in clean], add_special_tokens=False)
    ids = tuple(i for (i, _), encoding in zip(clean, encodings, strict=True) if encoding.ids == [i])
    if len(ids) < MIN_CONTENT_IDS:
        below = "" if vocab_size is None else f" below {vocab_size}"
        raise UsageError(
            f"tokenizer {source} has {len(ids)} ids{below} that are ordinary text; expected at least "
            f"{MIN_CONTENT_IDS}; leave the tokenizer out to draw from plain ids"
        )
    return ContentTokens(ids, max(known) + 1)


def _is_clean(text: str) -> bool:
    """Whether a text holds a visible character, and no control, format or replacement character.

    By the Unicode version that every Python has: str.isprintable() differs from one Python to the next, and with it
    the ids would.
    """
    categories = {ucd_3_2_0.category(character) for character in text if character != " "}
    return bool(categories) and not any(c[0] in "CZ" for c in categories) and "\N{REPLACEMENT CHARACTER}" not in text


def load_tokenizer(source: str) -> Any:
    """A ``tokenizers.Tokenizer``; no code that lies beside it is run. ``source``: as in `content_tokens`.

    Raises UsageError where there is no such tokenizer.
    """
    from tokenizers import Tokenizer

    path = Path(source).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    on_disk = path.exists()
    if on_disk and not file.is_file():
        raise UsageError(f"{path} has no tokenizer.json; name a directory that has one, the file itself, or a hub id")
    if not on_disk and (_HUB_ID.fullmatch(source) is None or path.suffix == ".json"):
        raise UsageError(f"tokenizer {source} does not exist; expected a directory, a tokenizer.json, or a hub id")
    try:
        tokenizer = Tokenizer.from_file(str(file)) if on_disk else Tokenizer.from_pretrained(source)
    except Exception as error:  # the library raises bare Exception for a damaged file
        problem = f"{file} cannot be read as a tokenizer" if on_disk else f"the hub gave no tokenizer {source}"
        raise UsageError(f"{problem}: {error}; name a directory that has a tokenizer.json") from error
    # Truncation or padding, which a tokenizer.json may ask for, would change what a text encodes to.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
