"""Faults of some answers only: each is wrong where it says, by as much as it says, and nowhere else."""

import asyncio

import httpx
import numpy as np
import pytest
from test_wire_faults import ITEMS, LABELS, PAIR, PAIR_ROWS, PLAIN, REQUEST, ROWS, Stub, ask, client

from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.catalogue import fault

#: Rows that differ, so that any exchange of two shows.
DISTINCT = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.05, 0.05, 0.9], [0.4, 0.35, 0.25]])


def answers(name, *requests, rows=DISTINCT):
    """The scores of requests, one after the other, each over a connection of the given number."""

    async def run():
        app = fault(name).wrap(Stub(rows))
        found = []
        for port, request in requests:
            transport = httpx.ASGITransport(app=app, client=("127.0.0.1", port))
            async with httpx.AsyncClient(transport=transport, base_url="http://engine") as http:
                found.append(np.array((await http.post("/v1/score", json=request)).json()["scores"]))
        return found

    return asyncio.run(run())


def wrong_at(name, *requests, rows=DISTINCT):
    return [i for i, found in enumerate(answers(name, *requests, rows=rows)) if not np.array_equal(found, rows)]


@pytest.mark.parametrize(
    ("count", "wrong"), [(2, [1, 3, 5]), (3, [2, 6]), (4, [3]), (6, []), (1, [0, 1, 2, 3, 4, 5, 6])]
)
def test_every_so_many_new_connections_are_those_of_a_wrong_replica(count, wrong):
    requests = [(port, REQUEST) for port in (10, 11, 12, 13, 10, 11, 12)]
    assert wrong_at(f"replica_connection={count}", *requests) == wrong
    (found,) = answers("replica_connection=1", (10, REQUEST))
    np.testing.assert_array_equal(found, np.roll(DISTINCT, -1, axis=0))


def test_every_so_many_requests_are_those_of_a_wrong_replica():
    assert wrong_at("replica_request=3", *[(10, REQUEST)] * 10) == [2, 5, 8]
    assert wrong_at("replica_request=50", *[(10, REQUEST)] * 49) == []


@pytest.mark.parametrize("rows", [[[0.3, 0.7]], [[0.3, 0.7]] * 4])
def test_a_wrong_replica_shows_where_no_two_items_differ(rows):
    request = PAIR | {"items": ITEMS[: len(rows)]}
    (found,) = answers("replica_request=1", (10, request), rows=np.array(rows))
    off = np.abs(found - rows).max(axis=1)
    assert sorted(off)[-1] >= 0.025 and np.count_nonzero(off) == 1
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_small_probabilities_are_misplaced_as_they_are():
    tiny = DISTINCT * 1e-6
    (found,) = answers("replica_request=1", (10, PLAIN), rows=tiny)
    np.testing.assert_array_equal(found, np.roll(tiny, -1, axis=0))


@pytest.mark.parametrize("number", [1, 5])
def test_exactly_one_answer_is_wrong(number):
    requests = [(10, REQUEST)] * 12
    assert wrong_at(f"wrong_once={number}", *requests) == [number - 1]
    found = answers(f"wrong_once={number}", *requests)[number - 1]
    np.testing.assert_array_equal(found, DISTINCT[[0, 2, 1, 3]], "those furthest apart in the first label")


def test_only_answers_with_scores_are_counted_to_the_wrong_one():
    app = fault("wrong_once=2").wrap(Stub(DISTINCT))
    ask(app, json={"query": [1]})
    assert ask(app, json=REQUEST).json()["scores"] == DISTINCT.tolist()
    assert ask(app, json=REQUEST).json()["scores"] != DISTINCT.tolist()
    assert ask(app, json=REQUEST).json()["scores"] == DISTINCT.tolist()


# -- a row that is planted -----------------------------------------------------------------------


def off_by(found, right):
    """Which rows are wrong, and by how much in the label that is furthest off."""
    off = np.abs(found - right).max(axis=1)
    return np.flatnonzero(off).tolist(), float(off.max())


@pytest.mark.parametrize("rows", [DISTINCT, ROWS, np.full((4, 3), 1 / 3), np.array([[1.0, 0.0, 0.0]] * 4)])
def test_one_row_is_wrong_by_what_shows_and_stays_a_distribution(rows):
    for query in range(30):
        (found,) = answers("wrong_row=every:1", (10, REQUEST | {"query": [query]}), rows=rows)
        wrong, by = off_by(found, rows)
        assert len(wrong) == 1 and 0.02 <= by <= 0.3 + 1e-9
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-12)
        assert ((found >= 0) & (found <= 1)).all()


def test_probabilities_over_the_vocabulary_stay_some():
    for rows in (DISTINCT * 1e-5, DISTINCT * 0.99, DISTINCT):
        for query in range(20):
            (found,) = answers("wrong_row=every:1", (10, PLAIN | {"query": [query]}), rows=rows)
            wrong, by = off_by(found, rows)
            assert len(wrong) == 1 and by >= 0.02 and found.min() >= 0 and found.sum(axis=1).max() <= 1 + 1e-9


def test_a_single_label_has_nothing_to_move():
    one = REQUEST | {"label_token_ids": [11]}
    assert wrong_at("wrong_row=every:1", (10, one), rows=np.ones((4, 1))) == []


def test_the_same_request_is_as_wrong_again():
    first, again, other = answers("wrong_row=every:1", (10, REQUEST), (11, REQUEST), (10, REQUEST | {"query": [4]}))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("index", range(4))
def test_the_item_of_an_index_is_wrong(index):
    (found,) = answers(f"wrong_row=item:{index}", (10, REQUEST))
    assert off_by(found, DISTINCT)[0] == [index]


LONG = REQUEST | {"query": [1] * 9}
CONDITIONS = [
    # (condition, connections and requests, which answers are wrong)
    ("item:4", [(1, REQUEST)], []),
    ("length:2", [(1, REQUEST), (1, REQUEST | {"items": [[1], [2], [3, 4, 5], []]})], [0]),
    ("length:0", [(1, REQUEST), (1, REQUEST | {"items": [[1], [2], [3, 4, 5], []]})], [1]),
    ("min_tokens:15", [(1, REQUEST), (1, LONG)], [0, 1]),
    ("min_tokens:16", [(1, REQUEST), (1, LONG)], [1]),
    ("min_tokens:22", [(1, REQUEST), (1, LONG)], []),
    ("min_items:4", [(1, REQUEST)], [0]),
    ("min_items:5", [(1, REQUEST)], []),
    ("label:12", [(1, REQUEST), (1, REQUEST | {"label_token_ids": [1, 2, 3]})], [0]),
    ("label:2-10", [(1, REQUEST), (1, REQUEST | {"label_token_ids": [1, 11, 3]})], [1]),
    ("label:14-20", [(1, REQUEST)], []),
    ("connection:3", [(port, REQUEST) for port in (1, 2, 3, 1, 4, 3, 5, 6)], [2, 5, 7]),
    ("every:2", [(1, REQUEST)] * 5, [1, 3]),
    ("from:3", [(1, REQUEST)] * 5, [2, 3, 4]),
    ("until:2", [(1, REQUEST)] * 5, [0, 1]),
    ("once:3", [(1, REQUEST)] * 5, [2]),
    ("load:1", [(1, REQUEST)], [0]),
    ("load:2", [(1, REQUEST)] * 3, []),
]


@pytest.mark.parametrize(
    ("condition", "requests", "wrong"), CONDITIONS, ids=lambda each: each if type(each) is str else ""
)
def test_a_row_is_wrong_under_its_condition_alone(condition, requests, wrong):
    assert wrong_at(f"wrong_row={condition}", *requests) == wrong
    assert fault(f"wrong_row={condition}").label == f"wrong_row={condition}"


def test_the_item_of_a_length_and_the_label_of_an_id_are_the_wrong_ones():
    for query in range(20):
        request = REQUEST | {"query": [query]}
        (found,) = answers("wrong_row=length:1", (1, request))
        assert off_by(found, DISTINCT)[0][0] in (1, 3)
        (found,) = answers("wrong_row=label:13", (1, request))
        assert np.abs(found - DISTINCT)[:, LABELS.index(13)].max() >= 0.02


def test_a_row_is_wrong_from_so_many_in_flight_on():
    async def run():
        arrived, end = asyncio.Semaphore(0), asyncio.Event()

        async def hold(request):
            arrived.release()
            await end.wait()

        async with client(fault("wrong_row=load:3").wrap(Stub(DISTINCT, hold=hold))) as http:
            tasks = []
            for _ in range(4):
                tasks.append(asyncio.create_task(http.post("/v1/score", json=REQUEST)))
                await arrived.acquire()
            end.set()
            first = [(await task).json()["scores"] for task in tasks]
            return [*first, (await http.post("/v1/score", json=REQUEST)).json()["scores"]]

    assert [found != DISTINCT.tolist() for found in asyncio.run(run())] == [False, False, True, True, False]


def test_texts_have_the_length_of_their_characters():
    text = REQUEST | {"query": "q", "items": ["a", "bcd"]}
    assert off_by(*answers("wrong_row=length:3", (1, text), rows=PAIR_ROWS[:2]), PAIR_ROWS[:2])[0] == [1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "item",
        "item:",
        "item:-1",
        "item:1.5",
        "item:1-2",
        "label:5-4",
        "every:0",
        "load:0",
        "once:0",
        "nothing:1",
        "5",
    ],
)
def test_a_condition_that_is_none(text):
    with pytest.raises(UsageError, match=r"is no condition; expected NAME:NUMBER.*item, length.*such as item:57"):
        fault(f"wrong_row={text}")


def test_a_planted_row_is_no_part_of_the_default_plan():
    kind = type(fault("wrong_row"))
    assert not kind.planned and kind.number == 0 and fault("wrong_row").label == "wrong_row=every:1"
