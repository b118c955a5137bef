"""Records with everything that a page can show, and the pages made of them."""

import answers
import artefacts
import msgspec
import numpy as np
from artefacts import speed_point
from sample_matrix import SEEN, benchmark, gate_record, matrix, not_run

from pytest_multiitem.acceptance.derive import derive
from pytest_multiitem.models.records import ModelCell, ModelMatrix, Speed
from pytest_multiitem.reports.html.chapters import page_of
from pytest_multiitem.results import details
from pytest_multiitem.results.records import TestRecord, Verdict
from pytest_multiitem.validation.schemas import KINDS

EQUIV, CONTENT, SPEED = "delimiter_aligned_equiv_le_0p02", "content_isolation", "speedup_n32_ge_3x"
PLACES = ("pytorch-dense", "pytorch-segment", "jax-dense", "jax-segment")
TEXTS = {"3": "Wie hoch ist die Miete in Jena?", "7": "a cheap hotel beside the station"}


def record(name):
    """A sample artefact as the record that it is."""
    content = getattr(artefacts, name)()
    return msgspec.convert(content, KINDS[content["schema_version"]].record)


def scored(apart=1e-7, items=32, seed=1):
    """Scores of one request, packed and alone; item 3 differs by ``apart``, and all others by less."""
    alone = np.random.default_rng(seed).uniform(0.02, 0.98, items)
    packed = alone + apart / 10
    packed[3] = alone[3] + apart
    return details.ScoredItems(
        case="mixed lengths", items=[*range(items)], packed=packed.tolist(), serial=alone.tolist(), texts=TEXTS
    )


def equivalence(place, apart=1e-7, **more):
    each = scored(apart)
    value = max(abs(a - b) for a, b in zip(each.packed, each.serial, strict=True))
    verdict = Verdict.PASS if value <= 0.02 else Verdict.FAIL
    found = details.Equivalence(
        mean_abs_diff=value, worst=details.WorstItem(max_abs_diff=value, case=each.case, item=3),
        query_only_max_abs_diff=0.1, leak_visibility_median=0.4, scored=[each],
    )  # fmt: skip
    return gate_record(EQUIV, verdict, place, relation="<=", limit=0.02, value=value, reason="so it is", details=found,
                       **SEEN, **more)  # fmt: skip


def content(place, leak=0.0):
    """Who moves whom; item 2 moves item 3 by ``leak``."""
    moved = np.diag(np.linspace(0.1, 0.4, 7))
    moved[2, 3] = leak
    pairs = details.SeenPairs(case="mixed lengths, borders", lengths=[1, 24, 2, 33, 1, 18, 3], moved=moved.tolist())
    found = details.ContentIsolation(worst=[], allowed=0.0, mutated_item_change_max=0.4, pairs=pairs)
    return gate_record(
        CONTENT, Verdict.FAIL if leak else Verdict.PASS, place, relation="holds", limit=None, value=leak,
        reason="it leaks" if leak else "it holds", semantics="prefix_first_delim", details=found, **SEEN,
    )  # fmt: skip


def speed(place, factor=1.0):
    points = {}
    for n, ratio in ((1, 0.6), (8, 4.0), (32, 8.0), (128, 12.0)):
        slow = [0.01 * n * each for each in (1.0, 1.02, 0.98, 1.01, 0.99)]
        fast = [each / (ratio * factor) for each in (0.01 * n, 0.0101 * n, 0.0099 * n, 0.01 * n, 0.0101 * n)]
        point = speed_point(slow, fast, n)
        point.ceiling = 1 + 9 * n / (n + 20)
        point.share_of_ceiling = point.speedup_vs_serial_p50 / point.ceiling
        points[str(n)] = point
    gated = points["32"]
    return gate_record(
        SPEED, Verdict.PASS, place, relation=">=", limit=3.0, value=gated.speedup_vs_serial_p50,
        interval=gated.speedup_interval_95, reason="it reaches 3",
        details=details.Speedup(performance=points, ceiling_basis="28 layers of 1024", refused={"256": "too long"}),
    )  # fmt: skip


def full_run(leak=0.0, **more):
    """A run of four servers in which everything was measured."""
    found = []
    for at, place in enumerate(PLACES):
        found += [
            gate_record("same_length_isolation_zero", where=place, **SEEN),
            content(place, leak if at == 0 else 0.0),
            equivalence(place, 0.3 if leak and at == 0 else 1e-7 * (at + 1)),
            speed(place, 1 + at / 4),
        ]
    builds = record("kill_matrix").builds
    found += [gate_record("fault_is_killed", relation="holds", limit=None, value=None, where="pytorch-leak",
                          details=details.Power(builds=[builds[2]])), not_run()]  # fmt: skip
    found = [msgspec.structs.replace(gate, nodeid=f"{gate.nodeid} {at}") for at, gate in enumerate(found)]
    outcome = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.NOT_RUN: "skipped"}
    tests = [TestRecord(nodeid=g.nodeid, outcome=outcome[g.verdict], gate=g.gate, verdict=g.verdict) for g in found]
    failed = any(gate.verdict is Verdict.FAIL for gate in found)
    return matrix(found, **({"tests": tests, "benchmarks": [benchmark()], "exit_status": int(failed)} | more))


def models():
    speed_of = Speed(items_per_sec=90.0, num_items=32, query_tokens=60, item_tokens=20, seconds=[1.0])
    gates = [gate_record(**SEEN), gate_record(EQUIV, Verdict.FAIL, reason="0.3 exceeds the limit 0.02")]
    cells = [
        ModelCell(model=name, source=f"models/{name}", engine="embedded", backend="jax", mask="dense", state=state,
                  gates=gates, speed=speed_of)
        for name, state in (("tiny", "fail"), ("small", "pass"))
    ]  # fmt: skip
    return ModelMatrix(
        run_id="1", started_at_utc="2026-01-01T00:00:00+00:00", complete=True, cells=cells,
        gates=[gate.gate for gate in gates], planned=["tiny jax dense", "small jax dense"],
    )  # fmt: skip


def history():
    """Three runs, of which the newest leaks."""
    return [
        full_run(leak, run_id=f"2026010{day}-000000-1", started_at_utc=f"2026-01-0{day}T00:00:00+00:00")
        for day, leak in ((3, 0.3), (1, 0.0), (2, 0.0))
    ]


def comparison_with_matrices():
    from matrices import best_pair

    from pytest_multiitem.comparison.decision.compare import compare

    pair = best_pair()
    return compare([(None, side) for side in pair]), [*pair]


def acceptance(**verdicts):
    """An answer and its run; ``verdicts``: gates that are no PASS."""
    run = answers.run(**verdicts)
    return derive(run, answers.given()), run


def every_page():
    """By name, one page of each kind."""
    compared, sides = comparison_with_matrices()
    several = ("measured_run", "score_matrix", "comparison", "pair", "load", "kill_matrix")
    pages = {name: page_of([record(name)]) for name in several}
    answer, run = acceptance()
    return pages | {
        "acceptance": page_of([answer], {0: [run]}),
        "run": page_of([full_run()]),
        "leaking run": page_of([full_run(leak=0.3)]),
        "run with comparison": page_of([full_run()], {0: [compared, *sides]}),
        "final report": page_of([compared], {0: sides}),
        "models": page_of([models()]),
        "history": page_of(history()),
        "everything": page_of([full_run(), models(), *map(record, several)]),
    }
