"""The documentation agrees with the code, and its links lead somewhere."""

from __future__ import annotations

import argparse
import re
import runpy
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from release_gates import RELEASED

import pytest_multiitem
from pytest_multiitem.engine.launch_line import add_arguments
from pytest_multiitem.engine.scorer import Executed
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results import counterexample, records
from pytest_multiitem.scoring.modes import MODES
from pytest_multiitem.scoring.wire.decisions import DecisionAnswer, DecisionRequest
from pytest_multiitem.scoring.wire.rerank import RerankRequest
from pytest_multiitem.scoring.wire.score import ScoreRequest, ScoreResponse

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))]
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
    """The table is the code's; a gate that is new gets its row when the page is written again."""
    text = page("reference/gates.md")
    table = generate["gates_table"]().splitlines()
    _, _, after = text.partition("<!-- gates: written by docs/generate.py -->\n")
    listed = after.partition("<!-- end -->")[0].splitlines()
    assert [row for row in table if row in listed] == listed, REGENERATE
    assert {f"`{name}`" for name in RELEASED} <= {row.split()[1] for row in listed}, REGENERATE
    written = generate["with_gates_table"](text)
    assert written == text.replace("\n".join(listed), "\n".join(table))


def test_modes_are_what_the_code_has(generate: dict[str, Any]) -> None:
    text = page("reference/server.md")
    assert generate["with_modes"](text) == text, REGENERATE
    assert not [mode.name for mode in MODES if f"\n| `{mode.name}` |" not in text]


def test_every_field_of_the_servers_messages_is_listed() -> None:
    text = page("reference/server.md")
    for message in (ScoreRequest, ScoreResponse, RerankRequest, DecisionRequest, DecisionAnswer):
        assert not [name for name in message.__struct_fields__ if name != "id" and f"{name}" not in text], message


def test_modes_of_engines_are_what_their_adapters_declare(generate: dict[str, Any]) -> None:
    text = page("guides/real-engines.md")
    assert generate["with_engines"](text) == text, REGENERATE
    row = next(line for line in text.splitlines() if line.startswith("| `generative_scoring` |"))
    names = "classify, embedded, rerank, sgl-jax, sglang, vllm"
    assert row == "| `generative_scoring` | – | – | – | – | – | measured |", names


def test_kinds_of_files_and_of_details_are_what_the_code_has(generate: dict[str, Any]) -> None:
    text = page("reference/results.md")
    assert generate["with_schemas"](text) == text, REGENERATE


def test_speed_of_the_engines_is_what_was_measured(generate: dict[str, Any]) -> None:
    paths = [DOCS / "reference/engine-speed.json", *sorted(DOCS.glob("reference/engine-speed-*.json"))]
    again = f"run: python docs/generate.py --engine-speed {' '.join(map(str, paths))}"
    expected = generate["engine_speed_page"](*(path.read_bytes() for path in paths))
    assert page("reference/engine-speed.md") == expected, again


@pytest.mark.parametrize("gate", gates().values(), ids=lambda gate: gate.name)
def test_every_gate_is_explained(gate: Gate) -> None:
    """What is released has a section; what is new is explained by how it is measured."""
    explained = f"### `{gate.name}`" in page("reference/gates.md")
    assert explained or (gate.name not in RELEASED and gate.measure.__doc__)


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
    files = [*(package() / "scoring" / "wire").glob("*.py"), *(package() / "engine").rglob("*.py")]
    for source in (file.read_text(encoding="utf-8") for file in files):
        found |= set(re.findall(r'WireError\(\s*(\d+),\s*"(\w+)"', source))
        found |= {("400", code) for code in re.findall(r'mistyped\(\s*"(\w+)"', source)}
    assert len(found) > 10
    assert not [(status, code) for status, code in found if not re.search(rf"\| {status} \| .*`{code}`", text)]


def test_every_counter_of_the_server_is_listed() -> None:
    text = page("reference/server.md")
    assert not [name for name in asdict(Executed()) if f"`{name}`" not in text]


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


def test_every_page_is_on_the_site() -> None:
    """`make docs` would only say so on a machine that has its tools."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": ([\w/-]+\.md)$", site, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert re.search(r"^strict: true$", site, re.MULTILINE) and re.search(r"^  font: false", site, re.MULTILINE)
    assert "repo_url:" not in re.sub(r"#.*", "", site), "with it, a page asks the host of the repository for its stars"


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 150
    test_links_lead_somewhere(readme)


def test_the_architecture_is_what_the_linter_holds() -> None:
    """The rooms of the page, row by row, are the layers of the contract."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    table = page("explanation/architecture.md").partition("| rooms | what lives there |\n| --- | --- |\n")[2]
    rows = [line.split("|")[1] for line in table.partition("\n\n")[0].splitlines()]
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [layer.split(" | ") for layer in layers]


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{pytest_multiitem.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as hosts of Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def package() -> Path:
    return Path(pytest_multiitem.__file__).parent
