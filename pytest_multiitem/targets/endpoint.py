"""The server under evaluation: how it is asked in each mode, and who it says it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np

from pytest_multiitem.adapters.base import Engine, Profile, Role
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.parsers import parse_url
from pytest_multiitem.targets.deadline import deadline
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import PreparedRequest, ScoreClient, ScoreFailure, Scores

#: What of a server's own description is kept; the rest may hold keys and paths.
_TOLD = (
    "engine", "version", "backend", "device", "dtype", "vocab_size", "scoring_mode", "semantics", "tp_size",
    "attention_backend", "multi_item_mask_impl", "multi_item_scoring_chunk_size", "multi_item_scoring_delimiter",
    "multi_item_enable_prefill_extend", "multi_item_extend_batch_size", "enable_mis", "versions",
)  # fmt: skip


class WholeRequestClient(ScoreClient):
    """The multi-item side: all items in one request. Every request has a deadline.

    A server that does not describe itself is asked once only.
    """

    def __init__(self, url: str, *, timeout: float, api_key: str | None = None, ca_file: Path | None = None) -> None:
        super().__init__(url, timeout=timeout, api_key=api_key, ca_file=ca_file)
        self._timeout = timeout
        self._silent = False

    def send(self, request: PreparedRequest) -> Scores:
        """As `ScoreClient.send`."""
        with deadline(self._timeout, self.url):
            return super().send(request)

    def timed_send(self, request: PreparedRequest) -> tuple[float, httpx.Response]:
        """As `ScoreClient.timed_send`."""
        with deadline(self._timeout, self.url):
            return super().timed_send(request)

    def server_info(self) -> dict[str, Any] | None:
        """As `ScoreClient.server_info`; an answer that does not come in time is none."""
        if self._silent:
            return None
        info = None
        with suppress(ScoreFailure), deadline(self._timeout, f"{self.url}/get_server_info"):
            info = super().server_info()
        self._silent = info is None
        return info


class OneItemClient(WholeRequestClient):
    """The serial side: every item in a request of its own, so that nothing can be packed."""

    def score(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int], *, apply_softmax: bool = True
    ) -> Scores:
        """The scores [N, K] of N requests. Raises ScoreFailure."""
        rows = [super(OneItemClient, self).score(query, [i], labels, apply_softmax=apply_softmax) for i in items]
        return np.concatenate(rows)


#: The backend of a server of which nobody says what serves.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Said:
    """What the user says of the server; None: what it says itself counts. ``engine``: its adapter."""

    model: str | None = None
    backend: str | None = None
    semantics: str | None = None
    engine: Engine | None = None
    vocab_size: int | None = None


def connect(mode: Literal["multi", "serial"], client: ScoreClient, said: Said, delimiter: int) -> Target:
    """The server behind a client, with the profile that it is judged by.

    Raises UsageError where what the user says and what the server says of itself exclude each other.
    """
    info = client.server_info() or {}
    backend = told_backend(info)
    of = {"transformers": "pytorch"}.get(backend or "", backend)
    if said.backend is not None and of is not None and said.backend != of:
        raise UsageError(f"--backend {said.backend} was given, but {client.url} says it is {backend}")
    profile = Profile("serial", backend or said.backend or UNKNOWN)
    if mode == "multi":
        told = info.get("multi_item_scoring_delimiter")
        if isinstance(told, int) and told != delimiter:
            raise UsageError(
                f"{client.url} packs with the delimiter {told}; evaluate both sides with --delimiter {told}"
            )
        profile = _multi_profile(client.url, info, said, profile.backend)
    name = "url" if said.engine is None else said.engine.name
    target = Target(profile, name, client, adapter=said.engine, assumed_vocab_size=said.vocab_size)
    target.__dict__["info"] = info  # asked above; a cached property of the target
    return target


def told_backend(info: dict[str, Any]) -> str | None:
    """Which backend serves, where the server says so."""
    backend = info.get("backend")
    return backend if backend in ("jax", "pytorch", "transformers") else None


def told(target: Target) -> dict[str, Any]:
    """What the server says of itself, for the results."""
    return {name: target.info[name] for name in _TOLD if name in target.info}


def base_url(text: str) -> str:
    """An address without the endpoint's own path, which users of other tools give with it.

    Raises UsageError for what is no address.
    """
    try:
        return parse_url(text.rstrip("/").removesuffix("/v1/score"))
    except ValueError as error:
        raise UsageError(f"--url {text!r} is not valid: {error}") from None


def _multi_profile(url: str, info: dict[str, Any], said: Said, backend: str) -> Profile:
    role: Role = "extend" if info.get("multi_item_enable_prefill_extend") else "multi"
    own = info.get("semantics")
    semantics = said.semantics or (own.get("declared") if isinstance(own, dict) else None)
    if semantics is None:
        semantics = Semantics.QUERY_PREFIX if role == "extend" else Semantics.PREFIX_FIRST_DELIM
    known = [s.value for s in Semantics if s.has_serial_reference]
    if semantics not in known:
        raise UsageError(
            f"{url} declares the semantics {semantics!r}, which equals no serial scoring; name what it should be "
            f"compared with: --semantics {' or '.join(known)}"
        )
    mask, chunk = info.get("multi_item_mask_impl"), info.get("multi_item_scoring_chunk_size")
    return Profile(
        role,
        backend,
        mask if isinstance(mask, str) and role == "multi" else None,
        chunk if isinstance(chunk, int) and role == "multi" else None,
        Semantics(semantics),
    )
