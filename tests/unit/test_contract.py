"""The request contract against servers in memory: each check, the fault that it catches, and when it is not made."""

from types import SimpleNamespace

import numpy as np
import pytest
from stub_targets import (
    DELIMITER,
    StubClient,
    leaking,
    make_case,
    packed,
    packed_query_prefix,
    serial,
)

from pytest_multiitem.client import FailureKind, ScoreFailure
from pytest_multiitem.gates.contract import CONTRACT, measure
from pytest_multiitem.gates.measurement import record_of
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.engines import Engine, Profile
from pytest_multiitem.servers.target import Target

#: The probability that the servers here give to all labels together.
LABEL_MASS = 1e-3

CASE = make_case(lengths=[3, 0, 4, 5, 2, 6, 7, 3])
CHECKS = {
    "duplicates", "probabilities without softmax", "labels in reverse order", "one item alone", "an empty item",
    "the delimiter inside an item", "over-long input",
}  # fmt: skip
LIMIT = 50


class Tolerant(Engine):
    name, allows_empty_items, withstands_bad_requests = "tolerant", True, True


class Delicate(Engine):
    name = "delicate"


class ContractClient(StubClient):
    """A server that refuses what it cannot score. ``answer`` takes (query, items, labels, apply_softmax)."""

    def __init__(self, answer, executed, *, limit=LIMIT, models=None, engine="tolerant"):
        super().__init__(None, executed)
        self.answer, self.limit, self.models, self.engine = answer, limit, models, engine

    def score(self, query, items, labels, *, apply_softmax=True):
        self._scores = lambda *request: self.answer(*request, apply_softmax)
        scores = StubClient.score(self, query, items, labels)
        rows, columns = scores.shape
        if (rows, columns) != (len(items), len(labels)):
            raise ScoreFailure(FailureKind.BAD_RESPONSE, f"expected {len(items)} rows, got {rows}", 200)
        return scores

    def server_info(self):
        return {**super().server_info(), "engine": self.engine, "max_multi_item_seq_len": self.limit}

    def get(self, path):
        assert path == "/v1/models"
        if self.models is None:
            raise ScoreFailure(FailureKind.CONNECTION, "no such endpoint")
        return SimpleNamespace(json=lambda: {"data": [{"id": "stub", "max_model_len": self.models}]})


def refused(status=400):
    return ScoreFailure(FailureKind.HTTP_ERROR, f"HTTP {status}: no", status)


def healthy(query, items, labels, softmax):
    if any(DELIMITER in item for item in items) or any(len(item) > LIMIT for item in items):
        raise refused()
    return packed(query, items, labels) * (1.0 if softmax else LABEL_MASS)


def plain(query, items, labels, softmax):
    return serial(query, items, labels) * (1.0 if softmax else LABEL_MASS)


def server(answer=healthy, *, adapter=Tolerant, semantics=Semantics.PREFIX_FIRST_DELIM, **more):
    client = ContractClient(answer, "dense", **more)
    profile = Profile("multi", "stub", "dense", 0, semantics)
    return Target(profile, "stub", client, adapter=None if adapter is None else adapter())


def reference(answer=plain, *, adapter=Tolerant, engine="tolerant"):
    client = ContractClient(answer, "serial", engine=engine)
    return Target(Profile("serial", "stub"), "stub", client, adapter=None if adapter is None else adapter())


def check(target, other=None, *, cases=(CASE,), samples=None):
    record = [].append if samples is None else samples.append
    found = measure(target, reference() if other is None else other, cases, delimiter=DELIMITER, record=record)
    return record_of(CONTRACT, found)


def test_a_healthy_server_holds_every_check():
    samples = []
    record = check(server(), samples=samples)
    assert record.verdict is Verdict.PASS, record.reason
    assert set(record.details["held"]) == CHECKS and record.details["not_made"] == record.details["broken"] == {}
    assert record.samples == {"checks": 7, "not_made": 0} and record.reason == "7 of 7 checks hold"
    assert record.mask_attested == "dense" and record.noise_floor == record.traffic_floor == 0.0
    assert record.leak_visibility > 0.1 and record.semantic_visibility > 0.02
    told = {s["check"]: s["outcome"] for s in samples if s["kind"] == "contract"}
    assert told == dict.fromkeys(CHECKS, "holds")


def test_the_other_semantics_has_its_own_references():
    def answer(query, items, labels, softmax):
        healthy(query, items, labels, softmax)
        return packed_query_prefix(query, items, labels) * (1.0 if softmax else LABEL_MASS)

    assert check(server(answer, semantics=Semantics.QUERY_PREFIX)).verdict is Verdict.PASS
    assert check(server(answer)).details["broken"].keys() == {"an empty item"}


def test_a_server_that_takes_the_delimiter_as_content_holds():
    def answer(query, items, labels, softmax):
        if any(len(item) > LIMIT for item in items):
            raise refused(413)
        return packed(query, items, labels) * (1.0 if softmax else LABEL_MASS)

    record = check(server(answer))
    assert record.verdict is Verdict.PASS and "serial score" in record.details["held"]["the delimiter inside an item"]


def merged(query, items, labels, softmax):
    scores = healthy(query, items, labels, softmax)
    places = [at for at, item in enumerate(items) if item not in items[:at]]
    return scores[places + [places[-1]] * (len(items) - len(places))]


def dropped(query, items, labels, softmax):
    return healthy(query, list(dict.fromkeys(items)), labels, softmax)


def by_place(query, items, labels, softmax):
    healthy(query, items, labels, softmax)
    scores = packed(query, items, labels)
    return (scores + np.arange(len(items))[:, None] * 1e-3) * (1.0 if softmax else LABEL_MASS)


def always_softmax(query, items, labels, softmax):
    return healthy(query, items, labels, True)


def wrong_normaliser(query, items, labels, softmax):
    return healthy(query, items, labels, softmax) * (1.0 if softmax else 1.1)


def other_probabilities(query, items, labels, softmax):
    return healthy(query, items, labels, softmax)[:, :: 1 if softmax else -1]


def sorted_labels(query, items, labels, softmax):
    return healthy(query, items, sorted(labels), softmax)


def alone_is_different(query, items, labels, softmax):
    return healthy(query if len(items) > 1 else query[1:], items, labels, softmax)


def left_neighbour(query, items, labels, softmax):
    filled = [item or (items[at - 1] if at else ()) for at, item in enumerate(items)]
    return healthy(query, filled, labels, softmax)


def split(query, items, labels, softmax):
    """The delimiter inside an item ends it; as many rows as asked for come back."""
    if any(len(item) > LIMIT for item in items):
        raise refused()
    pieces = []
    for item in items:
        at = list(item).index(DELIMITER) if DELIMITER in item else len(item)
        pieces += [item[:at], item[at + 1 :]] if at < len(item) else [item]
    return packed(query, pieces[: len(items)], labels) * (1.0 if softmax else LABEL_MASS)


def truncating(query, items, labels, softmax):
    return healthy(query, [item[:LIMIT] for item in items], labels, softmax)


def failing_on(condition, failure):
    def answer(query, items, labels, softmax):
        if condition(items):
            raise failure
        return healthy(query, items, labels, softmax)

    return answer


def never_again():
    dead = []

    def answer(query, items, labels, softmax):
        if dead:
            raise GONE
        dead.extend(item for item in items if len(item) > LIMIT)
        return healthy(query, items, labels, softmax)

    return answer


def has_delimiter(items):
    return any(DELIMITER in item for item in items)


def is_long(items):
    return any(len(item) > LIMIT for item in items)


INTERNAL = ScoreFailure(FailureKind.HTTP_ERROR, "HTTP 500: Traceback", 500)
GONE = ScoreFailure(FailureKind.CONNECTION, "connection reset")
FAULTS = {
    "duplicates merged": (merged, "duplicates"),
    "duplicates dropped": (dropped, "duplicates"),
    "scores by place": (by_place, "duplicates"),
    "softmax over the labels always": (always_softmax, "probabilities without softmax"),
    "a wrong normaliser": (wrong_normaliser, "probabilities without softmax"),
    "other probabilities": (other_probabilities, "probabilities without softmax"),
    "labels sorted": (sorted_labels, "labels in reverse order"),
    "one item is another path": (alone_is_different, "one item alone"),
    "an empty item scores its neighbour": (left_neighbour, "an empty item"),
    "an empty item is refused": (failing_on(lambda items: not all(items), refused()), "an empty item"),
    "the delimiter splits": (split, "the delimiter inside an item"),
    "the delimiter breaks it": (failing_on(has_delimiter, INTERNAL), "the delimiter inside an item"),
    "the delimiter ends it": (failing_on(has_delimiter, GONE), "the delimiter inside an item"),
    "over-long input is cut": (truncating, "over-long input"),
    "over-long input breaks it": (failing_on(is_long, INTERNAL), "over-long input"),
    "over-long input ends it": (failing_on(is_long, GONE), "over-long input"),
    "over-long input is its last": (never_again, "over-long input"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_fails_by_the_name_of_its_check(fault):
    answer, name = FAULTS[fault]
    answer = never_again() if answer is never_again else answer  # it remembers
    record = check(server(answer))
    assert record.verdict is Verdict.FAIL and name in record.details["broken"], record.reason
    assert record.reason.startswith(f"{next(iter(record.details['broken']))}: ")
    assert set(record.details["broken"]) | set(record.details["held"]) == CHECKS


def test_a_fault_of_one_check_leaves_the_others_alone():
    for name in ("a wrong normaliser", "one item is another path", "an empty item scores its neighbour"):
        answer, check_name = FAULTS[name]
        assert set(check(server(answer)).details["broken"]) == {check_name}


@pytest.mark.parametrize(("adapter", "engine"), [(Delicate, "delicate"), (None, "unknown")])
def test_what_may_end_a_server_is_not_sent(adapter, engine):
    target = server(adapter=adapter, engine=engine)
    record = check(target)
    not_made = record.details["not_made"]
    assert set(not_made) == {"an empty item", "the delimiter inside an item", "over-long input"}
    assert all(reason.startswith("not sent: ") for reason in not_made.values())
    assert record.verdict is Verdict.PASS and "4 of 7 checks hold; not made: an empty item" in record.reason
    sent = [item for _, items, _ in target.client.requests for item in items]
    assert all(sent) and max(map(len, sent)) <= 7 and not any(DELIMITER in item for item in sent)


def test_an_attached_server_that_says_it_is_embedded_is_sent_all():
    record = check(server(adapter=None, engine="embedded"), reference(adapter=None, engine="embedded"))
    assert record.verdict is Verdict.PASS and record.samples == {"checks": 7, "not_made": 0}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"limit": None}, "tells no limit"),
        ({"limit": True}, "tells no limit"),
        ({"limit": 200_001, "models": 300_000}, "the server's limit is 200001 tokens"),
    ],
)
def test_a_limit_that_nobody_tells_is_not_probed(told, reason):
    assert reason in check(server(**told)).details["not_made"]["over-long input"]


@pytest.mark.parametrize("told", [{"limit": None, "models": LIMIT}, {"limit": LIMIT, "models": 900}])
def test_the_smallest_limit_that_is_told_counts(told):
    record = check(server(**told))
    assert record.details["held"]["over-long input"] == f"{LIMIT + 1} tokens, limit {LIMIT}: refused with status 400"


def test_a_server_that_lives_on_after_over_long_input_but_scores_otherwise_fails():
    seen = []

    def answer(query, items, labels, softmax):
        seen.extend(item for item in items if len(item) > LIMIT)
        return healthy(query[1:] if seen else query, items, labels, softmax)

    assert set(check(server(answer)).details["broken"]) == {"over-long input"}


def test_labels_that_score_alike_are_not_compared():
    def even(query, items, labels, softmax):
        healthy(query, items, labels, softmax)
        return np.full((len(items), len(labels)), 0.5 if softmax else 0.01)

    record = check(server(even), reference(lambda *r: np.full((len(r[1]), len(r[2])), 0.5 if r[3] else 0.01)))
    assert "hardly differ" in record.details["not_made"]["labels in reverse order"]


def test_probabilities_of_zero_are_not_compared():
    def tiny(query, items, labels, softmax):
        return healthy(query, items, labels, softmax) * (1.0 if softmax else 0.0)

    assert "round to 0" in check(server(tiny)).details["not_made"]["probabilities without softmax"]


def test_where_no_check_can_be_made_nothing_is_decided(monkeypatch):
    from pytest_multiitem.gates import contract

    def nothing(probe):
        raise contract._NotMade("not today")

    monkeypatch.setattr(contract, "_CHECKS", dict.fromkeys(CHECKS, nothing))
    record = check(server())
    assert record.verdict is Verdict.INCONCLUSIVE and "no check could be made: not today" in record.reason


def test_a_request_without_tokens_decides_nothing():
    record = check(server(), cases=[make_case(lengths=[0, 0])])
    assert record.verdict is Verdict.INCONCLUSIVE and "no item with tokens" in record.reason


def test_a_server_that_cannot_be_reached_ends_the_measurement():
    with pytest.raises(ScoreFailure, match="connection reset"):
        check(server(failing_on(lambda items: len(items) == 1, GONE)))


def test_noise_breaks_nothing():
    """What differs no more than replays do decides nothing; a difference far above them still does."""
    rng = np.random.default_rng(0)

    def noisy(query, items, labels, softmax):
        scores = healthy(query, items, labels, softmax)
        return scores + 0.03 * rng.choice([-1, 1], (len(items), 1)) * softmax

    record = check(server(noisy))
    assert record.details["broken"] == {} and record.noise_floor > 0.02
    assert record.verdict is Verdict.INCONCLUSIVE and record.reason.startswith("duplicates: ")
    assert "replays of the same request are" in record.details["not_made"]["duplicates"]
    swapped = check(server(lambda query, items, labels, softmax: noisy(query, items, sorted(labels), softmax)))
    assert "labels in reverse order" in swapped.details["broken"]


def test_low_precision_is_allowed_for():
    """Rounding of a bfloat16 server: within 0.02, and not within 1e-4."""

    def rounded(query, items, labels, softmax):
        shift = 0.004 * (len(items) == 1)
        return healthy(query, items, labels, softmax) + shift

    target = server(by_place)
    info = target.client.server_info
    target.client.server_info = lambda: {**info(), "dtype": "bfloat16"}
    assert check(target).verdict is Verdict.PASS
    assert check(server(rounded)).verdict is Verdict.PASS
    assert check(server(by_place)).verdict is Verdict.FAIL


def test_another_mask_than_the_requested_one_fails():
    target = server()
    target.client.executed = "segment"
    assert "dense was requested, but the server executed segment" in check(target).reason


def test_a_leak_breaks_the_one_item_check():
    def answer(query, items, labels, softmax):
        healthy(query, items, labels, softmax)
        return leaking(lambda i, j, n: j < i)(query, items, labels) * (1.0 if softmax else LABEL_MASS)

    assert "one item alone" in check(server(answer)).details["broken"]
