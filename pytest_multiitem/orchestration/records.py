"""What a run on rented machines is to do, and what it has done so far: the ledger, as it stands on disk.

Times are UTC, in ISO 8601; money in US dollars.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

import msgspec

SCHEMA: Final = "multiitem_orchestration_v1"

SideName = Literal["tpu", "gpu"]
#: Which backend is measured on which machine; the order of the deltas.
BACKEND_OF: Final[dict[SideName, str]] = {"tpu": "jax", "gpu": "pytorch"}


class Step(StrEnum):
    """The steps, in their order. Those from `CREATE` to `TEAR_DOWN` are of a side each, but `COMPARE`."""

    PREFLIGHT = "preflight"
    CREATE = "create"
    SET_UP = "set up"
    RUN = "run"
    COLLECT = "collect"
    COMPARE = "compare"
    TEAR_DOWN = "tear down"


class SidePlan(msgspec.Struct, kw_only=True):
    """One machine and what is measured on it. ``provider``: gcloud, ssh or local. ``host``: for ssh.

    ``python``: the interpreter that has the product, ``engine_python``: the engine's, ``commands``: that set both up,
    where ``{wheel}`` is the product's wheel; all in the run's directory on the machine.
    """

    side: SideName
    provider: Literal["gcloud", "ssh", "local"]
    name: str
    zone: str = ""
    host: str | None = None
    usd_per_hour: float | None = None
    engine: str
    python: str
    engine_python: str | None = None
    commands: list[str] = []
    copies_wheel: bool = True


class Shape(msgspec.Struct, kw_only=True):
    """The workload, and how often it is measured; times in seconds. ``tokenizer`` and ``workload_sample``: of a user's
    own requests; ``labels_given``: whether lines without labels have these."""

    model: str | None = None
    workload: str | None = None
    workload_sample: int | None = None
    tokenizer: str | None = None
    labels_given: bool = False
    query_tokens: int = 2000
    num_items: int = 500
    item_tokens: int = 20
    labels: str = "9454,2753"
    delimiter: int = 151_643
    client_chunk_sizes: str = "all"
    warmup_runs: int = 1
    timed_runs: int = 5
    timed_runs_confirm: int = 7
    timeout_sec: float = 180.0
    jax_mask_impl: str | None = None


class Plan(msgspec.Struct, kw_only=True):
    """Everything that was asked for: enough to go on, or to tear down, without being told again.

    ``poll_seconds``: between two looks at a machine or a job. ``boot_minutes``: until a machine answers.
    ``patience_minutes``: how long a connection may be lost.
    """

    sides: list[SidePlan]
    shape: Shape
    project: str = ""
    create_resources: bool = True
    teardown_at_end: bool = True
    allow_partial: bool = False
    allow_inconclusive: bool = False
    spot: bool = False
    tpu_type: str = "v6e-1"
    tpu_version: str = "v2-alpha-tpuv6e"
    gpu_machine_type: str = "g4-standard-48"
    gpu_image_family: str = "common-cu128-ubuntu-2204-nvidia-570"
    gpu_image_project: str = "deeplearning-platform-release"
    user: str = "multiitem"
    ssh_config: str | None = None
    ssh_key: str | None = None
    ssh_options: list[str] = []
    max_usd: float | None = None
    max_minutes: float | None = None
    poll_seconds: float = 10.0
    boot_minutes: float = 15.0
    patience_minutes: float = 5.0
    wheel: str | None = None


class MachineRecord(msgspec.Struct, kw_only=True):
    """A machine that was asked for. ``intended_utc`` is on disk before it is asked for, so that whatever happens then,
    it can be looked for by its name; what bears another ``mark`` under that name is somebody else's.

    ``rented``: it was created here. ``state``: "intended", "created", "ready", "deleted", "never" (it was looked for,
    and is not there or is somebody else's) or "returned" (it is not ours, and nothing of ours runs on it any more).
    ``attempt``: of the job on it, 0 before the first. ``set_up``: everything is on it that the job needs.
    """

    side: SideName
    name: str
    zone: str
    rented: bool
    state: Literal["intended", "created", "ready", "deleted", "never", "returned"] = "intended"
    intended_utc: str
    deleted_utc: str | None = None
    usd_per_hour: float | None = None
    address: str | None = None
    set_up: bool = False
    attempt: int = 0
    problem: str | None = None

    @property
    def is_left(self) -> bool:
        """Whether it may still be there."""
        return self.state not in ("deleted", "never", "returned")

    def hours(self, now: datetime) -> float:
        """How long it has been paid for, from the intent to create it."""
        if not self.rented or self.state == "never":
            return 0.0
        end = now if self.deleted_utc is None else datetime.fromisoformat(self.deleted_utc)
        return max(0.0, (end - datetime.fromisoformat(self.intended_utc)).total_seconds() / 3600)


class StepRecord(msgspec.Struct, kw_only=True):
    """One step of one side, or (``side`` None) of all. ``reason``: why it failed, was stopped or is left out."""

    step: Step
    side: SideName | None = None
    state: Literal["begun", "done", "failed", "stopped", "skipped"] = "begun"
    began_utc: str
    ended_utc: str | None = None
    reason: str | None = None


class Driver(msgspec.Struct, kw_only=True):
    """The process that works on a run. ``start_time``: what makes its pid its own, in seconds since the epoch."""

    pid: int
    start_time: float


class Ledger(msgspec.Struct, kw_only=True):
    """``ledger.json``. ``mark``: the label that this run's machines bear."""

    schema_version: Literal["multiitem_orchestration_v1"] = SCHEMA
    mark: str
    created_utc: str
    plan: Plan
    driver: Driver | None = None
    machines: list[MachineRecord] = []
    steps: list[StepRecord] = []
    outcome: str | None = None

    def machine(self, side: SideName) -> MachineRecord | None:
        """The machine of a side that was asked for last, if it may still be there."""
        return next((each for each in reversed(self.machines) if each.side == side and each.is_left), None)

    def done(self, step: Step, side: SideName | None = None) -> bool:
        """Whether a step has been done; a later failure of the same step does not undo it."""
        return any(each.step == step and each.side == side and each.state == "done" for each in self.steps)

    def left(self) -> list[MachineRecord]:
        """Machines that were created here and may still be there."""
        return [each for each in self.machines if each.rented and each.is_left]

    def open_machines(self) -> list[MachineRecord]:
        """Machines that were not given back yet, rented or not."""
        return [each for each in self.machines if each.is_left]

    def cost(self, now: datetime) -> float | None:
        """Of all machines that were rented; None where one has no price."""
        rented = [each for each in self.machines if each.rented and each.state != "never"]
        if any(each.usd_per_hour is None for each in rented):
            return None
        return sum((each.usd_per_hour or 0.0) * each.hours(now) for each in rented)
