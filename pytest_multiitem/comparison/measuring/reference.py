"""A side's own reference: some items scored alone on its serial server."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.rows import encoded
from pytest_multiitem.comparison.measuring.sides import Connected, Side, serial_of
from pytest_multiitem.comparison.records import OwnReference
from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.scoring.semantics import Semantics

#: Items that are scored alone, spread over all requests.
_ITEMS = 32
#: Of those, how many are scored again for the noise floor.
_REPLAYS = 8


def measure_reference(campaign: Campaign, side: Side) -> None:
    """Score items alone, in the context of the side's declared semantics, unless its matrices have that already.

    What is known of another view of the backend, with the same semantics, is taken over.
    """
    matrices = campaign.ledger.matrices
    begun = {view: matrices[side.backend, view] for view in side.views if (side.backend, view) in matrices}
    lacking = [view for view, matrix in begun.items() if matrix.own_reference is None]
    if not lacking:
        return
    semantics = begun[lacking[0]].semantics
    known = (m.own_reference for m in matrices.values() if m.backend == side.backend and m.semantics == semantics)
    reference = next((each for each in known if each is not None), None) or _measured(campaign, side, semantics)
    for matrix in campaign.ledger.changed(side.backend, lacking):
        matrix.own_reference = reference


def _measured(campaign: Campaign, side: Side, semantics: str | None) -> OwnReference:
    if semantics is None:
        return OwnReference(reason="the server declares no semantics")
    reference = OwnReference(semantics=semantics)
    campaign.progress.describe(f"serial reference of {side.backend}")
    declared, delimiter = Semantics(semantics), campaign.settings.delimiter
    items = [(request, item) for request in campaign.requests for item in request.items_token_ids]
    indices = np.unique(np.linspace(0, len(items) - 1, min(_ITEMS, len(items))).astype(int))
    singles = [
        encoded(request, declared.serial_query(tuple(request.query_token_ids), delimiter), [item])
        for request, item in (items[i] for i in indices)
    ]
    try:
        serial = serial_of(side)
        with closing(Connected(serial, campaign.directory_of(serial))) as connected:
            target = connected.open()
            reference.source = f"serial {target.engine} {target.profile.backend}"
            with target.watch():
                scores = np.concatenate([target.client.send(single) for single in singles])
                again = np.concatenate([target.client.send(single) for single in singles[:_REPLAYS]])
    except UsageError:
        raise
    except MultiItemError as error:
        reference.reason = str(error).splitlines()[0]
        return reference
    reference.item_indices = [int(i) for i in indices]
    reference.scores = scores.tolist()
    reference.noise_floor = max_abs(again - scores[: len(again)])
    return reference
