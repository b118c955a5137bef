"""The parameters of tests, from the run's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_multiitem.results.records import Place
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.session.keys import SETTINGS
from pytest_multiitem.settings.settings import Settings

if TYPE_CHECKING:
    from pytest_multiitem.adapters.base import Profile


def parametrize(metafunc: pytest.Metafunc, settings: Settings) -> None:
    """Give a test that uses our parameter fixtures the values of the run's settings."""
    for fixture, values in _values(settings).items():
        always_named = fixture in ("multiitem_backend", "multiitem_mask") or values[0] in settings.models
        if fixture in metafunc.fixturenames and (len(values) > 1 or always_named):
            metafunc.parametrize(fixture, values, ids=[_id_of(fixture, value) for value in values])


def only_value(config: pytest.Config, fixture: str) -> Any:
    """The value of a parameter fixture that has one only: its tests are not parametrised, their ids do not name it."""
    (value,) = _values(config.stash[SETTINGS])[fixture]
    return value


def _values(settings: Settings) -> dict[str, tuple[Any, ...]]:
    """What the parameter fixtures range over."""
    attached = settings.multi_url or settings.serial_url
    masks: tuple[str, ...] = settings.mask_impl
    chunks: tuple[Any, ...] = settings.server_chunk_size
    if attached:
        masks = masks if settings.origins["mask_impl"] != "default" else (ATTACHED,)
        chunks = (0,)
    elif set(chunks) <= {1, 2}:
        chunks = (*chunks, 0)  # isolation needs three items in one sequence as well
    return {
        "multiitem_backend": (ATTACHED,) if attached else settings.backend,
        "multiitem_mask": masks,
        "multiitem_chunk": chunks,
        "multiitem_client_chunk": settings.client_chunk_sizes,
        "multiitem_bench_chunk": settings.bench_chunk_sizes,
        "multiitem_model": settings.models or (None,),
    }


def _id_of(fixture: str, value: Any) -> str:
    """What a parameter is called in test ids."""
    if fixture == "multiitem_model":
        return str(value).rstrip("/").rpartition("/")[2]
    return f"{fixture.split('_')[1] if isinstance(value, int) else ''}{value}"


def profiles_of(item: pytest.Item) -> list[Profile]:
    """The servers that a test will ask for, so that all of a run's servers can start side by side."""
    from pytest_multiitem.adapters.base import Profile  # it brings NumPy, which a run without our tests does not need
    from pytest_multiitem.scoring.semantics import Semantics

    params = getattr(getattr(item, "callspec", None), "params", {})
    backend = params.get("multiitem_backend")
    names = getattr(item, "fixturenames", ())
    model = model_of(item)
    profiles: list[Profile] = []
    if backend in (None, ATTACHED):
        return profiles
    if "serial_server" in names:
        profiles.append(Profile("serial", backend, model=model))
    if "multi_item_server" in names:
        semantics = Semantics(item.config.stash[SETTINGS].semantics)
        mask = params["multiitem_mask"]
        chunk = params["multiitem_chunk"] if "multiitem_chunk" in params else only_value(item.config, "multiitem_chunk")
        profiles.append(Profile("multi", backend, mask, chunk, semantics, model))
    if "prefill_extend_server" in names:
        profiles.append(Profile("extend", backend, semantics=Semantics.QUERY_PREFIX, model=model))
    return profiles


def place_of(item: pytest.Item) -> Place:
    """A test's parameters, as its verdict carries them; an added test states them itself."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        place: Place = getattr(item, "place", Place())
        return place
    given = {name: callspec.params.get(f"multiitem_{name}") for name in ("backend", "mask", "model")}
    model = given["model"] and _id_of("multiitem_model", given["model"])
    return Place(label=callspec.id or None, **given | {"model": model})


def model_of(item: pytest.Item) -> str | None:
    """The model of a model matrix that a test is for."""
    model: str | None = getattr(getattr(item, "callspec", None), "params", {}).get("multiitem_model")
    return model
