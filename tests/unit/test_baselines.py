"""Saved baselines: what a timing is, what may be saved, and that nothing but an equal run passes."""

import json
import re

import msgspec
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_matrix import benchmark, gate_record, matrix
from scipy.stats import binom
from typer.testing import CliRunner

from pytest_multiitem.baselines import store
from pytest_multiitem.baselines.judging import evidence_lines, judge
from pytest_multiitem.baselines.records import Baseline, Cell
from pytest_multiitem.baselines.saving import refusal
from pytest_multiitem.baselines.timings import Timings, timings, timings_of
from pytest_multiitem.bench.statistics import ratio_interval
from pytest_multiitem.commands import baseline as commands
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.records import MatrixSummary, Row, RunRecord, ScoreMatrix, WorkloadRef
from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.reports import summary as terminal
from pytest_multiitem.reports.formats import markdown
from pytest_multiitem.results import records
from pytest_multiitem.results.records import SettingRecord, Verdict
from pytest_multiitem.results.store import write_matrix
from pytest_multiitem.settings.conditions import parse

MACHINE = {"architecture": "x86_64", "processor": "CPU 1", "cpus_usable": 2, "memory_gib": 8.0, "device": "cpu"}
SHA = "0" * 64
#: Runs that scatter by a few per mille.
STEADY = [1.0, 1.004, 0.998, 1.001, 1.003, 0.999, 1.002]
P95 = (parse("p95 > 15%"),)


def cell(key="packed", seconds=STEADY, **more):
    given = {
        "items": 500, "workload_sha256": SHA, "engine": "embedded", "backend": "pytorch", "model": "tiny",
        "dtype": "float32", "mask_attested": "dense", "machine": MACHINE, "nodeid": f"test_it.py::test_{key}",
    }  # fmt: skip
    return Cell(key=key, seconds=list(seconds), **(given | more))


def baseline(*cells, **more):
    given = {"name": "main", "saved_at_utc": "2026-01-01T00:00:00+00:00"}
    return Baseline(schema_version="multiitem_baseline_v1", cells=list(cells), **(given | more))


def slower(factor, seconds=STEADY):
    return [factor * value for value in seconds]


def verdict(old, new, conditions=P95, **more):
    """The judgement on one run's cells against a baseline's."""
    return judge(baseline(*old), Timings(tuple(new), **more), conditions)


# -- judging -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "factor", "expected"),
    [
        ("p50 > 15%", 1.0, "PASS"),
        ("p50 > 15%", 1.13, "PASS"),
        ("p50 > 15%", 1.15, "INCONCLUSIVE"),
        ("p50 > 15%", 1.17, "FAIL"),
        ("p50 > 15%", 0.2, "PASS"),
        ("p95 > 15%", 1.1, "PASS"),
        ("p95 > 15%", 1.2, "FAIL"),
        ("mean > 2%", 1.01, "PASS"),
        ("mean > 2%", 1.03, "FAIL"),
        ("throughput < -10%", 1.05, "PASS"),
        ("throughput < -10%", 1 / 0.9, "INCONCLUSIVE"),
        ("throughput < -10%", 1.2, "FAIL"),
        ("throughput < -10%", 0.5, "PASS"),
    ],
)
def test_a_regression_is_seen_and_nothing_else(condition, factor, expected):
    found = verdict([cell()], [cell(seconds=slower(factor))], [parse(condition)])
    assert found.verdict == found.details.cells[0].verdict == found.details.cells[0].ratios[0].verdict == expected
    assert condition in found.reason
    ratio = found.details.cells[0].ratios[0]
    assert ratio.ratio == pytest.approx(1 / factor if "throughput" in condition else factor)
    assert ratio.interval[0] <= ratio.ratio <= ratio.interval[1]


def test_one_condition_of_several_is_enough():
    noisy = [0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.9]  # the median holds, the mean does not
    found = verdict([cell()], [cell(seconds=noisy)], [parse("p50 > 100%"), parse("p95 > 5%"), parse("mean > 0%")])
    assert [ratio.verdict for ratio in found.details.cells[0].ratios] == ["PASS", "INCONCLUSIVE", "INCONCLUSIVE"]
    found = verdict([cell()], [cell(seconds=slower(1.3))], [parse("p50 > 50%"), parse("p95 > 20%")])
    assert [ratio.verdict for ratio in found.details.cells[0].ratios] == ["PASS", "FAIL"]
    assert found.verdict == "FAIL" and "p95 > 20%" in found.reason and "p50" not in found.reason


def test_an_interpolated_p95_says_so():
    few = verdict([cell()], [cell()]).details.cells[0].ratios[0]
    assert few.note == "p95 interpolated from 7 and 7 runs" and few.verdict == "PASS"
    rng = np.random.default_rng(3)
    many = [cell(seconds=rng.normal(1, 0.01, 90))]
    assert verdict(many, many).details.cells[0].ratios[0].note is None
    assert verdict([cell()], [cell()], [parse("p50 > 15%")]).details.cells[0].ratios[0].note is None


@pytest.mark.parametrize(("old", "new"), [(7, 4), (4, 7), (1, 1), (2, 30)])
@pytest.mark.parametrize("factor", [1.0, 9.0])
def test_too_few_runs_decide_nothing(old, new, factor):
    found = verdict([cell(seconds=[1.0] * old)], [cell(seconds=[factor] * new)])
    assert found.verdict == "INCONCLUSIVE"
    assert f"{old} and {new} timed runs; at least 5 of each are needed" in found.reason
    assert found.details.cells[0].ratios[0].interval is None


SAMPLES = st.lists(st.floats(0.001, 100), min_size=5, max_size=12)


@settings(max_examples=25, deadline=None)
@given(old=SAMPLES, new=SAMPLES, percent=st.integers(0, 200))
def test_the_verdict_is_the_intervals(old, new, percent):
    condition = parse(f"p50 > {percent}%")
    found = verdict([cell(seconds=old)], [cell(seconds=new)], [condition])
    low, high = ratio_interval(new, old, paired=False)
    value = np.median(new) / np.median(old)
    low, high = min(low, value), max(high, value)
    expected = "FAIL" if low > condition.limit else "PASS" if high <= condition.limit else "INCONCLUSIVE"
    assert found.verdict == expected


@settings(max_examples=25, deadline=None)
@given(old=SAMPLES, new=SAMPLES, unit=st.sampled_from([1e-3, 60.0]))
def test_the_unit_of_time_does_not_matter(old, new, unit):
    conditions = [parse("p95 > 15%"), parse("throughput < -10%")]
    seconds = verdict([cell(seconds=old)], [cell(seconds=new)], conditions)
    others = verdict([cell(seconds=slower(unit, old))], [cell(seconds=slower(unit, new))], conditions)
    for a, b in zip(seconds.details.cells[0].ratios, others.details.cells[0].ratios, strict=True):
        assert a.ratio == pytest.approx(b.ratio)
        assert a.interval == pytest.approx(b.interval)


@pytest.mark.parametrize("metric", ["p50", "p95", "mean"])
@pytest.mark.parametrize("runs", [5, 15])
def test_a_run_against_itself_rarely_fails(metric, runs):
    """A/A at the strictest limit: a FAIL says that the 95 % interval lies above 1 as a whole."""
    rng = np.random.default_rng(runs)
    times, fails = 100, 0
    for _ in range(times):
        old, new = rng.lognormal(0, 0.1, (2, runs))
        fails += verdict([cell(seconds=old)], [cell(seconds=new)], [parse(f"{metric} > 0%")]).verdict is Verdict.FAIL
    assert fails <= binom.ppf(0.999, times, 0.05)


# -- what cannot be compared -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "word", "other"),
    [
        ("workload_sha256", "workload", "1" * 64),
        ("items", "item count", 499),
        ("engine", "engine", "sglang"),
        ("model", "model", "large"),
        ("dtype", "dtype", "bfloat16"),
        ("mask_attested", "mask executed", "segment"),
    ],
)
def test_another_thing_is_a_fail_that_names_both(field, word, other):
    old = cell()
    new = msgspec.structs.replace(old, **{field: other})
    for found, (was, is_now) in (
        (verdict([old], [new]), (getattr(old, field), other)),
        (verdict([new], [old]), (other, getattr(old, field))),
    ):
        assert found.verdict == "FAIL"
        was, is_now = (f"{v[:12]}…" if field == "workload_sha256" else v for v in (was, is_now))
        assert f"not the same thing: {word} {was} in the baseline, {is_now} in this run" in found.reason
        assert not found.details.cells[0].ratios


@pytest.mark.parametrize("field", ["workload_sha256", "engine", "model", "dtype", "mask_attested"])
@pytest.mark.parametrize("factor", [1.0, 9.0])
def test_what_only_one_side_tells_decides_nothing(field, factor):
    new = cell(seconds=slower(factor))
    for old_fields, new_fields, side in (({field: None}, {}, "the baseline"), ({}, {field: None}, "this run")):
        found = verdict([cell(**old_fields)], [msgspec.structs.replace(new, **new_fields)])
        assert found.verdict == "INCONCLUSIVE"
        assert f"not known of {side}" in found.reason


def test_a_workload_that_neither_tells_decides_nothing():
    unknown = cell(workload_sha256=None)
    found = verdict([unknown], [unknown])
    assert found.verdict == "INCONCLUSIVE" and "workload not known of either" in found.reason
    silent = cell(dtype=None, model=None, mask_attested=None)  # a server that says nothing of itself
    assert verdict([silent], [silent]).verdict == "PASS"


@pytest.mark.parametrize(
    "fact",
    [{"processor": "CPU 2"}, {"cpus_usable": 4}, {"architecture": "arm64"}, {"memory_gib": 16.0}, {"device": "tpu"}],
)
@pytest.mark.parametrize("factor", [1.0, 9.0])
def test_another_machine_decides_nothing(fact, factor):
    found = verdict([cell()], [cell(seconds=slower(factor), machine=MACHINE | fact)])
    ((name, value),) = fact.items()
    assert found.verdict == "INCONCLUSIVE"
    assert f"{name.replace('_', ' ')} {MACHINE[name]} and {value}" in found.reason
    assert found.details.cells[0].ratios[0].ratio == pytest.approx(factor)  # shown, and not judged
    assert found.details.cells[0].ratios[0].verdict == "INCONCLUSIVE"


def test_the_same_machine_may_seem_to_have_a_little_less_memory():
    assert verdict([cell()], [cell(machine=MACHINE | {"memory_gib": 7.9})]).verdict == "PASS"


@pytest.mark.parametrize(("old", "new"), [({}, MACHINE), (MACHINE, {}), ({}, {}), ({"hardware": "v6e-1"}, MACHINE)])
def test_an_unknown_machine_decides_nothing(old, new):
    found = verdict([cell(machine=old)], [cell(machine=new)])
    assert found.verdict == "INCONCLUSIVE" and "not known whether it is the same machine" in found.reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_what_is_no_time_is_a_fail(value):
    found = verdict([cell()], [cell(seconds=[*STEADY, value])])
    assert found.verdict == "FAIL" and f"{value!r} is no time" in found.reason
    assert verdict([cell()], [cell(seconds=[])]).verdict == "FAIL"


# -- what is there -----------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(names=st.lists(st.sampled_from("abcdef"), min_size=2, unique=True), kept=st.sets(st.integers(0, 4), max_size=4))
def test_every_timing_that_is_missing_is_named(names, kept):
    cells = [cell(name) for name in names]
    there = [c for index, c in enumerate(cells) if index in kept and index < len(cells) - 1]
    found = verdict(cells, there)
    assert found.verdict == "FAIL"
    missing = {c.key for c in found.details.cells if c.reason.startswith("missing in this run")}
    assert missing == set(names) - {c.key for c in there}


@pytest.mark.parametrize(
    ("untimed", "why"),
    [
        ({"test_it.py::test_packed": "its test was deselected"}, "its test was deselected"),
        ({"packed": "all runs failed (5 oom)"}, "all runs failed (5 oom)"),
        ({"test_it.py::test_other": "its test failed"}, "renamed, or not selected"),
        ({}, "renamed, or not selected"),
    ],
)
def test_why_it_is_missing(untimed, why):
    found = verdict([cell("packed"), cell("other")], [cell("other")], untimed=untimed)
    assert found.reason == f"1 of 2 timings: packed: missing in this run: {why}"


def test_nothing_measured_is_a_fail():
    found = verdict([cell("packed"), cell("other")], [])
    assert found.verdict == "FAIL" and found.reason.startswith("no timing was measured; the baseline has 2")
    assert {c.verdict for c in found.details.cells} == {"FAIL"}


def test_what_only_the_run_has_is_noted():
    found = verdict([cell()], [cell(), cell("new")])
    assert found.verdict == "PASS" and [c.key for c in found.details.cells] == ["packed"]
    assert found.details.notes == ["not in the baseline, and not judged: new"]
    assert verdict([cell()], [cell("new")]).verdict == "FAIL"  # renamed


def test_a_name_that_two_timings_share_is_a_fail():
    found = verdict([cell()], [cell(), cell(seconds=slower(9))])
    assert found.verdict == "FAIL" and "2 timings of this run have this name" in found.reason


def test_the_worst_timing_decides():
    good, doubtful, bad = cell("a"), cell("b"), cell("c")
    doubt = cell("b", machine=MACHINE | {"processor": "CPU 2"})
    worse = cell("c", seconds=slower(2))
    assert verdict([good], [good]).verdict == "PASS"
    assert verdict([good, doubtful], [good, doubt]).verdict == "INCONCLUSIVE"
    found = verdict([good, doubtful, bad], [good, doubt, worse])
    assert found.verdict == "FAIL" and found.reason.startswith("1 of 3 timings: c: p95 is 2 times")
    assert [line.split()[0] for line in evidence_lines(found)] == ["FAIL", "INCONCLUSIVE"]


def test_timings_that_share_a_reason_are_told_once():
    cells = [cell(name) for name in "abcde"]
    other = MACHINE | {"processor": "CPU 2"}
    found = verdict(cells, [msgspec.structs.replace(c, machine=other) for c in cells])
    assert found.reason == (
        "5 of 5 timings: a, b, c and 2 more: another machine than the baseline's: processor CPU 1 and CPU 2"
    )


def test_other_versions_and_settings_are_noted():
    old = baseline(cell(), versions={"torch": "2.6", "jax": "0.5"}, settings={"seed": "1", "dtype": "float32"})
    run = Timings((cell(),), versions={"torch": "2.7", "jax": "0.5"}, settings={"seed": "2", "dtype": "float32"})
    found = judge(old, run, P95)
    assert found.verdict == "PASS"
    assert found.details.notes == ["other versions: torch 2.6 → 2.7", "other settings: seed 1 → 2"]


def test_without_a_condition_there_is_no_verdict():
    with pytest.raises(ValueError, match="no condition"):
        verdict([cell()], [cell()], [])


# -- the timings of a run ----------------------------------------------------------------------

BENCH = {"workload_sha256": SHA, "dtype": "float32", "device": "cpu"}


def run_of(*benchmarks, outcomes=None, **more):
    """A run whose tests ended so."""
    ended = {b.nodeid: "passed" for b in benchmarks} | (outcomes or {})
    tests = [records.TestRecord(nodeid=nodeid, outcome=how, reason="because") for nodeid, how in ended.items()]
    return matrix(**({"benchmarks": list(benchmarks), "tests": tests, "machine": MACHINE} | more))


def bench(name="packed", **more):
    given = {"name": name, "nodeid": f"t.py::test_{name}", "runs_sec": STEADY} | BENCH | more
    p50 = float(np.median(given["runs_sec"]))
    figures = {"p50_sec": p50, "p95_sec": float(np.percentile(given["runs_sec"], 95)), "items_per_sec_p50": 500 / p50}
    return benchmark(**(figures | given))


def test_a_benchmark_is_a_timing():
    (found,) = timings_of(run_of(bench()), []).cells
    assert found == cell(
        "packed · pytorch · segment · 2000/500/20 · chunk 500", nodeid="t.py::test_packed", mask_attested="segment"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"name": "serial"}, {"backend": "jax"}, {"mask_requested": "dense"}, {"client_chunk_size": 8},
        {"num_items": 499}, {"query_tokens": 10}, {"item_tokens": 10}, {"server_chunk_size": 2},
    ],
    ids=repr,
)  # fmt: skip
def test_what_makes_another_timing(other):
    found = timings_of(run_of(bench(), bench(**(other | {"nodeid": "t.py::other"}))), [])
    assert len({c.key for c in found.cells}) == 2


def test_models_of_a_matrix_are_told_apart():
    records = [bench(model=f"/models/{name}", nodeid=f"t.py::test[{name}]") for name in ("a", "b")]
    several = [SettingRecord(name="models", value="a,b", origin="command line")]
    keys = {c.key for c in timings_of(run_of(*records, settings=several), []).cells}
    assert keys == {f"packed · pytorch · segment · {name} · 2000/500/20 · chunk 500" for name in ("a", "b")}
    assert len({c.key for c in timings_of(run_of(*records), []).cells}) == 1


@pytest.mark.parametrize("outcome", ["failed", "skipped", "deselected", "not reached"])
def test_a_benchmark_whose_test_did_not_pass_is_no_timing(outcome):
    found = timings_of(run_of(bench(), outcomes={"t.py::test_packed": outcome}), [])
    assert not found.cells
    why = found.untimed["t.py::test_packed"]
    assert outcome in why and why.endswith(": because")


def test_a_test_that_is_repeated_counts_once():
    found = timings_of(run_of(bench(runs_sec=[9.0]), bench()), [])
    assert [c.seconds for c in found.cells] == [STEADY]


def score_matrix(sizes=(64, 500), confirmed=(64,), **more):
    def row(size):
        runs = [RunRecord(ok=True, total_e2e_ms=1000 * s, call_latencies_ms=[1000 * s]) for s in STEADY]
        return Row(client_chunk_size=size, status="ok", run_records=runs, mask_attested="dense")

    given = {
        "backend": "jax", "evaluation_view": "portable", "results": [row(s) for s in sizes],
        "confirm_results": [row(s) for s in confirmed], "engine": "embedded", "model": "tiny", "dtype": "float32",
        "workload": {"num_items": 500}, "workload_ref": WorkloadRef(sha256=SHA),
        "hardware": {**MACHINE, "release": "6"}, "versions": {"jax": "0.5"},
        "summary": MatrixSummary(confirm_chunk_sizes=list(confirmed)),
    }  # fmt: skip
    return ScoreMatrix(schema_version="score_matrix_v1", **(given | more))


def test_rows_of_a_comparison_are_timings():
    found = timings_of(None, [score_matrix()])
    assert [c.key for c in found.cells] == [
        "comparison · portable · jax · chunk 64 · sweep",
        "comparison · portable · jax · chunk 500 · sweep",
        "comparison · portable · jax · chunk 64 · confirm",
    ]
    expected = cell(found.cells[0].key, backend="jax", nodeid=None)
    assert found.cells[0].seconds == pytest.approx(STEADY)
    assert msgspec.structs.replace(found.cells[0], seconds=STEADY) == expected
    assert found.versions == {"jax": "0.5"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "failed", "failure_reason_counts": {"oom": 5}}, "all runs failed (5 oom)"),
        ({"status": "partial_failure", "failure_reason_counts": {"timeout": 1}}, "some runs failed (1 timeout)"),
        ({"attestation_problem": "segment was executed"}, "segment was executed"),
        ({"run_records": []}, "its runs have no times"),
    ],
)
def test_a_row_that_failed_is_no_timing(change, why):
    broken = score_matrix()
    broken.results[0] = msgspec.structs.replace(broken.results[0], **change)
    old = store.baseline_of("main", timings_of(None, [score_matrix()]))
    found = judge(old, timings_of(None, [broken]), P95)
    assert found.verdict == "FAIL"
    assert f"chunk 64 · sweep: missing in this run: {why}" in found.reason
    assert why in refusal(None, [broken], timings_of(None, [broken]))


def test_another_choice_to_confirm_is_no_missing_timing():
    old = store.baseline_of("main", timings_of(None, [score_matrix(confirmed=(64,))]))
    found = judge(old, timings_of(None, [score_matrix(confirmed=(500,))]), P95)
    assert found.verdict == "PASS"
    assert (
        "not confirmed again, and judged by their sweep: comparison · portable · jax · chunk 64 · confirm"
        in found.details.notes
    )
    assert [c.key.rpartition(" · ")[2] for c in found.details.cells] == ["sweep", "sweep"]


@pytest.mark.parametrize(
    "change",
    [
        {"confirmed": ()},
        {"confirmed": (500,), "complete": False},
        {"confirmed": (500,), "summary": MatrixSummary(confirm_chunk_sizes=[64, 500])},
        {"confirmed": (500,), "sizes": (500,)},
    ],
    ids=repr,
)
def test_a_confirmation_that_is_owed_is_missing(change):
    old = store.baseline_of("main", timings_of(None, [score_matrix(confirmed=(64,))]))
    found = judge(old, timings_of(None, [score_matrix(**change)]), P95)
    assert found.verdict == "FAIL" and "chunk 64 · confirm" in found.reason


def test_a_baseline_of_confirmations_alone_does_not_pass_without_them():
    confirmations = [c for c in timings_of(None, [score_matrix()]).cells if c.key.endswith("confirm")]
    found = judge(baseline(*confirmations), timings_of(None, [score_matrix(confirmed=(500,))]), P95)
    assert found.verdict == "FAIL"


# -- what may be saved -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (run_of(bench(), exit_status=1), "exit status 1"),
        (run_of(bench(), exit_status=5), "exit status 5"),
        (run_of(bench(), complete=False, interrupted_by="SIGTERM"), "incomplete (SIGTERM)"),
        (run_of(bench(), gates=[gate_record(verdict=Verdict.FAIL)]), "same_length_isolation_zero is FAIL"),
        (
            run_of(bench(), gates=[gate_record(verdict=Verdict.INCONCLUSIVE)]),
            "same_length_isolation_zero is INCONCLUSIVE",
        ),
        (run_of(), "no timing was measured"),
        (run_of(bench(), outcomes={"t.py::test_packed": "failed"}), "no timing was measured"),
        (run_of(bench(), gates=[gate_record()]), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_failed_never_becomes_the_baseline(run, why):
    found = refusal(run, [], timings_of(run, []))
    assert found is None if why is None else why in found


@pytest.mark.parametrize(
    ("change", "why"),
    [({"complete": False}, "is incomplete"), ({"blocker": "no quota"}, "is incomplete: no quota"), ({}, None)],
)
def test_a_comparison_that_is_partial_never_becomes_the_baseline(change, why):
    matrices = [score_matrix(**change)]
    found = refusal(None, matrices, timings_of(None, matrices))
    assert found is None if why is None else why in found


def test_a_baseline_survives_its_file(tmp_path):
    run = timings(
        [bench()], run_of(bench()).tests, [score_matrix()], machine=MACHINE, versions={"torch": "2.6"},
        settings={"dtype": "float32", "results_dir": "elsewhere"}, run_id="20260101-1",
    )  # fmt: skip
    saved = store.baseline_of("main", run)
    path = store.write(tmp_path, saved, replace=False)
    assert path == tmp_path / "baselines/main.json" and store.names(tmp_path) == ["main"]
    assert store.read(path) == saved
    assert store.problems(saved) == []
    assert saved.settings == {"dtype": "float32"} and saved.run_id == "20260101-1"
    found = judge(store.read(path), run, P95)
    assert found.verdict == "PASS" and not found.details.notes


def test_what_is_replaced_is_kept(tmp_path):
    for factor in (1, 2, 3):
        store.write(tmp_path, baseline(cell(seconds=slower(factor))), replace=True)
    assert store.read(store.find("main", tmp_path, tmp_path)).cells[0].seconds == slower(3)
    kept = sorted((tmp_path / "baselines/replaced").iterdir())
    assert [store.read(path).cells[0].seconds for path in kept] == [slower(1), slower(2)]
    assert store.names(tmp_path) == ["main"]
    with pytest.raises(UsageError, match=r"there is a baseline 'main' already.*pytest --save-baseline main"):
        store.write(tmp_path, baseline(cell()), replace=False)


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "baselines").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write the baseline"):
        store.write(tmp_path, baseline(cell()), replace=True)


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", ".hidden", "a/b", "x.json", "naïve"])
def test_what_is_no_name(name):
    with pytest.raises(UsageError, match="is no name for a baseline"):
        store.check_name(name)


def test_an_unknown_name_says_which_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"no baseline 'x' in .*; there is none yet; save one with --save-baseline x"):
        store.find("x", tmp_path, tmp_path)
    for name in ("nightly", "main"):
        store.write(tmp_path, baseline(cell(), name=name), replace=False)
    with pytest.raises(UsageError, match=r"there are: main, nightly \(did you mean 'nightly'\?\)"):
        store.find("nightyl", tmp_path, tmp_path)
    assert store.find("baselines/main.json", tmp_path, tmp_path) == tmp_path / "baselines/main.json"
    with pytest.raises(UsageError, match="there is no baseline file"):
        store.find("baselines/x.json", tmp_path, tmp_path)


def broken(**change):
    content = msgspec.to_builtins(baseline(cell()))
    first = {k: v for k, v in change.items() if k in content["cells"][0]}
    content["cells"][0] |= first
    return content | {k: v for k, v in change.items() if k not in first}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "holds no object; expected a multiitem_baseline_v1 file"),
        (broken(schema_version="multiitem_baseline_v2"), "multiitem_baseline_v2"),
        (broken(cells=None), "cells"),
        (broken(cells=[]), "there is none"),
        (broken(name="a b"), "is no name"),
        (broken(seconds=[]), "it has no run"),
        (broken(seconds=[1.0, float("nan")]), "nan is no time"),
        (broken(seconds=[1.0, 0.0]), "0.0 is no time"),
        (broken(seconds=[1.0, -2.0]), "-2.0 is no time"),
        (broken(seconds=[1.0, "fast"]), "Expected `float`"),
        (broken(items=0), "0 items"),
        (broken(key=""), "one has no key"),
        (broken(workload_sha256="abc"), "'abc' is no sha256"),
        (msgspec.to_builtins(baseline(cell(), cell())), "2 are called 'packed'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_says_nonsense_is_no_baseline(content, problem, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=rf"{re.escape(problem)}.*save a new one"):
        store.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_is_no_baseline(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.json is not valid JSON"):
        store.read(path)


# -- reports -----------------------------------------------------------------------------------


def test_the_reports_show_every_timing():
    record = verdict([cell("a"), cell("b"), cell("gone")], [cell("a"), cell("b", seconds=slower(1.5))])
    record.nodeid = "multiitem-baseline::no_regression_vs_baseline[main]"
    run = matrix([record])
    page = markdown.render(run)
    lines = "\n".join(line for line, _ in terminal.lines(run, ()))
    assert record.samples == {"timings": 3, "compared": 2}
    for text in (page.partition("## Against the baseline")[2].partition("\n## ")[0], lines):
        rows = {line.strip("| ").split()[0]: line for line in text.splitlines() if line.strip("| ")}
        assert "PASS" in rows["a"] and "p95 > 15%" in rows["a"]
        assert "FAIL" in rows["b"] and "1.5" in rows["b"] and " to " in rows["b"]
        assert "FAIL" in rows["gone"] and "renamed, or not selected" in rows["gone"]
    assert json.loads(msgspec.json.encode(record.details))["cells"][1]["ratios"][0]["ratio"] == pytest.approx(1.5)


# -- the commands ------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs ``multiitem baseline …`` in an empty directory; gives exit status and output."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    for name, function in (
        ("save", commands.baseline_save), ("check", commands.baseline_check), ("list", commands.baseline_list)
    ):  # fmt: skip
        app.command(name)(function)

    def run(*words):
        result = CliRunner().invoke(app, [*map(str, words)])
        if isinstance(result.exception, MultiItemError):  # the console script's part
            return 2, str(result.exception)
        return result.exit_code, result.output

    return run


@pytest.fixture
def runs(tmp_path):
    """Directories of runs by name: as fast as ever, slower, failed."""
    for name, run in {
        "good": run_of(bench()),
        "slow": run_of(bench(runs_sec=slower(1.5))),
        "failed": run_of(bench(), exit_status=1),
        "elsewhere": run_of(bench(), machine=MACHINE | {"processor": "CPU 2"}),
        "empty": run_of(),
    }.items():
        (tmp_path / name).mkdir()
        write_matrix(tmp_path / name, run)
    return tmp_path


def test_save_check_and_list(command, runs):
    assert command("list") == (0, "no baseline in multiitem-results/baselines\n")
    status, text = command("save", "main", "good")
    assert (status, text) == (0, "saved 1 timings: multiitem-results/baselines/main.json\n")
    assert command("list")[1].startswith("main: 1 timings, saved 20")
    assert command("check", "main", "good/matrix.json")[0] == 0
    status, text = command("check", "main", "slow")
    assert status == 1 and "FAIL: 1 of 1 timings" in text and "1.5 times the baseline's" in text
    assert command("check", "main", "slow", "--fail-if", "p95 > 60%, mean > 70%")[0] == 0
    assert command("check", "main", "slow", "--allow-inconclusive")[0] == 1
    assert command("check", "main", "elsewhere")[0] == 1
    assert command("check", "main", "elsewhere", "--allow-inconclusive")[0] == 0
    status, text = command("check", "main", "empty")
    assert status == 1 and "no timing was measured" in text
    assert command("check", "multiitem-results/baselines/main.json", "good")[0] == 0


@pytest.mark.parametrize("name", ["failed", "empty"])
def test_what_failed_is_not_saved(command, runs, name):
    status, text = command("save", "main", name)
    assert status == 1 and "baseline main NOT saved" in text
    assert command("list")[1].startswith("no baseline")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "main", "good"), "there is no baseline 'main'"),
        (("save", "a b", "good"), "is no name"),
        (("save", "main", "nowhere.json"), "cannot read nowhere.json"),
        (("save", "main", "."), "holds no timings"),
        (("save", "main", "good", "slow"), "2 runs are given"),
        (("check", "main", "good", "--fail-if", "p42 > 1%"), "--fail-if 'p42 > 1%' is not valid: expected a condition"),
    ],
)
def test_what_cannot_be_used(command, runs, words, message):
    status, text = command(*words)
    assert status == 2 and message in text


def test_an_existing_name_is_not_overwritten(command, runs):
    command("save", "main", "good")
    status, text = command("save", "main", "slow")
    assert status == 2 and "there is a baseline 'main' already" in text
    assert command("check", "main", "good")[0] == 0


def test_a_comparisons_directory(command, tmp_path):
    for name, factor in (("first", 1), ("second", 1.5)):
        for backend in ("jax", "pytorch"):
            measured = score_matrix(backend=backend)
            for row in (*measured.results, *measured.confirm_results):
                for run in row.run_records:
                    run.total_e2e_ms *= factor
            artefacts.write(tmp_path / name / f"{backend}_portable_matrix.json", measured)
        (tmp_path / name / "state.json").write_text("{}")
    assert command("save", "compared", "first")[1].startswith("saved 6 timings")
    assert command("check", "compared", "first")[0] == 0
    assert command("check", "compared", "second")[0] == 1
    status, text = command("check", "compared", "first/jax_portable_matrix.json")
    assert status == 1 and "3 of 6 timings" in text and "missing" in text


@pytest.mark.parametrize("words", [("check", "main", "good"), ("save", "other", "good")])
def test_a_run_that_contradicts_itself_is_neither_judged_nor_saved(command, runs, words):
    command("save", "main", "good")
    path = runs / "good" / "matrix.json"
    content = json.loads(path.read_bytes())
    content["benchmarks"][0]["runs_sec"] = slower(0.5)
    path.write_text(json.dumps(content))
    status, text = command(*words)
    assert (
        status == 2 and "good/matrix.json contradicts itself: packed: p50_sec is 1.001; its times give 0.5005" in text
    )


def test_a_baseline_that_was_edited_judges_nothing(command, runs):
    """Its timings made slower by hand, a regression would pass."""
    command("save", "main", "good")
    path = runs / "multiitem-results/baselines/main.json"
    content = json.loads(path.read_bytes())
    content["cells"][0]["seconds"] = slower(2)
    path.write_text(json.dumps(content))
    status, text = command("check", "main", "slow")
    assert status == 2 and "cells_sha256 is " in text and "save a new one" in text
    content["cells_sha256"] = None  # of an older version
    path.write_text(json.dumps(content))
    assert command("check", "main", "slow")[0] == 0
