"""A cloud of one's own on loopback: offers, quotas, TPU VMs and instances, which are real hosts (`real_hosts`).

It answers what the official client asks, and goes wrong on request: `FakeCloud.fault`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from real_hosts import RealHost

_TYPE = "type.googleapis.com/google.cloud.tpu.v2"
PROJECT, ZONE, REGION = "p1", "us-east5-b", "us-east5"
#: What the real service says, by the kind of failure: of a TPU, of an instance.
SAYS = {
    "quota": (
        {"code": 8, "message": "Quota limit 'TPUV6EPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone Z."},
        {"code": "QUOTA_EXCEEDED", "message": "Quota 'GPUS_PER_GPU_FAMILY' exceeded.  Limit: 0.0 in region us-east5."},
    ),
    "stockout": (
        {"code": 8, "message": 'There is no more capacity in the zone "us-east5-b"; you can try in another zone.'},
        {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "The zone 'projects/p1/zones/us-east5-b' does not have "
         "enough resources available to fulfill the request.  Try a different zone, or try again later."},
    ),
}  # fmt: skip


@dataclass
class Machine:
    kind: str  # "tpu" or "gpu"
    name: str
    labels: dict[str, str]
    host: RealHost
    state: str
    body: dict[str, Any]


@dataclass
class Operation:
    """``done``: when it is over; None: never."""

    done: float | None
    kind: str
    target: str
    type: str = "insert"
    error: dict[str, Any] | None = None
    effect: Callable[[], None] | None = None


@dataclass
class FakeCloud:
    """``fault``: called with what is asked ("quota", "offers", "describe", "create", "operation", "delete"; "request"
    of any) and the kind of machine; gives None, (status, message) for an error of the API, "stockout", "quota",
    "never ends", or "hangs up".
    """

    directory: Path
    tpu_quota: int | None = 8
    gpu_quota: int | None = 1
    boot_seconds: float = 0.05
    fault: Callable[[str, str], Any] = lambda asked, kind: None
    machines: dict[tuple[str, str], Machine] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _operations: dict[str, Operation] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for machine in self.machines.values():
                machine.host.stop()
            self.machines.clear()

    def environment(self) -> dict[str, str]:
        """For the official client, or the fake one."""
        return {
            "CLOUDSDK_CONFIG": str(self.directory / "gcloud"), "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_PROJECT": PROJECT, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true", "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": f"{self.url}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.url}/compute/v1/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDQUOTAS": f"{self.url}/",
        }  # fmt: skip

    def preempt(self, kind: str) -> None:
        """The service takes the machine away: it is still listed, and does nothing."""
        with self._lock:
            for machine in self.machines.values():
                if machine.kind == kind and machine.state in ("READY", "RUNNING"):
                    machine.state = "PREEMPTED" if kind == "tpu" else "TERMINATED"
                    machine.host.process.kill()

    def host(self, kind: str) -> RealHost:
        return next(machine.host for machine in self.machines.values() if machine.kind == kind)

    def plant(self, kind: str, name: str, labels: dict[str, str] | None = None, keys: str = "") -> Machine:
        """A machine that is there already."""
        host = RealHost(self.directory / f"{kind}-{name}-planted-{len(self.asked)}", keys)
        ready = "READY" if kind == "tpu" else "RUNNING"
        machine = self.machines[kind, name] = Machine(kind, name, labels or {}, host, ready, {})
        return machine

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self._go_on()
            for pattern, method_of, handle in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and method == method_of:
                    return handle(self, *found.groups(), **({"query": query, "body": body} if method == "POST" else {}))
        return _error(404, f"fake cloud: no such path: {method} {path}")

    def _go_on(self) -> None:
        """What was begun goes on, whether anybody asks for it or not."""
        for operation in self._operations.values():
            if operation.done is not None and time.monotonic() >= operation.done and operation.effect is not None:
                operation.effect, effect = None, operation.effect
                effect()

    def _goes_wrong(self, asked: str, kind: str) -> Any:
        self.asked.append(f"{asked} {kind}")
        return self.fault(asked, kind)

    def _quota(self, service: str, name: str) -> tuple[int, Any]:
        kind = "tpu" if service.startswith("tpu") else "gpu"
        if wrong := self._goes_wrong("quota", kind):
            return _error(*wrong)
        zero_elsewhere = {"dimensions": {"region": "europe-west4"}, "details": {"value": "0"}}
        limit = self.tpu_quota if kind == "tpu" else self.gpu_quota
        own = (
            {"gpu_family": "NVIDIA_RTX_PRO_6000", "region": REGION}
            if kind == "gpu"
            else {"zone": ZONE, "region": REGION}
        )
        others = {"gpu_family": "NVIDIA_H100", "region": REGION} if kind == "gpu" else {"zone": "us-east5-a"}
        rows: list[dict[str, Any]] = [zero_elsewhere, {"dimensions": others, "details": {"value": "0"}}]
        if limit is not None:
            rows.append({"dimensions": own, "details": {"value": str(limit)}})
        return 200, {
            "name": f"projects/1/locations/global/services/{service}/quotaInfos/{name}",
            "quotaId": name,
            "dimensionsInfos": rows,
        }

    def _tpu_types(self) -> tuple[int, Any]:
        if wrong := self._goes_wrong("offers", "tpu"):
            return _error(*wrong)
        types = ["v5litepod-1", "v6e-1", "v6e-4"]
        base = f"projects/{PROJECT}/locations/{ZONE}/acceleratorTypes"
        return 200, {"acceleratorTypes": [{"name": f"{base}/{each}", "type": each} for each in types]}

    def _machine_types(self) -> tuple[int, Any]:
        if wrong := self._goes_wrong("offers", "gpu"):
            return _error(*wrong)
        zone = f"{self.url}/compute/v1/projects/{PROJECT}/zones/{ZONE}"
        return 200, {"items": [{"kind": "compute#machineType", "name": "g4-standard-48", "zone": ZONE, "guestCpus": 48,
                                "memoryMb": 184320, "selfLink": f"{zone}/machineTypes/g4-standard-48"}]}  # fmt: skip

    def _describe(self, kind: str, name: str) -> tuple[int, Any]:
        if wrong := self._goes_wrong("describe", kind):
            return _error(*wrong)
        machine = self.machines.get((kind, name))
        if machine is None:
            what = (
                f"projects/{PROJECT}/locations/{ZONE}/nodes/{name}"
                if kind == "tpu"
                else f"projects/{PROJECT}/zones/{ZONE}/instances/{name}"
            )
            return _error(404, f"Resource '{what}' was not found", "NOT_FOUND")
        if kind == "tpu":
            ends = [{"ipAddress": "10.0.0.2", "accessConfig": {"externalIp": machine.host.address}}]
            return 200, {"name": f"projects/{PROJECT}/locations/{ZONE}/nodes/{name}", "state": machine.state,
                         "labels": machine.labels, "health": "HEALTHY", "networkEndpoints": ends}  # fmt: skip
        interfaces = [{"networkIP": "10.0.0.3", "accessConfigs": [{"natIP": machine.host.address}]}]
        return 200, {"kind": "compute#instance", "id": "7", "name": name, "status": machine.state,
                     "labels": machine.labels,
                     "networkInterfaces": interfaces, "zone": f"{self.url}/compute/v1/projects/{PROJECT}/zones/{ZONE}",
                     "selfLink": f"{self.url}/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances/{name}"}  # fmt: skip

    def _create(self, kind: str, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        wrong = self._goes_wrong("create", kind)
        if isinstance(wrong, tuple):
            return _error(*wrong)
        if (kind, name) in self.machines:
            return _error(409, f"Resource '{name}' already exists", "ALREADY_EXISTS")
        if wrong in SAYS:
            return self._begin(Operation(time.monotonic(), kind, name, error=SAYS[wrong][kind == "gpu"]))
        metadata = body.get("metadata", {})
        items = {item["key"]: item["value"] for item in metadata.get("items", ())} if "items" in metadata else metadata
        keys = items.get("ssh-keys", "").partition(":")[2]
        self.created.append(name)
        host = RealHost(self.directory / f"{kind}-{name}-{len(self.created)}", keys)
        machine = Machine(
            kind, name, body.get("labels", {}), host, "CREATING" if kind == "tpu" else "PROVISIONING", body
        )
        self.machines[kind, name] = machine

        def ready() -> None:
            if machine.state in ("CREATING", "PROVISIONING"):
                machine.state = "READY" if kind == "tpu" else "RUNNING"

        never = wrong == "never ends"
        return self._begin(Operation(None if never else time.monotonic() + self.boot_seconds, kind, name, effect=ready))

    def _delete(self, kind: str, name: str) -> tuple[int, Any]:
        wrong = self._goes_wrong("delete", kind)
        if isinstance(wrong, tuple):
            return _error(*wrong)
        machine = self.machines.get((kind, name))
        if machine is None:
            return _error(404, f"Resource '{name}' was not found", "NOT_FOUND")
        machine.state = "DELETING" if kind == "tpu" else "STOPPING"

        def gone() -> None:
            if self.machines.get((kind, name)) is machine:
                del self.machines[kind, name]
                machine.host.stop()

        if wrong == "never ends":  # the operation is never said to be over, and the machine goes all the same
            gone()
            return self._begin(Operation(None, kind, name, "delete"))
        return self._begin(Operation(time.monotonic() + self.boot_seconds, kind, name, "delete", effect=gone))

    def _begin(self, operation: Operation) -> tuple[int, Any]:
        name = f"operation-{len(self._operations)}"
        self._operations[name] = operation
        return 200, self._shown(name)

    def _operation(self, kind: str, name: str) -> tuple[int, Any]:
        if isinstance(wrong := self._goes_wrong("operation", kind), tuple):
            return _error(*wrong)
        operation = self._operations[name]
        if kind == "gpu" and operation.done is not None:  # …/wait waits
            time.sleep(max(0.0, operation.done - time.monotonic()))
        return 200, self._shown(name)

    def _shown(self, name: str) -> Any:
        operation = self._operations[name]
        over = operation.done is not None and time.monotonic() >= operation.done
        self._go_on()
        if operation.kind == "tpu":
            node = f"projects/{PROJECT}/locations/{ZONE}/nodes/{operation.target}"
            shown: dict[str, Any] = {"name": f"projects/{PROJECT}/locations/{ZONE}/operations/{name}", "done": over,
                                     "metadata": {"@type": f"{_TYPE}.OperationMetadata", "target": node}}  # fmt: skip
            if over:
                shown |= {"error": operation.error} if operation.error else {
                    "response": {"@type": f"{_TYPE}.Node", "name": node}
                }  # fmt: skip
            return shown
        zone = f"{self.url}/compute/v1/projects/{PROJECT}/zones/{ZONE}"
        shown = {"kind": "compute#operation", "id": "1", "name": name, "status": "DONE" if over else "RUNNING",
                 "operationType": operation.type, "zone": zone, "selfLink": f"{zone}/operations/{name}",
                 "targetLink": f"{zone}/instances/{operation.target}", "progress": 100 if over else 0}  # fmt: skip
        if over and operation.error:
            shown["error"] = {"errors": [operation.error]}
            shown["httpErrorStatusCode"] = 403
        return shown


def _error(status: int, message: str, name: str = "") -> tuple[int, Any]:
    names = {
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        409: "ALREADY_EXISTS",
        503: "UNAVAILABLE",
    }
    reason = [{"message": message, "domain": "global", "reason": "forbidden" if status == 403 else "error"}]
    return status, {
        "error": {"code": status, "message": message, "status": name or names.get(status, "UNKNOWN"), "errors": reason}
    }


_TPU, _GCE = r"/v2/projects/[^/]+/locations/[^/]+", r"/compute/v1/projects/[^/]+/zones/[^/]+"
_ROUTES: list[tuple[str, str, Callable[..., tuple[int, Any]]]] = [
    (r"/v1(?:beta)?/projects/[^/]+/locations/global/services/([^/]+)/quotaInfos/([^/]+)", "GET", FakeCloud._quota),
    (r"/v[12]/projects/[^/]+/locations/[^/]+/acceleratorTypes", "GET", FakeCloud._tpu_types),
    (rf"{_GCE}/machineTypes", "GET", FakeCloud._machine_types),
    (rf"{_TPU}/nodes/([^/]+)", "GET", lambda cloud, name: cloud._describe("tpu", name)),
    (rf"{_TPU}/nodes", "POST", lambda cloud, query, body: cloud._create("tpu", query["nodeId"][0], body)),
    (rf"{_TPU}/nodes/([^/]+)", "DELETE", lambda cloud, name: cloud._delete("tpu", name)),
    (rf"{_TPU}/operations/([^/]+)", "GET", lambda cloud, name: cloud._operation("tpu", name)),
    (rf"{_GCE}/instances/([^/]+)", "GET", lambda cloud, name: cloud._describe("gpu", name)),
    (rf"{_GCE}/instances", "POST", lambda cloud, query, body: cloud._create("gpu", body["name"], body)),
    (rf"{_GCE}/instances/([^/]+)", "DELETE", lambda cloud, name: cloud._delete("gpu", name)),
    (rf"{_GCE}/operations/([^/]+)", "GET", lambda cloud, name: cloud._operation("gpu", name)),
    (rf"{_GCE}/operations/([^/]+)/wait", "POST", lambda cloud, name, query, body: cloud._operation("gpu", name)),
    (r"/compute/v1/projects/([^/]+)", "GET", lambda cloud, name: (200, {"name": name, "kind": "compute#project"})),
    (rf"{_GCE}", "GET", lambda cloud: (200, {"name": ZONE, "kind": "compute#zone", "status": "UP"})),
]


def _handler(cloud: FakeCloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if cloud.fault("request", "") == "hangs up":
                self.close_connection = True
                return
            status, answer = cloud.answer(
                self.command, parts.path, parse_qs(parts.query), json.loads(content) if content.strip() else {}
            )
            sent = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
