"""The documentation agrees with the code, and its links lead somewhere."""

from __future__ import annotations

import argparse
import re
import runpy
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pytest_multiitem
from pytest_multiitem.engine.scorer import Executed
from pytest_multiitem.engine.serve import add_arguments
from pytest_multiitem.gates.registry import gate_names
from pytest_multiitem.results import counterexample, records

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "CHANGELOG.md"]
REGENERATE = "run: python docs/generate.py"


@pytest.fixture(scope="module")
def generate() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "generate.py"))


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_options_are_what_the_code_has(generate: dict[str, Any]) -> None:
    assert page("reference/options.md") == generate["options_page"](), REGENERATE


def test_files_of_a_comparison_are_what_the_code_has(generate: dict[str, Any]) -> None:
    assert page("reference/comparison-files.md") == generate["comparison_page"](), REGENERATE


def test_gates_are_what_the_code_has(generate: dict[str, Any]) -> None:
    text = page("reference/gates.md")
    assert generate["gates_table"]() in text, REGENERATE
    assert generate["with_gates_table"](text) == text, REGENERATE


def test_kinds_of_files_and_of_details_are_what_the_code_has(generate: dict[str, Any]) -> None:
    text = page("reference/results.md")
    assert generate["with_schemas"](text) == text, REGENERATE


def test_speed_of_the_engines_is_what_was_measured(generate: dict[str, Any]) -> None:
    paths = [DOCS / "reference/engine-speed.json", *sorted(DOCS.glob("reference/engine-speed-*.json"))]
    again = f"run: python docs/generate.py --engine-speed {' '.join(map(str, paths))}"
    expected = generate["engine_speed_page"](*(path.read_bytes() for path in paths))
    assert page("reference/engine-speed.md") == expected, again


@pytest.mark.parametrize("gate", gate_names())
def test_every_gate_is_explained(gate: str) -> None:
    assert f"### `{gate}`" in page("reference/gates.md")


@pytest.mark.parametrize(
    "record",
    [
        records.Matrix, records.GateRecord, records.BenchmarkRecord, records.ServerRecord, records.SettingRecord,
        records.TestRecord, counterexample.Counterexample, counterexample.Server,
    ],
    ids=lambda record: record.__name__,
)  # fmt: skip
def test_every_field_of_the_results_is_explained(record: type[msgspec.Struct]) -> None:
    text = page("reference/results.md")
    missing = [name for name in record.__struct_fields__ if f"`{name}`" not in text]
    assert not missing


def test_every_kind_of_sample_is_explained() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in package().rglob("*.py"))
    kinds = set(re.findall(r'"kind": "([^"]+)"', source))
    assert kinds
    text = page("reference/results.md")
    assert not [kind for kind in kinds if f"`{kind}`" not in text]


def test_every_flag_of_the_server_is_listed() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    text = page("reference/server.md")
    assert not [flag for flag in flags if f"`{flag}" not in text]


def test_every_error_code_of_the_server_is_listed() -> None:
    text = page("reference/server.md")
    found: set[tuple[str, str]] = set()
    for name in ("scoring/wire.py", "engine/scorer.py", "engine/app.py"):
        source = (package() / name).read_text(encoding="utf-8")
        found |= set(re.findall(r'WireError\(\s*(\d+),\s*"(\w+)"', source))
    assert len(found) > 10
    assert not [(status, code) for status, code in found if not re.search(rf"\| {status} \| .*`{code}`", text)]


def test_every_counter_of_the_server_is_listed() -> None:
    text = page("reference/server.md")
    assert not [name for name in Executed().snapshot() if f"`{name}`" not in text]


@pytest.mark.parametrize("source", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(source: Path) -> None:
    text = re.sub(r"```.*?```", "", source.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (source.parent / path).resolve() if path else source
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("source", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_page_is_on_the_map(source: Path) -> None:
    relative = source.relative_to(DOCS).as_posix()
    assert relative == "index.md" or f"({relative})" in page("index.md")


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{pytest_multiitem.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as hosts of Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def package() -> Path:
    return Path(pytest_multiitem.__file__).parent
