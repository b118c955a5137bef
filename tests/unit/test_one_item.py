"""The serial side of a packing server: requests of one item each, to it."""

import json

import httpx
import numpy as np
import pytest

from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.settings.attached import check_addresses, has_serial
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.transport import client as clients
from pytest_multiitem.transport.client import prepare
from pytest_multiitem.transport.one_item import NeverScored, OneItemClient, Packing

D = 99
URL = "http://127.0.0.1:9"


@pytest.fixture
def asked(monkeypatch):
    """The bodies that a server gets, whose scores are the sum of what it is sent."""
    bodies = []

    def answer(self, request):
        body = json.loads(request.content)
        bodies.append(body)
        scores = [[sum(body["query"]) + sum(item), 0.0] for item in body["items"]]
        scores = [[row[0] / 10_000, 1 - row[0] / 10_000] for row in scores]
        return httpx.Response(200, json={"scores": scores}, request=request)

    monkeypatch.setattr(clients.ScoreClient, "_send", answer)
    return bodies


@pytest.fixture
def client(asked):
    with OneItemClient(URL, packing=Packing(D, seen=True)) as made:
        yield made


def test_items_go_one_by_one_behind_the_query_that_the_server_completes(asked, client):
    heard = []
    client.heard = lambda request, scores: heard.append((request, scores))
    scores = client.score([5, 6, D], [[1], [2, 3], [4]], [7, 8])
    assert [(body["query"], body["items"]) for body in asked] == [([5, 6], [[1]]), ([5, 6], [[2, 3]]), ([5, 6], [[4]])]
    assert np.allclose(scores[:, 0], [0.0012, 0.0016, 0.0015])
    ((request, told),) = heard  # as one answer, to what was asked
    assert request.query == (5, 6, D) and request.num_items == 3 and told is scores


def test_delimiters_elsewhere_are_left_out(asked, client):
    client.score([5, D], [[1, D, 2]], [7, 8])
    client.score([D, 6, 5], [[1]], [7, 8])  # as a request that is only there beside others has it
    assert asked[0]["items"] == [[1, 2]] and asked[1]["query"] == [6, 5]


@pytest.mark.parametrize(("seen", "query", "what"), [(True, [5, 6], "without"), (False, [5, D], "with")])
def test_a_query_that_the_server_never_scores_behind(asked, seen, query, what):
    refused = pytest.raises(EngineUnavailable, match=f"behind a query {what} the delimiter.*--serial-url")
    with OneItemClient(URL, packing=Packing(D, seen=seen)) as client, refused:
        client.score(query, [[1]], [7, 8])
    assert not asked


def test_a_server_whose_items_do_not_see_the_delimiter(asked):
    with OneItemClient(URL, packing=Packing(D, seen=False)) as client:
        client.score([5, 6], [[1]], [7, 8])
    assert asked[0]["query"] == [5, 6]


def test_what_is_timed_is_one_item(asked, client):
    seconds, response = client.timed_send(prepare([5, D], [[1]], [7, 8]))
    assert seconds >= 0 and asked[0]["query"] == [5]
    assert client.read(response, prepare([5, D], [[1]], [7, 8])).shape == (1, 2)
    with pytest.raises(NeverScored, match=r"a request of 2 items is not serial.*--serial-url"):
        client.timed_send(prepare([5, D], [[1], [2]], [7, 8]))


def test_another_connection_asks_in_the_same_way(asked, client):
    with client.another() as other:
        other.score([5, D], [[1], [2]], [7, 8])
    assert [body["query"] for body in asked] == [[5], [5]]


def settings(**given):
    return resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})


def test_which_settings_have_a_serial_side():
    assert not has_serial(settings(multi_url=URL))
    assert has_serial(settings(multi_url=URL, one_server="1"))
    assert has_serial(settings(multi_url=URL, serial_url="http://127.0.0.1:8"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"multi_url": URL, "serial_url": "http://127.0.0.1:8", "one_server": "1"}, "give one of them"),
        ({"one_server": "1"}, "give its address: --multi-url"),
    ],
)
def test_one_server_that_is_said_to_be_two(given, message):
    with pytest.raises(UsageError, match=message):
        check_addresses(settings(**given))
