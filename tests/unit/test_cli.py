"""``multiitem …`` as a user runs it."""

import json
import re
import subprocess
import sys

import pytest
from sample_matrix import SEEN, gate_record, matrix, not_run

from pytest_multiitem import __version__
from pytest_multiitem.acceptance.other_runs import OTHER_RUNS
from pytest_multiitem.comparison.measuring import runner
from pytest_multiitem.errors import UsageError
from pytest_multiitem.reports.formats import markdown
from pytest_multiitem.results import store
from pytest_multiitem.settings.settings import OPTIONS

SIZES = {
    "hidden-size": 16, "intermediate-size": 24, "num-hidden-layers": 1, "num-attention-heads": 2,
    "num-key-value-heads": 1, "head-dim": 8, "vocab-size": 60,
}  # fmt: skip


def sizes(**change):
    words = SIZES | {name.replace("_", "-"): value for name, value in change.items()}
    return [part for name, value in words.items() for part in (f"--{name}", value)]


@pytest.fixture
def run_directory(tmp_path):
    directory = tmp_path / "results" / "run"
    directory.mkdir(parents=True)
    store.write_matrix(directory, matrix([gate_record(**SEEN), not_run()]))
    store.point_latest(directory)
    return directory


def test_version(multiitem):
    assert multiitem("--version") == (0, f"pytest-multiitem {__version__}\n", "")


def test_the_command_of_an_interpreter():
    command = [sys.executable, "-m", "pytest_multiitem", "report", "/absent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "multiitem: cannot read /absent: No such file or directory; expected a multiitem_matrix_v1 file; name the "
        "matrix.json of a run\n"
    )


def test_a_checkpoint(multiitem, tmp_path):
    code, out, err = multiitem("checkpoint", tmp_path / "tiny", *sizes(), "--seed", 3)
    assert (code, err) == (0, "") and out.startswith(f"wrote {tmp_path / 'tiny'} (")
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    assert config["hidden_size"] == 16 and config["vocab_size"] == 60


def test_a_checkpoint_with_a_classification_head(multiitem, tmp_path):
    from pytest_multiitem.engine.config import read_config

    for words, classes in (
        ((), None),
        (("--head", "classification"), 1),
        (("--head=classification", "--num-labels=4"), 4),
    ):
        directory = tmp_path / str(classes)
        assert multiitem("checkpoint", directory, *sizes(), *words)[0] == 0
        assert read_config(directory).classes == classes
    code, _, err = multiitem("checkpoint", tmp_path / "none", *sizes(), "--num-labels", 3)
    assert code == 2 and "--num-labels is 3" in err and "--head classification" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "message"), [({"head_dim": 7}, "head_dim is 7"), ({"vocab_size": 0}, "vocab_size is 0")]
)
def test_an_impossible_checkpoint(multiitem, tmp_path, change, message):
    code, out, err = multiitem("checkpoint", tmp_path / "tiny", *sizes(**change))
    assert (code, out) == (2, "") and err.startswith(f"multiitem: {message}")
    assert err.count("\n") == 1 and not (tmp_path / "tiny").exists()


def test_a_checkpoint_over_something(multiitem, tmp_path):
    (tmp_path / "mine").touch()
    code, _, err = multiitem("checkpoint", tmp_path, *sizes())
    assert code == 2 and "is not an empty directory" in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["run", "run/matrix.json", "latest"])
def test_a_report(multiitem, run_directory, name):
    code, out, err = multiitem("report", run_directory.parent / name)
    assert (code, err) == (0, "")
    assert out == markdown.render(store.read_matrix(run_directory)) and "same_length_isolation_zero" in out


def test_the_latest_report_is_the_default(multiitem, run_directory, monkeypatch):
    run_directory.parent.rename(run_directory.parent.with_name("multiitem-results"))
    monkeypatch.chdir(run_directory.parent.parent)
    code, out, _ = multiitem("report")
    assert code == 0 and out.startswith("# Multi-item scoring validation")


def test_a_report_to_a_file(multiitem, run_directory, tmp_path):
    assert multiitem("report", run_directory, "--output", tmp_path / "report.md") == (0, "", "")
    assert (tmp_path / "report.md").read_text().startswith("# Multi-item scoring validation")


def test_a_report_in_a_format(multiitem, run_directory):
    named = multiitem("report", run_directory, "--format", "markdown")
    assert named == multiitem("report", run_directory) and named[0] == 0
    code, out, err = multiitem("report", run_directory, "--format", "htm")
    assert (code, out) == (2, "") and "no report format is called 'htm'; expected one of csv, html, markdown" in err
    code, out, _ = multiitem("report", run_directory, "--format", "csv")
    assert code == 0 and out.startswith("gate,") and "same_length_isolation_zero" in out


def test_a_report_of_something_else(multiitem, tmp_path):
    (tmp_path / "matrix.json").write_text('{"schema_version": "multiitem_matrix_v9"}')
    code, out, err = multiitem("report", tmp_path)
    assert (
        (code, out) == (2, "")
        and "is a 'multiitem_matrix_v9' file; expected multiitem_matrix_v1" in err
        and err.count("\n") == 1
    )


def test_an_unknown_command(multiitem):
    code, out, err = multiitem("repot")
    assert (code, out) == (2, "") and "No such command" in err


TAKE_RUN_OPTIONS = [["accept"], ["launch"], ["power"], ["compare", "run"], ["ab"]]


@pytest.mark.parametrize("command", TAKE_RUN_OPTIONS, ids=" ".join)
def test_the_help_of_a_command_lists_the_options_of_a_run(multiitem, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = multiitem(*command, "--help")
    assert code == 0
    for option in OPTIONS:
        is_refused = command == ["accept"] and option.name in OTHER_RUNS
        assert bool(re.search(rf"^│ {option.short_flag} ", out, re.MULTILINE)) is not is_refused, option.short_flag
    assert "--multiitem-NAME" in out and not re.search("^│ --multiitem-", out, re.MULTILINE)
    for topic in dict.fromkeys(option.topic for option in OPTIONS):
        assert topic in out


@pytest.mark.parametrize("command", TAKE_RUN_OPTIONS, ids=" ".join)
def test_the_help_cuts_no_name_on_a_narrow_terminal(multiitem, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = multiitem(*command, "--help")
    assert not re.findall(r"^│ --\S*…", out, re.MULTILINE)


def test_the_help_breaks_lines_where_the_terminal_ends(multiitem, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = multiitem("kernel-check", "--help")
    shown = [line.strip() for line in out.splitlines()]
    begin = next(at for at, line in enumerate(shown) if line.startswith("Exit status 0"))
    assert shown[begin + 1].startswith("it could not be told") and shown[begin + 2] == "or INCONCLUSIVE."


def test_the_help_of_accept_begins_with_what_is_its_own(multiitem, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = multiitem("accept", "--help")
    own, _, others = out.partition("This acceptance")[2].partition("─ A run: ")
    names = re.findall(r"^│ (--[a-z-]+)", own, re.MULTILINE)
    assert names[:3] == ["--url", "--multi-url", "--serial-url"]
    assert {"--workload", "--tokenizer", "--labels", "--effort", "--results-dir"} <= {*names}
    assert others and not {*names} & {*re.findall(r"^│ (--[a-z-]+)", others, re.MULTILINE)}


@pytest.mark.parametrize("command", TAKE_RUN_OPTIONS, ids=" ".join)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--modle", "x"], "--model"),
        (["--multiitem-backnd=jax"], "--multiitem-backend"),
        (["--model"], "requires an argument"),
        (["--multiitem-seed=x"], "expected a whole number"),
        (["--allow-inconclusive=maybe"], "--multiitem-allow-inconclusive: 'maybe' is not valid: expected 1 or 0"),
    ],
)
def test_a_wrong_option_of_a_run_is_said_with_what_was_meant(multiitem, tmp_path, monkeypatch, command, words, said):
    monkeypatch.chdir(tmp_path)
    arms = ["--a", "MULTI_ITEM_MASK_IMPL=dense", "--b", "MULTI_ITEM_MASK_IMPL=segment"] if command == ["ab"] else []
    code, out, err = multiitem(*command, *arms, *words)
    assert (code, out) == (2, "") and said in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], True),
        (["--allow-inconclusive"], True),
        (["--allow-inconclusive=0"], False),
        (["--multiitem-allow-inconclusive=off"], False),
        (["--allow-inconclusive=no", "--multiitem-allow-inconclusive=YES"], True),
    ],
)
def test_a_switch_of_a_run_takes_a_value_after_an_equals_sign(multiitem, monkeypatch, words, expected):
    monkeypatch.setenv("MULTI_ITEM_ALLOW_INCONCLUSIVE", "1")
    seen = []

    def compare(settings, *_):
        seen.append(settings.allow_inconclusive)
        raise UsageError("enough")

    monkeypatch.setattr(runner, "compare", compare)
    assert multiitem("compare", "run", *words)[::2] == (2, "multiitem: enough\n")
    assert seen == [expected]


def test_a_comparison_takes_the_engines_own_names(multiitem, monkeypatch):
    seen = []

    def compare(settings, *_):
        seen.append((settings.backend, settings.mask_impl))
        raise UsageError("enough")

    monkeypatch.setattr(runner, "compare", compare)
    assert multiitem("compare", "run", "--backend=all", "--mask-impl", "all")[0] == 2
    assert seen == [(("pytorch", "jax"), ("dense", "segment", "auto"))]
    for words in (["--backend=pytroch"], ["--multiitem-compare-urls=pytroch=http://h"]):
        code, _, err = multiitem("compare", "run", *words)
        assert code == 2 and "'pytroch' is not valid" in err and "mean 'pytorch'?" in err
