"""A scoring server as the gates see it: who it is, how to ask it, and what it attests to have run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_multiitem.client import FailureKind, ScoreClient, ScoreFailure, Scores
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.layout import Semantics
from pytest_multiitem.servers.engines import Profile
from pytest_multiitem.servers.process import RunningServer

#: Seconds from a broken connection until a dead server's guard has told of its end.
_DEATH = 2.0
#: The mask of a server that cannot say what it executed.
UNATTESTED = "unattested"


@dataclass
class Attestation:
    """What a server says it executed for the requests of one measurement.

    ``mask``: "dense", "segment", "prefill+extend", "serial", several joined by "+", "none", or
    "unattested" where the server cannot say. ``problem``: how that differs from what was asked.
    """

    mask: str = UNATTESTED
    packed_sequences: int = 0
    packed_items: int = 0
    problem: str | None = None

    @property
    def items_per_sequence(self) -> float | None:
        """The mean number of items of a packed sequence; None where nothing is known to be packed."""
        return self.packed_items / self.packed_sequences if self.packed_sequences else None

    @classmethod
    def joined(cls, parts: Sequence[Attestation]) -> Attestation:
        """One attestation for the requests of several blocks; of no block, nothing is attested."""
        masks = dict.fromkeys(part.mask for part in parts) or (UNATTESTED,)
        problems = dict.fromkeys(part.problem for part in parts if part.problem)
        return cls(
            "+".join(masks),
            sum(part.packed_sequences for part in parts),
            sum(part.packed_items for part in parts),
            "; ".join(problems) or None,
        )


@dataclass(eq=False)
class Target:
    """A scoring server, started by this run (``server``) or by someone else (attached).

    ``memo``: what was measured of it once and serves several gates of this process.
    """

    profile: Profile
    engine: str
    client: ScoreClient
    server: RunningServer | None = None
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self.client.url

    @property
    def owned(self) -> bool:
        """Whether this run started the server, and so may stop it."""
        return self.server is not None

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """What the server said of itself when first asked; empty where it cannot say."""
        return self.client.server_info() or {}

    @property
    def model(self) -> str | None:
        """The served model, as the server names it."""
        model = self.info.get("model_path") or self.info.get("served_model_name")
        return None if model is None else str(model)

    @property
    def dtype(self) -> str | None:
        """The served precision."""
        dtype = self.info.get("dtype")
        return None if dtype is None else str(dtype)

    @property
    def vocab_size(self) -> int | None:
        """The served vocabulary, in tokens; None where the server does not say."""
        size = self.info.get("vocab_size")
        return size if isinstance(size, int) else None

    @property
    def tokenizer_file(self) -> Path | None:
        """The served model's tokenizer.json, where it lies on this machine."""
        path = Path(self.model or "") / "tokenizer.json"
        return path if self.model and path.is_file() else None

    def score(self, case: Case) -> Scores:
        """The softmax scores [N, K] of a case. Raises ScoreFailure, or ServerDied with the log's end."""
        return self.score_ids(case.query, case.items, case.labels)

    def score_ids(
        self,
        query: Sequence[int],
        items: Sequence[Sequence[int]],
        labels: Sequence[int],
        *,
        apply_softmax: bool = True,
    ) -> Scores:
        """The scores [N, K] of a request. Raises ScoreFailure, or ServerDied with the log's end."""
        with self.watch():
            return self.client.score(query, items, labels, apply_softmax=apply_softmax)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Turn a broken connection into ServerDied, with the log's end, where the server has ended."""
        try:
            yield
        except ScoreFailure as failure:
            if self.server is not None and failure.kind is FailureKind.CONNECTION:
                self.server.check_alive(patience=_DEATH)
            raise

    @contextmanager
    def attest(self) -> Iterator[Attestation]:
        """Watch what the server executes for the requests made inside the block."""
        attestation = Attestation()
        before = _executed(self.client.server_info())
        yield attestation
        after = _executed(self.client.server_info())
        if before is None or after is None:
            return
        packed = {mask: after[0][mask] - before[0].get(mask, 0) for mask in after[0]}
        items = {mask: after[1][mask] - before[1].get(mask, 0) for mask in after[1]}
        paths = [mask for mask, count in packed.items() if count]
        if after[2] > before[2]:
            paths.append("prefill+extend")
        if after[3] > before[3]:
            paths.append("serial")
        attestation.mask = "+".join(paths) or "none"
        attestation.packed_sequences, attestation.packed_items = sum(packed.values()), sum(items.values())
        wanted = {
            "multi": {"dense", "segment"} if self.profile.mask_impl == "auto" else {self.profile.mask_impl},
            "extend": {"prefill+extend"},
            "serial": {"serial"},
        }[self.profile.role]
        if not paths or not set(paths) <= wanted:
            asked = " or ".join(sorted(map(str, wanted)))
            attestation.problem = f"{asked} was requested, but the server executed {attestation.mask}"


def declared_semantics(target: Target) -> Semantics:
    """The semantics that a multi-item server is declared to have."""
    if target.profile.semantics is None:
        raise ValueError(f"{target.profile.label} has no packed semantics")
    return target.profile.semantics


_Counts = tuple[Mapping[str, int], Mapping[str, int], int, int]


def _executed(info: Mapping[str, Any] | None) -> _Counts | None:
    """Counters of what ran: packed sequences and items by mask, extend items, serial sequences."""
    executed = (info or {}).get("executed")
    if not isinstance(executed, dict):
        return None
    try:
        return (
            dict(executed["packed_sequences"]),
            dict(executed["packed_items"]),
            int(executed["prefill_extend"]["items"]),
            int(executed["serial_sequences"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
