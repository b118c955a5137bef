"""``multiitem combine`` in the public scripts' form: their checker and `multiitem check` give the same five answers."""

import json

import msgspec
import pytest
from evaluations import at_constant_speed
from stub_targets import leaking, packed, serial
from test_evaluation import GATES, verdicts

from pytest_multiitem.validation.validate import examine
from runbook_checker import runbooks_answers


@pytest.fixture
def pair(multiitem, evaluated, tmp_path):
    """Evaluate, combine in the public form; gives both contents and what `check` says of them laid together."""

    def run(multi=packed, plain=serial, torch=serial, seconds=0.01):
        _, multi_path, content, _ = evaluated("multi", multi)
        at_constant_speed(multi_path, content, {"multi": seconds})
        _, serial_path, _, _ = evaluated("serial", plain)
        _, torch_path, _, _ = evaluated("serial", torch, name="torch", backend="pytorch")
        paths = [tmp_path / "sub" / name for name in ("multi_vs_serial.json", "parity.json")]
        words = ("--multi-json", multi_path, "--serial-json", serial_path, "--torch-serial", torch_path)
        outputs = ("--output-multi-vs-serial-json", paths[0], "--output-jax-torch-parity-json", paths[1])
        assert multiitem("combine", *words, *outputs)[0] == 0
        for path in paths:
            assert examine(path).problems == []
        assert examine(paths[1]).summary in ("1 FAIL", "1 INCONCLUSIVE")  # of one gate, without what it comes from
        code, out, _ = multiitem("check", *paths)
        return *(json.loads(path.read_bytes()) for path in paths), code, verdicts(out)

    return run


def hidden(query, items, labels):
    """Serial scores of another model, so far away that parity is out of the question."""
    return 1 - serial(query, items, labels)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, []),
        ({"multi": leaking(lambda i, j, n: j < i)}, GATES[:3]),
        ({"seconds": 0.5}, [GATES[3]]),
        ({"torch": hidden}, [GATES[4]]),
        ({"plain": hidden}, [GATES[2], GATES[4]]),
    ],
    ids=["healthy", "leak", "slow", "other torch", "other serial"],
)
def test_the_runbooks_checker_gives_the_same_five_answers(pair, given, wrong):
    multi_vs_serial, parity, code, judged = pair(**given)
    answers = runbooks_answers(multi_vs_serial, parity)
    assert [gate for gate, holds in answers.items() if not holds] == wrong
    different = [gate for gate, (verdict, _) in judged.items() if verdict != ("PASS" if answers[gate] else "FAIL")]
    if "multi" in given:  # that its scores are wrong in timed runs as well, the runbook's file cannot say
        assert different == [GATES[3]] and "wrong_scores" in judged[GATES[3]][1]
    else:
        assert different == []
    assert code == (1 if wrong else 0)


def test_the_public_fields_are_those_of_the_first_request(pair):
    multi_vs_serial, parity, _, _ = pair()
    multi, plain = (multi_vs_serial["sources"][side]["isolation"] for side in ("multi", "serial"))
    equivalence = multi_vs_serial["equivalence"]
    assert equivalence["multi_scores"] == multi["base_scores"] == parity["jax_multi_scores"]
    assert equivalence["serial_scores"] == plain["base_scores"] == parity["jax_serial_scores"]
    assert max(equivalence["abs_diffs_multi_vs_serial"]) == equivalence["max_abs_diff"] > 0
    aligned = multi_vs_serial["equivalence_query_plus_delimiter"]
    assert aligned["serial_query_plus_delimiter_scores"] == parity["torch_multi_semantic_reference_scores"]
    assert set(aligned["abs_diffs_multi_vs_serial_query_plus_delimiter"]) == {0.0}
    assert (parity["query_ids"], parity["item_ids"]) == (multi["query_ids"], multi["item_ids"])
    assert max(parity["abs_diff_jax_serial_vs_torch_serial"]) == parity["max_abs_diff_jax_serial_vs_torch_serial"]
    for side in ("multi", "serial"):
        timed = multi_vs_serial["sources"][side]["performance"]["32"]
        assert multi_vs_serial["performance"]["32"][f"{side}_latencies_sec"] == timed["latencies_sec"]


def test_an_edited_figure_is_a_contradiction_in_either_file(pair, tmp_path, multiitem):
    multi_vs_serial, parity, _, _ = pair()
    paths = [tmp_path / "sub" / name for name in ("multi_vs_serial.json", "parity.json")]
    multi_vs_serial["isolation"]["same_length_mutation_max_abs_diff"] = 0.5
    paths[0].write_bytes(msgspec.json.encode(multi_vs_serial))
    assert verdicts(multiitem("check", *paths)[1])[GATES[0]][0] == "FAIL"
    parity["max_abs_diff_jax_serial_vs_torch_serial"] = 0.01
    paths[1].write_bytes(msgspec.json.encode(parity))
    code, _, err = multiitem("check", *paths)
    assert code == 2 and "differ in max_abs_diff_jax_serial_vs_torch_serial" in err


def test_what_would_be_written_nowhere_or_twice_is_refused(multiitem, evaluated, tmp_path):
    sides = [evaluated(mode, scores)[1] for mode, scores in (("multi", packed), ("serial", serial))]
    words = ("combine", "--multi", sides[0], "--serial", sides[1])
    code, _, err = multiitem(*words)
    assert code == 2 and err.startswith("multiitem: nothing would be written; name a file with --output-json")
    one = tmp_path / "one.json"
    code, _, err = multiitem(*words, "--output-json", one, "--output-multi-vs-serial-json", one)
    assert code == 2 and "are the same file" in err and not one.exists()


def test_parity_without_a_reference_is_with_the_model_that_was_evaluated(multiitem, evaluated, tmp_path, monkeypatch):
    """As the public script does; the name need not be a checkpoint here."""
    from pytest_multiitem.evaluation import reference

    sides = [evaluated(mode, scores)[1] for mode, scores in (("multi", packed), ("serial", serial))]
    words = ("combine", "--multi-json", sides[0], "--serial-json", sides[1], "--output-multi-vs-serial-json")
    parity = ("--output-jax-torch-parity-json", tmp_path / "parity.json")
    code, _, err = multiitem(*words, tmp_path / "m.json", *parity)
    assert code == 2 and "--reference tiny: " in err and not (tmp_path / "m.json").exists()
    asked = []
    monkeypatch.setattr(
        reference, "from_transformers", lambda model, side: asked.append(model) or reference.from_evaluation(torch)
    )
    from pytest_multiitem.evaluation.consistency import open_side

    torch = open_side(evaluated("serial", serial, name="torch", backend="pytorch")[1], "serial")
    assert multiitem(*words, tmp_path / "m.json", *parity)[0] == 0
    assert multiitem(*words, tmp_path / "m.json", *parity, "--torch-model", "other")[0] == 0
    assert asked == ["tiny", "other"]
    assert multiitem(*words, tmp_path / "m.json")[0] == 0 and asked == ["tiny", "other"]  # nothing asks for parity
