"""Cells on the nodes of a Ray cluster. The one module that imports Ray; it is imported only where it is asked for.

An actor is a place: a process of one node that keeps its servers from one cell to the next. Its resources are those
that its cells need, so Ray puts no more of them on a node than it can take. Nothing is retried by Ray itself: the
driver knows what a lost cell means (`driver`).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before Ray is imported, which reads them then: it counts nobody's use, and what it has to say of its nodes does not
# stand between the lines of a command, which says it in words of its own.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import pytest_multiitem
from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.execution.cells import (
    GIB,
    Attempt,
    Cell,
    Ended,
    ExecutorClosed,
    Needs,
    Place,
    Work,
    Workplace,
)
from pytest_multiitem.untrusted.words import plain_lines

#: Seconds in which the head must take a connection, and in which places stop their servers.
_CONNECT = 5.0
_CLOSE = 20.0
#: Directories of places on a node; the file in each that its process holds a lock on; seconds for which one may not
#: have it yet.
_PREFIX, _HELD, _YOUNG = "multiitem-cells", "held", 60.0
#: Seconds in which a place is there, unless its node is gone.
_PLACED = 10.0
#: Seconds between two looks at the nodes, and until the first one is done.
_EVERY, _FIRST = 1.0, 60.0
_ADVICE = "start one with `ray start --head`, and name it: --executor ray://HOST:PORT"


class Worker:
    """A place on a node, in a process of its own; Ray makes an actor of it."""

    def __init__(self, work: Work, run: str, version: str, environment: Mapping[str, str]) -> None:
        self._problem = None
        if version != pytest_multiitem.__version__:
            self._problem = f"this node has pytest-multiitem {pytest_multiitem.__version__}, the driver {version}"
        os.environ.update(environment)
        # What a cell is made of may be of a project's module, which is imported when the cell arrives.
        sys.path += [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
        self._work = work
        # One directory a measurement and machine: all of its places find the same locks there.
        self._common = Path(tempfile.gettempdir()) / f"{_PREFIX}-{os.getuid()}-{run}"
        self._workplace: Workplace | None = None
        self._directory: Path | None = None

    def node(self) -> str:
        """Which node this is."""
        return str(ray.get_runtime_context().get_node_id())

    def measure(self, cell: Cell) -> tuple[Any, str | None]:
        """The cell's result, or why there is none."""
        try:
            if self._problem is not None:
                raise MultiItemError(self._problem)
            if self._workplace is None:
                self._workplace = self._work.open(self._place())
            return self._workplace.measure(cell), None
        except Exception as error:  # noqa: BLE001 - it is the driver's to judge, and must reach it whatever it is
            known = isinstance(error, MultiItemError)
            return None, str(error) if known else plain_lines(f"{type(error).__name__}: {error}")

    def _place(self) -> Place:
        """A directory of its own, held as long as this process lives."""
        _sweep()
        self._common.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = Path(tempfile.mkdtemp(prefix="place-", dir=self._common))
        self._held = (self._directory / _HELD).open("ab")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        return Place(self._directory, self._common)

    def close(self) -> None:
        """Stop the servers and remove what they left; with the last place of this machine, what all had in common."""
        if self._workplace is not None:
            self._workplace.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            if not any(self._common.glob("place-*")):
                shutil.rmtree(self._common, ignore_errors=True)


def _sweep() -> None:
    """Remove what places have left whose node was killed."""
    for common in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-{os.getuid()}-*"):
        with contextlib.suppress(OSError):
            young = time.time() - common.stat().st_mtime < _YOUNG
            if not young and not any(map(_is_held, common.glob(f"place-*/{_HELD}"))):
                shutil.rmtree(common, ignore_errors=True)


def _is_held(path: Path) -> bool:
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@dataclass(eq=False)
class _Actor:
    """``asked``: the call that says which node it is on; ``call``: the one in hand; ``since``: when it was made."""

    handle: Any
    needs: Needs
    asked: Any
    since: float
    node: str = ""
    call: Any = None


class _Cluster:
    """Which nodes there are. ``alive``: their resources, by node id; ``addresses``: also of those that are gone.

    Asked once a second by a thread of its own: where a node has just died, the question may never be answered, and then
    what is known stays.
    """

    def __init__(self) -> None:
        self.alive: dict[str, dict[str, float]] = {}
        self.addresses: dict[str, str] = {}
        self._left, self._seen = threading.Event(), threading.Event()
        self._watch = threading.Thread(target=self._look, name="multiitem-nodes", daemon=True)
        self._watch.start()
        if not self._seen.wait(_FIRST):
            raise UsageError(f"the Ray cluster does not say within {_FIRST:g} s which nodes it has; {_ADVICE}")

    def leave(self) -> None:
        """Be no driver any more; whatever does not end soon is left to the end of this process."""
        self._left.set()
        self._watch.join(2 * _EVERY)
        if self._watch.is_alive():
            atexit.unregister(ray.shutdown)  # it would wait for that answer as well
            return
        ray.shutdown()

    def _look(self) -> None:
        while not self._left.is_set():
            with contextlib.suppress(RayError, ConnectionError):
                nodes = ray.nodes()
                self.addresses |= {node["NodeID"]: str(node["NodeManagerAddress"]) for node in nodes}
                self.alive = {node["NodeID"]: dict(node["Resources"]) for node in nodes if node["Alive"]}
                self._seen.set()
            self._left.wait(_EVERY)


class RayExecutor:
    """`cells.Executor` of a Ray cluster. ``address``: HOST:PORT of its head; None: the cluster of this machine.
    ``run``: names the measurement; ``environment``: variables of the processes that measure.

    Raises UsageError where there is no such cluster; none is ever started.
    """

    def __init__(self, address: str | None, run: str, environment: Mapping[str, str]) -> None:
        self._run, self._environment = run, environment
        self._actors: list[_Actor] = []
        self._calls: dict[Any, tuple[Attempt, _Actor]] = {}
        self._homeless: list[Attempt] = []
        self._using = threading.RLock()  # nobody else asks Ray while it is shut down
        self._is_closed = False
        _connect(address)
        self._cluster = _Cluster()

    def begin(self, work: Work) -> None:
        """See `cells.Executor`."""
        self._work = work

    def submit(self, cell: Cell, avoid: Sequence[str]) -> Attempt | None:
        """By an idle place, else by a new one where a node has room for one more."""
        with self._in_use():
            return self._submit(cell, avoid)

    def _submit(self, cell: Cell, avoid: Sequence[str]) -> Attempt | None:
        there = self._able(cell.needs)
        wanted = [node for node in there if self._address(node) not in avoid] or there
        of_kind = [actor for actor in self._actors if actor.needs == cell.needs]
        idle = next((a for a in of_kind if a.call is None and (a.node in wanted or not a.node)), None)
        if idle is None:
            idle = self._new(cell.needs, there, wanted)
        if idle is None:
            return None
        attempt = Attempt(cell)
        self._call(attempt, idle)
        return attempt

    def _call(self, attempt: Attempt, actor: _Actor) -> None:
        actor.call = actor.handle.measure.remote(attempt.cell)
        self._calls[actor.call] = (attempt, actor)

    def _rehouse(self) -> None:
        """What was given to a place that never comes to be, since the node with room for it is gone, goes to one that
        is there: no try has begun."""
        now = time.monotonic()
        for actor in [each for each in self._actors if not each.node and now - each.since > _PLACED]:
            if not any(_fitting(self._unused(node), actor.needs) for node in self._cluster.alive):
                if actor.call is not None:
                    self._homeless.append(self._calls.pop(actor.call)[0])
                self._drop(actor, answers=False)
        for attempt in list(self._homeless):
            needs = attempt.cell.needs
            idle = next((a for a in self._actors if a.call is None and a.node and a.needs == needs), None)
            idle = idle or self._new(needs, able := self._able(needs), able)
            if idle is not None:
                self._homeless.remove(attempt)
                self._call(attempt, idle)

    def refusal(self, cell: Cell) -> str | None:
        """By the resources of the nodes that are alive, in use or not."""
        with self._in_use():
            if self._able(cell.needs):
                return None
            nodes = "; ".join(f"{self._address(id)} has {_shown(has)}" for id, has in self._cluster.alive.items())
        return f"no node of the cluster has {cell.needs} ({nodes or 'no node is alive'})"

    def where(self, attempt: Attempt) -> str:
        """The node of the place that has it in hand."""
        with self._in_use():
            return next((self._address(a.node) for each, a in self._calls.values() if each is attempt and a.node), "")

    def wait(self, seconds: float) -> list[Ended]:
        """Answers, and places that are gone with their nodes."""
        with self._in_use():
            return self._wait(seconds)

    def _wait(self, seconds: float) -> list[Ended]:
        self._rehouse()
        refs = [*self._calls, *(actor.asked for actor in self._actors if actor.asked is not None)]
        if not refs:
            time.sleep(min(seconds, 0.1))
            return []
        ready, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        more, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in {*ready, *more} - self._calls.keys():
            self._locate(ref)
        return [self._ended(ref) for ref in {*ready, *more} & self._calls.keys()]

    def close(self) -> None:
        """Let every place stop its servers, then end it."""
        with self._using:
            if self._is_closed:
                return
            self._is_closed = True
            with contextlib.suppress(RayError):
                stopping = [actor.handle.close.remote() for actor in self._actors]
                if stopping:
                    ray.wait(stopping, num_returns=len(stopping), timeout=_CLOSE)
            for actor in self._actors:
                with contextlib.suppress(RayError):
                    ray.kill(actor.handle)
            self._cluster.leave()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._using:
            if self._is_closed:
                raise ExecutorClosed
            yield

    def _new(self, needs: Needs, there: Sequence[str], wanted: Sequence[str]) -> _Actor | None:
        """A place on a node that has room for one more; None where none has. One of other needs that is idle then makes
        room, for the next time."""
        left = {node: _fitting(self._unused(node), needs) for node in there}
        unknown = sum(not actor.node for actor in self._actors)
        free = [node for node in wanted if left[node]]
        if not free or sum(left.values()) <= unknown:
            others = [a for a in self._actors if a.call is None and a.needs != needs and a.node in wanted]
            if others:
                self._drop(others[0], answers=True)
            return None
        strategy: Any = "SPREAD"
        if len(wanted) < len(there):
            strategy = NodeAffinitySchedulingStrategy(max(free, key=lambda node: left[node]), soft=True)
        options: dict[str, Any] = {
            "num_cpus": needs.cpus,
            "num_gpus": needs.gpus,
            "resources": dict(needs.further),
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,  # `close` while a cell is measured
            "scheduling_strategy": strategy,
        }
        if needs.memory:
            options["memory"] = needs.memory
        kind: Any = ray.remote(Worker)
        version = pytest_multiitem.__version__
        handle = kind.options(**options).remote(self._work, self._run, version, dict(self._environment))
        actor = _Actor(handle, needs, handle.node.remote(), time.monotonic())
        self._actors.append(actor)
        return actor

    def _locate(self, asked: Any) -> None:
        actor = next(each for each in self._actors if each.asked == asked)
        actor.asked = None
        with contextlib.suppress(RayError):  # the call that it has in hand says what is wrong
            actor.node = ray.get(asked)

    def _ended(self, ref: Any) -> Ended:
        attempt, actor = self._calls.pop(ref)
        actor.call = None
        if not actor.node:
            self._locate_now(actor)
        node = self._address(actor.node)
        try:
            value, reason = ray.get(ref)
        except RayError as error:
            self._drop(actor, answers=False)
            self._cluster.alive.pop(actor.node, None)  # until the next look, should it be there after all
            lost = "the node or its process is gone" if isinstance(error, RayActorError) else type(error).__name__
            return Ended(attempt, node, reason=f"{lost}: {plain_lines(_first_line(error))}")
        if reason is not None:
            self._drop(actor, answers=True)  # what is wrong with its servers is not known
        return Ended(attempt, node, value, reason)

    def _locate_now(self, actor: _Actor) -> None:
        """Which node a place is on that has answered before it was asked."""
        if actor.asked is not None:
            asked, actor.asked = actor.asked, None
            with contextlib.suppress(RayError):
                actor.node = ray.get(asked, timeout=1)

    def _drop(self, actor: _Actor, *, answers: bool) -> None:
        """End a place; one that still answers stops its servers first."""
        self._actors.remove(actor)
        with contextlib.suppress(RayError):
            if answers:
                ray.wait([actor.handle.close.remote()], timeout=_CLOSE)
            ray.kill(actor.handle)

    def _address(self, node_id: str) -> str:
        """What a node is called for people; the beginning of its id where it was never seen alive."""
        return self._cluster.addresses.get(node_id, node_id[:8])

    def _able(self, needs: Needs) -> list[str]:
        """The nodes that have what is needed, in use or not."""
        return [node for node, resources in self._cluster.alive.items() if _fitting(resources, needs)]

    def _unused(self, node_id: str) -> dict[str, float]:
        """What a node has beside what the places on it take."""
        resources = dict(self._cluster.alive.get(node_id, {}))
        for actor in self._actors:
            for name, number in _named(actor.needs) if actor.node == node_id else ():
                resources[name] = resources.get(name, 0.0) - number
        return resources


def _named(needs: Needs) -> list[tuple[str, float]]:
    """What is needed, by Ray's names."""
    named = (("CPU", needs.cpus), ("GPU", needs.gpus), ("memory", needs.memory), *needs.further)
    return [(name, number) for name, number in named if number]


def _fitting(resources: Mapping[str, float], needs: Needs) -> int:
    """How many places with such needs fit into some resources."""
    return max(0, int(min((resources.get(name, 0.0) / number for name, number in _named(needs)), default=1.0)))


def _connect(address: str | None) -> None:
    """Become a driver of a cluster that runs. Raises UsageError, and soon: Ray itself would wait for minutes."""
    address = address or _of_this_machine()
    if address is None:
        raise UsageError(f"this machine belongs to no Ray cluster; {_ADVICE}")
    named = f"the Ray cluster at {address}"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{named} does not answer: {reason}; {_ADVICE}") from None
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise UsageError(f"cannot use {named}: {plain_lines(_first_line(error))}; {_ADVICE}") from None


def _of_this_machine() -> str | None:
    """Where `ray start` has left word of the cluster that this machine belongs to."""
    address = os.environ.get("RAY_ADDRESS", "").removeprefix("ray://")
    if address not in ("", "auto", "local"):
        return address
    file = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    with contextlib.suppress(OSError):
        return file.read_text().strip() or None
    return None


def _shown(resources: Mapping[str, float]) -> str:
    """The resources that a node offers, without those that Ray adds by itself."""
    offered = [f"{name} {number:g}" for name, number in _plain(resources)]
    return ", ".join(offered) or "nothing"


def _plain(resources: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    for name, number in sorted(resources.items()):
        if name == "memory":
            yield "memory (GiB)", number / GIB
        elif name != "object_store_memory" and ":" not in name:
            yield name, number


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
