"""``--scores`` and ``--save-scores``: scores that moved fail a test of their own; nothing passes by not being there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from inner_project import REGRESSION, SMALL, Project

Faults = Callable[[str], None]

ITEM = "multiitem-scores::scores_as_saved[main]"
NAME = "scores_as_saved[main]"
LINE = ITEM.replace("[", "[[]")  # as fnmatch wants it
#: What else of a run judges scores: isolation, equivalence and semantics.
JUDGES = ("-k", "same_length or equivalence or semantics")
ONE = ("-k", "same_length")
BOTH = "multi:{0} serial:{0}".format


class Saved:
    """A project whose scores are saved."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.file = project.path / "multiitem-results/scores/main.json"

    @property
    def content(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.file.read_bytes())
        return loaded

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.project.run(*SMALL, "-p", "no:cacheprovider", *(arguments or (*ONE, "--scores=main")))

    @property
    def record(self) -> dict[str, Any]:
        return self.project.gate("scores_as_saved")


@pytest.fixture(scope="module")
def kept() -> list[bytes]:
    """The scores that the first test has saved."""
    return []


@pytest.fixture
def saved(project: Project, kept: list[bytes]) -> Saved:
    project.write("suite/test_regression.py", REGRESSION)
    made = Saved(project)
    if kept:
        made.file.parent.mkdir(parents=True)
        made.file.write_bytes(kept[0])
    else:
        result = made.run(*ONE, "--save-scores=main")
        assert result.ret == 0, result.stdout.str()
        result.stdout.fnmatch_lines(["scores main saved: multiitem-results/scores/main.json"])
        assert made.record["verdict"] == "NOT_RUN" and made.record["reason"].startswith("--scores names none")
        kept.append(made.file.read_bytes())
    return made


def test_what_is_saved_and_that_an_equal_run_passes(saved: Saved) -> None:
    content = saved.content
    assert content["schema_version"] == "multiitem_scores_v1" and set(content["servers"]) == {
        "multi-item pytorch dense",
        "serial pytorch",
    }
    assert content["servers"]["multi-item pytorch dense"]["mask_attested"] == "dense"
    requests = content["requests"]
    assert {each["request"] for each in requests} == {"mixed lengths", "equal lengths"}
    assert all(each["noise_floor"] == 0.0 and each["labels"] == [9454, 2753] for each in requests)
    by_place = {(each["server"], each["request"]): each["scores"] for each in requests}
    packed, serial = (by_place[who, "mixed lengths"] for who in ("multi-item pytorch dense", "serial pytorch"))
    assert [score for row in packed for score in row] == pytest.approx([score for row in serial for score in row])
    result = saved.run(*ONE, "--scores=main", "--junitxml=junit.xml", "-v")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines([f"{LINE} PASSED*100%*", "scores_as_saved *holds *main *PASS*"])
    assert saved.record["verdict"] == "PASS" and saved.record["samples"]["moved"] == 0
    assert saved.project.junit()[NAME].find("failure") is None
    assert "Against the saved scores" in saved.project.report


def test_other_weights_on_both_sides_are_seen_by_this_gate_alone(saved: Saved, faults: Faults) -> None:
    """The packed and the serial server move together: each agrees with itself and with the other."""
    before = saved.file.read_bytes()
    faults(f"{BOTH('weights=0.01')} {BOTH('version=2.0')}")
    result = saved.run(*JUDGES, "--scores=main", "--save-scores=main", "--junitxml=junit.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    verdicts = saved.project.verdicts
    measured = {gate: each for gate, each in verdicts.items() if {*each} != {"NOT_RUN"}}
    assert measured.pop("scores_as_saved") == ["FAIL"]
    assert len(measured) >= 4 and {verdict for each in measured.values() for verdict in each} == {"PASS"}
    record = saved.record
    assert record["samples"]["moved"] > 0.8 * record["samples"]["items"] == 0.8 * 116
    assert "items moved by more than 0.0001, most item" in record["reason"]
    assert record["details"]["since"].endswith("fake of unknown version then, fake 2.0 now") or (
        "fake of unknown version" in record["details"]["since"] and "fake 2.0" in record["details"]["since"]
    )
    failure = saved.project.junit()[NAME].find("failure")
    assert failure is not None and "was saved, " in (failure.text or "") and "Traceback" not in (failure.text or "")
    result.stdout.fnmatch_lines(["scores main NOT saved: the run failed (exit status 1)"])
    assert saved.file.read_bytes() == before


def test_rounding_is_left_alone(saved: Saved, faults: Faults) -> None:
    faults(BOTH("digits=6"))
    result = saved.run()
    assert result.ret == 0, result.stdout.str()
    assert saved.record["verdict"] == "PASS" and 0 < saved.record["value"] < 1e-6


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--multiitem-labels=9454,2754"], "labels 9454,2753 are saved, 9454,2754 in this run"),
        (["--multiitem-seed=2"], "another workload: the request is "),
        (["--multiitem-delimiter=151644"], "delimiter 151643 as saved, 151644 in this run"),
        (["--mask-impl=segment"], "multi-item pytorch dense · mixed lengths, multi-item pytorch dense · equal lengths"),
        (["--backend=jax"], "missing in this run: the run has no such server"),
    ],
    ids=lambda value: value[0].partition("=")[0][2:] if isinstance(value, list) else "",
)
def test_another_request_or_server_fails(saved: Saved, arguments: list[str], why: str) -> None:
    result = saved.run(*ONE, "--scores=main", *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert saved.record["verdict"] == "FAIL" and why in saved.record["reason"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--scores=mian"], "there are no saved scores 'mian' in *; there are: main (did you mean 'main'?); save them"),
        (["--scores=nothing/at.json"], "there is no file of saved scores *nothing/at.json; save them with --save-sco"),
        (["--save-scores=a b"], "'a b' is no name for saved scores: expected letters, digits"),
        (["--scores=main", "-n2"], "--scores and --save-scores cannot be used under pytest-xdist"),
    ],
    ids=["unknown", "no file", "no name", "xdist"],
)
def test_what_cannot_be_compared_with_is_a_usage_error(saved: Saved, arguments: list[str], why: str) -> None:
    result = saved.run(*ONE, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {why}*"])


def test_a_broken_file_is_a_usage_error(saved: Saved) -> None:
    content = saved.content
    content["requests"][0]["scores"][0][0] += 0.5
    saved.file.write_text(json.dumps(content))
    result = saved.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *main.json is no multiitem_scores_v1 file: scores_sha256 is *"])


def test_a_server_that_leaks_is_not_saved_as_right(saved: Saved, faults: Faults) -> None:
    before = saved.file.read_bytes()
    faults("multi:leak")
    result = saved.run(*JUDGES, "--save-scores=main")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["scores main NOT saved: the run failed (exit status 1)"])
    assert saved.file.read_bytes() == before


def test_noise_is_not_judged(saved: Saved, faults: Faults) -> None:
    faults("multi:noise")
    result = saved.run("-k", "nothing_at_all", "--scores=main")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert saved.record["verdict"] in ("INCONCLUSIVE", "FAIL") and saved.record["noise_floor"] > 1e-4


def test_a_test_that_is_skipped_fails_the_run(saved: Saved) -> None:
    hook = "def pytest_runtest_setup(item):\n    if 'scores' in item.nodeid: pytest.skip('not today')\n"
    saved.project.write("conftest.py", "import pytest\nfrom fake_engine import pytest_multiitem_engines\n" + hook)
    result = saved.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*is required by the run's options, but: not today*", "required gate not run: scores_as_saved"]
    )


def test_since_when_is_found_among_the_runs_that_are_kept(saved: Saved, faults: Faults) -> None:
    faults(BOTH("version=1.1"))
    assert saved.run().ret == 0
    faults(f"{BOTH('weights=0.01')} {BOTH('version=1.2')}")
    assert saved.run().ret == 1
    first = saved.project.matrix["run_id"]
    faults(f"{BOTH('weights=0.02')} {BOTH('version=1.3')}")
    assert saved.run().ret == 1
    since = saved.record["details"]["since"]
    assert f"others first seen in run {first}: fake 1.1" in since and "fake 1.2" in since and "1.3" not in since


def test_attached_servers_are_compared_by_their_role(
    project: Project, server: Callable[..., str], faults: Faults
) -> None:
    project.write("suite/test_regression.py", REGRESSION)
    saved = Saved(project)

    def run(multi: str, *arguments: str) -> pytest.RunResult:
        urls = (f"--multi-url={multi}", f"--serial-url={serial}", "--multiitem-property-examples=5")
        return project.run(*urls, "-p", "no:cacheprovider", *ONE, *arguments)

    serial = server("serial")
    assert run(server("multi"), "--save-scores=main").ret == 0
    assert set(saved.content["servers"]) == {"multi-item attached", "serial attached"}
    assert run(server("multi"), "--scores=main").ret == 0
    result = run(server("multi", "--fault", "weights=0.3"), "--scores=main")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    moved = {each["key"]: each["moved"] for each in saved.record["details"]["requests"]}
    assert all((count > 0) == key.startswith("multi-item") for key, count in moved.items()) and len(moved) == 4
