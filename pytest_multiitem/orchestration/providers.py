"""From the plan of a side to the machine it names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pytest_multiitem.machines.existing import Existing
from pytest_multiitem.machines.gcloud import G4, TpuVm
from pytest_multiitem.machines.hosts import Host, LocalHost, SshHost, configuration
from pytest_multiitem.machines.provider import Provider
from pytest_multiitem.orchestration.records import Ledger, MachineRecord, Plan, SidePlan

KEYS = "ssh"
KEY = "id_ed25519"


def provider_of(plan: Plan, side: SidePlan, directory: Path) -> Provider:
    """The machine of a side. ``directory``: of the run, where its keys are."""
    if side.provider != "gcloud":
        return Existing(side.side, _host(plan, side, directory))
    made = (
        partial(TpuVm, accelerator_type=plan.tpu_type, version=plan.tpu_version)
        if side.side == "tpu"
        else partial(
            G4,
            machine_type=plan.gpu_machine_type,
            image_family=plan.gpu_image_family,
            image_project=plan.gpu_image_project,
        )
    )
    return made(
        label=side.side,
        name=side.name,
        zone=side.zone,
        project=plan.project,
        spot=plan.spot,
        user=plan.user,
        ssh=ssh_config(directory),
    )


def host_of(provider: Provider, ledger: Ledger, record: MachineRecord, address: str | None = None) -> Host:
    """How a run's machine is reached, at the address in its record, or at another one."""
    return provider.host(address or record.address, f"{record.side}-{1 + ledger.machines.index(record)}")


def key_of(plan: Plan, directory: Path) -> Path:
    """The private key that opens rented machines: the user's, or the run's own."""
    return Path(plan.ssh_key) if plan.ssh_key else directory / KEYS / KEY


def remove_keys(directory: Path) -> None:
    """The run's own: once no machine is left, they open nothing."""
    for path in (directory / KEYS).glob(f"{KEY}*"):
        path.unlink()


def public_keys(plan: Plan, directory: Path) -> Path:
    """The file that tells a new machine whom to let in."""
    return directory / KEYS / "authorized"


def ssh_config(directory: Path) -> Path:
    """The file that says how rented machines are reached; it is the user's, too: ``ssh -F FILE USER@ADDRESS``."""
    return directory / KEYS / "config"


def ssh_config_text(plan: Plan, directory: Path) -> str:
    """What stands in it."""
    return configuration(plan.ssh_options, key_of(plan, directory), directory / KEYS / "known_hosts")


def _host(plan: Plan, side: SidePlan, directory: Path) -> Host:
    if side.provider == "local":
        return LocalHost(side.side, directory / "machines" / side.side)
    key, config = (Path(each) if each else None for each in (plan.ssh_key, plan.ssh_config))
    return SshHost(side.side, side.host or side.name, tuple(plan.ssh_options), config, key)
