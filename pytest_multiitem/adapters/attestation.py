"""What a server says it executed, and how that differs from what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

#: The mask of a server that cannot say what it executed.
UNATTESTED = "unattested"


@dataclass
class Attestation:
    """What a server says it executed for the requests of one measurement.

    ``mask``: "dense", "segment", "prefill+extend", "serial", an engine's own word, several joined by
    "+", "none", or "unattested" where the server cannot say. ``problem``: how that differs from what
    was asked.
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


class _Extended(msgspec.Struct, frozen=True):
    items: int


class Executed(msgspec.Struct, frozen=True):
    """Counters of what ran since a server started: packed sequences and items by mask, items of
    prefill+extend, serial sequences."""

    packed_sequences: dict[str, int]
    packed_items: dict[str, int]
    prefill_extend: _Extended
    serial_sequences: int

    @classmethod
    def read(cls, info: Mapping[str, Any] | None) -> Executed | None:
        """The counters in an answer to ``/get_server_info``; None where it has none."""
        try:
            return msgspec.convert((info or {}).get("executed"), cls)
        except msgspec.ValidationError:
            return None

    def since(self, before: Executed, attestation: Attestation, wanted: set[str | None]) -> None:
        """Fill in what ran since ``before``; anything but the ``wanted`` masks is a problem."""
        packed = {mask: count - before.packed_sequences.get(mask, 0) for mask, count in self.packed_sequences.items()}
        paths = [mask for mask, count in packed.items() if count]
        if self.prefill_extend.items > before.prefill_extend.items:
            paths.append("prefill+extend")
        if self.serial_sequences > before.serial_sequences:
            paths.append("serial")
        attestation.mask = "+".join(paths) or "none"
        attestation.packed_sequences = sum(packed.values())
        attestation.packed_items = sum(self.packed_items.values()) - sum(before.packed_items.values())
        if not paths or not set(paths) <= wanted:
            requested = " or ".join(sorted(map(str, wanted)))
            attestation.problem = f"{requested} was requested, but the server executed {attestation.mask}"


#: Arguments of a launch on which a verdict depends, as servers declare them.
_ARGUMENTS = {
    "attention_backend", "chunked_prefill_size", "disable_radix_cache", "dtype", "enable_mis", "enable_scoring_cache",
    "multi_item_enable_prefill_extend", "multi_item_mask_impl", "multi_item_scoring_chunk_size",
    "multi_item_scoring_delimiter",
}  # fmt: skip


def contradictions(info: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Where a server says that it runs with other arguments than it was started with.

    ``requested`` maps names of arguments, as the server writes them, to values; what the server does not
    tell is no contradiction.
    """
    return [
        f"{name} was set to {requested[name]}, but the server says {info[name]}"
        for name in sorted(_ARGUMENTS & requested.keys())
        if info.get(name) is not None and _plain(info[name]) != _plain(requested[name])
    ]


def not_applied(info: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Where a server says that it runs otherwise than it was asked to, for any argument: of a variant, whatever it
    varies. What the server does not tell, or tells in another form, is no contradiction; see `untold`."""
    return [
        f"{name} should be {wanted[name]}, but the server says {info[name]}"
        for name in sorted(_told(info, wanted))
        if not _same(info[name], wanted[name])
    ]


def untold(info: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The arguments of which a server does not say with which value it runs."""
    return sorted(wanted.keys() - _told(info, wanted))


def _told(info: Mapping[str, Any], wanted: Mapping[str, Any]) -> set[str]:
    """An argument that is left out (False) is told only as a switch: otherwise it has the engine's own default."""
    return {
        name
        for name, value in wanted.items()
        if info.get(name) is not None
        and not isinstance(info[name], dict)
        and (value is not False or isinstance(info[name], bool))
    }


def _same(told: Any, wanted: Any) -> bool:
    if isinstance(told, list | tuple) or isinstance(wanted, list | tuple):
        both = [list(each) if isinstance(each, list | tuple) else [each] for each in (told, wanted)]
        return len(both[0]) == len(both[1]) and all(map(_same, *both))
    try:
        return float(told) == float(wanted)
    except (TypeError, ValueError):
        return _plain(told) == _plain(wanted)


def _plain(value: Any) -> str:
    return str(value).removeprefix("torch.").removeprefix("jnp.").lower()
