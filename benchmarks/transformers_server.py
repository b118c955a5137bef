"""What one writes without an engine: transformers' own model, item by item or in padded batches, behind the same wire.

    python benchmarks/transformers_server.py --model-path DIR --batch 1 --port 30040

``--batch 1``: a loop, one forward pass of ``query + item`` at a time. ``--batch B``: B of them at a time, padded on the
right to the longest. In both, attention is transformers' fastest on a CPU (scaled_dot_product_attention), nothing is
cached, and logits are computed of the last tokens only: the library used well. No attention mask is given: padding
stands after the row that is read, so causality hides it, and without a mask a faster kernel runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.serve import serve_until_stopped
from pytest_multiitem.engine.service import Service
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.scoring.steps import Ids, ScoreResult, ScoringSteps
from pytest_multiitem.transport.listening import bind, listen, until_signal

#: Above the items of any request that is measured, as the embedded servers have it.
_MOST_ITEMS = 4096


class TransformersScores(ScoringSteps):
    """The scorer of an `engine.app.Service`: N sequences ``query + item``, ``batch`` at a time, in float32 on a CPU."""

    def __init__(self, model: Any, batch: int) -> None:
        self._model = model
        self._batch = batch
        self._config = ScorerConfig(max_items=_MOST_ITEMS)

    @property
    def config(self) -> ScorerConfig:
        """One sequence an item."""
        return self._config

    @property
    def vocab_size(self) -> int:
        """The model's."""
        return int(self._model.config.vocab_size)

    @property
    def classes(self) -> None:
        """A causal LM."""
        return

    @property
    def pooled(self) -> int:
        """No states are given."""
        return 0

    def score(
        self,
        query: Ids,
        items: Sequence[Ids],
        labels: Ids,
        apply_softmax: bool,
        item_first: bool = False,
        extraction: int | None = None,
    ) -> ScoreResult:
        """Softmax scores [N, K] over the labels, whatever ``apply_softmax`` says: it is what the benchmark asks for."""
        import torch

        sequences = [[*query, *item] for item in items]
        rows = []
        with torch.inference_mode():
            for at in range(0, len(sequences), self._batch):
                batch = sequences[at : at + self._batch]
                width = max(map(len, batch))
                tokens = torch.tensor([[*one, *[0] * (width - len(one))] for one in batch])
                last = torch.tensor([len(one) - 1 for one in batch])
                hidden = self._model.model(input_ids=tokens, use_cache=False).last_hidden_state
                logits = self._model.lm_head(hidden[torch.arange(len(batch)), last])
                rows.append(torch.softmax(logits[:, list(labels)].double(), dim=-1).numpy())
        return ScoreResult(np.concatenate(rows), sum(map(len, sequences)))

    def flush_cache(self) -> None:
        """There is none."""

    def executed(self) -> dict[str, Any]:
        """Nothing is counted."""
        return {}


def main() -> int:
    """Load, then serve until a signal; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", required=True, metavar="DIR")
    parser.add_argument("--batch", type=int, default=1, help="sequences of a forward pass (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30040)
    args = parser.parse_args()
    if args.batch < 1:
        parser.error(f"--batch is {args.batch}; expected at least 1")
    return until_signal("transformers_server", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the embedded server has it
    import torch
    import transformers

    with bind(args.host, args.port, who="the benchmark's server") as listener:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            args.model_path, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        ).eval()
        config = model.config
        service = Service(
            scorer=TransformersScores(model, args.batch),
            tokenizer=None,
            model="transformers",
            vocab_size=config.vocab_size,
            max_positions=config.max_position_embeddings,
            probe_ids=[0, 1],
            info={"engine": "transformers", "batch": args.batch},
        )
        listen(listener, args.host, args.port)
        serve_until_stopped(listener, create_app(service), service.worker, "warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
