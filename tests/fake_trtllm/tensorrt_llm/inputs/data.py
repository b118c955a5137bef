"""The field by which a version shows that it packs."""

from typing import TypedDict


class TokensPrompt(TypedDict):
    """A prompt of token ids."""

    prompt_token_ids: list[int]
    multi_item_part_lens: list[int]
