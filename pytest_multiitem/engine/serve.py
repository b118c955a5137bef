"""The embedded engine's server; its flags have sgl-jax's names, so that a launch line carries over.

Run as ``multiitem serve …`` or ``python -m pytest_multiitem.engine.serve …``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import platform
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uvicorn

import pytest_multiitem
from pytest_multiitem.engine.access import access_of
from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.backend import SerialBackend
from pytest_multiitem.engine.connections import ConnectionLimits, protocol_with
from pytest_multiitem.engine.launch_line import ServeArgs, add_arguments
from pytest_multiitem.engine.model_files import load_backend, resolve_model
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.service import Service
from pytest_multiitem.engine.tokenizer import load_tokenizer
from pytest_multiitem.engine.worker import Worker
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.transport.listening import listen, until_signal

if TYPE_CHECKING:  # a healthy server imports nothing of faults
    from pytest_multiitem.faults.base import AsgiApp

log = logging.getLogger(__name__)

_PROG = "multiitem serve"

#: Seconds that the running request gets to end, after SIGTERM or SIGINT, before it is refused; connections, to take
#: their answers; then the engine's own call, to reach its next step.
_RUNNING_GRACE_S = 2.0
_GRACE_S = 3
_ENGINE_GRACE_S = 2.0
_CONNECTIONS = ConnectionLimits()


def serve(argv: Sequence[str]) -> int:
    """Parse ``argv``, load the model, then listen and serve until SIGTERM or SIGINT; the exit code
    (`transport.listening.until_signal`)."""
    parser = argparse.ArgumentParser(prog=_PROG, description=__doc__, allow_abbrev=False)
    add_arguments(parser)
    return until_signal(_PROG, lambda: _run(ServeArgs.from_namespace(parser.parse_args(argv))))


def build_service(args: ServeArgs) -> Service:
    """Load the model and put the service together.

    Raises UsageError, CheckpointError or EngineUnavailable.
    """
    config = args.scorer_config()  # flags that contradict each other end it before a model is loaded
    directory = resolve_model(args.model_path, args.download_dir)
    backend = load_backend(args.backend, directory, dtype=args.dtype, device=args.device)
    service = service_of(args, directory, backend, Worker(args.max_queued_requests))
    if not args.skip_server_warmup:
        _warm_up(Scorer(backend, config), service.probe_ids[:1])  # a scorer that neither counts here nor has a fault
    return service


def _warm_up(scorer: Scorer, probe: Sequence[int]) -> None:
    """Load, compile and allocate once what would be left to the first request, by one item of one token."""
    with suppress(WireError):  # a limit that even this exceeds is for requests to meet
        scorer.score(probe, [probe], probe if scorer.classes is None else [0], False)


def service_of(args: ServeArgs, directory: Path, backend: SerialBackend, worker: Worker) -> Service:
    """The service of a loaded model; several may share it, if they share its worker as well."""
    config = args.scorer_config()
    scorer = Scorer(backend, config, args.faults.mutate) if args.faults else Scorer(backend, config)
    return Service(
        scorer=scorer.steps,
        tokenizer=load_tokenizer(directory),
        model=args.served_model_name or args.model_path or directory.name,
        vocab_size=backend.vocab_size,
        max_positions=min(backend.max_positions, config.max_positions or backend.max_positions),
        probe_ids=[i for i in range(min(3, backend.vocab_size)) if i != config.delimiter],
        info=_server_info(args, config, backend, directory),
        worker=worker,
    )


def _server_info(args: ServeArgs, config: ScorerConfig, backend: SerialBackend, directory: Path) -> dict[str, Any]:
    """What ``/get_server_info`` says beside the counters: the arguments, then what they came to."""
    arguments = asdict(replace(args, faults=None))
    del arguments["faults"]
    return {
        **arguments,
        **({"faults": args.faults.labels} if args.faults and args.faults.labels else {}),
        **({"variations": args.faults.varied} if args.faults and args.faults.varied else {}),
        "engine": "embedded",
        "version": pytest_multiitem.__version__,
        "backend": backend.name,
        "device": backend.device,
        "dtype": backend.dtype,
        "attention": {"runs": backend.attention, "others": dict(backend.attention_others)},
        "model_path": str(directory),
        "vocab_size": backend.vocab_size,
        "scoring_mode": config.mode.value,
        "semantics": {"declared": config.declared_semantics.value},
        "versions": {
            "pytest-multiitem": pytest_multiitem.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            # torch's version is a subclass of str, which no JSON encoder has to know.
            **{package: str(version) for package, version in backend.versions.items()},
        },
    }


def _run(args: ServeArgs) -> int:
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config, access = args.scorer_config(), access_of(args)
    if access.warning is not None:
        log.warning("%s", access.warning)
    if args.accepted_without_effect:
        log.info("accepted without effect: %s", " ".join(args.accepted_without_effect))
    if args.faults and args.faults.labels:
        log.warning("this server is faulty on purpose: %s", ", ".join(args.faults.labels))
    with access.bind(args.host, args.port) as listener:
        service = build_service(args)
        # A body of a million small lists sets off the collector, which would look through all that was imported.
        gc.collect()
        gc.freeze()
        host, port = listener.getsockname()[:2]
        listen(listener, args.host, port)
        log.info("serving %s (%s) on http://%s:%d", service.model, config.mode.value, host, port)
        serve_until_stopped(listener, application(args, service), service.worker, args.log_level)
    return 0


def application(args: ServeArgs, service: Service) -> AsgiApp:
    """What answers requests: the service, behind the faults of the wire and behind the key, if there are any.

    Raises UsageError where a key is needed and there is none.
    """
    app: AsgiApp = create_app(service)
    return access_of(args).before(args.faults.before(app) if args.faults else app)


def serve_until_stopped(listener: socket.socket, app: AsgiApp, worker: Worker, log_level: str) -> None:
    """Serve on a listening socket until uvicorn is told to stop, and let the engine's running call end."""
    try:
        server(app, worker, log_level).run(sockets=[listener])
    finally:
        if not worker.close(_ENGINE_GRACE_S):
            log.warning("the engine's running call did not end; leaving it")
            logging.shutdown()
            os._exit(0)  # a thread inside a model cannot be stopped, and Python would wait for it


def server(app: AsgiApp, worker: Worker, log_level: str, limits: ConnectionLimits = _CONNECTIONS) -> uvicorn.Server:
    """The server of an application whose requests ``worker`` computes."""
    config = uvicorn.Config(
        app,
        http=protocol_with(limits),
        ws="none",
        log_config=None,
        log_level=log_level,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_S,
    )
    return _Server(config, worker)


class _Server(uvicorn.Server):
    """uvicorn's server, which refuses when it stops what it does not finish, instead of dropping it."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.shutdown`."""
        self._worker.refuse_queued()
        asyncio.get_running_loop().call_later(_RUNNING_GRACE_S, self._worker.refuse_running)
        await super().shutdown(sockets)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
