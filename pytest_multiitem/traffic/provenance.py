"""Where the requests of a measurement came from."""

from __future__ import annotations

import msgspec


class TrafficSource(msgspec.Struct, kw_only=True):
    """A user's file, and what was taken of it.

    ``sha256``: of the file. ``requests``: in the file; ``drawn``: how many of them are sent, chosen by ``seed`` where
    that is fewer. ``tokenizer``: what made ids of text; None where all content was ids.
    """

    path: str
    sha256: str
    requests: int
    drawn: int
    seed: int
    tokenizer: str | None = None

    @property
    def words(self) -> str:
        """In a line."""
        part = f"{self.drawn} request{'s' * (self.drawn != 1)}"
        if self.drawn < self.requests:
            part = f"a sample of {self.drawn} of {self.requests} requests (seed {self.seed})"
        of = f" as text by the tokenizer {self.tokenizer}" if self.tokenizer else ""
        return f"{part} of {self.path}{of}, sha256 {self.sha256[:12]}"
