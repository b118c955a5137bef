"""Requests of many users at once: what mixes them up is seen, and what does not is left alone."""

import time
from dataclasses import replace
from threading import Lock
from types import SimpleNamespace

import numpy as np
import pytest
from stub_targets import StubClient, StubSubject, baseline, make_case, multi, packed

from pytest_multiitem.adapters.base import Engine, Neighbour
from pytest_multiitem.gates.full_traffic import TRAFFIC, measure
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

CASE = make_case(5)


class Connections(StubClient):
    """A server that knows over which connection, and beside how many others, a request comes.

    ``seen(rows, connection, others, asked)``: the answer, from the right one [N, K]; ``others``: queries in flight;
    ``asked``: requests to other endpoints so far.
    """

    def __init__(self, seen, shared=None):
        super().__init__(packed, "dense")
        self._seen = seen
        self._shared = shared or {"lock": Lock(), "flying": [], "opened": 0, "asked": 0}
        self._shared["opened"] += 1
        self._number = self._shared["opened"]

    def another(self):
        client = Connections(self._seen, self._shared)
        client.heard = self.heard
        return client

    def get(self, path):
        """No answer that says anything."""

    def post(self, path, body):
        self._shared["asked"] += 1

    def server_info(self):
        return {"dtype": "float32"}

    def silently(self, query, items, labels, apply_softmax=True):
        shared = self._shared
        with shared["lock"]:
            shared["flying"].append(tuple(query))
        time.sleep(0.004)
        with shared["lock"]:
            others = [other for other in shared["flying"] if other != tuple(query)]
        rows = self._seen(packed(query, items, labels), self._number, len(others), shared["asked"])
        with shared["lock"]:
            shared["flying"].remove(tuple(query))
        return rows


class Talkative(Engine):
    neighbours = (Neighbour("/generate", {"text": "a"}), Neighbour("/v1/models"))
    flushes_cache = True


def check(seen, *, owned=False, **more):
    server = SimpleNamespace(log_path=None) if owned else None
    target = replace(multi(), client=Connections(seen), adapter=Talkative(), server=server)
    return record_of(TRAFFIC, measure(StubSubject([CASE], multi=target, **more)))


def flipped(rows):
    return np.asarray(rows)[:, ::-1]


def test_a_healthy_server_passes():
    record = check(lambda rows, *where: rows, max_in_flight=8)
    assert record.verdict is Verdict.PASS, record.reason
    assert list(record.details.stages) == [
        "fresh connections", "2 in flight", "4 in flight", "8 in flight", "fresh connections after traffic",
    ]  # fmt: skip
    assert record.details.not_tried == {
        "beside /generate": "another's server: add --multiitem-mixed-traffic",
        "beside /v1/models": "another's server: add --multiitem-mixed-traffic",
        "known queries": "no serial server to compare with, or no serial scores that packed ones equal",
        "cold and warm caches": "another's server",
    }


@pytest.mark.parametrize("connection", [4, 5, 6, 7, 8])
def test_one_wrong_replica_is_found(connection):
    record = check(lambda rows, number, *more: flipped(rows) if number == connection else rows, max_in_flight=2)
    assert record.verdict is Verdict.FAIL, connection


@pytest.mark.parametrize("busy", [1, 3, 7])
def test_answers_that_mix_under_load_are_found(busy):
    record = check(lambda rows, number, others, asked: flipped(rows) if others >= busy else rows, max_in_flight=8)
    assert record.verdict is Verdict.FAIL and "in flight" in record.reason


def test_what_needs_more_in_flight_than_was_allowed_is_not_seen():
    record = check(lambda rows, number, others, asked: flipped(rows) if others >= 4 else rows, max_in_flight=4)
    assert record.verdict is Verdict.PASS and record.samples["most_in_flight"] == 4


@pytest.mark.parametrize("how", [{"owned": True}, {"mixed_traffic": True}])
def test_requests_to_other_endpoints_that_switch_the_mask_off_are_found(how):
    record = check(lambda rows, number, others, asked: flipped(rows) if asked else rows, max_in_flight=2, **how)
    assert record.verdict is Verdict.FAIL and record.reason.startswith("beside /generate")


def test_noise_is_no_mix_up():
    random = np.random.default_rng(2)
    record = check(lambda rows, *where: rows + random.uniform(-0.01, 0.01, np.shape(rows)), max_in_flight=2)
    assert record.verdict is Verdict.INCONCLUSIVE and "quietly, moves scores" in record.reason


def test_a_server_that_refuses_in_traffic_fails_and_nobody_waits():
    def refuse(rows, number, others, asked):
        if others >= 2:
            raise ScoreFailure(FailureKind.HTTP_ERROR, "HTTP 500: too much", 500)
        return rows

    with pytest.raises(ScoreFailure, match="too much"):
        check(refuse, max_in_flight=4)


class KnownQueries:
    """Right scores behind the query that is found for the one that is asked for. ``found(kept, query)``."""

    def __init__(self, found):
        self._found, self._kept = found, {}

    def __call__(self, query, items, labels):
        return packed(self._found(self._kept, tuple(query)), items, labels)


def keyed(key):
    return lambda kept, query: kept.setdefault((len(query), key(query)), query)


def without(place):
    """A key that leaves out the token at a place."""
    return keyed(lambda query: query[: place % len(query)] + query[place % len(query) + 1 :])


def behind_known(found):
    target = replace(multi(), client=StubClient(KnownQueries(found), "dense"))
    return record_of(TRAFFIC, measure(StubSubject([CASE], multi=target, hand=baseline(), max_in_flight=2)))


def longest(kept, query):
    found = max((each for each in kept if query[: len(each)] == each), key=len, default=query)
    kept[query] = query
    return found


@pytest.mark.parametrize(
    "found",
    [
        without(0), without(-1), without(10), keyed(lambda query: query[:4]), keyed(lambda query: query[-4:]),
        keyed(lambda query: tuple(sorted(query))), keyed(sum), longest,
    ],
    ids=["first", "last", "middle", "beginning", "end", "order", "sum", "longer"],
)  # fmt: skip
def test_a_query_that_is_taken_for_a_known_one_is_found(found):
    record = behind_known(found)
    assert record.verdict is Verdict.FAIL and record.reason.startswith("known queries"), record.reason


@pytest.mark.parametrize("found", [keyed(lambda query: query), lambda kept, query: query], ids=["kept", "new"])
def test_a_query_that_is_known_as_a_whole_is_left_alone(found):
    record = behind_known(found)
    assert record.verdict is Verdict.PASS and record.details.stages["known queries"].largest < 1e-12, record.reason


def test_what_is_kept_of_a_query_and_scores_otherwise_is_no_noise():
    seen = set()

    def otherwise(query, items, labels):
        known = tuple(query) in seen
        seen.add(tuple(query))
        return packed([*query[:-1], 9] if known else query, items, labels)

    target = replace(multi(), client=StubClient(otherwise, "dense"))
    record = record_of(TRAFFIC, measure(StubSubject([CASE], multi=target, max_in_flight=2)))
    assert record.verdict is Verdict.FAIL, record.reason
