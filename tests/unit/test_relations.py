"""The relations: what they draw, what they compare, and that each one can fail."""

import random
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from stub_targets import DELIMITER, LABELS, POOL, StubClient, hashed, packed, packed_query_prefix, serial

from pytest_multiitem.gates.relation_judge import Judge
from pytest_multiitem.properties.play import Player, send
from pytest_multiitem.properties.search import search
from pytest_multiitem.scoring.limits import PLACED, PLACED_FLOAT32
from pytest_multiitem.scoring.relations import (
    MOST_ITEMS,
    Scenario,
    ScoreBody,
    Space,
    budget,
    relation,
    relation_names,
    relations,
)
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

SPACE = Space(POOL, (*LABELS, 29_399), 29_398, 1024, empty_items=True, context=(DELIMITER,))
every_relation = pytest.mark.parametrize("name", relation_names())


class AtRandom:
    """`scoring.relations.Choices` by a seeded die; what a search does is not needed to draw."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def number(self, least, most):
        return self._random.randint(least, most)

    def among(self, options):
        return self._random.choice(options)

    def several(self, one, least, most):
        return [one(self) for _ in range(self.number(least, most))]


def drawn(name, count=200, space=SPACE):
    choose = AtRandom(name)
    return [relation(name).scenario(choose, space) for _ in range(count)]


# -- what is drawn ---------------------------------------------------------------------------


@every_relation
@pytest.mark.parametrize("max_tokens", [16, 17, 23, 64, 300, 1024])
def test_no_request_is_longer_than_the_server_takes(name, max_tokens):
    space = Space(SPACE.pool, SPACE.labels, SPACE.spare_label, max_tokens, True, ())
    for scenario in drawn(name, 300, space):
        for request in scenario.requests:
            assert request.tokens <= max_tokens and request.query and 1 <= len(request.items) <= MOST_ITEMS + 1
            assert {*request.query, *(t for item in request.items for t in item)} <= set(POOL)


@every_relation
def test_it_compares_each_pair_once_and_sends_what_it_compares(name):
    known = relation(name)
    assert known.states.endswith(".") and known.exact == (name in EXACT)
    for scenario in drawn(name):
        rows = sum(len(request.items) for request in scenario.variant)
        assert len(scenario.pairs) == len(set(scenario.pairs)) >= 1
        assert all(left < len(scenario.base.items) and right < rows for left, right in scenario.pairs)
        sent = [item for request in scenario.variant for item in request.items]
        assert all(scenario.base.items[left] == sent[right] for left, right in scenario.pairs)
        context = SPACE.context if scenario.serial else ()
        assert {request.query for request in scenario.variant} == {(*scenario.base.query, *context)}
        if known.exact:  # N and every index stay
            assert [len(request.items) for request in scenario.variant] == [len(scenario.base.items)]
            assert all(left == right for left, right in scenario.pairs)


EXACT = {"mutate", "lengthen", "shorten", "empty", "before", "beside", "reconnect", "replay"}
KEEPS = {
    "mutate": lambda old, new: len(old) == len(new) and all(a != b for a, b in zip(old, new, strict=True)),
    "lengthen": lambda old, new: len(old) < len(new) and new[: len(old)] == old,
    "shorten": lambda old, new: 0 < len(new) < len(old) and old[: len(new)] == new,
    "empty": lambda old, new: old and not new,
}


@pytest.mark.parametrize("name", KEEPS)
def test_it_changes_some_items_and_keeps_some(name):
    for scenario in drawn(name):
        kept = {left for left, _ in scenario.pairs}
        changed = set(range(len(scenario.base.items))) - kept
        assert kept and changed
        for index in changed:
            assert KEEPS[name](scenario.base.items[index], scenario.variant[0].items[index])


@pytest.mark.parametrize("name", ["permute", "label_order"])
def test_an_order_is_another_one(name):
    for scenario in drawn(name):
        (variant,) = scenario.variant
        moved = scenario.pairs if name == "permute" else scenario.columns
        assert any(left != right for left, right in moved)
        assert sorted(variant.items) == sorted(scenario.base.items)
        assert sorted(variant.label_token_ids) == sorted(scenario.base.label_token_ids)


def test_a_duplicate_is_compared_with_its_original():
    for scenario in drawn("duplicate"):
        original = [left for left, _ in scenario.pairs]
        assert len(scenario.variant[0].items) == len(scenario.base.items) + 1
        assert sorted(original) == sorted([*range(len(scenario.base.items)), original[-1]])


@pytest.mark.parametrize("name", ["split", "client_chunks"])
def test_parts_are_the_whole(name):
    for scenario in drawn(name):
        assert tuple(i for request in scenario.variant for i in request.items) == scenario.base.items
        assert len(scenario.variant) >= 2 and all(request.items for request in scenario.variant)
        assert name != "split" or len(scenario.variant) == 2


def test_lengths_reach_the_boundaries_and_the_limit():
    lengths, longest = set(), 0
    for scenario in drawn("replay", 500):
        lengths |= {len(item) for item in scenario.base.items}
        longest = max(longest, scenario.base.tokens)
    assert {0, 1, 2, 15, 16, 17, 18, 31, 32, 33} <= lengths and 1000 < longest <= 1024


def test_nothing_is_empty_where_the_engine_does_not_allow_it():
    space = Space(SPACE.pool, SPACE.labels, SPACE.spare_label, 256, empty_items=False)
    assert "empty" not in {known.name for known in relations(space)}
    for known in relations(space):
        for scenario in drawn(known.name, 50, space):
            assert all(all(request.items) for request in scenario.requests)


def test_relations_of_labels_need_labels():
    alone = Space(SPACE.pool, (5,), None, 256)
    assert {"label_order", "other_label"} & {known.name for known in relations(alone)} == set()


@pytest.mark.parametrize("examples", [1, 3, 22, 100, 101, 1000])
def test_a_budget_is_spent_to_the_last_example(examples):
    given = budget(relations(SPACE), examples)
    assert sum(given.values()) == examples
    assert examples < 22 or all(given.values())
    assert examples < 100 or given["mutate"] > given["replay"]


# -- what is compared ------------------------------------------------------------------------


def request(count=2, labels=LABELS, **more):
    return ScoreBody(query=(1,), items=tuple((index,) for index in range(count)), label_token_ids=labels, **more)


def scenario_of(**more):
    base = request()
    fields = {"relation": "r", "exact": True, "base": base, "variant": (base,), "pairs": ((0, 0), (1, 1))}
    return Scenario(**(fields | more))


def test_a_difference_is_that_of_its_pair():
    base, variant = np.array([[0.1, 0.9], [0.2, 0.8]]), np.array([[0.2, 0.8], [0.1, 0.875]])
    assert scenario_of().differences(base, variant) == pytest.approx([0.1, 0.1])
    assert scenario_of(pairs=((0, 1),)).differences(base, variant) == pytest.approx([0.025])


def test_columns_are_compared_as_stated():
    base, variant = np.array([[0.1, 0.9], [0.2, 0.8]]), np.array([[0.9, 0.1], [0.8, 0.3]])
    assert scenario_of(columns=((0, 1), (1, 0))).differences(base, variant) == pytest.approx([0.0, 0.1])
    assert scenario_of(columns=((0, 1),)).differences(base, variant) == pytest.approx([0.0, 0.1])


def test_probabilities_are_normalised_and_bounded():
    base = np.array([[0.25, 0.75], [0.5, 0.5]])
    plain = scenario_of(normalise=True)
    assert plain.differences(base, np.array([[0.1, 0.3], [1e-9, 1e-9]])) == pytest.approx([0.0, 0.0])
    assert plain.differences(base, np.array([[0.4, 1.2], [0.1, 0.1]])) == pytest.approx([0.6, 0.0])
    assert plain.differences(2 * base, np.array([[0.1, 0.3], [0.1, 0.1]]))[0] == pytest.approx(1.0)
    assert np.isfinite(plain.differences(base, np.zeros((2, 2)))).all()


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [("float32", PLACED_FLOAT32), ("torch.float32", PLACED_FLOAT32), ("bfloat16", PLACED),
     ("float16", PLACED), (None, PLACED)],
)  # fmt: skip
def test_the_limit_depends_on_the_precision_where_items_are_placed_anew(dtype, limit):
    assert scenario_of(exact=False).limit(dtype) == limit and scenario_of().limit(dtype) == 0.0


# -- each relation can fail ------------------------------------------------------------------


def by_lengths_before(query, items, labels):
    before = np.cumsum([0, *map(len, items)])
    return np.array([hashed([*query, *item, 1000 + before[i]], labels) for i, item in enumerate(items)])


def by_right_neighbour(query, items, labels):
    right = [*items[1:], ()]
    return np.array([hashed([*query, *item, 1000, *right[i]], labels) for i, item in enumerate(items)])


def empty_sees_its_left(query, items, labels):
    return np.array(
        [
            hashed([*query, *(item or (items[i - 1] if i else ()))], labels) + (not item and i)
            for i, item in enumerate(items)
        ]
    )


def after_an_empty_one(query, items, labels):
    return np.array([hashed([*query, *item, i > 0 and not items[i - 1]], labels) for i, item in enumerate(items)])


def by_count(query, items, labels):
    return np.array([hashed([*query, *item, 1000 + len(items)], labels) for item in items])


def by_place(query, items, labels):
    return np.array([hashed([*query, *item, 1000 + i], labels) for i, item in enumerate(items)])


def merged_duplicates(query, items, labels):
    return np.array([hashed([*query, *item, item in items[:i]], labels) for i, item in enumerate(items)])


def sorted_labels(query, items, labels):
    return packed(query, items, sorted(labels))


def _last_query():
    last = []

    def scores(query, items, labels):
        seen = [*query, *last]
        last[:] = query
        return packed(seen, items, labels)

    return scores


def _cached():
    known = set()

    def scores(query, items, labels):
        hit = (tuple(query), tuple(items)) in known
        known.add((tuple(query), tuple(items)))
        return packed([*query, 1] if hit else query, items, labels)

    return scores


class ByConnection(StubClient):
    """The second connection, and every second one after it, ends at a replica that is wrong."""

    _opened = 0

    def another(self):
        self._opened += 1
        return StubClient(by_place if self._opened % 2 else packed, None)


def _shared():
    running = []

    def scores(query, items, labels):
        running.append(threading.get_ident())
        time.sleep(0.002)
        crowded = len(set(running)) > 1
        running.remove(threading.get_ident())
        return packed([*query, 1] if crowded else query, items, labels)

    return scores


class PlainOnly(StubClient):
    """Ignores apply_softmax and never normalises."""

    def score(self, query, items, labels, *, apply_softmax=True):
        return super().score(query, items, labels, apply_softmax=False)


class SoftmaxOnly(StubClient):
    """Ignores apply_softmax and always normalises."""

    def score(self, query, items, labels, *, apply_softmax=True):
        return super().score(query, items, labels, apply_softmax=True)


class TooMuch(StubClient):
    """Probabilities over the vocabulary that add up to more than 1."""

    def score(self, query, items, labels, *, apply_softmax=True):
        return super().score(query, items, labels, apply_softmax=True) * (1 if apply_softmax else 1.5)


FAULTS = {
    "mutate": by_right_neighbour,
    "lengthen": by_lengths_before,
    "shorten": by_lengths_before,
    "empty": after_an_empty_one,
    "insert": by_count,
    "delete": by_count,
    "permute": by_place,
    "duplicate": merged_duplicates,
    "split": by_count,
    "client_chunks": by_place,
    "before": _last_query,
    "beside": _shared,
    "label_order": sorted_labels,
    "softmax_off": PlainOnly,
    "other_label": SoftmaxOnly,
    "reconnect": ByConnection,
    "serial": packed_query_prefix,
    "replay": _cached,
}


def client_of(fault):
    if isinstance(fault, type):
        return fault(packed, None)
    return StubClient(fault() if fault.__name__.startswith("_") else fault, None)


def judged(name, client, *, examples=60, seed=1, space=SPACE, shrink=True):
    reference = StubClient(serial, None)
    with Player(partial(send, client), client.another, partial(send, reference)) as player:
        judge = Judge(player, "float32", lambda line: None)
        search(relation(name), space, judge.holds, examples=examples, seed=seed, shrink=shrink)
    if judge.ended is not None:
        raise judge.ended
    return judge


@every_relation
def test_it_can_fail(name):
    violation = judged(name, client_of(FAULTS[name])).violation
    assert violation is not None and violation.scenario.relation == name
    assert violation.difference > 1e-3 and violation.noise == 0.0
    assert len(violation.scenario.base.items) <= 3


def test_probabilities_that_add_up_to_more_than_one_fail():
    violation = judged("softmax_off", TooMuch(packed, None)).violation
    assert violation.difference == pytest.approx(0.5)


@every_relation
def test_it_holds_on_a_healthy_server(name):
    judge = judged(name, client_of(packed), examples=30)
    assert judge.violation is None and judge.seen[name].examples == 30 and judge.seen[name].worst < 1e-9
    assert (judge.unstable, judge.dismissed, judge.floor) == (0.0, 0, 0.0)


def test_a_fault_of_its_own_is_no_other_relations():
    """Where only the total length before an item matters, a mutation of the same length shows nothing."""
    assert judged("mutate", client_of(by_lengths_before)).violation is None
    assert judged("replay", client_of(by_lengths_before)).violation is None
    assert judged("permute", client_of(by_count)).violation is None


def test_state_of_the_last_request_is_not_blamed_on_a_mutation():
    judge = judged("mutate", client_of(_last_query))
    assert judge.violation is None and judge.unstable > 0.01


def test_the_same_seed_tries_the_same_requests():
    def tried(seed):
        found = []
        search(relation("permute"), SPACE, lambda s: found.append(s) or True, examples=20, seed=seed)
        return found

    assert tried(3) == tried(3) != tried(4)


def test_without_shrinking_what_was_found_is_kept_as_it_is():
    large = judged("mutate", client_of(by_right_neighbour), shrink=False, seed=5).violation.scenario
    small = judged("mutate", client_of(by_right_neighbour), seed=5).violation.scenario
    assert small.base.tokens < large.base.tokens


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    from hypothesis import configuration

    home = configuration.storage_directory("examples", intent_to_write=False).home_directory
    monkeypatch.chdir(tmp_path)
    judged("mutate", client_of(packed))
    assert list(tmp_path.iterdir()) == []
    assert configuration.storage_directory("examples", intent_to_write=False).home_directory == Path(home)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ScoreFailure(FailureKind.TIMEOUT, "late"), ValueError("bug")])
def test_what_ends_a_measurement_ends_the_search(error):
    client, left = client_of(packed), iter(range(9))

    def scores(query, items, labels):
        if next(left, None) is None:
            client.requests.append("after")
            raise error
        return packed(query, items, labels)

    client._scores = scores
    with pytest.raises(type(error)):
        judged("mutate", client)
    assert client.requests.count("after") == 1


def test_requests_beside_one_may_share_its_batch_and_change_its_shape():
    request = ScoreBody(query=(1, 2), items=((3,), (4, 5)), label_token_ids=(6, 7))
    fields = {"relation": "beside", "exact": True, "base": request, "variant": (request,), "pairs": ((0, 0),)}
    assert Scenario(**fields).same_shape
    assert not Scenario(**fields, beside=(request,)).same_shape
