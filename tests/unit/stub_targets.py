"""Scoring servers in memory: a real `Target` over a client whose scores are a pure function of the request.

The score of an item is a softmax over hashes of exactly the tokens it sees, so that any change of what it
sees changes it altogether.
"""

from threading import Lock
from types import SimpleNamespace

import numpy as np
from fake_backend import logit

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.settings import MODE_NAMES
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, ScoreFailure, prepare, read_scores

DELIMITER = 999
LABELS = (5, 6)
POOL = tuple(range(10, 900))
#: What a stub's probabilities over the vocabulary are taken over: all labels that a gate asks for, and two more.
VOCABULARY = (*LABELS, 7, 8, 29_398, 29_399)


def hashed(tokens, labels):
    """The scores [K] of one token sequence."""
    logits = np.array([logit(tuple(tokens), label) for label in labels])
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def serial(query, items, labels):
    return np.array([hashed([*query, *item], labels) for item in items])


def packed(query, items, labels):
    """What a healthy server of `prefix_first_delim` answers."""
    return serial([*query, DELIMITER], items, labels)


def packed_query_prefix(query, items, labels):
    """What a healthy server of `query_prefix` answers."""
    return serial(query, items, labels)


def leaking(leaks):
    """Packed scoring in which item i also sees the items for which ``leaks(i, j, N)`` holds."""

    def scores(query, items, labels):
        rows = []
        for i, item in enumerate(items):
            seen = [*query, DELIMITER]
            for j, other in enumerate(items):
                if j != i and leaks(i, j, len(items)):
                    seen += [*other, DELIMITER]
            rows.append(hashed([*seen, *item], labels))
        return np.array(rows)

    return scores


class StubClient:
    """`transport.client.ScoreClient` without HTTP. ``executed``: the counter that a request raises, a mask, "serial" or
    "prefill+extend"; None: a server that attests nothing."""

    def __init__(self, scores, executed, model="stub-model"):
        self.model = model
        self.url = "http://stub"
        self.heard = None
        self.requests = []
        self.executed = executed
        self._scores = scores
        self._counts = {"dense": 0, "segment": 0, "serial": 0, "prefill+extend": 0}
        self._items = {"dense": 0, "segment": 0}
        self._one_at_a_time = Lock()

    def another(self):
        """The same server: its counters and its requests are shared."""
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def close(self):
        pass

    def get(self, path):
        raise ScoreFailure(FailureKind.HTTP_ERROR, "HTTP 404", 404)

    def post(self, path, body):
        return self.get(path)

    def score(self, query, items, labels, *, apply_softmax=True):
        told = prepare(query, items, labels, apply_softmax=apply_softmax)
        return self._told(told, self.silently(query, items, labels, apply_softmax))

    def send(self, request):
        return self._told(request, self.silently(request.query, request.items, request.labels, request.apply_softmax))

    def read(self, response, request):
        return self._told(request, read_scores(response, request))

    def _told(self, request, scores):
        if self.heard is not None:
            self.heard(request, scores)
        return scores

    def silently(self, query, items, labels, apply_softmax=True):
        """The scores of a request, which nobody is told."""
        with self._one_at_a_time:
            self.requests.append((tuple(query), tuple(map(tuple, items)), tuple(labels)))
            if self.executed is not None:
                self._counts[self.executed] += 1
                if self.executed in self._items:
                    self._items[self.executed] += len(items)
        if apply_softmax:
            return np.asarray(self._scores(query, items, labels), dtype=np.float64)
        over = tuple(dict.fromkeys((*VOCABULARY, *labels)))
        scores = np.asarray(self._scores(query, items, over), dtype=np.float64)
        return scores[:, [over.index(label) for label in labels]]

    def server_info(self):
        if self.executed is None:
            return None
        counts = self._counts
        return {
            "model_path": self.model,
            "dtype": "float32",
            "executed": {
                "packed_sequences": {mask: counts[mask] for mask in self._items},
                "packed_items": dict(self._items),
                "prefill_extend": {"items": counts["prefill+extend"]},
                "serial_sequences": counts["serial"],
            },
        }


def multi(scores=packed, *, mask="dense", executed="as requested", semantics=Semantics.PREFIX_FIRST_DELIM, chunk=0):
    executed = mask if executed == "as requested" else executed
    return Target(
        Profile("multi", "stub", mask, chunk, semantics), "stub", StubClient(scores, executed), delimiter=DELIMITER
    )


def baseline(scores=serial, *, executed="serial"):
    return Target(Profile("serial", "stub"), "stub", StubClient(scores, executed), delimiter=DELIMITER)


def extender(scores=packed_query_prefix, *, executed="prefill+extend"):
    profile = Profile("extend", "stub", semantics=Semantics.QUERY_PREFIX)
    return Target(profile, "stub", StubClient(scores, executed), delimiter=DELIMITER)


def make_case(count=7, *, seed=1, lengths=None, name="case", labels=LABELS):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, count).tolist() if lengths is None else lengths

    def draw(length):
        return tuple(rng.choice(POOL, length).tolist())

    return Case(name, draw(12), tuple(draw(n) for n in lengths), labels, POOL)


class StubSubject(Subject):
    """What a gate may ask for, of stubs. ``more``: servers by the part that they play, and settings. ``hand``: the
    serial server at hand."""

    record = settings = semantics = examples = opposite = reference = None
    backend = "stub"

    def __init__(self, cases=(), *, record=lambda line: None, hand=None, keep=None, **more):
        self.record, self.keep = record, keep
        self._hand, self._requests = hand, cases
        self._servers = {name: more.pop(name) for name in [*more] if isinstance(more[name], Target)}
        self.semantics = more.pop("semantics", Semantics.PREFIX_FIRST_DELIM)
        self.examples, self.shrink = more.pop("examples", 100), more.pop("shrink", True)
        self.settings = SimpleNamespace(
            **{
                "delimiter": DELIMITER, "seed": 3, "labels": LABELS, "model": None, "effort": "quick",
                "max_in_flight": None, "mixed_traffic": False, "mode": MODE_NAMES, "workload": None, **more,
            }
        )  # fmt: skip

    def server(self, part):
        return self._servers[part]

    def built_in_cases(self, target):
        return self._requests

    def timing_case(self, target, num_items):
        return self._requests[0]

    def serial_at_hand(self, target):
        return self._hand
