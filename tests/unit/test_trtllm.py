"""TensorRT-LLM: what the bridge makes of a request, how it refuses and stops, and what the adapter says where it cannot
run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pytest_multiitem.adapters.base import Profile, choose_engine
from pytest_multiitem.adapters.trtllm import _BRIDGE
from pytest_multiitem.bridges.trtllm import Refused, alone, packed, parse
from pytest_multiitem.settings.resolve import resolve
from trtllm_environment import environment, model

torch = pytest.importorskip("torch")

QUERY, ITEMS, LABELS, D = [7, 8, 9], [[21, 22], [23], [24, 25, 26]], [11, 12], 1000
MULTI, SERIAL = Profile("multi", "pytorch", "flashinfer", 0), Profile("serial", "pytorch")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("trtllm"))


def launched(python: Path, directory: Path, *flags: str, fault: str = "") -> tuple[subprocess.Popen[str], str]:
    command = [str(python), str(_BRIDGE), "--model-path", str(model(directory)), "--port", "0", *flags]
    env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": "", "FAKE_TRTLLM": fault, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if " on http://" in line:
            return process, line.split()[-1]
    raise AssertionError("".join(said))


@pytest.fixture(scope="module")
def server(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A packed server of the stand-in."""
    directory = tmp_path_factory.mktemp("model")
    process, url = launched(python, directory, "--multi-item-scoring-delimiter", str(D),
                            "--max-multi-item-seq-len", "200", "--max-multi-item-count", "20")  # fmt: skip
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client
    process.terminate()
    process.wait(timeout=30)


def body(**changed: object) -> dict[str, object]:
    return {"query": QUERY, "items": ITEMS, "label_token_ids": LABELS, "model": "m", **changed}


def expected(query: list[int], item: list[int], *, softmax: bool) -> list[float]:
    """The scores of one item by the stand-in's model, in this process."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "fake_trtllm"))
    try:
        import tensorrt_llm
    finally:
        sys.path.pop(0)
    llm = tensorrt_llm.LLM(model="m", dtype="auto", tensor_parallel_size=1, attn_backend="FLASHINFER", encode_only=True,
                           max_num_tokens=999, max_seq_len=999, max_batch_size=1)  # fmt: skip
    prompt = {"prompt_token_ids": [*query, *item]}
    (output,) = llm.encode([prompt], batch_indexed_model_output=False, copy_logits_to_host=True)
    logits = output.logits[-1].double()
    shares = logits[LABELS].softmax(0) if softmax else logits.softmax(0)[LABELS]
    return shares.tolist()


def test_a_packed_prompt_has_a_delimiter_behind_every_part() -> None:
    prompt = packed(QUERY, ITEMS, D)
    assert prompt.ids == [7, 8, 9, D, 21, 22, D, 23, D, 24, 25, 26, D]
    assert prompt.part_lens == [3, 2, 1, 3] and sum(prompt.part_lens) + len(prompt.part_lens) == len(prompt.ids)
    assert [prompt.ids[at] for at in prompt.readouts] == [22, 23, 26], "each item's last token"
    assert prompt.inputs() == {"prompt_token_ids": prompt.ids, "multi_item_part_lens": prompt.part_lens}
    single = alone(QUERY, [21, 22])
    assert (single.ids, single.readouts, single.inputs()) == ([7, 8, 9, 21, 22], [4], {"prompt_token_ids": single.ids})


@pytest.mark.parametrize(
    ("changed", "code", "param"),
    [
        ({"query": []}, "invalid_type", "query"),
        ({"query": "text"}, "invalid_type", "query"),
        ({"query": [1.5]}, "invalid_type", "query"),
        ({"query": [True]}, "invalid_type", "query"),
        ({"items": []}, "invalid_type", "items"),
        ({"items": [[1], []]}, "invalid_type", "items[1]"),
        ({"items": [[1], [2, -1]]}, "token_out_of_range", "items[1][1]"),
        ({"items": [[1024]]}, "token_out_of_range", "items[0][0]"),
        ({"items": [[1]] * 21}, "too_many_items", "items"),
        ({"label_token_ids": None}, "invalid_type", "label_token_ids"),
        ({"label_token_ids": [[1], [2], [3]]}, "invalid_type", "label_token_ids"),
        ({"apply_softmax": "yes"}, "invalid_type", "apply_softmax"),
        ({"item_first": True}, "unsupported", "item_first"),
        ({"temperature": 2.0}, "unsupported", "temperature"),
        ({"score_extraction_token": "x"}, "unsupported", "score_extraction_token"),
    ],
)
def test_what_the_bridge_cannot_score_is_refused_by_its_field(changed: dict, code: str, param: str) -> None:
    with pytest.raises(Refused) as raised:
        parse(json.dumps(body(**changed)).encode(), 1024, 20)
    assert (raised.value.status, raised.value.code, raised.value.param) == (400, code, param)


@pytest.mark.parametrize("softmax", [False, True])
def test_packed_scores_are_those_of_the_item_alone_behind_the_query(server: httpx.Client, softmax: bool) -> None:
    answer = server.post("/v1/score", json=body(apply_softmax=softmax))
    assert answer.status_code == 200, answer.text
    got = answer.json()
    for row, item in zip(got["scores"], ITEMS, strict=True):
        assert row == pytest.approx(expected(QUERY, item, softmax=softmax), abs=1e-7)
    assert got["object"] == "scoring" and got["usage"]["prompt_tokens"] == 9
    assert server.post("/v1/score", json=body(label_token_ids=[12, 11], apply_softmax=softmax)).json()["scores"] == [
        row[::-1] for row in got["scores"]
    ]


def test_the_bridge_tells_its_arguments_and_what_it_has_run(server: httpx.Client) -> None:
    before = server.get("/get_server_info").json()
    server.post("/v1/score", json=body())
    after = server.get("/get_server_info").json()
    assert after["executed"]["packed_items"]["flashinfer"] == before["executed"]["packed_items"]["flashinfer"] + 3
    assert (
        after["executed"]["packed_sequences"]["flashinfer"] == before["executed"]["packed_sequences"]["flashinfer"] + 1
    )
    told = [after[name] for name in ("multi_item_scoring_delimiter", "attention_backend", "version", "vocab_size")]
    assert told == [D, "FLASHINFER", "1.4.0", 1024]
    assert server.get("/health").status_code == 200 and server.get("/nothing").status_code == 404


def test_errors_are_json_and_the_server_stays(server: httpx.Client) -> None:
    for content, status, code in (
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (json.dumps(body(items=[[5] * 300])).encode(), 400, "engine_refused"),
    ):
        answer = server.post("/v1/score", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "exceeds max_num_tokens (200)" in answer.json()["error"]["message"], "in the engine's own words"
    assert server.post("/v1/score", json=body()).status_code == 200


def test_a_crash_of_the_engine_is_500_without_its_inside_and_a_signal_ends_it_cleanly(
    python: Path, tmp_path: Path
) -> None:
    process, url = launched(python, tmp_path / "m", "--multi-item-scoring-delimiter", str(D), fault="crash")
    answer = httpx.post(f"{url}/v1/score", json=body(), timeout=60)
    assert answer.status_code == 500 and "secret" not in answer.text
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and said.rstrip().endswith("engine shut down") and "illegal memory access" in said


def settings(python: Path | str, **more: str):
    given = {"multiitem_engine": "trtllm", "multiitem_engine_python": str(python), "multiitem_model": "/m", **more}
    return choose_engine("trtllm").fit(resolve(given, {}, {}))


def test_the_adapter_starts_the_bridge_with_the_engines_python(python: Path) -> None:
    engine, chosen = choose_engine("trtllm"), settings(python, multiitem_device="cuda")
    assert engine.unavailable(MULTI, chosen) is None and engine.version(chosen) == "1.4.0"
    command = engine.launch(MULTI, chosen).command
    assert command[:2] == (str(python), str(_BRIDGE))
    assert "--multi-item-scoring-delimiter" in command
    assert "--multi-item-scoring-delimiter" not in engine.launch(SERIAL, chosen).command
    assert (chosen.semantics, chosen.mask_impl, chosen.dtype) == ("query_prefix", ("flashinfer",), "bfloat16")


def test_where_it_cannot_run_the_reason_and_the_command_are_told(python: Path) -> None:
    engine = choose_engine("trtllm")
    reason = engine.unavailable(MULTI, settings(python, multiitem_device="cpu"))
    assert reason == (
        "TensorRT-LLM needs a CUDA GPU, and the device is cpu; on a machine with one: pytest --engine trtllm "
        f"--engine-python {python} --model /m"
    )
    here = settings(sys.executable, multiitem_device="cuda")
    assert "tensorrt_llm is not installed in" in str(engine.unavailable(MULTI, here))


def test_a_version_that_does_not_pack_scores_serially_only(monkeypatch: pytest.MonkeyPatch, python: Path) -> None:
    from pytest_multiitem.adapters import launched as module
    from pytest_multiitem.adapters.installed import Installed

    old = Installed(str(python), "0.20.0", frozenset({"prompt"}), {})
    monkeypatch.setattr(module, "inspect", lambda *question: old)
    engine, chosen = choose_engine("trtllm"), settings(python, multiitem_device="cuda")
    assert engine.unavailable(SERIAL, chosen) is None
    assert "tensorrt_llm 0.20.0" in str(engine.unavailable(MULTI, chosen))
    assert "multi_item_part_lens" in str(engine.unavailable(MULTI, chosen))
