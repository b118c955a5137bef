"""The canonical workload: the same everywhere, nothing special in its content, and whether it tells items apart."""

import hashlib
import inspect
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pytest_multiitem.comparison.records import WORKLOAD_SCHEMA, Workload, WorkloadRequest
from pytest_multiitem.comparison.workload import degenerate, discrimination, generate, head, request_sha256
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import CANONICAL_WORKLOAD, Case, token_pool
from pytest_multiitem.scoring.tokens import content_tokens
from pytest_multiitem.settings.settings import OPTIONS
from pytest_multiitem.traffic.encoding import encoded
from pytest_multiitem.traffic.lines import read_traffic
from pytest_multiitem.traffic.loading import cases_of
from pytest_multiitem.transport.client import ScoreClient

SHAPE = {"query_tokens": 30, "num_items": 6, "item_tokens": 4}
SHIPPED = Path(str(resources.files("pytest_multiitem.engine") / "data" / "tokenizer.json"))
SPECIAL = {151_643, 151_644, 151_645}
LABELS, DELIMITER = (9454, 2753), 151_643


def content_of(workload):
    return [token for r in workload.requests for ids in (r.query_token_ids, *r.items_token_ids) for token in ids]


def requests_of(workload):
    return msgspec.to_builtins(workload.requests)


# -- the same everywhere -----------------------------------------------------------------------


def test_a_request_follows_from_its_options_by_a_few_lines():
    """Pinned: with nothing of the package but the pool's definition, spelled out."""
    pool = [i for i in range(1000, 29_400) if i not in (9454, 2753)]
    rng = random.Random(20_260_101)
    drawn = [pool[int(rng.random() * len(pool))] for _ in range(30 + 6 * 4)]
    items = [drawn[at : at + 4] for at in range(30, 54, 4)]
    canonical = (
        f'{{"apply_softmax":true,"item_first":false,"items_token_ids":{items},"label_token_ids":[9454,2753],'
        f'"query_token_ids":{drawn[:30]},"request_id":"canonical-0"}}'
    ).replace(" ", "")
    expected = hashlib.sha256(canonical.encode()).hexdigest()
    assert generate(**SHAPE).checksums == {"canonical-0_sha256": expected}


def test_the_default_is_the_contract():
    made = generate()
    assert (made.model, made.query_tokens, made.num_items, made.item_tokens) == ("Qwen/Qwen3-0.6B", 2000, 500, 20)
    assert (made.delimiter_token_id, made.label_token_ids) == (151_643, [9454, 2753])
    (request,) = made.requests
    assert len(request.query_token_ids) == 2000 and {len(item) for item in request.items_token_ids} == {20}
    assert len(request.items_token_ids) == 500 and request.apply_softmax and not request.item_first
    assert made.checksums["canonical-0_sha256"] == "3c7cc58a8fffa73aa01a92689356032021726baed12405b61e3e5c8a35190cf0"


def test_the_options_of_a_run_have_the_same_defaults():
    given_to = {name: p.default for name, p in inspect.signature(generate).parameters.items()}
    names = {"bench_query_tokens": "query_tokens", "bench_items": "num_items"}
    shared = {"bench_query_tokens", "bench_items", "item_tokens", "labels", "delimiter", "seed", "vocab_size"}
    checked = {option.name: option.default for option in OPTIONS if option.name in shared}
    assert {names.get(name, name): value for name, value in checked.items()}.items() <= given_to.items()
    assert len(checked) == len(shared)


def test_more_requests_leave_the_first_as_it_is():
    one, three = generate(**SHAPE), generate(**SHAPE, num_requests=3)
    assert requests_of(three)[0] == requests_of(one)[0]
    assert len({str(r["query_token_ids"]) for r in requests_of(three)}) == 3
    assert list(three.checksums) == ["canonical-0_sha256", "canonical-1_sha256", "canonical-2_sha256"]


def test_another_seed_is_another_workload():
    assert content_of(generate(**SHAPE, seed=1)) != content_of(generate(**SHAPE, seed=2))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    query=st.integers(1, 60),
    items=st.integers(1, 20),
    length=st.integers(1, 12),
    labels=st.lists(st.integers(0, 39), min_size=1, max_size=3, unique=True),
    delimiter=st.integers(40, 44),
    vocab_size=st.integers(45, 80),
)
def test_nothing_special_in_content(seed, query, items, length, labels, delimiter, vocab_size):
    options = {"seed": seed, "labels": labels, "delimiter": delimiter, "vocab_size": vocab_size}
    shape = {"query_tokens": query, "num_items": items, "item_tokens": length}
    made = generate(**shape, **options)
    content = content_of(made)
    assert len(content) == query + items * length
    assert set(content) <= set(range(vocab_size)) - {*labels, delimiter}
    assert requests_of(generate(**shape, **options)) == requests_of(made)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**63), query=st.integers(1, 60), items=st.integers(1, 20), length=st.integers(1, 12))
def test_nothing_special_in_content_of_a_tokenizer(seed, query, items, length):
    made = generate(query_tokens=query, num_items=items, item_tokens=length, seed=seed, tokenizer=str(SHIPPED))
    assert not {*LABELS, *SPECIAL} & set(content_of(made))
    tokenizer = Tokenizer.from_file(str(SHIPPED))
    for token in content_of(made):
        assert tokenizer.encode(tokenizer.decode([token]), add_special_tokens=False).ids == [token]


# -- the pool of a tokenizer -------------------------------------------------------------------

WORDS = [f"word{number}" for number in range(150)]


def word_tokenizer(tmp_path, vocabulary, *, special=(), added=(), **more):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in added])
    for name, value in more.items():
        getattr(tokenizer, name)(**value)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_what_is_no_ordinary_text_is_left_out(tmp_path):
    bad = ["[UNK]", "\N{REPLACEMENT CHARACTER}", "bell\a", "zero\N{ZERO WIDTH SPACE}width", "two words", " "]
    path = word_tokenizer(tmp_path, [*WORDS, *bad, "last"], special=["<special>", "[UNK]"], added=["added"])
    found = content_tokens(str(path), excluded=[3, 7])
    assert found.ids == tuple(i for i in [*range(150), 156] if i not in (3, 7))
    assert found.vocab_size == 159
    assert content_tokens(str(tmp_path), [3, 7]) == found
    assert content_tokens(str(path), [3, 7], vocab_size=120).ids == found.ids[:118]


def test_half_characters_of_a_byte_level_tokenizer_are_left_out():
    found = content_tokens(str(SHIPPED), LABELS)
    tokenizer = Tokenizer.from_file(str(SHIPPED))
    half = tokenizer.encode("é").ids + tokenizer.encode("日").ids
    lone = {t for t in half if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([t])}
    assert lone and not lone & set(found.ids)
    assert len(found.ids) > 2000 and not {*LABELS, *SPECIAL} & set(found.ids)


def test_truncation_and_padding_of_a_tokenizer_change_nothing(tmp_path):
    plain = content_tokens(str(word_tokenizer(tmp_path, [*WORDS, "[UNK]"])), [])
    changed = word_tokenizer(tmp_path, [*WORDS, "[UNK]"], enable_truncation={"max_length": 0}, enable_padding={})
    assert content_tokens(str(changed), []) == plain


def test_words_inside_a_word_are_left_out(tmp_path):
    """A word-piece that continues a word is never what its own text encodes to."""
    vocabulary = {"[UNK]": 0, **{word: 1 + i for i, word in enumerate([*WORDS, "##ing", "##ed"])}}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert content_tokens(str(tmp_path), []).ids == tuple(range(1, 151))


def test_too_few_ordinary_ids(tmp_path):
    path = word_tokenizer(tmp_path, [*WORDS[:99], "[UNK]"], special=["[UNK]"])
    with pytest.raises(UsageError, match="has 99 ids that are ordinary text; expected at least 100"):
        content_tokens(str(path), [])


def test_a_hub_id_is_asked_for_at_the_hub(monkeypatch, tmp_path):
    asked = []
    own = Tokenizer.from_file(str(SHIPPED))
    hub = type("Hub", (), {"from_pretrained": staticmethod(lambda name: asked.append(name) or own)})
    monkeypatch.setattr("tokenizers.Tokenizer", hub)
    monkeypatch.chdir(tmp_path)
    made = generate(**SHAPE, tokenizer="Qwen/Qwen3-0.6B")
    assert asked == ["Qwen/Qwen3-0.6B"] and made.tokenizer["name_or_path"] == "Qwen/Qwen3-0.6B"


def test_a_hub_that_does_not_answer(monkeypatch, tmp_path):
    def refuse(name):
        raise OSError("no network")

    monkeypatch.setattr("tokenizers.Tokenizer", type("Hub", (), {"from_pretrained": staticmethod(refuse)}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="the hub gave no tokenizer some/model: no network; name a directory"):
        generate(**SHAPE, tokenizer="some/model")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: "/absent/place", "does not exist; expected a directory"),
        (lambda path: str(path), "has no tokenizer.json"),
        (lambda path: str(path / "broken.json"), "cannot be read as a tokenizer"),
    ],
)
def test_tokenizers_that_are_none(tmp_path, make, expected):
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UsageError, match=expected):
        generate(**SHAPE, tokenizer=make(tmp_path))


# -- checksums ---------------------------------------------------------------------------------


def test_a_checksum_is_of_canonical_json():
    request = {"request_id": "é", "a": [1, 2], "A": {"z": True, "b": None}}
    text = '{"A":{"b":null,"z":true},"a":[1,2],"request_id":"\\u00e9"}'
    assert request_sha256(request) == hashlib.sha256(text.encode("ascii")).hexdigest()
    assert request_sha256(dict(reversed(request.items()))) == request_sha256(request)


def test_a_checksum_covers_every_field():
    (request,) = requests_of(generate(**SHAPE))
    changed = [
        request | {"request_id": "x"},
        request | {"apply_softmax": False},
        request | {"item_first": True},
        request | {"label_token_ids": [2753, 9454]},
        request | {"query_token_ids": request["query_token_ids"][1:]},
        request | {"further": 1},
    ]
    assert len({request_sha256(r) for r in [request, *changed]}) == 7


# -- telling items apart -----------------------------------------------------------------------


def workload_of(*requests, labels=(8, 9), softmax=True):
    return Workload(
        schema_version=WORKLOAD_SCHEMA,
        requests=[
            WorkloadRequest(
                request_id=f"r{number}",
                query_token_ids=query,
                items_token_ids=items,
                label_token_ids=list(labels),
                apply_softmax=softmax,
            )
            for number, (query, items) in enumerate(requests)
        ],
    )


GOOD = ([1, 2, 3], [[4, 5], [6, 7], [4, 7]])


def test_discrimination_is_the_least_of_all_requests():
    assert discrimination(workload_of(GOOD)) == {
        "distinct_items": 3, "distinct_item_share": 1.0, "distinct_query_tokens": 3, "distinct_item_tokens": 4,
    }  # fmt: skip
    both = discrimination(workload_of(GOOD, ([1, 1, 2, 4, 5], [[4, 5], [4, 5], [5, 4], [6, 6]])))
    assert both == {
        "distinct_items": 3, "distinct_item_share": 0.75, "distinct_query_tokens": 3, "distinct_item_tokens": 3,
    }  # fmt: skip
    assert discrimination(workload_of()) == {}


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (workload_of(GOOD), []),
        (workload_of(([5], GOOD[1])), []),
        (workload_of(([5] * 9, GOOD[1])), ["request r0: the query is one token, repeated 9 times"]),
        (workload_of(([1, 2], [[3, 4], [4, 3]])), ["request r0: all items are built of 2 distinct tokens"]),
        (workload_of(([1, 2], [[3, 4, 5]])), ["request r0: one item; there is nothing to tell it apart from"]),
        (workload_of(([1, 2], [[3, 4], [5, 6]] * 2)), []),
        (
            workload_of(([1, 2], [[3, 4], [5, 6]] * 2 + [[3, 4]])),
            ["request r0: 2 of 5 items are distinct; expected half"],
        ),
        (workload_of(GOOD, labels=[8]), ["request r0: softmax over one label makes every score 1"]),
        (workload_of(GOOD, labels=[8], softmax=False), []),
        (workload_of(GOOD, ([2, 2], GOOD[1])), ["request r1: the query is one token, repeated 2 times"]),
    ],
)
def test_what_cannot_tell_items_apart(workload, expected):
    assert degenerate(workload) == expected


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**63), items=st.integers(2, 30), length=st.integers(3, 20))
def test_what_is_generated_can_tell_items_apart(seed, items, length):
    made = generate(query_tokens=20, num_items=items, item_tokens=length, seed=seed)
    assert degenerate(made) == []
    assert made.discrimination == discrimination(made) and made.discrimination["distinct_item_share"] > 0.5


# -- for others --------------------------------------------------------------------------------


def test_the_head():
    made = generate(**SHAPE, num_requests=2, apply_softmax=False)
    told = head(made)
    assert "requests" not in told and told["apply_softmax"] is False and told["checksums"] == made.checksums
    assert set(Workload.__struct_fields__) - {"requests", "scores"} <= set(told)


def written(path, workload):
    path.write_bytes(msgspec.json.format(msgspec.json.encode(workload), indent=1))
    return path


def read(path, **more):
    options = {"labels": (1, 2), "delimiter": DELIMITER, "vocab_size": 151_936} | more
    traffic = read_traffic(path)
    return cases_of(path, encoded(traffic, traffic.lines, None, **options))


def test_a_canonical_workload_is_a_workload_of_requests(tmp_path):
    made = generate(**SHAPE, num_requests=2)
    first, second = read(written(tmp_path / "w.json", made))
    assert first == Case(
        "canonical-0",
        tuple(made.requests[0].query_token_ids),
        tuple(map(tuple, made.requests[0].items_token_ids)),
        LABELS,
        tuple(sorted({t for r in made.requests for item in r.items_token_ids for t in item})),
    )
    assert second.name == "canonical-1" and CANONICAL_WORKLOAD == WORKLOAD_SCHEMA


def test_a_canonical_workload_on_one_line_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "w.json"
    path.write_bytes(b"\xef\xbb\xbf" + msgspec.json.encode(generate(**SHAPE)))
    assert len(read(path)[0].items) == 6


def test_a_line_of_json_may_have_a_schema_version_of_its_own(tmp_path):
    path = tmp_path / "w.jsonl"
    path.write_text(json.dumps({"query": [1], "items": [[2], [3]], "schema_version": "mine"}))
    assert read(path)[0].query == (1,)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema_version": "score_matrix_v1"}, "is a 'score_matrix_v1' file; expected JSON lines of requests"),
        ({"requests": None}, "'requests' must be a list"),
        ({"requests": []}, "holds no request"),
        ({"requests": [7]}, r"requests\[0\]: expected an object with query and items, got int"),
        (
            {"requests": [{"query_token_ids": [1], "items_token_ids": [[2], [DELIMITER]]}]},
            r"requests\[0\]: items\[1\] holds the delimiter",
        ),
    ],
)
def test_files_that_are_no_canonical_workload(tmp_path, change, expected):
    content = msgspec.to_builtins(generate(**SHAPE)) | change
    with pytest.raises(UsageError, match=expected):
        read(written(tmp_path / "w.json", content))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"query_tokens": 0}, "query_tokens is 0; expected at least 1"),
        ({"num_items": 0}, "num_items is 0; expected at least 1"),
        ({"item_tokens": -1}, "item_tokens is -1; expected at least 1"),
        ({"num_requests": 0}, "num_requests is 0; expected at least 1"),
        ({"labels": ()}, "there is no label"),
        ({"labels": (5, 5)}, "labels 5, 5: one stands twice"),
        ({"labels": (5, -1)}, "label -1 is no token id; expected 0 or more; choose another --labels"),
        ({"delimiter": -2}, "delimiter -2 is no token id; expected 0 or more; choose another --delimiter"),
        ({"delimiter": 9454}, "9454 is both a label and the delimiter"),
        ({"vocab_size": 9454}, "label 9454 is outside the vocabulary of 9454 tokens; expected 0 to 9453"),
        ({"vocab_size": 151_643}, "delimiter 151643 is outside the vocabulary of 151643 tokens"),
        ({"tokenizer": str(SHIPPED), "delimiter": 151_646}, "delimiter 151646 is outside the vocabulary of 151646"),
        ({"labels": (1, 2), "delimiter": 3, "vocab_size": 5}, "leaves 1 tokens to draw items from"),
    ],
)
def test_options_that_exclude_each_other(options, expected):
    with pytest.raises(UsageError, match=expected):
        generate(**options)


def test_labels_and_a_delimiter_at_the_very_end_of_a_vocabulary():
    made = generate(**SHAPE, vocab_size=151_644)
    assert set(content_of(made)) <= set(token_pool(151_644, [*LABELS, DELIMITER]))


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def command(multiitem, monkeypatch, tmp_path):
    """Run ``multiitem workload`` or ``validate`` in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return multiitem


@pytest.fixture
def scorer():
    """A scoring server: ``answer(body)`` gives the scores, or a status."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, {"model_path": "m", "api_key": "secret"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append((body, self.headers.get("authorization")))
            answer = server.answer(body)
            self._send(*((answer, {}) if isinstance(answer, int) else (200, {"scores": answer})))

        def _send(self, status, content):
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = seen
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def spread_scores(width):
    return lambda body: [[0.5 + width * (i % 2), 0.5 - width * (i % 2)] for i, _ in enumerate(body["items"])]


SMALL = ("--query-tokens", 30, "--items", 6, "--item-tokens", 4)


def test_the_command_writes_what_generate_makes(command, tmp_path):
    status, out, err = command("workload", "--output", "w.json", *SMALL, "--requests", 2)
    made = generate(**SHAPE, num_requests=2)
    there = json.loads((tmp_path / "w.json").read_bytes())
    assert (status, err) == (0, "") and there["requests"] == requests_of(made)
    assert out.startswith("wrote w.json: 2 requests of 30/6/4\n") and "distinct_items: 6\n" in out
    assert all(f"{name.removesuffix('_sha256')}: sha256 {digest}\n" in out for name, digest in made.checksums.items())


def test_every_option_reaches_the_workload(command, tmp_path):
    words = ["--model", "m", "--labels", "3,4,5", "--delimiter", 0, "--no-apply-softmax", "--item-first", "--seed", 9]
    assert command("workload", "--output", "w.json", *SMALL, *words, "--vocab-size", 500)[0] == 0
    there = json.loads((tmp_path / "w.json").read_bytes())
    options = {"model": "m", "labels": (3, 4, 5), "delimiter": 0, "apply_softmax": False, "item_first": True}
    made = msgspec.to_builtins(generate(**SHAPE, **options, seed=9, vocab_size=500))
    assert there | {"generated_at_utc": 0} == made | {"generated_at_utc": 0}
    assert there["tokenizer"] == {"name_or_path": None, "vocab_size": 500, "content_ids": 496}


def test_a_tokenizer_is_recorded(command, tmp_path):
    assert command("workload", *SMALL, "--tokenizer", SHIPPED)[0] == 0
    there = json.loads((tmp_path / "canonical_workload.json").read_bytes())
    content = content_tokens(str(SHIPPED), [*LABELS, DELIMITER])
    assert there["tokenizer"] == {
        "name_or_path": str(SHIPPED), "vocab_size": content.vocab_size, "content_ids": len(content.ids),
    }  # fmt: skip


def test_a_file_is_not_overwritten_unless_forced(command, tmp_path):
    (tmp_path / "w.json").write_text("mine")
    status, _, err = command("workload", "--output", "w.json", *SMALL)
    assert status == 2 and "w.json exists; name another file with --output-json, or overwrite it with --force" in err
    assert (tmp_path / "w.json").read_text() == "mine"
    assert command("workload", "--output", "w.json", *SMALL, "--force")[0] == 0
    assert len(json.loads((tmp_path / "w.json").read_bytes())["requests"]) == 1


def test_a_workload_that_cannot_tell_items_apart_is_written_and_said(command, tmp_path):
    status, _, err = command("workload", "--items", 1, "--query-tokens", 5)
    assert status == 1 and (tmp_path / "canonical_workload.json").exists()
    assert "one item; there is nothing to tell it apart from" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--labels", "-1"], "--labels '-1' is not valid: expected a comma-separated list"),
        (["--labels", "yes,no"], "option --labels: 'yes' is not valid: it is text, and there is no tokenizer for it"),
        (["--labels", "151643"], "151643 is both a label and the delimiter"),
        (["--items", "0"], "Invalid value for '--num-items'"),
        (["--url", "nonsense"], "--url 'nonsense' is not valid"),
        (["--url", "http://x", "--timeout", "0"], "--request-timeout '0' is not valid"),
        (["--tokenizer", "/absent/x"], "does not exist"),
    ],
)
def test_options_that_cannot_be_used(command, tmp_path, words, expected):
    status, _, err = command("workload", *words)
    assert status == 2 and expected in err and not list(tmp_path.iterdir())


def test_the_spread_of_the_scores_is_measured_and_recorded(command, tmp_path, scorer, monkeypatch):
    scorer.answer = spread_scores(0.3)
    monkeypatch.setenv("KEY", "k")
    words = ["--url", scorer.url + "/v1/score", "--api-key-env", "KEY", "--item-first", "--no-apply-softmax"]
    status, out, err = command("workload", *SMALL, *words)
    there = json.loads((tmp_path / "canonical_workload.json").read_bytes())
    assert (status, err) == (0, "") and "score_spread: 0.3\n" in out
    assert there["discrimination"]["score_spread"] == pytest.approx(0.3)
    assert there["discrimination"]["scored_by_url"] == scorer.url
    assert there["discrimination"]["scored_by_model"] == "m"
    (body, key), request = scorer.seen[0], there["requests"][0]
    assert key == "Bearer k" and body["item_first"] is True and body["apply_softmax"] is True
    assert (body["query"], body["items"]) == (request["query_token_ids"], request["items_token_ids"])


def test_scores_that_hardly_differ(command, tmp_path, scorer):
    scorer.answer = spread_scores(0.009)
    status, _, err = command("workload", *SMALL, "--url", scorer.url)
    assert status == 1 and "scores hardly differ between items (range 0.009, expected above 0.01)" in err
    there = json.loads((tmp_path / "canonical_workload.json").read_bytes())
    assert there["discrimination"]["score_spread"] == pytest.approx(0.009)


def test_a_server_that_gives_no_scores(command, tmp_path, scorer):
    scorer.answer = lambda body: 500
    status, _, err = command("workload", *SMALL, "--url", scorer.url)
    assert status == 1 and f"{scorer.url} gave no scores: http_error: HTTP 500" in err
    there = json.loads((tmp_path / "canonical_workload.json").read_bytes())
    assert "score_spread" not in there["discrimination"] and there["requests"] == requests_of(generate(**SHAPE))


def test_the_client_is_closed(command, scorer, monkeypatch):
    closed = []
    close = ScoreClient.close
    monkeypatch.setattr(ScoreClient, "close", lambda self: (closed.append(1), close(self)))
    scorer.answer = spread_scores(0.3)
    command("workload", *SMALL, "--url", scorer.url)
    assert closed == [1]
