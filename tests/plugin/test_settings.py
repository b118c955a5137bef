"""Where a setting comes from, and what a wrong one says."""

from __future__ import annotations

from typing import Any

import pytest
from inner_project import REGRESSION, Project

USES = "def test_it(multiitem_run): pass\n"


@pytest.mark.parametrize(
    ("arguments", "variable", "ini", "value", "origin", "line"),
    [
        (
            (),
            None,
            None,
            "dense,segment",
            "default",
            "multiitem: * settings have their defaults; --multiitem-header=full *",
        ),
        ((), None, "segment", "segment", "ini", "multiitem: mask_impl=segment (ini)"),
        ((), "dense", "segment", "dense", "environment MULTI_ITEM_MASK_IMPL", "*mask_impl=dense (environment*"),
        (("--mask-impl=auto",), "dense", "segment", "auto", "command line", "*mask_impl=auto (command line)"),
        (("--multiitem-mask-impl", "auto"), "dense", "segment", "auto", "command line", "*auto (command line)"),
    ],
    ids=["default", "ini", "environment", "short-option", "canonical-option"],
)
def test_precedence(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    variable: str | None,
    ini: str | None,
    value: str,
    origin: str,
    line: str,
) -> None:
    project.write("test_it.py", USES)
    if ini is not None:
        project.write("pytest.ini", f"[pytest]\nmultiitem_mask_impl = {ini}\n")
    if variable is not None:
        monkeypatch.setenv("MULTI_ITEM_MASK_IMPL", variable)
    result = project.run(*arguments)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([line])
    assert project.settings()["mask_impl"] == (value, origin)
    assert f"| mask_impl | {value} | {origin} |" in project.report


def test_flags_and_numbers_come_from_everywhere(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("test_it.py", USES)
    project.write("pytest.ini", "[pytest]\nmultiitem_allow_inconclusive = yes\nmultiitem_bench_timed_runs = 9\n")
    monkeypatch.setenv("MULTI_ITEM_BENCH_WARMUP_RUNS", "2")
    monkeypatch.setenv("MULTI_ITEM_BENCH", "0")
    monkeypatch.setenv("MULTI_ITEM_MODEL", "")  # an empty variable is none
    project.run("--bench", "--require=all").assert_outcomes(passed=1)
    settings = project.settings()
    assert settings["allow_inconclusive"] == ("True", "ini")
    assert settings["bench_timed_runs"] == ("9", "ini")
    assert settings["bench_warmup_runs"] == ("2", "environment MULTI_ITEM_BENCH_WARMUP_RUNS")
    assert settings["bench"] == ("True", "command line")
    assert settings["model"] == ("-", "default")
    assert settings["require"] == ("all", "command line")


@pytest.mark.parametrize(
    ("arguments", "environment", "ini", "words"),
    [
        (
            ["--backend=pytroch"], {}, "",
            ["option --multiitem-backend: 'pytroch' is not valid", "pytorch, jax, all", "did you mean 'pytorch'?"],
        ),
        (
            [], {"MULTI_ITEM_MASK_IMPL": "segmnt"}, "",
            ["environment variable MULTI_ITEM_MASK_IMPL: 'segmnt'", "dense, segment, auto", "mean 'segment'?"],
        ),
        (
            [], {}, "multiitem_dtype = bflaot16",
            ["ini value multiitem_dtype: 'bflaot16'", "one of float32, bfloat16", "mean 'bfloat16'?"],
        ),
        (
            ["--require=speedup_n32_ge_3"], {}, "",
            ["--multiitem-require: 'speedup_n32_ge_3'", "same_length_isolation_zero", "mean 'speedup_n32_ge_3x'?"],
        ),
        (["--engine=fak"], {}, "", ["no engine is called 'fak'", "embedded", "mean 'fake'?"]),
        ([], {"MULTI_ITEM_ENGINE": "embeded"}, "", ["no engine is called 'embeded'", "mean 'embedded'?"]),
        ([], {"MULTI_ITEM_BENCH_TIMED_RUNS": "0"}, "", ["'0' is not valid", "a whole number of at least 1"]),
        (["--multi-url=localhost:1"], {}, "", ["'localhost:1' is not valid", "http://127.0.0.1:30010"]),
        (["--workload=nowhere.jsonl"], {}, "", ["'nowhere.jsonl' is not valid", "expected an existing file"]),
        ([], {"MULTI_ITEM_BENCH": "maybe"}, "", ["'maybe' is not valid", "expected 1 or 0"]),
        (["--multiitem-backnd=jax"], {}, "", ["unrecognized arguments", "--multiitem-backnd=jax"]),
        (["--mask-imp=dense"], {}, "", ["unrecognized arguments", "--mask-imp=dense"]),
        (["--allow-inconclusive=maybe"], {}, "", ["--allow-inconclusive", "'maybe'"]),
        (["--multiitem-bench=2"], {}, "", ["--multiitem-bench", "'2'"]),
        (["--mask-impl=flashinfer"], {}, "", ["'flashinfer' is not valid", "engine embedded has no other"]),
        (["--multiitem-compare-urls=jx=http://h"], {}, "", ["compare-urls: 'jx' is not valid", "mean 'jax'?"]),
        (["--multiitem-cost-per-hour=pytroch=2"], {}, "", ["cost-per-hour: 'pytroch'", "mean 'pytorch'?"]),
        (["--power-faults=leak_nxt"], {}, "", ["power-faults: 'leak_nxt' is not valid", "mean 'leak_next'?"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_a_usage_error_that_helps(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    ini: str,
    words: list[str],
) -> None:
    project.write("test_it.py", USES)
    project.write("pytest.ini", f"[pytest]\n{ini}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "\n".join([*result.errlines, *result.outlines])
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert not project.runs


def test_help_names_every_setting_with_its_variable_and_ini_value(project: Project) -> None:
    from pytest_multiitem.settings.settings import OPTIONS

    result = project.run("--help")
    said: Any = " ".join(" ".join(result.outlines).split())
    for option in OPTIONS:
        for name in (option.flag, option.variable, option.ini):
            assert name in said.replace("- ", "-"), name


@pytest.mark.parametrize(
    ("words", "value", "origin"),
    [
        ([], "True", "ini"),
        (["--allow-inconclusive=0"], "False", "command line"),
        (["--multiitem-allow-inconclusive=off"], "False", "command line"),
        (["--allow-inconclusive", "test_it.py"], "True", "command line"),
        (["--allow-inconclusive=0", "--allow-inconclusive=yes"], "True", "command line"),
        (["--allow-inconclusive", "--multiitem-allow-inconclusive=no"], "False", "command line"),
    ],
)
def test_a_switch_takes_a_value_after_an_equals_sign(
    project: Project, words: list[str], value: str, origin: str
) -> None:
    project.write("test_it.py", USES)
    project.write("pytest.ini", "[pytest]\nmultiitem_allow_inconclusive = yes\n")
    project.run(*words).assert_outcomes(passed=1)
    assert project.settings()["allow_inconclusive"] == (value, origin)


OWN_ENGINE = """
    from fake_engine import FakeEngine

    class Mine(FakeEngine):
        name, backends, masks = "mine", ("rocm",), ("flex",)

    def pytest_multiitem_engines():
        return [Mine()]
"""


@pytest.mark.parametrize(
    ("words", "origins"),
    [
        ([], ("engine mine", "engine mine")),
        (["--backend=rocm", "--mask-impl=flex"], ("command line", "command line")),
        (["--backend=all", "--mask-impl=all"], ("command line", "command line")),
    ],
    ids=["default", "named", "all"],
)
def test_a_projects_engine_has_its_own_backends_and_masks(
    project: Project, words: list[str], origins: tuple[str, str]
) -> None:
    project.write("conftest.py", OWN_ENGINE)
    project.write("test_it.py", REGRESSION)
    result = project.run(
        "--engine=mine", "--multiitem-startup-timeout=20", *words, "-k", "length_isolation and not test_length"
    )
    result.assert_outcomes(passed=2)
    assert project.settings()["backend"] == ("rocm", origins[0]) and project.settings()["mask_impl"][1] == origins[1]
    record = project.gate("same_length_isolation_zero")
    assert record["nodeid"].endswith("[rocm-flex]")
    assert (record["backend"], record["mask_attested"]) == ("rocm", "flex")


@pytest.mark.parametrize("word", ["--backend=rcom", "--backend=jax", "--mask-impl=dense"])
def test_what_a_projects_engine_does_not_have_is_a_usage_error(project: Project, word: str) -> None:
    project.write("conftest.py", OWN_ENGINE)
    project.write("test_it.py", USES)
    result = project.run("--engine=mine", word)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    expected = "*'dense' is not valid: expected*flex, all*" if "mask" in word else "*is not valid: expected*rocm, all*"
    result.stderr.fnmatch_lines([expected])


def test_the_header_shows_what_is_not_the_default(project: Project) -> None:
    project.write("test_it.py", USES)
    result = project.run("--multiitem-seed=3")
    shown = [line for line in result.outlines if line.startswith("multiitem: ")]
    assert len(shown) == 2 and shown[0] == "multiitem: seed=3 (command line)"
    full = project.run("--multiitem-seed=3", "--multiitem-header=full").stdout.str()
    assert "multiitem: default: backend=pytorch,jax, mask_impl=dense,segment" in full
    assert all(f"{name}=" in full for name in project.settings())


def test_a_projects_file_has_settings_for_pytest(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("test_it.py", USES)
    project.write("pyproject.toml", "[tool.multiitem]\nseed = 5\nlabels = [1, 2]\n[tool.pytest.ini_options]\n"
                  "multiitem_seed = 4\nmultiitem_delimiter = 9\n")  # fmt: skip
    monkeypatch.setenv("MULTI_ITEM_LABELS", "3,4")
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["multiitem: seed=5 ([[]tool.multiitem[]])"])
    found = project.settings()
    assert found["seed"] == ("5", "[tool.multiitem]") and found["delimiter"] == ("9", "ini")
    assert found["labels"] == ("3,4", "environment MULTI_ITEM_LABELS")


def test_a_typo_in_a_projects_file_is_a_usage_error(project: Project) -> None:
    project.write("test_it.py", USES)
    project.write("pyproject.toml", "[tool.multiitem]\nsede = 5\n")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: [[]tool.multiitem[]] in *pyproject.toml: 'sede' is no setting (did you mean 'seed'?)"]
    )
