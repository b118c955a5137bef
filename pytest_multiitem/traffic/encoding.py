"""From text to token ids: which tokenizer, and what it makes of a line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from pytest_multiitem.scoring.cases import TokenIds
from pytest_multiitem.scoring.tokens import load_tokenizer
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.traffic.lines import Content, Line, Traffic

#: What stands for the vocabulary of a server that is not known yet.
ANY_VOCABULARY = 2**63

#: What to do where text is given and no tokenizer is.
NAME_ONE = "name one: --tokenizer DIR, or give token ids"


@dataclass(frozen=True)
class Request:
    """A line as token ids: a query, N items, K labels. ``texts``: of the N items, where they were given as text."""

    where: str
    name: str
    query: TokenIds
    items: tuple[TokenIds, ...]
    labels: tuple[int, ...]
    apply_softmax: bool
    item_first: bool
    texts: tuple[str, ...] = ()


class Encoder:
    """A tokenizer, ``source``: a directory with a tokenizer.json, such a file, or a hub id. No code of it is run.

    Raises UsageError where there is no such tokenizer.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._tokenizer = load_tokenizer(source)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True).values()
        #: One more than the highest id that it gives.
        self.vocab_size = max(vocabulary, default=-1) + 1
        self._known: dict[str, TokenIds] = {}

    def learn(self, texts: Sequence[str]) -> None:
        """Encode many texts at once, which is faster than one by one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        encodings = self._tokenizer.encode_batch(new, add_special_tokens=False)
        self._known.update((text, tuple(encoding.ids)) for text, encoding in zip(new, encodings, strict=True))

    def encode(self, text: str) -> TokenIds:
        """The ids of a text alone, without special tokens."""
        self.learn([text])
        return self._known[text]

    def label(self, text: str) -> int:
        """The id of a label. Raises ValueError for a text that is not exactly one token."""
        ids = self.encode(text)
        if len(ids) != 1:
            other = text.strip() if text != text.strip() else f" {text}"
            fits = bool(other) and len(self.encode(other)) == 1
            hint = f"; {other!r} is one" if fits else ""
            raise ValueError(
                f"label {text!r:.80} is {len(ids)} tokens of {self.source}, {list(ids)!r:.80}; expected one token{hint}"
            )
        return ids[0]


@cache
def _encoder(source: str) -> Encoder:
    return Encoder(source)


def encoder_of(settings: Settings, served: str | None = None) -> Encoder | None:
    """The tokenizer of a run: that of ``--tokenizer``, else of the model's directory, else of the directory that a
    server says it serves, ``served``; None where none of them is on this machine.

    Raises UsageError for a tokenizer that was named and cannot be had.
    """
    if settings.tokenizer is not None:
        return _encoder(settings.tokenizer)
    return next((_encoder(each) for each in (settings.model, served) if each and _has_tokenizer(each)), None)


def _has_tokenizer(directory: str) -> bool:
    with suppress(OSError, ValueError, RuntimeError):  # a server's word may be no path at all
        return (Path(directory).expanduser() / "tokenizer.json").is_file()
    return False


def generated_tokenizer(settings: Settings) -> str | None:
    """Where the tokenizer of the checkpoint lies that a run's own embedded servers will serve, before there is one;
    None where the run has no such server."""
    attached = settings.multi_url or settings.serial_url or settings.compare_urls
    if settings.engine != "embedded" or settings.model is not None or attached:
        return None
    return str(resources.files("pytest_multiitem") / "engine" / "data")


def encoded(
    traffic: Traffic,
    lines: Sequence[Line],
    encoder: Encoder | None,
    *,
    labels: Sequence[int] | None,
    delimiter: int | None,
    vocab_size: int | None,
) -> tuple[Request, ...]:
    """Lines of a file as token ids.

    ``labels``: those that the user gave for lines without their own; a line with neither is refused. ``vocab_size``: of
    the server, where that is known; else that of the tokenizer, else any id is taken. Raises UsageError naming the
    line.
    """
    if encoder is not None:
        encoder.learn([c for line in lines for c in (line.query, *line.items) if isinstance(c, str)])
    return tuple(_encoded(traffic, line, encoder, labels, delimiter, vocab_size) for line in lines)


def _encoded(
    traffic: Traffic,
    line: Line,
    encoder: Encoder | None,
    labels: Sequence[int] | None,
    delimiter: int | None,
    vocab_size: int | None,
) -> Request:
    limit, whose = vocab_size, ""
    if limit is None and encoder is not None:
        limit, whose = encoder.vocab_size, f" by {encoder.source}; if the model has more: --multiitem-vocab-size N"

    def checked(ids: TokenIds, what: str) -> TokenIds:
        bad = next((i for i in ids if i < 0 or (limit is not None and i >= limit)), None)
        if bad is not None:
            expected = "0 or more" if limit in (None, ANY_VOCABULARY) else f"0 to {limit - 1}{whose}"
            raise traffic.wrong(line, f"{what} holds token id {bad}; expected {expected}")
        if delimiter in ids:
            raise traffic.wrong(line, f"{what} holds the delimiter {delimiter}, which cannot stand in content")
        return ids

    def ids(content: Content, what: str) -> TokenIds:
        if not isinstance(content, str):
            return checked(content, what)
        if encoder is None:
            raise traffic.wrong(line, f"{what} is text, and there is no tokenizer for it; {NAME_ONE}")
        return checked(encoder.encode(content), what)

    of = "documents" if line.from_documents else "items"
    query = ids(line.query, "'query'")
    if not query:
        raise traffic.wrong(line, "'query' is empty")
    items = tuple(ids(item, f"{of}[{i}]") for i, item in enumerate(line.items))
    if line.labels is None and labels is None:
        raise traffic.wrong(
            line, 'it has no labels; give "labels": ["yes", "no"] or "label_token_ids": [9693, 2152] in the line, or '
            "for all lines --labels yes,no"
        )  # fmt: skip
    own = tuple(labels or ()) if line.labels is None else label_ids(traffic, line, encoder)
    if len(set(own)) < len(own):
        raise traffic.wrong(line, f"the labels are the ids {list(own)!r:.80}; expected each once")
    return Request(
        line.where,
        line.name,
        query,
        items,
        checked(own, "the list of labels"),
        line.apply_softmax,
        line.item_first,
        tuple(map(str, line.items)) if all(isinstance(item, str) for item in line.items) else (),
    )


def label_ids(traffic: Traffic, line: Line, encoder: Encoder | None) -> tuple[int, ...]:
    """The ids of a line's own labels. Raises UsageError for a text that is not one token."""
    found = []
    for label in line.labels or ():
        if isinstance(label, str):
            if encoder is None:
                raise traffic.wrong(line, f"label {label!r:.80} is text, and there is no tokenizer for it; {NAME_ONE}")
            try:
                label = encoder.label(label)
            except ValueError as error:
                raise traffic.wrong(line, str(error)) from None
        found.append(label)
    return tuple(found)
