"""Text to token ids, with the checkpoint's own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pytest_multiitem.errors import CheckpointError


class TextTokenizer:
    """``tokenizer.json`` of a checkpoint directory.

    Adds no special tokens. The text of a special token inside content becomes that token, as the
    tokenizer has it; where it is the delimiter, the scorer refuses the request.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise CheckpointError(f"{file} cannot be read as a tokenizer: {error}") from error
        # A tokenizer.json may ask for truncation or padding: both would change content silently.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        #: Characters of the longest token, written as in the vocabulary: in bytes, where that is of bytes.
        self.longest_token: int = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)), default=1)

    def encode(self, text: str) -> list[int]:
        """The token ids of ``text`` alone; a query and its items are encoded separately.

        So that packed and serial scoring see the same ids, whatever the merge across the seam would be.
        """
        # The library computes a single text with Python's lock held, and a batch without: nothing else would run.
        return self._tokenizer.encode_batch([text], add_special_tokens=False)[0].ids

    def id_of(self, token: str) -> int | None:
        """The id of the token that is written so; None where there is none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found


def load_tokenizer(directory: Path) -> TextTokenizer | None:
    """The tokenizer of a checkpoint directory; ``None`` where it has no tokenizer.json.

    Raises CheckpointError where the file is damaged.
    """
    file = directory / "tokenizer.json"
    return TextTokenizer(file) if file.is_file() else None
