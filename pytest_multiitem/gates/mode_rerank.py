"""Rerank: documents by their relevance, mapped back to the request, against the prompts scored by ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.gates.checks import Broken, NotMade
from pytest_multiitem.gates.evidence import Baseline, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.mode_isolation import Isolation
from pytest_multiitem.gates.mode_probe import Checks, ModeProbe, largest, measured
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import TokenIds
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.prompts import reranker
from pytest_multiitem.scoring.wire.rerank import Ranked, RerankRequest
from pytest_multiitem.scoring.wire.score import ScoreRequest
from pytest_multiitem.targets.modes import has_top_n, ranked, tables, takes_ids
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import ScoreFailure, Scores

_QUERY = "how long does snow stay in the hills?"
_OTHER_QUERY = "which bread keeps for a week?"
#: The empty document, and one that stands twice, are among them.
_DOCUMENTS = (
    "Snow stays until May where the sun does not reach.", "no", "", "Rye bread keeps longer than wheat bread does.",
    "In a warm year the hills are green in March.", "no", "A car needs winter tyres.",
)  # fmt: skip
_EMPTY = _DOCUMENTS.index("")
#: Times that both queries are sent at the same time.
_ROUNDS = 4
#: Of the ranking that stands for a request of ids where a server takes none.
_REPLAYS = 3
#: A query, a document that answers it and one that does not: no working reranker has them the other way round.
_KNOWN = (
    ("What is the capital of France?", "Paris is the capital of France.", "Bananas are rich in potassium."),
    ("How do I boil an egg?", "Put the egg into boiling water for eight minutes.", "The match ended two to one."),
)
#: What the names of models have that were trained to rank.
_RERANKERS = ("reranker", "rerank", "cross-encoder", "ms-marco")


def measure(subject: Subject) -> Measurement:
    """Rank seven documents, one of them empty and one there twice, and compare: each score, by its index, with the
    score of the rendered prompt by ids; the order with that of the scores; the best two; themselves as
    `gates.mode_isolation` does; and two queries at the same time with each by itself.

    A model whose name says that it is a reranker is asked for two pairs whose order is known.
    """
    return measured(subject, ModeName.RERANK, _checks, texts=_baseline)


def _baseline(multi: Target) -> Baseline:
    """A ranking and its replays, as scores [N, 1] by index. Raises ScoreFailure for one of too few documents."""
    with multi.attest() as attestation:
        first, *again = [_column(multi) for _ in range(_REPLAYS)]
    return Baseline(first, largest([max_abs(each - first) for each in again]), 0.0, attestation)


def _column(multi: Target) -> Scores:
    scores = _scores(ranked(multi, RerankRequest(query=_QUERY, documents=[text for text in _DOCUMENTS if text])))
    return np.array([[scores[index]] for index in sorted(scores)])


def _checks(probe: ModeProbe) -> Checks:
    rankings = _Rankings(probe)
    return {
        "the order is that of the scores": rankings.ordered,
        "the rendered prompt by ids": rankings.rendered,
        "the best two": rankings.best,
        "documents by index": rankings.documents,
        "copies": rankings.copies,
        **rankings.isolation.checks,
        "an empty document": rankings.empty,
        "two queries at the same time": rankings.together,
        "known answers": partial(_known, probe),
    }


def _scores(found: Sequence[Ranked]) -> Mapping[int, float]:
    return {each.index: each.score for each in found}


class _Rankings:
    """The documents, and how the server under test ranks them."""

    def __init__(self, probe: ModeProbe) -> None:
        self.probe = probe
        self._whole: list[Ranked] | None = None

    def asked(
        self, documents: Sequence[str], *, query: str = _QUERY, top_n: int | None = None, server: Target | None = None
    ) -> list[Ranked]:
        return ranked(server or self.probe.multi, RerankRequest(query=query, documents=[*documents], top_n=top_n))

    @property
    def isolation(self) -> Isolation[str]:
        """Of the scores by their index."""
        probe = self.probe
        return Isolation(
            probe, self.texts, self._by_index, probe.other_text, probe.longer_text, exact=probe.knows_tokens
        )

    def _by_index(self, documents: Sequence[str], server: Target) -> list[NDArray[np.float64]]:
        scores = _scores(self.asked(documents, server=server))
        if len(scores) != len(documents):
            raise Broken(f"{len(documents)} documents are ranked as {len(scores)}")
        return [np.array([scores[index]]) for index in range(len(documents))]

    @property
    def whole(self) -> list[Ranked]:
        """Of all documents but the empty one: not every server takes that."""
        if self._whole is None:
            self._whole = self.asked(self.texts)
            if len(self._whole) != len(self.texts):
                raise Broken(f"{len(self.texts)} documents are ranked as {len(self._whole)}")
        return self._whole

    @property
    def texts(self) -> list[str]:
        return [text for text in _DOCUMENTS if text]

    def ordered(self) -> str:
        scores = [each.score for each in self.whole]
        for place, (first, second) in enumerate(pairwise(scores)):
            if second > first:
                raise Broken(f"place {place + 2} has {second:.6g}, more than the {first:.6g} of the place before it")
        return f"{len(scores)} scores from {scores[0]:.3g} down to {scores[-1]:.3g}"

    def rendered(self) -> str:
        """The labels' softmax of the prompt of Qwen3-Reranker: of a server that says it has this one."""
        probe = self.probe
        if probe.multi.info.get("engine") != "embedded":
            raise NotMade("not sent: what prompt this server renders is not known")
        query, items = reranker.rendered(reranker.INSTRUCT, _QUERY, self.texts)
        if not takes_ids(probe.multi):
            return self._logits(probe.encode(query), [probe.encode(item) for item in items])
        labels = [probe.token(label) for label in reranker.LABELS]
        known = [label for label in labels if label is not None]
        if len(known) != len(labels):
            raise NotMade(f"{' and '.join(reranker.LABELS)} are not a token each")
        ids, contents = probe.encode(query), [probe.encode(item) for item in items]
        scores = _scores(self.whole)
        seen = []
        for found, what in (
            (probe.multi.score_ids(ids, contents, known), "packed"),
            (probe.alone(ids, contents, known, softmax=True), "serial"),
        ):
            apart = largest([abs(float(row[0]) - scores[number]) for number, row in enumerate(found)])
            seen.append(probe.within(apart, f"{len(contents)} prompts by ids, {what}"))
        return "; ".join(seen)

    def _logits(self, query: TokenIds, items: Sequence[TokenIds]) -> str:
        """The sigmoid of the one class of a head, packed and serially."""
        probe, seen = self.probe, []
        behind = declared_semantics(probe.multi).serial_query(query, probe.multi.delimiter)
        for server, ids, what in ((probe.multi, query, "packed"), (probe.serial, behind, "serial")):
            request = ScoreRequest(query=list(ids), items=[list(item) for item in items])
            shares = 1 / (1 + np.exp(-tables(server, request, classes=1).flat))
            apart = max_abs(shares - self._scored(probe.multi))
            seen.append(probe.within(apart, f"the sigmoid of {len(items)} logits by ids, {what}"))
        return "; ".join(seen)

    def _scored(self, server: Target) -> Scores:
        return np.concatenate(self._by_index(self.texts, server))

    def best(self) -> str:
        """``top_n`` 2, and more than there are."""
        if not has_top_n(self.probe.multi):
            raise NotMade("not sent: the form of this server has no top_n")
        for most in (2, len(self.texts) + 3):
            found, wanted = self.asked(self.texts, top_n=most), self.whole[:most]
            if len(found) != len(wanted):
                raise Broken(f"top_n {most} of {len(self.texts)} documents gives {len(found)}")
            apart = largest([abs(a.score - b.score) for a, b in zip(found, wanted, strict=True)])
            self.probe.within(apart, f"top_n {most}")
        return f"top_n 2 gives two, {most} all {len(found)}"

    def documents(self) -> str:
        """A text that comes back is that of its index."""
        texts = {each.index: each.document for each in self.whole if each.document is not None}
        if not texts:
            raise NotMade("no documents came back")
        for index, text in texts.items():
            if text != self.texts[index]:
                raise Broken(f"index {index} comes with {text[:40]!r}; that document is {self.texts[index][:40]!r}")
        return f"{len(texts)} documents"

    def copies(self) -> str:
        scores = _scores(self.whole)
        first, second = (index for index, text in enumerate(self.texts) if text == "no")
        return self.probe.within(abs(scores[first] - scores[second]), "one document twice")

    def empty(self) -> str:
        """Refused, or scored without moving the others."""
        try:
            found = self.asked(_DOCUMENTS)
        except ScoreFailure as failure:
            if failure.status is not None and 400 <= failure.status < 500:
                return f"refused with status {failure.status}"
            raise
        if len(found) != len(_DOCUMENTS):
            raise Broken(f"{len(_DOCUMENTS)} documents with an empty one are ranked as {len(found)}")
        others, scores = _scores(found), _scores(self.whole)
        apart = [abs(others[index + (index >= _EMPTY)] - score) for index, score in scores.items()]
        return self.probe.within(largest(apart), "the documents beside an empty one")

    def together(self) -> str:
        """Each over a connection of its own, again and again, so that one is in flight whenever the other comes."""
        quiet = {query: _scores(self.asked(self.texts, query=query)) for query in (_QUERY, _OTHER_QUERY)}
        first, second = quiet.values()
        if largest([abs(first[index] - second[index]) for index in first]) <= 2 * self.probe.same:
            raise NotMade("two queries whose scores hardly differ: a mixture would not show")
        apart = []
        with ExitStack() as stack:
            servers = {query: stack.enter_context(self.probe.multi.another()) for query in quiet}
            pool = stack.enter_context(ThreadPoolExecutor(len(quiet), thread_name_prefix="multiitem-rerank"))
            sent = {query: pool.submit(self._again, query, server) for query, server in servers.items()}
            for query, answers in sent.items():
                for found in answers.result():
                    if found.keys() != quiet[query].keys():
                        raise Broken(f"{len(self.texts)} documents beside another query are ranked as {len(found)}")
                    apart += [abs(found[index] - score) for index, score in quiet[query].items()]
        return self.probe.within(largest(apart), f"{_ROUNDS} times two queries at the same time, against each alone")

    def _again(self, query: str, server: Target) -> list[Mapping[int, float]]:
        return [_scores(self.asked(self.texts, query=query, server=server)) for _ in range(_ROUNDS)]


def _known(probe: ModeProbe) -> str:
    """Pairs whose order is known, of a model that was trained to rank."""
    name = probe.multi.model or ""
    if not any(word in name.lower() for word in _RERANKERS):
        raise NotMade(f"not sent: nothing is known of what {name or 'a model without a name'} answers")
    for query, right, wrong in _KNOWN:
        found = ranked(probe.multi, RerankRequest(query=query, documents=[wrong, right]))
        if not found or found[0].index != 1:
            raise Broken(f"{query!r}: {wrong!r} is said to be more relevant than {right!r}")
    return f"{len(_KNOWN)} pairs in the order that is known"


RERANK = Gate(
    "rerank_agrees",
    "a ranking, mapped back by its indices: against the rendered prompts by ids, in the order of its scores, its best "
    "two, copies, an empty document, two queries at the same time; the isolation of documents, to the bit where the "
    "engine promises it",
    rests_on="one check that could be made, and none that is broken",
    measure=measure,
    needs=("multi", "serial"),
    mode=ModeName.RERANK,
    costly=True,
    short="rerank",
    order=32,
)
GATES = (RERANK,)
