"""Which answers of a server are wrong: by what is known, by quiet requests, and never by noise."""

import numpy as np
import pytest
from stub_targets import LABELS, make_case, packed

from pytest_multiitem.bench.referee import Referee
from pytest_multiitem.targets.answers import Answers
from pytest_multiitem.transport.client import FailureKind, ScoreFailure, prepare

LIMIT = 1e-4


class Server:
    """Answers quietly by ``scores``, or fails; ``asked`` counts."""

    def __init__(self, scores=packed):
        self.scores, self.asked, self.gone = scores, 0, False

    def __call__(self, request):
        self.asked += 1
        if self.gone:
            raise ScoreFailure(FailureKind.CONNECTION, "gone")
        return self.scores(request.query, request.items, request.labels)


def request_of(count=6, seed=1):
    case = make_case(count, seed=seed)
    return prepare(case.query, case.items, LABELS)


def right(request):
    return packed(request.query, request.items, request.labels)


def off(request, index=2, by=0.1):
    rows = right(request)
    rows[index] += by * np.array([1, -1])
    return rows


def known_by(server, *requests):
    """What a server's quiet answers are known to be."""
    answers = Answers()
    for request in requests:
        answers.add(request, server(request))
    answers.judge(server, limit=LIMIT)
    return answers


@pytest.mark.parametrize("by", [1e-5, 9e-5, -9e-5])
def test_rounding_is_right_and_costs_nothing(by):
    server, request = Server(), request_of()
    referee = Referee(known_by(server, request), server, limit=LIMIT)
    asked = server.asked
    assert referee.wrong([(request, off(request, by=by))] * 3) == [None] * 3
    assert server.asked == asked and referee.doubt is None


def test_each_wrong_answer_is_found_with_its_worst_row():
    server, request, other = Server(), request_of(), request_of(9, seed=2)
    referee = Referee(known_by(server, request, other), server, limit=LIMIT)
    both = off(request, 1, 0.05)
    both[4] += 0.2 * np.array([1, -1])
    found = referee.wrong([(request, right(request)), (request, both), (other, right(other)), (other, off(other, 8))])
    assert [row is None for row in found] == [True, False, True, False]
    assert (found[1].index, found[3].index) == (4, 8) and found[1].difference == pytest.approx(0.2)
    assert "item 5 of 6" in str(found[1]) and "0.2 away from what it scores in other requests" in str(found[1])


def test_what_nothing_is_known_of_must_equal_its_first_answer_unless_that_is_the_wrong_one():
    request = request_of()
    for answers, wrong in (([right, off], [1]), ([off, right, right], [0]), ([right, right, off, right], [2])):
        found = Referee(Answers(), Server(), limit=LIMIT).wrong([(request, answer(request)) for answer in answers])
        assert [at for at, row in enumerate(found) if row is not None] == wrong


def test_a_server_that_is_wrong_from_a_moment_on_is_not_believed_afterwards():
    server, request = Server(), request_of()
    referee = Referee(known_by(server, request), server, limit=LIMIT)
    server.scores = lambda query, items, labels: packed(query, items, labels) + 0.1 * np.array([1, -1])
    assert referee.wrong([(request, server(request))])[0] is not None


def test_where_the_server_is_gone_what_is_known_counts():
    server, request = Server(), request_of()
    referee = Referee(known_by(server, request), server, limit=LIMIT)
    server.gone = True
    found = referee.wrong([(request, off(request)), (request, right(request))])
    assert found[0].index == 2 and found[1] is None


def test_a_server_that_does_not_repeat_itself_is_noisy():
    random = np.random.default_rng(3)

    def noisy(query, items, labels):
        return packed(query, items, labels) + random.uniform(-0.05, 0.05, (len(items), 1)) * [1, -1]

    server, request = Server(noisy), request_of()
    referee = Referee(Answers(), server, limit=LIMIT)
    assert referee.wrong([(request, server(request)) for _ in range(5)]) == [None] * 5
    assert 0.01 < referee.unstable < 0.1 and "noise" in referee.doubt


def test_one_item_of_many_that_is_noisy_does_not_hide_the_others():
    random, request = np.random.default_rng(3), request_of()

    def scores(query, items, labels):
        rows = packed(query, items, labels)
        for index, item in enumerate(items):
            if tuple(item) == request.items[0]:
                rows[index] += random.uniform(-0.05, 0.05) * np.array([1, -1])
        return rows

    server = Server(scores)
    wrong = server(request)
    wrong[[2, 3]] = wrong[[3, 2]]
    found = Referee(Answers(), server, limit=LIMIT).wrong([(request, server(request)), (request, wrong)])
    assert found[1] is not None and found[1].index in (2, 3)


def test_probabilities_over_the_vocabulary_are_compared_by_their_size():
    case = make_case(4)
    request = prepare(case.query, case.items, LABELS, apply_softmax=False)

    def small(query, items, labels):
        return 1e-6 * packed(query, items, labels)

    def ask(request):
        return small(request.query, request.items, request.labels)

    moved = ask(request)
    moved[1] *= 1.01
    found = Referee(Answers(), ask, limit=LIMIT).wrong([(request, ask(request)), (request, moved)])
    assert found[0] is None and found[1].index == 1
