"""Short option names: there when they are free, out of the way when they are not."""

from __future__ import annotations

import pytest
from inner_project import Project

USES = "def test_it(multiitem_run): pass\n"
OWNS = """
    from fake_engine import pytest_multiitem_engines

    def pytest_addoption(parser):
        parser.addoption("--backend", default="mine")
        parser.addoption("--bench", action="store_true")
"""
OWNER_TEST = """
    def test_it(multiitem_run, request):
        assert request.config.getoption("--backend") == "theirs"
        assert multiitem_run.settings.backend == ("jax",)
        assert multiitem_run.settings.bench is False
"""


@pytest.mark.parametrize("form", [["--backend=jax"], ["--backend", "jax"], ["--multiitem-backend", "jax"]])
def test_both_forms_of_a_free_name(project: Project, form: list[str]) -> None:
    project.write("test_it.py", USES)
    project.run(*form, "--engine", "fake").assert_outcomes(passed=1)
    assert project.settings()["backend"] == ("jax", "command line")
    assert project.settings()["engine"] == ("fake", "command line")


def test_a_value_apart_from_its_option_hides_no_conftest(project: Project) -> None:
    """pytest takes it for a path until the option is known; the test paths' conftests must load all the same."""
    project.write("pytest.ini", "[pytest]\ntestpaths = suite\n")
    project.write("suite/conftest.py", "def pytest_addoption(parser): parser.addoption('--own')\n")
    project.write("suite/test_it.py", "def test_it(multiitem_run, request): assert request.config.getoption('--own')\n")
    project.run("--backend", "jax", "--own=x").assert_outcomes(passed=1)


@pytest.mark.parametrize("form", [["--backend=theirs"], ["--backend", "theirs"]])
def test_a_name_that_a_conftest_owns_stays_its_own(project: Project, form: list[str]) -> None:
    project.write("conftest.py", OWNS)
    project.write("test_it.py", OWNER_TEST)
    result = project.run(*form, "--bench", "--multiitem-backend=jax", "--mask-impl=dense")
    result.assert_outcomes(passed=1)
    said = [line for line in result.outlines if "belongs to another plugin" in line]
    assert said == [
        "multiitem: --backend belongs to another plugin here; use --multiitem-backend",
        "multiitem: --bench belongs to another plugin here; use --multiitem-bench",
    ]
    assert project.settings()["mask_impl"] == ("dense", "command line")


@pytest.mark.parametrize("late", [False, True], ids=["before-ours", "after-ours"])
def test_a_name_that_another_plugin_owns_stays_its_own(
    project: Project, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    project.write("other.py", "def pytest_addoption(parser): parser.addoption('--model', type=int)\n")
    project.write("test_it.py", "def test_it(multiitem_run, pytestconfig): assert pytestconfig.getoption('model') == 7")
    if late:
        project.write("conftest.py", "pytest_plugins = ['other']\n")
        arguments = []
    else:
        arguments = ["-p", "other"]
    monkeypatch.syspath_prepend(project.path)
    result = project.run(*arguments, "--model=7", "--multiitem-model=DIR")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["multiitem: --model belongs to another plugin here; use --multiitem-model"])
    assert project.settings()["model"] == ("DIR", "command line")
