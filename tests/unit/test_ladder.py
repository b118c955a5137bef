"""The ladder: which sizes are tried, what each axis sees alone, and what leaves it calm."""

import numpy as np
import pytest
from stub_targets import LABELS, POOL, StubSubject, baseline, make_case, multi, packed

from pytest_multiitem.gates.ladder import LABELS as LABEL_GATE
from pytest_multiitem.gates.ladder import SIZES, measure, measure_labels
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.ladder import Ladder, label_sets
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

CASE = make_case(6)


def ladder(effort="normal", **more):
    limits = {"max_tokens": 32_768, "max_items": 512, **more}
    return Ladder(pool=POOL, every_token=tuple(range(999)), labels=LABELS, seed=3, effort=effort, **limits)


def packed_tokens(case):
    return len(case.query) + 1 + sum(len(item) + 1 for item in case.items)


def check(scores, gate=SIZES, how=measure, **more):
    target, serial = multi(scores), baseline()
    target.__dict__["vocab_size"] = more.pop("vocab_size", 998)
    target.__dict__["max_items"] = more.pop("max_items", None)
    target.__dict__["max_tokens"] = more.pop("max_tokens", None)
    return record_of(gate, how(StubSubject([CASE], multi=target, serial=serial, hand=serial, **more)))


def test_every_axis_has_its_rungs():
    by_axis = {}
    for rung in ladder().rungs():
        by_axis.setdefault(rung.axis, []).append(rung)
    sizes = [packed_tokens(rung.case) for rung in by_axis["packed tokens"]]
    below = [s + d for s in (128, 256, 512, 1024) for d in (-1, 0, 1)]
    assert sizes == [*below, 2049, 4097]
    every = [packed_tokens(rung.case) for rung in ladder("full").rungs() if rung.axis == "packed tokens"]
    assert every[12:] == [s + d for s in (2048, 4096, 8192, 16384, 32768) for d in (-1, 0, 1)][:-1]
    assert [int(rung.label) for rung in by_axis["packed tokens"]] == sizes
    counts = [len(rung.case.items) for rung in by_axis["items"]]
    assert counts == [1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257, 512]
    lengths = {len(item) for rung in by_axis["item length"] for item in rung.case.items}
    assert lengths >= {*range(1, 41), 63, 64, 65, 127, 128, 129, 1000}
    assert {len(rung.case.query) for rung in by_axis["query length"]} == {
        1,
        *(b + d for b in (16, 32, 64, 128) for d in (-1, 0, 1)),
    }
    ids = {token for rung in by_axis["token ids"] for item in rung.case.items for token in item}
    assert min(ids) == 0 and max(ids) == 998 and len(ids) > 300


def test_items_share_beginnings_with_neighbours_and_far_ones():
    shared = [rung for rung in ladder().rungs() if rung.axis == "shared beginnings"]
    for length in (1, 15, 16, 17, 31, 32, 33, 64, 128, 256):
        kinds = set()
        for rung in shared:
            items = rung.case.items
            for i, one in enumerate(items):
                for j in range(i):
                    other = items[j]
                    same = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
                    if same == length:
                        kinds.add("near" if i - j == 1 else "far")
                    elif same is None and min(len(one), len(other)) == length:
                        kinds.add("beginning of the other")
        assert kinds == {"near", "far", "beginning of the other"}, length
    assert all(set(rung.serial) == set(range(len(rung.case.items))) for rung in shared)


@pytest.mark.parametrize("effort", ["quick", "normal", "full"])
@pytest.mark.parametrize("limits", [(64, 4), (700, 32), (4096, 512), (None, None)])
def test_no_rung_is_larger_than_the_server_takes_and_the_rest_is_said(effort, limits):
    tokens, items = limits
    tried = ladder(effort, max_tokens=tokens, max_items=items)
    for rung in tried.rungs():
        assert packed_tokens(rung.case) <= (tokens or 5000), rung.label
        assert len(rung.case.items) <= (items or 513) or rung.axis != "items"
    left = tried.not_tried()
    assert "65535" in left["item length"]
    if tokens is not None and tokens < 16_384:
        assert "16384" in left["packed tokens"]
    if effort == "quick":
        assert ("effort quick" in left["packed tokens"]) is (tokens is None or tokens >= 2048)


def test_a_healthy_server_passes_and_the_record_says_what_was_tried():
    record = check(packed)
    assert record.verdict is Verdict.PASS, record.reason
    axes = record.details.axes
    assert axes["items"].tried[-1] == "129" and axes["items"].serial_largest == 0.0
    assert axes["packed tokens"].not_tried == "2048, 4096, 8192, 16384, 32768: not at effort quick"
    assert record.samples["rungs"] > 24


def causal_beyond(size):
    def scores(query, items, labels):
        over = len(query) + 1 + sum(len(item) + 1 for item in items) > size
        return packed([*query, *(items[0] if over else ())], items, labels)

    return scores


def wrapped_beyond(count):
    return lambda query, items, labels: packed(query, [items[i % count] for i in range(len(items))], labels)


def same_block(length):
    def scores(query, items, labels):
        first = {}
        alike = [first.setdefault(tuple(item[:length]), item) if len(item) >= length else item for item in items]
        return packed(query, alike, labels)

    return scores


def wrapped_length(most):
    return lambda query, items, labels: packed(query, [item[: len(item) % most or most] for item in items], labels)


def high_tokens(query, items, labels):
    return packed(query, [[token - 1 if token > 4950 else token for token in item] for item in items], labels)


def long_query(query, items, labels):
    return packed(query[1:] if len(query) == 17 else query, items, labels)


@pytest.mark.parametrize(
    ("axis", "scores"),
    [
        ("packed tokens", causal_beyond(1024)), ("packed tokens", causal_beyond(200)), ("items", wrapped_beyond(64)),
        ("items", wrapped_beyond(128)), ("item length", wrapped_length(64)),
        *[("shared beginnings", same_block(length)) for length in (16, 32, 64)],
        ("token ids", high_tokens), ("query length", long_query),
    ],
)  # fmt: skip
def test_each_axis_finds_what_it_is_for(axis, scores):
    record = check(scores, vocab_size=5000)
    assert record.verdict is Verdict.FAIL and record.reason.startswith(axis), record.reason


#: One whose long item scores otherwise by more than the limit when it is cut.
SEED = 5


def offsets_of(bits):
    """The offset of an item's token says how far back it sees its own item, in so many bits."""

    def scores(query, items, labels):
        seen = [item if len(item) < 2**bits else item[len(item) - len(item) % 2**bits :] for item in items]
        return packed(query, seen, labels)

    return scores


@pytest.mark.parametrize(("bits", "wraps"), [(16, True), (17, False)])
def test_an_item_whose_offsets_wrap_is_found_at_the_first_length_that_does(bits, wraps, monkeypatch):
    """At the real size, as sglang 0.5.23 has it; sizes and item counts would take longer than the lengths."""
    every = Ladder.rungs
    monkeypatch.setattr(
        Ladder, "rungs", lambda self: (rung for rung in every(self) if rung.label.endswith("among short ones"))
    )
    record = check(offsets_of(bits), effort="full", max_tokens=131_072, seed=SEED)
    assert record.details.axes["item length"].tried[-1] == "65536 among short ones"
    assert record.verdict is (Verdict.FAIL if wraps else Verdict.PASS), record.reason
    assert not wraps or record.reason.startswith("item length 65536 among short ones: a score is "), record.reason


def test_a_rung_that_the_server_refuses_is_noted():
    def scores(query, items, labels):
        if len(items) > 100:
            raise ScoreFailure(FailureKind.HTTP_ERROR, "HTTP 400: at most 100 items", 400)
        return packed(query, items, labels)

    record = check(scores)
    assert record.verdict is Verdict.PASS
    assert set(record.details.axes["items"].refused) == {"129"}


def test_any_other_failure_is_none_of_size():
    def scores(query, items, labels):
        if len(items) > 100:
            raise ScoreFailure(FailureKind.HTTP_ERROR, "HTTP 500: boom", 500)
        return packed(query, items, labels)

    with pytest.raises(ScoreFailure, match="boom"):
        check(scores)


def test_labels_come_from_every_quarter():
    sets = dict(label_sets(1000, [5], seed=1))
    assert [len(labels) for labels in sets.values()] == [1, 1, 1, 1, 2, 3, 26, 512]
    assert [labels[0] * 4 // 1000 for labels in list(sets.values())[:4]] == [0, 1, 2, 3]
    assert all(len(set(labels)) == len(labels) and 5 not in labels for labels in sets.values())
    assert max(np.diff(sorted(sets["512 over the vocabulary"]))) <= 4


def shard(low, high):
    """Labels of one shard of the vocabulary are read one too low."""

    def scores(query, items, labels):
        return packed(query, items, [label - 1 if low <= label < high else label for label in labels])

    return scores


def test_labels_of_one_shard_that_are_read_wrong_are_found():
    for low in range(0, 1000, 125):
        record = check(shard(low, low + 125), LABEL_GATE, measure_labels)
        assert record.verdict is Verdict.FAIL and record.reason.startswith("labels, "), low
    assert check(packed, LABEL_GATE, measure_labels).verdict is Verdict.PASS
