"""The HTTP client of the scoring wire, and the taxonomy of how a request can fail."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.transport.address import SCORE_PATH, Address
from pytest_multiitem.transport.bounded import (
    ANSWER_LIMIT,
    AsyncBoundedTransport,
    BoundedTransport,
    OversizedAnswer,
)
from pytest_multiitem.untrusted.secrets import Secret, redacted, without, without_credentials, without_secrets
from pytest_multiitem.untrusted.words import plain

Scores = NDArray[np.float64]

#: Where servers tell the arguments they run with, and, failing that, at least the model.
_INFO_PATHS = ("/get_server_info", "/server_info")
_MODEL_PATHS = ("/model_info", "/v1/models")
#: Seconds in which a server tells who it is, all its paths together; one that does not is not asked again.
_INFO_TIMEOUT = 30.0
#: Bytes of an answer for each score, white space included, and beside them.
_SCORE_BYTES = 64
#: Numbers in an answer of two rows of a head, at most: it may have thousands of classes.
_PROBED = 1_000_000
_BASE_BYTES = 256 * 1024
#: Values in what a server tells of itself, and in an answer beside 4 for each score: each takes far more memory than
#: the two bytes that it may have.
_VALUES, _FURTHER_VALUES = 100_000, 10_000
#: How deep a server's JSON may nest, and how long a text or a name in it may be; of longer ones the beginning is kept.
_DEPTH, _TEXT = 64, 4096
#: Characters of an answer that a message quotes, and those that are looked through for secrets before.
_QUOTED, _SCANNED = 300, 8192


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
        self.message = str(self).removeprefix(f"{kind.value}: ")
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


#: How often a busy server is asked again, and the seconds that it may ask for each time.
_ASKED_AGAIN, _LONGEST_PAUSE = 3, 5

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

    ``url`` may have a path prefix, and user and password, which then stand in no address any more. ``timeout``: seconds
    one request may take, from its first byte to the last of the answer. ``api_key``: sent as a bearer token.
    ``ca_file``: certificate authorities to trust instead of the usual ones. Raises UsageError for a ``ca_file`` that
    holds none, and for what is no address. ``heard``: is told every answer that is read. A subclass speaks another wire
    to the same end; ``path``: its endpoint.
    """

    path: ClassVar[str] = SCORE_PATH

    def __init__(
        self, url: str, *, timeout: float = 180.0, api_key: str | None = None, ca_file: Path | None = None
    ) -> None:
        self.address = _address(url)
        self.url = str(self.address)
        self.heard: Listener | None = None
        self._timeout = timeout
        self._arguments: dict[str, Any] = {"timeout": timeout, "api_key": api_key, "ca_file": ca_file}
        transport = BoundedTransport(_trust(self.address, ca_file))
        self._http = httpx.Client(transport=transport, **_settings(self.address, timeout, api_key))
        self._info_paths: tuple[str, ...] = _INFO_PATHS
        self._model_paths: tuple[str, ...] = _MODEL_PATHS

    def another(self) -> Self:
        """A further connection to the same server with the same credentials, for requests beside this one's."""
        client = type(self)(self.address, **self._arguments)
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

    def try_out(self, labels: Sequence[int], *, delimiter: int | None) -> None:
        """Send one small request of a kind that every such server answers; ``delimiter``: no part of it. Raises
        ScoreFailure."""
        ids = [token for token in range(11, 18) if token != delimiter]
        query, items = ids[:3], [ids[3:4], ids[4:6]]
        try:
            self.score(query, items, labels)
        except ScoreFailure as failure:
            if failure.kind is not FailureKind.BAD_RESPONSE or not self._classifies(query, items):
                raise

    def _classifies(self, query: Sequence[int], items: Sequence[Sequence[int]]) -> bool:
        """Whether a request without labels gets a row of one length for each item, as from a classification head."""
        body = msgspec.json.encode({"model": "default", "query": query, "items": items})
        try:
            rows = msgspec.json.decode(self.ask(self.path, body, numbers=_PROBED))["scores"]
            widths = {len(row) for row in rows}
        except (ScoreFailure, LookupError, TypeError):
            return False
        return len(rows) == len(items) and len(widths) == 1

    def send(self, request: PreparedRequest) -> Scores:
        """Send an encoded request and check its answer; a server that is busy, and says when to come again, is asked
        again a few times. Raises ScoreFailure."""
        return self.read(self._patiently(lambda: self.build(request)), request)

    def ask(self, path: str, body: bytes, *, numbers: int) -> bytes:
        """The JSON of an answer to what is no plain scoring request, of a status of 200; ``numbers``: how many it may
        have, beside words. Raises ScoreFailure, as `send` does."""
        limit = {ANSWER_LIMIT: _BASE_BYTES + _SCORE_BYTES * numbers}
        response = self._patiently(lambda: self._http.build_request("POST", path, content=body, extensions=limit))
        if (failure := _refusal(response)) is not None:
            raise failure
        try:
            msgspec.json.decode(str(response.content, "utf-8"))
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or too deep
            message = f"{error}; the body begins '{quoted(response)}'"
            raise ScoreFailure(FailureKind.BAD_JSON, message, 200) from None
        return response.content

    def _patiently(self, build: Callable[[], httpx.Request]) -> httpx.Response:
        """The answer of a server that may be busy for a while. Raises ScoreFailure where none comes."""
        end = time.monotonic() + self._timeout
        response = self._send(build())
        for _ in range(_ASKED_AGAIN):
            pause = _pause(response)
            if pause is None or time.monotonic() + pause > end:
                break
            time.sleep(pause)
            response = self._send(build())
        return response

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
        return build(self._http, request)

    def server_info(self) -> dict[str, Any] | None:
        """The arguments the server runs with and what it has executed, from ``/get_server_info`` or ``/server_info``;
        None where it does not say. Later calls ask the one that answered, and nothing where both answered without.

        Its words are `untrusted.words.plain`, and no secret is among them.
        """
        for path, info in self._infos(self._info_paths):
            if info:
                self._info_paths = (path,)
                return info
        return None

    def model_info(self) -> dict[str, Any] | None:
        """The served model, from ``/model_info`` or the first of ``/v1/models``; None where neither says."""
        for _, info in self._infos(self._model_paths):
            models = info.get("data")
            if isinstance(models, list):
                first = next(iter(models), None)
                info = {**first, "served_model_name": first.get("id")} if isinstance(first, dict) and first else {}
            if info:
                return info
        return None

    def _infos(self, paths: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the server says at each path, {} where it says nothing. One that answers neither, or not in time, is not
        asked for its arguments again."""
        end = time.monotonic() + min(self._timeout, _INFO_TIMEOUT)
        silent = False
        try:
            for path in paths:
                left = max(end - time.monotonic(), 1e-3)
                info = told(self._http.get(path, timeout=left))
                yield path, info if isinstance(info, dict) else {}
            silent = paths == _INFO_PATHS
        except (httpx.TimeoutException, OversizedAnswer):
            silent = True
            self._model_paths = ()
        except httpx.HTTPError:  # perhaps it is only starting
            return
        finally:
            if silent:
                self._info_paths = ()

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
            raise failure_of(error, request) from None


def _pause(response: httpx.Response) -> float | None:
    """Seconds after which a server that refused for its load wants to be asked again; None where it says nothing of the
    kind, or something far away."""
    if response.status_code != 503:
        return None
    try:
        seconds = int(response.headers.get("retry-after", ""))
    except ValueError:  # a date, or nothing
        return None
    return seconds if 0 <= seconds <= _LONGEST_PAUSE else None


def async_client(
    url: str, *, timeout: float, limits: httpx.Limits, api_key: str | None = None, ca_file: Path | None = None
) -> httpx.AsyncClient:
    """A client for requests that overlap; arguments and limits as those of `ScoreClient`, and how many connections."""
    address = _address(url)
    transport = AsyncBoundedTransport(_trust(address, ca_file), limits)
    return httpx.AsyncClient(transport=transport, **_settings(address, timeout, api_key))


def build(http: httpx.Client | httpx.AsyncClient, request: PreparedRequest) -> httpx.Request:
    """An encoded request for a client's server, which knows how large its answer may be."""
    limit = _BASE_BYTES + _SCORE_BYTES * request.num_items * max(1, request.num_labels)
    return http.build_request("POST", SCORE_PATH, content=request.body, extensions={ANSWER_LIMIT: limit})


def _address(url: str) -> Address:
    try:
        return Address(url)
    except ValueError as error:
        raise UsageError(f"the address {without_credentials(url)!r} is not valid: {error}") from None


def _settings(address: Address, timeout: float, api_key: str | None) -> dict[str, Any]:
    """The arguments of an httpx client, sync or async."""
    headers: dict[str, str] = {"content-type": "application/json", "accept-encoding": "identity"}
    if api_key is not None:
        headers["authorization"] = Secret(f"Bearer {api_key}")
    login = None if address.login is None else httpx.BasicAuth(*address.login)
    return {"base_url": str(address), "timeout": timeout, "headers": headers, "auth": login, "trust_env": False}


def failure_of(error: httpx.HTTPError, request: httpx.Request) -> ScoreFailure:
    """What it means for a request that no answer came, or one that is none."""
    words = without(repr(error), _secrets_of(request))
    if isinstance(error, httpx.TimeoutException):
        return ScoreFailure(FailureKind.TIMEOUT, f"{request.url} did not answer in time ({words})")
    unusable = isinstance(error, OversizedAnswer | httpx.DecodingError)
    kind = FailureKind.BAD_RESPONSE if unusable else FailureKind.CONNECTION
    return ScoreFailure(kind, f"{request.url}: {words}")


def _trust(address: Address, ca_file: Path | None) -> ssl.SSLContext | None:
    """Whom to trust; loading certificates takes 60 ms, and only https needs them."""
    if not address.startswith("https:"):
        return None
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{ca_file} holds no certificate authority that can be used: {error}") from None


def quoted(response: httpx.Response) -> str:
    """The beginning of an answer's body for a message: harmless words, without what the request kept secret."""
    text = response.text[: _SCANNED + 1]
    shown = plain(without_secrets(without(text, _secrets(response))))
    return (shown if len(text) <= _SCANNED else shown[:-_TEXT])[:_QUOTED]  # a secret may be cut at the end


def told(response: httpx.Response) -> Any:
    """The JSON of an answer, without secrets, in harmless words and numbers that others can read; None where the status
    is not 200, and for what is no JSON, nests too deep or has too many values."""
    if response.status_code != 200 or response.content.count(b",") > _VALUES:
        return None
    try:
        value = msgspec.json.decode(response.content)
    except (ValueError, RecursionError):
        return None
    inner = [value]
    for _ in range(_DEPTH):
        inner = [entry for each in inner for entry in _entries(each)]
        if not inner:
            return _harmless(redacted(value), _secrets(response))
    return None


def _entries(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _harmless(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {_word(name, secrets): _harmless(entry, secrets) for name, entry in value.items()}
    if isinstance(value, list):
        return [_harmless(entry, secrets) for entry in value]
    if isinstance(value, int) and value.bit_length() > 63:
        return f"a number of {value.bit_length()} bits"
    return _word(value, secrets) if isinstance(value, str) else value


def _word(text: str, secrets: Sequence[str]) -> str:
    return plain(without(text, secrets)[:_TEXT])


def _secrets(response: httpx.Response) -> tuple[str, ...]:
    with suppress(RuntimeError):  # it answers no request
        return _secrets_of(response.request)
    return ()


def _secrets_of(request: httpx.Request) -> tuple[str, ...]:
    """What a request carries that no answer to it may bring into a message or a file."""
    _, _, value = request.headers.get("authorization", "").partition(" ")
    with suppress(ValueError):  # a login is encoded, and a key is not
        login = base64.b64decode(value, validate=True).decode()
        return (value, login, login.partition(":")[2])
    return (value,)


class _Answer(msgspec.Struct):
    scores: list[list[float]] | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_SCORES = '"scores"'


def read_scores(response: httpx.Response, request: PreparedRequest) -> Scores:
    """The scores [N, K] of an answer.

    Raises ScoreFailure for a status other than 200, a body that is no JSON, an error body under
    status 200, a wrong shape, and scores that are no finite numbers.
    """
    most = _FURTHER_VALUES + 4 * request.num_items * max(1, request.num_labels)
    found = _rows(response, most, f"expected {request.num_items} rows of {request.num_labels} scores")
    if isinstance(found, ScoreFailure):  # raised where no variable holds the body: a traceback may show variables
        raise found
    if len(found) != request.num_items or any(len(row) != request.num_labels for row in found):
        lengths = " or ".join(map(str, sorted({len(row) for row in found})))
        got = f"{len(found)} rows" + (f" of {lengths}" if found else "")
        wanted = f"expected {request.num_items} rows of {request.num_labels} scores"
        raise ScoreFailure(FailureKind.BAD_RESPONSE, f"{wanted}, got {got}: {quoted(response)}", 200)
    return np.array(found, dtype=np.float64).reshape(request.num_items, request.num_labels)


def _rows(response: httpx.Response, most: int, wanted: str) -> list[list[float]] | ScoreFailure:
    """The rows of an answer, finite numbers, or why there are none; ``most``: values that it may have."""
    if (refusal := _refusal(response)) is not None:
        return refusal
    if response.content.count(b",") > most:
        return ScoreFailure(FailureKind.BAD_RESPONSE, f"{wanted}, got more than {most} values: {quoted(response)}", 200)
    try:
        text = str(response.content, "utf-8")  # of what is no score, the typed decoder would let any bytes pass
        try:
            rows = _ANSWER.decode(text).scores  # finite, or refused
        except msgspec.ValidationError as error:
            msgspec.json.decode(text)  # what is no JSON further on is refused as such
            return ScoreFailure(
                FailureKind.BAD_RESPONSE, f"{wanted}: {error}; the body begins '{quoted(response)}'", 200
            )
        repeated = (text.count(_SCORES) > 1 or "\\u" in text) and _repeats_scores(text)
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or too deep
        return ScoreFailure(FailureKind.BAD_JSON, f"{error}; the body begins '{quoted(response)}'", 200)
    if rows is None:
        return ScoreFailure(FailureKind.BAD_RESPONSE, f"HTTP 200 without scores: {quoted(response)}", 200)
    if repeated:
        return ScoreFailure(FailureKind.BAD_RESPONSE, f"HTTP 200 with scores twice: {quoted(response)}", 200)
    return rows


def _refusal(response: httpx.Response) -> ScoreFailure | None:
    """What an answer of another status than 200 is."""
    if response.status_code == 200:
        return None
    out_of_memory = any(word in response.text.lower() for word in ("out of memory", "resource_exhausted"))
    kind = FailureKind.OOM if out_of_memory else FailureKind.HTTP_ERROR
    return ScoreFailure(kind, f"HTTP {response.status_code}: {quoted(response)}", response.status_code)


def _repeats_scores(text: str) -> bool:
    """Whether an object has two fields named scores: every reader of JSON takes one of them, and not all the same."""

    def repeats(pairs: list[tuple[str, Any]]) -> bool:
        return sum(name == "scores" for name, _ in pairs) > 1

    return json.loads(text, object_pairs_hook=repeats) is True
