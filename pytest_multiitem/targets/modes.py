"""Requests of the modes beside plain ids: which a server speaks, how they are sent, and answers of the right shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.adapters.classify import ClassifyClient
from pytest_multiitem.adapters.ranking import RerankClient
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.modes import ModeName, scoring_mode
from pytest_multiitem.scoring.wire.decisions import DecisionResponse, decode_decisions
from pytest_multiitem.scoring.wire.generative import decode_generative_scores
from pytest_multiitem.scoring.wire.rerank import Ranked, RerankRequest, decode_ranking
from pytest_multiitem.scoring.wire.score import ScoreRequest, decode_table
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

_Read = TypeVar("_Read")
#: Numbers beside the scores of an answer: those of what was counted.
_COUNTED = 1_000
#: Of the answer to a question: a prompt's ids among them.
_DECIDED = 100_000


def modes_of(target: Target) -> frozenset[ModeName] | None:
    """The modes that a server speaks: by its own word, else by its engine's adapter; None where nobody says."""
    said = target.info.get("modes")
    if isinstance(said, list):
        return frozenset(mode for mode in ModeName if mode.value in said)
    declared = () if target.adapter is None else target.adapter.spoken(target.info)
    return frozenset(declared) or None


def require_mode(target: Target, mode: ModeName) -> None:
    """Raises EngineUnavailable, with the reason, where a server does not speak a mode, or nobody says that it does."""
    spoken = modes_of(target)
    if spoken is None:
        raise EngineUnavailable(
            f"nobody says whether the {target.place} speaks mode {mode.value}: neither it, by modes in "
            f"/get_server_info, nor the adapter of engine {target.engine}"
        )
    if mode not in spoken:
        heads = " or ".join(scoring_mode(mode).heads)
        known = ", ".join(each.value for each in ModeName if each in spoken) or "none"
        raise EngineUnavailable(
            f"the {target.place} does not speak mode {mode.value}, which is for a {heads} model; it speaks {known}"
        )


def speaks(target: Target, mode: ModeName) -> bool:
    """Whether a server is known to speak a mode."""
    return mode in (modes_of(target) or ())


#: The modes whose requests have token ids and labels.
_BY_IDS = frozenset({ModeName.IDS, ModeName.GENERATIVE_SCORING})


def require_ids(target: Target) -> None:
    """Raises EngineUnavailable, with the reason, where a server is known to answer no request of token ids and labels:
    one whose model has a classification head, or one that takes texts alone."""
    if takes_ids(target):
        return
    spoken = modes_of(target) or ()
    known = ", ".join(each.value for each in ModeName if each in spoken)
    raise EngineUnavailable(
        f"the {target.place} has no labels: its model has a classification head, or it takes texts alone; it speaks "
        f"{known}, whose gates are measured"
    )


def takes_ids(target: Target) -> bool:
    """Whether a server answers requests of token ids and labels, as far as anyone says."""
    spoken = modes_of(target)
    return spoken is None or bool(spoken & _BY_IDS)


@dataclass(frozen=True, eq=False)
class Tables:
    """What an answer of ``/v1/score`` has for each item: [K_i], or [N_i, K_i] where it is read at several places.
    ``logprobs``: of the same shapes; ``pooled``: [H], or [N_i, H]; both None where they were not asked for."""

    scores: list[NDArray[np.float64]]
    logprobs: list[NDArray[np.float64]] | None = None
    pooled: list[NDArray[np.float64]] | None = None

    @property
    def flat(self) -> NDArray[np.float64]:
        """All scores in a row."""
        return np.concatenate([np.ravel(each) for each in self.scores])


def tables(
    target: Target,
    request: ScoreRequest,
    *,
    readouts: Sequence[int] | None = None,
    classes: int | None = None,
    hidden: int = 0,
) -> Tables:
    """The tables of a request. ``readouts`` [N]: how often each item is read, where that is not once at its end;
    ``classes``: the columns of a model without labels; ``hidden``: H of the states that a request asks for, which may
    then have none. Raises ScoreFailure, or ServerDied with the log's end."""
    lists = request.label_lists
    columns = [classes or 0] * len(request.items) if lists is None else [len(each) for each in lists]
    shapes: list[tuple[int, ...]] = [(each,) for each in columns]
    if readouts is not None:
        shapes = [(places, width) for places, width in zip(readouts, columns, strict=True)]

    def read(body: bytes) -> Tables:
        wanted = request.return_token_logprobs
        logprobs = decode_table(body, "token_logprobs", shapes) if wanted else None
        states = [(*shape[:-1], hidden) for shape in shapes]
        asked = request.return_pooled_hidden_states
        pooled = decode_table(body, "pooled_hidden_states", states) if asked else None
        return Tables(decode_table(body, "scores", shapes), logprobs, pooled)

    numbers = sum(int(np.prod(shape)) for shape in shapes) * (1 + request.return_token_logprobs)
    numbers += sum(int(np.prod(shape[:-1])) * hidden for shape in shapes)
    return _asked(target, "/v1/score", msgspec.to_builtins(request), numbers, read)


def classified(target: Target, texts: Sequence[str]) -> NDArray[np.float64] | None:
    """The class probabilities [N, C] of texts; None of a server that is asked by ids. Raises as `tables`."""
    if not isinstance(target.client, ClassifyClient):
        return None
    with target.watch():
        return target.client.classes(texts)


def has_top_n(target: Target) -> bool:
    """Whether a server's form of a rerank request may ask for the best alone. Raises as `tables`."""
    if not isinstance(target.client, RerankClient):
        return True
    with target.watch():
        return target.client.form.has_top_n


def ranked(target: Target, request: RerankRequest, *, path: str = "/v1/rerank") -> list[Ranked]:
    """A ranking, each of whose entries is of another document of the request. Raises as `tables`.

    ``path``: of a server whose form is not found out by asking.
    """
    if isinstance(target.client, RerankClient):
        fields = msgspec.to_builtins(request)
        query, documents = fields.pop("query"), fields.pop("documents")
        with target.watch():
            return target.client.rank(query, documents, **fields)

    def read(body: bytes) -> list[Ranked]:
        found = decode_ranking(body)
        indices = [each.index for each in found]
        if len(set(indices)) < len(indices) or not set(indices) <= set(range(len(request.documents))):
            raise ValueError(f"a ranking of {len(request.documents)} documents has the indices {indices[:20]}")
        return found

    return _asked(target, path, msgspec.to_builtins(request), _COUNTED + 2 * len(request.documents), read)


def decided(target: Target, request: Mapping[str, Any]) -> DecisionResponse:
    """The answers to the questions of a request, one for each. Raises as `tables`."""

    def read(body: bytes) -> DecisionResponse:
        found, wanted = decode_decisions(body), [question["id"] for question in request["questions"]]
        if set(found.answers) != set(wanted):
            raise ValueError(f"answers to {', '.join(found.answers) or 'nothing'}; expected {', '.join(wanted)}")
        return found

    return _asked(target, "/v1/decisions", request, _DECIDED, read)


def first_label(target: Target, request: Mapping[str, Any]) -> NDArray[np.float64]:
    """The scores [N] of the first label, of a request to ``/generative_scoring`` that says no more than is given: what
    is left out is the server's own default. Raises as `tables`."""
    count = len(request["items"])
    path = scoring_mode(ModeName.GENERATIVE_SCORING).paths[0]
    return _asked(
        target, path, request, 8 * count, lambda body: np.array(decode_generative_scores(body, count)), model={}
    )


def _asked(
    target: Target,
    path: str,
    request: Mapping[str, Any],
    numbers: int,
    read: Callable[[bytes], _Read],
    model: Mapping[str, str] = MappingProxyType({"model": "default"}),
) -> _Read:
    with target.watch():
        body = target.client.ask(path, msgspec.json.encode({**model, **request}), numbers=numbers + _COUNTED)
        try:
            return read(body)
        except ValueError as problem:
            raise ScoreFailure(FailureKind.BAD_RESPONSE, f"{path}: {problem}", 200) from None
