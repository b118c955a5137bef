"""What the plugin does to tests: parameters, which benchmarks run, and the verdicts on reports."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_multiitem.added import GateItem, put_last
from pytest_multiitem.errors import UsageError
from pytest_multiitem.options import Settings
from pytest_multiitem.state import ATTACHED, BENCHMARKS, RECORDS, SESSION, SETTINGS

if TYPE_CHECKING:
    from pytest_multiitem.servers.engines import Profile

#: The attribute of a test report that carries verdicts and benchmarks to the ledger.
REPORT_ATTRIBUTE = "multiitem"


def parametrize(metafunc: pytest.Metafunc, settings: Settings) -> None:
    """Give a test that uses our parameter fixtures the values of the run's settings."""
    for fixture, values in _values(settings).items():
        if fixture in metafunc.fixturenames and (len(values) > 1 or _is_always_named(fixture, values, settings)):
            metafunc.parametrize(fixture, values, ids=[_id_of(fixture, value) for value in values])


def only_value(config: pytest.Config, fixture: str) -> Any:
    """The value of a parameter fixture that has one only: its tests are not parametrised, their ids do not name it."""
    (value,) = _values(config.stash[SETTINGS])[fixture]
    return value


def _values(settings: Settings) -> dict[str, tuple[Any, ...]]:
    """What the parameter fixtures range over."""
    attached = settings.multi_url or settings.serial_url
    masks: tuple[str, ...] = settings.mask_impl
    chunks: tuple[Any, ...] = settings.server_chunk_size
    if attached:
        masks = masks if settings.origins["mask_impl"] != "default" else (ATTACHED,)
        chunks = (0,)
    elif set(chunks) <= {1, 2}:
        chunks = (*chunks, 0)  # isolation needs three items in one sequence as well
    return {
        "multiitem_backend": (ATTACHED,) if attached else settings.backend,
        "multiitem_mask": masks,
        "multiitem_chunk": chunks,
        "multiitem_client_chunk": settings.client_chunk_sizes,
        "multiitem_bench_chunk": settings.bench_chunk_sizes,
        "multiitem_model": settings.models or (None,),
    }


def _is_always_named(fixture: str, values: tuple[Any, ...], settings: Settings) -> bool:
    """Whether test ids name a parameter even where it has one value only."""
    return fixture in ("multiitem_backend", "multiitem_mask") or values[0] in settings.models


def _id_of(fixture: str, value: Any) -> str:
    """What a parameter is called in test ids."""
    if fixture == "multiitem_model":
        return str(value).rstrip("/").rpartition("/")[2]
    return f"{fixture.split('_')[1] if isinstance(value, int) else ''}{value}"


def uses_plugin(item: pytest.Item) -> bool:
    """Whether a test uses our fixtures or our gate marker.

    Every fixture of ours asks for one whose name begins like this; a project's own ``serial_server`` does not.
    """
    names = getattr(item, "fixturenames", ())
    return any(name.startswith("multiitem_") for name in names) or item.get_closest_marker("multiitem_gate") is not None


def gate_of(item: pytest.Item) -> str | None:
    """The gate that a test gives the verdict of. Raises pytest.UsageError for an unknown name."""
    marker = item.get_closest_marker("multiitem_gate")
    if marker is None:
        return None
    from pytest_multiitem.gates.registry import gates

    name = marker.args[0] if marker.args else None
    if name not in gates():
        raise pytest.UsageError(f"{item.nodeid}: multiitem_gate names {name!r}; expected one of {', '.join(gates())}")
    return str(name)


def note_deselected(items: Iterable[pytest.Item]) -> None:
    """Remember the tests that the command line leaves out, so that they show as NOT_RUN."""
    from pytest_multiitem.registration import session_of

    for item in items:
        if uses_plugin(item):
            session_of(item.config).plan.deselected[item.nodeid] = gate_of(item)


def finish(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take the final list of tests into the run's plan; model after model, where there are several."""
    from pytest_multiitem.registration import session_of

    models = config.stash[SETTINGS].models
    if models:
        items.sort(key=lambda item: models.index(_model_of(item)) if _model_of(item) in models else -1)
    added = put_last(config, items)
    ours = [item for item in items if uses_plugin(item)]
    if ours:
        plan = session_of(config).plan
        for item in added:
            plan.deselected.pop(item.nodeid, None)
        plan.selected.update({item.nodeid: gate_of(item) for item in ours})
        session_of(config).profiles = tuple(
            dict.fromkeys(p for item in ours if not _refusal(item) for p in _profiles(item, config))
        )
    if SESSION not in config.stash or config.getoption("collectonly"):
        return
    try:
        session_of(config).prepare()
    except UsageError as error:
        if not hasattr(config, "workerinput"):
            raise pytest.UsageError(str(error)) from None
        # An error here would take the worker down without a word; each test will say it.


def _profiles(item: pytest.Item, config: pytest.Config) -> list[Profile]:
    """The servers that a test will ask for, so that all of a run's servers can start side by side."""
    from pytest_multiitem.scoring.semantics import Semantics
    from pytest_multiitem.servers.engines import Profile

    params = getattr(getattr(item, "callspec", None), "params", {})
    backend = params.get("multiitem_backend")
    names = getattr(item, "fixturenames", ())
    model = _model_of(item)
    found: list[Profile] = []
    if backend is None or backend == ATTACHED:
        return found
    if "serial_server" in names:
        found.append(Profile("serial", backend, model=model))
    if "multi_item_server" in names:
        semantics = Semantics(config.stash[SETTINGS].semantics)
        mask = params["multiitem_mask"]
        chunk = params["multiitem_chunk"] if "multiitem_chunk" in params else only_value(config, "multiitem_chunk")
        found.append(Profile("multi", backend, mask, chunk, semantics, model))
    if "prefill_extend_server" in names:
        found.append(Profile("extend", backend, semantics=Semantics.QUERY_PREFIX, model=model))
    return found


def _model_of(item: pytest.Item) -> str | None:
    """The model of a model matrix that a test is for."""
    model: str | None = getattr(getattr(item, "callspec", None), "params", {}).get("multiitem_model")
    return model


def requirement(item: pytest.Item, gate: str) -> str | None:
    """The option for which NOT_RUN fails a gate's test; None where it does not."""
    from pytest_multiitem.gates.registry import required

    if gate in required(item.config.stash[SETTINGS]):
        return "--require"
    return "the run's options" if isinstance(item, GateItem) and item.required else None


def refuse_or_pass(item: pytest.Item) -> None:
    """Skip, as NOT_RUN, what must not run: benchmarks that are off, timing beside other tests."""
    reason = _refusal(item) if uses_plugin(item) else None
    if reason is not None:
        pytest.skip(f"NOT_RUN: {reason}")


def _refusal(item: pytest.Item) -> str | None:
    is_benchmark = item.get_closest_marker("bench") is not None
    gate = gate_of(item)
    is_timing = is_benchmark
    if gate is not None:
        from pytest_multiitem.gates.registry import gates

        is_timing = is_timing or gates()[gate].timing
    if is_timing and hasattr(item.config, "workerinput"):
        return "it measures time, and pytest-xdist runs other tests at the same time; run it without -n"
    if is_benchmark and not item.config.stash[SETTINGS].bench and not _is_named(item):
        return "benchmarks are off; add --bench, or name the test by path or node id"
    return None


def _is_named(item: pytest.Item) -> bool:
    """Whether the command line names the test's node id, its file or its directory."""
    config = item.config
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return False
    for argument in config.args:
        path = Path(config.invocation_params.dir, argument.partition("::")[0]).resolve()
        if path in (item.path, item.path.parent):
            return True
    return False


def carry(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put a test's verdict on its report, where pytest-xdist carries it and JUnit shows it."""
    if not uses_plugin(item):
        return
    gate = gate_of(item)
    if gate is not None:
        _settle(item, report, gate)
    records = item.stash.get(RECORDS, [])
    benchmarks = item.stash.get(BENCHMARKS, []) if report.when == "call" else []
    if records or benchmarks:
        import msgspec

        carried = {"gates": msgspec.to_builtins(records), "benchmarks": msgspec.to_builtins(benchmarks)}
        setattr(report, REPORT_ATTRIBUTE, carried)
    for record in records if report.when == "teardown" else ():  # the report that JUnit takes properties from
        for name in ("gate", "verdict", "reason", "value", "limit", "noise_floor", "traffic_floor",
                     "leak_visibility", "semantic_visibility", "score_spread", "mask_requested", "mask_attested",
                     "server_chunk_size", "backend"):  # fmt: skip
            value = getattr(record, name)
            report.user_properties.append((f"multiitem_{name}", "" if value is None else str(value)))


def _settle(item: pytest.Item, report: pytest.TestReport, gate: str) -> None:
    """Make the outcome of a gate's test and the gate's verdict agree.

    A test that passes without a verdict has measured nothing, and fails; no failed test leaves a PASS.
    """
    from pytest_multiitem.gates.measurement import blank_record
    from pytest_multiitem.gates.registry import gates
    from pytest_multiitem.results.records import Verdict
    from pytest_multiitem.session import reason_of

    records = item.stash.setdefault(RECORDS, [])
    if report.when == "call" and report.passed and not records:
        report.outcome = "failed"
        report.longrepr = f"FAIL: {gate}: the test ended without a verdict"
    if report.passed:
        return
    if not records:
        verdict = Verdict.NOT_RUN if report.skipped else Verdict.FAIL
        records.append(blank_record(gates()[gate], verdict, reason_of(report), item.nodeid))
        by = requirement(item, gate)
        if report.skipped and not hasattr(report, "wasxfail") and by is not None:
            report.outcome = "failed"
            report.longrepr = f"{gate} is required by {by}, but: {records[-1].reason}"
    elif report.failed and records[-1].verdict is Verdict.PASS:
        records[-1].verdict = Verdict.FAIL
        records[-1].reason = f"its test failed afterwards: {reason_of(report)}"


def status(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """A skip of ours says NOT_RUN or INCONCLUSIVE in the progress column; it still counts as skipped."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        for word, letter in (("NOT_RUN", "n"), ("INCONCLUSIVE", "i")):
            if reason.startswith(word):
                return "skipped", letter, word
    return None
