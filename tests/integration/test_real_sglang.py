"""The real sglang server on a CPU: what it serves, what it refuses, how it dies, and what the suites say of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from real_engine import LABELS, REGRESSION, RealEngine, SuiteRun, run_suites

from pytest_multiitem.scoring.relations import budget, relation, relation_names
from pytest_multiitem.servers.errors import ServerDied
from pytest_multiitem.transport.client import ScoreClient

pytestmark = pytest.mark.real_engine

ERROR_KEYS = {"object", "message", "type", "param", "code"}


def test_packed_and_serial_run_for_real(suite_run: SuiteRun) -> None:
    """All servers started by the run itself, from the environment that `make engines` builds."""
    gates, output = suite_run.gates, suite_run.output
    serial = gates["serial_vs_reference_le_0p02"]
    assert serial["value"] <= 1e-5 and serial["engine"] == "sglang" and serial["mask_attested"] == "serial", output
    control = gates["negative_control_fails"]
    assert control["verdict"] == "PASS" and control["value"] > 0.02, output
    assert {said["verdict"] for said in control["details"]["gates"].values()} == {"FAIL"}
    assert gates["delimiter_aligned_equiv_le_0p02"]["value"] <= 1e-5
    assert gates["semantics_as_declared"]["reason"].startswith("nearest to query_prefix")
    for name in ("same_length_isolation_zero", "delimiter_aligned_equiv_le_0p02", "traffic_agrees", "setwise_agrees"):
        assert gates[name]["mask_attested"] == "flashinfer", f"{name}: {gates[name]['reason']}"
    servers = {server["label"]: server for server in suite_run.matrix["servers"]}
    packages = servers["serial pytorch"]["packages"]
    assert packages["sglang"] == "0.5.23" and packages["torch"].startswith("2.13.0")
    assert packages["sglang-mis-cpu"], "what stands in for FlashInfer is named"
    assert "--attention-backend torch_native" in " ".join(servers["serial pytorch"]["command"])
    packed = " ".join(servers["multi-item pytorch flashinfer"]["command"])
    assert "--attention-backend flashinfer" in packed and "--enable-mis" in packed


def test_without_a_mask_packed_scoring_is_refused(tmp_path: Path, arguments: Callable[..., list[str]]) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[sglang-multi.cpu_with.sglang-mis-cpu.flags]\nattention-backend = "torch_native"\n')
    more = (f"--multiitem-profiles={own}", "-k", "same_length")
    status, matrix, output = run_suites(tmp_path, REGRESSION, *arguments(*more))
    (gate,) = (gate for gate in matrix["gates"] if "deselected" not in gate["reason"])
    assert gate["verdict"] == "NOT_RUN" and "refused to start" in gate["reason"], output
    assert "requires flashinfer" in gate["reason"] and status in (0, 5), output


def test_scores_are_those_of_the_wire(sglang: RealEngine) -> None:
    rng = np.random.default_rng(5)
    query, items = rng.integers(1000, 100_000, 30).tolist(), rng.integers(1000, 100_000, (5, 9)).tolist()
    with ScoreClient(sglang.serial().url) as client:
        rows = client.score(query, items, LABELS)
        probabilities = client.score(query, items, LABELS, apply_softmax=False)
    assert rows.shape == (5, 2) and np.allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(probabilities / probabilities.sum(axis=1, keepdims=True), rows, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"items": None}, 400),
        ({"label_token_ids": None}, 400),
        ({"label_token_ids": []}, 400),
        ({"label_token_ids": [-1]}, 400),
        ({"label_token_ids": [10_000_000]}, 400),
        ({"items": ["text"]}, 400),
        ({"items": []}, 200),
        ({"query": []}, 200),
    ],
    ids=str,
)
def test_errors_differ_from_the_contract_as_documented(sglang: RealEngine, change: dict[str, Any], status: int) -> None:
    body = {"model": "m", "query": [5, 6], "items": [[7]], "label_token_ids": list(LABELS), "apply_softmax": True}
    with httpx.Client(base_url=sglang.serial().url, trust_env=False, timeout=60) as http:
        answer = http.post("/v1/score", json={**body, **change})
    assert answer.status_code == status
    if status != 200:
        assert set(answer.json()) == ERROR_KEYS and answer.json()["object"] == "error"


@pytest.fixture
def silent(sglang: RealEngine) -> Iterator[str]:
    """The address of a gateway before the serial server, behind which nobody learns that it does not pack."""
    upstream = httpx.Client(base_url=sglang.serial().url, trust_env=False, timeout=60)

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.path in ("/health", "/v1/models")
            self._pass_on(upstream.get(self.path) if known else httpx.Response(404))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {"content-type": "application/json"}
            self._pass_on(upstream.post(self.path, content=body, headers=headers))

        def _pass_on(self, answer: httpx.Response) -> None:
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with upstream, ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{gateway.server_address[1]}"
        gateway.shutdown()


def test_attached_as_an_unknown_engine(sglang: RealEngine, silent: str, tmp_path: Path) -> None:
    """One address for both sides: a serial server is isolated, has the semantics query_prefix, and attests nothing."""
    url = silent
    urls = [f"--multi-url={url}", f"--serial-url={url}", "--multiitem-semantics=query_prefix"]
    status, matrix, output = run_suites(tmp_path, REGRESSION, *urls, "-k", "isolation or aligned or declared")
    found = {g["gate"]: g for g in matrix["gates"] if "deselected" not in g["reason"]}
    assert {g["verdict"] for g in found.values()} == {"PASS"}, output
    assert set(found) == {
        "same_length_isolation_zero", "changed_length_isolation_zero", "delimiter_aligned_equiv_le_0p02",
        "semantics_as_declared", "request_isolation_le_0p02", "negative_control_fails", "content_isolation",
        "length_isolation",
    }  # fmt: skip
    del found["negative_control_fails"]
    assert {g["mask_attested"] for g in found.values()} == {"unattested"} and status == 0
    assert sglang.serial().poll() is None, "an attached server was stopped"


def test_the_search_says_what_a_batch_does_to_the_last_bit(silent: str, tmp_path: Path) -> None:
    """Serial items of one request run in one batch, beside those of other requests. Whether that moves a score in its
    last bit is up to the processor's matrix library: the verdict and the replay follow what this machine does."""
    url = silent
    urls = [f"--multi-url={url}", f"--serial-url={url}", "--multiitem-semantics=query_prefix"]
    status, matrix, output = run_suites(tmp_path, REGRESSION, *urls, "-k", "relations")
    (gate,) = (g for g in matrix["gates"] if "deselected" not in g["reason"])
    exact = [seen for seen in gate["details"]["relations"].values() if seen["exact"]]
    assert gate["value"] == max(seen["worst"] for seen in exact) < 1e-5, f"a leak, not rounding: {output}"
    path = tmp_path / "multiitem-results/latest/counterexample.json"
    if gate["verdict"] == "PASS":
        assert gate["value"] == 0.0 and status == 0 and not path.exists(), output
        tried = {name: seen["examples"] for name, seen in gate["details"]["relations"].items()}
        # A server that does not say that it takes empty items is sent none.
        known = [relation(name) for name in relation_names() if name != "empty"]
        assert tried == budget(known, 100), output
        return
    assert status == 1, output
    if gate["verdict"] == "INCONCLUSIVE":
        words = ("no relation can be blamed", "moves scores", "all of it is rounding")
        assert any(each in gate["reason"] for each in words), output
        return
    found = json.loads(path.read_bytes())
    raced = found["relation"] == "beside"  # what happens at the same time need not happen again, nor be made smaller
    assert gate["verdict"] == "FAIL" and gate["value"] > 0, output
    assert len(found["scenario"]["base"]["items"]) <= 3 or raced, output
    replay = [sys.executable, "-m", "pytest_multiitem", "replay", str(path), "--url", url]
    done = subprocess.run(replay, capture_output=True, text=True, timeout=300, check=False)
    violated = done.returncode == 1 and "violated" in done.stdout
    assert violated or raced, done.stdout + done.stderr


def test_attached_as_sglang_it_is_no_multi_item_server(sglang: RealEngine, tmp_path: Path) -> None:
    url = sglang.serial().url
    urls = [f"--multi-url={url}", f"--serial-url={url}", "--engine=sglang"]
    status, matrix, output = run_suites(tmp_path, REGRESSION, *urls, "-k", "same_length")
    assert (status, matrix) == (4, {}), output
    assert f"the multi-item server {url} says that it scores serially" in output


def test_a_death_is_told_with_its_log_and_the_server_can_be_started_again(sglang: RealEngine) -> None:
    server = sglang.serial()
    state = json.loads((server.directory / "state.json").read_bytes())
    family = psutil.Process(state["engine_pid"]).children(recursive=True)
    assert family, "a real server has processes of its own"
    psutil.Process(state["engine_pid"]).kill()
    with pytest.raises(ServerDied, match="was killed by SIGKILL") as death:
        server.check_alive(patience=20)
    assert "fired up and ready to roll" in server.log_path.read_text() and death.value.log_tail
    psutil.wait_procs(family, timeout=20)
    assert not [process for process in family if process.is_running()], "processes of the dead server are left"
    again = sglang.serial(restart=True)
    assert again.poll() is None and again.directory != server.directory
