"""Factories that return server fixtures, so that another server is one line in a conftest.

    from pytest_multiitem import factories

    dense_server = factories.multi_item_server(mask_impl="dense", server_chunk_size=2)
    staging_server = factories.multi_item_server(url="http://127.0.0.1:8000")

A server is started once for the whole run, shared by every test (and every pytest-xdist worker)
that asks for the same one, and stopped at the end. An attached one is never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_multiitem.state import ATTACHED

if TYPE_CHECKING:
    from pytest_multiitem.run import Run

Fixture = Callable[..., Any]


def multi_item_server(
    *,
    url: str | None = None,
    backend: str | None = None,
    mask_impl: str | None = None,
    server_chunk_size: int | None = None,
    semantics: str | None = None,
) -> Fixture:
    """A fixture that gives a packed multi-item server (`servers.target.Target`).

    What is not stated here comes from the test's parameters, that is from the run's settings.
    """

    def profile_of(run: Run, **parameters: Any) -> Any:
        from pytest_multiitem.scoring.semantics import Semantics
        from pytest_multiitem.servers.engines import Profile

        return Profile(
            "multi",
            parameters["backend"],
            parameters["mask_impl"],
            parameters["chunk_size"],
            Semantics(semantics or run.settings.semantics),
            parameters.get("model"),
        )

    if url is not None:

        @pytest.fixture
        def attached_server(multiitem_run: Run) -> Any:
            profile = profile_of(
                multiitem_run, backend=ATTACHED, mask_impl=mask_impl or ATTACHED, chunk_size=server_chunk_size
            )
            return connect(multiitem_run, profile, url)

        return attached_server

    @pytest.fixture
    def multi_item_server(
        multiitem_run: Run,
        multiitem_backend: str,
        multiitem_mask: str,
        multiitem_chunk: int,
        multiitem_model: str | None,
    ) -> Any:
        profile = profile_of(
            multiitem_run,
            backend=backend or multiitem_backend,
            mask_impl=mask_impl or multiitem_mask,
            chunk_size=multiitem_chunk if server_chunk_size is None else server_chunk_size,
            model=multiitem_model,
        )
        return connect(multiitem_run, profile, None)

    return multi_item_server


def serial_server(*, url: str | None = None, backend: str | None = None) -> Fixture:
    """A fixture that gives a serial baseline server (`servers.target.Target`)."""

    if url is not None:

        @pytest.fixture
        def attached_server(multiitem_run: Run) -> Any:
            from pytest_multiitem.servers.engines import Profile

            return connect(multiitem_run, Profile("serial", ATTACHED), url)

        return attached_server

    @pytest.fixture
    def serial_server(multiitem_run: Run, multiitem_backend: str, multiitem_model: str | None) -> Any:
        from pytest_multiitem.servers.engines import Profile

        return connect(multiitem_run, Profile("serial", backend or multiitem_backend, model=multiitem_model), None)

    return serial_server


def prefill_extend_server(*, backend: str | None = None) -> Fixture:
    """A fixture that gives a server in prefill+extend mode (`servers.target.Target`)."""

    @pytest.fixture
    def prefill_extend_server(multiitem_run: Run, multiitem_backend: str, multiitem_model: str | None) -> Any:
        from pytest_multiitem.scoring.semantics import Semantics
        from pytest_multiitem.servers.engines import Profile

        profile = Profile(
            "extend", backend or multiitem_backend, semantics=Semantics.QUERY_PREFIX, model=multiitem_model
        )
        return connect(multiitem_run, profile, None)

    return prefill_extend_server


def connect(run: Run, profile: Any, url: str | None = None) -> Any:
    """The server of a profile; ends the test as NOT_RUN where it cannot run here, as failed where it
    does not start."""
    from pytest_multiitem.errors import EngineUnavailable, MultiItemError

    try:
        return run.target(profile, url)
    except EngineUnavailable as error:
        pytest.skip(f"NOT_RUN: {error}")
    except MultiItemError as error:
        issue = run.engine.known_issue(profile.model or run.settings.model or "")
        if issue is not None:
            pytest.skip(f"NOT_RUN: known incompatibility, as expected: {issue} ({str(error).splitlines()[0]})")
        pytest.fail(str(error), pytrace=False)
