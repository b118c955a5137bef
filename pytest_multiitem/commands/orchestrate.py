"""``multiitem orchestrate``: the whole comparison on two machines that are rented for it, by one command."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from pytest_multiitem.commands.options import DEFAULTS, LABELS, AllowInconclusive, LabelsIfGiven, label_ids, parse_value
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError
from pytest_multiitem.untrusted.secrets import without_secrets

if TYPE_CHECKING:
    from pytest_multiitem.orchestration.ledger import LedgerFile
    from pytest_multiitem.orchestration.records import SideName, SidePlan
    from pytest_multiitem.orchestration.run import Orchestration, Result

_CONTRACT_MODEL = "Qwen/Qwen3-0.6B"
_PLACE = "orchestrations"
_PANEL_MACHINES, _PANEL_SSH, _PANEL_JOB = "Machines", "Reaching machines", "What is measured"
_Value = TypeVar("_Value")


def _machine(help_text: str, *, env: str | None = None, metavar: str | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        envvar=env, metavar=metavar, help=help_text, rich_help_panel=_PANEL_MACHINES
    )
    return option


def _job(help_text: str, *, least: int | None = None, metavar: str | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        min=least, metavar=metavar, help=help_text, rich_help_panel=_PANEL_JOB
    )
    return option


def orchestrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the exact commands, and run none.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run: the one of --artifact-subdir, or the latest.")
    ] = False,
    teardown: Annotated[
        bool,
        typer.Option(
            "--teardown", help="Only remove what runs have left, from their ledgers: of --artifact-subdir, or of all."
        ),
    ] = False,
    project: Annotated[str, _machine("The cloud project.", env="PROJECT")] = "",
    tpu_zone: Annotated[str, _machine("Zone of the TPU.", env="TPU_ZONE")] = "us-east5-b",
    gpu_zone: Annotated[str, _machine("Zone of the GPU.", env="GPU_ZONE")] = "us-east5-b",
    tpu_name: Annotated[str, _machine("Name of the TPU VM.", env="TPU_NAME")] = "mi-tpu-v6e1",
    gpu_name: Annotated[str, _machine("Name of the GPU instance.", env="GPU_NAME")] = "mi-g4",
    artifact_subdir: Annotated[str, _machine("Directory of the run, below the results.", env="ARTIFACT_SUBDIR")] = "",
    create_resources: Annotated[
        bool,
        _machine(
            "Create the machines (1), or take those that are there and never delete them (0).", env="CREATE_RESOURCES"
        ),
    ] = True,
    teardown_at_end: Annotated[
        bool,
        _machine("Delete created machines at the end, however it comes (1), or keep them (0).", env="TEARDOWN_AT_END"),
    ] = True,
    provider: Annotated[str, _machine("Where machines come from.", metavar="gcloud|ssh|local")] = "gcloud",
    tpu_version: Annotated[str, _machine("Software of the TPU VM.", metavar="NAME")] = "v2-alpha-tpuv6e",
    gpu_image_family: Annotated[
        str, _machine("Image of the GPU instance.", metavar="NAME")
    ] = "common-cu128-ubuntu-2204-nvidia-570",
    gpu_image_project: Annotated[
        str, _machine("The project that the image is of.", metavar="NAME")
    ] = "deeplearning-platform-release",
    spot: Annotated[
        bool, typer.Option("--spot", help="Cheaper machines, which may be taken away.", rich_help_panel=_PANEL_MACHINES)
    ] = False,
    tpu_usd_per_hour: Annotated[float | None, _machine("Price of the TPU.", metavar="USD")] = None,
    gpu_usd_per_hour: Annotated[float | None, _machine("Price of the GPU.", metavar="USD")] = None,
    max_usd: Annotated[float | None, _machine("End the run at this cost.", metavar="USD")] = None,
    max_minutes: Annotated[float | None, _machine("End the run after so many minutes.", metavar="MINUTES")] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="One side alone is a result, where the other cannot be had.")
    ] = False,
    allow_inconclusive: AllowInconclusive = False,
    tpu_host: Annotated[
        str | None,
        typer.Option(
            metavar="[USER@]HOST", help="A machine that exists, by ssh, as the TPU side.", rich_help_panel=_PANEL_SSH
        ),
    ] = None,
    gpu_host: Annotated[
        str | None, typer.Option(metavar="[USER@]HOST", help="As the GPU side.", rich_help_panel=_PANEL_SSH)
    ] = None,
    ssh_user: Annotated[
        str, typer.Option(metavar="USER", help="Who logs in on created machines.", rich_help_panel=_PANEL_SSH)
    ] = "multiitem",
    ssh_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Private key, its .pub beside it (default: of created machines a new one, else ssh's choice).",
            rich_help_panel=_PANEL_SSH,
        ),
    ] = None,
    ssh_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="ssh's configuration, for machines that exist (default: your own).",
            rich_help_panel=_PANEL_SSH,
        ),
    ] = None,
    ssh_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A further option of ssh -o; repeatable.", rich_help_panel=_PANEL_SSH),
    ] = None,
    boot_minutes: Annotated[
        float,
        typer.Option(metavar="MINUTES", help="Until a machine lets us in, or is deleted.", rich_help_panel=_PANEL_SSH),
    ] = 15.0,
    patience_minutes: Annotated[
        float, typer.Option(metavar="MINUTES", help="How long a connection may be lost.", rich_help_panel=_PANEL_SSH)
    ] = 5.0,
    poll_seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Between two looks at a machine or a job.", rich_help_panel=_PANEL_SSH),
    ] = 10.0,
    tpu_engine: Annotated[str, _job("Engine of the TPU side.", metavar="NAME")] = "sgl-jax",
    gpu_engine: Annotated[str, _job("Engine of the GPU side.", metavar="NAME")] = "sglang",
    setup: Annotated[
        Path | None, _job("How machines are set up: a TOML file over the shipped one.", metavar="FILE")
    ] = None,
    remote_python: Annotated[
        str | None, _job("Set nothing up: this interpreter on the machines has the product.", metavar="PATH")
    ] = None,
    wheel: Annotated[
        Path | None, _job("The product's wheel (default: one made of what runs here).", metavar="FILE")
    ] = None,
    model: Annotated[
        str | None, _job("Model: a hub id, or a directory here, which is copied.", metavar="DIR|ID")
    ] = None,
    jax_mask_impl: Annotated[
        str | None,
        _job("Mask of the TPU side: dense, segment or auto (default: its launch profile's).", metavar="NAME"),
    ] = None,
    workload: Annotated[
        Path | None, _job("Your own requests: JSON lines, or a canonical workload.", metavar="FILE")
    ] = None,
    workload_sample: Annotated[int | None, _job("Requests that are drawn of them.", least=1, metavar="N")] = None,
    tokenizer: Annotated[
        str | None, _job("What makes token ids of text (default: the model's, where it is a directory).", metavar="DIR")
    ] = None,
    query_tokens: Annotated[int, _job("Tokens of the query.", least=1)] = 2000,
    num_items: Annotated[int, _job("Items.", least=1)] = 500,
    item_tokens: Annotated[int, _job("Tokens of an item.", least=1)] = 20,
    labels: LabelsIfGiven = None,
    delimiter: Annotated[int, _job("Delimiter token id.", least=0)] = DEFAULTS.delimiter,
    compare_chunk_sizes: Annotated[
        str, _job("Client chunk sizes, or all for the contract's ten.", metavar="N,…|all")
    ] = "all",
    bench_warmup_runs: Annotated[int, _job("Untimed runs before the timed ones.", least=0)] = 1,
    bench_timed_runs: Annotated[int, _job("Timed runs of the sweep.", least=1)] = 5,
    confirm_runs: Annotated[int, _job("Timed runs that confirm the best.", least=1)] = 7,
    request_timeout: Annotated[float, _job("Time one request may take.", metavar="SECONDS")] = 180.0,
    results_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where runs are written.")] = DEFAULTS.results_dir,
) -> None:
    """Rent a TPU v6e-1 and a G4 machine, measure JAX and PyTorch there, bring the matrices back, compare, delete both.

    Exit status 0: both sides are measured and the scores agree; with --allow-partial also one side alone. 1: something
    is missing, or correctness is not shown; the report says what and why. 2: it could not begin. Ctrl-C and SIGTERM
    delete what was created, too; what a kill has left is removed with --teardown, or used again with --resume.
    """
    from pytest_multiitem.orchestration.check_plan import check_plan, check_subdir
    from pytest_multiitem.orchestration.dry_run import command_lines
    from pytest_multiitem.orchestration.ledger import LedgerFile, new_ledger
    from pytest_multiitem.orchestration.records import Plan, Shape, SidePlan
    from pytest_multiitem.orchestration.setups import ready_made, setup_for

    if artifact_subdir:
        check_subdir(artifact_subdir)
    base = results_dir.expanduser() / _PLACE
    if [dry_run, resume, teardown].count(True) > 1:
        raise UsageError("--dry-run, --resume and --teardown are three different commands; give one of them")
    if teardown:
        raise typer.Exit(_tear_down(base, artifact_subdir))
    if resume:
        directory = base / artifact_subdir if artifact_subdir else _latest(base)
        with LedgerFile(directory) as file:
            raise typer.Exit(_run(file, allow_partial=allow_partial, keep=not teardown_at_end,
                                  max_usd=max_usd, max_minutes=max_minutes))  # fmt: skip

    def side(name: SideName, machine: str, zone: str, host: str | None, price: float | None, engine: str) -> SidePlan:
        made = ready_made(remote_python) if remote_python else setup_for(engine, setup)
        rents = provider == "gcloud" and not host
        return SidePlan(
            side=name,
            provider="ssh" if host else _provider(provider),
            name=host or (machine if rents else name),
            zone=zone if rents else "",
            host=host,
            usd_per_hour=_positive(f"--{name}-usd-per-hour", price),
            engine=engine,
            python=made.python,
            engine_python=made.engine_python,
            commands=made.commands,
            copies_wheel=made.copies_wheel,
        )

    plan = Plan(
        sides=[
            side("tpu", tpu_name, tpu_zone, tpu_host, tpu_usd_per_hour, tpu_engine),
            side("gpu", gpu_name, gpu_zone, gpu_host, gpu_usd_per_hour, gpu_engine),
        ],
        shape=Shape(
            model=_model(model, tpu_engine, gpu_engine),
            workload=str(workload.resolve()) if workload else None,
            workload_sample=workload_sample, tokenizer=tokenizer, labels_given=labels is not None,
            query_tokens=query_tokens, num_items=num_items, item_tokens=item_tokens,
            labels=",".join(map(str, label_ids(labels or LABELS, tokenizer or model))), delimiter=delimiter,
            client_chunk_sizes=compare_chunk_sizes, warmup_runs=bench_warmup_runs, timed_runs=bench_timed_runs,
            timed_runs_confirm=confirm_runs, timeout_sec=request_timeout, jax_mask_impl=jax_mask_impl,
        ),
        project=project, tpu_version=tpu_version, gpu_image_family=gpu_image_family,
        gpu_image_project=gpu_image_project, create_resources=create_resources, teardown_at_end=teardown_at_end,
        allow_partial=allow_partial, allow_inconclusive=allow_inconclusive, spot=spot, user=ssh_user,
        ssh_config=str(ssh_config.resolve()) if ssh_config else None,
        ssh_key=str(ssh_key.resolve()) if ssh_key else None,
        ssh_options=list(ssh_option or ()), max_usd=_positive("--max-usd", max_usd),
        max_minutes=_positive("--max-minutes", max_minutes), poll_seconds=_positive("--poll-seconds", poll_seconds),
        boot_minutes=_positive("--boot-minutes", boot_minutes),
        patience_minutes=_positive("--patience-minutes", patience_minutes),
        wheel=str(wheel.resolve()) if wheel else None,
    )  # fmt: skip
    check_plan(plan)
    parse_value("--compare-chunk-sizes", "compare_chunk_sizes", compare_chunk_sizes)
    directory = (base / (artifact_subdir or f"jax-vs-pytorch-multi-item-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")).resolve()
    if dry_run:
        for line in command_lines(plan, directory):
            say(line)
        return
    with LedgerFile(directory, new_ledger(plan)) as file:
        raise typer.Exit(_run(file))


def _run(
    file: LedgerFile,
    *,
    allow_partial: bool = False,
    keep: bool = False,
    max_usd: float | None = None,
    max_minutes: float | None = None,
) -> int:
    """A run, or the rest of one, to its end. The options: of --resume, over those of the run. Gives the exit status."""
    from pytest_multiitem.orchestration import decide
    from pytest_multiitem.orchestration.check_plan import check_plan
    from pytest_multiitem.orchestration.run import Orchestration

    plan = file.ledger.plan
    with file.changing():
        plan.allow_partial |= allow_partial
        plan.teardown_at_end &= not keep
        plan.max_usd = _positive("--max-usd", max_usd) or plan.max_usd
        plan.max_minutes = _positive("--max-minutes", max_minutes) or plan.max_minutes
    check_plan(plan)
    progress = _progress()
    progress(f"orchestration in {file.directory}")
    orchestration = Orchestration(file, progress)
    result = _to_the_end(orchestration, orchestration.run, progress)
    problems = _shown(file, result)
    partial = plan.allow_partial and result.failure is None and result.comparison is not None
    if not partial:
        problems += [*([result.failure] if result.failure else []), *result.blockers.values()]
    problems += decide.problems(result.comparison, plan)
    for problem in dict.fromkeys(problems):
        say(f"multiitem: {problem}", err=True)
    return int(bool(problems))


def _tear_down(base: Path, artifact_subdir: str) -> int:
    """Remove what runs have left. Gives the exit status."""
    from pytest_multiitem.orchestration.ledger import LEDGER, LedgerFile, read_ledger
    from pytest_multiitem.orchestration.run import Orchestration

    ledgers = [base / artifact_subdir / LEDGER] if artifact_subdir else sorted(base.glob(f"*/{LEDGER}"))
    directories = [path.parent for path in ledgers if artifact_subdir or read_ledger(path.parent).open_machines()]
    if not directories:
        say(f"nothing is left of the runs in {base}")
    status, progress = 0, _progress()
    for directory in directories:
        with LedgerFile(directory) as file:
            with file.changing() as ledger:
                ledger.plan.teardown_at_end = True
            orchestration = Orchestration(file, progress)
            result = _to_the_end(orchestration, orchestration.tear_down, progress)
            problems = _shown(file, result) + ([str(file.unwritten)] if file.unwritten is not None else [])
            for problem in problems:
                say(f"multiitem: {problem}", err=True)
            status |= int(bool(problems))
    return status


def _to_the_end(orchestration: Orchestration, action: Callable[[], Result], progress: Callable[[str], None]) -> Result:
    """Do it in a thread, so that a signal does not interrupt it anywhere: it is asked to end, gives the machines back,
    and only then the signal goes its way."""
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()  # a join that a signal interrupts takes the thread for ended, in Python before 3.13

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="orchestration").start()
    try:
        done.wait()
    except KeyboardInterrupt as interrupt:
        by = str(interrupt) or "Ctrl-C"
        orchestration.stop.ask(f"ended by {by}")
        progress(f"multiitem: {by}: machines are given back first")
        done.wait()
        for result in results:
            for line in _left(result):
                progress(f"multiitem: {line}")
        raise
    if errors:
        raise errors[0]
    return results[0]


def _shown(file: LedgerFile, result: Result) -> list[str]:
    """Say what came of it; gives what is left and should not be."""
    from pytest_multiitem.orchestration.limits import cost_lines
    from pytest_multiitem.orchestration.report import REPORT
    from pytest_multiitem.reports.comparison import comparison_lines

    if result.comparison is not None:
        for line in comparison_lines(result.comparison):
            say(line)
    elif file.ledger.outcome:
        say(file.ledger.outcome)
    for line in cost_lines(file.ledger):
        say(line)
    kept = [machine.name for machine in file.ledger.left()]
    if not file.ledger.plan.teardown_at_end and kept:
        say(f"kept, and paid for: {', '.join(kept)}; remove with: multiitem orchestrate --teardown "
            f"--artifact-subdir {file.directory.name}")  # fmt: skip
    elif not result.left:
        say("left: no machine that was rented")
    say(f"report: {file.directory / REPORT}")
    return _left(result)


def _left(result: Result) -> list[str]:
    if not result.left:
        return []
    return [f"{', '.join(result.left)} may still be there, and paid for; type: multiitem orchestrate --teardown"]


def _progress() -> Callable[[str], None]:
    """Lines on standard error, one at a time, whichever thread they come from. A terminal that is closed by now keeps
    no machine from being given back."""
    guard = threading.Lock()

    def line(text: str) -> None:
        with guard, suppress(OSError):
            say(without_secrets(text), err=True)

    return line


def _latest(base: Path) -> Path:
    from pytest_multiitem.orchestration.ledger import LEDGER

    ledgers = sorted(base.glob(f"*/{LEDGER}"), key=lambda path: path.stat().st_mtime)
    if not ledgers:
        raise UsageError(f"there is no orchestration in {base} to go on with; begin one, or give --results-dir")
    return ledgers[-1].parent


def _provider(name: str) -> Literal["gcloud", "ssh", "local"]:
    for known in ("gcloud", "ssh", "local"):
        if name == known:
            return known
    raise UsageError(f"--provider {name!r} is not valid: expected gcloud, ssh or local")


def _model(named: str | None, *engines: str) -> str | None:
    """A directory here in full; the contract's own where none is named. The embedded engine has a tiny one itself."""
    if named is None:
        return None if {*engines} == {"embedded"} else _CONTRACT_MODEL
    return str(Path(named).resolve()) if Path(named).is_dir() else named


def _positive(flag: str, value: _Value) -> _Value:
    if isinstance(value, float) and not (0 < value < float("inf")):
        raise UsageError(f"{flag} {value:g} is not valid: expected more than 0")
    return value
