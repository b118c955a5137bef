"""``--baseline`` and ``--save-baseline``: a regression fails a test of its own; nothing passes by not being there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from inner_project import BENCH, SMALL, VERDICTS, Project

Faults = Callable[[str], None]

ITEM = "multiitem-baseline::no_regression_vs_baseline[main]"
NAME = "no_regression_vs_baseline[main]"
#: As fnmatch wants it.
LINE = ITEM.replace("[", "[[]")
#: A benchmark of an instant, with as many runs as a verdict needs.
TINY = (
    *SMALL, "--multiitem-bench-items=4", "--multiitem-bench-query-tokens=16", "--multiitem-item-tokens=4",
    "--multiitem-bench-chunk-sizes=2,4", "--multiitem-bench-timed-runs=5", "-p", "no:cacheprovider",
)  # fmt: skip
#: What no machine's noise reaches, beside a delay of 20 ms in each request.
GENEROUS = ("--baseline=main", "--fail-if=p50 > 900%")
PACKED = "multi-item packed · pytorch · dense · 16/4/4 · chunk 4"
PACKED_TEST = "TestMultiItemScorePerformance::test_benchmark_multi_item_packed"
#: Two benchmarks and no more.
TWO = ("--bench", "-k", "packed or (Extend and prefill)")
CELLS = 2


class Saved:
    """A project with a baseline of two benchmarks."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.file = project.path / "multiitem-results/baselines/main.json"

    @property
    def content(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.file.read_bytes())
        return loaded

    def change(self, **fields: Any) -> None:
        """Alter every cell of the saved baseline, as if an older version had saved it: without a checksum."""
        content = self.content | {"cells_sha256": None}
        for cell in content["cells"]:
            cell.update(fields)
        self.file.write_text(json.dumps(content))

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.project.run(*TINY, *(arguments or TWO))

    @property
    def record(self) -> dict[str, Any]:
        return self.project.gate("no_regression_vs_baseline")


@pytest.fixture(scope="module")
def kept() -> list[bytes]:
    """The baseline that the first test has saved; to measure it again for each would take most of their time."""
    return []


@pytest.fixture
def saved(project: Project, faults: Faults, kept: list[bytes]) -> Saved:
    faults("multi:sleep=0.02 extend:sleep=0.02 serial:sleep=0.02")
    project.write("suite/test_bench.py", BENCH)
    made = Saved(project)
    if kept:
        made.file.parent.mkdir(parents=True)
        made.file.write_bytes(kept[0])
    else:
        save(made)
        kept.append(made.file.read_bytes())
    return made


def save(saved: Saved) -> None:
    result = saved.run(*TWO, "--save-baseline=main")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["baseline main saved: multiitem-results/baselines/main.json"])


def reasons(saved: Saved) -> str:
    return " ".join(cell["reason"] for cell in saved.record["details"]["cells"])


def test_what_is_saved(saved: Saved) -> None:
    save(saved)
    content = saved.content
    assert content["schema_version"] == "multiitem_baseline_v1"
    assert content["run_id"] == saved.project.matrix["run_id"]
    cells = {cell["key"]: cell for cell in content["cells"]}
    assert set(cells) == {PACKED, "multi-item prefill+extend · pytorch · 16/4/4 · chunk 4"}
    record = next(b for b in saved.project.matrix["benchmarks"] if b["name"] == "multi-item packed")
    cell = cells[PACKED]
    assert cell["seconds"] == record["runs_sec"]
    assert len(cell["workload_sha256"]) == 64 and cell["workload_sha256"] == record["workload_sha256"]
    assert (cell["dtype"], cell["mask_attested"], cell["machine"]["device"]) == ("float32", "dense", "cpu")
    assert content["settings"]["engine"] == "fake"


def test_an_equal_run_passes_in_a_test_of_its_own(saved: Saved) -> None:
    result = saved.run(*TWO, *GENEROUS, "-v", "--junitxml=junit.xml")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=CELLS + 1, deselected=5)
    result.stdout.fnmatch_lines(["*collected 8 items / 5 deselected / 3 selected", f"{LINE} PASSED*100%*"])
    record = saved.record
    assert (record["verdict"], record["nodeid"]) == ("PASS", ITEM)
    assert record["reason"] == "none of 2 timings regressed (p50 > 900%)"
    assert record["samples"] == {"timings": CELLS, "compared": CELLS}
    assert saved.project.junit()[NAME].find("failure") is None
    result.stdout.fnmatch_lines(["no_regression_vs_baseline *holds *main *PASS*", f"{PACKED} *p50 > 900%* to *PASS"])
    assert f"| {PACKED} | p50 > 900% |" in saved.project.report


def test_a_regression_fails_the_run_and_shows_in_junit(saved: Saved, faults: Faults) -> None:
    before = saved.content
    faults("multi:sleep=0.4 extend:sleep=0.02")
    result = saved.run(
        *TWO,
        "--baseline=main",
        "--fail-if=p50 > 100%, throughput < -50%",
        "--save-baseline=main",
        "--junitxml=junit.xml",
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=CELLS, failed=1, deselected=5)
    failure = saved.project.junit()[NAME].find("failure")
    assert failure is not None
    said = failure.attrib["message"] + (failure.text or "")
    assert f"FAIL: no_regression_vs_baseline: 1 of 2 timings: {PACKED}: p50 is" in said
    assert "a regression (p50 > 100%)" in said and "a regression (throughput < -50%)" in said
    assert "Traceback" not in said and ".py:" not in said
    by_key = {cell["key"]: cell["verdict"] for cell in saved.record["details"]["cells"]}
    assert by_key[PACKED] == "FAIL" and sorted(by_key.values()) != ["FAIL", "FAIL"]
    result.stdout.fnmatch_lines(["baseline main NOT saved: the run failed (exit status 1)"])
    assert saved.content == before


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--bench", "-k", "packed"], "its test was deselected"),
        (["-k", "packed or Extend"], "its test was skipped: benchmarks are off"),
        ([*TWO, "--benchmark-disable"], "its test was skipped: pytest-benchmark is disabled"),
        (["--bench", f"suite/test_bench.py::{PACKED_TEST}"], "renamed, or not selected"),
        ([*TWO, "--deselect=suite/test_bench.py::TestMultiItemPrefillExtendPerformance"], "its test was"),
    ],
)  # fmt: skip
def test_a_timing_that_is_missing_fails_the_run(saved: Saved, arguments: list[str], why: str) -> None:
    result = saved.run(*arguments, *GENEROUS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert saved.record["verdict"] == "FAIL"
    assert f"missing in this run: {why}" in reasons(saved)
    result.stdout.fnmatch_lines([f"FAILED {LINE}*"])


def test_a_renamed_benchmark_fails_the_run(saved: Saved) -> None:
    content = saved.content | {"cells_sha256": None}  # of an older version
    content["cells"][0]["key"] = content["cells"][0]["key"].replace("multi-item", "multiitem")
    saved.file.write_text(json.dumps(content))
    assert saved.run(*TWO, *GENEROUS).ret == pytest.ExitCode.TESTS_FAILED
    assert "missing in this run: its test passed and timed something else" in reasons(saved)
    assert "not in the baseline, and not judged: multi-item packed" in saved.record["details"]["notes"][0]


def test_a_benchmark_that_failed_is_missing(saved: Saved, faults: Faults) -> None:
    faults("multi:lie")
    result = saved.run(*TWO, *GENEROUS)
    result.assert_outcomes(passed=1, failed=2, deselected=5)
    assert "missing in this run: its test failed" in reasons(saved)


def test_nothing_measured_fails_the_run_in_an_empty_project(saved: Saved) -> None:
    (saved.project.path / "suite/test_bench.py").unlink()
    result = saved.project.run("--baseline=main")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["collected 1 item", "*no timing was measured; the baseline has 2*"])
    assert saved.record["verdict"] == "FAIL"


@pytest.mark.slow
def test_another_machine_is_inconclusive(saved: Saved) -> None:
    saved.change(machine={"processor": "an abacus", "cpus_usable": 1})
    result = saved.run(*TWO, *GENEROUS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert saved.record["verdict"] == "INCONCLUSIVE"
    assert "another machine than the baseline's: processor an abacus and" in saved.record["reason"]
    result = saved.run(*TWO, *GENEROUS, "--allow-inconclusive", "--save-baseline=main", "-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED  # only because it cannot be saved
    result.assert_outcomes(passed=CELLS, skipped=1, deselected=5)
    result.stdout.fnmatch_lines(
        [f"{LINE} INCONCLUSIVE*", "baseline main NOT saved: no_regression_vs_baseline is INCONCLUSIVE"]
    )
    assert saved.project.matrix["exit_status"] == 1
    assert saved.content["cells"][0]["machine"]["processor"] == "an abacus"
    assert saved.run(*TWO, *GENEROUS, "--allow-inconclusive").ret == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workload_sha256": "0" * 64}, "workload 000000000000… in the baseline"),
        ({"mask_attested": "segment"}, "mask executed segment in the baseline, dense in this run"),
        ({"model": "another"}, "model another in the baseline, hash-model in this run"),
        ({"items": 3}, "item count 3 in the baseline, 4 in this run"),
    ],
)
def test_another_thing_fails_the_run(saved: Saved, change: dict[str, Any], words: str) -> None:
    saved.change(**change)
    assert saved.run(*TWO, *GENEROUS).ret == pytest.ExitCode.TESTS_FAILED
    assert saved.record["verdict"] == "FAIL"
    assert words in reasons(saved)


def test_a_run_that_passed_replaces_the_baseline(saved: Saved) -> None:
    before = saved.content
    assert saved.run(*TWO, *GENEROUS, "--save-baseline=main").ret == 0
    assert saved.content["run_id"] != before["run_id"]
    assert saved.content["run_id"] == saved.project.matrix["run_id"]
    kept = saved.file.parent / "replaced/main.1.json"
    assert json.loads(kept.read_bytes()) == before
    assert saved.project.run(*TINY, *TWO, f"--baseline={kept}", "--fail-if=p50 > 900%").ret == 0
    assert saved.record["nodeid"].endswith("[main.1]")


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (["suite", "--bench", "-k", "packed", "test_more.py"], 1, "the run failed (exit status 1)"),
        (["-k", "pass"], 1, "no timing was measured"),
        (
            ["test_more.py::test_inconclusive", "--allow-inconclusive"],
            1,
            "delimiter_aligned_equiv_le_0p02 is INCONCLUSIVE",
        ),
        (["test_own.py"], 1, "no timing was measured"),
        (["-k", "nothing_at_all"], 5, "the run failed (exit status 5)"),
    ],
)
def test_a_run_that_is_not_fit_is_not_saved(project: Project, arguments: list[str], status: int, why: str) -> None:
    project.write("suite/test_bench.py", BENCH)
    project.write("test_more.py", f"{VERDICTS}\n    def test_packed():\n        assert False\n")
    project.write("test_own.py", "def test_it(): pass\n")
    result = project.run(*TINY, *arguments, "--save-baseline=main")
    assert result.ret == status
    result.stdout.fnmatch_lines([f"baseline main NOT saved: {why}"])
    assert not (project.path / "multiitem-results/baselines").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--baseline=mian"], "*there is no baseline 'mian' in *; there are: main (did you mean 'main'?); save one*"),
        (["--baseline=no/such.json"], "*there is no baseline file */no/such.json*"),
        (["--baseline=conftest.json"], "*conftest.json is not valid JSON*"),
        (["--baseline=main", "--fail-if=p95 > fast"], "*'p95 > fast' is not valid: expected a condition such as*"),
        (["--fail-if=p95 > 5%"], "*--fail-if says what a regression is; give the baseline as well*"),
        (["--save-baseline=a/b"], "*'a/b' is no name for a baseline*"),
        (["--baseline=main", "-n", "2"], "*--baseline and --save-baseline cannot be used under pytest-xdist*"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    saved: Saved, arguments: list[str], words: str
) -> None:
    saved.project.write("conftest.json", "{")
    runs = saved.project.runs
    result = saved.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([words])
    assert saved.project.runs == runs


def test_a_condition_in_the_ini_file_waits_for_a_baseline(saved: Saved) -> None:
    saved.project.write("pytest.ini", "[pytest]\nmultiitem_fail_if = p50 > 900%\n")
    assert saved.run("--collect-only").ret == 0
    assert saved.run(*TWO, "--baseline=main").ret == 0
    assert saved.record["details"]["conditions"] == ["p50 > 900%"]


def test_collect_only_shows_the_added_test_and_saves_nothing(saved: Saved) -> None:
    before = saved.content
    result = saved.run("--collect-only", "-q", "--baseline=main", "--save-baseline=main", "-k", "packed")
    assert result.ret == 0
    assert [line for line in result.outlines if "::" in line][-1] == ITEM
    assert "2/8 tests collected (6 deselected)" in result.outlines[-1]
    result = saved.run("--collect-only", "--baseline=main")
    result.stdout.fnmatch_lines(["<Suite multiitem-baseline>", "  <GateItem no_regression_vs_baseline[[]main]>"])
    assert saved.content == before


MEDDLING = {
    "reorders": """
        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(items):
            items.reverse()
    """,
    "removes": """
        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_collection_modifyitems(items, config):
            yield
            gone = [item for item in items if "baseline" in item.nodeid]
            items[:] = [item for item in items if item not in gone]
            config.hook.pytest_deselected(items=gone)
    """,
}


@pytest.mark.parametrize("how", MEDDLING)
def test_no_other_plugin_moves_or_drops_it(saved: Saved, how: str) -> None:
    saved.project.write(
        "conftest.py", "import pytest\nfrom fake_engine import pytest_multiitem_engines\n" + _dedented(MEDDLING[how])
    )
    result = saved.run(*TWO, *GENEROUS, "-v")
    assert result.ret == 0
    ran = [line.split()[0] for line in result.outlines if "PASSED" in line]
    assert len(ran) == CELLS + 1 and ran[-1] == ITEM
    assert [t["outcome"] for t in saved.project.matrix["tests"] if t["nodeid"] == ITEM] == ["passed"]


@pytest.mark.parametrize(
    "hook",
    [
        "def pytest_runtest_setup(item):\n    if 'baseline' in item.nodeid: pytest.skip('not today')\n",
        "def pytest_collection_finish(session):\n    for item in session.items:\n"
        "        if 'baseline' in item.nodeid: item.add_marker(pytest.mark.skip(reason='not today'))\n",
    ],
    ids=["in-setup", "by-marker"],
)
def test_it_cannot_be_skipped(saved: Saved, hook: str) -> None:
    saved.project.write("conftest.py", "import pytest\nfrom fake_engine import pytest_multiitem_engines\n" + hook)
    result = saved.run(*TWO, *GENEROUS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=CELLS, failed=1, deselected=5)
    result.stdout.fnmatch_lines(
        ["*is required by the run's options, but: not today*", "required gate not run: no_regression_vs_baseline"]
    )


def test_a_run_that_stops_early_does_not_pass(saved: Saved) -> None:
    saved.project.write("suite/test_a.py", "def test_packed(): assert False\n")
    result = saved.run(*TWO, *GENEROUS, "-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert saved.project.matrix["complete"] is False
    result.stdout.fnmatch_lines(["required gate not run: no_regression_vs_baseline"])


def test_the_last_failed_alone_are_not_enough(saved: Saved) -> None:
    """``--lf`` would leave the added test out once it has passed."""
    saved.project.write("suite/test_a.py", "import os\ndef test_packed(): assert 'GO' in os.environ\n")
    arguments = [argument for argument in TINY if argument not in ("-p", "no:cacheprovider")]
    assert saved.project.run(*arguments, *TWO, *GENEROUS).ret == pytest.ExitCode.TESTS_FAILED
    saved.project.write("suite/test_a.py", "def test_packed(): pass\n")
    result = saved.project.run(*arguments, *TWO, *GENEROUS, "--lf")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert saved.record["verdict"] == "FAIL" and "no timing was measured" in saved.record["reason"]


def test_it_may_be_named_by_require(saved: Saved) -> None:
    result = saved.run("-k", "nothing_at_all", "--require=no_regression_vs_baseline")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["required gate not run: no_regression_vs_baseline"])


def test_without_the_options_nothing_is_added(saved: Saved) -> None:
    result = saved.run(*TWO, "-v")
    assert result.ret == 0
    result.assert_outcomes(passed=CELLS, deselected=5)
    result.stdout.no_fnmatch_line("*multiitem-baseline*")
    result.stdout.no_fnmatch_line("baseline *")
    assert "no_regression_vs_baseline" not in saved.project.verdicts


def _dedented(text: str) -> str:
    import textwrap

    return textwrap.dedent(text)


EDITED = "an edited one"
HOSTILE = {
    "nested deeply": b"[" * 100_000,
    "a key twice": b'{"schema_version": "multiitem_baseline_v1", "schema_version": "multiitem_baseline_v1"}',
    "a FIFO": None,
    EDITED: b"",
}


@pytest.mark.parametrize("form", HOSTILE)
def test_a_baseline_that_is_none_ends_the_run_in_a_line(saved: Saved, form: str) -> None:
    """Also one whose runs were made slower by hand, so that a regression would pass."""
    path, content = saved.project.path / "hostile.json", HOSTILE[form]
    if form == EDITED:
        edited = json.loads((saved.project.path / "multiitem-results/baselines/main.json").read_bytes())
        edited["cells"][0]["seconds"] = [9.0] * len(edited["cells"][0]["seconds"])
        content = json.dumps(edited).encode()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    result = saved.run("--baseline=hostile.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line]
    assert len(errors) == 1 and errors[0].startswith("ERROR: ") and "hostile.json" in errors[0]
