"""Requests for the engine tests, and how a backend answers them without a server."""

import json

import numpy as np

from pytest_multiitem.engine.checkpoint import CheckpointSpec
from pytest_multiitem.engine.plan import place
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.readout import Readout
from pytest_multiitem.scoring.semantics import Semantics

SPEC = CheckpointSpec(64, 160, 2, 4, 2, 16, 1000, seed=7)
DELIMITER, LABELS = 999, (17, 403, 8)
MASKS = ("dense", "segment")
PRODUCTION = [semantics for semantics in Semantics if semantics.has_serial_reference]


def workload(seed, query_length=45, count=25):
    """A query and ``count`` items of 1 to 40 tokens, one of them empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 41, count)
    lengths[rng.integers(count)] = 0
    lengths[[1, count - 2]] = 40, 1
    return tokens(rng, query_length), [tokens(rng, length) for length in lengths]


def tokens(rng, count):
    return rng.integers(0, DELIMITER, count).tolist()


def packed(backend, mask, query, items, semantics, normalise=True):
    """The readout [N] of one packed sequence holding every item (server chunk size 0)."""
    layout = build_layout(query, items, DELIMITER, semantics)
    if mask == "dense":
        return backend.dense(place(layout), LABELS, normalise)
    prefix = backend.prefix(*layout.prefix)
    plan = backend.plan(prefix, layout, len(items))
    logits = np.full((len(items), len(LABELS)), np.nan, dtype=np.float32)
    normaliser = np.full(len(items), np.nan, dtype=np.float32)
    reads = backend.segment(prefix, plan.visible_prefix, plan.blocks, LABELS, normalise)
    for block, read in zip(plan.blocks, reads, strict=True):
        logits[block.item[block.reads]] = read.label_logits[block.reads]
        if normalise:
            normaliser[block.item[block.reads]] = read.log_normaliser[block.reads]
    for item in plan.empty_items:
        read = backend.prefix_readout(prefix, plan.empty_score_row, LABELS, normalise)
        logits[item] = read.label_logits[0]
        if normalise:
            normaliser[item] = read.log_normaliser[0]
    return Readout(logits, normaliser if normalise else None)


def expected(logits):
    """The float64 readout of full logits [n, V]."""
    return Readout(logits[:, list(LABELS)], np.log(np.exp(logits).sum(axis=1)))


def assert_close(read, want):
    np.testing.assert_allclose(read.scores(True), want.scores(True), rtol=0, atol=1e-5)
    log_probabilities = [np.log(each.scores(False)) for each in (read, want)]
    np.testing.assert_allclose(*log_probabilities, rtol=0, atol=1e-4)


def changes(items, index, rng):
    """Named variants of ``items`` that differ in item ``index`` only."""
    content = {
        "in place": [(token + 1 + int(rng.integers(DELIMITER - 1))) % DELIMITER for token in items[index]],
        **{f"{length} tokens": tokens(rng, length) for length in (40, 1, 0, 7)},
    }
    return {name: [*items[:index], new, *items[index + 1 :]] for name, new in content.items()}


def edit_config(directory, **changes):
    """Change the config.json of a checkpoint directory."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
