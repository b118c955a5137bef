"""Google Cloud by its official client: one TPU VM, one G4 instance. Command lines, and how to read their answers."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from pytest_multiitem.machines.commands import Finished
from pytest_multiitem.machines.hosts import Host, SshHost
from pytest_multiitem.machines.problem import Kind, MachineError
from pytest_multiitem.machines.provider import Check, Seen, State

GPU_FAMILY: Final = "NVIDIA_RTX_PRO_6000"
_GPU_QUOTA: Final = "GPUS-PER-GPU-FAMILY-per-project-region"
_TPU_QUOTA: Final = {False: "TPUV6EPerProjectPerZoneForTPUAPI", True: "TPUV6EPreemptiblePerProjectPerZoneForTPUAPI"}

#: Only the text tells errors apart: the exit status is always 1. The first that matches.
_KINDS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"ZONE_RESOURCE_POOL_EXHAUSTED|no more capacity|not have enough resources available|stockout", Kind.CAPACITY),
        (r"Quota '[^']*' exceeded|Quota limit '[^']*' has been exceeded|QUOTA_EXCEEDED|exceeded quota", Kind.QUOTA),
        (r"active account selected|gcloud auth login|invalid_grant|reauthenticat|UNAUTHENTICATED", Kind.LOGIN),
        (r"PERMISSION_DENIED|does not have permission|Required '[^']*' permission|SERVICE_DISABLED", Kind.PERMISSION),
        (r"already exists|ALREADY_EXISTS", Kind.EXISTS),
        (r"NOT_FOUND|was not found|does not exist", Kind.ABSENT),
        (r"gcloud crashed \((?:\w*Connection|\w*Timeout|Transport|MaxRetry|SSL)\w*\)|UNAVAILABLE|backend error"
         r"|Connection (?:refused|reset)|HTTPError 5\d\d|\b50[234]\b|problem refreshing|Name or service not known",
         Kind.SERVICE),
        (r"RESOURCE_EXHAUSTED", Kind.QUOTA),
    )
)  # fmt: skip


@dataclass(frozen=True)
class _Machine:
    """``spot``: cheaper, and may be taken away at any time. ``user``: who logs in. ``ssh``: the
    configuration to reach it with (`hosts.configuration`)."""

    label: str
    name: str
    zone: str
    project: str
    spot: bool
    user: str
    ssh: Path

    rents: ClassVar[bool] = True
    _noun: ClassVar[tuple[str, ...]] = ("compute",)

    @property
    def region(self) -> str:
        """A zone is a region and a letter."""
        return self.zone.rpartition("-")[0]

    @abstractmethod
    def checks(self) -> Sequence[Check]:
        """See `provider.Provider`."""

    @abstractmethod
    def seen(self, answer: Any) -> Seen:
        """See `provider.Provider`."""

    def describe(self) -> list[str]:
        """See `provider.Provider`."""
        return self._verb("describe")

    def delete(self) -> list[str]:
        """See `provider.Provider`."""
        return self._verb("delete", "--quiet")

    def error(self, about: str, finished: Finished) -> MachineError:
        """See `provider.Provider`."""
        text = finished.err or finished.out
        kind = next((kind for pattern, kind in _KINDS if pattern.search(text)), Kind.OTHER)
        return MachineError(kind, about, _own_words(text) or f"gcloud ended with exit status {finished.status}")

    def is_absent(self, error: MachineError) -> bool:
        """See `provider.Provider`. A project or a zone that is not found says nothing of the machine."""
        return error.kind is Kind.ABSENT and f"/{self.name}'" in error.words

    def host(self, address: str | None, alias: str) -> Host:
        """See `provider.Provider`."""
        target = f"{self.user}@{address or 'ADDRESS'}"
        return SshHost(self.label, target, (f"HostKeyAlias={alias}",), self.ssh, says_all=True)

    def _verb(self, verb: str, *words: str) -> list[str]:
        return ["gcloud", *self._noun, verb, self.name, f"--zone={self.zone}", *self._common(*words)]

    def _common(self, *words: str) -> list[str]:
        return [*words, f"--project={self.project}", "--format=json"]

    def _marks(self, labels: Mapping[str, str], key: str) -> list[str]:
        marks = ",".join(f"{name}={value}" for name, value in labels.items())
        return [f"--labels={marks}", "--metadata=enable-oslogin=FALSE", f"--metadata-from-file=ssh-keys={key}"]

    def _quota(self, service: str, name: str, dimensions: Mapping[str, str]) -> Check:
        about = f"{self.label}: quota {name} for {', '.join(dimensions.values())}"

        def judge(answer: Any) -> None:
            limit = quota_limit(answer, dimensions)
            if limit == 0:
                raise MachineError(Kind.QUOTA, self.label, f"{name} is 0 for {', '.join(dimensions.values())}")

        words = ["gcloud", "beta", "quotas", "info", "describe", name, f"--service={service}"]
        return Check(about, tuple(self._common(*words)), judge)


@dataclass(frozen=True)
class TpuVm(_Machine):
    """A TPU VM, for example v6e-1. ``version``: its software, which the service wants to be named."""

    accelerator_type: str = "v6e-1"
    version: str = "v2-alpha-tpuv6e"

    _noun: ClassVar[tuple[str, ...]] = ("compute", "tpus", "tpu-vm")

    def checks(self) -> list[Check]:
        """See `provider.Provider`."""
        words = ["gcloud", "compute", "tpus", "accelerator-types", "list", f"--zone={self.zone}"]
        return [
            self._quota("tpu.googleapis.com", _TPU_QUOTA[self.spot], {"zone": self.zone, "region": self.region}),
            Check(f"{self.label}: {self.accelerator_type} in {self.zone}", tuple(self._common(*words)), self._offered),
        ]

    def _offered(self, answer: Any) -> None:
        types = sorted({str(_get(entry, "type") or "") for entry in answer if isinstance(entry, dict)})
        if self.accelerator_type not in types:
            listed = ", ".join(types[:8]) or "no TPU"
            raise MachineError(
                Kind.OFFER, self.label, f"{self.accelerator_type} is not among the types of {self.zone} ({listed})"
            )

    def create(self, labels: dict[str, str], key: str) -> list[str]:
        """See `provider.Provider`."""
        words = [f"--accelerator-type={self.accelerator_type}", f"--version={self.version}"]
        return self._verb("create", *words, *(("--spot",) if self.spot else ()), *self._marks(labels, key))

    def seen(self, answer: Any) -> Seen:
        """See `provider.Provider`."""
        end = _first(answer, "networkEndpoints")
        address = _get(_get(end, "accessConfig"), "externalIp") or _get(end, "ipAddress")
        return _seen(answer, "state", {"READY": State.READY, "CREATING": State.COMING, "STARTING": State.COMING,
                                       "DELETING": State.LEAVING}, address)  # fmt: skip


@dataclass(frozen=True)
class G4(_Machine):
    """A Compute Engine instance with one RTX PRO 6000. There is no smaller one to fall back to, on purpose."""

    machine_type: str = "g4-standard-48"
    image_family: str = "common-cu128-ubuntu-2204-nvidia-570"
    image_project: str = "deeplearning-platform-release"
    disk_gb: int = 200

    _noun: ClassVar[tuple[str, ...]] = ("compute", "instances")

    def checks(self) -> list[Check]:
        """See `provider.Provider`."""
        words = [
            "gcloud",
            "compute",
            "machine-types",
            "list",
            f"--zones={self.zone}",
            f"--filter=name={self.machine_type}",
        ]
        about = f"{self.label}: {self.machine_type} in {self.zone}"
        return [
            self._quota("compute.googleapis.com", _GPU_QUOTA, {"gpu_family": GPU_FAMILY, "region": self.region}),
            Check(about, tuple(self._common(*words)), self._offered),
        ]

    def _offered(self, answer: Any) -> None:
        if not any(_get(entry, "name") == self.machine_type for entry in answer):
            raise MachineError(Kind.OFFER, self.label, f"{self.machine_type} is no machine type of {self.zone}")

    def create(self, labels: dict[str, str], key: str) -> list[str]:
        """See `provider.Provider`."""
        words = [
            f"--machine-type={self.machine_type}", "--maintenance-policy=TERMINATE",
            f"--image-family={self.image_family}", f"--image-project={self.image_project}",
            f"--boot-disk-size={self.disk_gb}GB", *(("--provisioning-model=SPOT",) if self.spot else ()),
        ]  # fmt: skip
        return self._verb("create", *words, *self._marks(labels, key))

    def seen(self, answer: Any) -> Seen:
        """See `provider.Provider`."""
        interface = _first(answer, "networkInterfaces")
        access = _first(interface, "accessConfigs")
        address = _get(access, "natIP") or _get(interface, "networkIP")
        return _seen(answer, "status", {"RUNNING": State.READY, "PROVISIONING": State.COMING, "STAGING": State.COMING,
                                        "STOPPING": State.LEAVING,
                                        "REPAIRING": State.COMING}, address)  # fmt: skip


def quota_limit(answer: Any, dimensions: Mapping[str, str]) -> float | None:
    """The limit that holds for these dimensions: of the rows that do not contradict them, the one that names most.
    None where none does, or none is a number."""
    best: tuple[int, float] | None = None
    for row in _get(answer, "dimensionsInfos") or ():
        named = _get(row, "dimensions") or {}
        if not isinstance(named, dict) or any(dimensions.get(name) != value for name, value in named.items()):
            continue
        try:
            limit = float(_get(_get(row, "details"), "value"))
        except (TypeError, ValueError):
            continue
        if best is None or len(named) > best[0]:
            best = len(named), limit
    return None if best is None else best[1]


def _seen(answer: Any, field: str, states: Mapping[str, State], address: Any) -> Seen:
    word = str(_get(answer, field) or "unknown")
    labels = _get(answer, "labels")
    return Seen(
        states.get(word, State.GONE),
        word,
        str(address) if address else None,
        {str(name): str(value) for name, value in labels.items()} if isinstance(labels, dict) else {},
    )


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _first(value: Any, name: str) -> Any:
    """The first entry of a list of it, None where there is none."""
    entries = _get(value, name)
    return entries[0] if isinstance(entries, list) and entries else None


def _own_words(text: str) -> str:
    """The error itself: from the last line that begins with ERROR on, without the client's own advice after it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("ERROR")]
    words = " ".join(lines[starts[-1] :] if starts else lines[-2:])
    return re.sub(r"^ERROR: (\(gcloud[\w.-]+\) )?", "", words.partition(" If you would like to report")[0])
