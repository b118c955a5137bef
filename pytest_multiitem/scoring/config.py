"""How a server of this package scores: its mode, its mask implementation, its limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.semantics import Semantics


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

    ``delimiter``: token id that separates packed items; ``None`` (never 0, which is a valid id) means no packing.
    ``chunk_size``: items per packed sequence, 0 = all. ``segment_threshold``: packed length in tokens, padding counted,
    up to and including which `auto` chooses segment, and above which dense (sgl-jax: `padded_token_len <= threshold`).
    ``max_seq_len``: tokens of one packed sequence, or of query + item under prefill+extend. ``max_positions``:
    positions below the model's own limit, ``None`` = the model's. ``scoring_cache``: keep computed prefixes for later
    requests, of prefill+extend and of packed sequences under the segment mask. ``cache_entries``, ``cache_tokens``:
    prefixes kept, and tokens of all of them together; the least recently used are dropped first.
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
