"""What a contributor is told exists, and the files that name the same thing agree."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import pytest_multiitem

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def nox_sessions() -> dict[str, list[str]]:
    """The functions of noxfile.py that are sessions, each with its Python versions."""
    found = {}
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body:
        for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
            versions = [ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg == "python"]
            found[node.name] = versions[0] or [] if versions else []
    return found


@pytest.mark.parametrize("text", [CONTRIBUTING, WORKFLOW], ids=["CONTRIBUTING.md", "ci.yml"])
def test_named_commands_exist(text: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"[`$] ?make ([a-z]+)", text)) <= set(targets)
    sessions = {name for names in re.findall(r"nox -s ([a-z_]+(?: [a-z_]+)*)", text) for name in names.split()}
    assert sessions
    assert sessions <= set(nox_sessions())
    assert set(re.findall(r"--group ([\w-]+)", text)) <= set(PROJECT["dependency-groups"])
    assert ".ci/run" in text


def test_every_supported_python_is_tested() -> None:
    classifiers = " ".join(PROJECT["project"]["classifiers"])
    supported = re.findall(r"Python :: (3\.\d+)", classifiers)
    assert nox_sessions()["suites"] == supported
    assert f"python: {supported}".replace("'", '"') in WORKFLOW


def test_the_package_ships_its_types() -> None:
    assert (Path(pytest_multiitem.__file__).parent / "py.typed").is_file()


def test_every_piece_of_news_has_a_kind() -> None:
    kinds = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    for path in (ROOT / "changelog.d").iterdir():
        assert path.name == "README.md" or re.fullmatch(rf"(\d+|\+[\w.-]+)\.({'|'.join(kinds)})\.md", path.name), path


def test_the_changelog_has_the_place_for_the_next_release() -> None:
    assert PROJECT["tool"]["towncrier"]["start_string"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
