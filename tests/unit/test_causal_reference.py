"""Causal attention of the embedded engine, by the semantics probe: with positions that grow, and that restart."""

import numpy as np
import pytest
from engine_cases import DELIMITER, LABELS, tokens
from stub_targets import StubClient, StubSubject, baseline

from pytest_multiitem.adapters.base import Profile, choose_engine
from pytest_multiitem.engine import causal_reference
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import MaskImpl, Scorer, ScorerConfig
from pytest_multiitem.faults.active import ActiveFaults
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.gates.semantics import AS_DECLARED, measure
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.targets.target import Target

FIRST, QUERY = Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX


@pytest.fixture(scope="module")
def backend(checkpoint):
    pytest.importorskip("torch")
    return load_backend("pytorch", checkpoint, dtype="float32", device="cpu")


class SglJaxOnACpu(StubClient):
    """What an attached sgl-jax server on a CPU says of itself, whether its attention masks or not."""

    def server_info(self):
        return {"model_path": self.model, "device": "cpu", "attention_backend": "fa", "multi_item_mask_impl": "segment",
                "multi_item_scoring_delimiter": DELIMITER}  # fmt: skip


def probe(backend, checkpoint, *faults, semantics=FIRST, chunk=0, model="the checkpoint"):
    """The probe on the embedded engine behind the words of sgl-jax."""
    config = {"delimiter": DELIMITER, "mask_impl": MaskImpl.DENSE, "semantics": semantics}
    engine = Scorer(backend, ScorerConfig(chunk_size=chunk, **config), ActiveFaults.parse(faults).mutate).steps
    plain = Scorer(backend, ScorerConfig())

    def scores(which):
        return lambda query, items, labels: which.score(list(query), list(map(list, items)), labels, True).scores

    client = SglJaxOnACpu(scores(engine), None, str(checkpoint) if model == "the checkpoint" else model)
    target = Target(
        Profile("multi", "jax", "segment", chunk, semantics), "sgl-jax", client, None, choose_engine("sgl-jax"),
        delimiter=DELIMITER,
    )  # fmt: skip
    rng = np.random.default_rng(5)
    query, *items = (tuple(tokens(rng, n)) for n in (20, 3, 9, 1, 12, 7, 5))
    case = Case("case", query, tuple(items), LABELS[:2], tuple(range(DELIMITER)))
    return record_of(AS_DECLARED, measure(StubSubject([case], multi=target, serial=baseline(scores(plain)))))


@pytest.mark.parametrize("semantics", [FIRST, QUERY])
def test_a_healthy_engine_on_a_cpu_passes_by_its_scores_alone(backend, checkpoint, semantics, monkeypatch):
    monkeypatch.setattr(causal_reference.subprocess, "run", None)  # no model is loaded for it
    record = probe(backend, checkpoint, semantics=semantics)
    assert (record.verdict, record.mask_attested) == (Verdict.PASS, "unattested"), record.reason
    assert set(record.details.distances) == {FIRST, QUERY, "causal"} and not record.details.not_compared


@pytest.mark.parametrize(
    ("semantics", "chunk"),
    [(FIRST, 0), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((FIRST, 2), (QUERY, 0)))],
)
@pytest.mark.parametrize("name", ["causal", "causal_restarting"])
def test_causal_attention_fails_by_the_name_of_its_positions(backend, checkpoint, name, semantics, chunk):
    record = probe(backend, checkpoint, name, semantics=semantics, chunk=chunk)
    assert (record.verdict, record.mask_attested) == (Verdict.FAIL, "unattested")
    assert f"its scores are those of {name}: " in record.reason, record.reason
    assert record.details.nearest == name and record.details.distances[name] < 1e-5


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("/no/such/checkpoint", "no checkpoint '/no/such/checkpoint' lies on this machine"),
        ("nobody/no-such-model", "nobody/no-such-model"),
    ],
)
def test_without_its_weights_restarting_positions_are_not_named(backend, checkpoint, model, words):
    record = probe(backend, checkpoint, "causal_restarting", model=model)
    assert record.verdict is Verdict.FAIL and "of no other semantics either" in record.reason
    assert words in record.details.not_compared["causal_restarting"]
