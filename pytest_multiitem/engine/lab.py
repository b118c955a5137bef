"""Many servers in one process: every ``multiitem serve`` command line a client asks for, under a path of its own.

Experiments with dozens of configurations would otherwise start a process, and load a model, for each. Servers of one
model share its weights and the one thread that computes.

    POST /mount {"argv": ["--backend", "jax", "--multi-item-scoring-delimiter", "151643", "--fault", "causal"]}
    → {"path": "/1"}, and the server is at http://…/1/v1/score

Run as ``python -m pytest_multiitem.engine.lab --port 0``; not for production.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pytest_multiitem.engine.backend import SerialBackend
from pytest_multiitem.engine.launch_line import ServeArgs, add_arguments
from pytest_multiitem.engine.model_files import load_backend, resolve_model
from pytest_multiitem.engine.serve import application, serve_until_stopped, service_of
from pytest_multiitem.engine.worker import Worker
from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.faults.base import AsgiApp
from pytest_multiitem.transport.listening import bind, listen, until_signal

log = logging.getLogger(__name__)

_PROG = "pytest_multiitem.engine.lab"


class Lab:
    """An ASGI application: the mounted servers, and the models that they share."""

    def __init__(self) -> None:
        self.worker = Worker()
        self._mounting = threading.Lock()
        self._models: dict[tuple[str, Path, str, str], SerialBackend] = {}
        self._servers: dict[str, AsgiApp] = {}
        self._own = Starlette(
            routes=[Route("/health", _health, methods=["GET"]), Route("/mount", self._mount, methods=["POST"])]
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """A mounted server sees its own paths only, as if it stood alone."""
        _, _, path = scope["path"].partition("/")
        name, slash, rest = path.partition("/")
        app = self._servers.get(name)
        if app is None:
            await self._own(scope, receive, send)
        else:
            await app({**scope, "path": slash + rest, "raw_path": (slash + rest).encode()}, receive, send)

    async def _mount(self, request: Request) -> Response:
        try:
            body = await request.json()
            path = await run_in_threadpool(self.mount, body["argv"])
        except (MultiItemError, KeyError, TypeError, ValueError) as error:
            return Response(str(error) or type(error).__name__, 400, media_type="text/plain")
        return Response(msgspec.json.encode({"path": path}), media_type="application/json")

    def mount(self, argv: Sequence[str]) -> str:
        """Serve what a command line asks for; the path under which it is served. Raises MultiItemError."""
        args = _parse(argv)
        args.scorer_config()  # flags that contradict each other end it before a model is loaded
        directory = resolve_model(args.model_path, args.download_dir)
        key = (args.backend, directory, args.dtype, args.device)
        with self._mounting:
            if key not in self._models:
                self._models[key] = load_backend(args.backend, directory, dtype=args.dtype, device=args.device)
            service = service_of(args, directory, self._models[key], self.worker)
            name = str(len(self._servers) + 1)
            self._servers[name] = application(args, service)
        log.info("/%s serves %s", name, " ".join(argv))
        return f"/{name}"


async def _health(request: Request) -> Response:
    return Response(b'{"status":"ok"}', media_type="application/json")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line by a UsageError."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        raise UsageError(f"{self.prog}: error: {message}")


def _parse(argv: Sequence[str]) -> ServeArgs:
    """A command line of ``multiitem serve``. Raises UsageError."""
    parser = _Parser(prog="multiitem serve", allow_abbrev=False, add_help=False)
    add_arguments(parser)
    return ServeArgs.from_namespace(parser.parse_args(list(map(str, argv))))


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    parser = argparse.ArgumentParser(prog=_PROG, description=__doc__, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0: any free one (default: %(default)s)")
    parser.add_argument("--log-level", default="info")
    lab = Lab()

    def run() -> int:
        args = parser.parse_args(argv)
        logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        with bind(args.host, args.port) as listener:
            listen(listener, args.host, args.port)
            log.info("listening on http://%s:%d", *listener.getsockname()[:2])
            serve_until_stopped(listener, lab, lab.worker, args.log_level)
        return 0

    return until_signal(_PROG, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
