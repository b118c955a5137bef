"""A project adds an engine, a gate, a fault and a report format: one file each, in pytest and on the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from inner_project import FAKE, SMALL, Project

import pytest_multiitem
from pytest_multiitem.adapters.base import ENGINES
from pytest_multiitem.faults.catalogue import FAULTS, catalogue, server_environment
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.reports.formats import FORMATS

GUIDES = Path(__file__).parents[2] / "docs/guides"

#: An engine whose servers have a mask of their own name.
ENGINE = """
    import dataclasses
    import sys
    from fake_engine import FakeEngine

    SERVER = '''if True:
        import fake_server

        class Server(fake_server.Server):
            def info(self):
                info = super().info()
                for name in ("packed_sequences", "packed_items"):
                    counts = info["executed"][name]
                    info["executed"][name] = {**counts, "flex": counts["dense"], "dense": 0}
                return {**info, "multi_item_mask_impl": "flex"}

        fake_server.Server = Server
        fake_server.main()
    '''

    class OwnEngine(FakeEngine):
        name = "own"
        backends = ("rocm",)
        masks = ("flex",)

        def launch(self, profile, settings):
            packed = profile.role == "multi"
            spec = super().launch(dataclasses.replace(profile, mask_impl="dense" if packed else None), settings)
            command = (sys.executable, "-c", SERVER, *spec.command[2:]) if packed else spec.command
            return dataclasses.replace(spec, label=profile.label, command=command)

    ENGINE = OwnEngine()
"""
GATE = """
    from pytest_multiitem.gates.gate import Gate

    OWN = Gate("rows_sum_to_one", "how far a row of scores is from a sum of 1", "<=", 1e-5)
    GATES = (OWN,)
"""
REPORT = """
    from pytest_multiitem.reports.formats import ReportFormat

    def render(matrix):
        return "".join(f"{gate.gate},{gate.verdict.value}\\n" for gate in matrix.gates)

    FORMAT = ReportFormat("tsv", "gates.tsv", render)
"""
FAULT = '''
    from pytest_multiitem.faults.wire import ScoresFault

    class Halved(ScoresFault):
        """Every score is a fraction of what it should be."""

        name = "scores_halved"
        strengths = (0.5, 0.9)

        def scores(self, request, rows):
            return rows * self.strength
'''
#: What each file needs to be a plugin of a project's.
HOOKS = {
    "own_engine": ENGINE + "\n    def pytest_multiitem_engines():\n        return [ENGINE]\n",
    "own_gate": GATE + "\n    def pytest_multiitem_gates():\n        return [OWN]\n",
    "own_report": REPORT + "\n    def pytest_multiitem_report_formats():\n        return [FORMAT]\n",
    "own_fault": FAULT + "\n    def pytest_multiitem_faults():\n        return [Halved]\n",
}
#: A test of the gate's; a gate that says how it is measured needs none.
TEST = """
    import numpy as np
    import pytest
    from pytest_multiitem.gates.record import Measurement

    @pytest.mark.multiitem_gate("rows_sum_to_one")
    def test_rows(multiitem_gate, multi_item_server):
        def measure(gate):
            with multi_item_server.attest() as attestation:
                scores = multi_item_server.score_ids([11, 12], [[13], [14, 15]], [9454, 2753])
            error = float(np.abs(scores.sum(axis=1) - 1).max())
            return Measurement(multi_item_server, error, attestation=attestation)

        multiitem_gate.check(measure)
"""
OWN = ("--engine=own", "--multiitem-startup-timeout=20", "--multiitem-property-examples=20")


def loaded_by_conftest(project: Project) -> tuple[str, ...]:
    project.write("conftest.py", "pytest_plugins = ['own_engine', 'own_gate', 'own_report', 'own_fault']\n")
    return ()


def loaded_by_option(project: Project) -> tuple[str, ...]:
    return tuple(word for name in HOOKS for word in ("-p", name))


def loaded_by_entry_point(project: Project) -> tuple[str, ...]:
    lines = "".join(f"{name} = {name}\n" for name in HOOKS)
    project.write("own-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    project.write("own-1.0.dist-info/entry_points.txt", f"[pytest_multiitem]\n{lines}")
    return ()


@pytest.fixture
def own(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the four files beside its tests, and nothing that loads them yet."""
    monkeypatch.syspath_prepend(project.path)
    monkeypatch.setenv("PYTHONPATH", str(project.path), prepend=os.pathsep)
    project.write("conftest.py", "")
    for name, text in HOOKS.items():
        project.write(f"{name}.py", text)
    project.write("test_it.py", TEST)
    return project


def multiitem(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pytest_multiitem.cli import main; main()", *words]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "load", [loaded_by_conftest, loaded_by_option, loaded_by_entry_point], ids=["conftest", "option", "entry-point"]
)
def test_in_pytest(own: Project, load: Callable[[Project], tuple[str, ...]]) -> None:
    result = own.run(*load(own), *OWN, "--backend=rocm", "--mask-impl=flex", "--require=rows_sum_to_one")
    assert result.ret == 0, "\n".join(result.outlines)
    assert own.verdicts == {"rows_sum_to_one": ["PASS"]}
    (record,) = own.matrix["gates"]
    assert record["engine"] == "own" and record["nodeid"] == "test_it.py::test_rows[rocm-flex]"
    assert record["mask_requested"] == record["mask_attested"] == "flex" and record["backend"] == "rocm"
    assert (own.runs[-1] / "gates.tsv").read_text() == "rows_sum_to_one,PASS\n"
    assert (own.runs[-1] / "report.md").exists(), "the others are written as well"
    known = {*ENGINES.all(), *gates(), *catalogue(), *FORMATS.all()}
    assert not known & {"own", "rows_sum_to_one", "scores_halved", "tsv"}, "the run took them away again"


def test_with_xdist(own: Project) -> None:
    result = own.run(*loaded_by_option(own), *OWN, "-n", "2")
    assert result.ret == 0, "\n".join(result.outlines)
    assert own.verdicts == {"rows_sum_to_one": ["PASS"]}


def test_what_nobody_loads_is_not_known(own: Project) -> None:
    result = own.run(*SMALL[1:])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "multiitem_gate names 'rows_sum_to_one'; expected one of" in "\n".join(result.errlines)


@pytest.mark.parametrize("form", ["option", "variable"])
def test_on_the_command_line(own: Project, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    assert own.run("-p", "own_engine", "-p", "own_gate", *OWN).ret == 0
    plugins: tuple[str, ...] = ()
    if form == "option":
        plugins = ("-p", "own_report", "-p", "own_fault")
    else:
        monkeypatch.setenv("MULTI_ITEM_PLUGINS", "own_report,own_fault")
    monkeypatch.delenv("PYTHONPATH")  # the current directory is looked at
    monkeypatch.setenv("PYTHONPATH", str(Path(pytest_multiitem.__file__).parents[1]))
    report = multiitem(own.path, *plugins, "report", "--format", "tsv")
    assert report.stdout == "rows_sum_to_one,PASS\n", report.stderr
    known = multiitem(own.path, *plugins, "faults")
    assert any("scores_halved" in line and "0.5, 0.9" in line for line in known.stdout.splitlines()), known.stderr


def test_the_command_line_knows_the_engine(own: Project) -> None:
    small = ("--multiitem-bench-items=4", "--multiitem-bench-query-tokens=20", "--multiitem-item-tokens=4",
             "--multiitem-compare-chunk-sizes=4", "--multiitem-bench-timed-runs=5", "--multiitem-confirm-runs=5",
             "--multiitem-views=portable", "--backend=rocm", "--mask-impl=flex")  # fmt: skip
    without = multiitem(own.path, "compare", "run", "--engine=own", *small)
    assert without.returncode == 2 and "'rocm' is not valid" in without.stderr
    done = multiitem(own.path, "-p", "own_engine", "compare", "run", "--engine=own", *small)
    assert "results: multiitem-results/" in done.stdout, done.stderr
    (path,) = own.path.glob("multiitem-results/**/rocm_portable_matrix.json")
    matrix = json.loads(path.read_bytes())
    assert matrix["backend"] == "rocm" and matrix["complete"]
    assert matrix["mask_requested"] == "flex" and matrix["server_config"]["engine"] == "own"


@pytest.fixture
def guides(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the modules that the guides show."""
    monkeypatch.syspath_prepend(project.path)
    monkeypatch.setenv("PYTHONPATH", str(project.path), prepend=os.pathsep)
    for page in GUIDES.glob("add-a*.md"):
        blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert blocks, page
        for name, code in blocks:
            project.write(name, code)
    return project


def test_the_code_of_the_guides_runs(guides: Project) -> None:
    result = guides.run(*SMALL, "-p", "my_gate", "-p", "my_report", "-p", "my_fault", "-p", "my_engine", "test_mine.py")
    assert result.ret == 0, "\n".join(result.outlines)
    assert guides.verdicts == {"rows_sum_to_one": ["PASS"]}
    rows = (guides.runs[-1] / "gates.tsv").read_text().splitlines()
    assert rows[0] == "gate\tbackend\tverdict\tvalue"
    assert rows[1].startswith("rows_sum_to_one\tpytorch\tPASS\t")
    assert "scores_halved" in multiitem(guides.path, "-p", "my_fault", "faults").stdout


@pytest.mark.slow
def test_the_engine_of_the_guide_runs(guides: Project) -> None:
    pytest.importorskip("torch")
    result = guides.pytester.runpytest_subprocess(
        "-p", "my_engine", "-p", "my_gate", "--engine=my-engine", "test_mine.py"
    )
    assert result.ret == 0, "\n".join(result.outlines)
    assert guides.matrix["gates"][0]["backend"] == "rocm"


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    done = multiitem(tmp_path, "-p", "nowhere.at_all", "faults")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("multiitem: plugin nowhere.at_all: cannot import it: No module named 'nowhere'")


def test_one_name_twice_names_both(own: Project) -> None:
    own.write("other_engine.py", HOOKS["own_engine"])
    result = own.run("-p", "own_engine", "-p", "other_engine", *OWN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "two engines are called 'own': one of own_engine, one of other_engine; rename one"
    assert said in "\n".join(result.errlines)
    done = multiitem(own.path, "-p", "own_engine", "-p", "other_engine", "faults")
    assert done.returncode == 2 and said in done.stderr


def test_a_name_of_this_package_is_taken(own: Project) -> None:
    own.write("own_fault.py", HOOKS["own_fault"].replace("scores_halved", "causal"))
    result = own.run("-p", "own_fault", *SMALL)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "two faults are called 'causal': one of pytest-multiitem, one of own_fault" in "\n".join(result.errlines)


def test_a_thing_without_a_name(own: Project) -> None:
    own.write("own_gate.py", "def pytest_multiitem_gates():\n    return [object()]\n")
    result = own.run("-p", "own_gate", *SMALL)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "own_gate gives <object object" in "\n".join(result.errlines)


def test_a_servers_process_knows_the_fault(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import own_fault

    assert server_environment() == {}, "without a fault of the project's a server starts as ever"
    undo = FAULTS.extend([own_fault.Halved])
    try:
        changes = server_environment()
    finally:
        undo()
    code = (
        "import sys; from pytest_multiitem.faults.active import ActiveFaults; "
        "print(ActiveFaults.parse(['scores_halved']).labels)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **changes}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "['scores_halved=0.5']\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("where", ["command-line", "pytest"])
def test_the_kill_matrix_measures_the_fault(own: Project, where: str) -> None:
    pytest.importorskip("torch")
    chosen = ("--backend=pytorch", "--power-faults=scores_halved", "--multiitem-items=32")
    if where == "pytest":
        own.write("test_it.py", "def test_nothing(): pass\n")
        own.pytester.runpytest_subprocess("-p", "own_fault", "--power", *chosen, "-k", "fault_is_killed")
        assert own.gate("fault_is_killed")["verdict"] == "PASS"
    else:
        multiitem(own.path, "-p", "own_fault", "power", *chosen)
    (path,) = own.path.glob("multiitem-results/**/kill_matrix.json")
    builds = {build["label"]: build for build in json.loads(path.read_bytes())["builds"]}
    assert builds["scores_halved=0.5"]["as_expected"] is True
    assert "delimiter_aligned_equiv_le_0p02" in builds["scores_halved=0.5"]["killed_by"]


def test_inside_the_package(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One new file in its room, and no edit elsewhere."""
    package = tmp_path_factory.mktemp("copy") / "pytest_multiitem"
    shutil.copytree(Path(pytest_multiitem.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for room, text in (("adapters", ENGINE), ("gates", GATE), ("reports/formats", REPORT), ("faults", FAULT)):
        project.write(str(package / room / "own.py"), text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), str(FAKE)]))
    project.write("conftest.py", "")
    project.write("test_it.py", TEST)
    result = project.pytester.runpytest_subprocess(*OWN, "--require=rows_sum_to_one")
    assert result.ret == 0, "\n".join(result.outlines)
    assert project.verdicts == {"rows_sum_to_one": ["PASS"]}
    assert multiitem(project.path, "report", "--format", "tsv").stdout == "rows_sum_to_one,PASS\n"
    assert "scores_halved" in multiitem(project.path, "faults").stdout
