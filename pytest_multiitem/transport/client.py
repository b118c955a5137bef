"""The HTTP client of the scoring wire, and the taxonomy of how a request can fail."""

from __future__ import annotations

import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.errors import MultiItemError, UsageError

Scores = NDArray[np.float64]

SCORE_PATH = "/v1/score"
#: Where servers tell the arguments they run with, and, failing that, at least the model.
_INFO_PATHS = ("/get_server_info", "/server_info")
_MODEL_PATHS = ("/model_info", "/v1/models")


class FailureKind(StrEnum):
    """Why a request gave no scores, or wrong ones; the names are those of the matrix's failure counts."""

    TIMEOUT = "timeout"
    OOM = "oom"
    HTTP_ERROR = "http_error"
    BAD_JSON = "bad_json"
    BAD_RESPONSE = "bad_response"
    CONNECTION = "connection"
    WRONG_SCORES = "wrong_scores"


class ScoreFailure(MultiItemError):
    """A scoring request failed. ``kind`` classifies it; ``status`` is the HTTP status, if one came."""

    def __init__(self, kind: FailureKind, message: str, status: int | None = None) -> None:
        super().__init__(f"{kind.value}: {message}")
        self.kind = kind
        self.message = message
        self.status = status


@dataclass(frozen=True)
class PreparedRequest:
    """An encoded request, and what is in it: ``query`` and ``items`` as token ids, K ``labels``."""

    body: bytes
    query: tuple[int, ...]
    items: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]
    apply_softmax: bool = True
    item_first: bool = False

    @property
    def num_items(self) -> int:
        """N, the rows that its answer must have."""
        return len(self.items)

    @property
    def num_labels(self) -> int:
        """K, the scores of each row."""
        return len(self.labels)


#: Called with a request and its scores [N, K], once they are read.
Listener = Callable[[PreparedRequest, Scores], None]


def prepare(
    query: Sequence[int],
    items: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    apply_softmax: bool = True,
    item_first: bool = False,
    model: str = "default",
) -> PreparedRequest:
    """Encode a request, so that no time is spent on it while a clock runs."""
    body = {
        "model": model,
        "query": list(query),
        "items": [list(item) for item in items],
        "label_token_ids": list(labels),
        "apply_softmax": apply_softmax,
    } | ({"item_first": True} if item_first else {})
    return PreparedRequest(
        msgspec.json.encode(body), tuple(query), tuple(map(tuple, items)), tuple(labels), apply_softmax, item_first
    )


class ScoreClient:
    """One warm keep-alive connection to a scoring server at ``url``. Not thread-safe.

    ``url`` may have a path prefix. ``timeout``: seconds one request may take. ``api_key``: sent as a
    bearer token. ``ca_file``: certificate authorities to trust instead of the usual ones. Raises
    UsageError for a ``ca_file`` that holds none. ``heard``: is told every answer that is read.
    """

    def __init__(
        self, url: str, *, timeout: float = 180.0, api_key: str | None = None, ca_file: Path | None = None
    ) -> None:
        self.url = url
        self.heard: Listener | None = None
        self._arguments: dict[str, Any] = {"timeout": timeout, "api_key": api_key, "ca_file": ca_file}
        self._http = httpx.Client(**http_settings(url, **self._arguments))
        self._info_paths: tuple[str, ...] = _INFO_PATHS

    def another(self) -> Self:
        """A further connection to the same server with the same credentials, for requests beside this one's."""
        client = type(self)(self.url, **self._arguments)
        client.heard = self.heard
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def score(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int], *, apply_softmax: bool = True
    ) -> Scores:
        """The scores [N, K] of one request. Raises ScoreFailure."""
        return self.send(prepare(query, items, labels, apply_softmax=apply_softmax))

    def send(self, request: PreparedRequest) -> Scores:
        """Send an encoded request and check its answer. Raises ScoreFailure."""
        return self.read(self._send(self.build(request)), request)

    def read(self, response: httpx.Response, request: PreparedRequest) -> Scores:
        """The scores [N, K] of an answer; whoever listens is told. Raises ScoreFailure, as `read_scores` does."""
        scores = read_scores(response, request)
        if self.heard is not None:
            self.heard(request, scores)
        return scores

    def timed_send(self, request: PreparedRequest) -> tuple[float, httpx.Response]:
        """Seconds from sending an encoded request to its last byte, and the unread answer."""
        built = self.build(request)
        start = time.perf_counter()
        response = self._send(built)
        return time.perf_counter() - start, response

    def build(self, request: PreparedRequest) -> httpx.Request:
        """An encoded request with its address and headers: what is left to do is to send it."""
        return self._http.build_request("POST", SCORE_PATH, content=request.body)

    def server_info(self) -> dict[str, Any] | None:
        """The arguments the server runs with and what it has executed, from ``/get_server_info`` or ``/server_info``;
        None where it does not say. Later calls ask the one that answered, and nothing where both answered without.
        """
        with suppress(httpx.HTTPError):
            for path in self._info_paths:
                if (info := _object(self._http.get(path))) is not None:
                    self._info_paths = (path,)
                    return info
            if self._info_paths == _INFO_PATHS:
                self._info_paths = ()
        return None

    def model_info(self) -> dict[str, Any] | None:
        """The served model, from ``/model_info`` or the first of ``/v1/models``; None where neither says."""
        with suppress(httpx.HTTPError):
            for path in _MODEL_PATHS:
                info = _object(self._http.get(path)) or {}
                models = info.get("data")
                if isinstance(models, list):
                    info = {**models[0], "served_model_name": models[0].get("id")} if models and models[0] else {}
                if info:
                    return info
        return None

    def get(self, path: str) -> httpx.Response:
        """A plain GET. Raises ScoreFailure where no answer comes."""
        return self._send(self._http.build_request("GET", path))

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """A POST of a JSON object. Raises ScoreFailure where no answer comes."""
        return self._send(self._http.build_request("POST", path, content=msgspec.json.encode(body)))

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return self._http.send(request)
        except httpx.HTTPError as error:
            raise failure_of(error, request.url) from None


def http_settings(
    url: str, *, timeout: float, api_key: str | None = None, ca_file: Path | None = None
) -> dict[str, Any]:
    """How a scoring server is connected to: the arguments of an httpx client, sync or async.

    Raises UsageError for a ``ca_file`` that holds no certificate authority.
    """
    headers = {"content-type": "application/json"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    return {
        "base_url": url,
        "timeout": httpx.Timeout(timeout, connect=10.0),
        "headers": headers,
        "trust_env": False,
        "verify": _trust(ca_file) if url.startswith("https:") else False,  # loading certificates takes 60 ms
    }


def failure_of(error: httpx.HTTPError, url: httpx.URL) -> ScoreFailure:
    """What it means for a request to ``url`` that no answer came. A password in the address is left out."""
    address = url.copy_with(userinfo=b"")
    if isinstance(error, httpx.TimeoutException):
        return ScoreFailure(FailureKind.TIMEOUT, f"{address} did not answer in time ({error!r})")
    return ScoreFailure(FailureKind.CONNECTION, f"{address}: {error!r}")


def _trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{ca_file} holds no certificate authority that can be used: {error}") from None


class _Answer(msgspec.Struct):
    scores: list[list[float]] | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


def read_scores(response: httpx.Response, request: PreparedRequest) -> Scores:
    """The scores [N, K] of an answer.

    Raises ScoreFailure for a status other than 200, a body that is no JSON, an error body under
    status 200, a wrong shape, and scores that are no finite numbers.
    """
    if response.status_code != 200:
        out_of_memory = any(word in response.text.lower() for word in ("out of memory", "resource_exhausted"))
        kind = FailureKind.OOM if out_of_memory else FailureKind.HTTP_ERROR
        raise ScoreFailure(kind, f"HTTP {response.status_code}: {response.text[:300]}", response.status_code)
    wanted = f"expected {request.num_items} rows of {request.num_labels} scores"
    try:
        text = str(response.content, "utf-8")  # of what is no score, the typed decoder would let any bytes pass
        try:
            rows = _ANSWER.decode(text).scores  # finite, or refused
        except msgspec.ValidationError as error:
            msgspec.json.decode(text)  # what is no JSON further on is refused as such
            message = f"{wanted}: {error}; the body begins {text[:300]!r}"
            raise ScoreFailure(FailureKind.BAD_RESPONSE, message, 200) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"{error}; the body begins {response.text[:300]!r}"
        raise ScoreFailure(FailureKind.BAD_JSON, message, 200) from None
    if rows is None:
        raise ScoreFailure(FailureKind.BAD_RESPONSE, f"HTTP 200 without scores: {response.text[:300]}", 200)
    if len(rows) != request.num_items or any(len(row) != request.num_labels for row in rows):
        lengths = " or ".join(map(str, sorted({len(row) for row in rows})))
        got = f"{len(rows)} rows" + (f" of {lengths}" if rows else "")
        raise ScoreFailure(FailureKind.BAD_RESPONSE, f"{wanted}, got {got}: {response.text[:300]}", 200)
    return np.array(rows, dtype=np.float64).reshape(request.num_items, request.num_labels)


def _object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        content = response.json() if response.status_code == 200 else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Raise ScoreFailure (timeout) inside the block once it has taken ``seconds``: a server that sends a byte now and
    then outlasts every socket timeout.

    By the interval timer, so only in the main thread of a POSIX process; elsewhere the block runs unlimited.
    A timer that runs already goes on afterwards.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def expire(number: int, frame: FrameType | None) -> NoReturn:
        raise ScoreFailure(FailureKind.TIMEOUT, f"{what} gave no whole answer within {seconds:g} s")

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, expire)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), interval)
