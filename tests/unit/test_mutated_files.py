"""Files of which one number, verdict, flag, list or key was changed: none of them PASSes without support."""

import json
import math
from collections import Counter

import msgspec
import numpy as np
import pytest
from matrices import best_pair, row
from matrices import matrix as side
from mutations import Mutations
from sample_matrix import SEEN, benchmark, gate_record, matrix, not_run
from stub_targets import leaking, packed, serial

from pytest_multiitem.bench import figures
from pytest_multiitem.bench.statistics import p50, p95, ratio_interval
from pytest_multiitem.comparison.decision.compare import compare
from pytest_multiitem.errors import UsageError
from pytest_multiitem.evaluation import check, combine, records
from pytest_multiitem.results import details
from pytest_multiitem.results import records as run_records
from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.validation.validate import examine

COUNTS = pytest.mark.parametrize("count", [120, pytest.param(5000, marks=pytest.mark.slow)])
#: Of two files of a kind, so many of each.
HALVES = pytest.mark.parametrize("count", [60, pytest.param(2500, marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def intervals_are_worked_out_once(monkeypatch):
    """Of thousands of files, most hold the same times."""
    known = {}

    def once(a, b, **more):
        key = (tuple(a), tuple(b), *more.items())
        if key not in known:
            known[key] = ratio_interval(a, b, **more)
        return known[key]

    for module in (combine, figures):
        monkeypatch.setattr(module, "ratio_interval", once)


def builtins(record):
    return json.loads(msgspec.json.encode(record))


def examined(path, content):
    """The examination of a file; None where it is refused."""
    path.write_text(json.dumps(content))
    try:
        return examine(path)
    except UsageError:
        return None


def is_valid(path, content):
    found = examined(path, content)
    return found is not None and not found.problems


def largest(values):
    return max((v if math.isfinite(v) else math.inf for v in map(abs, np.ravel(values).astype(float))), default=0.0)


# -- evaluations, and combined ones ----------------------------------------------------------------


def isolation_holds(content, kind):
    """By the scores themselves: no untouched item moves."""
    multi = content["sources"]["multi"]
    for case in (multi, *multi.get("further_cases", ())):
        isolation = case["isolation"]
        base = np.array(isolation["base_scores"])
        for mutation in isolation["mutations"]:
            if (mutation.get("mutation") == "same_length") is (kind == "same"):
                others = np.delete(np.array(mutation["scores"]) - base, mutation["mutated_index"], axis=0)
                if largest(others) > 0:
                    return False
    stated = content["isolation"]
    lists = stated.get(f"{kind}_length_mutation_unchanged_diffs", [0.0])
    return largest([stated[f"{kind}_length_mutation_max_abs_diff"], *lists]) == 0


def equals(content):
    sources, stated = content["sources"], content["equivalence_query_plus_delimiter"]
    ours = np.array(sources["multi"]["isolation"]["base_scores"])
    theirs = np.array(sources["serial"]["semantic_alignment"]["base_scores_query_plus_delimiter"])
    return max(largest(ours - theirs), largest([stated["max_abs_diff"], *stated.get("abs_diffs", ())])) <= 0.02


def is_fast(content):
    point = content["performance"]["32"]
    sides = [[content["sources"][name]["performance"]["32"]["latencies_sec"] for name in ("serial", "multi")]]
    sides.append([point[f"{name}_latencies_sec"] for name in ("serial", "multi")])
    ratios = [np.median(slow) / np.median(fast) for slow, fast in sides]
    return all(math.isfinite(r) and r >= 3 for r in (*ratios, point["speedup_vs_serial_p50"]))


def is_parity(content):
    ours = np.array(content["sources"]["serial"]["isolation"]["base_scores"])
    theirs = np.array(content["torch_reference"]["serial_scores"][0])
    stated = content["max_abs_diff_jax_serial_vs_torch_serial"]
    return max(largest(ours - theirs), largest([stated])) <= 0.02


#: By gate: whether the samples in a file of combined results support a PASS, worked out here.
SUPPORTED = dict(
    zip(
        [gate.name for gate in check.RELEASE_GATES],
        [lambda c: isolation_holds(c, "same"), lambda c: isolation_holds(c, "changed"), equals, is_fast, is_parity],
        strict=True,
    )
)


def passes(path, content):
    """The release gates that pass; none where the file is refused."""
    path.write_text(json.dumps(content))
    try:
        return {record.gate for record in check.judge(records.read_combined([path])) if record.verdict == "PASS"}
    except UsageError:
        return set()


@HALVES
@pytest.mark.parametrize("scores", [packed, leaking(lambda i, j, n: j == i - 1)], ids=["healthy", "leaking"])
def test_combined_results(joined, tmp_path, scores, count):
    path = joined(scores)
    content = json.loads(path.read_text())
    original, changed = passes(path, content), tmp_path / "changed.json"
    assert is_valid(path, content) and (original == set(SUPPORTED)) is (scores is packed)
    changes, refused = Mutations(content, 1), 0
    for _ in range(count):
        new, what = changes.draw()
        found = passes(changed, new)
        refused += found != original
        assert found <= original, what
        for gate in found:
            assert SUPPORTED[gate](new), (what, gate)
    assert refused > count / 3


def evaluation_holds(content):
    """By its scores and times."""
    for count, timing in content["performance"].items():
        seconds = timing["latencies_sec"]
        wanted = {"p50_sec": p50(seconds), "p95_sec": p95(seconds), "items_per_sec_p50": int(count) / p50(seconds)}
        if not all(math.isclose(timing[name], value, rel_tol=1e-8) for name, value in wanted.items()):
            return False
    base = np.array(content["isolation"]["base_scores"])
    for mutation in content["isolation"].get("mutations") or ():
        others = np.abs(np.delete(np.array(mutation["scores"]) - base, mutation["mutated_index"], axis=0)).max(axis=1)
        if not math.isclose(mutation["max_abs_diff_unchanged"], others.max(), abs_tol=1e-12):
            return False
    return True


@HALVES
@pytest.mark.parametrize("mode", ["multi", "serial"])
def test_evaluations(evaluated, tmp_path, mode, count):
    _, path, content, _ = evaluated(mode, packed if mode == "multi" else serial)
    assert is_valid(path, content) and evaluation_holds(content)
    changes, refused = Mutations(content, 2), 0
    for _ in range(count):
        new, what = changes.draw()
        valid = is_valid(tmp_path / "changed.json", new)
        refused += not valid
        assert not valid or new["isolation"].get("base_scores") is None or evaluation_holds(new), what
    assert refused > count / 4


# -- runs --------------------------------------------------------------------------------------


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


def run_content():
    point = speed_point([0.32, 0.33, 0.31, 0.32, 0.32], [0.05, 0.051, 0.05, 0.049, 0.05])
    gates = [
        gate_record(**SEEN),
        gate_record("changed_length_isolation_zero", **SEEN),
        gate_record("delimiter_aligned_equiv_le_0p02", Verdict.FAIL, "pytorch-segment", relation="<=", limit=0.02,
                    value=0.3, reason="0.3 exceeds the limit 0.02", **SEEN),
        gate_record("metamorphic_relations_hold", Verdict.FAIL, "jax-dense", relation="holds", limit=None,
                    reason="mutate: a leak", **SEEN),
        gate_record("speedup_n32_ge_3x", relation=">=", limit=3.0, value=point.speedup_vs_serial_p50,
                    interval=point.speedup_interval_95, reason="6.4 reaches 3",
                    details=details.Speedup(performance={"32": point})),
        not_run(),
    ]  # fmt: skip
    gates = [msgspec.structs.replace(gate, nodeid=f"{gate.nodeid} {at}") for at, gate in enumerate(gates)]
    outcome = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.NOT_RUN: "skipped"}
    tests = [
        run_records.TestRecord(nodeid=each.nodeid, outcome=outcome[each.verdict], gate=each.gate, verdict=each.verdict)
        for each in gates
    ]
    return builtins(matrix(gates, tests=tests, exit_status=1, benchmarks=[benchmark()]))


LIMITS = {"==": lambda value, limit: value == limit, "<=": lambda v, x: v <= x, ">=": lambda v, x: v >= x}


@COUNTS
def test_runs(tmp_path, count):
    content, path = run_content(), tmp_path / "matrix.json"
    assert examined(path, content).problems == []
    changes, refused = Mutations(content, 3), 0
    good = {gate["gate"] for gate in content["gates"] if gate["verdict"] == "PASS"}
    for _ in range(count):
        new, what = changes.draw()
        if not is_valid(path, new):
            refused += 1
            continue
        counted = Counter(gate["verdict"] for gate in new["gates"])
        assert {v: n for v, n in new["summary"].items() if n} == counted, what
        for gate in new["gates"]:
            if gate["verdict"] == "PASS":
                assert gate["gate"] in good, what
                assert LIMITS[gate["relation"]](gate["value"], gate["limit"]), what
                assert all(v is None or math.isfinite(v) for v in map(gate.get, SEEN)), what
    assert refused > count / 3


# -- matrices and comparisons ------------------------------------------------------------------


def best_is_right(content):
    """Whether the recommended row is the fastest within 1.25 times the lowest p95 of rows that never failed."""
    rows = {r["client_chunk_size"]: r for r in content["results"]}
    rows |= {r["client_chunk_size"]: r for r in content.get("confirm_results") or ()}
    size = (content.get("summary") or {}).get("final_recommendation")
    if size is None:
        return True
    times = {s: [run.get("total_e2e_ms") for run in r.get("run_records") or ()] for s, r in rows.items()}
    if not all(runs and all(runs) for runs in times.values()):
        return True  # another tool's, which does not say
    return p95(times[size]) <= 1.25 * min(map(p95, times.values())) * (1 + 1e-6)


def matrix_content():
    rows = [row(8, (150.0, 151.0, 149.0, 150.0, 152.0)), row(64), row(128, (101.0, 103.0, 99.0, 100.5, 99.5))]
    summary = {
        "guardrail_ratio": 1.25, "sweep_recommendation": 64, "confirm_chunk_sizes": [64, 128],
        "confirm_recommendation": 64, "final_recommendation": 64,
    }  # fmt: skip
    content = builtins(side(rows=rows, confirm_results=[row(64), row(128, (120.0, 121.0, 119.0, 120.0, 122.0))]))
    return content | {"summary": summary, "workload_ref": {"path": "canonical_workload.json"}}


@COUNTS
def test_matrices(tmp_path, count):
    content, path = matrix_content(), tmp_path / "matrix.json"
    assert examined(path, content).problems == [] and best_is_right(content)
    changes, refused = Mutations(content, 4), 0
    for _ in range(count):
        new, what = changes.draw()
        if is_valid(path, new):
            assert best_is_right(new), what
        else:
            refused += 1
    assert refused > count / 4


def comparison_content():
    wrong = row(128, (100.0,) * 6, scores=np.roll(np.array(row().reference_scores), 1, axis=0).tolist())
    ours, theirs = best_pair()
    ours = msgspec.structs.replace(ours, results=[*ours.results, wrong])
    theirs = msgspec.structs.replace(theirs, results=[*theirs.results, row(128, (100.0,) * 6)])
    return builtins(compare([(None, ours), (None, theirs)]))


def winners(content):
    recommended = (content.get("recommendation") or {}).get("winner")
    named = [recommended, *(content.get("winners_by_backend") or {}).values()]
    for view in content.get("views", ()):
        named += [view.get("winner"), *(view.get("winners_by_backend") or {}).values()]
    return {(w["backend"], w["client_chunk_size"]) for w in named if w is not None}


@COUNTS
def test_comparisons(tmp_path, count):
    content, path = comparison_content(), tmp_path / "comparison.json"
    assert examined(path, content).problems == []
    original = winners(content)
    assert original and all(size != 128 for _, size in original)
    changes, refused = Mutations(content, 5), 0
    for _ in range(count):
        new, what = changes.draw()
        if not is_valid(path, new):
            refused += 1
            continue
        assert winners(new) <= original, what
        for view in new.get("views", ()):
            for each in view["rows"]:
                for found in each.get("checks", ()):
                    if found["verdict"] == "PASS" and found.get("value") is not None:
                        assert found["value"] <= {True: 0.02, False: 0.01}["max_abs" in found["gate"]], what
    assert refused > count / 5


# -- files that contradict themselves, and passed once -----------------------------------------


@pytest.mark.parametrize(
    ("at", "value", "gate"),
    [
        ("performance/32/serial_latencies_sec", [0.001] * 5, "speedup_n32_ge_3x"),  # a speed-up of 64 beside 0.1
        ("performance/32/multi_latencies_sec", [math.nan] * 5, "speedup_n32_ge_3x"),
        ("performance/32/speedup_interval_95", [70.0, 90.0], "speedup_n32_ge_3x"),  # it excludes its value
        ("isolation/same_length_mutation_unchanged_diffs", [1.0, 1.0], "same_length_isolation_zero"),  # a hidden leak
        ("evidence/same_length_isolation_zero/leak_visibility", math.inf, "same_length_isolation_zero"),
    ],
)
@pytest.mark.parametrize("alone", [False, True], ids=["with its evaluations", "without"])
def test_combined_results_that_passed(joined, at, value, gate, alone):
    path = joined()
    content = json.loads(path.read_text())
    holder, *further = content, *at.split("/")
    for key in further[:-1]:
        holder = holder[key]
    holder[further[-1]] = value
    if alone:
        del content["sources"]
    path.write_text(json.dumps(content))
    verdicts = {record.gate: record.verdict for record in check.judge(records.read_combined([path]))}
    assert verdicts[gate] == "FAIL" and not is_valid(path, content)


def test_a_run_that_passed_over_its_limit_and_one_without_gates(tmp_path):
    path, content = tmp_path / "matrix.json", run_content()
    assert "PASS" in {gate["verdict"] for gate in content["gates"]}
    for gate in content["gates"]:
        if gate["gate"] == "same_length_isolation_zero":
            gate["value"] = 0.9
    assert any("0.9 exceeds the limit" in line for line in examined(path, content).problems)
    content = run_content() | {"gates": [], "exit_status": 0}
    problems = examined(path, content).problems
    assert any("of which there is no record" in line for line in problems)
    assert any(line.startswith("summary is") for line in problems)


def test_matrices_that_passed(tmp_path, multiitem, monkeypatch):
    """An inflated row, sweep scores that are off, a side whose own reference is missing."""
    monkeypatch.chdir(tmp_path)
    paths = []
    for number, each in enumerate(best_pair()):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(builtins(each)))
    assert multiitem("compare", "files", *paths, "--output-dir", "good")[0] == 0
    good = json.loads(paths[0].read_text())

    def compared(name, change):
        content = json.loads(json.dumps(good))
        change(content)
        paths[0].write_text(json.dumps(content))
        return multiitem("compare", "files", *paths, "--output-dir", name)

    code, out, err = compared("inflated", lambda c: c["results"][0].update(throughput_items_sec=9e5))
    assert (code, out) == (2, "") and "0.json contradicts itself" in err and "throughput_items_sec" in err
    off = [[first - 0.3, second + 0.3] for first, second in good["results"][1]["reference_scores"]]
    code, out, _ = compared("sweep", lambda c: c["results"][1].update(reference_scores=off))
    assert (code == 1 and "its own reference" in out) or "FAIL" in out
    code, out, _ = compared("missing", lambda c: c.update(own_reference=None))
    assert code == 1 and "own serial reference was not measured" in out


def test_a_comparison_whose_values_stand_beside_other_verdicts(tmp_path):
    content = comparison_content()
    found = next(
        each for view in content["views"] for r in view["rows"] for each in r["checks"] if each["value"] < 0.01
    )
    found["value"] = 0.9
    problems = examined(tmp_path / "comparison.json", content).problems
    assert any("its value is 0.9" in line for line in problems)
    assert any("is PASS; its figures give FAIL" in line for line in problems)
