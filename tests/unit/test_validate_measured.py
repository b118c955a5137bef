"""What contradicts itself in an A/B pair, a kill matrix, a TPU report or a run's details is a line that says so."""

import json
import runpy
import sys
from pathlib import Path

import artefacts
import pytest
from mutations import drop
from mutations import set_to as at

from pytest_multiitem.validation.validate import examine

DOCS = Path(__file__).parents[2] / "docs"


CHANGES = {
    "pair": [
        (at("verdict", "A is faster"), "verdict is 'A is faster'; the rows give 'B is faster'"),
        (at("ratio_p50", 0.5), "ratio_p50 is 0.5; the rows give 1.2"),
        (at("ratio_interval_95", 0, 0.1), "ratio_interval_95.0 is 0.1; the rows give 1."),
        (at("agreement", "max_abs_diff", 0.3), "agreement.max_abs_diff is 0.3; the rows give 0.0"),
        (at("agreement", None), "agreement.kendall_tau is missing; the rows give "),
        (at("rows", "A", "throughput_items_sec", 400.0), "arm A: throughput_items_sec is 400.0; its runs give 399."),
        (at("rows", "B", "session", "another"), "ratio_interval_95.0 is "),
        (at("rows", "B", "run_records", 0, "ok", False), "arm B: successful_runs is 6, but run_records hold 5"),
        (at("rows", "B", "reference_scores", []), "arm B: its runs succeeded, but it has no reference_scores"),
        (drop("rows", "B"), "the arms are A, B, but there are rows of A; expected A and B"),
        (drop("arms", "B"), "the arms are A, but there are rows of A, B; expected A and B"),
    ],
    "kill_matrix": [
        (at("killed", "pytorch", [2, 14]), "killed.pytorch.1 is 14; the builds give None"),
        (at("unique", {}), "unique.delimiter_aligned_equiv_le_0p02.0 is missing; the builds give "),
        (at("sensitivity", artefacts.SAME, "leak", 0.5), ".leak is 0.5; the builds give 0.01"),
        (at("builds", 3, "killed_by", [artefacts.EQUIV]), "swap (pytorch): killed_by is ['delimiter_aligned_equiv"),
        (at("builds", 3, "as_expected", True), "swap (pytorch): as_expected is True; its cells give False"),
        (at("builds", 3, "as_expected", None), "swap (pytorch): as_expected is null, but something is expected of it"),
        (at("builds", 0, "cells", 0, "verdict", "FAIL"), "healthy (pytorch): killed_by is []; its cells give ["),
        (at("builds", 0, "cells", 0, "value", 0.5), "same_length_isolation_zero is PASS; its figures give FAIL: 0.5"),
        (at("builds", 0, "cells", 2, "value", 2.0), "speedup_n32_ge_3x is PASS, but its value 2.0 does not reach 3"),
        (at("builds", 0, "cells", 2, "limit", 1.0), "the limit of speedup_n32_ge_3x is stated as 1.0; this gate's"),
        (drop("builds", 0, "cells", 0), "healthy (pytorch): the healthy build is measured by 2 of 3 gates"),
        (drop("builds", 3), "complete is True; of 8 planned builds there are 7"),
        (at("planned", {}), "builds: 1 of swap (jax) is not planned"),
        (at("builds", 2, "strength", 0.5), "leak=1 (pytorch): it is of the fault leak at strength 0.5"),
        (at("builds", 2, "fault", "other"), "leak=1 (pytorch): its fault 'other' is none of the faults"),
        (at("missing", {"jax": "it is not installed"}), "healthy (jax): the backend is missing: it is not installed"),
    ],
    "tpu": [
        (at("checks", 2, "verdict", "FAIL"), "kernel rows=8 (lower, v6e) is FAIL; what was observed gives PASS"),
        (at("checks", 2, "kernels", 0), "kernel rows=8 (lower, v6e): its program holds 0 kernels"),
        (at("checks", 2, "kernels", None), "kernel rows=8 (lower, v6e): it is PASS, but does not say what was"),
        (at("checks", 2, "error", "no"), "kernel rows=8 (lower, v6e): it is PASS, but there is the error 'no'"),
        (at("checks", 2, "returncode", -6), "kernel rows=8 (lower, v6e): kernels and returncode exclude each other"),
        (at("checks", 1, "must_fail", []), "control bad (lower, v6e): it has to fail, in the stages []"),
        (drop("checks", 1), "lower, v6e: there is no control that has to fail"),
        (drop("checks", 2), "kernel rows=8 (lower, v6e) was not checked"),
        (at("chips", ["v6e"]), "kernel rows=8 (lower, v5e) is none of the chips and cases of this report"),
        (drop("tiers", 1), "there are verdicts of the tiers lower; the checks are of others"),
        (at("tiers", 1, "verdict", "FAIL"), "tier compile is FAIL; its checks give PASS"),
        (at("verdict", "NOT_RUN"), "verdict is NOT_RUN; the tiers give PASS"),
    ],
    "measured_run": [
        (at("gates", 0, "details", "cells", 0, "seconds", 1, [2.0] * 7), "packed: verdict is 'PASS'; its runs give"),
        (at("gates", 0, "details", "cells", 1, "ratios", 0, "ratio", 0.5), "serial: ratios.0.ratio is 0.5; its runs"),
        (at("gates", 0, "details", "cells", 0, "runs", 0, 99), "packed: runs.0 is 99; its runs give 7"),
        (at("gates", 0, "details", "conditions", ["p95 > 900%"]), "packed: its ratios are of ['p95 > 15%']"),
        (at("gates", 0, "details", "conditions", ["fast"]), "its conditions are ['fast']: expected a condition"),
        (at("gates", 0, "details", "cells", []), "its verdict is PASS; its timings give FAIL"),
        (at("gates", 1, "details", "builds", []), "its verdict is PASS, but its build is not as expected"),
        (at("gates", 1, "details", "builds", 0, "cells", []), "leak=1: killed_by is ["),
        (at("gates", 1, "details", {"kind": "notes"}), "its details do not hold what was measured (power)"),
        (at("gates", 2, "details", "tpu", "verdict", "FAIL"), "compile gate: verdict is FAIL; the tiers give PASS"),
        (at("gates", 2, "details", "tpu", "checks", 3), "its compile gate's report is none: Expected `array`"),
        (at("gates", 2, "details", "tpu", None), "there is neither a real run nor the compile gate's report"),
    ],
    "score_matrix": [
        (at("self_comparison", "ratio_p50", 2.0), "self_comparison: ratio_p50 is 2; its runs give 1"),
        (at("self_comparison", "ratio_interval_95", 1, 9.0), "self_comparison: ratio_interval_95[1] is 9; its"),
        (at("load", {"levels": 1}), "load: it is no score_load_v1 document: "),
        (at("load", artefacts.load() | {"max_goodput_items_per_sec": 9e9}), "load: max_goodput_items_per_sec is 9000"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, at) for kind, changes in CHANGES.items() for at in range(len(changes))]
)
def test_what_contradicts_itself_is_a_line(tmp_path, kind, number):
    change, line = CHANGES[kind][number]
    content, path = artefacts.CONTENTS[kind](), tmp_path / "file.json"
    path.write_text(json.dumps(content))
    assert examine(path).problems == []
    change(content)
    path.write_text(json.dumps(content))
    found = examine(path).problems
    assert any(line in problem for problem in found), found


def test_a_variation_may_be_called_rounding_and_no_other_healthy_build(tmp_path):
    content, path = artefacts.kill_matrix(), tmp_path / "file.json"
    rounding = {"gate": artefacts.SAME, "verdict": "INCONCLUSIVE", "reason": "all of it is rounding", "limit": 0.0}
    cells = [rounding, content["builds"][0]["cells"][1]]
    varied = {
        "backend": "jax",
        "label": "healthy, noise=1",
        "variation": "noise=1",
        "cells": cells,
        "as_expected": True,
    }
    content["builds"].append(varied)
    content["planned"]["jax"].append(varied["label"])
    path.write_text(json.dumps(content))
    assert examine(path).problems == []
    varied["variation"] = None
    path.write_text(json.dumps(content))
    assert "healthy, noise=1 (jax): as_expected is True; its cells give False" in examine(path).problems


def test_no_page_is_made_of_a_kill_matrix_that_contradicts_itself(tmp_path, monkeypatch):
    page, path = DOCS / "explanation" / "power.md", tmp_path / "kill_matrix.json"
    before = page.read_bytes()
    path.write_text(json.dumps(artefacts.kill_matrix() | {"expected": [99]}))
    monkeypatch.setattr(sys, "argv", ["generate.py", "--kill-matrix", str(path)])
    with pytest.raises(SystemExit, match=r"contradicts itself: expected\.0 is 99; the builds give 2"):
        runpy.run_path(str(DOCS / "generate.py"))["main"]()
    assert page.read_bytes() == before
