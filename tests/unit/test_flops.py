"""The count of operations, against one that walks a mask: which rows a score depends on, layer by layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_multiitem.bench import flops
from pytest_multiitem.bench.flops import Work
from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.semantics import Semantics

CONFIG = ModelConfig(
    vocab_size=97, hidden_size=5, intermediate_size=7, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-6, rope_theta=1e6, max_position_embeddings=99,
    tie_word_embeddings=True,
)  # fmt: skip
QUERY, LABELS = 4, 3
RAGGED = [3, 1, 5, 2]
PRODUCTION = [semantics for semantics in Semantics if semantics.has_serial_reference]


def product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def walked(config: ModelConfig, mask: np.ndarray, read: list[int], *, needed: bool, cached: int = 0) -> Work:
    """Count a forward pass from its mask [S, S], product by product, from the last layer down; the keys and values of
    the first ``cached`` rows are there already."""
    matrix = attention = 0
    query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    wanted = set(read) if needed else set(range(cached, len(mask)))
    for _ in range(config.num_hidden_layers):
        sources = {int(key) for row in wanted for key in np.flatnonzero(mask[row]) if key >= cached}
        matrix += product(len(wanted), config.hidden_size, query) + product(len(wanted), query, config.hidden_size)
        matrix += 2 * product(len(sources), config.hidden_size, kv)
        matrix += 2 * product(len(wanted), config.hidden_size, config.intermediate_size)
        matrix += product(len(wanted), config.intermediate_size, config.hidden_size)
        for row in wanted:
            for _ in np.flatnonzero(mask[row]):
                attention += 2 * product(config.num_attention_heads, config.head_dim, 1)
        wanted = wanted | sources
    return Work(matrix + product(len(set(read) if needed else read), config.hidden_size, LABELS), attention)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("items", [RAGGED, [2], [3, 0, 2, 0], [0]], ids=str)
@pytest.mark.parametrize("semantics", PRODUCTION)
@pytest.mark.parametrize("needed", [True, False], ids=["needed", "nominal"])
def test_packed(semantics: Semantics, items: list[int], layers: int, needed: bool) -> None:
    config = replace(CONFIG, num_hidden_layers=layers)
    layout = build_layout([1] * QUERY, [[2] * length for length in items], 9, semantics)
    counted = flops.packed(config, QUERY, items, labels=LABELS, semantics=semantics, needed=needed)
    assert counted == walked(config, layout.mask(), layout.score_index.tolist(), needed=needed)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("needed", [True, False], ids=["needed", "nominal"])
def test_prefill_extend_computes_no_delimiter(layers: int, needed: bool) -> None:
    config = replace(CONFIG, num_hidden_layers=layers)
    layout = build_layout([1] * QUERY, [[2] * length for length in RAGGED], 9, Semantics.QUERY_PREFIX)
    kept = np.flatnonzero(~layout.is_delimiter)
    read = np.searchsorted(kept, layout.score_index).tolist()
    counted = flops.extended(config, QUERY, RAGGED, labels=LABELS, needed=needed)
    assert counted == walked(config, layout.mask()[np.ix_(kept, kept)], read, needed=needed)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("needed", [True, False], ids=["needed", "nominal"])
def test_serial_runs_the_query_every_time(layers: int, needed: bool) -> None:
    config = replace(CONFIG, num_hidden_layers=layers)
    counted = flops.serial(config, QUERY, RAGGED, labels=LABELS, needed=needed)
    each = [
        walked(config, np.tri(QUERY + length, dtype=bool), [QUERY + length - 1], needed=needed) for length in RAGGED
    ]
    matrix, attention = (sum(getattr(work, name) for work in each) for name in ("matrix", "attention"))
    assert counted == Work(matrix, attention) and counted.total == matrix + attention


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("items", [RAGGED, [1], [3, 0, 2, 0]], ids=str)
@pytest.mark.parametrize("needed", [True, False], ids=["needed", "nominal"])
def test_a_cached_query_is_computed_by_no_call(items: list[int], layers: int, needed: bool) -> None:
    """Rows behind the cached ones are computed; of an empty item, the query's last one again."""
    config = replace(CONFIG, num_hidden_layers=layers)
    each = [
        walked(
            config,
            np.tri(QUERY + length, dtype=bool),
            [QUERY + length - 1],
            needed=needed,
            cached=QUERY if length else QUERY - 1,
        )
        for length in items
    ]
    matrix, attention = (sum(getattr(work, name) for work in each) for name in ("matrix", "attention"))
    assert flops.cached(config, QUERY, items, labels=LABELS, needed=needed) == Work(matrix, attention)


def test_an_ablation_is_not_counted() -> None:
    with pytest.raises(ValueError, match="ablation"):
        flops.packed(CONFIG, QUERY, RAGGED, labels=LABELS, semantics=Semantics.ALL_DELIMS_PREFIX)
