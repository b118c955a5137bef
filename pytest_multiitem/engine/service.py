"""What is served: a scorer, its tokenizer, and the limits of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_multiitem.engine.intake import Intake
from pytest_multiitem.engine.scorer import MAX_SCORES
from pytest_multiitem.engine.tokenizer import TextTokenizer
from pytest_multiitem.engine.worker import Worker
from pytest_multiitem.scoring.steps import ScoringSteps
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.fields import check_token_ids, empty_query


@dataclass(frozen=True, eq=False, kw_only=True)
class Service:
    """What is served.

    ``tokenizer``: ``None`` refuses text. ``model``: the served name. ``max_positions``: in tokens.
    ``probe_ids``: valid ids (at least one) for the health check's own request. ``info``: the part of
    ``/get_server_info`` that does not change.
    """

    scorer: ScoringSteps
    tokenizer: TextTokenizer | None
    model: str
    vocab_size: int
    max_positions: int
    probe_ids: Sequence[int]
    info: Mapping[str, Any]
    worker: Worker = field(default_factory=Worker)
    intake: Intake = field(default_factory=Intake)

    @property
    def max_text_chars(self) -> int | None:
        """Characters of one text: more are more tokens than the model has positions, whatever they are."""
        return None if self.tokenizer is None else self.max_positions * self.tokenizer.longest_token

    @property
    def limits(self) -> dict[str, int | None]:
        """What a request may be at most, and how many may wait, as ``/get_server_info`` says it."""
        return {
            "max_body_bytes": self.intake.most_bytes,
            "max_held_bytes": self.intake.most_held_bytes,
            "max_items": self.scorer.config.max_items,
            "max_labels": self.vocab_size,
            "max_scores": MAX_SCORES,
            "max_positions": self.max_positions,
            "max_text_chars": self.max_text_chars,
            "max_queued_requests": self.worker.most_queued,
        }

    def words(self, param: str) -> TextTokenizer:
        """The tokenizer, for the text of a field. Raises WireError where there is none."""
        if self.tokenizer is None:
            message = f"{param} is text, but the served checkpoint has no tokenizer.json; send lists of token ids"
            raise WireError(400, "text_not_supported", message, param)
        return self.tokenizer

    def tokenise(self, query: str, items: Sequence[str], params: tuple[str, str]) -> tuple[list[int], list[list[int]]]:
        """The checked ids of a query and of its items, each text by itself; ``params``: what a request calls the two.

        Raises WireError.
        """
        tokenizer = self.words(params[0])
        self.check_length(query, params[0])
        for number, text in enumerate(items):
            self.check_length(text, f"{params[1]}[{number}]")
        ids, of_items = self.scorer.tokenise(query, items, tokenizer.encode)
        if not ids:
            raise empty_query()
        check_token_ids(ids, of_items, vocab_size=self.vocab_size)
        return ids, of_items

    def check_length(self, text: str, param: str) -> None:
        """Refuse a text before it is tokenised where no tokens of it can be few enough. Raises WireError."""
        most = self.max_text_chars
        if most is not None and len(text) > most:
            message = f"{param} has {len(text)} characters; this server takes at most {most} in one text: shorten it"
            raise WireError(400, "sequence_too_long", message, param)

    def token_of(self, text: str) -> int | None:
        """The one token of the vocabulary that a text is by itself; None where it is none, or several."""
        ids = [] if self.tokenizer is None else self.tokenizer.encode(text)
        return ids[0] if len(ids) == 1 and ids[0] < self.vocab_size else None
