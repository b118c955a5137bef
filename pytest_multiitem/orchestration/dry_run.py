"""The exact commands of a run, in their order, without running one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from pytest_multiitem.comparison.files import matrix_name
from pytest_multiitem.comparison.records import VIEWS
from pytest_multiitem.machines.job import Job
from pytest_multiitem.orchestration import release, wheel
from pytest_multiitem.orchestration.providers import key_of, provider_of, public_keys, ssh_config, ssh_config_text
from pytest_multiitem.orchestration.records import BACKEND_OF, Plan, SidePlan, Step
from pytest_multiitem.orchestration.remote import MEASURED, WORKLOAD, in_directory, measuring_command, set_up_commands

#: What only a run knows: its mark, and a machine's address.
_MARK = "MARK"


def command_lines(plan: Plan, directory: Path) -> Iterator[str]:
    """Commands as one would type them in a shell; what is a comment there says which step they are of."""
    if any(side.provider == "gcloud" for side in plan.sides):
        yield f"# {ssh_config(directory)}, for ssh:"
        yield from (f"#     {line}" for line in ssh_config_text(plan, directory).splitlines())
    for side in plan.sides:
        yield f"# {side.side}: {side.name} by {side.provider}"
        for step, commands in _steps(plan, side, directory):
            yield f"# {side.side}: {step.value}"
            yield from (shlex.join(command) for command in commands)
    yield f"# {Step.COMPARE.value}"
    matrices = [matrix_name(BACKEND_OF[side.side], view) for side in plan.sides for view in VIEWS]
    yield shlex.join(["multiitem", "compare", "files", *matrices])


def _steps(plan: Plan, side: SidePlan, directory: Path) -> Iterator[tuple[Step, list[list[str]]]]:
    provider = provider_of(plan, side, directory)
    host, there = provider.host(None, f"{side.side}-1"), f"multiitem-{_MARK}"
    rents = provider.rents and plan.create_resources
    asks = [list(check.argv) for check in provider.checks()] if rents or not provider.rents else []
    yield Step.PREFLIGHT, [*asks, *([provider.describe()] if provider.rents else [])]
    if rents:
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "multiitem", "-f", str(key_of(plan, directory))]
        create = provider.create({release.MARK: _MARK}, str(public_keys(plan, directory)))
        yield Step.CREATE, [*([] if plan.ssh_key else [key]), create, provider.describe(), host.shell("true")]
    name = Path(plan.wheel).name if plan.wheel else wheel.NAME
    copies = [host.push(directory / WORKLOAD, f"{there}/{WORKLOAD}")]
    if side.copies_wheel:
        copies.insert(0, host.push(Path(plan.wheel) if plan.wheel else directory / name, f"{there}/{name}"))
    commands = [host.shell(in_directory(there, command)) for command in set_up_commands(side, name)]
    yield Step.SET_UP, [host.shell(f"mkdir -p {there}/{MEASURED}"), *copies, *commands]
    job = Job(there, 1)
    measure = measuring_command(plan, side, copied_model=False)
    yield Step.RUN, [host.shell(job.start(measure)), host.shell(job.look(0))]
    yield Step.COLLECT, [host.pull(f"{there}/{MEASURED}", directory / "hosts" / side.side)]
    if rents:
        yield Step.TEAR_DOWN, [provider.delete(), provider.describe()]
    else:
        yield Step.TEAR_DOWN, [host.shell(job.end(20)), host.shell(f"rm -rf {there}")]
