"""From the settings of a run to its requests: read, drawn, encoded; and settings that follow from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.traffic.drawing import drawn
from pytest_multiitem.traffic.encoding import (
    ANY_VOCABULARY,
    NAME_ONE,
    Request,
    encoded,
    encoder_of,
    generated_tokenizer,
)
from pytest_multiitem.traffic.lines import Line, Traffic, read_traffic
from pytest_multiitem.traffic.provenance import TrafficSource, source_of

#: The origin of labels that nobody gave and that every request of a workload has.
_OF_WORKLOAD = "workload "


@dataclass(frozen=True)
class Loaded:
    """A user's requests as token ids, and where they came from. ``vocab_size``: of the tokenizer, or one more than the
    highest id in them: what is known of the vocabulary where the server does not tell it."""

    requests: tuple[Request, ...]
    source: TrafficSource
    vocab_size: int


def load(
    settings: Settings, *, delimiter: int | None, vocab_size: int | None, served: str | None = None
) -> Loaded | None:
    """The requests of a run's workload; None where it has none.

    ``delimiter``, ``vocab_size``: of the server, None where not known; ``served``: the model's directory, as the server
    names it. Raises UsageError of one line for a request that cannot be used.
    """
    if settings.workload is None:
        return None
    traffic, lines = _drawn(settings)
    encoder = encoder_of(settings, served)
    requests = encoded(
        traffic, lines, encoder, labels=explicit_labels(settings), delimiter=delimiter, vocab_size=vocab_size
    )
    source = source_of(traffic, lines, encoder, settings)
    highest = max(max(map(max, filter(None, (r.query, r.labels, *r.items)))) for r in requests)
    known = 0 if encoder is None else encoder.vocab_size
    return Loaded(requests, source, max(known, highest + 1))


def cases_of(path: Path, requests: tuple[Request, ...]) -> tuple[Case, ...]:
    """Requests as gates measure them; ``path``: of their file, for messages.

    Raises UsageError for a request that asks for what the gates do not send, and where all items together are too alike
    to be mutated.
    """
    for request in requests:
        place = f"workload {path}, {request.where}"
        if request.item_first:
            raise UsageError(
                f"{place}: 'item_first' is true, and packed scoring puts the query first; the gates measure requests "
                "without it"
            )
        if not request.apply_softmax:
            raise UsageError(
                f"{place}: 'apply_softmax' is false, and the gates judge scores after the softmax over the labels; "
                "leave it out (multiitem load, ab, matrix and compare run send it as it stands)"
            )
    pool = tuple(sorted({token for request in requests for item in request.items for token in item}))
    if len(pool) < 2:
        raise UsageError(f"workload {path}: all items together hold {len(pool)} distinct token; nothing to mutate")
    return tuple(Case(r.name, r.query, r.items, r.labels, pool, r.texts) for r in requests)


def explicit_labels(settings: Settings) -> tuple[int, ...] | None:
    """The labels that the user gave by an option, for requests without their own; None where none were given."""
    origin = settings.origins.get("labels", "default")
    return None if origin == "default" or origin.startswith(_OF_WORKLOAD) else settings.labels


def fitted(settings: Settings, *, starts_servers: bool = True) -> Settings:
    """The settings with labels that are token ids: those given as text by the tokenizer; where none were given, those
    that every request of the workload has. A workload is read, and refused where it cannot be used.

    ``starts_servers``: whether servers may be started of the settings; else all that is measured runs already. Raises
    UsageError of one line.
    """
    served = generated_tokenizer(settings) if starts_servers else None
    settings = _with_label_ids(settings, served)
    if settings.workload is None:
        return settings
    lines = _drawn(settings)[1]
    if encoder_of(settings, served) is None and any(line.needs_tokenizer for line in lines):
        return settings  # the server may name its model's directory
    found = load(settings, delimiter=None, vocab_size=settings.vocab_size or ANY_VOCABULARY, served=served)
    assert found is not None  # there is a workload
    if explicit_labels(settings) is not None:
        return settings
    sets = {request.labels for request in found.requests}
    if len(sets) > 1:
        return settings
    origins = {**settings.origins, "labels": f"{_OF_WORKLOAD}{settings.workload}"}
    return replace(settings, labels=sets.pop(), origins=origins)


def _with_label_ids(settings: Settings, served: str | None) -> Settings:
    if all(isinstance(label, int) for label in settings.labels):
        return settings
    encoder, ids = encoder_of(settings, served), list[int]()
    for label in settings.labels:
        if isinstance(label, str):
            if encoder is None:
                raise settings.invalid("labels", label, f"it is text, and there is no tokenizer for it; {NAME_ONE}")
            try:
                label = encoder.label(label)
            except ValueError as error:
                raise settings.invalid("labels", label, str(error)) from None
        ids.append(label)
    return replace(settings, labels=tuple(dict.fromkeys(ids)))


def described(settings: Settings, served: Iterable[str | None] = ()) -> TrafficSource | None:
    """Where the requests of a run come from; None where it has no workload. ``served``: the models' directories, as the
    run's servers name them.

    Raises UsageError as `load` does.
    """
    if settings.workload is None:
        return None
    traffic, lines = _drawn(settings)
    encoders = (encoder_of(settings, each) for each in (*served, generated_tokenizer(settings)))
    return source_of(traffic, lines, next(filter(None, encoders), None), settings)


def _drawn(settings: Settings) -> tuple[Traffic, tuple[Line, ...]]:
    assert settings.workload is not None
    traffic = _read(settings.workload, settings.workload.stat().st_mtime_ns)
    return traffic, drawn(traffic.lines, settings.workload_sample, settings.seed)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Traffic:
    """A file's requests, read once as long as it stays as it is."""
    return read_traffic(path)
