"""Faults of what a text becomes: its token ids, before anything is scored."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from pytest_multiitem.faults.base import ScorerFault
from pytest_multiitem.scoring.steps import Encode

#: The text of a token that stands before content in a chat's template.
_SPECIAL = "<|im_start|>"


class TextSpecialToken(ScorerFault, name="text_special_token", number=34, seen="sglang 0.5.20 and earlier"):
    """A text item is tokenised with a special token in front of it; token ids are taken as they are."""

    @override
    def tokenise(self, query: str, items: Sequence[str], encode: Encode) -> tuple[list[int], list[list[int]]]:
        """One token, of which the tokenizer or the model may know nothing: then it is another one."""
        query_ids, contents = self.inner.tokenise(query, items, encode)
        extra = next(iter(encode(_SPECIAL)), 0)
        if extra >= self.vocab_size or extra == self.config.delimiter:
            extra = 0
        return query_ids, [[extra, *content] for content in contents]


class TextJoint(ScorerFault, name="text_joint", number=34, scope=frozenset({"serial"})):
    """The serial server tokenises a query and an item as one text, with a space between them; the packed one, each by
    itself. Token ids are taken as they are."""

    seen = "serial against packed, sglang 0.5.23"

    @override
    def tokenise(self, query: str, items: Sequence[str], encode: Encode) -> tuple[list[int], list[list[int]]]:
        """An item is what stands behind as many tokens as the query has by itself."""
        query_ids, _ = self.inner.tokenise(query, [], encode)
        return query_ids, [encode(f"{query} {item}")[len(query_ids) :] for item in items]
