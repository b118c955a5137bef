"""The gates of modes on the embedded engine: each passes, and each fault of a mode is seen by its gate."""

from types import SimpleNamespace

import pytest
import tokenizers
from mode_servers import DELIMITER, Servers, service
from sockets import listening

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.checkpoint import CheckpointSpec, write_checkpoint
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.tokenizer import load_tokenizer
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.faults.catalogue import fault
from pytest_multiitem.gates.judge import ROUNDING
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.targets.attach import attach_ready
from pytest_multiitem.targets.modes import require_ids
from pytest_multiitem.targets.target import Target

PACKAGES = {"pytorch": "torch", "jax": "jax"}
SLOW = pytest.mark.slow
SEMANTICS = [
    pytest.param(each, marks=() if each is ScorerConfig(delimiter=DELIMITER).semantics else SLOW)
    for each in Semantics if each.has_serial_reference
]  # fmt: skip
#: The second engine is slow here. That healthy servers of it pass is in `tests/regression` too, which is fast, and what
#: its heads answer in `test_modes.py`.
ENGINES = ["pytorch", pytest.param("jax", marks=SLOW)]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip
CAUSAL = ("labels_per_item_agree", "setwise_agrees", "rerank_agrees", "decisions_agree", "label_mass_not_zero",
          "temperature_isolates", "text_agrees")  # fmt: skip
#: What the reason names of a fault that the checks of isolation see, and at full strength others before them.
ISOLATION = ""
#: By the gate that must see it: each fault, and what the reason names.
FAULTS = {
    "label_lists_ignored": ("labels_per_item_agree", "one request for each list"),
    "set_shifted": ("setwise_agrees", "readouts in their order"),
    "set_sees_before": ("setwise_agrees", "readouts in their order"),
    "set_temperature_ignored": ("setwise_agrees", "at temperature 2"),
    "set_logprobs_empty": ("setwise_agrees", "token_logprobs is 0 rows"),
    "ranking_unsorted": ("rerank_agrees", "the order is that of the scores"),
    "ranking_index": ("rerank_agrees", "the rendered prompt by ids"),
    "ranking_twice_squashed": ("rerank_agrees", "the rendered prompt by ids"),
    "ranking_top_ignored": ("rerank_agrees", "the best two"),
    "ranking_drops_empty": ("rerank_agrees", "an empty document"),
    "rankings_coalesced": ("rerank_agrees", "two queries at the same time"),
    "decision_labels": ("decisions_agree", "probabilities by ids"),
    "decision_mass": ("decisions_agree", "label mass"),
    "label_lists_see_before": ("labels_per_item_agree", ISOLATION),
    "ranking_sees_before": ("rerank_agrees", ISOLATION),
    "ranking_drifts": ("rerank_agrees", ISOLATION),
    "ranking_cold": ("rerank_agrees", ISOLATION),
    "decision_sees_before": ("decisions_agree", ISOLATION),
    "temperature_sees_before": ("temperature_isolates", ISOLATION),
    "text_sees_before": ("text_agrees", ISOLATION),
    "text_mass_zero": ("label_mass_not_zero", "text"),
    "label_mass_zero": ("label_mass_not_zero", "next to none of the vocabulary's probability"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("modes") / "causal"
    write_checkpoint(path, CheckpointSpec(**SIZES))
    return path


@pytest.fixture(scope="module", params=ENGINES)
def servers(request, directory):
    pytest.importorskip(PACKAGES[request.param])
    backend = load_backend(request.param, directory, dtype="float32", device="cpu")
    return Servers(backend, directory, load_tokenizer(directory))


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("name", CAUSAL)
def test_a_healthy_server_passes(servers, name, semantics):
    record = servers.judged(gates()[name], semantics=semantics)
    assert record.verdict is Verdict.PASS, (record.reason, record.details)
    assert set(record.details.not_made) <= {"known answers"}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_seen_by_its_gate(servers, name):
    killer, words = FAULTS[name]
    record = servers.judged(gates()[killer], name)
    assert record.verdict is Verdict.FAIL and words in record.reason, record.reason


#: A fault at its smallest strength, and the one check that must see it there.
SMALLEST = {
    "label_lists_see_before": ("labels_per_item_agree", "the content of one item"),
    "set_sees_before": ("setwise_agrees", "the content of one item"),
    "ranking_sees_before": ("rerank_agrees", "the content of one item"),
    "ranking_drifts": ("rerank_agrees", "the length of one item"),
    "ranking_cold": ("rerank_agrees", "cold and warm caches"),
    "decision_sees_before": ("decisions_agree", "the content of one item"),
    "temperature_sees_before": ("temperature_isolates", "the content of one item"),
    "text_sees_before": ("text_agrees", "the content of one item"),
    "label_mass_zero": ("label_mass_not_zero", "next to none"),
    "text_mass_zero": ("label_mass_not_zero", "text"),
}


@pytest.mark.parametrize("name", SMALLEST)
def test_each_fault_is_seen_at_its_smallest_strength(servers, name):
    killer, words = SMALLEST[name]
    record = servers.judged(gates()[killer], f"{name}={min(fault(name).strengths)}")
    assert record.verdict is Verdict.FAIL and words in record.reason, record.reason


@pytest.mark.parametrize("name", [name for name in CAUSAL if name != "label_mass_not_zero"])
def test_rounding_by_shape_is_no_leak(servers, name):
    record = servers.judged(gates()[name], variations=["shape_noise"])
    rounds = record.verdict is Verdict.INCONCLUSIVE and ROUNDING in record.reason
    assert record.verdict is Verdict.PASS or rounds, record.reason


def test_without_the_tokenizer_no_set_is_sent(servers, monkeypatch):
    monkeypatch.setattr(Target, "encode", None)
    record = servers.judged(gates()["setwise_agrees"])
    assert record.verdict is Verdict.INCONCLUSIVE and "tokenizer.json does not lie" in record.reason, record.reason


def test_a_damaged_tokenizer_is_an_error_that_names_the_file(servers, monkeypatch, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    monkeypatch.setattr(Target, "model", str(tmp_path))
    record = servers.judged(gates()["setwise_agrees"])
    assert record.verdict is Verdict.ERROR and f"{tmp_path}/tokenizer.json cannot be read" in record.reason


def test_a_tokenizer_is_read_at_most_once_a_server(servers, monkeypatch):
    read = []
    from_file = tokenizers.Tokenizer.from_file
    counted = SimpleNamespace(from_file=lambda path: read.append(path) or from_file(path))
    monkeypatch.setattr(tokenizers, "Tokenizer", counted)
    record = servers.judged(gates()["text_agrees"])
    assert record.verdict is Verdict.PASS and 1 <= len(read) <= 2, (record.reason, read)


def test_the_label_mass_of_every_causal_mode_is_reported(servers):
    held = servers.judged(gates()["label_mass_not_zero"]).details.held
    modes = {"ids", "text", "labels_per_item", "temperature", "setwise", "rerank", "decisions"}
    assert set(held) == modes and all(float(mass) > 0 for mass in held.values()), held


def test_a_special_token_on_every_text_is_named(servers):
    record = servers.judged(gates()["text_agrees"], "text_special_token")
    assert record.verdict is Verdict.FAIL and "<|im_start|>" in record.reason, record.reason
    assert "stands before every item" in record.reason


@SLOW
@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_is_seen_by_a_gate_of_another_mode(servers, name):
    for other in CAUSAL:
        if other != FAULTS[name][0]:
            record = servers.judged(gates()[other], name)
            assert record.verdict is Verdict.PASS, (other, record.reason)


# -- a classification head -----------------------------------------------------------------------

CLASSES = ("classification_agrees", "setwise_classification_agrees")
CLASS_FAULTS = {
    "classes_shifted": ("classification_agrees", "against the serial server"),
    "classes_see_before": ("classification_agrees", "against the serial server"),
    "pooled_shifted": ("classification_agrees", "pooled hidden states"),
    "class_temperature_ignored": ("setwise_classification_agrees", "at temperature 2"),
    "set_shifted": ("setwise_classification_agrees", "readouts in their order"),
    "set_sees_before": ("setwise_classification_agrees", "readouts in their order"),
}


@pytest.fixture(scope="module", params=ENGINES)
def heads(request, tmp_path_factory):
    """Servers of a model with three classes."""
    pytest.importorskip(PACKAGES[request.param])
    path = tmp_path_factory.mktemp("modes") / "classes"
    write_checkpoint(path, CheckpointSpec(**SIZES, num_labels=3))
    backend = load_backend(request.param, path, dtype="float32", device="cpu")
    return Servers(backend, path, load_tokenizer(path))


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("name", CLASSES)
def test_a_healthy_head_passes(heads, name, semantics):
    record = heads.judged(gates()[name], semantics=semantics)
    assert record.verdict is Verdict.PASS and not record.details.not_made, (record.reason, record.details)


@pytest.mark.parametrize("name", CLASS_FAULTS)
def test_each_fault_of_a_head_is_seen_by_its_gate_and_not_by_the_other(heads, name):
    killer, words = CLASS_FAULTS[name]
    for gate in CLASSES:
        record = heads.judged(gates()[gate], name)
        assert record.verdict is (Verdict.FAIL if gate == killer else Verdict.PASS), (gate, record.reason)
        assert gate != killer or words in record.reason


@pytest.mark.parametrize("name", ["classes_see_before", "set_sees_before"])
def test_each_fault_of_a_head_is_seen_at_its_smallest_strength(heads, name):
    killer, _ = CLASS_FAULTS[name]
    record = heads.judged(gates()[killer], f"{name}={min(fault(name).strengths)}")
    assert record.verdict is Verdict.FAIL and "the content of one item" in record.reason, record.reason


def test_a_head_is_attached_whose_classes_are_not_as_many_as_the_labels(heads):
    """And gates that ask for labels are not run on it; it is no server that answers wrongly."""
    app = create_app(service(heads.backend, heads.directory, heads.words, ScorerConfig(delimiter=DELIMITER), None))
    with listening(app) as url:
        target = attach_ready("multi", url, resolve({"multiitem_multi_url": url}, {}, {}), None)
        with target.client, pytest.raises(EngineUnavailable, match="has no labels: its model has a classification"):
            require_ids(target)


# -- a head of one class, which ranks --------------------------------------------------------------


@pytest.fixture(scope="module", params=ENGINES)
def one_class(request, tmp_path_factory):
    """Servers of a model with one class, whose logit is the relevance."""
    pytest.importorskip(PACKAGES[request.param])
    path = tmp_path_factory.mktemp("modes") / "one-class"
    write_checkpoint(path, CheckpointSpec(**SIZES, num_labels=1))
    backend = load_backend(request.param, path, dtype="float32", device="cpu")
    return Servers(backend, path, load_tokenizer(path))


def test_a_healthy_head_of_one_class_ranks(one_class):
    record = one_class.judged(gates()["rerank_agrees"])
    assert record.verdict is Verdict.PASS, record.reason
    assert set(record.details.not_made) == {"known answers"} and "the sigmoid of" in str(record.details.held)


@pytest.mark.parametrize("name", ["ranking_twice_squashed", "ranking_index", "classes_see_before=1e-3"])
def test_what_is_wrong_with_its_rankings_is_seen(one_class, name):
    record = one_class.judged(gates()["rerank_agrees"], name)
    assert record.verdict is Verdict.FAIL, record.reason


def test_a_head_has_no_label_mass(one_class):
    record = one_class.judged(gates()["label_mass_not_zero"])
    assert record.verdict is Verdict.NOT_RUN and "has no labels" in record.reason


def test_without_a_head_anywhere_its_gates_are_not_run(servers):
    for gate in CLASSES:
        record = servers.judged(gates()[gate])
        assert record.verdict is Verdict.NOT_RUN and "classification head" in record.reason


# -- what there is not --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CAUSAL if name.startswith(("set", "rerank", "decisions", "text"))])
def test_what_a_server_does_not_speak_is_not_run(servers, name):
    """A server without a tokenizer takes no text."""
    record = servers.judged(gates()[name], words=False)
    assert record.verdict is Verdict.NOT_RUN and "does not speak mode" in record.reason
