"""Launch variants: their file, what is laid over a launch profile, and whether a server runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_multiitem.adapters.attestation import not_applied, untold
from pytest_multiitem.adapters.base import Profile, choose_engine
from pytest_multiitem.adapters.launched import LaunchedEngine
from pytest_multiitem.adapters.profiles import LaunchProfile, Layer
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.groups import GROUPS, group_of
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.settings.parsers import variants_file
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.validation.validate import examine
from pytest_multiitem.variants.file import read_variants
from pytest_multiitem.variants.measuring import described
from pytest_multiitem.variants.plan import cells, plan, servers_of

ONE = '[[variants]]\nname = "a"\n'
EMBEDDED = choose_engine("embedded")


def file_of(path: Path, text: str):
    (path / "variants.toml").write_text(text)
    return read_variants(path / "variants.toml")


@pytest.mark.parametrize("name", ["embedded", "sglang", "vllm"])
def test_the_files_that_ship_can_be_planned(name: str) -> None:
    file = read_variants(variants_file(name))
    planned = plan(file, resolve({}, {}, {}))
    assert len(planned) >= 8 and {each.engine.name for each in planned} == {name}
    for each in planned:
        assert (each.reason is None) == (name == "embedded"), each.reason
        assert cells(each, file)


def test_a_name_that_neither_ships_nor_exists_is_refused() -> None:
    with pytest.raises(ValueError, match="the name of one that ships: embedded, sglang, vllm"):
        variants_file("tensorrt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("variants = []", "variants is empty; expected at least one"),
        ("[[variants]]", r"missing required field `name` \(at `variants\[0\]`\)"),
        (f'{ONE}flag = {{ a = 1 }}', "unknown field `flag`"),
        (f"{ONE}{ONE}", "'a' is too like 'a'; name each its own way"),
        ('[[variants]]\nname = "--"', "has no letter and no digit"),
        (f'{ONE}flags = {{ --tp-size = 2 }}', r"variants\[0\].flags: '--tp-size' has leading dashes; write tp-size"),
        (f'{ONE}flags = {{ dtype = "{{dtype}}" }}', r"flags.dtype: '\{dtype\}' is for launch profiles; write"),
        (f'{ONE}serial = {{ flags = {{ port = 1 }} }}', r"variants\[0\].serial.flags: 'port' is the run's own to give"),
        (f'{ONE}settings = {{ dtyp = "x" }}', r"no setting is called 'dtyp' \(did you mean 'dtype'\?\)"),
        (f'{ONE}settings = {{ dtype = "int8" }}', "settings.dtype: 'int8' is not valid: expected one of float32"),
        (f'{ONE}settings = {{ require = "all" }}', "require is no setting of a variant; give it for the whole run"),
        (f'{ONE}settings = {{ tpu_chips = "v6e" }}', "tpu_chips is no setting of a variant"),
        (f'{ONE}settings = {{ gpu_chips = "sm_90" }}', "gpu_chips is no setting of a variant"),
        (f'settings = {{ engine = "sglang" }}\n{ONE}', "write it beside the name of each variant, engine = …, or give"),
        (f'{ONE}engine = "sglan"', r"no engine is called 'sglan'; .*did you mean 'sglang'"),
        (f'gates = ["fault_is_killed"]\n{ONE}', r"gates\[0\]: 'fault_is_killed' is no gate that is measured"),
        ("gates = [", "not valid TOML"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        file_of(tmp_path, text)


def test_the_file_of_the_guide_can_be_used(tmp_path: Path) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs/guides/profile-matrix.md").read_text()
    written = guide.partition("```toml\n")[2].partition("```")[0]
    assert [each.name for each in file_of(tmp_path, written).variants] == [
        "as shipped", "chunked prefill", "two GPUs, bf16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'{ONE}engine = "rerank"', "engine rerank is not started from launch profiles"),
        (f'{ONE}profile = "embedded-mult"', r"no launch profile is called 'embedded-mult' \(did you mean"),
    ],
)
def test_a_plan_that_cannot_be_made_says_which_variant(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"variant 'a': {words}"):
        plan(file_of(tmp_path, text), resolve({}, {}, {}))


def test_a_profile_of_another_engine_is_that_variants_reason(tmp_path: Path) -> None:
    (planned,) = plan(file_of(tmp_path, f'{ONE}profile = "sglang-multi"'), resolve({}, {}, {}))
    assert planned.reason is not None and "starts sglang as multi" in planned.reason


def test_a_variant_changes_its_own_server_alone(tmp_path: Path) -> None:
    text = f'{ONE}flags = {{ max-multi-item-count = 7, attention-backend = false }}\nenv = {{ A = "1" }}\n'
    (planned,) = plan(file_of(tmp_path, f"{text}serial = {{ env = {{ B = '2' }} }}"), resolve({}, {}, {}))
    multi = planned.engine.launch(Profile("multi", "pytorch", "dense", 0), planned.settings)
    serial = planned.engine.launch(Profile("serial", "pytorch"), planned.settings)
    assert multi.command[multi.command.index("--max-multi-item-count") + 1] == "7"
    assert "--attention-backend" not in multi.command and "--max-multi-item-count" not in serial.command
    assert (multi.env.get("A"), multi.env.get("B")) == ("1", None)
    assert (serial.env.get("A"), serial.env.get("B")) == (None, "2")
    assert EMBEDDED.layers is None, "the adapter itself stays as it is"
    assert planned.wanted == {"max_multi_item_count": 7, "attention_backend": False}


def test_a_flag_whose_value_is_json_goes_through_as_it_is(tmp_path: Path) -> None:
    config = '{"method": "ngram", "num_speculative_tokens": 4}'
    (planned,) = plan(file_of(tmp_path, f"{ONE}flags = {{ speculative-config = '{config}' }}"), resolve({}, {}, {}))
    command = planned.engine.launch(Profile("multi", "pytorch", "dense", 0), planned.settings).command
    assert command[command.index("--speculative-config") + 1] == config
    assert described(planned).flags[0] == "--speculative-config"


def test_a_layer_lies_over_every_alternative_too() -> None:
    profile = LaunchProfile(
        name="p", engine="e", role="multi", port=1, one_of=({"enable-mis": True, "radix": False}, {"delimiter": 1})
    )
    both = profile.insisting(Layer(flags={"radix": True})).alternatives()
    assert both == [{"radix": True, "enable-mis": True}, {"radix": True, "delimiter": 1}]


def test_cells_are_measured_once_each(tmp_path: Path) -> None:
    (planned,) = plan(file_of(tmp_path, ONE), resolve({}, {}, {}))
    file = file_of(tmp_path, ONE)
    of = cells(planned, file)
    labels: dict[str, list[str]] = {}
    for cell in of:
        labels.setdefault(cell.gate.name, []).append(cell.label)
    four = ["a-pytorch-dense", "a-pytorch-segment", "a-jax-dense", "a-jax-segment"]
    assert labels["same_length_isolation_zero"] == four
    assert labels["negative_control_fails"] == ["a-pytorch", "a-jax"]
    assert labels["cross_backend_max_abs_le_0p02"] == ["a-jax-dense", "a-jax-segment"]
    assert labels["segment_vs_dense_le_1e_4"] == ["a-pytorch", "a-jax"]
    assert {name for name, gate in gates().items() if gate.measure and gate.asked_by is None} == labels.keys()
    assert of[-1].gate.timing and not of[0].gate.timing
    roles = [profile.role for profile in servers_of(planned, of)]
    assert (roles.count("multi"), roles.count("serial"), roles.count("extend")) == (4, 2, 2)


@pytest.mark.parametrize(
    ("told", "wanted", "wrong"),
    [
        ({"tp_size": 2}, {"tp_size": 2}, []),
        ({"tp_size": "2"}, {"tp_size": 2}, []),
        ({"dtype": "torch.bfloat16"}, {"dtype": "bfloat16"}, []),
        ({"fraction": 0.30}, {"fraction": 0.3}, []),
        ({"paddings": [64, 256]}, {"paddings": [64, 256]}, []),
        ({"radix": True}, {"radix": False}, ["radix should be False, but the server says True"]),
        ({"tp_size": 1}, {"tp_size": 2}, ["tp_size should be 2, but the server says 1"]),
        ({"paddings": [64]}, {"paddings": [64, 256]}, ["paddings should be [64, 256], but the server says [64]"]),
        # Left out, it has the engine's own default; a structure is told in a form of its own; silence is no word.
        ({"chunked": 8192}, {"chunked": False}, []),
        ({"config": {"method": "ngram"}}, {"config": "{}"}, []),
        ({"config": None}, {"config": "x"}, []),
    ],
)
def test_what_a_server_says_is_held_against_what_was_asked(told, wanted, wrong) -> None:
    assert not_applied(told, wanted) == wrong


def test_what_a_server_does_not_say_is_named() -> None:
    told = {"a": 1, "b": None, "c": {"x": 1}, "d": 5}
    assert untold(told, {"a": 1, "b": 1, "c": "x", "d": False, "e": 1}) == ["b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("usage: x\nmultiitem serve: error: unrecognized arguments: --x", "unrecognized arguments: --x"),
        ("launch_server.py: error: argument --tp: invalid int value: 'a'", "argument --tp: invalid int value: 'a'"),
        ("  File x\nAssertionError: no radix cache here", "AssertionError: no radix cache here"),
        ("[2026-11-30] ValueError: a\n[TP0] ValueError: b", "ValueError: b"),
        ("1 validation error for VllmConfig\n  Value error, no LoRA [type=value_error, input=1]", "no LoRA"),
        ("ImportError: bitsandbytes is needed", "ImportError: bitsandbytes is needed"),
        ("RuntimeError: CUDA error: device-side assert triggered", None),
        ("ValueError: Loaded weights leave no GPU memory for the cache", None),
        ("torch.OutOfMemoryError: CUDA out of memory", None),
        ("Segmentation fault", None),
    ],
)
def test_a_refusal_is_told_from_a_crash(log: str, words: str | None) -> None:
    assert isinstance(EMBEDDED, LaunchedEngine)
    assert EMBEDDED.varied({}).refusal(log) == words
    assert EMBEDDED.refusal(log) is None, "an engine that nobody varies has refused nothing"


def test_groups_name_gates_that_exist_and_each_once() -> None:
    named = [name for members in GROUPS.values() for name in members]
    assert len(named) == len(set(named)) and set(named) <= set(gates())
    assert group_of("rerank_agrees") == "modes" and group_of("of_a_project") == "other"


def test_verdicts_on_variants_that_a_run_does_not_have_are_no_run(tmp_path: Path) -> None:
    same = "same_length_isolation_zero"
    gate = {"gate": same, "verdict": "NOT_RUN", "reason": "r", "relation": "==", "limit": 0.0, "nodeid": "n"}
    matrix = {
        "schema_version": "multiitem_matrix_v1", "run_id": "r", "started_at_utc": "2026-11-30T00:00:00+00:00",
        "finished_at_utc": "2026-11-30T00:00:01+00:00", "complete": True, "interrupted_by": None, "exit_status": 5,
        "command_line": [], "machine": {}, "versions": {}, "settings": [], "servers": [], "benchmarks": [],
        "tests": [{"nodeid": "n", "outcome": "skipped", "gate": same, "verdict": "NOT_RUN", "reason": "r"}],
        "summary": {"NOT_RUN": 1},
        "gates": [{**gate, "place": {"label": "a", "variant": "a"}}],
        "variants": [{"name": "a", "engine": "embedded", "reason": "not here"}],
    }  # fmt: skip

    def problems(**changed: object) -> list[str]:
        path = tmp_path / "matrix.json"
        path.write_text(json.dumps({**matrix, **changed}))
        return examine(path).problems

    assert problems() == []
    (wrong,) = problems(variants=[])
    assert "on the variant 'a', which the run does not have" in wrong
    failed = {**gate, "verdict": "FAIL", "value": 1.0, "place": {"label": "a", "variant": "a"}}
    assert any("its variant was not measured: not here" in line for line in problems(gates=[failed]))
