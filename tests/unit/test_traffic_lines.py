"""A user's own requests: what may stand in a line, what is refused, and how it becomes token ids."""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.prompts import reranker
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.traffic.drawing import drawn
from pytest_multiitem.traffic.encoding import Encoder, encoded, encoder_of, generated_tokenizer
from pytest_multiitem.traffic.lines import read_traffic
from pytest_multiitem.traffic.loading import cases_of, explicit_labels, fitted, load

DATA = Path(str(resources.files("pytest_multiitem")))
SHIPPED = str(DATA / "engine" / "data")
YES, NO = 9693, 9694


class Words:
    """A tokenizer: one id a word, its length."""

    source, vocab_size = "words", 1000

    def learn(self, texts):
        pass

    def encode(self, text):
        return tuple(len(word) for word in text.split())

    label = Encoder.label


def written(tmp_path, *lines):
    path = tmp_path / "traffic.jsonl"
    content = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_bytes(content.encode("utf-8"))
    return path


def requests_of(path, *, encoder=Words(), labels=(8, 9), vocab_size=100):  # noqa: B008 - it has no state
    traffic = read_traffic(path)
    return encoded(traffic, traffic.lines, encoder, labels=labels, delimiter=99, vocab_size=vocab_size)


def read(tmp_path, *lines, **more):
    path = written(tmp_path, *lines)
    return cases_of(path, requests_of(path, **more))


def settings_with(**given):
    return resolve({f"multiitem_{name}": str(value) for name, value in given.items()}, {}, {})


GOOD = {"query": [1, 2], "items": [[3], [4, 5]]}


def refused(tmp_path, line, **more):
    """The message about a workload whose third line is ``line``: it is one line, and begins with file and line."""
    with pytest.raises(UsageError) as caught:
        read(tmp_path, GOOD, "", line, **more)
    start = f"workload {tmp_path / 'traffic.jsonl'}, line 3: "
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(start)


# -- what may stand in a line ------------------------------------------------------------------


def test_token_ids(tmp_path):
    (case,) = read(tmp_path, GOOD, encoder=None)
    assert case == Case("line 1", (1, 2), ((3,), (4, 5)), (8, 9), (3, 4, 5))


def test_text_labels_and_names(tmp_path):
    first, second = read(
        tmp_path, {"id": "mine", "query": "a bb", "items": ["ccc", ""], "label_token_ids": [7, 6]}, "  ", GOOD
    )
    assert (first.name, first.query, first.items, first.labels) == ("mine", (1, 2), ((3,), ()), (7, 6))
    assert second.name == "line 3" and second.labels == (8, 9)
    assert first.pool == second.pool == (3, 4, 5)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"labels": ["yyyy", "nn"]}, (4, 2)),
        ({"labels": [7, 6]}, (7, 6)),
        ({"labels": ["yyyy", 6]}, (4, 6)),
        ({"label_token_ids": [7, 6]}, (7, 6)),
    ],
)
def test_labels_are_text_or_ids(tmp_path, labels, expected):
    (case,) = read(tmp_path, GOOD | labels, labels=None)
    assert case.labels == expected


@pytest.mark.parametrize("documents", [["ccc", "a"], [{"text": "ccc"}, {"text": "a"}]])
def test_a_rerank_request_is_one_of_its_documents(tmp_path, documents):
    line = {"model": "m", "query": "a bb", "documents": documents, "top_n": 1, "return_documents": True}
    (case,) = read(tmp_path, line)
    assert (case.query, case.items) == ((1, 2), ((3,), (1,)))


def test_an_instruction_makes_the_prompt_of_the_reranker(tmp_path):
    path = written(tmp_path, {"query": "q", "documents": ["d", "e"], "instruct": "task", "labels": ["yes", "no"]})
    (line,) = read_traffic(path).lines
    assert (line.query, line.items) == reranker.rendered("task", "q", ["d", "e"])
    assert line.query.endswith("<Instruct>: task\n<Query>: q\n") and line.items[1].startswith("<Document>: e<|im_end|>")


def test_what_a_line_asks_for(tmp_path):
    asked = GOOD | {"apply_softmax": False, "item_first": True}
    usual, own = requests_of(written(tmp_path, GOOD | {"apply_softmax": None}, asked))
    assert (usual.apply_softmax, usual.item_first) == (True, False)
    assert (own.apply_softmax, own.item_first) == (False, True)


def test_fields_that_change_no_score_are_passed_over(tmp_path):
    line = GOOD | {"model": "m", "user": "u", "temperature": 1.0, "return_token_logprobs": False, "schema_version": "x"}
    assert read(tmp_path, line) == read(tmp_path, GOOD)


def test_an_empty_item_is_allowed_and_duplicates_stay(tmp_path):
    (case,) = read(tmp_path, {"query": [1], "items": [[3, 4], [], [3, 4]]})
    assert case.items == ((3, 4), (), (3, 4))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\ufeff", "\U0001f600", "é"])
def test_unicode_inside_text(tmp_path, separator):
    (line,) = read_traffic(written(tmp_path, {"query": f"aa{separator}bb", "items": ["a", f"b{separator} cc"]})).lines
    assert line.query == f"aa{separator}bb" and line.items[1] == f"b{separator} cc"


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "traffic.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert [line.name for line in read_traffic(path).lines] == ["line 1", "line 3"]


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{nonsense", "not valid JSON"),
        ('{"query": [1], "items": [[2]', "not valid JSON"),
        ("[1, 2]", "expected an object with query and items, got list"),
        (GOOD | {"label_tokens_ids": [1]}, "there is no field 'label_tokens_ids' (did you mean 'label_token_ids'?)"),
        (GOOD | {"label": ["a"]}, "there is no field 'label' (did you mean 'labels'?)"),
        (GOOD | {"qeury": "a"}, "there is no field 'qeury' (did you mean 'query'?)"),
        ({"query": "a", "passages": ["b"]}, "there is no field 'passages' (did you mean 'documents'?)"),
        ({"query": "a", "candidates": ["b"]}, "there is no field 'candidates' (did you mean 'items'?)"),
        (GOOD | {"instruction": "b"}, "there is no field 'instruction' (did you mean 'instruct'?)"),
        (GOOD | {"note": 1}, "there is no field 'note'; expected query, items, documents, labels, label_token_ids, id"),
        (GOOD | {"temperature": 0.5}, "'temperature' is 0.5, which is not measured here; leave it out"),
        (GOOD | {"return_token_logprobs": True}, "'return_token_logprobs' is True, which is not measured here"),
        ('{"query": [1], "items": [[2]], "items": [[3]]}', "not valid JSON (the key 'items' stands in it 2 times)"),
        ("[" * 5000, "not valid JSON"),
        ({"query": [1]}, "'items' must be a list with at least one item"),
        (GOOD | {"items": []}, "'items' must be a list with at least one item"),
        (GOOD | {"items": "text"}, "'items' must be a list with at least one item"),
        (GOOD | {"documents": ["b"]}, "'items' and 'documents' are two names for the same; give one of them"),
        ({"query": "a", "documents": []}, "'documents' must be a list with at least one item"),
        ({"query": "a", "documents": ["b", {"text": 7}]}, "documents[1] must be text or a list of token ids, got 7"),
        ({"query": "a", "documents": [{"body": "b"}]}, "documents[0] must be text or a list of token ids, got {'body'"),
        (GOOD | {"instruct": "a"}, "'instruct' is text that goes with 'query' and 'documents' as text"),
        ({"items": [[1]]}, "'query' must be text or a list of token ids, got None"),
        (GOOD | {"query": 7}, "'query' must be text or a list of token ids, got 7"),
        (GOOD | {"query": []}, "'query' is empty"),
        (GOOD | {"query": ""}, "'query' is empty"),
        (GOOD | {"query": "  "}, "'query' is empty"),
        (GOOD | {"query": [1, 99]}, "'query' holds the delimiter 99, which cannot stand in content"),
        (GOOD | {"items": [[1], [2, 99]]}, "items[1] holds the delimiter 99, which cannot stand in content"),
        (GOOD | {"items": [[1], [100]]}, "items[1] holds token id 100; expected 0 to 99"),
        (GOOD | {"items": [[-1]]}, "items[0] holds token id -1; expected 0 to 99"),
        (GOOD | {"items": [[1], [True]]}, "items[1] must be text or a list of token ids, got [True]"),
        (GOOD | {"items": [[1], [1.5]]}, "items[1] must be text or a list of token ids, got [1.5]"),
        (GOOD | {"items": [[1], 5]}, "items[1] must be text or a list of token ids, got 5"),
        (GOOD | {"items": [[1], None]}, "items[1] must be text or a list of token ids, got None"),
        (GOOD | {"label_token_ids": [100]}, "the list of labels holds token id 100; expected 0 to 99"),
        (GOOD | {"label_token_ids": [99]}, "the list of labels holds the delimiter 99"),
        (GOOD | {"label_token_ids": []}, "'label_token_ids' must be a list with at least one token id, got []"),
        (GOOD | {"label_token_ids": "Yes"}, "'label_token_ids' must be a list with at least one token id, got 'Yes'"),
        (GOOD | {"label_token_ids": ["Yes"]}, "'label_token_ids' holds text, 'Yes'; labels that are text stand in"),
        (GOOD | {"label_token_ids": [1.5]}, "'label_token_ids' holds 1.5; expected token ids"),
        (GOOD | {"labels": "yes"}, "'labels' must be a list with at least one label, each text or a token id"),
        (GOOD | {"labels": ["a", None]}, "'labels' holds None; expected text or token ids"),
        (GOOD | {"labels": ["a", ""]}, "'labels' holds ''; expected text or token ids"),
        (GOOD | {"labels": ["aa", "bb"]}, "the labels are the ids [2, 2]; expected each once"),
        (GOOD | {"labels": ["a b", "c"]}, "label 'a b' is 2 tokens of words, [1, 1]; expected one token"),
        (GOOD | {"labels": [1], "label_token_ids": [1]}, "'labels' and 'label_token_ids' are two names for the same"),
        (GOOD | {"item_first": "yes"}, "'item_first' must be true or false, got 'yes'"),
        (GOOD | {"apply_softmax": 1}, "'apply_softmax' must be true or false, got 1"),
        (GOOD | {"apply_softmax": False}, "'apply_softmax' is false, and the gates judge scores after the softmax"),
        (GOOD | {"item_first": True}, "'item_first' is true, and packed scoring puts the query first"),
        (GOOD | {"id": ["a"]}, "'id' must be text, got ['a']"),
    ],
)  # fmt: skip
def test_what_is_refused_names_line_value_and_expectation(tmp_path, line, expected):
    assert refused(tmp_path, line).startswith(expected)


def test_labels_are_never_a_default(tmp_path):
    with pytest.raises(
        UsageError, match=r"line 2: it has no labels; give .* or for all lines --labels yes,no"
    ) as caught:
        read(tmp_path, GOOD | {"labels": [1, 2]}, GOOD, labels=None)
    assert "\n" not in str(caught.value)


def test_text_without_a_tokenizer(tmp_path):
    message = refused(tmp_path, GOOD | {"query": "a b"}, encoder=None)
    assert message == (
        "'query' is text, and there is no tokenizer for it; name one: --tokenizer DIR, or give token ids"
    )
    message = refused(tmp_path, GOOD | {"labels": ["yes"]}, encoder=None)
    assert message.startswith("label 'yes' is text, and there is no tokenizer for it; name one: --tokenizer DIR")


def test_text_that_encodes_to_the_delimiter(tmp_path):
    assert "'query' holds the delimiter 99" in refused(tmp_path, GOOD | {"query": "x" * 99})


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "traffic.jsonl"
    path.write_bytes(b'{"query": "caf\xe9", "items": ["a"]}')
    with pytest.raises(UsageError, match="line 1: not valid JSON"):
        read_traffic(path)


@pytest.mark.parametrize("lines", [(), ("", "  ")])
def test_a_workload_without_requests(tmp_path, lines):
    with pytest.raises(UsageError, match="holds no request"):
        read(tmp_path, *lines)


def test_a_workload_with_nothing_to_mutate(tmp_path):
    with pytest.raises(UsageError, match="hold 1 distinct token; nothing to mutate"):
        read(tmp_path, {"query": [1, 2], "items": [[3], [3, 3]]})


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read workload .*absent"):
        read_traffic(tmp_path / "absent")


# -- a sample ----------------------------------------------------------------------------------


def test_a_sample_is_seeded_and_keeps_the_order():
    lines = list(range(50))
    sample = drawn(lines, 7, seed=1)
    assert len(sample) == 7 and list(sample) == sorted(sample) and sample == drawn(lines, 7, seed=1)
    assert sample != drawn(lines, 7, seed=2) and sample != tuple(lines[:7])
    assert drawn(lines, None, seed=1) == drawn(lines, 50, seed=1) == drawn(lines, 999, seed=1) == tuple(lines)


@given(count=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_nothing_is_drawn_twice(count, seed):
    assert len(set(drawn(range(40), count, seed))) == count


def test_a_sample_is_pinned():
    assert drawn(range(20), 5, seed=20_260_101) == (0, 2, 7, 9, 11)


# -- of a run ----------------------------------------------------------------------------------


def loaded(settings, **more):
    return load(
        settings, **({"delimiter": 151_643, "vocab_size": None, "served": generated_tokenizer(settings)} | more)
    )


def test_the_shipped_sample_of_reranker_prompts():
    own = fitted(settings_with(workload=DATA / "data" / "reranker_sample.jsonl"))
    found = loaded(own)
    assert own.labels == (YES, NO) and own.origins["labels"].startswith("workload ")
    assert len(found.requests) == 20 and {request.labels for request in found.requests} == {(YES, NO)}
    assert found.source.tokenizer == SHIPPED and found.vocab_size == 151_646
    assert len(cases_of(own.workload, found.requests)) == 20


def test_the_samples_have_the_same_queries_and_passages():
    def rows(name):
        return [json.loads(line) for line in (DATA / "data" / name).read_text(encoding="utf-8").splitlines()]

    for searched, reranked in zip(rows("search_sample.jsonl"), rows("reranker_sample.jsonl"), strict=True):
        query = searched["query"].partition("\nQuery: ")[2]
        passages = [item.removeprefix("\nDocument: ").removesuffix("\nRelevant:") for item in searched["items"]]
        task = "Given a web search query, retrieve relevant passages that answer the query"
        assert (reranked["query"], tuple(reranked["items"])) == reranker.rendered(task, query, passages)
        assert reranked["labels"] == ["yes", "no"] and reranked["id"] == searched["id"]


def test_a_sample_of_a_run_says_what_it_is():
    found = loaded(settings_with(workload=DATA / "data" / "reranker_sample.jsonl", workload_sample=5, seed=3))
    assert (found.source.drawn, found.source.requests, len(found.requests)) == (5, 20, 5)
    assert found.source.words.startswith("a sample of 5 of 20 requests (seed 3) of ")
    assert "as text by the tokenizer" in found.source.words


@pytest.mark.parametrize(
    ("labels", "line", "expected"),
    [
        ("5,6", {}, (5, 6)),
        ("yes,no", {}, (YES, NO)),
        ("5,6", {"labels": [7, 8]}, (7, 8)),
        (None, {"labels": ["yes", "no"]}, (YES, NO)),
    ],
)
def test_labels_of_the_line_or_of_the_option(tmp_path, labels, line, expected):
    given = {} if labels is None else {"labels": labels}
    own = fitted(settings_with(workload=written(tmp_path, GOOD | line), **given))
    (request,) = loaded(own).requests
    assert request.labels == expected


def test_labels_of_lines_that_differ_are_those_of_no_run(tmp_path):
    lines = (GOOD | {"labels": [5, 6]}, GOOD | {"labels": [7, 8]})
    own = fitted(settings_with(workload=written(tmp_path, *lines)))
    assert own.labels == (9454, 2753) and explicit_labels(own) is None


def test_labels_that_a_workload_gave_are_nobodys_for_a_line_without(tmp_path):
    own = fitted(settings_with(workload=written(tmp_path, GOOD | {"labels": [5, 6]})))
    assert own.labels == (5, 6) and explicit_labels(own) is None
    with pytest.raises(UsageError, match="line 2: it has no labels"):
        loaded(replace(own, workload=written(tmp_path, GOOD | {"labels": [5, 6]}, GOOD)))


def test_labels_as_text_need_one_token_and_a_tokenizer():
    with pytest.raises(UsageError, match=r"--multiitem-labels: 'nonsense' is not valid: label 'nonsense' is \d+"):
        fitted(settings_with(labels="nonsense"))
    with pytest.raises(UsageError, match=r"'yes' is not valid: it is text, and there is no tokenizer for it; name one"):
        fitted(settings_with(labels="yes,no", multi_url="http://127.0.0.1:9"))
    with pytest.raises(UsageError, match="there is no tokenizer for it"):
        fitted(settings_with(labels="yes,no"), starts_servers=False)
    named = settings_with(labels="yes,no", multi_url="http://127.0.0.1:9", tokenizer=SHIPPED)
    assert fitted(named).labels == (YES, NO)


def test_a_label_that_is_one_token_behind_a_space_is_hinted_at():
    with pytest.raises(ValueError, match=r"label ' yes' is 2 tokens of .*; expected one token; 'yes' is one"):
        Encoder(SHIPPED).label(" yes")


def test_which_tokenizer(tmp_path):
    own, model = tmp_path / "own", tmp_path / "model"
    for directory in (own, model):
        directory.mkdir()
        (directory / "tokenizer.json").write_bytes(Path(SHIPPED, "tokenizer.json").read_bytes())
    attached = {"multi_url": "http://127.0.0.1:9"}
    assert encoder_of(settings_with(tokenizer=own, model=model), "served").source == str(own)
    assert encoder_of(settings_with(model=model, **attached), SHIPPED).source == str(model)
    assert encoder_of(settings_with(model="Qwen/Qwen3-0.6B", **attached), SHIPPED).source == SHIPPED
    assert encoder_of(settings_with(**attached), "/nowhere") is None
    assert generated_tokenizer(settings_with()) == SHIPPED and generated_tokenizer(settings_with(**attached)) is None
    assert encoder_of(settings_with()) is None
    with pytest.raises(UsageError, match=r"tokenizer .*absent does not exist"):
        encoder_of(settings_with(tokenizer=tmp_path / "absent"))


@pytest.mark.parametrize(
    ("tokenizer", "expected"), [(None, 6001), (SHIPPED, 151_646)], ids=["of the requests", "of the tokenizer"]
)
def test_the_vocabulary_of_a_server_that_tells_nothing(tmp_path, tokenizer, expected):
    path = written(tmp_path, {"query": [6000], "items": [[3], [4]], "labels": [1, 2]})
    given = {} if tokenizer is None else {"tokenizer": tokenizer}
    assert loaded(settings_with(workload=path, multi_url="http://127.0.0.1:9", **given)).vocab_size == expected


def test_an_id_beyond_the_tokenizer_of_a_server_that_tells_nothing(tmp_path):
    path = written(tmp_path, {"query": [151_700], "items": [[3], [4]], "labels": [1, 2]})
    with pytest.raises(UsageError, match=r"0 to 151645 by .*; if the model has more: --multiitem-vocab-size N"):
        loaded(settings_with(workload=path, tokenizer=SHIPPED))
    assert loaded(settings_with(workload=path, tokenizer=SHIPPED), vocab_size=151_936).requests


def test_a_line_that_cannot_be_used_is_told_before_anything_starts(tmp_path):
    path = written(tmp_path, GOOD | {"labels": [1, 2]}, {"query": "a", "item": ["b"]})
    with pytest.raises(UsageError, match=r"line 2: there is no field 'item' \(did you mean 'items'\?\)"):
        fitted(settings_with(workload=path))


def test_text_for_an_attached_server_waits_for_its_tokenizer(tmp_path):
    path = written(tmp_path, {"query": "a", "items": ["b", "c"], "labels": ["yes", "no"]})
    own = fitted(settings_with(workload=path, multi_url="http://127.0.0.1:9"))
    assert own.labels == (9454, 2753)
    assert loaded(own, served=SHIPPED).requests[0].labels == (YES, NO)
    with pytest.raises(UsageError, match="line 1: 'query' is text, and there is no tokenizer for it"):
        loaded(own, served="/elsewhere")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9454,2753", (9454, 2753)),
        (" 1 , 2 ", (1, 2)),
        ("yes,no", ("yes", "no")),
        ('"yes","no"', ("yes", "no")),
        ('" yes"," no"', (" yes", " no")),
        ('"1",2', ("1", 2)),
        ('"a,b",c', ("a,b", "c")),
        ("yes,yes,7,7", ("yes", 7)),
    ],
)
def test_labels_of_a_command_line(text, expected):
    assert resolve({"multiitem_labels": text}, {}, {}).labels == expected


@pytest.mark.parametrize("text", ["", "9454;2753", "-1", "yes,", "a b", '"a', '"a"b', '""', '"\\x"', "1.5"])
def test_labels_that_are_none(text):
    with pytest.raises(UsageError, match="expected a comma-separated list of whole numbers"):
        resolve({"multiitem_labels": text}, {}, {"MULTI_ITEM_LABELS": ""} if text else {"MULTI_ITEM_LABELS": " "})
