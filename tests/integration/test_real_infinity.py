"""The real infinity on a CPU: a server that ranks, of which nothing but the address is known."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ranking import DOCUMENTS, QUERIES, Reference, check_order, check_queries_in_flight, check_scores
from real_engine import judged_by_its_answers

from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.adapters.classify import ClassifyClient
from pytest_multiitem.adapters.ranking import RerankClient, TextClient, TextOnly
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, RunningServer
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.targets.attach import attach_ready
from pytest_multiitem.targets.ready import ScoredRequest

pytestmark = pytest.mark.real_engine

#: By how much the batch that a document is in may move its score: 1.5e-6 was seen.
ROUNDING = 5e-6
#: Tokens of a pair, special ones included.
LIMIT = 128


@dataclass
class Infinity:
    server: RunningServer
    reference: Reference


def write_bert(model: Path, *, classes: int = 1, limit: int = LIMIT) -> None:
    """A tiny BERT with a head, whose tokens are letters."""
    import torch
    from tokenizers.implementations import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification

    model.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,."
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    BertWordPieceTokenizer({word: number for number, word in enumerate(words)}).save(str(model / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    # Written by hand: each transformers names the class in its own way, and two of them read it.
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": limit,
        "model_input_names": names,
        **special,
    }
    (model / "tokenizer_config.json").write_text(json.dumps(told))
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=limit, num_labels=classes, initializer_range=0.6,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(model)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reference]:
    """With a head of one class, and transformers' own scores of it."""
    import torch
    from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

    model = tmp_path_factory.mktemp("cross-encoder") / "tiny-bert"
    write_bert(model)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    assert tokenizer.unk_token_id not in tokenizer("what can be eaten")["input_ids"]
    head = BertForSequenceClassification.from_pretrained(model).eval()

    def relevance(query: str, text: str) -> float:
        with torch.no_grad():
            # As a list: an empty text by itself is no pair to a tokenizer, and leaves out its separator.
            logit = head(**tokenizer([(query, text)], return_tensors="pt", truncation=True)).logits
        return float(torch.sigmoid(logit.to(torch.float64))[0, 0])

    return model, relevance


@contextmanager
def serving(
    python: Path, model: Path, directory: Path, client: type[TextClient] = RerankClient
) -> Iterator[RunningServer]:
    words = ("v2", "--model-id", str(model), "--engine", "torch", "--device", "cpu", "--no-bettertransformer",
             "--no-model-warmup", "--host", "127.0.0.1", "--port", "{port}")  # fmt: skip
    environment = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    command = (str(python.with_name("infinity_emb")), *words)
    spec = LaunchSpec(label="infinity", command=command, env=environment, startup_timeout=180)
    with ServerPool(directory, owner=True) as pool:
        yield pool.acquire(spec, ScoredRequest((), client=client))


@pytest.fixture(scope="module")
def infinity(
    infinity_python: Path, cross_encoder: tuple[Path, Reference], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Infinity]:
    model, reference = cross_encoder
    with serving(infinity_python, model, tmp_path_factory.mktemp("infinity")) as server:
        yield Infinity(server, reference)


def test_its_scores_are_those_of_transformers_by_their_index(infinity: Infinity) -> None:
    with RerankClient(infinity.server.url) as client:
        check_scores(client, infinity.reference)
        assert client.form == ("/rerank", "documents")


def test_its_order_and_its_copies(infinity: Infinity) -> None:
    with RerankClient(infinity.server.url) as client:
        check_order(client, rounding=ROUNDING)


def test_two_queries_in_flight_do_not_mix(infinity: Infinity) -> None:
    with RerankClient(infinity.server.url) as client:
        check_queries_in_flight(client, rounding=ROUNDING)


def test_it_is_attached_by_its_address_alone(infinity: Infinity) -> None:
    engine = choose_engine("rerank")
    settings = engine.fit(resolve({"multiitem_engine": "rerank", "multiitem_serial_url": infinity.server.url}, {}, {}))
    target = attach_ready("serial", infinity.server.url, settings, engine)
    with target.client, pytest.raises(TextOnly, match="ranks texts"):
        target.score_ids([1], [[2]], [3, 4])


@pytest.mark.parametrize(
    ("engine", "client", "classes", "gate"),
    [("rerank", RerankClient, 1, "rerank_agrees"), ("classify", ClassifyClient, 3, "classification_agrees")],
)
def test_its_own_gate_passes(
    infinity_python: Path, tmp_path: Path, engine: str, client: type[TextClient], classes: int, gate: str
) -> None:
    """With room for the longest text of the gate."""
    model = tmp_path / "tiny-bert"
    write_bert(model, classes=classes, limit=2 * LIMIT)
    with serving(infinity_python, model, tmp_path / "run", client) as server, client(server.url) as asked:
        run = judged_by_its_answers(tmp_path, engine, server.url, gate)
        info = asked.server_info()
    assert run.status == 0 and run.gates[gate]["verdict"] == "PASS", run.output
    assert info is not None and (info["maker"], info["version"]) == ("infinity", "0.0.78")


def test_a_model_that_it_does_not_have_is_scored_all_the_same(infinity: Infinity) -> None:
    """An oddity, as found: whoever mistypes a name gets the scores of another model."""
    body = {"model": "no-such-model", "query": QUERIES[0], "documents": list(DOCUMENTS)}
    with httpx.Client(base_url=infinity.server.url, trust_env=False, timeout=60) as http:
        answer = http.post("/rerank", json=body)
    assert answer.status_code == 200, answer.text
    scores: dict[int, float] = {each["index"]: each["relevance_score"] for each in answer.json()["results"]}
    expected: list[Any] = [infinity.reference(QUERIES[0], text) for text in DOCUMENTS]
    assert np.allclose([scores[at] for at in range(len(DOCUMENTS))], expected, atol=1e-5)


def test_what_is_too_long_is_cut_where_the_tokenizer_has_a_limit(infinity: Infinity) -> None:
    with RerankClient(infinity.server.url) as client:
        check_scores(client, infinity.reference, ("an apple, " * LIMIT, "bread", "a road"))


def test_what_is_too_long_hangs_it_where_the_tokenizer_has_none(
    infinity_python: Path, cross_encoder: tuple[Path, Reference], tmp_path: Path
) -> None:
    """As found: neither that request nor the next one is answered, while /health goes on saying that all is well."""
    model = shutil.copytree(cross_encoder[0], tmp_path / "tiny-bert")
    told = json.loads((model / "tokenizer_config.json").read_bytes())
    del told["model_max_length"]
    (model / "tokenizer_config.json").write_text(json.dumps(told))
    with (
        serving(infinity_python, model, tmp_path / "run") as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http,
    ):
        short = {"query": QUERIES[0], "documents": ["bread"]}
        assert http.post("/rerank", json=short).status_code == 200
        for documents in (["an apple, " * LIMIT], ["bread"]):
            with pytest.raises(httpx.ReadTimeout):
                http.post("/rerank", json={**short, "documents": documents}, timeout=10)
        assert http.get("/health").status_code == 200


def test_the_environment_is_the_pinned_one(infinity_python: Path) -> None:
    question = "import importlib.metadata as m; print(m.version('infinity-emb'), m.version('transformers'))"
    done = subprocess.run([infinity_python, "-I", "-c", question], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.0.78", "4.57.6"]
