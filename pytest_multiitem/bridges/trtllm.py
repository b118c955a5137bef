"""Packed scoring of TensorRT-LLM, which has it in its process only, as a server of ``/v1/score``.

A request of N items becomes one prompt ``query D item_1 D … item_N D`` with ``multi_item_part_lens`` [1 + N], the
tokens of each part without its delimiter D, for ``LLM.encode`` (tensorrt_llm/llmapi/llm.py). The engine gives items the
positions that follow the query, and masks them from each other: semantics ``query_prefix``. Without a delimiter every
item is a sequence of its own behind the query.

Run by the engine's interpreter: ``python trtllm.py --model-path DIR --port N --multi-item-scoring-delimiter ID``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

log = logging.getLogger("trtllm-bridge")

#: A longer body is refused before it is read.
_MAX_BYTES = 64 * 2**20
#: Seconds that a client may leave its connection idle.
_IDLE = 30.0
_FLASHINFER = "FLASHINFER"


class Refused(Exception):
    """A request that is answered with an error: its HTTP status, its ``code`` and the field at fault."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """OpenAI's form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Request:
    """Token ids of a query, of N items and of K labels."""

    query: list[int]
    items: list[list[int]]
    labels: list[int]
    softmax: bool


@dataclass(frozen=True)
class Prompt:
    """One sequence for the engine. ``part_lens``: None where it is no packed one; ``readouts``: where each of its items
    is scored: at its last token."""

    ids: list[int]
    part_lens: list[int] | None
    readouts: list[int]

    def inputs(self) -> dict[str, Any]:
        """As ``LLM.encode`` takes it."""
        prompt: dict[str, Any] = {"prompt_token_ids": self.ids}
        return prompt if self.part_lens is None else {**prompt, "multi_item_part_lens": self.part_lens}


def packed(query: Sequence[int], items: Sequence[Sequence[int]], delimiter: int) -> Prompt:
    """All items in one sequence; every part ends with a delimiter, the last one too."""
    ids, readouts = [*query, delimiter], []
    for item in items:
        ids += item
        readouts.append(len(ids) - 1)
        ids.append(delimiter)
    return Prompt(ids, [len(query), *map(len, items)], readouts)


def alone(query: Sequence[int], item: Sequence[int]) -> Prompt:
    """One item behind the query."""
    return Prompt([*query, *item], None, [len(query) + len(item) - 1])


def parse(body: bytes, vocab_size: int | None, max_items: int) -> Request:
    """A request of token ids. Raises Refused, naming the field."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "invalid_json", "the body is no JSON") from None
    if not isinstance(fields, dict):
        raise Refused(400, "invalid_json", "the body is no JSON object")
    for name in ("temperature", "return_token_logprobs", "return_pooled_hidden_states", "score_extraction_token"):
        if fields.get(name):
            raise Refused(400, "unsupported", f"{name} is not supported by this bridge", name)
    if fields.get("item_first"):
        raise Refused(400, "unsupported", "item_first is not supported: items stand behind the query", "item_first")
    softmax = fields.get("apply_softmax")
    if softmax not in (None, True, False):
        raise Refused(400, "invalid_type", "apply_softmax must be true or false", "apply_softmax")
    query = _ids(fields.get("query"), "query", vocab_size)
    given = fields.get("items")
    if not isinstance(given, list) or not given:
        raise Refused(400, "invalid_type", "items must be a list of lists of token ids, one at least", "items")
    if len(given) > max_items:
        raise Refused(400, "too_many_items", f"{len(given)} items; at most {max_items} are taken", "items")
    items = [_ids(item, f"items[{number}]", vocab_size) for number, item in enumerate(given)]
    return Request(query, items, _ids(fields.get("label_token_ids"), "label_token_ids", vocab_size), softmax is True)


def _ids(value: Any, name: str, vocab_size: int | None) -> list[int]:
    if not isinstance(value, list) or not value or any(type(each) is not int for each in value):
        raise Refused(400, "invalid_type", f"{name} must be a list of token ids, one at least; text is not taken", name)
    for number, each in enumerate(value):
        if each < 0 or (vocab_size is not None and each >= vocab_size):
            below = "" if vocab_size is None else f" and below {vocab_size}"
            message = f"{name}[{number}] is {each}; token ids are 0 or more{below}"
            raise Refused(400, "token_out_of_range", message, f"{name}[{number}]")
    return value


class Scorer:
    """The engine, asked by one thread at a time. ``delimiter``: None scores serially; ``chunk``: items of a packed
    sequence, 0: all; ``batch``: sequences of one call. Counts what it has the engine run."""

    def __init__(self, llm: Any, *, delimiter: int | None, chunk: int, batch: int) -> None:
        self._llm, self._delimiter, self._chunk, self._batch = llm, delimiter, chunk, batch
        self._running = threading.Lock()
        self.packed_sequences = self.packed_items = self.serial_sequences = 0

    def scores(self, request: Request) -> list[list[float]]:
        """The scores [N][K]: full-vocabulary probabilities of the labels, or their softmax among each other. Raises
        Refused with the engine's words for what it does not take."""
        prompts = self._prompts(request)
        rows: list[list[float]] = []
        with self._running:
            for at in range(0, len(prompts), self._batch):
                part = prompts[at : at + self._batch]
                for prompt, logits in zip(part, self._encoded(part), strict=True):
                    rows += _read(logits, prompt.readouts, request)
                self._count(part)
        return rows

    def _prompts(self, request: Request) -> list[Prompt]:
        if self._delimiter is None:
            return [alone(request.query, item) for item in request.items]
        step = self._chunk or len(request.items)
        return [
            packed(request.query, request.items[at : at + step], self._delimiter)
            for at in range(0, len(request.items), step)
        ]

    def _encoded(self, prompts: Sequence[Prompt]) -> list[Any]:
        """The logits [T, V] of each prompt, where the engine has them."""
        try:
            outputs = self._llm.encode(
                [prompt.inputs() for prompt in prompts], batch_indexed_model_output=False, copy_logits_to_host=False
            )
        except ValueError as error:  # of its limits, and of what its attention backend cannot do
            raise Refused(400, "engine_refused", f"TensorRT-LLM refuses it: {error}") from None
        return [output.logits for output in outputs]

    def _count(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            if prompt.part_lens is None:
                self.serial_sequences += 1
            else:
                self.packed_sequences += 1
                self.packed_items += len(prompt.readouts)


def _read(logits: Any, readouts: Sequence[int], request: Request) -> list[list[float]]:
    vocabulary = logits.shape[-1]
    if max(request.labels) >= vocabulary:
        message = f"label_token_ids holds {max(request.labels)}; the vocabulary ends at {vocabulary - 1}"
        raise Refused(400, "token_out_of_range", message, "label_token_ids")
    shares = logits[list(readouts)].double().log_softmax(-1)[:, request.labels]
    rows: list[list[float]] = (shares.softmax(-1) if request.softmax else shares.exp()).tolist()
    return rows


class Handler(BaseHTTPRequestHandler):
    """``/v1/score``, ``/health``, ``/get_server_info``."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE
    server: Server

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, {})
        elif self.path in ("/get_server_info", "/server_info"):
            self._answer(200, self.server.info())
        else:
            self._answer(404, Refused(404, "not_found", f"{self.path} is not here").body())

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path != "/v1/score":
                raise Refused(404, "not_found", f"{self.path} is not here")
            self._answer(200, self.server.score(body))
        except Refused as refused:
            self._answer(refused.status, refused.body())
        except ConnectionError:
            self.close_connection = True
        except Exception:
            log.exception("a request has failed")
            self._answer(500, Refused(500, "internal_error", "the engine failed; the log has the details").body())

    def _body(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > _MAX_BYTES:
            self.close_connection = True  # what was not read would be taken for the next request
            raise Refused(413 if length.isdecimal() else 411, "bad_length", f"a body of at most {_MAX_BYTES} bytes")
        return self.rfile.read(int(length))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


class Server(ThreadingHTTPServer):
    """The bridge on a loopback address."""

    daemon_threads = True

    def __init__(self, args: argparse.Namespace, scorer: Scorer, told: dict[str, Any]) -> None:
        self._args, self._scorer, self._told = args, scorer, told
        super().__init__((args.host, args.port), Handler)

    def score(self, body: bytes) -> dict[str, Any]:
        """The answer to a request. Raises Refused."""
        request = parse(body, self._told["vocab_size"], self._args.max_multi_item_count)
        tokens = len(request.query) + sum(map(len, request.items))
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        scores = self._scorer.scores(request)
        return {"object": "scoring", "model": self._args.model_path, "scores": scores, "usage": usage}

    def info(self) -> dict[str, Any]:
        """The arguments, what they came to, and what was run."""
        mask = str(self._told["attention_backend"]).lower()
        return {
            **vars(self._args),
            **self._told,
            "multi_item_enable_prefill_extend": False,
            "executed": {
                "packed_sequences": {mask: self._scorer.packed_sequences},
                "packed_items": {mask: self._scorer.packed_items},
                "prefill_extend": {"items": 0},
                "serial_sequences": self._scorer.serial_sequences,
            },
        }


def _vocab_size(model: str) -> int | None:
    try:
        size = json.loads((Path(model) / "config.json").read_bytes()).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None
    return size if type(size) is int else None


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="trtllm-bridge", allow_abbrev=False)
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--host", default="127.0.0.1", choices=("127.0.0.1", "localhost"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tp-size", type=int, default=1)
    parser.add_argument("--attention-backend", default=_FLASHINFER)
    parser.add_argument("--multi-item-scoring-delimiter", type=int)
    parser.add_argument("--multi-item-scoring-chunk-size", type=int, default=0)
    parser.add_argument("--max-multi-item-count", type=int, default=4096)
    parser.add_argument("--max-multi-item-seq-len", type=int, default=16384)
    parser.add_argument("--max-batch-size", type=int, default=32)
    return parser.parse_args(argv)


def _loaded(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The engine, and what it says of itself."""
    engine = importlib.import_module("tensorrt_llm")
    llm = engine.LLM(
        model=args.model_path,
        dtype=args.dtype,
        tensor_parallel_size=args.tp_size,
        attn_backend=args.attention_backend,
        encode_only=True,
        max_num_tokens=args.max_multi_item_seq_len,
        max_seq_len=args.max_multi_item_seq_len,
        max_batch_size=args.max_batch_size,
    )
    backend = getattr(llm.args, "attn_backend", None) or args.attention_backend
    version = getattr(engine, "__version__", None)
    return llm, {"engine": "trtllm", "version": version, "attention_backend": backend,
                 "vocab_size": _vocab_size(args.model_path)}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Load the engine, then serve until SIGTERM or SIGINT; the exit code."""
    args = _arguments(argv)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    llm, told = _loaded(args)
    scorer = Scorer(
        llm,
        delimiter=args.multi_item_scoring_delimiter,
        chunk=args.multi_item_scoring_chunk_size,
        batch=args.max_batch_size,
    )
    with Server(args, scorer, told) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            # shutdown() waits for the loop, which the handler's own thread is in
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        log.info("serving %s on http://%s:%d", args.model_path, args.host, server.server_address[1])
        server.serve_forever(poll_interval=0.1)
    llm.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
