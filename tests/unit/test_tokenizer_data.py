"""The tokenizer that generated checkpoints carry, and the search sample that ships with the package."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

VOCAB_SIZE = 151_936
PINNED = {"Yes": 9_454, "No": 2_753}
RERANKER = {"yes": 9_693, "no": 9_694}
SPECIAL = {"<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645}

TOKENIZER_DATA = Path(str(resources.files("pytest_multiitem.engine") / "data"))
TOKENIZER = Tokenizer.from_file(str(TOKENIZER_DATA / "tokenizer.json"))


def _ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def sample() -> list[dict[str, Any]]:
    text = (resources.files("pytest_multiitem") / "data" / "search_sample.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_text_survives_a_round_trip(text: str) -> None:
    assert TOKENIZER.decode(_ids(text), skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces \n\n\ttab ",
        "crème brûlée, Müller",
        "e\u0301 is not \u00e9",
        "日本 👩‍🚀",
        "\x00\x7f\ufeff",
        "a" * 999,
    ],
)
def test_awkward_text_survives_a_round_trip(text: str) -> None:
    assert TOKENIZER.decode(_ids(text), skip_special_tokens=False) == text


@pytest.mark.parametrize(("text", "expected"), [*PINNED.items(), *RERANKER.items(), *SPECIAL.items()])
def test_pinned_tokens_have_their_ids(text: str, expected: int) -> None:
    assert _ids(text) == [expected]
    assert TOKENIZER.decode([expected], skip_special_tokens=False) == text


def test_ids_are_unique_and_fit_the_vocabulary() -> None:
    vocab = TOKENIZER.get_vocab(with_added_tokens=True)
    assert len(set(vocab.values())) == len(vocab)
    assert min(vocab.values()) >= 0 and max(vocab.values()) < VOCAB_SIZE
    others = [index for token, index in vocab.items() if token not in SPECIAL]
    assert max(others) < 20_000
    assert len(others) == 256 + len(_tokenizer_json()["model"]["merges"])


def test_the_tokenizer_is_small_and_never_needs_an_unknown_token() -> None:
    assert (TOKENIZER_DATA / "tokenizer.json").stat().st_size < 200_000
    assert _tokenizer_json()["model"]["unk_token"] is None


def test_the_sample_is_well_formed(sample: list[dict[str, Any]]) -> None:
    assert len(sample) == 20
    assert len({row["id"] for row in sample}) == 20
    for row in sample:
        assert set(row) == {"id", "query", "items", "label_token_ids"}
        assert isinstance(row["id"], str) and isinstance(row["query"], str)
        assert len(row["items"]) >= 5 and all(isinstance(item, str) for item in row["items"])
        assert row["label_token_ids"] == list(PINNED.values())


def test_the_sample_encodes_without_special_tokens(sample: list[dict[str, Any]]) -> None:
    special = set(SPECIAL.values())
    for row in sample:
        for text in (row["query"], *row["items"]):
            ids = _ids(text)
            assert ids and not special.intersection(ids)
            assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_the_sample_encodes_alike_joined_and_apart(sample: list[dict[str, Any]]) -> None:
    """Scoring ``query + item`` as text and as ids is then the same sequence."""
    for row in sample:
        for item in row["items"]:
            assert _ids(row["query"] + item) == _ids(row["query"]) + _ids(item)


def test_the_sample_has_two_queries_with_the_same_passages(sample: list[dict[str, Any]]) -> None:
    lists = [tuple(row["items"]) for row in sample]
    shared = [items for items in lists if lists.count(items) == 2]
    assert len(shared) == 2 and len({row["query"] for row in sample}) == 20
    assert len(set(shared[0])) < len(shared[0])


def test_auto_tokenizer_gives_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: list[dict[str, Any]]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER_DATA / name, tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCAB_SIZE})
    )
    auto = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    texts = [*PINNED, *SPECIAL, "", " a  b\n\n", "crème 日本", "e\u0301"]
    texts += [text for row in sample for text in (row["query"], *row["items"], row["query"] + row["items"][0])]
    for text in texts:
        ids = auto(text)["input_ids"]
        assert ids == _ids(text) == TOKENIZER.encode(text).ids
        assert auto.decode(ids) == text
    assert auto.eos_token_id == SPECIAL["<|im_end|>"]
    assert auto.pad_token_id == SPECIAL["<|endoftext|>"]
    assert auto.model_max_length == 40_960


def _tokenizer_json() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((TOKENIZER_DATA / "tokenizer.json").read_text(encoding="utf-8"))
    return value
