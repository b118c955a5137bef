"""One server for both sides: its serial scores are those of requests that hold one item."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.attach import client_of
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.one_item import OneItemClient, Packing


@dataclass(eq=False, kw_only=True)
class OneItemSide(Target):
    """The serial side of ``packed``: the same server, asked for one item at a time."""

    packed: Target

    @property
    def _wanted(self) -> set[str | None]:
        """It packs these requests as well, with one item each; or it scores such requests serially."""
        return {*self.packed._wanted, "serial"}


def serial_side(packed: Target, settings: Settings) -> Target:
    """A packing server as its own serial baseline. Raises as `targets.attach.client_of`, and EngineUnavailable for an
    engine that does not pack: its scores are serial as they are."""
    if packed.adapter is not None and (reason := packed.adapter.packs_nothing) is not None:
        raise EngineUnavailable(f"{reason}; give its address as the serial server's as well: --serial-url {packed.url}")
    packing = Packing(packed.delimiter, declared_semantics(packed).sees_first_delimiter)
    return OneItemSide(
        Profile("serial", ATTACHED),
        packed.engine,
        client_of(packed.client.address, settings, kind=partial(OneItemClient, packing=packing)),
        adapter=packed.adapter,
        assumed_vocab_size=packed.assumed_vocab_size,
        described=packed.info,
        delimiter=packed.delimiter,
        packed=packed,
    )
