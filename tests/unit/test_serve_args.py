"""The launch line of the embedded engine: sgl-jax's flags, errors, and a process that ends cleanly."""

import argparse
import builtins
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest
from fake_backend import FakeBackend

from pytest_multiitem.engine import model_files
from pytest_multiitem.engine import serve as serve_module
from pytest_multiitem.engine.launch_line import ServeArgs, add_arguments
from pytest_multiitem.engine.model_files import load_backend, resolve_model
from pytest_multiitem.engine.serve import build_service, serve
from pytest_multiitem.errors import CheckpointError, EngineUnavailable, UsageError
from pytest_multiitem.scoring.config import Mode, ScorerConfig
from pytest_multiitem.scoring.semantics import Semantics


def parse(*argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return ServeArgs.from_namespace(parser.parse_args(argv))


def test_defaults_are_the_scorers():
    args = parse()
    assert (args.host, args.port, args.backend, args.device) == ("127.0.0.1", 30010, "pytorch", "cpu")
    assert args.scorer_config() == ScorerConfig()
    assert args.accepted_without_effect == ()


def test_a_launch_line_of_sgl_jax_carries_over():
    line = (
        "--model-path m --device cpu --dtype float32 --context-length 1024 --max-prefill-tokens 1024 "
        "--max-total-tokens 8192 --max-running-requests 16 --chunked-prefill-size -1 "
        "--precompile-token-paddings 64 256 --precompile-bs-paddings 16 --skip-server-warmup "
        "--grammar-backend none --attention-backend fa --disable-radix-cache --tp-size 1 --nnodes 1 "
        "--random-seed 3 --trust-remote-code --mem-fraction-static 0.3 --disable-overlap-schedule "
        "--multi-item-scoring-delimiter 151643 --multi-item-scoring-chunk-size 2 "
        "--multi-item-mask-impl segment --multi-item-segment-fallback-threshold 100 "
        "--max-multi-item-seq-len 500 --max-multi-item-count 64 --port 31000 --download-dir d"
    )
    args = parse(*line.split())
    config = args.scorer_config()
    assert (config.delimiter, config.chunk_size, config.mask_impl) == (151643, 2, "segment")
    assert (config.segment_threshold, config.max_seq_len, config.max_items) == (100, 500, 64)
    assert config.max_positions == 1024 and args.skip_server_warmup
    assert "--chunked-prefill-size" in args.accepted_without_effect
    assert "--precompile-token-paddings" in args.accepted_without_effect
    assert "--tp-size" in args.accepted_without_effect
    assert "--context-length" not in args.accepted_without_effect


def test_prefill_extend():
    args = parse("--multi-item-enable-prefill-extend", "--enable-scoring-cache", "--multi-item-extend-batch-size", "12")
    config = args.scorer_config()
    assert (config.mode, config.extend_batch_size) == (Mode.PREFILL_EXTEND, 12)
    assert args.accepted_without_effect == ()
    assert parse("--enable-scoring-cache").accepted_without_effect == ("--enable-scoring-cache",)
    packed = ("--enable-scoring-cache", "--multi-item-scoring-delimiter=9")
    assert parse(*packed).accepted_without_effect == ()
    assert parse(*packed, "--multi-item-mask-impl=dense").accepted_without_effect == ("--enable-scoring-cache",)


def test_delimiter_zero_is_a_delimiter():
    config = parse("--multi-item-scoring-delimiter", "0").scorer_config()
    assert (config.delimiter, config.mode) == (0, Mode.PACKED)


def test_the_context_length_bounds_a_packed_sequence():
    config = parse("--multi-item-scoring-delimiter", "0", "--context-length", "64").scorer_config()
    assert config.max_seq_len == 64


@pytest.mark.parametrize("argv", [["--delimiter", "1"], ["--multi-item-scoring-delim", "1"], ["--dtype", "int8"]])
def test_unknown_flags_and_values_exit_2(argv, capsys):
    assert serve(argv) == 2
    assert argv[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--multi-item-enable-prefill-extend"], ["--enable-scoring-cache"]),
        (["--multi-item-scoring-delimiter", "-5"], ["-5", ">= 0"]),
        (["--context-length", "0"], ["--context-length", "0"]),
        (
            ["--multi-item-semantics", "prefix_first_delim"],
            ["query_prefix", "--multi-item-scoring-delimiter"],
        ),
        (
            [
                "--multi-item-scoring-delimiter",
                "1",
                "--multi-item-semantics",
                "all_delims_prefix",
                "--multi-item-mask-impl",
                "segment",
            ],
            ["ablation", "dense"],
        ),
        (["--host", "0.0.0.0"], ["0.0.0.0", "loopback"]),
        (["--host", "example.org"], ["example.org", "loopback"]),
        (["--port", "70000"], ["70000", "65535"]),
        (["--tp-size", "2"], ["--tp-size is 2", "expected 1"]),
        (["--model-path", "/nowhere/at/all", "--port", "0"], ["/nowhere/at/all", "OWNER/NAME"]),
    ],
)
def test_errors_exit_2_and_say_what_to_do(argv, says, capsys):
    assert serve(argv) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in says), message
    assert "Traceback" not in message


def test_serve_leaves_the_signal_handlers_as_they_were():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    serve(["--port", "70000"])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_help_exits_0(capsys):
    assert serve(["--help"]) == 0
    assert "--multi-item-mask-impl" in capsys.readouterr().out


def test_a_busy_port_is_named_before_any_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr(serve_module, "build_service", lambda args: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(["--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_a_port_taken_while_the_model_loads_is_named(capsys, monkeypatch):
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    monkeypatch.setattr(serve_module, "build_service", lambda args: taken.listen())
    with taken:
        assert serve(["--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "mode", "semantics"),
    [
        ([], "serial", "query_prefix"),
        (["--multi-item-scoring-delimiter", "0"], "packed", "prefix_first_delim"),
        (
            ["--multi-item-scoring-delimiter", "0", "--multi-item-semantics", "query_prefix"],
            "packed",
            "query_prefix",
        ),
        (["--multi-item-enable-prefill-extend", "--enable-scoring-cache"], "prefill_extend", "query_prefix"),
    ],
)
def test_the_server_info(argv, mode, semantics, monkeypatch, tmp_path):
    monkeypatch.setattr(serve_module, "load_backend", lambda *args, **kwargs: FakeBackend())
    service = build_service(parse("--model-path", str(tmp_path), "--disable-radix-cache", *argv))
    info = msgspec.json.decode(msgspec.json.encode(service.info))
    assert (info["engine"], info["scoring_mode"], info["semantics"]) == (
        "embedded",
        mode,
        {"declared": semantics},
    )
    assert (info["backend"], info["device"], info["dtype"]) == ("fake", "cpu", "float32")
    assert (info["vocab_size"], info["model_path"]) == (1000, str(tmp_path))
    assert info["versions"]["fake"] == "1" and info["versions"]["python"]
    assert info["accepted_without_effect"] == ["--disable-radix-cache"]
    for name in (
        "multi_item_scoring_delimiter",
        "multi_item_scoring_chunk_size",
        "multi_item_mask_impl",
        "multi_item_segment_fallback_threshold",
        "max_multi_item_seq_len",
        "max_multi_item_count",
        "multi_item_enable_prefill_extend",
        "multi_item_extend_batch_size",
        "enable_scoring_cache",
        "context_length",
    ):
        assert name in info
    assert service.tokenizer is None
    assert 0 not in service.probe_ids if "0" in argv else 0 in service.probe_ids
    labels, probe = service.probe_ids, service.probe_ids[:1]
    assert service.scorer.score(probe, [probe], labels, True).scores.shape == (1, len(labels))


@pytest.mark.parametrize(
    ("argv", "calls"),
    [
        ([], {"serial"}),
        (["--multi-item-scoring-delimiter", "0"], {"prefix", "segment"}),
        (["--fault", "causal", "--multi-item-scoring-delimiter", "0"], {"prefix", "segment"}),
        (["--skip-server-warmup"], set()),
        (["--context-length", "1"], set()),
    ],
)
def test_a_warm_up_runs_the_model_and_counts_nothing(argv, calls, monkeypatch, tmp_path):
    backend = FakeBackend()
    monkeypatch.setattr(serve_module, "load_backend", lambda *args, **kwargs: backend)
    service = build_service(parse("--model-path", str(tmp_path), *argv))
    assert set(backend.calls) == calls and service.scorer.executed()["requests"] == 0


def test_a_queue_has_no_fewer_places_than_none():
    assert parse("--max-queued-requests", "0").max_queued_requests == 0
    with pytest.raises(UsageError, match="--max-queued-requests is -1; expected 0 or more"):
        parse("--max-queued-requests", "-1")


def test_the_vocabulary_bounds_the_delimiter(monkeypatch, tmp_path):
    monkeypatch.setattr(serve_module, "load_backend", lambda *args, **kwargs: FakeBackend())
    with pytest.raises(UsageError, match="1000"):
        build_service(parse("--model-path", str(tmp_path), "--multi-item-scoring-delimiter", "1000"))


PACKING_FLAGS = {
    "--multi-item-scoring-delimiter": ["5"],
    "--multi-item-scoring-chunk-size": ["32"],
    "--multi-item-mask-impl": ["auto"],
    "--multi-item-segment-fallback-threshold": ["32768"],
    "--multi-item-semantics": ["query_prefix"],
    "--max-multi-item-seq-len": ["32768"],
    "--multi-item-enable-prefill-extend": [],
    "--multi-item-extend-batch-size": ["32"],
    "--enable-scoring-cache": [],
}


@pytest.mark.parametrize("flag", PACKING_FLAGS)
def test_a_serial_backend_refuses_each_flag_of_packing_even_at_its_default(flag, capsys):
    assert serve([flag, *PACKING_FLAGS[flag], "--backend", "transformers", "--port", "0"]) == 2
    message = capsys.readouterr().err
    assert f"takes no {flag}" in message and "--backend transformers scores serially only" in message
    assert "--backend pytorch or --backend jax" in message and "Traceback" not in message
    assert parse(flag, *PACKING_FLAGS[flag], "--backend", "jax").backend == "jax"


def test_a_serial_backend_names_every_flag_that_it_refuses():
    with pytest.raises(UsageError, match="no --enable-scoring-cache, no --multi-item-enable-prefill-extend;"):
        parse("--backend=transformers", "--enable-scoring-cache", "--multi-item-enable-prefill-extend")


def test_a_serial_backend_takes_everything_else():
    line = "--backend transformers --dtype bfloat16 --context-length 64 --max-multi-item-count 9 --disable-radix-cache"
    config = parse(*line.split()).scorer_config()
    assert (config.mode, config.max_positions, config.max_items) == (Mode.SERIAL, 64, 9)
    assert config.declared_semantics is Semantics.QUERY_PREFIX


@pytest.mark.parametrize(
    ("backend", "module"), [("pytorch", "torch_model"), ("jax", "jax_model"), ("transformers", "reference_model")]
)
def test_a_missing_package_names_the_extra(backend, module, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.endswith(module):
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    extra = {"pytorch": "torch", "jax": "jax", "transformers": "torch"}[backend]
    with pytest.raises(EngineUnavailable, match=rf"pytest-multiitem\[{extra}\]"):
        load_backend(backend, tmp_path, dtype="auto", device="cpu")


@pytest.mark.parametrize("path", ["/nowhere", "./nowhere", "nowhere", "a/b/c", "~/nowhere-at-all"])
def test_a_path_that_is_no_directory_is_not_looked_up_on_a_hub(path, monkeypatch):
    monkeypatch.setattr(model_files, "_download", lambda *args: pytest.fail("looked up"))
    with pytest.raises(CheckpointError, match="no directory"):
        resolve_model(path)


def test_a_file_is_no_checkpoint(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(CheckpointError, match="no directory"):
        resolve_model(str(file))


def test_a_hub_id_is_downloaded_or_says_why_not(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot(hub_id, **options):
        asked.append((hub_id, options["cache_dir"]))
        return "/models/here"

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert resolve_model("Qwen/Qwen3-0.6B", "d") == Path("/models/here")
    assert asked == [("Qwen/Qwen3-0.6B", "d")]

    def offline(*args, **kwargs):
        raise ConnectionError("no route\nmore lines")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"Qwen3-0\.6B.*no route Name a checkpoint"):
        resolve_model("Qwen/Qwen3-0.6B")


def test_semantics_names_are_the_layouts():
    for semantics in Semantics:
        args = parse("--multi-item-scoring-delimiter", "1", "--multi-item-semantics", semantics.value)
        assert args.scorer_config().declared_semantics is semantics


_SERVER = """
import sys
sys.path.insert(0, {here!r})
from fake_backend import FakeBackend
from pytest_multiitem.engine import serve
serve.load_backend = lambda *args, **kwargs: FakeBackend(seconds_per_call={seconds})
sys.exit(serve.serve(sys.argv[1:]))
"""


def start(tmp_path, *more, seconds=0.0):
    """A server process over the fake model, and its URL once it listens."""
    script = _SERVER.format(here=str(Path(__file__).parent), seconds=seconds)
    process = subprocess.Popen(
        [sys.executable, "-c", script, "--port", "0", "--model-path", str(tmp_path), "--disable-radix-cache", *more],
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if " on http://" in line:
            return process, line.split(" on ")[1].strip(), lines
    raise AssertionError("the server did not start: " + "".join(lines))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_0(tmp_path, signum):
    process, url, lines = start(tmp_path)
    try:
        assert "accepted without effect: --disable-radix-cache" in "".join(lines)
        request = {"query": [1], "items": [[2], []], "label_token_ids": [3]}
        assert len(httpx.post(f"{url}/v1/score", json=request, timeout=10).json()["scores"]) == 2
        process.send_signal(signum)
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_a_call_that_does_not_end_cannot_hold_the_process(tmp_path):
    process, url, _ = start(tmp_path, "--skip-server-warmup", seconds=60)
    try:
        request = {"query": [1], "items": [[2]], "label_token_ids": [3]}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/score", json=request, timeout=0.5)
        assert httpx.get(f"{url}/health", timeout=5).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_variation_is_told_apart_from_faults(monkeypatch, tmp_path):
    monkeypatch.setattr(serve_module, "load_backend", lambda *args, **kwargs: FakeBackend())
    line = ("--model-path", str(tmp_path), "--multi-item-scoring-delimiter", "999")
    plain, varied = (build_service(parse(*line, *more)) for more in ([], ["--variation", "shape_noise=0.004"]))
    assert varied.info["variations"] == ["shape_noise=0.004"] and "faults" not in varied.info
    assert "variations" not in plain.info
    request = ([1, 2], [[3], [4, 5]], [6, 7], True)
    exact, noisy = (service.scorer.score(*request).scores for service in (plain, varied))
    assert 0 < abs(noisy - exact).max() < 0.02
    both = build_service(parse(*line, "--variation", "shape_noise", "--fault", "score_before_last"))
    assert both.info["faults"] == ["score_before_last"] and both.info["variations"] == ["shape_noise=4e-07"]
    with pytest.raises(UsageError, match="no variation is called 'causal'"):
        parse("--variation", "causal")
