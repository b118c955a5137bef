"""The launch lines of the public runbooks: printed flag for flag, and taken literally by ``multiitem serve``."""

import argparse
import shlex
import sys

import pytest

from pytest_multiitem.engine.launch_line import ServeArgs, add_arguments

PACKED = "--multi-item-scoring-delimiter 151643 --multi-item-scoring-chunk-size {chunk}"
DENSE = "--multi-item-mask-impl dense --multi-item-segment-fallback-threshold 0"
JAX = (
    "python -m sgl_jax.launch_server --model-path Qwen/Qwen3-0.6B --host 0.0.0.0 --port {port} --trust-remote-code "
    "--dtype bfloat16 --tp-size 1"
)
ISOLATED = "--disable-radix-cache --chunked-prefill-size -1"
LINES = {
    "sgl-jax-runbook-portable": f"{JAX} {PACKED} {DENSE} {ISOLATED} --attention-backend fa".format(
        port=30010, chunk=500
    ),
    "sgl-jax-runbook-best-native": f"{JAX} {PACKED} {DENSE} {ISOLATED} --attention-backend fa".format(
        port=30011, chunk=64
    ),
    "sglang-runbook-frozen": (
        "python -m sglang.launch_server --model-path Qwen/Qwen3-0.6B --host 0.0.0.0 --port 30020 --trust-remote-code "
        f"--tp-size 1 --multi-item-scoring-delimiter 151643 {ISOLATED}"
    ),
    "sgl-jax-runbook-multi": f"{JAX} {PACKED} {ISOLATED} --attention-backend fa".format(port=30010, chunk=2),
    "sgl-jax-runbook-serial": f"{JAX} --attention-backend fa".format(port=30011),
}


@pytest.fixture(params=LINES)
def profile(request):
    return request.param


def served(line, *more):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return ServeArgs.from_namespace(parser.parse_args([*line.split()[3:], *more]))


@pytest.mark.parametrize("device", [(), ("--multiitem-device", "cuda"), ("--multiitem-device=tpu",)])
def test_a_dry_run_prints_it_flag_for_flag_without_the_engine(multiitem, profile, device):
    assert multiitem("launch", profile, "--dry-run", *device) == (0, LINES[profile] + "\n", "")


def test_what_the_user_gives_wins_over_the_line(multiitem):
    words = ("--model", "/models/m", "--multiitem-multi-port", "4000", "--host", "127.0.0.1", "--mask-impl", "segment")
    _, line, _ = multiitem("launch", "sgl-jax-runbook-portable", "--dry-run", *words)
    assert " --model-path /models/m --host 127.0.0.1 --port 4000 " in line
    assert " --multi-item-mask-impl segment " in line


def test_serve_takes_it_literally(profile):
    args = served(LINES[profile])
    assert (args.host, args.model_path) == ("0.0.0.0", "Qwen/Qwen3-0.6B")
    config = args.scorer_config()
    expected = {
        "sgl-jax-runbook-portable": (30010, 151643, 500, "dense", 0),
        "sgl-jax-runbook-best-native": (30011, 151643, 64, "dense", 0),
        "sglang-runbook-frozen": (30020, 151643, 32, "auto", 32768),
        "sgl-jax-runbook-multi": (30010, 151643, 2, "auto", 32768),
        "sgl-jax-runbook-serial": (30011, None, 32, "auto", 32768),
    }[profile]
    assert (args.port, config.delimiter, config.chunk_size, config.mask_impl, config.segment_threshold) == expected
    assert args.dtype == ("auto" if profile.startswith("sglang-") else "bfloat16")


def test_a_line_that_no_option_bears_is_refused(multiitem):
    """A healthy line has no typo; one that has is not run as if it had none."""
    code, _, err = multiitem("serve", *LINES["sgl-jax-runbook-portable"].split()[3:], "--multi-item-mask-imp", "dense")
    assert code == 2 and "--multi-item-mask-imp" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "listen on 0.0.0.0, where other machines can reach it; start it so with --allow-remote"),
        (("--allow-remote",), 0, "WARNING: this server listens on 0.0.0.0: other machines can reach it"),
        (("--host", "127.0.0.1"), 0, ""),
    ],
)
def test_other_machines_are_let_in_on_purpose_alone(multiitem, monkeypatch, tmp_path, words, code, says):
    """Up to the moment in which the process would become the server."""
    from pytest_multiitem.adapters import launched
    from pytest_multiitem.adapters.installed import Installed
    from pytest_multiitem.commands import launch

    flags = frozenset(word[2:] for line in LINES.values() for word in shlex.split(line) if word.startswith("--"))
    monkeypatch.setattr(launched, "inspect", lambda *question: Installed(sys.executable, "1", flags, {}))
    started = []
    monkeypatch.setattr(launch.os, "execvpe", lambda program, command, env: started.append(command) or sys.exit(0))
    given = ("sgl-jax-runbook-portable", "--engine-python", sys.executable, *words)
    found, _, err = multiitem("launch", *given)
    assert found == code and says in err and bool(err) == bool(says)
    assert [len(started), len(err.splitlines())] == [code == 0, bool(says)]


def test_a_runs_own_servers_listen_on_loopback(monkeypatch):
    """Whatever a profile says of `multiitem launch`."""
    from pytest_multiitem.adapters import launched
    from pytest_multiitem.adapters.base import Profile, choose_engine
    from pytest_multiitem.adapters.installed import Installed
    from pytest_multiitem.settings.resolve import resolve

    flags = frozenset(word[2:] for line in LINES.values() for word in shlex.split(line) if word.startswith("--"))
    monkeypatch.setattr(launched, "inspect", lambda *question: Installed(sys.executable, "1", flags, {}))
    given = {"engine": "sgl-jax", "engine_python": sys.executable, "multi_profile": "sgl-jax-runbook-portable"}
    engine = choose_engine("sgl-jax")
    settings = engine.fit(resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {}))
    command = engine.launch(Profile("multi", "jax", "dense", 500), settings).command
    assert command.count("--host") == 1 and command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "{port}"
