"""A scoring server without torch and jax: the real scorer over the hash model, up in a moment.

``fake_server.py PORT ROLE [--mask M] [--chunk N] [--delimiter ID] [--fault NAME[=VALUE] …]``, ROLE being multi,
serial or extend. Each fault is one way in which a server can misbehave.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "unit"))

import fake_backend
import msgspec
from fake_backend import FakeBackend

from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.score import ScoreRequest, parse_score_request

VOCABULARY = 151_936
LONGEST = 65_536
FAULTS = {
    "leak": "every packed score depends on all items of the request",
    "memory": "every score depends on the request before",
    "cut": "over-long items are cut silently",
    "noise": "scores differ from replay to replay",
    "lie": "the counters name the other mask implementation",
    "flat": "all scores are the same",
    "nan": "the first score is NaN, as Python's json writes it",
    "short": "one row of scores is missing",
    "permuted": "the rows of scores stand in the opposite order",
    "labels": "one label's scores are missing",
    "error": "the answer under status 200 is an error body",
    "truncated": "the end of the answer is missing",
    "sleep": "seconds that each request takes longer",
    "refuse": "the server says that it refuses its arguments, and ends",
    "memory_error": "what it starts with raises, and it ends",
    "exit": "exit code with which the server ends instead of starting",
    "key": "the API key without which only /health answers; the server tells it to who has it",
    "login": "the user and password, as USER:PASSWORD, without which only /health answers",
    "prefix": "path prefix under which alone it answers",
    "workers": "it has workers: one in a session of its own, one in a new group; both ignore SIGTERM",
    "die_after": "requests after which the server ends with code 9",
    "silent": "it tells nothing of itself",
    "once": "the scoring request whose answer alone has its rows in another order",
    "weights": "share by which another model's logits are mixed into its own: every score moves, and all agree",
    "shapes": "scores are off by rounding that depends on the shape of the batch, which leaks nothing; of a logit",
    "digits": "digits that scores are rounded to, which leaks nothing",
    "version": "the version that it says it has",
    "from": "N:WAY, from which scoring request on it answers in which way: a status, or a word of `Handler.break_off`",
}

WORKER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
#: Names that an engine may have for a mask implementation.
_OWN_NAMES = {"flex": "dense"}


def exchange_weights(share: float) -> None:
    """Give the model other weights: what sees the same still scores the same, however it is asked."""
    own = fake_backend.logit

    def logit(seen: Any, label: int) -> float:
        return (1 - share) * own(seen, label) + share * own((*seen, (-1, -1)), label)

    fake_backend.logit = logit


class Server:
    """Answers, with the faults applied; one request at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.faults = dict(fault.partition("=")[::2] for fault in options.fault)
        if unknown := set(self.faults) - set(FAULTS):
            raise SystemExit(f"unknown faults {unknown}")
        config = {
            "multi": {"delimiter": options.delimiter, "chunk_size": options.chunk},
            "serial": {},
            "extend": {"prefill_extend": True, "scoring_cache": True, "extend_batch_size": 12},
        }[options.role]
        self._mask, self._model = options.mask, options.model
        if "weights" in self.faults:
            exchange_weights(float(self.faults["weights"] or 1))
        backend = FakeBackend(max_positions=LONGEST, seconds_per_call=0.0005)
        backend.vocab_size = VOCABULARY
        mask = MaskImpl(_OWN_NAMES.get(options.mask, options.mask))
        self._scorer = Scorer(
            backend,
            ScorerConfig(mask_impl=mask, max_items=4096, max_seq_len=131_072, **config),
            self._noisy if "shapes" in self.faults else lambda steps: steps,
        ).steps
        self._answered = self.asked = 0
        self._before = ""
        self._lock = Lock()

    def _noisy(self, steps: Any) -> Any:
        from pytest_multiitem.faults.variations import ShapeNoise

        return ShapeNoise(float(self.faults["shapes"] or 4e-7)).before(steps)

    def info(self) -> dict[str, Any]:
        executed = self._scorer.executed()
        if "lie" in self.faults:
            for name in ("packed_sequences", "packed_items"):
                executed[name] = {"dense": executed[name]["segment"], "segment": executed[name]["dense"]}
        for own, name in _OWN_NAMES.items():
            if self._mask == own:
                for kind in ("packed_sequences", "packed_items"):
                    executed[kind] = {own: executed[kind][name]}
        config = self._scorer.config
        return {
            "model_path": self._model,
            "dtype": "float32",
            "device": "cpu",
            "vocab_size": VOCABULARY,
            "multi_item_mask_impl": self._mask,
            "multi_item_scoring_chunk_size": config.chunk_size,
            "multi_item_scoring_delimiter": config.delimiter,
            "multi_item_enable_prefill_extend": config.prefill_extend,
            "semantics": {"declared": config.declared_semantics.value},
            "executed": executed,
            "api_key": self.faults.get("key"),
            "version": self.faults.get("version"),
            "pid": os.getpid(),
        }

    def score(self, body: bytes) -> dict[str, Any]:
        request = parse_score_request(body, vocab_size=VOCABULARY)
        if isinstance(request.query, str):
            request = self._in_ids(request)
        with self._lock:
            self._answered += 1
            if self._answered > int(self.faults.get("die_after") or sys.maxsize):
                sys.stdout.write("fatal: device lost\n")
                sys.stdout.flush()
                os._exit(9)
            time.sleep(float(self.faults.get("sleep") or 0))
            if "cut" in self.faults:
                request = msgspec.structs.replace(request, items=[list(item[:1000]) for item in request.items])
            result = self._scorer.score(request.query, request.items, request.label_token_ids, request.apply_softmax)
        return {"scores": self._spoil(result.scores.tolist(), request.items)}

    def _in_ids(self, request: ScoreRequest) -> ScoreRequest:
        """A request of text by the tokenizer in the model's directory; refused where there is none."""
        from pytest_multiitem.engine.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(Path(self._model))
        if tokenizer is None:
            raise WireError(400, "no_tokenizer", "this server takes token ids")
        query, *items = (tokenizer.encode(text) for text in (request.query, *request.items))
        return msgspec.structs.replace(request, query=query, items=items)

    def answer(self, body: bytes) -> bytes:
        """The body of an answer, which a fault may leave without scores."""
        found = self.score(body)
        if len(found["scores"]) <= 2:  # the request that asks whether the server is ready
            return json.dumps(found).encode()
        if "error" in self.faults:
            found = {"error": {"message": "out of slots", "code": "internal_error"}}
        encoded = json.dumps(found).encode()
        return encoded[:-9] if "truncated" in self.faults else encoded

    def _spoil(self, scores: list[list[float]], items: Any) -> list[list[float]]:
        if self._answered == int(self.faults.get("once") or 0):
            return scores[::-1]
        if "digits" in self.faults:
            return [[round(score, int(self.faults["digits"])) for score in row] for row in scores]
        if "flat" in self.faults:
            return [[1 / len(row)] * len(row) for row in scores]
        before, self._before = self._before, repr(items)
        cause = {"leak": items, "noise": self._answered, "memory": before}
        for fault in self.faults.keys() & cause.keys():
            digest = hashlib.sha256(repr(cause[fault]).encode()).digest()
            size = 1000 if fault == "memory" else 10_000
            scores = [[row[0] * (1 + digest[0] / size), *row[1:]] for row in scores]
        if len(scores) <= 2:  # the request that asks whether the server is ready
            return scores
        if "nan" in self.faults:
            scores[0][0] = float("nan")
        if "permuted" in self.faults:
            scores = scores[::-1]
        if "labels" in self.faults:
            scores = [row[1:] for row in scores]
        return scores[1:] if "short" in self.faults else scores


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    app: Server

    def _refused(self) -> bool:
        prefix, key = self.app.faults.get("prefix", ""), self.app.faults.get("key")
        if not self.path.startswith(prefix):
            self._send(404, b'{"detail":"Not Found"}')
            return True
        self.path = self.path.removeprefix(prefix)
        if key and self.path != "/health" and self.headers["authorization"] != f"Bearer {key}":
            self._send(401, b'{"error":"Unauthorized"}')
            return True
        if (login := self.app.faults.get("login")) and self.path != "/health":
            wanted = f"Basic {base64.b64encode(login.encode()).decode()}"
            if self.headers["authorization"] != wanted:
                self._send(401, b'{"error":"Unauthorized"}')
                return True
        return False

    def do_GET(self) -> None:
        if self._refused():
            return
        if "silent" in self.app.faults and self.path != "/health":
            self._send(404, b'{"detail":"Not Found"}')
            return
        known = {
            "/health": {"status": "ok"},
            "/v1/models": {"data": [{"id": "hash-model", "max_model_len": LONGEST}]},
        }
        self._answer(200, known.get(self.path) or self.app.info())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self._refused():
            return
        first, _, way = self.app.faults.get("from", "").partition(":")
        self.app.asked += 1
        if first and self.app.asked >= int(first):
            self.break_off(way, body)
            return
        try:
            self._send(200, self.app.answer(body))
        except WireError as error:
            self._send(error.status, error.body())

    def break_off(self, way: str, body: bytes) -> None:
        """No answer that a scoring server gives to a request of the contract."""
        if way == "hang":
            time.sleep(3600)
        elif way == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n\r\n")
            for _ in range(9000):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif way == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif way == "nan":
            self._send(200, b'{"scores": [[NaN, 1.0]]}')
        elif way == "short":
            self._answer(200, {"scores": self.app.score(body)["scores"][1:]})
        elif way == "error":
            self._send(200, b'{"error": {"message": "out of slots"}}')
        else:
            self._send(int(way), b"<html><h1>no answer of a scoring server</h1></html>")

    def _answer(self, status: int, content: object) -> None:
        self._send(status, json.dumps(content).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if 300 <= status < 400:
            self.send_header("location", "http://user:word@127.0.0.1:9/elsewhere")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Listener(ThreadingHTTPServer):
    """One to which many connect at the same moment."""

    request_queue_size = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("role", choices=("multi", "serial", "extend"))
    parser.add_argument("--mask", default="dense")
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--delimiter", type=int, default=151_643)
    parser.add_argument("--model", default="hash-model")
    parser.add_argument("--fault", action="append", default=[])
    options = parser.parse_args()
    Handler.app = Server(options)
    if "refuse" in Handler.app.faults:
        sys.stdout.write("refused: no such mask on this device\n")
        sys.exit(1)
    if "broken" in options.model:
        sys.stdout.write("reshape((2, -1, 8, 128))\n")
        sys.exit(3)
    if "memory_error" in Handler.app.faults:
        raise ValueError("Loaded weights leave no GPU memory for the cache")
    if "exit" in Handler.app.faults:
        sys.stdout.write("cannot allocate 96 GiB\n")
        sys.exit(int(Handler.app.faults["exit"]))
    if "workers" in Handler.app.faults:
        command = [sys.executable, "-I", "-S", "-c", WORKER]
        subprocess.Popen(command, start_new_session=True)
        subprocess.Popen(command, process_group=0)
    with Listener(("127.0.0.1", options.port), Handler) as server:
        server.daemon_threads = True
        sys.stdout.write(f"serving on {server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
