"""A small valid file of every kind, as decoded JSON; those of evaluations come from servers (see `evaluations`)."""

import json

import msgspec
import numpy as np
from matrices import best_pair, row, spread_scores
from matrices import matrix as side
from sample_matrix import SEEN, benchmark, gate_record, matrix, not_run

from pytest_multiitem.baselines import store as baselines
from pytest_multiitem.baselines.judging import judge as judge_timings
from pytest_multiitem.baselines.records import Cell as Timing
from pytest_multiitem.baselines.timings import Timings
from pytest_multiitem.bench.load_figures import level, saturate, summary
from pytest_multiitem.bench.load_records import JudgedScores, LoadRecord, LoadReport
from pytest_multiitem.bench.statistics import p50, p95, ratio_interval
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.compare import compare
from pytest_multiitem.comparison.decision.pair import pair_of
from pytest_multiitem.comparison.row_figures import fill
from pytest_multiitem.compile_gates.classify import Failure
from pytest_multiitem.compile_gates.judge import Observed, Step, judge, overall, tier_verdicts
from pytest_multiitem.compile_gates.records import GpuReport, TpuReport
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.power.records import FaultRecord, KillMatrix
from pytest_multiitem.power.summary import is_complete, outcome, summarise
from pytest_multiitem.results import details, records
from pytest_multiitem.results.counterexample import Counterexample, Server
from pytest_multiitem.results.details import BuildRecord, Cell
from pytest_multiitem.results.store import checksum
from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.scoring.relations import Scenario, ScoreBody
from pytest_multiitem.settings.conditions import parse

EQUIV, SAME, SPEED = "delimiter_aligned_equiv_le_0p02", "same_length_isolation_zero", "speedup_n32_ge_3x"
CONDITIONS = [parse("p95 > 15%")]


def builtins(record):
    return json.loads(msgspec.json.encode(record))


# -- runs ----------------------------------------------------------------------------------------


def speed_point(serial_sec, multi_sec, items=32):
    def side_times(seconds):
        return details.SideTimes(
            latencies_sec=seconds, p50_sec=p50(seconds), p95_sec=p95(seconds), p95_interpolated=True,
            items_per_sec_p50=items / p50(seconds), items_per_sec_p95=items / p95(seconds),
        )  # fmt: skip

    return details.SpeedPoint(
        serial=side_times(serial_sec), multi=side_times(multi_sec),
        speedup_vs_serial_p50=p50(serial_sec) / p50(multi_sec),
        speedup_interval_95=ratio_interval(serial_sec, multi_sec), set_aside_sec=None, doubts=[],
    )  # fmt: skip


def run():
    """A run with every kind of verdict."""
    point = speed_point([0.32, 0.33, 0.31, 0.32, 0.32], [0.05, 0.051, 0.05, 0.049, 0.05])
    found = [
        gate_record(**SEEN),
        gate_record("changed_length_isolation_zero", **SEEN),
        gate_record(EQUIV, Verdict.FAIL, "pytorch-segment", relation="<=", limit=0.02,
                    value=0.3, reason="0.3 exceeds the limit 0.02", **SEEN),
        gate_record("metamorphic_relations_hold", Verdict.FAIL, "jax-dense", relation="holds", limit=None,
                    reason="mutate: a leak", **SEEN),
        gate_record(SPEED, relation=">=", limit=3.0, value=point.speedup_vs_serial_p50,
                    interval=point.speedup_interval_95, reason="6.4 reaches 3",
                    details=details.Speedup(performance={"32": point})),
        not_run(),
    ]  # fmt: skip
    return run_of(found)


def measured_run():
    """A run whose gates rest on further measurements: a baseline, builds with faults, a compile gate."""
    against = judge_timings(baseline_record(), run_timings(), CONDITIONS)
    holds = {"relation": "holds", "limit": None, "value": None}
    killed = msgspec.convert(kill_matrix()["builds"][2], BuildRecord)
    found = [
        msgspec.structs.replace(against, nodeid="a baseline"),
        gate_record("fault_is_killed", **holds, details=details.Power(builds=[killed])),
        gate_record("segment_lowers", **holds, details=details.SegmentPath(evidence=["compile gate"], tpu=tpu())),
    ]
    return run_of(found)


def run_of(found):
    found = [msgspec.structs.replace(gate, nodeid=f"{gate.nodeid} {at}") for at, gate in enumerate(found)]
    outcomes = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.NOT_RUN: "skipped"}
    tests = [
        records.TestRecord(nodeid=each.nodeid, outcome=outcomes[each.verdict], gate=each.gate, verdict=each.verdict)
        for each in found
    ]
    failed = any(each.verdict is Verdict.FAIL for each in found)
    return builtins(matrix(found, tests=tests, exit_status=int(failed), benchmarks=[benchmark()]))


# -- comparisons ---------------------------------------------------------------------------------


def score_matrix():
    rows = [row(8, (150.0, 151.0, 149.0, 150.0, 152.0)), row(64), row(128, (101.0, 103.0, 99.0, 100.5, 99.5))]
    made = side(rows=rows, confirm_results=[row(64), row(128, (120.0, 121.0, 119.0, 120.0, 122.0))])
    made.summary = guardrail.summary_of(made)
    assert made.summary.final_chunk_size == 64
    return builtins(made) | {"workload_ref": {"path": "canonical_workload.json"}}


def comparison():
    wrong = row(128, (100.0,) * 6, scores=np.roll(np.array(row().reference_scores), 1, axis=0).tolist())
    ours, theirs = best_pair()
    ours = msgspec.structs.replace(ours, results=[*ours.results, wrong])
    theirs = msgspec.structs.replace(theirs, results=[*theirs.results, row(128, (100.0,) * 6)])
    return builtins(compare([(None, ours), (None, theirs)]))


def pair(times=((100.0, 101.0, 99.0, 100.5, 99.5, 100.2), (80.0, 81.0, 79.0, 80.5, 79.5, 80.2))):
    """An A/B pair of which B is faster."""
    rows = {}
    for name, runs in zip("AB", times, strict=True):
        rows[name] = row(40, runs, scores=spread_scores(), session="one")
        fill(rows[name], 40)
    return builtins(pair_of({"A": {"MULTI_ITEM_DTYPE": "float32"}, "B": {}}, rows, [5, 6]))


def sent_workload():
    made = workload.generate(query_tokens=6, num_items=5, item_tokens=4, num_requests=2)
    made.scores = [spread_scores(seed, 5) for seed in (1, 2)]
    made.discrimination = workload.discrimination(made)
    return builtins(made)


# -- baselines -----------------------------------------------------------------------------------

STEADY = [1.0, 1.004, 0.998, 1.001, 1.003, 0.999, 1.002]
MACHINE = {"architecture": "x86_64", "processor": "CPU 1", "cpus_usable": 2, "memory_gib": 8.0}


def run_timings(*factors):
    """Two timings, each slower by a factor."""
    cells = [
        Timing(key=key, seconds=[factor * each for each in STEADY], items=500, workload_sha256="0" * 64,
               engine="embedded", backend="pytorch", model="tiny", dtype="float32", mask_attested="dense",
               machine=MACHINE)
        for key, factor in zip(("packed", "serial"), factors or (1.0, 1.0), strict=True)
    ]  # fmt: skip
    return Timings(tuple(cells), MACHINE, {"torch": "2"}, {"dtype": "float32"}, run_id="1")


def baseline_record():
    return baselines.baseline_of("main", run_timings())


def baseline():
    return builtins(baseline_record())


# -- load ----------------------------------------------------------------------------------------


def load(wrong=False):
    """Two concurrencies, of which the second saturates the server, and a rate."""
    sizes, objective = [3, 2], 30.0

    def requests(count, gap, took):
        made = []
        for at in range(count):
            due, seconds = at * gap, took * (1 + at % 3 / 10)
            started = due + 0.0001
            record = LoadRecord(
                state="successful", items=sizes[at % 2], due_sec=due, started_sec=started,
                finished_sec=due + seconds, latency_ms=1000 * (due + seconds - due),
            )  # fmt: skip
            if at % 7 == 6:
                record.state, record.latency_ms = "errored", None
                record.failure_kind = "wrong_scores" if wrong else "timeout"
                record.failure_message = "no"
            made.append(record)
        made.append(LoadRecord(state="incomplete", items=sizes[count % 2], due_sec=0.9, started_sec=0.9))
        return made

    shape = {"duration_sec": 1.0, "elapsed_sec": 1.1, "objective_ms": objective, "generator_busy": 0.1}
    shape |= {"ended_early": None}
    levels = [
        level(requests(30, 0.03, 0.02), mode="closed", concurrency=1, offered_rate=None, **shape),
        level(requests(30, 0.03, 0.04), mode="closed", concurrency=2, offered_rate=None, **shape),
        level(requests(40, 0.02, 0.02), mode="open", concurrency=None, offered_rate=50.0, **shape),
    ]
    saturate(levels)
    assert levels[1].saturated
    return builtins(
        LoadReport(
            url="http://127.0.0.1:1",
            seed=1,
            duration_sec=1.0,
            timeout_sec=9.0,
            latency_objective_ms=objective,
            items_per_request=sizes,
            levels=levels,
            **msgspec.structs.asdict(summary(levels)),
            scores=JudgedScores(limit=1e-4, dtype="float32", answers=2, rows=5, asked=1, max_difference=0.0),
        )
    )


# -- the kill matrix -----------------------------------------------------------------------------


def cell(gate, verdict, value):
    return Cell(gate=gate, verdict=Verdict(verdict), reason=f"{value} it is", value=value, limit=gates()[gate].limit,
                noise_floor=0.0)  # fmt: skip


def build(backend, fault, strength, cells, *, expects=True):
    label = "healthy" if fault is None else fault.name if strength is None else f"{fault.name}={strength:g}"
    made = BuildRecord(
        backend=backend, label=label, fault=None if fault is None else fault.name, strength=strength, cells=cells
    )
    made.killed_by, found = outcome(made, fault)
    made.as_expected = found if expects else None
    return made


def kill_matrix():
    """Two faults, one of them at two strengths, and one that survives on one backend."""
    leak, swap = (
        FaultRecord(name=name, number=number, about="a", seen="s", layer="engine", scope=["multi"], strengths=strengths)
        for name, number, strengths in (("leak", 2, [1.0, 0.01]), ("swap", 14, []))
    )
    fine = [cell(SAME, "PASS", 0.0), cell(EQUIV, "PASS", 1e-7), cell(SPEED, "PASS", 5.0)]
    builds = []
    for backend in ("pytorch", "jax"):
        seen = "FAIL" if backend == "jax" else "PASS"
        builds += [
            build(backend, None, None, fine),
            build(backend, leak, 0.01, [cell(SAME, "FAIL", 0.001), cell(EQUIV, "PASS", 0.002)], expects=False),
            build(backend, leak, 1.0, [cell(SAME, "FAIL", 0.4), cell(EQUIV, "FAIL", 0.5)]),
            build(backend, swap, None, [cell(SAME, "PASS", 0.0), cell(EQUIV, seen, 0.9 if seen == "FAIL" else 0.01)]),
        ]
    made = KillMatrix(
        run_id="r", started_at_utc="t", gates=[SAME, EQUIV, SPEED], faults=[leak, swap], builds=builds,
        planned={name: [b.label for b in builds if b.backend == name] for name in ("pytorch", "jax")},
    )  # fmt: skip
    made.complete = is_complete(made)
    summarise(made)
    return builtins(made)


# -- the compile gate ----------------------------------------------------------------------------

FINE = Observed(
    result={"kernels": 1, "memory": {"argument": 1, "output": 2, "temp": 3, "alias": 4, "code": 5}}, seconds=1.5
)


def refused(stage):
    failure = Failure(stage=stage, kind="MosaicError", message="no", bases=["MosaicError", "Exception"], trace="trace")
    return Observed(failure=failure, seconds=0.5)


def tpu(kernel=FINE):
    """Two cases for two chips in both tiers; ``kernel``: what is observed of the last one."""
    steps = []
    for tier in ("lower", "compile"):
        for chip in ("v6e", "v5e"):
            bad = Step(tier, chip, "bad", control="bad", must_fail=frozenset({tier}))
            steps += [(Step(tier, chip, "good", control="good"), FINE), (bad, refused(tier))]
            steps += [(Step(tier, chip, f"rows={rows}"), FINE) for rows in (8, 16)]
    steps[-1] = (steps[-1][0], kernel)
    checks = judge(steps)
    tiers = tier_verdicts(checks, ["v6e", "v5e"])
    verdict, reason = overall(tiers)
    return builtins(
        TpuReport(
            kernel="a:b",
            chips=["v6e", "v5e"],
            cases=["rows=8", "rows=16"],
            verdict=verdict,
            reason=reason,
            tiers=tiers,
            checks=checks,
            versions={"jax": "1"},
        )
    )


def gpu(kernel=None):
    """Two cases on one architecture, compiled and interpreted; ``kernel``: what is observed of the last one."""
    fits = {"shared": 8192, "shared_limit": 101376, "tensor": 0, "tensor_limit": 0, "registers": 90,
            "spill_stores": 0, "spill_loads": 0, "spill_limit": 0}  # fmt: skip
    compiled = Observed(result={"kernels": 1, "resources": fits}, seconds=0.5)
    exact = Observed(result={"kernels": 2, "numbers": {"difference": 0.25, "limit": 0.5}}, seconds=0.5)
    steps = []
    for tier, chip, fine in (("compile", "sm_120", compiled), ("interpret", "interpreter", exact)):
        bad = Step(tier, chip, "bad", control="bad", must_fail=frozenset({"trace"}))
        steps += [(Step(tier, chip, "good", control="good"), fine), (bad, refused("trace"))]
        steps += [(Step(tier, chip, f"rows={rows}"), fine) for rows in (8, 16)]
    steps[-1] = (steps[-1][0], kernel or exact)
    checks = judge(steps)
    tiers = tier_verdicts(checks, ["sm_120"])
    verdict, reason = overall(tiers)
    return builtins(
        GpuReport(
            kernel="a:b", chips=["sm_120"], cases=["rows=8", "rows=16"], verdict=verdict, reason=reason, tiers=tiers,
            checks=checks, versions={"triton": "3"},
        )
    )  # fmt: skip


# -- counterexamples -----------------------------------------------------------------------------


def counterexample():
    """An item that moves another one's score."""
    base = ScoreBody(query=(1, 2), items=((3,), (4, 5), (6,)), label_token_ids=(7, 8))
    scenario = Scenario(
        relation="mutate", exact=True, base=base, variant=(base.with_items(((9,), (4, 5), (6,))),),
        pairs=((1, 1), (2, 2)),
    )  # fmt: skip
    rows = [[0.25, 0.75], [0.5, 0.5], [0.125, 0.875]]
    other = [[0.3, 0.7], [0.5, 0.5], [0.25, 0.75]]
    return builtins(
        Counterexample(
            created_at_utc="t",
            relation="mutate",
            scenario=scenario,
            limit=0.0,
            difference=0.125,
            base_rows=rows,
            variant_rows=other,
            seed=1,
            examples=3,
            scenario_sha256=checksum(scenario),
            server=Server(url="http://127.0.0.1:1", label="multi", dtype="float32"),
        )
    )


#: By what a file is called: all but evaluations.
CONTENTS = {
    made.__name__: made
    for made in (
        run, measured_run, score_matrix, comparison, pair, sent_workload, baseline, load, kill_matrix, tpu,
        gpu,
        counterexample,
    )
}  # fmt: skip
