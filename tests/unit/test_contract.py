"""The request contract against servers in memory: each check, the fault that it catches, and when it is not made."""

import json
import math
import re
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from stub_targets import (
    DELIMITER,
    StubClient,
    StubSubject,
    leaking,
    make_case,
    packed,
    packed_query_prefix,
    serial,
)
from tokenizers import Tokenizer

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.base import Engine, Profile
from pytest_multiitem.gates import request_contract as contract
from pytest_multiitem.gates.evidence import Baseline, leak_visibility, semantic_visibility
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.gates.request_contract import CONTRACT, measure
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.readout import softmax
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.errors import ServerDied
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

#: The probability that the servers here give to all labels together.
LABEL_MASS = 1e-3

CASE = make_case(lengths=[3, 0, 4, 5, 2, 6, 7, 3])
CHECKS = {
    "duplicates", "probabilities without softmax", "labels in reverse order", "temperature",
    "token log-probabilities", "one item alone", "text", "an empty item", "the delimiter inside an item",
    "over-long input",
}  # fmt: skip
LIMIT = 50
#: A directory with a tokenizer.json.
TOKENIZER = resources.files("pytest_multiitem.engine") / "data"
ENCODE = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))


def encode(text):
    return ENCODE.encode(text, add_special_tokens=False).ids


class Tolerant(Engine):
    name, allows_empty_items, withstands_bad_requests = "tolerant", True, True


class Delicate(Engine):
    name = "delicate"


def apart(query, items):
    """The token ids of texts, each by itself."""
    return encode(query), [encode(item) for item in items]


class ContractClient(StubClient):
    """A server that refuses what it cannot score. ``answer`` takes (query, items, labels, apply_softmax).

    ``tokenise``: the token ids of a query and its items. ``change``: what else becomes of an answer to the fields of a
    request that asks for more than scores. ``fields``: those that it says it knows.
    """

    def __init__(
        self, answer, executed, *, limit=LIMIT, models=None, engine="tolerant", tokenise=apart,
        change=lambda answer, asked: answer, fields=("temperature", "return_token_logprobs"), model=str(TOKENIZER),
    ):  # fmt: skip
        super().__init__(None, executed, model)
        self.answer, self.limit, self.models, self.engine = answer, limit, models, engine
        self.tokenise, self.change, self.fields = tokenise, change, fields
        self.sent = []

    def timed_send(self, request):
        asked = json.loads(request.body)
        self.sent.append(asked)
        query, items = asked["query"], asked["items"]
        if isinstance(query, str):
            query, items = self.tokenise(query, items)
        labels = asked["label_token_ids"]
        scores = self.score(query, items, labels, apply_softmax=asked["apply_softmax"])
        if asked.get("temperature") is not None:
            scores = softmax(np.log(np.maximum(scores, 0)), asked["temperature"])
        answer = {"scores": scores.tolist()}
        if asked.get("return_token_logprobs"):
            answer["token_logprobs"] = np.log(self.score(query, items, labels, apply_softmax=False)).tolist()
        content = json.dumps(self.change(answer, asked))
        return 0.0, httpx.Response(200, content=content, request=httpx.Request("POST", "http://stub/v1/score"))

    def score(self, query, items, labels, *, apply_softmax=True):
        assert type(apply_softmax) is bool
        items = [tuple(item) for item in items]
        self._scores = lambda *request: self.answer(*request, apply_softmax)
        scores = StubClient.score(self, query, items, labels)
        rows, columns = scores.shape
        if (rows, columns) != (len(items), len(labels)):
            raise ScoreFailure(FailureKind.BAD_RESPONSE, f"expected {len(items)} rows, got {rows}", 200)
        return scores

    def server_info(self):
        return {**super().server_info(), "engine": self.engine, "max_multi_item_seq_len": self.limit,
                "score_fields": list(self.fields)}  # fmt: skip

    def get(self, path):
        assert path == "/v1/models"
        if self.models is None:
            raise ScoreFailure(FailureKind.CONNECTION, "no such endpoint")
        return httpx.Response(200, json={"data": [{"id": "stub", "max_model_len": self.models}]})


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
    return Target(profile, "stub", client, adapter=None if adapter is None else adapter(), delimiter=DELIMITER)


def reference(answer=plain, *, adapter=Tolerant, engine="tolerant", **more):
    client = ContractClient(answer, "serial", engine=engine, **more)
    return Target(
        Profile("serial", "stub"), "stub", client, adapter=None if adapter is None else adapter(), delimiter=DELIMITER
    )


def check(target, other=None, *, cases=(CASE,), samples=None):
    record = [].append if samples is None else samples.append
    found = measure(StubSubject(cases, multi=target, serial=other or reference(), record=record))
    return record_of(CONTRACT, found)


def test_a_healthy_server_holds_every_check():
    samples = []
    record = check(server(), samples=samples)
    assert record.verdict is Verdict.PASS, record.reason
    assert set(record.details.held) == CHECKS and record.details.not_made == record.details.broken == {}
    assert record.samples == {"checks": 10, "not_made": 0} and record.reason == "10 of 10 checks hold"
    assert record.mask_attested == "dense" and record.noise_floor == record.traffic_floor == 0.0
    assert record.leak_visibility > 0.1 and record.semantic_visibility > 0.02
    told = {s["check"]: s["outcome"] for s in samples if s["kind"] == "contract"}
    assert told == dict.fromkeys(CHECKS, "holds")


def test_the_other_semantics_has_its_own_references():
    def answer(query, items, labels, softmax):
        healthy(query, items, labels, softmax)
        return packed_query_prefix(query, items, labels) * (1.0 if softmax else LABEL_MASS)

    assert check(server(answer, semantics=Semantics.QUERY_PREFIX)).verdict is Verdict.PASS
    assert check(server(answer)).details.broken.keys() == {"an empty item"}


def test_a_server_that_takes_the_delimiter_as_content_holds():
    def answer(query, items, labels, softmax):
        if any(len(item) > LIMIT for item in items):
            raise refused(413)
        return packed(query, items, labels) * (1.0 if softmax else LABEL_MASS)

    record = check(server(answer))
    assert record.verdict is Verdict.PASS and "serial score" in record.details.held["the delimiter inside an item"]


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


def never_again(failure):
    dead = []

    def answer(query, items, labels, softmax):
        if dead:
            raise failure
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
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_fails_by_the_name_of_its_check(fault):
    answer, name = FAULTS[fault]
    record = check(server(answer))
    assert record.verdict is Verdict.FAIL and name in record.details.broken, record.reason
    assert record.reason.startswith(f"{next(iter(record.details.broken))}: ")
    assert set(record.details.broken) | set(record.details.held) == CHECKS


def test_a_server_that_lives_on_after_no_over_long_input_fails():
    record = check(server(never_again(GONE)))
    assert record.verdict is Verdict.FAIL and "scores nothing any more" in record.details.broken["over-long input"]
    assert len(record.details.held) == 9


def test_what_is_broken_is_told_with_what_was_seen():
    def said(answer):
        (told,) = check(server(answer)).details.broken.values()
        return told

    assert said(truncating) == f"an item of {LIMIT + 1} tokens was scored; the server's own limit is {LIMIT}"
    died = ServerDied("the server", 1, "of itself", Path("server.log"), "")
    assert said(failing_on(has_delimiter, died)) == f"it ended the server: {died}"
    assert said(never_again(died)).startswith(
        f"after an item of {LIMIT + 1} tokens, the server scores nothing any more: the server: expected a running"
    )


def test_a_fault_of_one_check_leaves_the_others_alone():
    for name in ("a wrong normaliser", "one item is another path", "an empty item scores its neighbour"):
        answer, check_name = FAULTS[name]
        assert set(check(server(answer)).details.broken) == {check_name}


@pytest.mark.parametrize(("adapter", "engine"), [(Delicate, "delicate"), (None, "unknown")])
def test_what_may_end_a_server_is_not_sent(adapter, engine):
    target = server(adapter=adapter, engine=engine)
    record = check(target)
    not_made = record.details.not_made
    assert set(not_made) == {"an empty item", "the delimiter inside an item", "over-long input"}
    assert all(reason.startswith("not sent: ") for reason in not_made.values())
    assert record.verdict is Verdict.PASS and "7 of 10 checks hold; not made: an empty item" in record.reason
    sent = [item for _, items, _ in target.client.requests for item in items]
    assert all(sent) and max(map(len, sent)) <= 15 and not any(DELIMITER in item for item in sent)


def test_an_attached_server_that_says_it_is_embedded_is_sent_all():
    record = check(server(adapter=None, engine="embedded"), reference(adapter=None, engine="embedded"))
    assert record.verdict is Verdict.PASS and record.samples == {"checks": 10, "not_made": 0}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"limit": None}, "not sent: the server tells no limit"),
        ({"limit": True}, "not sent: the server tells no limit"),
        (
            {"limit": 200_001, "models": 300_000},
            "not sent: the server's limit is 200001 tokens; at most 200000 are tried",
        ),
    ],
)
def test_a_limit_that_nobody_tells_is_not_probed(told, reason):
    assert check(server(**told)).details.not_made["over-long input"] == reason


@pytest.mark.parametrize("told", [{"limit": None, "models": LIMIT}, {"limit": LIMIT, "models": 900}])
def test_the_smallest_limit_that_is_told_counts(told):
    record = check(server(**told))
    assert record.details.held["over-long input"] == f"{LIMIT + 1} tokens, limit {LIMIT}: refused with status 400"


def test_a_server_that_lives_on_after_over_long_input_but_scores_otherwise_fails():
    seen = []

    def answer(query, items, labels, softmax):
        seen.extend(item for item in items if len(item) > LIMIT)
        return healthy(query[1:] if seen else query, items, labels, softmax)

    broken = check(server(answer)).details.broken
    assert set(broken) == {"over-long input"} and broken["over-long input"].startswith("the next request: ")


def test_labels_that_score_alike_are_not_compared():
    def even(query, items, labels, softmax):
        healthy(query, items, labels, softmax)
        return np.full((len(items), len(labels)), 0.5 if softmax else 0.01)

    record = check(server(even), reference(lambda *r: np.full((len(r[1]), len(r[2])), 0.5 if r[3] else 0.01)))
    assert "hardly differ" in record.details.not_made["labels in reverse order"]


def test_probabilities_of_zero_are_not_compared():
    def tiny(query, items, labels, softmax):
        return healthy(query, items, labels, softmax) * (1.0 if softmax else 0.0)

    not_made = check(server(tiny)).details.not_made
    assert not_made == dict.fromkeys(
        ("probabilities without softmax", "token log-probabilities"), "the labels' probabilities round to 0"
    )


def test_where_no_check_can_be_made_nothing_is_decided(monkeypatch):
    def nothing(probe):
        raise contract.NotMade("not today")

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
    assert record.details.broken == {} and record.noise_floor > 0.02
    assert record.verdict is Verdict.INCONCLUSIVE and record.reason.startswith("duplicates: ")
    assert "replays of the same request are" in record.details.not_made["duplicates"]
    swapped = check(server(lambda query, items, labels, softmax: noisy(query, items, sorted(labels), softmax)))
    assert "labels in reverse order" in swapped.details.broken


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


# -- temperature and log-probabilities ----------------------------------------------------------


def only_broken(name, **more):
    record = check(server(**more))
    assert record.verdict is Verdict.FAIL and set(record.details.broken) == {name}, record.reason
    return record.details.broken[name]


def test_a_temperature_that_is_ignored_or_applied_twice_is_seen():
    def ignored(answer, asked):
        scores = softmax(np.log(answer["scores"]), 1 / (asked.get("temperature") or 1.0))
        return answer | {"scores": scores.tolist()}

    assert only_broken("temperature", change=ignored).startswith("at temperature 2: ")

    def twice(answer, asked):
        scores = softmax(np.log(answer["scores"]), asked.get("temperature") or 1.0)
        return answer | {"scores": scores.tolist()}

    assert only_broken("temperature", change=twice).startswith("at temperature 2: ")

    def only_high(answer, asked):
        return ignored(answer, asked) if (asked.get("temperature") or 1.0) < 1 else answer

    assert only_broken("temperature", change=only_high).startswith("at temperature 0.5: ")


@pytest.mark.parametrize(
    ("logprobs", "said"),
    [
        (lambda right: [], "no 6 rows of 2 numbers: []"),
        (lambda right: None, "no 6 rows of 2 numbers: None"),
        (lambda right: right[:-1], "no 6 rows of 2 numbers"),
        (lambda right: [row[:1] for row in right], "no 6 rows of 2 numbers"),
        (lambda right: [right[0][:1], *right[1:]], "no 6 rows of 2 numbers"),
        (lambda right: "none", "no 6 rows of 2 numbers: none"),
        (lambda right: [[None] * 2] * len(right), "no 6 rows of 2 numbers"),
        (lambda right: [[1e-5] * 2] * len(right), "a probability is 1.00001"),
        (lambda right: [row[::-1] for row in right], "against the logarithms"),
        (lambda right: right[1:] + right[:1], "against the logarithms"),
        (lambda right: (np.array(right) / 2).tolist(), "against the logarithms"),
        (lambda right: (np.array(right) + 0.0199).tolist(), "against the logarithms"),
    ],
)
def test_log_probabilities_that_are_none_are_seen(logprobs, said):
    def change(answer, asked):
        return answer | {"token_logprobs": logprobs(answer["token_logprobs"])} if "token_logprobs" in answer else answer

    assert said in only_broken("token log-probabilities", change=change)


def test_log_probabilities_are_asked_for_at_a_temperature_where_there_is_one():
    target = server()
    assert check(target).verdict is Verdict.PASS
    (asked,) = [each for each in target.client.sent if "return_token_logprobs" in each]
    assert asked["temperature"] == 2.0 and asked["apply_softmax"] is True
    target = server(fields=("return_token_logprobs",))
    assert set(check(target).details.not_made) == {"temperature"}
    assert [each.get("temperature") for each in target.client.sent if "return_token_logprobs" in each] == [None]


@pytest.mark.parametrize("fields", [(), ("other",)])
def test_fields_that_a_server_does_not_say_it_knows_are_not_sent(fields):
    target = server(fields=fields)
    record = check(target)
    assert record.verdict is Verdict.PASS and record.details.not_made == {
        "temperature": "not sent: the server does not say, in score_fields, that it knows temperature",
        "token log-probabilities": "not sent: the server does not say, in score_fields, that it knows "
        "return_token_logprobs",
    }
    assert not any({"temperature", "return_token_logprobs"} & set(asked) for asked in target.client.sent)


def test_scores_that_no_temperature_moves_are_not_compared():
    def even(query, items, labels, softmax):
        healthy(query, items, labels, softmax)
        return np.full((len(items), len(labels)), 0.5 if softmax else 0.01)

    record = check(server(even), reference(lambda *r: np.full((len(r[1]), len(r[2])), 0.5 if r[3] else 0.01)))
    assert record.details.not_made["temperature"] == "the scores are such that a temperature hardly moves them"


# -- text -----------------------------------------------------------------------------------------


def test_texts_are_as_their_ids():
    target, other = server(), reference()
    record = check(target, other)
    assert re.fullmatch(
        r"packed: \d+ texts, against their token ids: 0 apart, at most 0\.0001; "
        r"serial: \d+ texts, against their token ids: 0 apart, at most 0\.0001",
        record.details.held["text"],
    )
    for side in (target, other):
        (asked,) = [each for each in side.client.sent if isinstance(each["query"], str)]
        assert len(asked["items"]) >= 3 and all(isinstance(item, str) for item in asked["items"])


def special_items(query, items):
    ids, contents = apart(query, items)
    return ids, [[7, *content] for content in contents]


def spaced(query, items):
    return encode(query), [encode(f"{query} {item}")[len(encode(query)) :] for item in items]


def joint(query, items):
    return encode(query), [encode(query + item)[len(encode(query)) :] for item in items]


def test_text_that_is_tokenised_otherwise_is_seen_on_either_side():
    for tokenise in (special_items, spaced):
        broken = check(server(tokenise=tokenise)).details.broken
        assert set(broken) == {"text"} and "texts, against their token ids" in broken["text"]
        broken = check(server(), reference(tokenise=tokenise)).details.broken
        assert set(broken) == {"text"} and broken["text"].startswith("the serial server: ")


def test_text_that_is_tokenised_together_with_the_query_holds():
    """On real engines that is so by design, and differs where a merge crosses the border."""
    assert check(server(), reference(tokenise=joint)).verdict is Verdict.PASS


def test_special_tokens_of_the_query_are_the_tokenizers_own_business(monkeypatch):
    def first(text, special=False):
        return [3, *encode(text)] if special else encode(text)

    def behind(text, special=False):
        return [3, *encode(text), 4] if special else encode(text)

    monkeypatch.setattr(Target, "encode", staticmethod(first))
    with_special = server(tokenise=lambda query, items: ([3, *encode(query)], [encode(item) for item in items]))
    assert "text" in check(with_special).details.held and "text" in check(server()).details.held
    assert "text" in check(server(tokenise=special_items)).details.broken
    monkeypatch.setattr(Target, "encode", staticmethod(behind))
    assert check(server()).details.not_made["text"] == "not sent: the tokenizer puts special tokens behind a text"


def test_text_is_not_sent_where_nobody_can_say_what_it_becomes(monkeypatch):
    target = server(model="elsewhere")
    assert check(target).details.not_made["text"] == (
        "not sent: the served model's tokenizer.json does not lie on this machine"
    )
    assert not any(isinstance(asked["query"], str) for asked in target.client.sent)
    record = check(server(), reference(model="elsewhere"))
    assert record.verdict is Verdict.PASS and "serial: not sent: " in record.details.held["text"]
    monkeypatch.setattr(
        Target, "encode", staticmethod(lambda text, special=False: [len(text)])
    )  # no two texts side by side
    assert check(server()).details.not_made["text"] == (
        "not sent: 0 of 10 texts are tokenised alike behind the query and alone"
    )


def test_text_that_is_refused_is_no_wrong_score():
    def none(query, items):
        raise refused()

    assert check(server(tokenise=none)).details.not_made["text"] == "text is refused with status 400"
    record = check(server(), reference(tokenise=none))
    assert record.verdict is Verdict.PASS and "serial: text is refused with status 400" in record.details.held["text"]

    def broken(query, items):
        raise INTERNAL

    assert set(check(server(tokenise=broken)).details.broken) == {"text"}


def test_a_leak_breaks_the_one_item_check():
    def answer(query, items, labels, softmax):
        healthy(query, items, labels, softmax)
        return leaking(lambda i, j, n: j < i)(query, items, labels) * (1.0 if softmax else LABEL_MASS)

    assert "one item alone" in check(server(answer)).details.broken


# -- where exactly a check ends to hold --------------------------------------------------------


def probe_of(target=None, other=None, *, case=CASE, floor=0.0, traffic=0.0):
    target = server() if target is None else target
    filled = tuple(item for item in case.items if item)[:6]
    case = make_case(lengths=[1]) if not filled else type(case)(case.name, case.query, filled, case.labels, case.pool)
    base = Baseline(target.score(case), floor, traffic, Attestation("dense"))
    return contract._Probe(target, reference() if other is None else other, case, base, DELIMITER)


def with_dtype(target, dtype):
    info = target.client.server_info
    target.client.server_info = lambda: {**info(), "dtype": dtype}
    return target


ABOVE = math.nextafter(0.02, 1)


@pytest.mark.parametrize(
    ("difference", "noise", "outcome"),
    [
        (0.02, 0.0, None),
        (ABOVE, 0.0, contract.Broken),
        (math.nan, 0.0, contract.Broken),
        (ABOVE, 0.02, contract.Broken),
        (0.0, 0.02, None),
        (0.0, ABOVE, contract.Undecided),
        (3 * 0.03, 0.03, contract.Undecided),
        (math.nextafter(3 * 0.03, 1), 0.03, contract.Broken),
    ],
)
@pytest.mark.parametrize("where", ["floor", "traffic"])
def test_a_difference_is_held_against_its_limit_and_against_noise(difference, noise, outcome, where):
    probe = probe_of(**{where: noise})
    if outcome is None:
        assert probe.within(difference, 0.02, "here") == f"here: {difference:.3g} apart, at most 0.02"
    else:
        with pytest.raises(outcome, match=r"^here: ") as raised:
            probe.within(difference, 0.02, "here")
        assert type(raised.value) is outcome


@pytest.mark.parametrize(
    ("dtype", "same"), [("float32", 1e-4), ("torch.float32", 1e-4), ("bfloat16", 0.02), ("torch.bfloat16", 0.02)]
)
def test_only_float32_is_held_to_rounding(dtype, same):
    assert probe_of(with_dtype(server(), dtype)).same() == same


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1.02), ("bfloat16", 1.5)])
@pytest.mark.parametrize("more", [True, False])
def test_the_probability_of_all_labels_may_be_off_by_a_factor(dtype, most, more):
    def off_by(factor):
        def answer(query, items, labels, softmax):
            return healthy(query, items, labels, softmax) * (1.0 if softmax else factor if more else 1 / factor)

        return "probabilities without softmax" in check(with_dtype(server(answer), dtype)).details.broken

    assert (off_by(most - 0.001), off_by(most + 0.001)) == (False, True)


def test_the_largest_factor_itself_is_allowed(monkeypatch):
    probe = probe_of(server(lambda *request: healthy(*request) * (1.0 if request[3] else 1.01)))
    plain = probe.packed(probe.case.items, apply_softmax=False).sum(axis=1)
    expected = probe.alone(probe.case.items, apply_softmax=False).sum(axis=1)
    ratio = float(np.exp(np.abs(np.log(plain / expected)).max()))
    monkeypatch.setattr(contract, "_MASS", {"float32": ratio})
    contract._no_softmax(probe)
    monkeypatch.setattr(contract, "_MASS", {"float32": math.nextafter(ratio, 0)})
    with pytest.raises(contract.Broken, match=r"the labels' probability is 1\.01 times"):
        contract._no_softmax(probe)


def sums_to(total):
    def answer(query, items, labels, softmax):
        scores = healthy(query, items, labels, softmax)
        return scores if softmax else scores / packed(query, items, labels).sum(axis=1, keepdims=True)

    def scaled(query, items, labels, softmax):
        scores = answer(query, items, labels, softmax)
        if not softmax:
            scores = np.tile(np.linspace(*total, len(items))[:, None], (1, scores.shape[1])) / 2
        return scores

    return probe_of(server(scaled), reference(scaled))


@pytest.mark.parametrize("total", [(1.0, 1.0), (0.5, 1.01), (1.0, 1.01)])
def test_probabilities_over_the_vocabulary_are_not_those_over_the_labels(total):
    with pytest.raises(contract.Broken, match=f"rows sum to {total[0]:g} to {total[1]:g}; probabilities over"):
        contract._no_softmax(sums_to(total))


def test_a_label_may_have_next_to_all_probability():
    """One row sums to 1 as far as a float tells, others do not: that is no softmax over the labels."""
    for most in (1.0, 1 + 1e-6):
        with pytest.raises(contract.Broken, match=r"^normalised, against the softmax scores: "):
            contract._no_softmax(sums_to((0.5, most)))
    with pytest.raises(contract.Broken, match="rows sum to"):
        contract._no_softmax(sums_to((0.5, math.nextafter(1 + 1e-6, 2))))


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (0.9, "against the serial server's: 0."),
        (0.51, "the labels' probability is 1.02 times that of the serial server, or the reverse; at most 1.02"),
        (0.5, None),
    ],
)
def test_the_probability_of_labels_is_that_of_the_serial_server(served, words):
    def answer(query, items, labels, softmax):
        return healthy(query, items, labels, softmax) if softmax else packed(query, items, labels) * served

    def half(query, items, labels, softmax):
        return serial(query, items, labels) * (1.0 if softmax else 0.5)

    if words is None:
        said = contract._no_softmax(probe_of(server(answer), reference(half)))
        assert re.fullmatch(r"rows sum to 0\.\d+ to 0\.\d+, within a factor 1 of the serial server's", said)
        return
    factor = 1.0 if served == 0.9 else 1.0001  # just beyond the largest factor
    with pytest.raises(contract.Broken, match=f"^{re.escape(words)}"):
        contract._no_softmax(
            probe_of(server(lambda *request: answer(*request) * (1.0 if request[3] else factor)), reference(half))
        )


def test_a_negative_probability_is_none():
    def answer(query, items, labels, softmax):
        scores = healthy(query, items, labels, softmax)
        return scores if softmax else scores - [[2 * scores[0, 0], *[0.0] * (scores.shape[1] - 1)]]

    with pytest.raises(contract.Broken, match="probabilities over the vocabulary"):
        contract._no_softmax(probe_of(server(answer)))


@pytest.mark.parametrize(
    ("count", "order"), [(1, [0, 0]), (2, [0, 0]), (3, [0, 0, 0]), (5, [0, 1, 0, 1, 0]), (6, [0, 1, 2, 0, 1, 2])]
)
def test_every_item_of_the_duplicates_is_there_twice(count, order):
    probe = probe_of(case=make_case(count))
    said = contract._duplicates(probe)
    _, sent, _ = probe.multi.client.requests[-1]
    assert list(sent) == [probe.case.items[at] for at in order]
    assert said.startswith(f"{len(order) - len(set(order))} copies among {len(order)} items: 0 apart")


@pytest.mark.parametrize("place", [0, -1])
def test_the_first_and_the_last_item_are_scored_alone(place):
    def answer(query, items, labels, softmax):
        off = len(items) == 1 and items[0] == [item for item in CASE.items if item][:6][place]
        return healthy(query, items, labels, softmax) + 0.03 * off

    broken = check(server(answer)).details.broken
    assert set(broken) == {"one item alone"}
    assert broken["one item alone"] == "one item alone, against the whole request: 0.03 apart, at most 0.02"


@pytest.mark.parametrize(("by", "made"), [(2e-4, False), (math.nextafter(2e-4, 1), True)])
def test_labels_must_differ_by_more_than_a_swap_could_hide(by, made):
    def answer(query, items, labels, softmax):
        return np.tile([by if label == min(labels) else 0.0 for label in labels], (len(items), 1))

    probe = probe_of(server(answer))
    if made:
        assert contract._label_order(probe).startswith("labels in reverse order: 0 apart")
    else:
        with pytest.raises(contract.NotMade, match="2 labels whose scores hardly differ"):
            contract._label_order(probe)


BESIDE = {"an empty item": lambda item: not item, "the delimiter inside an item": lambda item: DELIMITER in item}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize(("own", "other"), [(0.0, 0.03), (0.03, 0.0), (0.019, 0.019)])
def test_an_odd_item_and_those_beside_it_are_compared(name, own, other):
    """Only those beside it off, only itself off, and both within the limit."""

    def answer(query, items, labels, softmax):
        if any(len(item) > LIMIT for item in items):
            raise refused()
        odd = [BESIDE[name](item) for item in items]
        shifts = np.where(odd, own, other if any(odd) else 0.0)[:, None]
        return packed(query, items, labels) * (1.0 if softmax else LABEL_MASS) + shifts

    record = check(server(answer))
    assert set(record.details.broken) == ({name} if max(own, other) > 0.02 else set())
    if own > 0.02:
        what = {"an empty item": "no item", "the delimiter inside an item": "the same content"}[name]
        assert record.details.broken[name].startswith(f"against the serial score of {what}: ")
    elif other > 0.02:
        assert record.details.broken[name].startswith("the items beside it: ")


def test_odd_items_stand_in_the_middle_of_the_others():
    target = server(
        lambda query, items, labels, softmax: packed(query, items, labels) * (1.0 if softmax else LABEL_MASS)
    )
    probe = probe_of(target)
    contract._empty_item(probe)
    first, second, third, fourth, fifth, sixth = probe.case.items
    assert target.client.requests[-1][1] == (first, second, third, (), fifth, sixth)
    contract._delimiter_inside(probe)
    half = len(fourth) // 2
    split_item = (*fourth[:half], DELIMITER, *fourth[half:])
    assert target.client.requests[-1][1] == (first, second, third, split_item, fifth, sixth)


def test_an_empty_item_needs_both_servers_and_the_delimiter_too():
    assert "an empty item" in check(server(), reference(adapter=Delicate)).details.not_made
    takes_it = server(lambda q, items, labels, softmax: packed(q, items, labels) * (1.0 if softmax else LABEL_MASS))
    found = check(takes_it, reference(adapter=Delicate)).details.not_made
    assert found["the delimiter inside an item"] == "not sent: it may end a server of engine stub"


@pytest.mark.parametrize(
    ("status", "is_refusal"), [(399, False), (400, True), (499, True), (500, False), (None, False)]
)
def test_only_a_4xx_is_a_refusal(status, is_refusal):
    failure = ScoreFailure(FailureKind.HTTP_ERROR, "no", status)
    target = server(failing_on(has_delimiter, failure))
    record, named = check(target), f"http_error: {target.place}: no"
    said = (record.details.held if is_refusal else record.details.broken)["the delimiter inside an item"]
    assert said == (f"refused with status {status}" if is_refusal else f"not refused with a 4xx, but {named}")


@pytest.mark.parametrize(
    ("info", "models", "limit"),
    [(1, None, 1), (0, 60, 60), (-1, 60, 60), (60.0, 70, 70), (None, 200_000, 200_000), (200_000, None, 200_000)],
)
def test_a_limit_is_a_number_of_tokens(info, models, limit):
    assert server(limit=info, models=models).max_tokens == limit


def test_the_length_of_the_context_is_a_limit():
    target = server(limit=60)
    info = target.client.server_info
    target.client.server_info = lambda: {**info(), "context_length": 40}
    assert target.max_tokens == 40


@pytest.mark.parametrize("answer", [[], {}, {"data": None}, {"data": [7]}, {"data": [{"id": "no limit"}]}, ValueError])
def test_a_list_of_models_that_tells_nothing_is_no_failure(answer):
    def listed():
        if answer is ValueError:
            raise ValueError("no JSON")
        return answer

    target = server()
    target.client.get = lambda path: SimpleNamespace(json=listed)
    assert target.max_tokens == LIMIT


def test_over_long_input_is_one_token_longer_than_the_limit_and_real():
    probe = probe_of()
    contract._too_long(probe)
    *_, (_, items, _), (_, again, _) = probe.multi.client.requests
    assert items[:-1] == again == probe.case.items
    assert items[-1] == tuple(probe.case.pool[at % len(probe.case.pool)] for at in range(LIMIT + 1))
    short = type(CASE)("short", CASE.query, CASE.items, CASE.labels, ())
    probe = probe_of(case=short)
    contract._too_long(probe)
    marks = probe.case.items[0]
    assert probe.multi.client.requests[-2][1][-1] == tuple(marks[at % len(marks)] for at in range(LIMIT + 1))


# -- what becomes of the checks ----------------------------------------------------------------


NOISY, NOT_MADE, BROKEN = contract.Undecided("noise"), contract.NotMade("not today"), contract.Broken("off")


def with_checks(monkeypatch, *outcomes, samples=None):
    """The gate's record where its checks end so: a text, or an exception."""

    def ending(outcome):
        def made(probe):
            probe.packed(probe.case.items)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return made

    monkeypatch.setattr(contract, "_CHECKS", {f"check {n}": ending(outcome) for n, outcome in enumerate(outcomes, 1)})
    return check(server(), samples=samples)


def test_every_check_leaves_a_sample_and_what_it_executed(monkeypatch):
    samples = []
    record = with_checks(monkeypatch, "fine", NOT_MADE, BROKEN, samples=samples)
    told = [sample for sample in samples if sample["kind"] == "contract"]
    assert told == [
        {"kind": "contract", "case": CASE.name, "check": "check 1", "outcome": "holds", "seen": "fine"},
        {"kind": "contract", "case": CASE.name, "check": "check 2", "outcome": "not made", "seen": "not today"},
        {"kind": "contract", "case": CASE.name, "check": "check 3", "outcome": "broken", "seen": "off"},
    ]
    assert record.details.broken == {"check 3": "off"} and record.score_spread > 0.1
    assert record.items_per_sequence == 6.0, "the first six items with tokens, in the checks too"
    assert (record.relation, record.value, record.backend) == ("holds", None, "stub")


def test_the_evidence_is_that_of_all_requests():
    cases, other = [CASE, make_case(3, seed=2, name="second")], reference()
    record = check(server(), cases=cases)
    visible, _ = leak_visibility(other, cases, Semantics.PREFIX_FIRST_DELIM, DELIMITER, [].append)
    assert record.leak_visibility == visible
    assert record.semantic_visibility == semantic_visibility(other, cases, DELIMITER, [].append)


@pytest.mark.parametrize("outcome", ["fine", contract.Broken("off")])
def test_what_a_check_executes_is_attested(outcome, monkeypatch):
    """A server that falls back after the first request: whether its checks hold or not, it is told."""
    target = server()

    def fallen(probe):
        target.client.executed = "segment"
        probe.packed(probe.case.items)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(contract, "_CHECKS", {"a check": fallen})
    record = check(target)
    assert record.verdict is Verdict.FAIL and record.mask_attested == "dense+segment"


def test_checks_that_were_not_made_attest_nothing(monkeypatch):
    def nothing(probe):
        raise NOT_MADE

    monkeypatch.setattr(contract, "_CHECKS", {"a check": nothing})
    record = check(server())
    assert (record.verdict, record.mask_attested) == (Verdict.INCONCLUSIVE, "dense")


@pytest.mark.parametrize(
    ("outcomes", "verdict", "reason"),
    [
        (["fine", "fine"], Verdict.PASS, "2 of 2 checks hold"),
        (["fine", NOT_MADE, NOT_MADE], Verdict.PASS, "1 of 3 checks hold; not made: check 2, check 3"),
        (["fine", NOISY, contract.Undecided("more noise")], Verdict.INCONCLUSIVE, "check 2: noise"),
        ([NOISY, NOT_MADE], Verdict.INCONCLUSIVE, "no check could be made: noise; not today"),
        ([BROKEN, NOISY, "fine"], Verdict.FAIL, "check 1: off"),
        (["fine", BROKEN, contract.Broken("too")], Verdict.FAIL, "check 2: off (also broken: check 3)"),
        ([BROKEN, BROKEN, BROKEN], Verdict.FAIL, "check 1: off (also broken: check 2, check 3)"),
        (["fine", ScoreFailure(FailureKind.BAD_RESPONSE, "no scores", 200)], Verdict.FAIL, "check 2: "),
    ],
)
def test_one_broken_check_fails_and_one_undecided_keeps_from_a_pass(outcomes, verdict, reason, monkeypatch):
    record = with_checks(monkeypatch, *outcomes)
    assert record.verdict is verdict
    assert record.reason == reason if not reason.endswith(": ") else "no scores" in record.reason
    held = sum(outcome == "fine" for outcome in outcomes)
    not_made = sum(isinstance(outcome, contract.NotMade) for outcome in outcomes)
    assert record.samples == {"checks": len(outcomes) - not_made, "not_made": not_made}
    assert [len(record.details.held), len(record.details.not_made)] == [held, not_made]


@pytest.mark.parametrize("kind", [FailureKind.CONNECTION, FailureKind.TIMEOUT])
def test_a_server_that_answers_no_more_ends_the_checks(kind, monkeypatch):
    with pytest.raises(ScoreFailure, match="gone"):
        with_checks(monkeypatch, "fine", ScoreFailure(kind, "gone"), "fine")


def test_more_labels_than_two_hold_every_check():
    assert check(server(), cases=[make_case(5, labels=(5, 6, 7))]).reason == "10 of 10 checks hold"


def test_a_mode_that_the_settings_leave_out_is_not_asked_for():
    subject = StubSubject([CASE], multi=server(), serial=reference(), mode=("ids",))
    record = record_of(CONTRACT, measure(subject))
    assert record.verdict is Verdict.PASS
    left_out = {name for name, why in record.details.not_made.items() if "the settings leave mode" in why}
    assert left_out == {"temperature", "token log-probabilities", "text"}
