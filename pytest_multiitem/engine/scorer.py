"""From token ids to scores: limits, chunks, the choice of mask implementation, and what really ran.

Three modes: serial (one forward pass per item), packed (one sequence per chunk of items), and
prefill+extend (the query once, then batches of items against it). The model is behind `SerialBackend`
or, for the latter two, `Backend`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.engine.backend import Backend, Prefix, SerialBackend
from pytest_multiitem.engine.plan import place
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.layout import PackedLayout, build_layout, packed_length
from pytest_multiitem.scoring.readout import Readout
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.wire import WireError

Ids = Sequence[int]
Scores = NDArray[np.float64]

#: Prefill+extend computes no delimiter: the layout's closing delimiters stand after every token that
#: is read, so causality hides them, and any valid id will do.
_UNSEEN_DELIMITER = 0


class Mode(StrEnum):
    """How a server scores; fixed at its start."""

    SERIAL = "serial"
    PACKED = "packed"
    PREFILL_EXTEND = "prefill_extend"


class MaskImpl(StrEnum):
    """How packed item isolation is enforced. AUTO: segment up to a packed length, dense above it."""

    DENSE = "dense"
    SEGMENT = "segment"
    AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """How to score. Defaults are sgl-jax's. Raises UsageError where the values contradict each other.

    ``delimiter``: token id that separates packed items; ``None`` (never 0, which is a valid id)
    means no packing. ``chunk_size``: items per packed sequence, 0 = all. ``segment_threshold``:
    packed length in tokens, padding counted, up to and including which `auto` chooses segment, and above
    which dense (sgl-jax: `padded_token_len <= threshold`). ``max_seq_len``: tokens of one packed
    sequence, or of query + item under prefill+extend. ``max_positions``: positions below the
    model's own limit, ``None`` = the model's. ``cache_entries``, ``cache_tokens``: prefixes kept, and
    tokens of all of them together; the least recently used are dropped first.
    """

    delimiter: int | None = None
    chunk_size: int = 32
    mask_impl: MaskImpl = MaskImpl.AUTO
    segment_threshold: int = 32_768
    semantics: Semantics = Semantics.PREFIX_FIRST_DELIM
    max_seq_len: int = 32_768
    max_items: int = 512
    max_positions: int | None = None
    prefill_extend: bool = False
    extend_batch_size: int = 32
    scoring_cache: bool = False
    cache_entries: int = 8
    cache_tokens: int = 65_536

    def __post_init__(self) -> None:
        for name, lowest, flag in (
            ("delimiter", 0, "--multi-item-scoring-delimiter"),
            ("chunk_size", 0, "--multi-item-scoring-chunk-size"),
            ("segment_threshold", 0, "--multi-item-segment-fallback-threshold"),
            ("max_seq_len", 1, "--max-multi-item-seq-len"),
            ("max_items", 1, "--max-multi-item-count"),
            ("max_positions", 1, "--context-length"),
            ("extend_batch_size", 1, "--multi-item-extend-batch-size"),
            ("cache_entries", 1, "no flag"),
            ("cache_tokens", 0, "no flag"),
        ):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise UsageError(f"{name} ({flag}) is {value}; expected an integer >= {lowest}")
        if self.prefill_extend and not self.scoring_cache:
            raise UsageError(
                "prefill+extend keeps the query in the scoring cache, and that is off; "
                "add --enable-scoring-cache, or drop --multi-item-enable-prefill-extend"
            )
        if not self.semantics.has_serial_reference and self.mask_impl is MaskImpl.SEGMENT:
            raise UsageError(
                f"the semantics {self.semantics.value} is an ablation and runs under a dense mask only, "
                "but mask implementation segment was asked for; use --multi-item-mask-impl dense"
            )

    @property
    def mode(self) -> Mode:
        """Prefill+extend where asked for, packed where there is a delimiter, else serial."""
        if self.prefill_extend:
            return Mode.PREFILL_EXTEND
        return Mode.SERIAL if self.delimiter is None else Mode.PACKED

    @property
    def declared_semantics(self) -> Semantics:
        """The semantics whose serial reference the scores must equal: `query + item` unless packed."""
        return self.semantics if self.mode is Mode.PACKED else Semantics.QUERY_PREFIX

    def automatic(self, padded_length: int) -> MaskImpl:
        """What AUTO chooses for a packed sequence of ``padded_length`` tokens: DENSE or SEGMENT."""
        segment = padded_length <= self.segment_threshold and self.semantics.has_serial_reference
        return MaskImpl.SEGMENT if segment else MaskImpl.DENSE


@dataclass(frozen=True, eq=False)
class ScoreResult:
    """``scores`` [N, K] in item order; ``prompt_tokens``: tokens of all sequences that were computed."""

    scores: Scores
    prompt_tokens: int


def _by_implementation() -> dict[str, int]:
    return {MaskImpl.DENSE.value: 0, MaskImpl.SEGMENT.value: 0}


@dataclass
class Executed:
    """What really ran since the process started; each count is made after the backend returned.

    ``requests``, ``items``: answered with scores. ``serial_sequences``: one forward pass each.
    ``packed_sequences``, ``packed_items``: by the mask implementation that computed them.
    ``largest_packed_items``, ``largest_packed_tokens``: of one sequence. ``chunks``: packed
    sequences in all. ``items_by_semantics``: items of packed and prefill+extend scoring.
    """

    requests: int = 0
    items: int = 0
    serial_sequences: int = 0
    packed_sequences: dict[str, int] = field(default_factory=_by_implementation)
    packed_items: dict[str, int] = field(default_factory=_by_implementation)
    largest_packed_items: int = 0
    largest_packed_tokens: int = 0
    chunks: int = 0
    prefill_extend: dict[str, int] = field(
        default_factory=lambda: {"prefills": 0, "cache_hits": 0, "extend_batches": 0, "items": 0}
    )
    items_by_semantics: dict[str, int] = field(default_factory=lambda: {semantics.value: 0 for semantics in Semantics})

    def snapshot(self) -> dict[str, Any]:
        """A copy, as plain JSON values."""
        return asdict(self)


class PrefixCache:
    """Computed prefixes by their exact tokens; beyond ``entries`` prefixes, or ``tokens`` tokens of all together, the
    least recently used are dropped; one that is longer by itself is not kept. Every token of a prefix holds a key and a
    value of every layer."""

    def __init__(self, entries: int, tokens: int) -> None:
        self._entries = entries
        self._tokens = tokens
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prefixes)

    def get(self, tokens: tuple[int, ...], compute: Callable[[], Prefix]) -> tuple[Prefix, bool]:
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


class Scorer:
    """Scores requests on one backend. Not thread-safe, except :meth:`executed`.

    Raises UsageError where the configuration does not fit the model.
    """

    def __init__(self, backend: SerialBackend, config: ScorerConfig) -> None:
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
        self.config = config
        self._max_positions = min(backend.max_positions, config.max_positions or backend.max_positions)
        self._cache = PrefixCache(config.cache_entries, config.cache_tokens)
        self._executed = Executed()

    def score(
        self, query: Ids, items: Sequence[Ids], labels: Ids, apply_softmax: bool, item_first: bool = False
    ) -> ScoreResult:
        """Score N items behind a query (at least one token) at K labels.

        Every limit is checked before the backend is called. ``item_first`` counts in serial mode
        only. Raises WireError for a request over a limit or with the delimiter inside its content.
        """
        if len(items) > self.config.max_items:
            raise WireError(
                400,
                "too_many_items",
                f"the request has {len(items)} items; this server takes at most {self.config.max_items}. "
                "Send them in several requests, or raise --max-multi-item-count",
                "items",
            )
        read = _Reading(labels, apply_softmax)
        match self.config.mode:
            case Mode.SERIAL:
                result = self._serial(query, items, read, item_first)
            case Mode.PACKED:
                result = self._packed(query, items, read)
            case Mode.PREFILL_EXTEND:
                result = self._extended(query, items, read)
        self._executed.requests += 1
        self._executed.items += len(items)
        return result

    def flush_cache(self) -> None:
        """Forget every cached prefix; the counters go on."""
        self._cache.clear()

    def executed(self) -> dict[str, Any]:
        """What ran since the start (:class:`Executed`); may be called from any thread."""
        return self._executed.snapshot()

    # -- serial ------------------------------------------------------------------------------

    def _serial(self, query: Ids, items: Sequence[Ids], read: _Reading, item_first: bool) -> ScoreResult:
        """One causal forward pass per item; an empty item scores the query's last token."""
        self._check_each(query, items, self._max_positions, "the model's positions")
        scores = read.empty(len(items))
        for i, item in enumerate(items):
            tokens = [*item, *query] if item_first else [*query, *item]
            readout = self.backend.serial(tokens, read.labels, read.normalise)
            self._executed.serial_sequences += 1
            scores[i] = read.scores(readout)[0]
        return ScoreResult(scores, _joined_tokens(query, items))

    # -- packed ------------------------------------------------------------------------------

    def _packed(self, query: Ids, items: Sequence[Ids], read: _Reading) -> ScoreResult:
        """One packed sequence per chunk; all chunks are laid out and checked before the first runs."""
        assert self.config.delimiter is not None
        self._check_delimiter(self.config.delimiter, query, items)
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
            layouts.append(self._lay_out(query, items[chunk], chunk.start))
            last = int(layouts[-1].positions.max())
            if last >= self._max_positions:
                raise _too_long(
                    f"items {chunk.start} to {chunk.stop - 1} reach position {last}",
                    f"{self._max_positions} positions",
                    "shorten the query or the longest item",
                    "items",
                )
        scores = [self._packed_sequence(layout, read) for layout in layouts]
        return ScoreResult(np.concatenate(scores), sum(layout.length for layout in layouts))

    def _lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        """The packed sequence of one chunk; ``start``: the number of its first item in the request."""
        assert self.config.delimiter is not None
        return build_layout(query, items, self.config.delimiter, self.config.semantics)

    def _packed_sequence(self, layout: PackedLayout, read: _Reading) -> Scores:
        """The scores [N, K] of one packed sequence, by the mask implementation that was asked for."""
        implementation = self._implementation(layout)
        scores = self._compute(layout, implementation, read)
        ran, n = self._executed, layout.num_items
        ran.packed_sequences[implementation] += 1
        ran.packed_items[implementation] += n
        ran.items_by_semantics[layout.semantics] += n
        ran.chunks += 1
        ran.largest_packed_items = max(ran.largest_packed_items, n)
        ran.largest_packed_tokens = max(ran.largest_packed_tokens, layout.length)
        return scores

    def _implementation(self, layout: PackedLayout) -> MaskImpl:
        """DENSE or SEGMENT: what was asked for, or what AUTO chooses."""
        if self.config.mask_impl is not MaskImpl.AUTO:
            return self.config.mask_impl
        if self.config.automatic(layout.length) is MaskImpl.DENSE:  # padding only adds to it
            return MaskImpl.DENSE
        return self.config.automatic(self._packing.padded_length(layout))

    def _compute(self, layout: PackedLayout, implementation: MaskImpl, read: _Reading) -> Scores:
        if implementation is MaskImpl.DENSE:
            return read.scores(self._packing.dense(place(layout), read.labels, read.normalise))
        return self._segment(layout, self._packing.prefix(*layout.prefix), layout.num_items, read)

    def _segment(self, layout: PackedLayout, prefix: Prefix, num_items: int, read: _Reading) -> Scores:
        """The scores [N, K] of items behind a computed prefix, then of the empty ones; ``num_items`` sizes tiles."""
        plan = self._packing.plan(prefix, layout, num_items)
        scores = read.empty(layout.num_items)
        readouts = self._packing.segment(prefix, plan.visible_prefix, plan.blocks, read.labels, read.normalise)
        for block, readout in zip(plan.blocks, readouts, strict=True):
            scores[block.item[block.reads]] = read.scores(readout)[block.reads]
        if plan.empty_items:
            readout = self._packing.prefix_readout(prefix, plan.empty_score_row, read.labels, read.normalise)
            scores[list(plan.empty_items)] = read.scores(readout)[0]
        return scores

    # -- prefill+extend ----------------------------------------------------------------------

    def _extended(self, query: Ids, items: Sequence[Ids], read: _Reading) -> ScoreResult:
        """The query once (or from the cache), then batches of items against it.

        The prefix is the query alone, Q tokens, and items see all of it: a plan under `query_prefix`
        says just that (``visible_prefix`` = Q, items restart at Q), so its blocks serve here too. Its
        first delimiter is part of no block and is never computed. Fixed tiles of a partial last batch
        are those of a full one, so that the number of items changes no shape.
        """
        limit = min(self._max_positions, self.config.max_seq_len)
        self._check_each(query, items, limit, "query + item")
        ran = self._executed.prefill_extend
        prefix, hit = self._cache.get(tuple(query), lambda: self._prefill(query))
        ran["cache_hits"] += hit
        scores = []
        for batch in _batches(items, self.config.extend_batch_size):
            layout = self._lay_out_batch(query, items[batch], hit)
            scores.append(self._segment(layout, prefix, self.config.extend_batch_size, read))
            ran["extend_batches"] += 1
            ran["items"] += layout.num_items
            self._executed.items_by_semantics[layout.semantics] += layout.num_items
        return ScoreResult(np.concatenate(scores), len(query) + sum(map(len, items)))

    def _lay_out_batch(self, query: Ids, items: Sequence[Ids], hit: bool) -> PackedLayout:
        """One batch behind its query, which was in the cache already or not."""
        return build_layout(query, items, _UNSEEN_DELIMITER, Semantics.QUERY_PREFIX)

    def _prefill(self, query: Ids) -> Prefix:
        prefix = self._packing.prefix(np.asarray(query, dtype=np.int32), np.arange(len(query), dtype=np.int32))
        self._executed.prefill_extend["prefills"] += 1
        return prefix

    # -- limits ------------------------------------------------------------------------------

    def _check_each(self, query: Ids, items: Sequence[Ids], limit: int, of: str) -> None:
        """Each ``query + item`` fits into ``limit`` tokens."""
        for i, item in enumerate(items):
            if len(query) + len(item) > limit:
                raise _too_long(
                    f"the query ({len(query)} tokens) and items[{i}] ({len(item)} tokens) "
                    f"have {len(query) + len(item)} tokens",
                    f"{limit} ({of})",
                    "shorten one of them",
                    f"items[{i}]",
                )

    @staticmethod
    def _check_delimiter(delimiter: int, query: Ids, items: Sequence[Ids]) -> None:
        """Content without the delimiter: inside an item it would split the item in two."""
        places: Iterator[tuple[str, Ids]] = ((f"items[{i}]", item) for i, item in enumerate(items) if delimiter in item)
        found = ("query", query) if delimiter in query else next(places, None)
        if found is not None:
            name, ids = found
            param = f"{name}[{list(ids).index(delimiter)}]"
            raise WireError(
                400,
                "delimiter_in_content",
                f"{param} is the delimiter {delimiter}, which separates items; remove it from the content",
                param,
            )


@dataclass(frozen=True)
class _Reading:
    """What a request reads at each score position."""

    labels: Ids
    apply_softmax: bool

    @property
    def normalise(self) -> bool:
        """Whether the full-vocabulary normaliser is needed."""
        return not self.apply_softmax

    def scores(self, readout: Readout) -> Scores:
        """[n, K]."""
        return readout.scores(self.apply_softmax)

    def empty(self, num_items: int) -> Scores:
        """[N, K] of NaN, so that an item that nothing filled cannot pass for a score."""
        return np.full((num_items, len(self.labels)), np.nan)


def _batches(items: Sequence[Ids], size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, len(items))) for start in range(0, len(items), size))


def _joined_tokens(query: Ids, items: Sequence[Ids]) -> int:
    return sum(len(query) + len(item) for item in items)


def _too_long(what: str, limit: str, remedy: str, param: str) -> WireError:
    return WireError(400, "sequence_too_long", f"{what}; this server takes at most {limit}: {remedy}", param)
