"""A counterexample: its file, what is printed of it, and its replay against healthy and faulty servers."""

import itertools
import json
import re
import shlex
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
from fake_backend import VOCAB, FakeBackend
from sockets import listening
from stub_targets import StubSubject

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.service import Service
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.metamorphic import measure
from pytest_multiitem.properties.play import RACE_ATTEMPTS, Player
from pytest_multiitem.reports.counterexample import curl, failure_lines, request_text, sequence_text
from pytest_multiitem.results.counterexample import Counterexample, read, save
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.scoring.relations import ScoreBody
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.steps import ScoreResult
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import ScoreClient

DELIMITER = 999


class Leaking(Scorer):
    """An item of more than 17 tokens that comes after an item of one token depends on that one."""

    def score(self, query, items, labels, apply_softmax, item_first=False):
        result = super().score(query, items, labels, apply_softmax, item_first)
        scores = result.scores.copy()
        for i in range(1, len(items)):
            if len(items[i - 1]) == 1 < 17 < len(items[i]):
                scores[i] = np.roll(scores[i], 1) * (0.5 + items[i - 1][0] / 2000)
        return ScoreResult(scores, result.prompt_tokens)


class Stateful(Scorer):
    """Scores depend on the query of the request before."""

    _last = (0,)

    def score(self, query, items, labels, apply_softmax, item_first=False):
        result = super().score(query, items, labels, apply_softmax, item_first)
        last, self._last = self._last, tuple(query)
        return ScoreResult(result.scores * (0.5 + last[0] / 2000), result.prompt_tokens)


class Doubling(Scorer):
    """Scores that are too large."""

    def score(self, query, items, labels, apply_softmax, item_first=False):
        result = super().score(query, items, labels, apply_softmax, item_first)
        return ScoreResult(result.scores * 1.01, result.prompt_tokens)


class Refusing(Scorer):
    """Fails on whatever it is asked."""

    def score(self, *_, **__):
        raise RuntimeError("no")


@contextmanager
def serving(kind=Scorer, config=None):
    """The real application on a socket, over a model that is a hash; gives its URL. It packs, unless it is configured
    otherwise."""
    config = {"delimiter": DELIMITER} if config is None else config
    scorer = kind(FakeBackend(), ScorerConfig(**config))
    service = Service(
        scorer=scorer, tokenizer=None, model="m", vocab_size=VOCAB, max_positions=4096, probe_ids=[0, 1],
        info={"vocab_size": VOCAB, "dtype": "float32"},
    )  # fmt: skip
    try:
        with listening(create_app(service)) as url:
            yield url
    finally:
        service.worker.close(1)


def found_on(url, *, examples=100):
    found = []
    with ScoreClient(url) as client:
        target = Target(
            Profile("multi", "pytorch", "dense", 0, Semantics.PREFIX_FIRST_DELIM), "fake", client, delimiter=DELIMITER
        )
        measure(
            StubSubject(
                multi=target, labels=(5, 6), delimiter=DELIMITER, examples=examples, seed=1, property_max_tokens=128,
                keep=found.append,
            )
        )  # fmt: skip
    return found[0]


@pytest.fixture(scope="module")
def faulty():
    """A server with the leak, and the counterexample that was found on it."""
    with serving(Leaking) as url:
        yield url, found_on(url)


@pytest.fixture(scope="module")
def healthy():
    with serving() as url:
        yield url


@pytest.fixture
def saved(faulty, tmp_path):
    return save(tmp_path, faulty[1])


# -- replay ----------------------------------------------------------------------------------


def test_what_was_found_over_http_is_small(faulty):
    url, found = faulty
    assert len(found.scenario.base.items) <= 3 and found.reproduced
    assert found.server.url == url and found.server.dtype == "float32"


def test_a_replay_holds_on_a_healthy_server_and_is_violated_on_the_faulty_one(multiitem, saved, faulty, healthy):
    url, found = faulty
    code, out, err = multiitem("replay", saved, "--url", url)
    assert (code, err) == (1, "") and out.splitlines()[-1].startswith("violated: difference 0.")
    assert found.states in out and request_text(found.scenario.base) in out and "differs" in out
    assert "replays of the base differ by 0\n" in out
    code, out, err = multiitem("replay", saved, "--url", healthy)
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("holds: difference 0, limit ")
    assert "differs" not in out


@pytest.mark.slow
def test_a_state_is_replayed_with_what_comes_before(multiitem, tmp_path, healthy):
    with serving(Stateful) as url:
        found = found_on(url)
        assert found.relation == "before" and found.reproduced
        path = save(tmp_path, found)
        assert multiitem("replay", path, "--url", f"{url}/v1/score")[0] == 1
    code, out, _ = multiitem("replay", path, "--url", healthy)
    assert code == 0 and "\nbefore: query " in out


def raced(found, *beside):
    """A scenario with the query 1, alone or with others beside it."""
    return msgspec.structs.replace(found.scenario, relation="beside", variant=(ONE,), beside=beside, **OF_ONE)


def by_hand(found, scenario, **more):
    """A counterexample of a scenario that nobody answered yet."""
    given = {
        "relation": scenario.relation, "scenario": scenario, "scenario_sha256": None, "base_rows": [],
        "variant_rows": [], "limit": scenario.limit(found.server.dtype), "difference": None, "failure": "not sent yet",
    }  # fmt: skip
    return msgspec.structs.replace(found, **(given | more))


ONE = ScoreBody(query=(1,), items=((2,), (3,)), label_token_ids=(5, 6))
OF_ONE = {"base": ONE, "pairs": ((0, 0), (1, 1)), "exact": True}


OTHER = ScoreBody(query=(9,), items=((2,),), label_token_ids=(5, 6))


def test_requests_beside_are_sent_at_the_same_time(multiitem, tmp_path, faulty, healthy):
    path = save(tmp_path, by_hand(faulty[1], raced(faulty[1], OTHER, OTHER)))
    with ScoreClient(healthy) as client:
        before = client.server_info()["executed"]["requests"]
        code, out, _ = multiitem("replay", path, "--url", healthy)
        assert code == 0 and out.count("at the same time: ") == 2
        assert client.server_info()["executed"]["requests"] >= before + 4


class Racing(Scorer):
    """Of the requests with the query 1, the seventh gets other scores."""

    _served = 0

    def score(self, query, items, labels, apply_softmax, item_first=False):
        result = super().score(query, items, labels, apply_softmax, item_first)
        self._served += list(query) == [1]
        return ScoreResult(result.scores * (0.5 if self._served == 7 else 1), result.prompt_tokens)


def test_what_happens_at_the_same_time_is_tried_several_times(multiitem, tmp_path, faulty, healthy):
    """The base is the first request and the second, so the fifth variant is the seventh."""
    path = save(tmp_path, by_hand(faulty[1], raced(faulty[1], OTHER)))
    with serving(Racing) as url:
        code, out, _ = multiitem("replay", path, "--url", url)
    assert code == 1 and re.search(rf"violated: difference 0\.\d+, limit 0, try 5 of at most {RACE_ATTEMPTS}$", out)
    code, out, _ = multiitem("replay", path, "--url", healthy)
    assert code == 0 and out.endswith(f"holds: difference 0, limit 0, try {RACE_ATTEMPTS} of at most {RACE_ATTEMPTS}\n")


@pytest.mark.parametrize(("beside", "differs_at", "played"), [(True, 7, 7), (True, 99, RACE_ATTEMPTS), (False, 7, 1)])
def test_a_variant_is_played_again_only_where_others_are_beside_it(faulty, beside, differs_at, played):
    scenario = raced(faulty[1], *[OTHER] * beside)
    answers = itertools.count(1)
    rows = np.full((2, 2), 0.5)

    class Connection:
        def score(self, *_, **__):
            return rows

        def close(self):
            pass

    with Player(lambda request: rows * (1 + (next(answers) == differs_at)), Connection) as player:
        variant, attempts = player.differing(scenario, rows, 0.0)
    assert attempts == played == next(answers) - 1
    assert (variant == rows).all() != (attempts == differs_at)


def test_a_fresh_connection_is_tried_several_times(faulty):
    """Every fourth connection ends at a replica that is wrong, and is kept for what is sent again."""
    scenario = msgspec.structs.replace(faulty[1].scenario, relation="reconnect", variant=(ONE,), fresh=True, **OF_ONE)
    rows, opened, closed = np.full((2, 2), 0.5), itertools.count(1), []

    class Connection:
        def __init__(self):
            self.number = next(opened)

        def score(self, *_, **__):
            return rows * (0.9 if self.number % 4 == 0 else 1)

        def close(self):
            closed.append(self.number)

    with Player(lambda request: rows, Connection) as player:
        variant, attempts = player.differing(scenario, rows, 0.0)
        assert attempts == 4 and (variant == player.variant(scenario, again=True)).all() and closed == [1, 2, 3]
        assert (player.variant(scenario) == rows).all()
    assert closed == [1, 2, 3, 4, 5]


def test_the_serial_side_is_asked_where_the_variant_is_its(multiitem, tmp_path, faulty, healthy):
    base = ScoreBody(query=(1,), items=((2,), (3,)), label_token_ids=(5, 6))
    alone = ScoreBody(query=(1, DELIMITER), items=((2,), (3,)), label_token_ids=(5, 6))
    scenario = msgspec.structs.replace(
        faulty[1].scenario, relation="serial", exact=False, base=base, variant=(alone,), pairs=((0, 0), (1, 1)),
        serial=True,
    )  # fmt: skip
    found = by_hand(faulty[1], scenario, limit=1e-4, serial_url="http://127.0.0.1:9")
    path = save(tmp_path, found)
    assert any("--serial-url http://127.0.0.1:9" in line for line in failure_lines(found, path))
    code, _, err = multiitem("replay", path, "--url", healthy)
    assert code == 2 and "--serial-url URL, such as http://127.0.0.1:9" in err
    with serving(config={}) as url:
        code, out, _ = multiitem("replay", path, "--url", healthy, "--serial-url", url)
        assert code == 0 and "variant, on the serial server: query [1, 999]" in out
    with serving(Doubling, config={}) as url:
        assert multiitem("replay", path, "--url", healthy, "--serial-url", url)[0] == 1
    code, _, err = multiitem("replay", path, "--url", healthy, "--serial-url", "http://127.0.0.1:9")
    assert code == 2 and "the serial server http://127.0.0.1:9 did not answer" in err


def test_further_ones_are_shown_in_short(faulty, tmp_path):
    lines = failure_lines(faulty[1], tmp_path / "counterexample-2.json", further=True)
    assert len(lines) == 3 and "multiitem replay" in lines[-1] and "limit" in lines[1]


def test_a_server_that_does_not_answer_violates(multiitem, saved):
    with serving(Refusing) as url:
        code, out, err = multiitem("replay", saved, "--url", url)
    assert (code, err) == (1, "") and "did not answer a valid request: http_error: HTTP 500" in out


def test_the_api_key_comes_from_the_environment(multiitem, saved, healthy, monkeypatch):
    monkeypatch.setenv("STAGING_KEY", "s3cret")
    seen = []
    init = ScoreClient.__init__
    monkeypatch.setattr(ScoreClient, "__init__", lambda self, *a, **k: seen.append(k) or init(self, *a, **k))
    code, out, err = multiitem("replay", saved, "--url", healthy, "--api-key-env", "STAGING_KEY", "--timeout", 7)
    assert code == 0 and "s3cret" not in out + err
    assert {(k["api_key"], k["timeout"]) for k in seen} == {("s3cret", 7.0)}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        ("no json", "is not valid JSON"),
        ("[]", "holds no object; expected a multiitem_counterexample_v1 file; a failed run leaves one"),
        ('{"schema_version": "multiitem_matrix_v1"}', "is a 'multiitem_matrix_v1' file; expected"),
        ('{"schema_version": "multiitem_counterexample_v2"}', "is a 'multiitem_counterexample_v2' file"),
        ('{"schema_version": "multiitem_counterexample_v1"}', "is no multiitem_counterexample_v1 file: "),
    ],
)
def test_a_file_that_cannot_be_used(multiitem, tmp_path, content, problem):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    code, out, err = multiitem("replay", path, "--url", "http://127.0.0.1:9")
    assert (code, out) == (2, "") and problem in err and err.count("\n") == 1 and str(path) in err


@pytest.mark.parametrize(
    "change",
    [{"pairs": [[0, 9]]}, {"pairs": [[-1, 0]]}, {"columns": [[0, 3]]}, {"variant": []}, {"pairs": []},
     {"base": {"query": [], "items": [[1]], "label_token_ids": [5]}},
     {"base": {"query": [1], "items": [[1], [2]], "label_token_ids": [5]}}],
)  # fmt: skip
def test_a_scenario_that_cannot_be_compared(saved, change):
    content = json.loads(saved.read_bytes())
    content["scenario"] |= change
    content["scenario_sha256"] = None
    saved.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="cannot be replayed: "):
        read(saved)


EDITS = {
    "another item": (lambda c: c["scenario"]["base"]["items"][0].append(3), "its scenario_sha256 is "),
    "a limit that nothing exceeds": (lambda c: c.update(limit=1e308), "its limit is 1e+308; expected "),
    "a smaller difference": (lambda c: c.update(difference=c["difference"] / 2), "its difference is "),
    "rows that agree": (lambda c: c.update(variant_rows=c["base_rows"]), "its "),
    "rows of another shape": (lambda c: c["base_rows"].pop(), "its base_rows are no finite scores of "),
    "no difference": (lambda c: c.update(difference=None), "its difference is None, its failure None"),
    "another relation": (lambda c: c.update(relation="replay"), "its relation is 'replay'"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_was_edited_is_not_replayed(multiitem, saved, healthy, edit):
    """It would hold, and say nothing."""
    change, problem = EDITS[edit]
    content = json.loads(saved.read_bytes())
    change(content)
    saved.write_text(json.dumps(content))
    code, out, err = multiitem("replay", saved, "--url", healthy)
    assert (code, out) == (2, "") and f"cannot be replayed: {problem}" in err


@pytest.mark.parametrize("words", [["--url", "nonsense"], ["--url", "ftp://x"]])
def test_an_address_that_is_none(multiitem, saved, words):
    code, _, err = multiitem("replay", saved, *words)
    assert code == 2 and "is not valid" in err


# -- the file --------------------------------------------------------------------------------


def test_a_file_reads_as_it_was_saved(faulty, saved):
    assert read(saved) == faulty[1] and isinstance(read(saved), Counterexample)
    content = json.loads(saved.read_bytes())
    assert content["schema_version"] == "multiitem_counterexample_v1"
    assert content["scenario"]["base"].keys() == {"query", "items", "label_token_ids", "apply_softmax"}


def test_no_file_is_overwritten(faulty, tmp_path):
    names = [save(tmp_path, faulty[1], label=label).name for label in (None, None, "multi-item jax dense chunk 2")]
    names.append(save(tmp_path, faulty[1], label="multi-item jax dense chunk 2").name)
    assert names == [
        "counterexample.json", "counterexample-2.json", "counterexample-multi-item-jax-dense-chunk-2.json",
        "counterexample-multi-item-jax-dense-chunk-2-2.json",
    ]  # fmt: skip


# -- what is printed -------------------------------------------------------------------------


def test_a_failure_says_how_to_see_it_again(faulty, tmp_path, monkeypatch):
    url, found = faulty
    monkeypatch.chdir(tmp_path)
    lines = failure_lines(found, tmp_path / "run" / "counterexample.json")
    assert f"counterexample: {found.relation}, example {found.examples} of seed 1" in lines
    assert "saved: run/counterexample.json" in lines
    assert f"replay: multiitem replay run/counterexample.json --url {url}" in lines
    curls = [line for line in lines if ": curl " in line]
    assert [line.partition(":")[0] for line in curls] == ["base", "variant"]
    for line, request in zip(curls, (found.scenario.base, *found.scenario.variant), strict=True):
        words = shlex.split(line.partition(": ")[2])
        assert words[:3] == ["curl", "-sS", f"{url}/v1/score"] and "content-type: application/json" in words
        body = json.loads(words[words.index("-d") + 1])
        assert msgspec.convert({k: v for k, v in body.items() if k != "model"}, ScoreBody) == request


def test_a_key_is_named_and_never_shown(faulty, tmp_path, monkeypatch):
    monkeypatch.setenv("STAGING_KEY", "s3cret")
    text = "\n".join(failure_lines(faulty[1], tmp_path / "c.json", api_key_env="STAGING_KEY"))
    assert "s3cret" not in text and "--api-key-env STAGING_KEY" in text
    assert '-H "authorization: Bearer $STAGING_KEY"' in text


def test_what_did_not_show_again_is_said(faulty, tmp_path):
    found = msgspec.structs.replace(faulty[1], reproduced=False)
    assert "did not show again" in failure_lines(found, tmp_path / "c.json")[0]


def test_a_refusal_is_quoted(faulty, tmp_path):
    found = msgspec.structs.replace(faulty[1], difference=None, failure="HTTP 500: boom", base_rows=[], variant_rows=[])
    assert "  HTTP 500: boom" in failure_lines(found, tmp_path / "c.json")


def test_a_request_that_is_too_long_for_a_terminal_is_in_the_file():
    body = ScoreBody(query=tuple(range(2000)), items=((1,),), label_token_ids=(5,))
    assert curl(body, "http://x") == "a request of 2002 tokens; it is in the file"


@pytest.mark.parametrize(
    ("tokens", "text"),
    [((), "[]"), ((7,) * 8, "[7, 7, 7, 7, 7, 7, 7, 7]"), ((7,) * 9, "[9 × 7]"),
     (range(10, 90, 7), "[10, 17, … 87; 12 tokens]"),
     ((1, 2, 4, 8, 16, 32, 64, 128, 256), "[1, 2, 4, 8, 16, 32, 64, 128, …; 9 tokens]")],
)  # fmt: skip
def test_a_sequence_in_a_few_words(tokens, text):
    assert sequence_text(tuple(tokens)) == text


def test_an_address_with_a_password_is_shown_without():
    from pytest_multiitem.untrusted.secrets import without_credentials

    assert without_credentials("https://me:pw@host:8/x") == "https://[redacted]@host:8/x"
    assert without_credentials("http://host") == "http://host"
