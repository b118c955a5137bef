"""Files of the public scripts: read, recomputed, decided by their rule; and ours, read as those scripts read them."""

import hashlib
import json
import re

import artefacts
import msgspec
import public_files
import pytest
from artefacts import builtins
from matrices import around, best_pair, row, spread_scores, unlabelled
from matrices import matrix as side
from mutations import Mutations, drop, set_to
from sample_matrix import gate_record, not_run

from pytest_multiitem.comparison import files
from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.compare import compare
from pytest_multiitem.comparison.gate_verdicts import limitations
from pytest_multiitem.comparison.records import Comparison, ScoreMatrix, Thresholds
from pytest_multiitem.comparison.workload import generate
from pytest_multiitem.errors import UsageError
from pytest_multiitem.reports.comparison import comparison_lines, comparison_markdown, final_report
from pytest_multiitem.reports.score_matrix import score_matrix_markdown
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.validation.validate import examine

TORCH = public_files.scores()
SERIAL, PARITY = public_files.combined(public_files.scores(0.003), public_files.scores(0.004), TORCH)
THEIRS = {
    "workload": public_files.workload,
    "matrix": lambda: public_files.matrix("jax", "portable", 100.0),
    "comparison": lambda: public_files.comparison(public_files.matrices()),
    "multi_vs_serial": lambda: json.loads(json.dumps(SERIAL)),
    "parity": lambda: json.loads(json.dumps(PARITY)),
}


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def examined(tmp_path, content):
    return examine(written(tmp_path / "file.json", content))


# -- theirs, read --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", THEIRS)
def test_a_file_of_the_public_scripts_is_valid_and_known_as_theirs(tmp_path, kind, multiitem):
    content = THEIRS[kind]()
    found = examined(tmp_path, content)
    assert (found.problems, found.is_foreign) == ([], True)
    code, out, err = multiitem("validate", tmp_path / "file.json")
    assert (code, err, out.count("\n")) == (0, "", 1) and ", written by another tool, " in out


TAIL = ("best_native_view",)
CONTRADICTIONS = {
    "throughput by the median": (
        "matrix", lambda c: c["results"][0].update(throughput_items_sec=1000 * 6 / 299.9), "throughput_items_sec is"
    ),
    "another p95": ("matrix", set_to("results", 1, "p95_total_e2e_ms", 141.5), "p95_total_e2e_ms is 141.5"),
    "a run that failed": ("matrix", set_to("results", 1, "run_records", 2, "ok", False), "successful_runs is 5"),
    "a call too many": (
        "matrix", lambda c: c["results"][2]["run_records"][0]["call_latencies_ms"].append(1.0), "call_latencies_ms"
    ),
    "another penalty": ("matrix", set_to("results", 1, "first_run_penalty_ratio", 1.2), "first_run_penalty_ratio is"),
    "a slow row is selected": (
        "matrix", set_to("summary", "sweep_recommendation", "selected", "client_chunk_size", 3), "whose p95 of"
    ),
    "selected by another figure": (
        "matrix", set_to("summary", "final_recommendation", "selected", "p95_total_e2e_ms", 1.0), "e2e_ms is 1"
    ),
    "nothing is selected": (
        "matrix", set_to("summary", "final_recommendation", "selected", None), "final_recommendation is none"
    ),
    "one more may win": ("matrix", set_to("summary", "sweep_recommendation", "eligible_count", 9), "count is 9"),
    "another guardrail": ("matrix", set_to("summary", "guardrail_ratio", 2.0), "guardrail_ratio is 1.25"),
    "portable: another winner": (
        "comparison", set_to("portable_view", "winner", "winner", "client_chunk_size", 3), "winner is jax at 3"
    ),
    "portable: no winner": ("comparison", set_to("portable_view", "winner", "winner", None), "winner is none; the"),
    "portable: a row is faster": (
        "comparison", set_to("portable_view", "rows", 2, "pytorch", "throughput_items_sec", 900.0), "give pytorch at 6"
    ),
    "portable: scores are apart": (
        "comparison", set_to("portable_view", "rows", 2, "correctness", "max_abs_diff", 0.3), "pass is True; its"
    ),
    "portable: a pass is denied": (
        "comparison", set_to("portable_view", "rows", 2, "correctness", "pass", False), "pass is False; its"
    ),
    "other thresholds": ("comparison", set_to("correctness", "thresholds", "max_abs_diff", -1.0), "pass is True; its"),
    "no thresholds": ("comparison", drop("correctness"), "correctness.thresholds: there are none"),
    "native: another winner": (
        "comparison", set_to(*TAIL, "winner", "winner", "backend", "jax"), "best_native_view: winner is jax at 6; the"
    ),
    "native: other scores": (
        "comparison", set_to(*TAIL, "jax_selected", "reference_scores", 0, [0.9, 0.1]), "correctness.max_abs_diff is 0"
    ),
    "native: a run in its row": (
        "comparison", set_to(*TAIL, "jax_selected", "run_records", 0, "total_e2e_ms", 900.0), "jax_selected: "
    ),
    "native: its throughput": (
        "comparison", set_to(*TAIL, "winner", "winner", "throughput_items_sec", 1.0), "throughput_items_sec is 1"
    ),
    "another overall": (
        "comparison", set_to("recommendations", "overall", "Overall: use best-native winner (jax at chunk 6)."),
        "recommendations.overall does not name pytorch at 6",
    ),
    "the other side's portable": (
        "comparison", set_to("recommendations", "portable", "pytorch wins at chunk 6"), "does not name jax at 6"
    ),
    "nothing to look at": (
        "comparison", lambda c: [c.pop(name) for name in ("portable_view", "best_native_view")], "it holds no view"
    ),
    "an item's difference": (
        "multi_vs_serial", set_to("equivalence", "abs_diffs_multi_vs_serial", 1, 0.5), "abs_diffs_multi_vs_serial[1] is"
    ),
    "the largest difference": ("multi_vs_serial", set_to("equivalence", "max_abs_diff", 0.0), "max_abs_diff is 0"),
    "the aligned difference": (
        "multi_vs_serial", set_to("equivalence_query_plus_delimiter", "max_abs_diff", 0.0), "max_abs_diff is 0"
    ),
    "a leak": (
        "multi_vs_serial", set_to("isolation", "same_length_mutation_max_abs_diff", 0.3), "max_abs_diff is 0.3"
    ),
    "the speed-up": ("multi_vs_serial", set_to("performance", "32", "speedup_vs_serial_p50", 9.0), "speedup_vs_serial"),
    "a parity figure": ("parity", set_to("max_abs_diff_jax_serial_vs_torch_serial", 0.0), "torch_serial is 0"),
    "a parity list": ("parity", set_to("abs_diff_jax_multi_vs_torch_serial", 2, 0.0), "torch_serial[2] is 0"),
    "a request": ("workload", set_to("requests", 0, "query_token_ids", 0, 99), "checksum"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_is_found(tmp_path, name):
    kind, change, words = CONTRADICTIONS[name]
    content = THEIRS[kind]()
    change(content)
    problems = examined(tmp_path, content).problems
    assert any(words in line for line in problems), problems


def test_the_sha256_of_a_workload_is_that_of_its_file(tmp_path):
    path = written(tmp_path / "canonical_workload.json", public_files.workload())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert examined(tmp_path, public_files.matrix("jax", "portable", 100.0, workload=digest)).problems == []
    path.write_text(path.read_text() + "\n")
    (line,) = examined(tmp_path, public_files.matrix("jax", "portable", 100.0, workload=digest)).problems
    assert line.startswith(f"workload_ref: sha256 is {digest}, but canonical_workload.json has ")


def test_another_form_is_one_line_instead_of_one_a_field(tmp_path):
    content = public_files.matrix("jax", "portable", 100.0)
    for each in content["results"]:
        for run in each["run_records"]:
            run["status"] = "ok" if run.pop("ok") else "failed"
    (line,) = examined(tmp_path, content).problems
    assert "written by another tool, in another form than score_matrix_v1" in line and "(and 14 more)" in line
    content["package_version"] = "0.1.0"
    assert len(examined(tmp_path, content).problems) == 15


def test_what_could_not_be_computed_again_is_said(tmp_path):
    content = public_files.matrix("jax", "portable", 100.0)
    assert "not computed again" not in examined(tmp_path, content).summary
    for each in content["results"] + content["confirm_results"]:
        del each["run_records"]
    found = examined(tmp_path, content)
    assert found.problems == [] and found.summary.endswith("no records of runs: its figures were not computed again")


@pytest.mark.parametrize("content", [{}, {"mode": "multi"}, {"scores": [[0.5, 0.5]]}])
def test_what_is_of_no_known_kind_is_not_valid(tmp_path, content):
    with pytest.raises(UsageError, match="has no schema_version"):
        examined(tmp_path, content)


def decided(files):
    matrices = [msgspec.convert(content, ScoreMatrix) for content in files.values()]
    return compare(unlabelled(matrices))


@pytest.mark.parametrize("shift", [0.0, 0.005])
def test_their_winner_is_named_and_marked(shift):
    files = public_files.matrices(shift)
    theirs, found = public_files.comparison(files), decided(files)
    assert theirs["portable_view"]["winner"]["winner"]["backend"] == "jax"  # by the sweep
    assert theirs["best_native_view"]["winner"]["winner"]["backend"] == "pytorch"
    for view in found.views:
        want = theirs[f"{view.view}_view"]["winner"]["winner"]
        won = view.winner_by_guardrail
        assert (won.backend, won.client_chunk_size) == (want["backend"], want["client_chunk_size"])
        assert won.throughput_items_sec == want["throughput_items_sec"] and won.p95_ms == want["p95_total_e2e_ms"]
        assert view.winner is None and {c.verdict for r in view.rows for c in r.checks} == {"INCONCLUSIVE"}
        assert "noise floor not measured" in view.deferred
    assert found.recommendation.confidence == "none" and found.recommendation.winner is None
    for text in (comparison_markdown(found), final_report(found, []), "\n".join(comparison_lines(found))):
        assert "By the guardrail rule alone" in text and "not shown to be right" in text
    again = builtins(found)
    assert again["portable_view"]["winner"] == theirs["portable_view"]["winner"]
    assert again["best_native_view"]["winner"] == theirs["best_native_view"]["winner"]


def test_scores_that_are_apart_let_nothing_win_on_either_side():
    files = public_files.matrices(0.3)
    theirs, found = public_files.comparison(files), decided(files)
    assert theirs["portable_view"]["winner"]["winner"] is theirs["best_native_view"]["winner"]["winner"] is None
    assert all(view.winner is view.winner_by_guardrail is None for view in found.views)
    assert "By the guardrail rule alone" not in found.summary


def test_their_matrices_are_compared_by_the_command(tmp_path, multiitem, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [written(tmp_path / name, content) for name, content in public_files.matrices(0.008).items()]
    code, out, err = multiitem("compare", "files", *paths)
    assert (code, err) == (1, "") and "By the guardrail rule alone it would be PyTorch" in out
    strict = ("--correctness-threshold-max-abs", "0.005", "--title-date", "2026-02-11", "--output-dir", "strict")
    code, out, err = multiitem("compare", "files", *paths, *strict)
    assert code == 1 and "0.008 exceeds the limit 0.005" in out and "By the guardrail rule alone" not in out
    report = (tmp_path / "strict" / "final_report.md").read_text()
    assert report.startswith("# Multi-item scoring: final report (2026-02-11)\n")
    assert "scores were judged by limits of one's own, 0.005 for the largest difference" in report
    assert json.loads((tmp_path / "strict" / "comparison.json").read_text())["correctness"] == {
        "thresholds": {"max_abs_diff": 0.005, "mean_abs_diff": 0.01}
    }
    for name in ("comparison.json", "strict/comparison.json"):
        assert multiitem("validate", name)[0] == 0
    content = json.loads(paths[0].read_text())
    content["results"][0]["throughput_items_sec"] *= 2
    code, out, err = multiitem("compare", "files", written(paths[0], content), *paths[1:], "--output-dir", "changed")
    assert (code, out) == (2, "") and "contradicts itself: results, chunk size 1: throughput_items_sec" in err


def test_a_runs_segment_gates_stand_in_the_report(tmp_path, multiitem, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [written(tmp_path / name, content) for name, content in public_files.matrices().items()]
    reason = "no accelerator: the server runs on cpu"
    run = written(tmp_path / "matrix.json", artefacts.run_of([not_run("segment_lowers", reason)]))
    assert multiitem("compare", "files", *paths, "--run", run)[0] == 1
    assert f"NOT_RUN segment_lowers: {reason}" in (tmp_path / "final_report.md").read_text()
    assert json.loads((tmp_path / "comparison.json").read_text())["limitations"][0]["verdict"] == "NOT_RUN"
    code, _, err = multiitem("compare", "files", *paths, "--run", paths[0], "--force")
    assert code == 2 and "score_matrix_v1" in err


# -- ours, as they read it -----------------------------------------------------------------------


def ours(a=100.0, b=80.0, native=(95.0, 80.0)):
    """Four measured matrices, by what their files are called."""
    made = {}
    for view, paces in (("portable", (a, b)), ("best_native", native)):
        for each in best_pair(*paces, view=view):
            each.summary = guardrail.summary_of(each)
            made[files.matrix_name(each.backend, view)] = each
    return made


@pytest.mark.parametrize(
    "paces", [(100.0, 80.0, (95.0, 80.0)), (80.0, 100.0, (70.0, 90.0)), (70.0, 90.0, (95.0, 80.0))]
)
def test_the_public_rule_names_our_winner_on_our_files(paces):
    matrices = ours(*paces)
    theirs = public_files.comparison({name: builtins(each) for name, each in matrices.items()})
    found = compare(unlabelled(matrices.values()))
    for view in found.views:
        want = theirs[f"{view.view}_view"]["winner"]["winner"]
        assert (view.winner.backend, view.winner.client_chunk_size) == (want["backend"], want["client_chunk_size"])
    assert found.recommendation.winner.backend in theirs["recommendations"]["overall"]
    content = builtins(found)
    for name in ("portable_view", "best_native_view"):  # what their report is rendered from
        assert content[name]["winner"]["winner"]["backend"] == theirs[name]["winner"]["winner"]["backend"]
        assert content[name]["guardrail_ratio"] == 1.25
    assert [sorted(r) for r in content["portable_view"]["rows"]] == [sorted(r) for r in theirs["portable_view"]["rows"]]
    for mine, other in zip(content["portable_view"]["rows"], theirs["portable_view"]["rows"], strict=True):
        assert mine["correctness"]["pass"] is other["correctness"]["pass"] is True
        assert sorted(mine["correctness"]) == sorted(other["correctness"])
    native = content["best_native_view"]
    assert native["jax_selected"]["client_chunk_size"] == 64 and native["jax_selected"]["success_rate"] == 1.0
    assert native["correctness"]["num_compared"] == 80
    assert set(content["recommendations"]) == {"portable", "best_native", "overall"}
    assert content["inputs"] == dict.fromkeys(
        ["jax_portable_json", "pytorch_portable_json", "jax_best_native_json", "pytorch_best_native_json"]
    )


def test_ours_have_every_public_field():
    theirs, mine = public_files.matrix("jax", "portable", 100.0), builtins(ours()["jax_portable_matrix.json"])
    assert theirs.keys() <= mine.keys() and theirs["summary"].keys() <= mine["summary"].keys()
    assert theirs["results"][0].keys() <= mine["results"][0].keys()
    assert theirs["results"][0]["run_records"][0].keys() <= mine["results"][0]["run_records"][0].keys()
    assert theirs["summary"]["final_recommendation"].keys() == mine["summary"]["final_recommendation"].keys()
    assert theirs["workload_ref"].keys() <= mine["workload_ref"].keys()
    made, wanted = builtins(generate(query_tokens=4, num_items=3, item_tokens=2)), public_files.workload()
    assert wanted.keys() - made.keys() == {"safe_token_pool"}
    assert list(made["checksums"]) == [f"{made['requests'][0]['request_id']}_sha256"]


def test_a_partial_comparison_names_no_winner_in_the_public_form():
    content = builtins(compare(unlabelled([ours()["jax_portable_matrix.json"]]), blocker="no quota"))
    view = content["portable_view"]
    assert view["rows"] == [] and view["winner"]["winner"] is None and content["best_native_view"] is None
    assert (
        "deferred" not in content["recommendations"]["overall"]
        and "no winner" in content["recommendations"]["portable"]
    )


def test_other_backends_have_no_public_form():
    pair = [msgspec.structs.replace(each, backend=f"other {at}") for at, each in enumerate(best_pair())]
    found = compare(unlabelled(pair))
    assert found.views[0].winner is not None and found.best_native_view is None and found.recommendations == {}


# -- what a public field says, and is not so -----------------------------------------------------


def named(content):
    """What the public fields name: by view and place, the winner with its figures; by view and row, the pass."""
    won, passes = {}, {}
    for name in ("portable_view", "best_native_view"):
        view = content.get(name) or {}
        for at, chosen in {"": view.get("winner"), **(view.get("backend_best") or {})}.items():
            won[name, at] = (chosen or {}).get("winner")
        for at, each in enumerate(view.get("rows") or ()):
            passes[name, at] = each["correctness"]["pass"]
    return won, passes


def believed(tmp_path, content, seed, count):
    changes, refused = Mutations(content, seed), 0
    for _ in range(count):
        new, what = changes.draw()
        try:
            valid = not examined(tmp_path, new).problems
        except UsageError:
            valid = False
        refused += not valid
        if valid:
            yield new, what
    assert refused > count / 5


@pytest.mark.parametrize("count", [120, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_changed_comparisons_name_no_other_winner(tmp_path, whose, count):
    content = THEIRS["comparison"]() if whose == "theirs" else builtins(compare(unlabelled(ours().values())))
    assert examined(tmp_path, content).problems == []
    original, right = named(content)
    for new, what in believed(tmp_path, content, 21, count):
        winners, passes = named(new)
        for at, won in winners.items():
            was = original.get(at) or {}
            stated = {name: value for name, value in (won or {}).items() if value is not None and name in was}
            assert bool(won) <= bool(was) and stated.items() <= was.items(), what
        assert passes.items() <= right.items(), what


@pytest.mark.parametrize("count", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_changed_matrices_of_theirs_recommend_no_other_row(tmp_path, count):
    content = THEIRS["matrix"]()
    good = content["summary"]["final_recommendation"]["selected"]
    for new, what in believed(tmp_path, content, 22, count):
        final = (new.get("summary") or {}).get("final_recommendation")
        if (
            final is not None
            and new.get("confirm_results")
            and all(each.get("run_records") for each in new["confirm_results"])
        ):
            assert {
                k: v for k, v in final["selected"].items() if v is not None and k in good
            }.items() <= good.items(), what


@pytest.mark.parametrize(
    "at",
    [
        ("portable_view", "winner", "winner", "client_chunk_size", 8),
        ("portable_view", "winner", "winner", None),
        ("portable_view", "winner", "eligible_count", 7),
        ("portable_view", "rows", 0, "jax", "p95_total_e2e_ms", 1.0),
        ("portable_view", "rows", 0, "correctness", "max_abs_diff", 0.5),
        ("portable_view", "rows", 0, "correctness", "num_compared", 3),
        ("portable_view", "rows", []),
        ("views", 0, "rows", 0, "sides", {}),
        ("portable_view", "backend_best", "jax", "winner", "throughput_items_sec", 1e6),
        ("best_native_view", "jax_selected", "throughput_items_sec", 1e6),
        ("best_native_view", "jax_selected", None),
        ("best_native_view", "winner", "winner", "backend", "jax"),
        ("recommendations", "overall", "Overall: jax at client chunk size 8, the winner of best_native."),
        ("inputs", "jax_portable_json", "another.json"),
        ("correctness", "thresholds", "max_abs_diff", 0.5),
    ],
)
def test_a_public_field_that_does_not_follow_is_a_contradiction(tmp_path, at):
    content = builtins(compare(unlabelled(ours().values())))
    assert examined(tmp_path, content).problems == []
    set_to(*at)(content)
    assert examined(tmp_path, content).problems != []


# -- reports -------------------------------------------------------------------------------------


def section(text, heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def test_the_final_report_says_what_was_compared_by_what_and_where_it_lies():
    matrices = ours()
    found = compare([(tmp, each) for tmp, each in zip(map(files.Path, matrices), matrices.values(), strict=True)])
    found.limitations = limitations([])
    text = final_report(found, list(matrices.values()))
    scope = section(text, "Scope")
    assert "JAX (embedded) with PyTorch (embedded)" in scope and "deltas are relative to it" in scope
    assert "portable: " in scope and "best_native: " in scope
    assert "| JAX portable | 8, 64 | 7 | 64 | 7 | - |" in section(text, "Workload contract")
    assert "at most 0.02 apart, 0.01 on average" in section(text, "Workload contract")
    locations = section(text, "Artifact locations")
    for name in (
        "canonical_workload.json",
        "jax_portable_matrix.json",
        "pytorch_best_native_matrix.md",
        "final_report.md",
    ):
        assert f"`{name}`" in locations
    assert "| JAX | 64 | " in section(text, "Best native") and "| 1.000 |" in section(text, "Best native")
    assert "Confidence: **high**" in section(text, "Conclusion")


def test_what_a_run_has_not_shown_of_the_segment_mask_stands_in_the_report():
    known = limitations([
        not_run("segment_lowers", "no accelerator"),
        gate_record("segment_vs_dense_le_1e_4", Verdict.FAIL, reason="0.1 off"),
        gate_record("segment_vs_dense_le_1e_4", Verdict.PASS), gate_record("same_length_isolation_zero", Verdict.FAIL),
    ])  # fmt: skip
    assert [(c.gate, c.verdict) for c in known] == [("segment_lowers", "NOT_RUN"), ("segment_vs_dense_le_1e_4", "FAIL")]
    matrices = list(ours().values())
    matrices[0].results[0].attestation_problem = "segment was requested, but the server executed dense"
    found = compare(unlabelled(matrices))
    found.limitations = known
    told = section(final_report(found, matrices), "Known TPU limitation")
    assert "NOT_RUN segment_lowers: no accelerator" in told and "FAIL segment_vs_dense_le_1e_4: 0.1 off" in told
    assert "JAX portable: segment was requested, but the server executed dense." in told


def test_a_matrix_has_a_report_of_its_own():
    text = score_matrix_markdown(ours()["jax_portable_matrix.json"])
    assert text.startswith("# Multi-item scoring: JAX, portable\n")
    assert "Client chunk size 64: " in section(text, "Recommendation")
    assert section(text, "Sweep").count("\n| ") == 4 and "| 64 | 1 | ok | 7 of 7 | " in section(text, "Confirmation")
    empty = ScoreMatrix(schema_version="score_matrix_v1", backend="jax", evaluation_view="portable", results=[])
    assert "None: no client chunk size may win." in section(score_matrix_markdown(empty), "Recommendation")


def test_a_comparison_is_rendered_again_theirs_too(tmp_path, multiitem):
    made = ours()
    for name, each in made.items():
        files.write(tmp_path / name, each)
    found = compare([(files.Path(name), each) for name, each in made.items()])
    files.write(tmp_path / "comparison.json", found)
    code, out, err = multiitem("report", tmp_path / "comparison.json", "--title-date", "2026-02-11")
    assert (code, err) == (0, "") and out == final_report(found, list(made.values()), "2026-02-11")
    theirs = written(tmp_path / "theirs.json", public_files.comparison(public_files.matrices()))
    code, out, err = multiitem("report", theirs, "--output", tmp_path / "theirs.md")
    assert (code, out, err) == (0, "", "")
    text = (tmp_path / "theirs.md").read_text()
    assert "By the guardrail rule alone it would be PyTorch at client chunk size 6 in best_native" in text
    assert "By the guardrail rule alone: JAX at client chunk size 6" in section(text, "Side by side: portable")
    delta = 100 * ((120 + 0.5) / (100 + 0.5) - 1)
    assert f"| {delta:+.1f} % |" in section(text, "Side by side: portable") and "INCONCLUSIVE" in text
    content = json.loads(theirs.read_text())
    set_to("portable_view", "winner", "winner", None)(content)
    assert multiitem("report", written(theirs, content))[0] == 2
    for words in (("--format", "junit"), ()):
        run = tmp_path / "comparison.json" if words else tmp_path
        code, _, err = multiitem("report", run, *words, "--title-date", "2026")
        assert code == 2 and ("as markdown or html" in err or "--title-date: only the final report" in err)


# -- the recommendation reads every view ---------------------------------------------------------


def three_views(portable_pace):
    """Best native is won by PyTorch at 80 ms; in portable JAX has a pace of its own."""
    matrices = ours(portable_pace, 130.0, (95.0, 80.0))
    return compare(unlabelled(matrices.values())).recommendation


def test_the_fastest_correct_row_of_any_view_is_named_beside_the_chosen_one():
    found = three_views(50.0)
    assert found.winner.view == "best_native" and found.winner.backend == "pytorch"
    assert (
        "But the fastest correct row is JAX at client chunk size 64 in portable, 1.596 times as fast, 95 % interval"
        in found.text
    )
    assert found.confidence == "medium" and any("jax portable at 64" in what for what in found.follow_ups)


@pytest.mark.parametrize("pace", [80.0, 90.0])
def test_a_row_that_is_not_shown_to_be_faster_is_not_named(pace):
    found = three_views(pace)
    assert "fastest correct row" not in found.text
    assert "supports: no correct row of any view is shown to be faster" in found.reasons


def test_a_faster_row_that_is_not_correct_is_not_named():
    matrices = ours(50.0, 130.0)
    wrong = matrices["jax_portable_matrix.json"]
    for each in (*wrong.results, *wrong.confirm_results):
        each.reference_scores = spread_scores(shift=0.1)
    assert "fastest correct row" not in compare(unlabelled(matrices.values())).recommendation.text


# -- limits of one's own -------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "limit", "correct"), [(0.03, 0.02, False), (0.03, 0.05, True), (0.03, 0.029, False)])
def test_scores_are_judged_by_the_given_limits(shift, limit, correct):
    pair = [
        side("jax", [row(64, around(80, 1))]),
        side("pytorch", [row(64, around(80, 2), scores=spread_scores(shift=shift))]),
    ]
    found = compare(unlabelled(pair), limits=Thresholds(max_abs_diff=limit, mean_abs_diff=limit))
    assert found.views[0].rows[0].correct is correct
    assert any("limits of one's own" in note for note in found.notes)  # the mean's, if no other
    assert isinstance(found, Comparison) and found.correctness.thresholds.max_abs_diff == limit
