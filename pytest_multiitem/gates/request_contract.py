"""The contract of a request: what is asked for is what is answered, and what cannot be scored is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.checks import RESTS_ON, Broken, NotMade, Undecided, made, within
from pytest_multiitem.gates.evidence import Baseline, baseline, evidence_of, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement, magnitude
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import Case, TokenIds
from pytest_multiitem.scoring.limits import PLACED, placed_limit
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.readout import softmax
from pytest_multiitem.servers.errors import ServerDied
from pytest_multiitem.targets.modes import speaks
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import FailureKind, ScoreFailure, Scores, prepare, quoted, read_scores, told
from pytest_multiitem.transport.one_item import NeverScored

_ITEMS = 6
#: How many times the probability that all labels have together may be that of the serial server's, or the reverse.
_MASS = {"float32": 1.02}
_LOOSE_MASS = 1.5
#: A softmax over labels is flatter at one of these, and steeper at the other.
_TEMPERATURES = (2.0, 0.5)
#: A query and items as text. Words of a single space, or lines of their own, are what most tokenizers split at.
_QUERY = "Which of these can be eaten?"
_TEXTS = (
    " an apple", " a red car", " no", " bread, still warm", "\na short note\n", " 42 stones", "Yes",
    " the window of a house by the sea, seen from afar", " milk and honey", "\n\nA door.",
)  # fmt: skip
_FEWEST_TEXTS = 3
#: Of tokens: a limit above this is not probed; the request alone would be megabytes.
_LONGEST = 200_000


def measure(subject: Subject) -> Measurement:
    """Make every check that can be made here, those that may end a server last.

    A check that does not hold makes the gate FAIL, with what was seen; where none could be made, or what one saw may
    be noise, nothing is decided.
    """
    multi, serial, record = subject.multi, subject.serial, subject.record
    cases = subject.cases(multi)
    case = replace(cases[0], items=tuple(filter(None, cases[0].items))[:_ITEMS])
    if not case.items:
        return Measurement(multi, None, doubt=f"request {case.name!r} has no item with tokens")
    whole = baseline(multi, case, record)
    probe = _Probe(multi, serial, case, whole, multi.delimiter)
    chosen, checks = subject.settings.mode, {}
    for name, check in _CHECKS.items():
        mode = MODE_OF_CHECK.get(name)
        is_asked = mode is None or mode.value in chosen
        checks[name] = partial(check, probe) if is_asked else partial(_left_out, mode)
    with multi.attest() as attestation:
        outcomes = made(checks, multi, record, case=case.name)
    measured = [attestation] if outcomes.held or outcomes.broken else []
    return Measurement(
        target=multi,
        value=None,
        evidence=evidence_of(multi, serial, cases, record, scored=[whole], spread=[whole], semantic=True),
        attestation=Attestation.joined([whole.attestation, *measured]),
        samples=outcomes.samples,
        details=outcomes.details,
        problem=outcomes.problem,
        doubt=outcomes.doubt,
        holds=outcomes.holds,
    )


@dataclass(frozen=True, eq=False)
class _Probe:
    """What the checks share: both servers, a small case, and how it is scored packed."""

    multi: Target
    serial: Target
    case: Case
    base: Baseline
    delimiter: int

    @property
    def whole(self) -> Scores:
        """The packed scores [N, K] of the case."""
        return self.base.scores

    def dtype(self) -> str:
        """The served precision, in one word."""
        return str(self.multi.dtype).removeprefix("torch.")

    def same(self) -> float:
        """How far two scores of the same content from the same server may be apart."""
        return placed_limit(self.multi.dtype)

    def within(self, difference: float, limit: float, what: str) -> str:
        """`checks.within`, with the noise of this request."""
        return within(difference, limit, what, noise=self.base.noise)

    def query(self) -> Sequence[int]:
        """The query behind which the serial server gives the packed scores."""
        return declared_semantics(self.multi).serial_query(self.case.query, self.delimiter)

    def packed(self, items: Sequence[TokenIds], **more: Any) -> Scores:
        return self.multi.score_ids(self.case.query, items, more.pop("labels", self.case.labels), **more)

    def alone(self, items: Sequence[TokenIds], **more: Any) -> Scores:
        return self.serial.score_ids(self.query(), items, self.case.labels, **more)

    def asked(self, target: Target, fields: Mapping[str, Any]) -> tuple[Scores, Any]:
        """The scores [N, K] of a request with fields of one's own, and the whole answer."""
        body = {"model": "default", "label_token_ids": list(self.case.labels), "apply_softmax": True, **fields}
        shape = prepare((), [()] * len(body["items"]), self.case.labels)  # content may be text
        request = replace(shape, body=msgspec.json.encode(body))
        with target.watch():
            try:
                _, response = target.client.timed_send(request)
            except NeverScored as reason:
                raise NotMade(f"not sent: {reason}") from None
            scores, answer = read_scores(response, request), told(response)
            if not isinstance(answer, dict):
                raise ScoreFailure(FailureKind.BAD_RESPONSE, f"an answer that nests too deep: {quoted(response)}", 200)
            return scores, answer

    def extended(self, **fields: Any) -> tuple[Scores, Any]:
        """The same of the case, scored packed."""
        content = {"query": list(self.case.query), "items": [list(item) for item in self.case.items]}
        return self.asked(self.multi, {**content, **fields})

    def known(self, field: str) -> bool:
        """Whether the packed server, or its engine's adapter, says that it knows a field of the mode temperature."""
        fields = self.multi.info.get("score_fields")
        return (isinstance(fields, list) and field in fields) or speaks(self.multi, ModeName.TEMPERATURE)

    def needs_known(self, field: str) -> None:
        """Raises NotMade where the packed server does not say that it knows a field."""
        if not self.known(field):
            raise NotMade(f"not sent: the server does not say, in score_fields, that it knows {field}")

    def with_item(self, index: int, item: TokenIds) -> list[TokenIds]:
        return [*self.case.items[:index], item, *self.case.items[index + 1 :]]


def _duplicates(probe: _Probe) -> str:
    """Copies of an item, in several places, score alike."""
    items = probe.case.items
    order = [index % max(1, len(items) // 2) for index in range(max(2, len(items)))]
    scores = probe.packed([items[index] for index in order])
    apart = max((max_abs(scores[at] - scores[order.index(item)]) for at, item in enumerate(order)), key=magnitude)
    return probe.within(apart, probe.same(), f"{len(order) - len(set(order))} copies among {len(order)} items")


def _no_softmax(probe: _Probe) -> str:
    """Without softmax a score is the label's probability over the whole vocabulary: the labels' sum is below 1, and
    their share of it is the softmax score."""
    plain = probe.packed(probe.case.items, apply_softmax=False)
    sums = plain.sum(axis=1)
    if (plain < 0).any() or sums.max() > 1 + 1e-6 or sums.min() >= 1:
        raise Broken(f"rows sum to {sums.min():.6g} to {sums.max():.6g}; probabilities over the vocabulary sum to less")
    reference = probe.alone(probe.case.items, apply_softmax=False)
    expected = reference.sum(axis=1)
    if not (sums.all() and expected.all()):
        raise NotMade("the labels' probabilities round to 0")
    probe.within(max_abs(plain / sums[:, None] - probe.whole), probe.same(), "normalised, against the softmax scores")
    probe.within(max_abs(plain - reference), PLACED, "against the serial server's")
    ratio = float(np.exp(max_abs(np.log(sums / expected))))
    most = _MASS.get(probe.dtype(), _LOOSE_MASS)
    if ratio > most:
        raise Broken(
            f"the labels' probability is {ratio:.4g} times that of the serial server, or the reverse; at most {most:g}"
        )
    return f"rows sum to {sums.min():.3g} to {sums.max():.3g}, within a factor {ratio:.4g} of the serial server's"


def _label_order(probe: _Probe) -> str:
    """A score stands in the column of its label."""
    labels, whole = probe.case.labels, probe.whole
    if max_abs(whole - whole[:, ::-1]) <= 2 * probe.same():
        raise NotMade(f"{len(labels)} labels whose scores hardly differ: their order would not show")
    turned = probe.packed(probe.case.items, labels=labels[::-1])
    return probe.within(max_abs(turned[:, ::-1] - whole), probe.same(), "labels in reverse order")


def _temperature(probe: _Probe) -> str:
    """Scores at a temperature are the softmax of the log-probabilities over it."""
    probe.needs_known("temperature")
    with np.errstate(divide="ignore"):
        log_scores = np.log(np.maximum(probe.whole, 0))
    seen = []
    for temperature in _TEMPERATURES:
        limit = probe.same() / min(1.0, temperature)
        expected = softmax(log_scores, temperature)
        if max_abs(expected - probe.whole) <= 2 * limit:
            continue
        scores, _ = probe.extended(temperature=temperature)
        seen.append(probe.within(max_abs(scores - expected), limit, f"at temperature {temperature:g}"))
    if not seen:
        raise NotMade("the scores are such that a temperature hardly moves them")
    return "; ".join(seen)


def _token_logprobs(probe: _Probe) -> str:
    """Log-probabilities over the vocabulary: a row for each item, in the order of the labels, at no temperature."""
    probe.needs_known("return_token_logprobs")
    plain = probe.packed(probe.case.items, apply_softmax=False)
    if not (plain > 0).all():
        raise NotMade("the labels' probabilities round to 0")
    at = {"temperature": _TEMPERATURES[0]} if probe.known("temperature") else {}
    _, answer = probe.extended(return_token_logprobs=True, **at)
    try:
        logprobs = np.asarray(answer.get("token_logprobs"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        logprobs = np.empty(0)
    if logprobs.shape != plain.shape or not np.isfinite(logprobs).all():
        rows, columns = plain.shape
        raise Broken(
            f"token_logprobs are no {rows} rows of {columns} numbers: {str(answer.get('token_logprobs'))[:60]}"
        )
    largest = float(np.exp(logprobs.max()))
    if largest > 1 + 1e-6:
        raise Broken(f"a probability is {largest:.6g}")
    limit = float(np.log(_MASS.get(probe.dtype(), _LOOSE_MASS)))
    return probe.within(max_abs(logprobs - np.log(plain)), limit, "against the logarithms of the plain probabilities")


def _text(probe: _Probe) -> str:
    """Text scores as the token ids do that the tokenizer gives for it: the query's, with the tokenizer's special tokens
    or without, and each item's by itself. The texts are such that query and item give the same ids together."""
    seen = [f"packed: {_text_of(probe, probe.multi)}"]
    try:
        seen.append(f"serial: {_text_of(probe, probe.serial)}")
    except Undecided:
        raise
    except NotMade as reason:
        seen.append(f"serial: {reason}")
    except Broken as problem:
        raise Broken(f"the serial server: {problem}") from None
    return "; ".join(seen)


def _text_of(probe: _Probe, target: Target) -> str:
    """What was seen of the texts on one server."""
    encode = target.encode
    if encode is None:
        raise NotMade("not sent: the served model's tokenizer.json does not lie on this machine")
    plain, special = encode(_QUERY), encode(_QUERY, special=True)
    if special[len(special) - len(plain) :] != plain:
        raise NotMade("not sent: the tokenizer puts special tokens behind a text")
    ids = {text: encode(text) for text in _TEXTS}
    texts = [
        text for text, own in ids.items() if own and encode(_QUERY + text) == plain + own and probe.delimiter not in own
    ]
    if len(texts) < _FEWEST_TEXTS or probe.delimiter in special:
        raise NotMade(f"not sent: {len(texts)} of {len(_TEXTS)} texts are tokenised alike behind the query and alone")
    try:
        scores, _ = probe.asked(target, {"query": _QUERY, "items": texts})
    except ScoreFailure as failure:
        if failure.refuses:
            raise NotMade(f"text is refused with status {failure.status}") from None
        raise
    queries = [plain] if special == plain else [plain, special]
    apart = min(
        (
            max_abs(scores - target.score_ids(query, [ids[text] for text in texts], probe.case.labels))
            for query in queries
        ),
        key=magnitude,
    )
    return probe.within(apart, probe.same(), f"{len(texts)} texts, against their token ids")


def _one_item(probe: _Probe) -> str:
    """The first and the last item, each in a request of its own."""
    items = probe.case.items
    differences = (max_abs(probe.packed([items[at]])[0] - probe.whole[at]) for at in {0, len(items) - 1})
    apart = max(differences, key=magnitude)
    return probe.within(apart, PLACED, "one item alone, against the whole request")


def _empty_item(probe: _Probe) -> str:
    """An item without tokens scores the state at its own leading delimiter, whatever stands beside it."""
    for target in (probe.multi, probe.serial):
        if not (_is_embedded(target) or (target.adapter is not None and target.adapter.allows_empty_items)):
            raise NotMade("not sent: not every server takes an item without tokens")
    at = len(probe.case.items) // 2
    scores = probe.packed(probe.with_item(at, ()))
    probe.within(_others(scores, probe.whole, at), PLACED, "the items beside it")
    return probe.within(max_abs(scores[at] - probe.alone([()])[0]), PLACED, "against the serial score of no item")


def _delimiter_inside(probe: _Probe) -> str:
    """The delimiter inside an item is refused, or content like any other."""
    _may_be_sent(probe.multi)
    at = len(probe.case.items) // 2
    item = probe.case.items[at]
    split = (*item[: len(item) // 2], probe.delimiter, *item[len(item) // 2 :])
    scores = _scored_or_refused(probe, probe.with_item(at, split))
    if isinstance(scores, str):
        return scores
    _may_be_sent(probe.serial)
    probe.within(_others(scores, probe.whole, at), PLACED, "the items beside it")
    return probe.within(
        max_abs(scores[at] - probe.alone([split])[0]), PLACED, "against the serial score of the same content"
    )


def _too_long(probe: _Probe) -> str:
    """An item longer than the server's own limit is refused, and the server lives on."""
    _may_be_sent(probe.multi)
    limit = probe.multi.max_tokens
    if limit is None:
        raise NotMade("not sent: the server tells no limit")
    if limit > _LONGEST:
        raise NotMade(f"not sent: the server's limit is {limit} tokens; at most {_LONGEST} are tried")
    marks = probe.case.pool or probe.case.items[0]
    long = tuple(marks[place % len(marks)] for place in range(limit + 1))
    refused = _scored_or_refused(probe, [*probe.case.items, long])
    if not isinstance(refused, str):
        raise Broken(f"an item of {len(long)} tokens was scored; the server's own limit is {limit}")
    try:
        again = probe.packed(probe.case.items)
    except (ScoreFailure, ServerDied) as failure:
        raise Broken(f"after an item of {len(long)} tokens, the server scores nothing any more: {failure}") from None
    probe.within(max_abs(again - probe.whole), PLACED, "the next request")
    return f"{len(long)} tokens, limit {limit}: {refused}"


#: In the order in which they are made.
_CHECKS: Mapping[str, Callable[[_Probe], str]] = {
    "duplicates": _duplicates,
    "probabilities without softmax": _no_softmax,
    "labels in reverse order": _label_order,
    "temperature": _temperature,
    "token log-probabilities": _token_logprobs,
    "one item alone": _one_item,
    "text": _text,
    "an empty item": _empty_item,
    "the delimiter inside an item": _delimiter_inside,
    "over-long input": _too_long,
}


#: The modes that a check is about, where that is not plain ids.
MODE_OF_CHECK: Mapping[str, ModeName] = {
    "temperature": ModeName.TEMPERATURE,
    "token log-probabilities": ModeName.TEMPERATURE,
    "text": ModeName.TEXT,
}


def _left_out(mode: ModeName | None) -> str:
    raise NotMade(f"not sent: the settings leave mode {mode} out")


def _others(scores: Scores, whole: Scores, index: int) -> float:
    return max_abs(np.delete(scores - whole, index, axis=0))


def _scored_or_refused(probe: _Probe, items: Sequence[TokenIds]) -> Scores | str:
    """The packed scores [N, K], or in which words they were refused. Any other end of a request is no refusal."""
    try:
        return probe.packed(items)
    except ScoreFailure as failure:
        if failure.refuses:
            return f"refused with status {failure.status}"
        raise Broken(f"not refused with a 4xx, but {failure}") from None
    except ServerDied as death:
        raise Broken(f"it ended the server: {death}") from None


def _may_be_sent(target: Target) -> None:
    if not (_is_embedded(target) or (target.adapter is not None and target.adapter.withstands_bad_requests)):
        raise NotMade(f"not sent: it may end a server of engine {target.engine}")


def _is_embedded(target: Target) -> bool:
    return target.info.get("engine") == "embedded"


CONTRACT = Gate(
    "request_contract_holds",
    "whether what is asked for is what is answered (duplicates, labels, softmax, temperature, log-probabilities, "
    "one item, text, an empty item), and what "
    "cannot be scored is refused (too long, the delimiter inside an item)",
    rests_on=RESTS_ON,
    measure=measure,
    needs=("multi", "serial"),
    short="contract",
    order=6,
)
GATES = (CONTRACT,)
