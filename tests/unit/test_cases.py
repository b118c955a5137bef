"""The built-in cases, their mutations, and a user's workload."""

import json
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_multiitem.engine.tokenizer import TextTokenizer
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import Case, built_in_cases, equal_length_case, mutations, read_workload, token_pool

LABELS, DELIMITER, VOCAB = (9454, 2753), 151_643, 151_936
KINDS = ("same_length", "longer", "shorter")


def built_in(seed=1, vocab_size=VOCAB, empty_item=True, labels=LABELS, delimiter=DELIMITER):
    return built_in_cases(seed=seed, labels=labels, delimiter=delimiter, vocab_size=vocab_size, empty_item=empty_item)


# -- built-in cases ---------------------------------------------------------------------------


def test_equal_seeds_give_equal_cases():
    assert built_in() == built_in()
    assert built_in(seed=2) != built_in()


def test_their_shapes():
    mixed, equal = built_in()
    lengths = [len(item) for item in mixed.items]
    assert (lengths[0], lengths[-1], len(lengths)) == (1, 40, 26)
    assert lengths.count(0) == 1 and max(lengths) == 40 and len(mixed.query) == 120
    assert {len(item) for item in equal.items} == {20} and len(equal.items) == 32


def test_no_empty_item_where_the_engine_allows_none():
    assert all(item for case in built_in(empty_item=False) for item in case.items)


@pytest.mark.parametrize("vocab_size", [8, 1000, 4000, 30_000, VOCAB])
def test_content_holds_no_delimiter_no_label_and_stays_in_the_vocabulary(vocab_size):
    labels, delimiter = (3, 5), vocab_size - 2
    for case in built_in(labels=labels, delimiter=delimiter, vocab_size=vocab_size):
        tokens = {*case.query, *(token for item in case.items for token in item)}
        assert tokens <= set(case.pool)
        assert not tokens & {*labels, delimiter} and min(tokens) >= 0 and max(tokens) < vocab_size


def test_the_pool_leaves_special_tokens_out():
    pool = token_pool(VOCAB, [9454, 2753, DELIMITER])
    assert min(pool) == 1000 and max(pool) < 151_643 and 9454 not in pool
    assert len(pool) == len(set(pool))


@pytest.mark.parametrize(("vocab_size", "left"), [(1, 0), (3, 0), (4, 1)])
def test_a_vocabulary_with_nothing_to_draw_from(vocab_size, left):
    with pytest.raises(UsageError, match=f"vocabulary of {vocab_size} leaves {left} tokens"):
        built_in(vocab_size=vocab_size, labels=(1,), delimiter=2)


def test_a_timing_case():
    pool = token_pool(1000, [1])
    one, again, other = (
        equal_length_case(seed=seed, query_tokens=7, num_items=5, item_tokens=3, labels=(1, 2), pool=pool)
        for seed in (4, 4, 5)
    )
    assert one == again != other
    assert one.name == "7/5/3" and len(one.query) == 7 and [len(i) for i in one.items] == [3] * 5


# -- mutations --------------------------------------------------------------------------------


def case_of(lengths, pool=tuple(range(50, 90))):
    return Case("case", pool[:3], tuple(tuple(pool[i % len(pool)] for i in range(n)) for n in lengths), (1, 2), pool)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=9),
    pool=st.sampled_from([(50, 51), tuple(range(50, 90))]),
    seed=st.integers(0, 99),
)
def test_a_mutation_changes_every_token_of_one_item_only(lengths, pool, seed):
    case = case_of(lengths, pool)
    for mutation in mutations(case, KINDS, seed=seed):
        old, new = case.items[mutation.index], mutation.case.items[mutation.index]
        assert mutation.case.with_item(mutation.index, old) == case
        assert new != old and all(a != b for a, b in zip(old, new, strict=False))
        assert set(new) <= set(pool)
        assert {
            "same_length": len(new) == len(old) > 0,
            "longer": len(new) > len(old),
            "shorter": 0 < len(new) < len(old),
        }[mutation.kind]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (7, [0, 3, 6]), (32, [0, 16, 31])]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_a_middle_and_the_last_item_are_mutated(count, expected, kind):
    found = mutations(case_of([6] * count), [kind], seed=1)
    assert [mutation.index for mutation in found] == expected
    assert {mutation.kind for mutation in found} == {kind}


@pytest.mark.parametrize(
    ("length", "kinds"),
    [(0, ["longer"]), (1, ["same_length", "longer"]), (2, ["same_length", "longer", "shorter"])],
)
def test_kinds_that_do_not_apply_are_left_out(length, kinds):
    assert [m.kind for m in mutations(case_of([length]), KINDS, seed=1)] == kinds


def test_mutations_are_seeded():
    case = case_of([6] * 5)
    assert mutations(case, KINDS, seed=1) == mutations(case, KINDS, seed=1) != mutations(case, KINDS, seed=2)


# -- a user's workload ------------------------------------------------------------------------


def words(text):
    """A tokenizer: one id a word, its length."""
    return [len(word) for word in text.split()]


def read(tmp_path, *lines, encode=words, vocab_size=100):
    path = tmp_path / "workload.jsonl"
    content = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_bytes(content.encode("utf-8"))
    return read_workload(path, encode=encode, labels=(8, 9), delimiter=99, vocab_size=vocab_size)


GOOD = {"query": [1, 2], "items": [[3], [4, 5]]}


def refused(tmp_path, line, **more):
    """The message about a workload whose third line is ``line``; its start names file and line."""
    with pytest.raises(UsageError) as caught:
        read(tmp_path, GOOD, "", line, **more)
    start = f"workload {tmp_path / 'workload.jsonl'}, line 3: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_token_ids(tmp_path):
    (case,) = read(tmp_path, GOOD, encode=None)
    assert case == Case("line 1", (1, 2), ((3,), (4, 5)), (8, 9), (3, 4, 5))


def test_text_labels_and_names(tmp_path):
    first, second = read(
        tmp_path, {"id": "mine", "query": "a bb", "items": ["ccc", ""], "label_token_ids": [7, 6]}, "  ", GOOD
    )
    assert (first.name, first.query, first.items, first.labels) == ("mine", (1, 2), ((3,), ()), (7, 6))
    assert second.name == "line 3" and second.labels == (8, 9)
    assert first.pool == second.pool == (3, 4, 5)


def test_an_empty_item_is_allowed_and_duplicates_stay(tmp_path):
    (case,) = read(tmp_path, {"query": [1], "items": [[3, 4], [], [3, 4]]})
    assert case.items == ((3, 4), (), (3, 4))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\ufeff", "\U0001f600", "é"])
def test_unicode_inside_text(tmp_path, separator):
    (case,) = read(
        tmp_path, {"query": f"aa{separator}bb", "items": ["a", f"b{separator} cc"]}, encode=lambda t: [len(t)]
    )
    assert case.query == (5,) and len(case.items) == 2


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "workload.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    found = read_workload(path, encode=None, labels=(8,), delimiter=99, vocab_size=100)
    assert [case.name for case in found] == ["line 1", "line 3"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{nonsense", "not valid JSON"),
        ('{"query": [1], "items": [[2]', "not valid JSON"),
        ("[1, 2]", "expected an object with query and items, got list"),
        (GOOD | {"label_tokens_ids": [1]}, "there is no field 'label_tokens_ids' (did you mean 'label_token_ids'?)"),
        (GOOD | {"note": 1}, "there is no field 'note'; expected query, items, label_token_ids, id"),
        ('{"query": [1], "items": [[2]], "items": [[3]]}', "not valid JSON (the key 'items' stands in it 2 times)"),
        ("[" * 5000, "not valid JSON"),
        ({"query": [1]}, "'items' must be a list with at least one item"),
        (GOOD | {"items": []}, "'items' must be a list with at least one item"),
        (GOOD | {"items": "text"}, "'items' must be a list with at least one item"),
        ({"items": [[1]]}, "'query' must be text or a list of token ids, got None"),
        (GOOD | {"query": 7}, "'query' must be text or a list of token ids, got 7"),
        (GOOD | {"query": []}, "'query' is empty"),
        (GOOD | {"query": ""}, "'query' is empty"),
        (GOOD | {"query": [1, 99]}, "'query' holds the delimiter 99, which cannot stand in content"),
        (GOOD | {"items": [[1], [2, 99]]}, "items[1] holds the delimiter 99, which cannot stand in content"),
        (GOOD | {"items": [[1], [100]]}, "items[1] holds token id 100; expected 0 to 99"),
        (GOOD | {"items": [[-1]]}, "items[0] holds token id -1; expected 0 to 99"),
        (GOOD | {"items": [[1], [True]]}, "items[1] must be text or a list of token ids, got [True]"),
        (GOOD | {"items": [[1], [1.5]]}, "items[1] must be text or a list of token ids, got [1.5]"),
        (GOOD | {"items": [[1], 5]}, "items[1] must be text or a list of token ids, got 5"),
        (GOOD | {"items": [[1], None]}, "items[1] must be text or a list of token ids, got None"),
        (GOOD | {"label_token_ids": [100]}, "'label_token_ids' holds token id 100; expected 0 to 99"),
        (GOOD | {"label_token_ids": [99]}, "'label_token_ids' holds the delimiter 99"),
        (GOOD | {"label_token_ids": []}, "'label_token_ids' must be a list with at least one token id, got []"),
        (GOOD | {"label_token_ids": "Yes"}, "'label_token_ids' must be a list with at least one token id, got 'Yes'"),
        (GOOD | {"label_token_ids": ["Yes"]}, "'label_token_ids' must be text or a list of token ids, got ['Yes']"),
    ],
)
def test_what_is_refused_names_line_value_and_expectation(tmp_path, line, expected):
    assert refused(tmp_path, line).startswith(expected)


def test_text_without_a_tokenizer(tmp_path):
    message = refused(tmp_path, GOOD | {"query": "a b"}, encode=None)
    assert message == "'query' is text, and the served model has no tokenizer here; give token ids"


def test_text_that_encodes_to_the_delimiter(tmp_path):
    assert "'query' holds the delimiter 99" in refused(tmp_path, GOOD | {"query": "x" * 99})


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "workload.jsonl"
    path.write_bytes(b'{"query": "caf\xe9", "items": ["a"]}')
    with pytest.raises(UsageError, match="line 1: not valid JSON"):
        read_workload(path, encode=words, labels=(8,), delimiter=99, vocab_size=100)


@pytest.mark.parametrize("lines", [(), ("", "  ")])
def test_a_workload_without_requests(tmp_path, lines):
    with pytest.raises(UsageError, match="holds no request"):
        read(tmp_path, *lines)


def test_a_workload_with_nothing_to_mutate(tmp_path):
    with pytest.raises(UsageError, match="hold 1 distinct token; nothing to mutate"):
        read(tmp_path, {"query": [1, 2], "items": [[3], [3, 3]]})


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read workload .*absent"):
        read_workload(tmp_path / "absent", encode=None, labels=(8,), delimiter=99, vocab_size=100)


def test_the_shipped_sample_loads():
    data = resources.files("pytest_multiitem")
    tokenizer = TextTokenizer(Path(str(data / "engine" / "data" / "tokenizer.json")))
    found = read_workload(
        Path(str(data / "data" / "search_sample.jsonl")),
        encode=tokenizer.encode,
        labels=LABELS,
        delimiter=DELIMITER,
        vocab_size=VOCAB,
    )
    assert len(found) == 20 and len({case.name for case in found}) == 20
    assert all(len(case.items) > 1 and case.labels == LABELS for case in found)
