"""vLLM's endpoints without a model, in a thread on 127.0.0.1: what it answers, what it refuses, what it cuts.

A probability is a hash of the tokens that are scored, so that any other token gives another one. Text is its bytes,
with a special token in front unless a request says no.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BOS, MOST_LABELS = 3, 20
VERSION = "0.32.0"


def probability(tokens: Sequence[int], label: int) -> float:
    """Of a label over the whole vocabulary, behind some tokens: 0.002 to 0.006."""
    digest = hashlib.blake2b(repr((list(tokens), label)).encode(), digest_size=8).digest()
    return 0.002 + 0.004 * int.from_bytes(digest, "big") / 2**64


def relevance(query: str, text: str) -> float:
    """Of a document, 0.2 to 0.6; query and document are joined without anything between them."""
    return 100 * probability(list((query + text).encode()), 0)


class Refused(Exception):
    """A request that is answered with 400."""


@dataclass
class FakeVllm:
    """``fault``: what it does wrong. ``calls``: path and body of each POST. ``url``: where it listens.
    ``refuses_long``: where the engine cuts a prompt without a word."""

    fault: str = ""
    max_model_len: int = 64
    root: str = "/models/tiny"
    refuses_long: bool = False
    calls: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    def get(self, path: str) -> dict[str, Any] | None:
        if path == "/health":
            return {}
        if path == "/version" and self.fault != "silent":
            return {"version": VERSION}
        if path == "/v1/models" and self.fault != "silent":
            served = {"id": "tiny", "object": "model", "root": self.root, "max_model_len": self.max_model_len}
            return {"object": "list", "data": [served]}
        return None

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        self.calls.append((path, body))
        if body.get("model") not in (None, "tiny"):
            return None
        if path == "/generative_scoring":
            return self._scored(body)
        if path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            return self._ranked(body)
        if path == "/classify":
            return self._classified(body["input"])
        return None

    def _classified(self, texts: Sequence[str]) -> dict[str, Any]:
        weights = [[probability(list(text.encode()), label) for label in range(3)] for text in texts]
        if self.fault == "blend":
            weights = [[0.9 * a + 0.1 * b for a, b in zip(own, weights[max(at - 1, 0)], strict=True)]
                       for at, own in enumerate(weights)]  # fmt: skip
        rows = [[each / sum(row) for each in row] for row in weights]
        if self.fault == "turned":
            rows = rows[::-1]
        data = [{"index": at, "label": "LABEL_0", "probs": row, "num_classes": 3} for at, row in enumerate(rows)]
        return {"object": "list", "id": "c-1", "model": "tiny", "data": data, "usage": None}

    def _scored(self, body: Mapping[str, Any]) -> dict[str, Any]:
        labels, items = body["label_token_ids"], body["items"]
        if not labels or len(labels) > MOST_LABELS or min(labels) < 0:
            raise Refused(f"label_token_ids must have 1 to {MOST_LABELS} ids of the vocabulary")
        special = body.get("add_special_tokens", True)
        query = _ids(body["query"], special)
        contents = [_ids(item, special) for item in items]
        scores = []
        for place, item in enumerate(contents):
            tokens = [*item, *query] if body.get("item_first") else [*query, *item]
            if self.fault == "leak" and place:
                tokens = [*query, *contents[place - 1], *item]
            if self.refuses_long and len(tokens) >= self.max_model_len:
                raise Refused(f"a prompt of {len(tokens)} tokens is over the limit of {self.max_model_len}")
            tokens = tokens[: self.max_model_len - 1]
            if self.fault == "salt" and body.get("cache_salt"):
                tokens = [*tokens, 1]
            shares = [probability(tokens, label) for label in labels]
            chosen = shares[-1] if self.fault == "last label" else shares[0]
            softmax = body.get("apply_softmax", self.fault != "plain by default")
            scores.append(chosen / sum(shares) if softmax else chosen)
        data = [{"index": place, "object": "score", "score": score} for place, score in enumerate(scores)]
        if self.fault == "short":
            data.pop()
        if self.fault == "twice":
            data[-1]["index"] = 0
        if self.fault == "turned":
            data.reverse()
        return {"object": "list", "id": "g-1", "created": 1, "model": "tiny", "data": data, "usage": None}

    def _ranked(self, body: Mapping[str, Any]) -> dict[str, Any]:
        texts = body["documents"]
        scores = [relevance(body["query"], text) for text in texts]
        order = sorted(range(len(scores)), key=lambda at: -scores[at])
        results = [{"index": at, "document": {"text": texts[at]}, "relevance_score": scores[at]} for at in order]
        return {"id": "r-1", "model": "tiny", "results": results[: body.get("top_n") or None], "usage": None}


def _ids(content: Any, special: bool) -> list[int]:
    return [*([BOS] if special else []), *content.encode()] if isinstance(content, str) else list(content)


@contextmanager
def serving(answers: Any) -> Iterator[str]:
    """The address of a server whose ``get(path)`` and ``post(path, body)`` give JSON, None for a 404, or raise
    Refused."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65_536  # head and body in one packet

        def do_GET(self) -> None:
            self._answer(lambda: answers.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._answer(lambda: answers.post(self.path, body))

        def _answer(self, ask: Any) -> None:
            try:
                found = ask()
                status, found = (404, {"detail": "Not Found"}) if found is None else (200, found)
            except Refused as reason:
                status, found = 400, {"error": {"message": str(reason), "type": "BadRequestError", "code": 400}}
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
