"""``multiitem checkpoint``: a small model to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.modes import Head

#: What rerank needs.
_ONE_CLASS = 1


def checkpoint(
    directory: Annotated[Path, typer.Argument(help="Where to write; must not exist, or be empty.")],
    hidden_size: int = 128,
    intermediate_size: int = 384,
    num_hidden_layers: int = 3,
    num_attention_heads: int = 4,
    num_key_value_heads: int = 2,
    head_dim: int = 32,
    vocab_size: int = 151_936,
    seed: int = 20_260_101,
    head: Annotated[
        Head, typer.Option("--head", help="What reads scores: logits of tokens, or a classification head's classes.")
    ] = Head.CAUSAL,
    num_labels: Annotated[
        int | None, typer.Option("--num-labels", help="Classes of a classification head (default: 1).")
    ] = None,
    full_tokenizer: Annotated[
        bool, typer.Option("--full-tokenizer", help="Name every id; sglang refuses label ids that have no name.")
    ] = False,
) -> None:
    """Write a Qwen3 checkpoint of random weights whose scores discriminate (config, weights, tokenizer)."""
    from pytest_multiitem.engine.checkpoint import CheckpointSpec, write_checkpoint

    if num_labels is not None and head is Head.CAUSAL:
        raise UsageError(
            f"--num-labels is {num_labels}, but a causal LM has no classes; add --head classification, or leave it out"
        )
    spec = CheckpointSpec(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        seed=seed,
        num_labels=_ONE_CLASS if head is Head.CLASSIFICATION and num_labels is None else num_labels,
    )
    write_checkpoint(directory, spec, full_tokenizer=full_tokenizer)
    size = sum(path.stat().st_size for path in directory.iterdir()) / 2**20
    say(f"wrote {directory} ({size:.1f} MiB); serve it with: multiitem serve --model-path {directory}")
