"""From token ids to scores: limits, chunks, the choice of mask implementation, and what really ran.

Three modes: serial (one forward pass per item), packed (one sequence per chunk of items), and prefill+extend (the query
once, then batches of items against it). The model is behind `SerialBackend` or, for the latter two, `Backend`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pytest_multiitem.engine import interruption
from pytest_multiitem.engine.backend import Backend, Prefix, SerialBackend
from pytest_multiitem.engine.plan import place
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.config import MaskImpl, Mode, ScorerConfig
from pytest_multiitem.scoring.layout import PackedLayout, build_layout, packed_length, read_at
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.steps import Encode, Ids, Reading, ScoreResult, Scores, ScoringSteps
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.fields import too_many_items

#: Prefill+extend computes no delimiter: the layout's closing delimiters stand after every token that
#: is read, so causality hides them, and any valid id will do.
_UNSEEN_DELIMITER = 0

#: Scores of one request, at most: 4,096 items by 512 labels, say.
MAX_SCORES = 1 << 21


def _by_implementation() -> dict[str, int]:
    return {MaskImpl.DENSE.value: 0, MaskImpl.SEGMENT.value: 0}


@dataclass
class Executed:
    """What really ran since the process started; each count is made after the backend returned.

    ``requests``, ``items``: answered with scores. ``serial_sequences``: one forward pass each.
    ``packed_sequences``, ``packed_items``: by the mask implementation that computed them.
    ``largest_packed_items``, ``largest_packed_tokens``: of one sequence. ``chunks``: packed
    sequences in all. ``packed_prefixes``: of packed sequences under the segment mask, computed or found in the cache.
    ``items_by_semantics``: items of packed and prefill+extend scoring.
    """

    requests: int = 0
    items: int = 0
    serial_sequences: int = 0
    packed_sequences: dict[str, int] = field(default_factory=_by_implementation)
    packed_items: dict[str, int] = field(default_factory=_by_implementation)
    largest_packed_items: int = 0
    largest_packed_tokens: int = 0
    chunks: int = 0
    packed_prefixes: dict[str, int] = field(default_factory=lambda: {"computed": 0, "reused": 0})
    prefill_extend: dict[str, int] = field(
        default_factory=lambda: {"prefills": 0, "cache_hits": 0, "extend_batches": 0, "items": 0}
    )
    items_by_semantics: dict[str, int] = field(default_factory=lambda: {semantics.value: 0 for semantics in Semantics})


#: The tokens of a prefix with their positions, on which all that is computed of it depends.
PrefixKey = tuple[tuple[int, int], ...]


class PrefixCache:
    """Computed prefixes by their exact tokens and positions; beyond ``entries`` prefixes, or ``tokens`` tokens of all
    together, the least recently used are dropped; one that is longer by itself is not kept. Every token of a prefix
    holds a key and a value of every layer."""

    def __init__(self, entries: int, tokens: int) -> None:
        self._entries = entries
        self._tokens = tokens
        self._prefixes: OrderedDict[PrefixKey, Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prefixes)

    def get(self, tokens: PrefixKey, compute: Callable[[], Prefix]) -> tuple[Prefix, bool]:
        """The prefix of ``tokens``, and whether it was here already; otherwise it is computed and kept."""
        if tokens in self._prefixes:
            self._prefixes.move_to_end(tokens)
            return self._prefixes[tokens], True
        prefix = compute()
        if len(tokens) <= self._tokens:
            self._prefixes[tokens] = prefix
        while len(self._prefixes) > self._entries or sum(map(len, self._prefixes)) > self._tokens:
            self._prefixes.popitem(last=False)
        return prefix, False

    def clear(self) -> None:
        """Forget every prefix."""
        self._prefixes.clear()


class Scorer(ScoringSteps):
    """Scores requests on one backend. Not thread-safe, except :meth:`executed`.

    ``mutate``: what puts faults in front of its steps. Raises UsageError where the configuration does not fit the
    model.
    """

    def __init__(
        self,
        backend: SerialBackend,
        config: ScorerConfig,
        mutate: Callable[[ScoringSteps], ScoringSteps] = lambda scorer: scorer,
    ) -> None:
        self._config = config
        self.steps = mutate(self)
        self._config = config = self.steps.config
        if config.mode is not Mode.SERIAL and not isinstance(backend, Backend):
            raise UsageError(
                f"the backend {backend.name} scores serially only, but {config.mode.value} scoring was asked for; "
                "choose a backend that packs, or score serially"
            )
        if config.delimiter is not None and config.delimiter >= backend.vocab_size:
            raise UsageError(
                f"the delimiter is {config.delimiter}; expected a token id from 0 to "
                f"{backend.vocab_size - 1} (the model's vocabulary)"
            )
        self.backend = backend
        self._packing = cast(Backend, backend)  # serial scoring, of which it need not be true, never uses it
        self._max_positions = min(backend.max_positions, config.max_positions or backend.max_positions)
        self._cache = PrefixCache(config.cache_entries, config.cache_tokens)
        self._executed = Executed()

    @property
    @override
    def config(self) -> ScorerConfig:
        return self._config

    @property
    @override
    def vocab_size(self) -> int:
        return self.backend.vocab_size

    @property
    @override
    def classes(self) -> int | None:
        return self.backend.classes

    @property
    @override
    def pooled(self) -> int:
        return self.backend.pooled

    @override
    def tokenise(self, query: str, items: Sequence[str], encode: Encode) -> tuple[list[int], list[list[int]]]:
        return encode(query), [encode(item) for item in items]

    @override
    def score(
        self,
        query: Ids,
        items: Sequence[Ids],
        labels: Ids,
        apply_softmax: bool,
        item_first: bool = False,
        extraction: int | None = None,
    ) -> ScoreResult:
        if len(items) > self.config.max_items:
            raise too_many_items(len(items), self.config.max_items)
        readouts = None if extraction is None else self._readouts(query, items, extraction)
        self._check_scores(len(items), len(labels), len(items) if readouts is None else int(readouts.sum()))
        read = Reading(labels, apply_softmax, self.classes is not None and not apply_softmax, extraction)
        match self.config.mode:
            case Mode.SERIAL:
                result = self._serial(query, items, read, item_first)
            case Mode.PACKED:
                result = self.steps.pack(query, items, read)
            case Mode.PREFILL_EXTEND:
                result = self._extended(query, items, read)
        self._executed.requests += 1
        self._executed.items += len(items)
        return result if readouts is None else replace(result, readouts=readouts)

    def _readouts(self, query: Ids, items: Sequence[Ids], token: int) -> NDArray[np.int64]:
        """How often an extraction token stands in each item [N]: at least once, and never in the query."""
        if self.config.mode is Mode.PREFILL_EXTEND:
            message = (
                "score_extraction_token is not supported by prefill+extend, which computes a query apart from its "
            )
            raise WireError(
                400,
                "setwise_not_supported",
                f"{message}items; ask a packed or a serial server",
                "score_extraction_token",
            )
        if token == self.config.delimiter:
            message = f"score_extraction_token is the token {token}, the delimiter, which separates items; name another"
            raise WireError(400, "invalid_score_extraction_token", message, "score_extraction_token")
        if token in query:
            param = f"query[{list(query).index(token)}]"
            message = f"{param} is {token}, the score_extraction_token; it stands inside items only, once a readout"
            raise WireError(400, "extraction_token_in_query", message, param)
        counts = np.array([list(item).count(token) for item in items], dtype=np.int64)
        if not counts.all():
            param = f"items[{int(np.argmin(counts))}]"
            message = f"{param} has no {token}, the score_extraction_token; expected it at least once in every item"
            raise WireError(400, "no_extraction_token", message, param)
        return counts

    def _check_scores(self, items: int, labels: int, readouts: int) -> None:
        """Scores take memory by themselves, however small the items are."""
        if self.classes is None and labels > self.vocab_size:
            what = f"the request has {labels} labels; the vocabulary has {self.vocab_size} tokens"
            raise WireError(400, "too_many_labels", f"{what}: name each label once", "label_token_ids")
        if readouts * labels > MAX_SCORES:
            rows = f"{items} items" if readouts == items else f"{readouts} readouts of {items} items"
            what = f"{rows} by {labels} labels are {readouts * labels} scores; this server takes at most {MAX_SCORES}"
            raise WireError(400, "too_many_scores", f"{what} in a request: send fewer items", "items")

    @override
    def flush_cache(self) -> None:
        self._cache.clear()

    @override
    def executed(self) -> dict[str, Any]:
        return asdict(self._executed)

    def _serial(self, query: Ids, items: Sequence[Ids], read: Reading, item_first: bool) -> ScoreResult:
        """One causal forward pass per item; an empty item scores the query's last token."""
        self._check_each(query, items, self._max_positions, "the model's positions")
        scores = []
        for item in items:
            interruption.current().check()
            tokens = [*item, *query] if item_first else [*query, *item]
            if read.extraction is None:
                scores.append(self.steps.score_alone(tokens, read)[None])
            else:
                places = [place for place, token in enumerate(tokens) if token == read.extraction]
                scores.append(self.steps.score_places_alone(tokens, places, read))
            self._executed.serial_sequences += 1
        return ScoreResult(np.concatenate(scores), sum(len(query) + len(item) for item in items))

    @override
    def score_alone(self, tokens: Ids, read: Reading) -> Scores:
        return read.scores(self.backend.serial(tokens, read.labels, read.normalise))[0]

    @override
    def score_places_alone(self, tokens: Ids, places: Sequence[int], read: Reading) -> Scores:
        return read.scores(self.backend.serial(tokens, read.labels, read.normalise, places))

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        self.steps.check_content(query, items)
        size = self.config.chunk_size or len(items)
        layouts = []
        for chunk in _batches(items, size):
            length = packed_length(len(query), [len(item) for item in items[chunk]])
            if length > self.config.max_seq_len:
                raise _too_long(
                    f"items {chunk.start} to {chunk.stop - 1} pack into {length} tokens",
                    f"{self.config.max_seq_len} in one packed sequence",
                    "shorten them, send fewer items, or start the server with a smaller "
                    "--multi-item-scoring-chunk-size",
                    "items",
                )
            layout = self.steps.lay_out(query, items[chunk], chunk.start)
            layouts.append(layout if read.extraction is None else self.steps.extract(layout, read.extraction))
            last = int(layouts[-1].positions.max())
            if last >= self._max_positions:
                what = f"items {chunk.start} to {chunk.stop - 1} reach position {last}"
                remedy = "shorten the query or the longest item"
                raise _too_long(what, f"{self._max_positions} positions", remedy, "items")
        scores = [self._packed_sequence(layout, read) for layout in layouts]
        return ScoreResult(np.concatenate(scores), sum(layout.length for layout in layouts))

    @override
    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        assert self.config.delimiter is not None
        return build_layout(query, items, self.config.delimiter, self.config.semantics)

    @override
    def extract(self, layout: PackedLayout, token: int) -> PackedLayout:
        return read_at(layout, token)

    def _packed_sequence(self, layout: PackedLayout, read: Reading) -> Scores:
        """The scores [R, K] of one packed sequence, by the mask implementation that was asked for."""
        interruption.current().check()
        implementation = self.steps.implementation(layout)
        scores = self.steps.compute(layout, implementation, read)
        ran, n = self._executed, layout.num_items
        ran.packed_sequences[implementation] += 1
        ran.packed_items[implementation] += n
        ran.items_by_semantics[layout.semantics] += n
        ran.chunks += 1
        ran.largest_packed_items = max(ran.largest_packed_items, n)
        ran.largest_packed_tokens = max(ran.largest_packed_tokens, layout.length)
        return scores

    @override
    def implementation(self, layout: PackedLayout) -> MaskImpl:
        if self.config.mask_impl is not MaskImpl.AUTO:
            return self.config.mask_impl
        if self.config.automatic(layout.length) is MaskImpl.DENSE:  # padding only adds to it
            return MaskImpl.DENSE
        return self.config.automatic(self._packing.padded_length(layout))

    @override
    def compute(self, layout: PackedLayout, implementation: MaskImpl, read: Reading) -> Scores:
        if implementation is MaskImpl.DENSE:
            return read.scores(self._packing.dense(place(layout), read.labels, read.normalise))
        return self._segment(layout, self._packed_prefix(layout), layout.num_items, read)

    def _packed_prefix(self, layout: PackedLayout) -> Prefix:
        """The computed prefix of a packed sequence; with the scoring cache on, the one that an earlier sequence left.

        It is computed by itself, from its tokens and positions alone, so that a kept one has the bits of a new one.
        """
        found = False
        if self.config.scoring_cache:
            prefix, found = self._kept(*layout.prefix)
        else:
            prefix = self._packing.prefix(*layout.prefix)
        self._executed.packed_prefixes["reused" if found else "computed"] += 1
        return prefix

    def _kept(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> tuple[Prefix, bool]:
        """A prefix from the cache, or computed for it, and whether it was there."""
        key = tuple(zip(tokens.tolist(), positions.tolist(), strict=True))
        return self._cache.get(key, lambda: self._packing.prefix(tokens, positions))

    def _segment(self, layout: PackedLayout, prefix: Prefix, num_items: int, read: Reading) -> Scores:
        """The scores [R, K] of items behind a computed prefix, then of the empty ones; ``num_items`` sizes tiles."""
        plan = self._packing.plan(prefix, layout, num_items)
        scores = read.empty(layout.num_readouts)
        readouts = self._packing.segment(prefix, plan.visible_prefix, plan.blocks, read.labels, read.normalise)
        for block, readout in zip(plan.blocks, readouts, strict=True):
            reads = block.readout >= 0
            scores[block.readout[reads]] = read.scores(readout)[reads]
        if plan.empty_items:
            readout = self._packing.prefix_readout(prefix, plan.empty_score_row, read.labels, read.normalise)
            scores[list(plan.empty_items)] = read.scores(readout)[0]
        return scores

    def _extended(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """The query once (or from the cache), then batches of items against it.

        The prefix is the query alone, Q tokens, and items see all of it: a plan under `query_prefix`
        says just that (``visible_prefix`` = Q, items restart at Q), so its blocks serve here too. Its
        first delimiter is part of no block and is never computed. Fixed tiles of a partial last batch
        are those of a full one, so that the number of items changes no shape.
        """
        limit = min(self._max_positions, self.config.max_seq_len)
        self._check_each(query, items, limit, "query + item")
        ran = self._executed.prefill_extend
        prefix, hit = self._kept(np.asarray(query, dtype=np.int32), np.arange(len(query), dtype=np.int32))
        ran["cache_hits" if hit else "prefills"] += 1
        scores = []
        for batch in _batches(items, self.config.extend_batch_size):
            interruption.current().check()
            layout = self.steps.lay_out_batch(query, items[batch], hit)
            scores.append(self._segment(layout, prefix, self.config.extend_batch_size, read))
            ran["extend_batches"] += 1
            ran["items"] += layout.num_items
            self._executed.items_by_semantics[layout.semantics] += layout.num_items
        return ScoreResult(np.concatenate(scores), len(query) + sum(map(len, items)))

    @override
    def lay_out_batch(self, query: Ids, items: Sequence[Ids], hit: bool) -> PackedLayout:
        return build_layout(query, items, _UNSEEN_DELIMITER, Semantics.QUERY_PREFIX)

    def _check_each(self, query: Ids, items: Sequence[Ids], limit: int, of: str) -> None:
        """Each ``query + item`` fits into ``limit`` tokens."""
        for i, item in enumerate(items):
            total = len(query) + len(item)
            if total > limit:
                what = f"the query ({len(query)} tokens) and items[{i}] ({len(item)} tokens) have {total} tokens"
                raise _too_long(what, f"{limit} ({of})", "shorten one of them", f"items[{i}]")

    @override
    def check_content(self, query: Ids, items: Sequence[Ids]) -> None:
        delimiter = self.config.delimiter
        assert delimiter is not None
        places: Iterator[tuple[str, Ids]] = ((f"items[{i}]", item) for i, item in enumerate(items) if delimiter in item)
        first = ("query", query) if delimiter in query else next(places, None)
        if first is not None:
            name, ids = first
            param = f"{name}[{list(ids).index(delimiter)}]"
            message = f"{param} is the delimiter {delimiter}, which separates items; remove it from the content"
            raise WireError(400, "delimiter_in_content", message, param)


def _batches(items: Sequence[Ids], size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, len(items))) for start in range(0, len(items), size))


def _too_long(what: str, limit: str, remedy: str, param: str) -> WireError:
    return WireError(400, "sequence_too_long", f"{what}; this server takes at most {limit}: {remedy}", param)
