"""``[tool.multiitem]``: what it may say, what it says to a command, and what a typo in it says."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pytest_multiitem import cli
from pytest_multiitem.commands.project import defaults
from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.project_file import project_settings
from pytest_multiitem.settings.resolve import resolve


def written(directory, text):
    file = directory / "pyproject.toml"
    file.write_text(f"[tool.multiitem]\n{text}\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ('effort = "quick"', "effort", "quick"),
        ("seed = 7", "seed", 7),
        ("request_timeout = 2.5", "request_timeout", 2.5),
        ("request_timeout = 3", "request_timeout", 3.0),
        ("vocab_size = 1000", "vocab_size", 1000),
        ("bench = true", "bench", True),
        ("bench = false", "bench", False),
        ('backend = ["pytorch"]', "backend", ("pytorch",)),
        ('backend = "pytorch,jax"', "backend", ("pytorch", "jax")),
        ("labels = [3, 4]", "labels", (3, 4)),
        ('compare_chunk_sizes = "all"', "compare_chunk_sizes", (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)),
        ("cost_per_hour = {pytorch = 1.5, jax = 2}", "cost_per_hour", (("pytorch", 1.5), ("jax", 2.0))),
        ("cost_per_hour = 2.5", "cost_per_hour", (("", 2.5),)),
        ('model = "Qwen/Qwen3-0.6B"', "model", "Qwen/Qwen3-0.6B"),
    ],
)
def test_values(tmp_path, line, name, value):
    written(tmp_path, line)
    settings = resolve({}, {}, {}, project_settings(tmp_path))
    assert getattr(settings, name) == value
    assert settings.origins[name] == "[tool.multiitem]"
    assert [n for n, origin in settings.origins.items() if origin != "default"] == [name]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sede = 7", r"'sede' is no setting \(did you mean 'seed'\?\)"),
        ("mask-impl = 'dense'", r"'mask-impl' is no setting \(did you mean 'mask_impl'\?\)"),
        ("quite_another = 1", "'quite_another' is no setting; expected one of backend, mask_impl"),
        ("seed = '7'", "seed in .*: '7' is not valid: expected a whole number"),
        ("seed = true", "seed in .*: True is not valid: expected a whole number"),
        ("seed = 1.5", r"seed in .*: 1\.5 is not valid: expected a whole number"),
        ("bench = 1", "bench in .*: 1 is not valid: expected true or false"),
        ("bench = 'yes'", "bench in .*: 'yes' is not valid: expected true or false"),
        ("effort = 3", "effort in .*: 3 is not valid: expected a string"),
        ("effort = ['quick']", "expected a string"),
        ("effort = ''", "expected a string"),
        ("effort = 'quik'", "'quik' is not valid: expected one of quick, normal, full.*did you mean 'quick'"),
        ("labels = []", r"\[\] is not valid: expected an array"),
        ("labels = [[1]]", "expected an array"),
        ("labels = [true]", "expected an array"),
        ("labels = [-1]", "'-1' is not valid: expected a comma-separated list"),
        ("request_timeout = 'soon'", "expected a number"),
        ("request_timeout = nan", "expected a number of seconds above 0"),
        ("seed = 7 7", "is not valid: .*line 2"),
    ],
)
def test_what_is_wrong_says_where(tmp_path, line, message):
    file = written(tmp_path, line)
    with pytest.raises(UsageError, match=message) as caught:
        project_settings(tmp_path)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_that_is_none(tmp_path):
    (tmp_path / "pyproject.toml").write_text("tool.multiitem = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match="expected a table"):
        project_settings(tmp_path)


@pytest.mark.parametrize("content", ["", "[tool.other]\nseed = 1\n", "not TOML at all", None])
def test_a_file_of_others_says_nothing(tmp_path, content):
    (tmp_path / "pyproject.toml").write_text("[tool.multiitem]\nseed = 1\n", encoding="utf-8")
    inner = tmp_path / "inner"
    inner.mkdir()
    if content is not None:
        (inner / "pyproject.toml").write_text(content, encoding="utf-8")
    assert project_settings(inner) == ({} if content is not None else {"seed": "1"}), "the nearest one counts"


def test_a_path_is_relative_to_the_file(tmp_path):
    (tmp_path / "requests.jsonl").touch()
    written(tmp_path, 'workload = "requests.jsonl"\nresults_dir = "/somewhere"')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    found = project_settings(inner)
    assert found == {"workload": str(tmp_path / "requests.jsonl"), "results_dir": "/somewhere"}


def test_what_comes_before_what():
    sources = [{"multiitem_seed": "1"}, {"multiitem_seed": "4"}, {"MULTI_ITEM_SEED": "2"}, {"seed": "3"}]
    order = []
    for command_line, environ, project in ((1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 0)):
        chosen = [each if on else {} for each, on in zip(sources, (command_line, 1, environ, project), strict=True)]
        settings = resolve(*chosen)
        order.append((settings.seed, settings.origins["seed"]))
    assert order == [(1, "command line"), (2, "environment MULTI_ITEM_SEED"), (3, "[tool.multiitem]"), (4, "ini")]


def test_the_error_about_a_value_that_is_found_to_be_wrong_later_names_the_table():
    settings = resolve({}, {}, {}, {"backend": "rocm"})
    assert str(settings.invalid("backend", "rocm", "no")) == "[tool.multiitem] backend: 'rocm' is not valid: no"


def test_a_command_has_what_it_shares_with_a_run_from_there(tmp_path, monkeypatch):
    import typer

    group = typer.main.get_command(cli.app)
    project = {"labels": "3,4", "request_timeout": "2.5", "backend": "jax", "seed": "7", "results_dir": "/r"}
    found = defaults(group, project, {"MULTI_ITEM_SEED": "9"})
    assert found["load"] == {"labels": "3,4", "seed": "9", "request_timeout": "2.5"}
    assert found["orchestrate"] == {"labels": "3,4", "request_timeout": "2.5", "results_dir": "/r"}
    assert found["baseline"]["list"] == {"results_dir": "/r"}
    assert "power" not in found and "checkpoint" not in found and "run" not in found["compare"]
    written(tmp_path, "seed = 7\nquery_tokens = 6\nitem_tokens = 3")
    monkeypatch.chdir(tmp_path)
    words = ["workload", "--num-items", "2", "--item-tokens", "4", "--output-json"]
    outcome = CliRunner().invoke(cli.app, [*words, "w.json"])
    assert "wrote w.json: 1 request of 6/2/4" in outcome.output, outcome.output


def test_a_typo_ends_a_command(tmp_path, monkeypatch):
    written(tmp_path, "sede = 7")
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(cli.app, ["baseline", "list"])
    assert isinstance(outcome.exception, UsageError) and "did you mean 'seed'" in str(outcome.exception)
    assert CliRunner().invoke(cli.app, ["faults"]).exit_code == 0, "no setting of a run has a say there"
