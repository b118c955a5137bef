"""A real Ray cluster of two nodes on this machine: two network namespaces with a cable between them, and a process
namespace each, so that a node dies whole.

Nothing of it is in the namespace of the tests, and nothing of it reaches another machine: there is no route out.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
_HEAD, _WORKER = "10.77.18.1", "10.77.18.2"
_PORT = 6379
#: A cut cable is noticed within seconds, as the guide tells; and the nodes may have other work beside them,
#: to which Ray by itself gives way.
_NODES = {
    "RAY_worker_niceness": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "3000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}
_PORTS = (
    "--node-manager-port=6380", "--object-manager-port=6381", "--min-worker-port=10002", "--max-worker-port=10099",
    "--dashboard-agent-listen-port=6382", "--dashboard-agent-grpc-port=6383", "--runtime-env-agent-port=6384",
    "--metrics-export-port=6385",
)  # fmt: skip
#: Seconds that a node may take to be there, on a busy machine.
_PATIENCE = 120


def missing() -> str | None:
    """Why no such cluster can be had here; None where it can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'pytest-multiitem[ray]'"
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is missing: apt-get install iproute2 util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"mi{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None if made.returncode == 0 else f"no network namespace can be made here: {made.stderr.strip()}"


def environment() -> dict[str, str]:
    """Of the nodes, and of commands beside them."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MULTI_ITEM_", "PYTEST_", "RAY_"))}
    paths = [str(ROOT), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, **_NODES, "PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass
class Node:
    """A node of the cluster. ``process``: what ends the whole node when it is killed."""

    address: str
    namespace: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it as a machine does that loses its power."""
        self.process.kill()
        self.process.wait(30)

    def inside(self) -> psutil.Process:
        """The first process of its own process namespace."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with suppress(psutil.NoSuchProcess, IndexError):
                return psutil.Process(self.process.pid).children()[0]
            time.sleep(0.05)
        raise AssertionError(f"node {self.address} did not start")


@dataclass
class Cluster:
    """Two nodes; commands run beside the head, in its namespaces."""

    name: str
    scratch: Path
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        """As ``--executor`` takes it."""
        return f"ray://{_HEAD}:{_PORT}"

    def python(self, directory: Path, *words: str) -> list[str]:
        """An interpreter, in a directory, beside the head: in its namespaces."""
        inside = ["nsenter", f"--target={self.nodes[0].inside().pid}", "--net", "--pid", "--mount", f"--wd={directory}"]
        return [*inside, "--", sys.executable, *words]

    def multiitem(self, directory: Path, *words: str) -> list[str]:
        """A command of this package there, on the cluster."""
        return self.python(directory, "-m", "pytest_multiitem", *words, "--executor", self.address)

    def start(self, namespace: str, address: str, *words: str, cpus: int) -> Node:
        """Start a node, and wait until it is one of the cluster."""
        log = (self.scratch / f"{namespace}.log").open("wb")
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
        ray += [f"--node-ip-address={address}", f"--num-cpus={cpus}", "--object-store-memory=100000000",
                "--disable-usage-stats", *_PORTS, *words]  # fmt: skip
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "unshare", "-p", "-f", "--mount-proc", "--kill-child=SIGKILL", *ray],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.scratch,
            env={**environment(), "TMPDIR": str(self.scratch)},
        )  # fmt: skip
        log.close()
        node = Node(address, namespace, process)
        self.nodes.append(node)
        deadline = time.monotonic() + _PATIENCE
        while b"Ray runtime started" not in (said := (self.scratch / f"{namespace}.log").read_bytes()):
            assert process.poll() is None, said.decode()
            assert time.monotonic() < deadline, said.decode()
            time.sleep(0.1)
        return node

    def start_worker(self, *words: str, cpus: int = 1) -> Node:
        """Start a worker; the one before it must have ended."""
        return self.start(f"{self.name}w", _WORKER, f"--address={_HEAD}:{_PORT}", *words, cpus=cpus)

    def cut(self) -> None:
        """Pull the cable: both nodes live, and neither hears of the other."""
        _ip("-n", f"{self.name}w", "link", "set", "eth0", "down")


@contextmanager
def two_nodes(*, cpus: int = 1) -> Iterator[Cluster]:
    """A head and a worker."""
    with ExitStack() as stack:
        scratch = Path(tempfile.mkdtemp(prefix="mi-"))  # short: it holds sockets
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        name = f"mi{os.getpid()}"
        for end in ("h", "w"):
            _ip("netns", "add", f"{name}{end}")
            stack.callback(_ip, "netns", "del", f"{name}{end}")
        _ip("-n", f"{name}h", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", f"{name}w")
        for end, address in (("h", _HEAD), ("w", _WORKER)):
            _ip("-n", f"{name}{end}", "addr", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", f"{name}{end}", "link", "set", link, "up")
        cluster = Cluster(name, scratch)
        stack.callback(_end, cluster)
        head = ("--head", f"--port={_PORT}", "--include-dashboard=false", f"--temp-dir={scratch}/r")
        cluster.start(f"{name}h", _HEAD, *head, cpus=cpus)
        cluster.start_worker(cpus=cpus)
        yield cluster


def _end(cluster: Cluster) -> None:
    for node in reversed(cluster.nodes):
        if node.process.poll() is None:
            node.kill()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)
