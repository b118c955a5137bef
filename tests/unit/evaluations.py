"""Evaluations of functions that are served in memory, as fixtures (see conftest)."""

import json

import httpx
import numpy as np
import pytest
from stub_targets import DELIMITER, packed, serial

SMALL = (
    "--labels", "5,6", "--delimiter", str(DELIMITER), "--vocab-size", "900", "--query-tokens", "8",
    "--item-tokens", "3", "--items", "1,32", "--timed-runs", "5", "--model", "tiny",
)  # fmt: skip


@pytest.fixture
def served(monkeypatch):
    """Serve functions in memory: host name → ``answer(body) → httpx.Response``, or a function of query, items and
    labels that gives scores. ``infos``: what a host answers to ``/get_server_info``."""
    original, hosts, infos = httpx.Client, {}, {}

    def handle(request):
        host = request.url.host
        if request.url.path == "/get_server_info":
            info = infos.get(host)
            return httpx.Response(404) if info is None else httpx.Response(200, json=info())
        if request.method == "GET":
            return httpx.Response(404)
        assert request.url.path == "/v1/score"
        body = json.loads(request.content)
        assert body["apply_softmax"] is True
        return hosts[host](body)

    def client(*, base_url, **more):
        return original(base_url=base_url, transport=httpx.MockTransport(handle))

    monkeypatch.setattr(httpx, "Client", client)

    def serve(host, scores, info=None):
        hosts[host] = scores if getattr(scores, "raw", False) else answering(scores)
        infos[host] = info
        return f"http://{host}"

    return serve


def answering(scores):
    def answer(body):
        rows = np.asarray(scores(body["query"], body["items"], body["label_token_ids"])).tolist()
        return httpx.Response(200, content=json.dumps({"scores": rows}))  # writes NaN, as Python servers do

    return answer


def raw(function):
    function.raw = True
    return function


@pytest.fixture(scope="module")
def known():
    """The files of healthy evaluations, made once."""
    return {}


@pytest.fixture
def evaluated(multiitem, served, tmp_path, known):
    """Evaluate a stub; gives exit status, the file and its content."""

    def run(mode, scores, *words, name=None, backend="jax", info=None):
        url = served(name or mode, scores, info)
        path = tmp_path / f"{name or mode}.json"
        key = (mode, scores, words, name, backend)
        pure = scores in (packed, serial) and info is None and not any(str(tmp_path) in str(word) for word in words)
        if pure and key in known:
            err, text = known[key]
            path.write_text(text)
            return 0, path, json.loads(text), err
        own = ("--backend", backend) if backend else ()
        code, _, err = multiitem("evaluate", "--mode", mode, "--url", url, "--output-json", path, *SMALL, *own, *words)
        content = json.loads(path.read_text()) if path.exists() else None
        if content is not None:
            at_constant_speed(path, content)
        if pure and code == 0:
            known[key] = err, path.read_text()
        return code, path, content, err

    return run


def at_constant_speed(path, content, seconds=None):
    """Replace the measured times, so that a verdict does not depend on this machine."""
    for count, timing in content["performance"].items():
        each = (seconds or {"multi": 0.01, "serial": 0.02})[content["mode"]]
        each = each * int(count) if content["mode"] == "serial" else each
        timing["latencies_sec"] = [each] * len(timing["latencies_sec"])
        timing |= {"p50_sec": each, "p95_sec": each}
        timing |= {f"items_per_sec_{name}": int(count) / each for name in ("p50", "p95")}
    path.write_text(json.dumps(content))


@pytest.fixture
def joined(multiitem, evaluated, tmp_path):
    """Evaluate a multi-item and a serial stub and combine them, with a torch reference unless told otherwise; gives
    the path of the combined file."""

    def run(multi=packed, plain=serial, *words, torch=serial, multi_words=(), info=None, backend="jax"):
        _, multi_path, _, _ = evaluated("multi", multi, *words, *multi_words, info=info, backend=backend)
        _, serial_path, _, _ = evaluated("serial", plain, *words, backend=backend)
        more = ()
        if torch is not None:
            _, torch_path, _, _ = evaluated("serial", torch, *words, name="torch", backend="pytorch")
            more = ("--torch-serial", torch_path)
        path = tmp_path / "combined.json"
        code, _, err = multiitem(
            "combine", "--multi", multi_path, "--serial", serial_path, *more, "--output-json", path
        )
        assert (code, "ended early" in err or err == "") == (0, True), err
        return path

    return run
