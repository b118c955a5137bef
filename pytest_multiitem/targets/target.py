"""A scoring server as the gates see it: who it is, how to ask it, and what it attests to have run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.attestation import Attestation, Executed, contradictions
from pytest_multiitem.adapters.base import ROLE_WORDS, Engine, Profile
from pytest_multiitem.errors import CheckpointError, EngineUnavailable, MultiItemError
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.limits import placed_limit
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.errors import ServerDied
from pytest_multiitem.servers.process import RunningServer
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.answers import Answers, Judged
from pytest_multiitem.targets.blame import is_nobodys
from pytest_multiitem.transport.client import FailureKind, ScoreClient, ScoreFailure, Scores, told

#: Seconds from a broken connection until a dead server's guard has told of its end.
_DEATH = 2.0


@dataclass(eq=False)
class Target:
    """A scoring server, started by this run (``server``) or by someone else (attached).

    ``adapter``: the engine's, where it is known which engine this is. ``assumed_vocab_size``: what a user
    says of a server that does not tell. ``asked``: the arguments it was started with. ``described``: what it said of
    itself when it was attached. ``memo``: what was measured once and serves several gates. ``answers``: all that it
    has answered. ``delimiter``: the token that separates its items; of a serial server, the one that its multi-item
    partner has.
    """

    profile: Profile
    engine: str
    client: ScoreClient
    server: RunningServer | None = None
    adapter: Engine | None = None
    assumed_vocab_size: int | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    described: Mapping[str, Any] | None = None
    memo: dict[Any, Any] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)
    delimiter: int = field(kw_only=True)

    def __post_init__(self) -> None:
        self.client.heard = self.answers.add

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self.client.url

    @property
    def place(self) -> str:
        """For people: which server this is, and where; no user and no password is in it."""
        return f"{self.profile.label} server {self.url}"

    @property
    def owned(self) -> bool:
        """Whether this run started the server, and so may stop it."""
        return self.server is not None

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """What the server said of itself when first asked; empty where it cannot say."""
        return self.client.server_info() or {} if self.described is None else self.described

    @property
    def model(self) -> str | None:
        """The served model, as the server names it."""
        model = self.info.get("model_path") or self.info.get("served_model_name")
        return None if model is None else str(model)

    @property
    def dtype(self) -> str | None:
        """The served precision: by the server's own word, else as it was started with."""
        dtype = self.info.get("dtype") or self.asked.get("dtype")
        return None if dtype is None else str(dtype)

    def engine_version(self, settings: Settings) -> str | None:
        """The engine's version: by the server's own word, else as it is installed where this run has started it; None
        where nobody knows."""
        for name in ("version", "sglang_version", "package_version"):
            if isinstance(word := self.info.get(name), str):
                return word
        if self.server is None or self.adapter is None:
            return None
        try:
            return self.adapter.version(settings)
        except EngineUnavailable:
            return None

    @cached_property
    def vocab_size(self) -> int | None:
        """The served vocabulary, in tokens: what the user says, the server, or the model's config.json where it
        lies on this machine; None where nobody does."""
        declared = self.info.get("vocab_size")
        if self.assumed_vocab_size is None and not isinstance(declared, int) and self.model is not None:
            with suppress(OSError, ValueError, AttributeError):
                declared = json.loads((Path(self.model) / "config.json").read_bytes()).get("vocab_size")
        return self.assumed_vocab_size or (declared if isinstance(declared, int) else None)

    def assume_vocabulary(self, tokens: int) -> None:
        """Take a vocabulary of so many tokens where nobody has told one."""
        if self.vocab_size is None:
            self.assumed_vocab_size = tokens
            del self.vocab_size  # what was found is kept: nothing

    @cached_property
    def max_tokens(self) -> int | None:
        """The longest request that the server says it takes, in tokens of the packed sequence; None where it does
        not say."""
        limits: list[object] = [self.info.get("max_multi_item_seq_len"), self.info.get("context_length")]
        with suppress(ScoreFailure, LookupError, TypeError, AttributeError):  # not every server has it
            limits += [model.get("max_model_len") for model in told(self.client.get("/v1/models"))["data"]]
        return min((limit for limit in limits if type(limit) is int and limit > 0), default=None)

    @cached_property
    def max_items(self) -> int | None:
        """The items of one request that the server says it takes, at most; None where it does not say."""
        limit = self.info.get("max_multi_item_count")
        return limit if type(limit) is int and limit > 0 else None

    @cached_property
    def encode(self) -> Callable[..., list[int]] | None:
        """Text to token ids by the served model's tokenizer.json, its special tokens included with ``special=True``;
        None where that does not lie on this machine. Raises CheckpointError where the file is damaged."""
        path = Path(self.model or "") / "tokenizer.json"
        if not self.model or not path.is_file():
            return None
        from tokenizers import Tokenizer

        try:
            tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return lambda text, special=False: list(tokenizer.encode(text, add_special_tokens=special).ids)

    def score(self, case: Case) -> Scores:
        """The softmax scores [N, K] of a case. Raises ScoreFailure, or ServerDied with the log's end."""
        return self.score_ids(case.query, case.items, case.labels)

    def score_ids(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int], *, apply_softmax: bool = True
    ) -> Scores:
        """The scores [N, K] of a request. Raises ScoreFailure, or ServerDied with the log's end."""
        with self.watch():
            return self.client.score(query, items, labels, apply_softmax=apply_softmax)

    def take_over(self, former: Target) -> None:
        """Go on in the place of a server that was started again: its answers are this one's."""
        self.answers = former.answers
        self.client.heard = self.answers.add

    def judge_answers(self, seed: int = 0, since: int = 0) -> Judged:
        """Compare every answer that nobody has judged, from ``since`` (`Answers.mark`) on, with something it must
        equal. Raises ScoreFailure, or ServerDied with the log's end."""
        with self.watch():
            return self.answers.judge(self.client.send, limit=placed_limit(self.dtype), seed=seed, since=since)

    def flush_cache(self) -> None:
        """Have the server forget cached prefixes. Raises ScoreFailure where it does not answer."""
        with self.watch():
            self.client.post("/flush_cache", {})

    @contextmanager
    def another(self) -> Iterator[Target]:
        """The same server over a connection of its own, for requests at the same time."""
        with self.client.another() as client:
            yield replace(self, client=client, memo={})

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Turn a broken connection into ServerDied, with the log's end, where the server has ended; any other failure
        names the server. Both carry its `Origin`."""
        try:
            yield
        except ScoreFailure as failure:
            raise self._own(failure) from None

    def _own(self, failure: ScoreFailure) -> MultiItemError:
        if failure.origin is not None:  # another block inside this one has watched
            return failure
        own: MultiItemError = ScoreFailure(failure.kind, f"{self.place}: {failure.message}", failure.status)
        if self.server is not None and failure.kind is FailureKind.CONNECTION:
            try:
                self.server.check_alive(patience=_DEATH)
            except ServerDied as death:
                own = death
        own.origin = self.profile.origin()
        return own

    def is_own(self, failure: MultiItemError) -> bool:
        """Whether a failure is of this server's answers: not another server's, and not nobody's (`blame`)."""
        return failure.origin in (None, self.profile.origin()) and not is_nobodys(failure)

    @contextmanager
    def attest(self) -> Iterator[Attestation]:
        """Watch what the server executes for the requests made inside the block.

        Counters of the server say it best; without them, its engine's adapter judges by what the server
        says of itself and by its log.
        """
        attestation = Attestation()
        before = Executed.read(self.client.server_info())
        yield attestation
        info = self.client.server_info()
        after = Executed.read(info)
        if before is not None and after is not None:
            after.since(before, attestation, self._wanted)
        elif self.adapter is not None:
            log = self.server.log_path if self.server is not None else None
            declared = self.adapter.attest(self.profile, info or {}, log)
            attestation.mask, attestation.problem = declared.mask, declared.problem
        problems = [attestation.problem] if attestation.problem else []
        attestation.problem = "; ".join([*problems, *contradictions(info or {}, self.asked)]) or None

    @property
    def _wanted(self) -> set[str | None]:
        if self.profile.role != "multi":
            return {ROLE_WORDS[self.profile.role]}
        return {"dense", "segment"} if self.profile.mask_impl == "auto" else {self.profile.mask_impl}


def declared_semantics(target: Target) -> Semantics:
    """The semantics that a multi-item server is declared to have."""
    if target.profile.semantics is None:
        raise ValueError(f"{target.profile.label} has no packed semantics")
    return target.profile.semantics
