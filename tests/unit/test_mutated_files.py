"""Files of which one number, verdict, flag, list or key was changed: none of them PASSes without support."""

import json
import math
import os
from collections import Counter

import artefacts
import msgspec
import numpy as np
import pytest
from artefacts import builtins
from matrices import best_pair
from mutations import Mutations
from sample_matrix import SEEN
from stub_targets import leaking, packed, serial

from pytest_multiitem.baselines import judging, store
from pytest_multiitem.bench import figures
from pytest_multiitem.bench.statistics import p50, p95, ratio_interval
from pytest_multiitem.comparison.decision import speed
from pytest_multiitem.compile_gates.records import Report
from pytest_multiitem.errors import UsageError
from pytest_multiitem.evaluation import check, combine, records
from pytest_multiitem.power.records import KillMatrix
from pytest_multiitem.power.summary import verdict as power_verdict
from pytest_multiitem.results import counterexample
from pytest_multiitem.validation.schemas import KINDS
from pytest_multiitem.validation.validate import examine

MANY = int(os.environ.get("MULTIITEM_TEST_MUTATIONS", "5000"))
COUNTS = pytest.mark.parametrize("count", [120, pytest.param(MANY, marks=pytest.mark.slow)])
#: Of two files of a kind, so many of each.
HALVES = pytest.mark.parametrize("count", [60, pytest.param(MANY // 2, marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def intervals_are_worked_out_once(monkeypatch):
    """Of thousands of files, most hold the same times."""
    known = {}

    def once(a, b, **more):
        key = (tuple(a), tuple(b), *more.items())
        if key not in known:
            known[key] = ratio_interval(a, b, **more)
        return known[key]

    for module in (combine, figures, judging, speed):
        monkeypatch.setattr(module, "ratio_interval", once)


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


def believed(path, content, seed, count, *, refused):
    """Of ``count`` changed files those that are valid, each with what was changed; more than a share is ``refused``."""
    changes, valid = Mutations(content, seed), 0
    for _ in range(count):
        new, what = changes.draw()
        if is_valid(path, new):
            valid += 1
            yield new, what
    assert count - valid > refused * count


def filled(content, kind=None):
    """With the defaults of what is left out; ``kind``: the record, where the file says it."""
    return builtins(msgspec.convert(content, kind or KINDS[content["schema_version"]].record))


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


LIMITS = {"==": lambda value, limit: value == limit, "<=": lambda v, x: v <= x, ">=": lambda v, x: v >= x}


@COUNTS
def test_runs(tmp_path, count):
    content, path = artefacts.run(), tmp_path / "matrix.json"
    assert examined(path, content).problems == []
    good = {gate["gate"] for gate in content["gates"] if gate["verdict"] == "PASS"}
    for new, what in believed(path, content, 3, count, refused=1 / 3):
        counted = Counter(gate["verdict"] for gate in new["gates"])
        assert {v: n for v, n in new["summary"].items() if n} == counted, what
        for gate in new["gates"]:
            if gate["verdict"] == "PASS":
                assert gate["gate"] in good, what
                assert LIMITS[gate["relation"]](gate["value"], gate["limit"]), what
                assert all(v is None or math.isfinite(v) for v in map(gate.get, SEEN)), what


# -- matrices and comparisons ------------------------------------------------------------------


def best_is_right(content):
    """Whether the recommended row is the fastest within 1.25 times the lowest p95 of rows that never failed, and what
    is said of it is so."""
    rows = {r["client_chunk_size"]: r for r in content["results"]}
    rows |= {r["client_chunk_size"]: r for r in content.get("confirm_results") or ()}
    final = (content.get("summary") or {}).get("final_recommendation")
    if final is None:
        return True
    times = {s: [run.get("total_e2e_ms") for run in r.get("run_records") or ()] for s, r in rows.items()}
    if not all(runs and all(runs) for runs in times.values()):
        return True  # another tool's, which does not say
    size, limit = final["selected"]["client_chunk_size"], 1.25 * min(map(p95, times.values()))
    within = {s for s in times if p95(times[s]) <= limit * (1 + 1e-6)}
    if size not in within or np.mean(times[size]) > min(np.mean(times[s]) for s in within) * (1 + 1e-6):
        return False
    stated = [final.get("guardrail_p95_ms"), final["selected"].get("p95_total_e2e_ms")]
    return all(a is None or math.isclose(a, b) for a, b in zip(stated, (limit, p95(times[size])), strict=True))


@COUNTS
def test_matrices(tmp_path, count):
    content, path = artefacts.score_matrix(), tmp_path / "matrix.json"
    assert examined(path, content).problems == [] and best_is_right(content)
    changes, refused = Mutations(content, 4), 0
    for _ in range(count):
        new, what = changes.draw()
        if is_valid(path, new):
            assert best_is_right(new), what
        else:
            refused += 1
    assert refused > count / 4


def winners(content):
    recommended = (content.get("recommendation") or {}).get("winner")
    named = [recommended, *(content.get("winners_by_backend") or {}).values()]
    for view in content.get("views", ()):
        named += [view.get("winner"), *(view.get("winners_by_backend") or {}).values(), view.get("winner_by_guardrail")]
    for name in ("portable_view", "best_native_view"):  # what the public scripts read
        view = content.get(name) or {}
        named += [(each or {}).get("winner") for each in (view.get("winner"), *view.get("backend_best", {}).values())]
        named += [{"backend": b, **chosen} for b in ("jax", "pytorch") if (chosen := view.get(f"{b}_selected"))]
    return {(w["backend"], w["client_chunk_size"]) for w in named if w is not None}


@COUNTS
def test_comparisons(tmp_path, count):
    content, path = artefacts.comparison(), tmp_path / "comparison.json"
    assert examined(path, content).problems == []
    original = winners(content)
    assert original and all(size != 128 for _, size in original)
    for new, what in believed(path, content, 5, count, refused=1 / 5):
        assert winners(new) <= original, what
        for view in new.get("views", ()):
            for each in view["rows"]:
                for found in each.get("checks", ()):
                    if found["verdict"] == "PASS" and found.get("value") is not None:
                        assert found["value"] <= {True: 0.02, False: 0.01}["max_abs" in found["gate"]], what


# -- what else a run rests on ---------------------------------------------------------------------


@COUNTS
def test_runs_that_rest_on_further_measurements(tmp_path, count):
    content, path = artefacts.measured_run(), tmp_path / "matrix.json"
    assert examined(path, content).problems == []
    for new, what in believed(path, content, 6, count, refused=1 / 4):
        new = filled(new)
        for gate in new["gates"]:
            found = gate["details"]
            if gate["verdict"] != "PASS":
                continue
            if gate["gate"] == "fault_is_killed":
                first = found["builds"][0]
                assert any(each["verdict"] == "FAIL" for each in first["cells"]) and first["as_expected"], what
            elif gate["gate"] == "segment_lowers":
                assert "real run" in found["evidence"] or compiles(filled(found["tpu"], Report)), what
            elif gate["gate"] == "no_regression_vs_baseline":
                assert found["cells"], what
                for cell in found["cells"]:
                    assert cell["verdict"] == "PASS" and is_no_slower(*cell["seconds"] or [[1.0]] * 2), what


# -- A/B pairs, baselines, load ------------------------------------------------------------------


def faster(content):
    """By the runs of both arms, block by block: A, B, or neither."""
    times = [[run["total_e2e_ms"] for run in row["run_records"] if run["ok"]] for row in content["rows"].values()]
    if not all(times):
        return None
    ratio = np.median(times[0]) / np.median(times[1])
    return "B" if ratio > 1 else "A" if ratio < 1 else None


@HALVES
@pytest.mark.parametrize("twist", ["faster", "alike"])
def test_pairs(tmp_path, count, twist):
    steady = (100.0, 101.0, 99.0, 100.5, 99.5, 100.2)
    content = artefacts.pair() if twist == "faster" else artefacts.pair((steady, steady[::-1]))
    path = tmp_path / "pair.json"
    assert examined(path, content).problems == []
    for new, what in believed(path, content, 7, count, refused=1 / 3):
        new = filled(new)
        if " is faster" in new["verdict"]:
            assert twist == "faster" and new["verdict"][0] == faster(new), what
        a, b = new["rows"].values()
        if new["agreement"] is not None:
            apart = np.abs(np.array(a["reference_scores"]) - np.array(b["reference_scores"]))
            assert new["agreement"]["max_abs_diff"] == apart.max(), what
        for row in (a, b):
            times = [run["total_e2e_ms"] for run in row["run_records"] if run["ok"]]
            assert row["p50_total_e2e_ms"] is None or math.isclose(row["p50_total_e2e_ms"], p50(times)), what


def is_no_slower(old, new):
    return p95(new) <= 1.15 * p95(old)


@COUNTS
def test_baselines(tmp_path, count):
    """Every one is refused, or judges as the runs in it do: of an equal run, and of one that is slower."""
    content, path = artefacts.baseline(), tmp_path / "main.json"
    same, slower = artefacts.run_timings(1.0, 1.0), artefacts.run_timings(1.0, 1.4)
    assert examined(path, content).problems == []
    changes, refused = Mutations(content, 8), 0
    for _ in range(count):
        new, what = changes.draw()
        path.write_text(json.dumps(new))
        try:
            read = store.read(path)
        except UsageError:
            refused += 1
            assert not is_valid(path, new), what
            continue
        assert judging.judge(read, slower, artefacts.CONDITIONS).verdict == "FAIL", what
        if judging.judge(read, same, artefacts.CONDITIONS).verdict == "PASS":
            assert builtins(read.cells) == content["cells"], what
    assert refused > count / 2


def load_holds(content):
    """By the requests themselves."""
    best, goodputs, saturated = None, [], []
    for level in content["levels"]:
        good = [r for r in level["records"] if r["state"] == "successful"]
        latencies = [1000 * (r["finished_sec"] - r["due_sec"]) for r in good]
        within = sum(r["items"] for r, ms in zip(good, latencies, strict=True) if ms <= content["latency_objective_ms"])
        rate = sum(r["items"] for r in good) / level["elapsed_sec"]
        goodputs.append(within / level["elapsed_sec"])
        wrong = sum(r["failure_kind"] == "wrong_scores" for r in level["records"])
        stated = [level["items_per_sec"], level["goodput_items_per_sec"], level["mean_latency_ms"]]
        if not np.allclose(stated, [rate, goodputs[-1], np.mean(latencies)], rtol=1e-8):
            return False
        if (level["successful"], level["errors_by_kind"].get("wrong_scores", 0)) != (len(good), wrong):
            return False
        if level["mode"] == "closed":
            if best is not None and rate < 1.05 * best[0] and np.mean(latencies) > best[1]:
                saturated.append(level["concurrency"])
            best = max(best or (0, 0), (rate, np.mean(latencies)))
    stated = (content["max_goodput_items_per_sec"], content["saturation_concurrency"])
    return math.isclose(stated[0], max(goodputs)) and stated[1] == next(iter(saturated), None)


@HALVES
@pytest.mark.parametrize("wrong", [False, True], ids=["healthy", "wrong scores"])
def test_load_reports(tmp_path, count, wrong):
    content, path = artefacts.load(wrong), tmp_path / "load.json"
    assert examined(path, content).problems == [] and load_holds(content)
    changes, refused = Mutations(content, 9), 0
    for _ in range(count):
        new, what = changes.draw()
        if is_valid(path, new):
            assert load_holds(filled(new)), what
        else:
            refused += 1
    assert refused > count / 2


# -- kill matrices, compile gates ----------------------------------------------------------------


def kills_hold(content):
    """By what every gate said of every build."""
    for build in content["builds"]:
        verdicts = [cell["verdict"] for cell in build["cells"]]
        if build["fault"] is None and build["as_expected"] and not set(verdicts) <= {"PASS", "NOT_RUN"}:
            return False
        if build["fault"] is not None and build["as_expected"] and "FAIL" not in verdicts:
            return False
        if {cell["gate"] for cell in build["cells"] if cell["verdict"] == "FAIL"} != set(build["killed_by"]):
            return False
    for backend, numbers in content["killed"].items():
        for fault in content["faults"]:
            seen = [b for b in content["builds"] if (b["backend"], b["fault"]) == (backend, fault["name"])]
            if fault["number"] in numbers and not any("FAIL" in [c["verdict"] for c in b["cells"]] for b in seen):
                return False
    return True


@COUNTS
def test_kill_matrices(tmp_path, count):
    content, path = artefacts.kill_matrix(), tmp_path / "kill_matrix.json"
    assert examined(path, content).problems == [] and kills_hold(content)
    problems = power_verdict(msgspec.convert(content, KillMatrix))[1]
    assert problems == ["swap (pytorch) survives: no gate fails on it"] and content["killed"]["pytorch"] == [2]
    for new, what in believed(path, content, 10, count, refused=1 / 3):
        assert kills_hold(filled(new)), what
        assert power_verdict(msgspec.convert(new, KillMatrix))[0] == 1, what


def compiles(report):
    """By what was observed: every case compiled for every chip in both tiers, beside controls that behaved."""
    done = set()
    for one in report["checks"]:
        ran = one["kernels"] is not None and one["kernels"] > 0 and one["failure"] is None
        if ran is bool(one["must_fail"]):
            return False
        done.add((one["tier"], one["chip"], one["name"]))
    return all((t, c, n) in done for t in ("lower", "compile") for c in report["chips"] for n in report["cases"])


@HALVES
@pytest.mark.parametrize("kernel", [artefacts.FINE, artefacts.refused("compile")], ids=["compiles", "does not"])
def test_compile_gates(tmp_path, count, kernel):
    content, path = artefacts.tpu(kernel), tmp_path / "tpu.json"
    assert examined(path, content).problems == []
    assert (content["verdict"] == "PASS") is compiles(content) is (kernel is artefacts.FINE)
    for new, what in believed(path, content, 11, count, refused=1 / 3):
        assert new["verdict"] != "PASS" or compiles(filled(new)), what


# -- what is sent: counterexamples, workloads ----------------------------------------------------


@COUNTS
def test_counterexamples(tmp_path, count):
    """What is replayed are the requests that were found, held against what their relation allows."""
    content, path = artefacts.counterexample(), tmp_path / "counterexample.json"
    assert examined(path, content).problems == []
    changes, refused = Mutations(content, 12), 0
    for _ in range(count):
        new, what = changes.draw()
        path.write_text(json.dumps(new))
        try:
            found = counterexample.read(path)
        except UsageError:
            refused += 1
            assert not is_valid(path, new), what
            continue
        assert builtins(found.scenario) == content["scenario"] and found.limit == 0.0, what
        base, variant = np.array(new["base_rows"]), np.array(new["variant_rows"])
        assert found.difference == np.abs(base - variant)[1:].max() > 0, what
    assert refused > count / 2


@COUNTS
def test_workloads(tmp_path, count):
    content, path = artefacts.sent_workload(), tmp_path / "workload.json"
    assert examined(path, content).problems == []
    for new, what in believed(path, content, 13, count, refused=1 / 2):
        new = filled(new)
        assert new["requests"] == content["requests"], what
        spread = new["discrimination"].get("score_spread")
        if spread is not None and new["scores"] is not None:
            assert math.isclose(spread, np.median([np.ptp(s, axis=0).max() for s in np.array(new["scores"])])), what


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
    path, content = tmp_path / "matrix.json", artefacts.run()
    assert "PASS" in {gate["verdict"] for gate in content["gates"]}
    for gate in content["gates"]:
        if gate["gate"] == "same_length_isolation_zero":
            gate["value"] = 0.9
    assert any("0.9 exceeds the limit" in line for line in examined(path, content).problems)
    content = artefacts.run() | {"gates": [], "exit_status": 0}
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
    content = artefacts.comparison()
    found = next(
        each for view in content["views"] for r in view["rows"] for each in r["checks"] if each["value"] < 0.01
    )
    found["value"] = 0.9
    problems = examined(tmp_path / "comparison.json", content).problems
    assert any("its value is 0.9" in line for line in problems)
    assert any("is PASS; its figures give FAIL" in line for line in problems)
