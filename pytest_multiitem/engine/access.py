"""Who may use the embedded engine's server: this machine, whoever has the key, or (in the user's words) anybody."""

from __future__ import annotations

import hmac
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.responses import Response

from pytest_multiitem.engine.launch_line import KEY_VARIABLE, ServeArgs
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.transport.address import api_key
from pytest_multiitem.transport.listening import bind, bind_anywhere, is_loopback
from pytest_multiitem.untrusted.secrets import Secret

if TYPE_CHECKING:  # a healthy server imports nothing of faults
    from pytest_multiitem.faults.base import AsgiApp

#: Paths that are answered without the key: whoever starts a server waits for them, as in sglang.
_OPEN = ("/health", "/health_generate")
_UNAUTHORISED = WireError(401, "unauthorized", "this server wants its API key: Authorization: Bearer KEY")
_INSTEAD = (
    "To reach it from elsewhere, tunnel to it, or add --allow-remote and put the key that requests must bear into the "
    f"environment variable {KEY_VARIABLE} (without any: --allow-remote --no-auth)"
)


@dataclass(frozen=True)
class Access:
    """Where a server may listen, and the key that requests must bear. ``warning``: what its user should know."""

    remote: bool = False
    key: Secret | None = None
    warning: str | None = None

    def bind(self, host: str, port: int) -> socket.socket:
        """A socket bound to the address, not yet listening. Raises UsageError for one that is not allowed."""
        return bind_anywhere(host, port) if self.remote else bind(host, port, instead=_INSTEAD)

    def before(self, app: AsgiApp) -> AsgiApp:
        """The application, behind the key where there is one."""
        return app if self.key is None else _WithKey(app, self.key)


def access_of(args: ServeArgs) -> Access:
    """Who may use the server of a launch line.

    Raises UsageError where other machines may come and there is neither a key nor --no-auth, or both.
    """
    if args.no_auth and args.api_key_env is not None:
        raise UsageError("--no-auth and --api-key-env contradict each other; give one of them")
    if not args.allow_remote or is_loopback(args.host):
        return Access(key=None if args.api_key_env is None else _key(args.api_key_env))
    place = f"--host {args.host}: other machines can reach this server"
    if args.no_auth:
        return Access(
            remote=True,
            warning=f"{place}, and there is NO ACCESS CONTROL (--no-auth): who reaches port {args.port} may use it, "
            "read what it says of itself, and keep it busy; only in a network of your own",
        )
    warning = f"{place}; requests need its key, which travels unencrypted: only in a network of your own"
    return Access(remote=True, key=_key(args.api_key_env or KEY_VARIABLE), warning=warning)


def _key(variable: str) -> Secret:
    key = api_key(variable)
    if key is None:
        raise UsageError(
            f"the environment variable {variable} holds no API key; export the one that requests must bear, or name "
            "another variable with --api-key-env NAME (to answer other machines without any: --no-auth)"
        )
    return key


class _WithKey:
    """An application that answers nothing but its health without the key."""

    def __init__(self, app: AsgiApp, key: Secret) -> None:
        self._app, self._expected = app, f"bearer {key}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN or self._bears_key(scope):
            await self._app(scope, receive, send)
        else:
            headers = {"www-authenticate": "Bearer"}
            refusal = Response(_UNAUTHORISED.body(), 401, headers, media_type="application/json")
            await refusal(scope, receive, send)

    def _bears_key(self, scope: Any) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        return hmac.compare_digest(f"{scheme.lower()} {given.strip()}".encode(), self._expected)
