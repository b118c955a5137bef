"""Owned HTTP servers: start them under a guard, share them between processes, stop all of them."""

from pytest_multiitem.servers.errors import PortUnavailable, ServerDied, ServerError, ServerNotReady
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.ports import PortClaim, claim_port
from pytest_multiitem.servers.process import LaunchSpec, Ready, RunningServer, ServerExit, wait_ready

__all__ = [
    "LaunchSpec",
    "PortClaim",
    "PortUnavailable",
    "Ready",
    "RunningServer",
    "ServerDied",
    "ServerError",
    "ServerExit",
    "ServerNotReady",
    "ServerPool",
    "claim_port",
    "wait_ready",
]
