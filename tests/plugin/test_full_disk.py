"""Where nothing can be written any more: the table is printed, one line says why, and no file is half written."""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from inner_project import REGRESSION, SMALL, Project, running, wait_until

from pytest_multiitem.results import store

GATES = ("-k", "test_same_length or test_changed_length")
MULTIITEM = (sys.executable, "-c", "from pytest_multiitem.cli import main; main()")
COMPARE = (
    *(*MULTIITEM, "-p", "fake_engine", "compare", "run", "--engine", "fake", "--mask-impl", "dense"),
    *("--multiitem-bench-items", "6", "--multiitem-bench-query-tokens", "30", "--multiitem-item-tokens", "5"),
    *("--multiitem-compare-chunk-sizes", "3,6", "--multiitem-views", "portable", "--multiitem-confirm-runs", "5"),
)
#: Fills the results' disk in one of pytest's hooks, named by FILL_AT.
FILLER = """
import os
from fake_engine import pytest_multiitem_engines

def fill(config):
    with (config.rootpath / "multiitem-results/filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1024)):
                pass
        except OSError:
            pass

def pytest_runtest_setup(item):
    if os.environ["FILL_AT"] == "pytest_runtest_setup":
        fill(item.config)

def pytest_runtest_teardown(item):
    if os.environ["FILL_AT"] == "pytest_runtest_teardown":
        fill(item.config)

def pytest_multiitem_update_matrix(config, matrix):
    if os.environ["FILL_AT"] == "pytest_multiitem_update_matrix":
        fill(config)
"""


@pytest.fixture
def small_disk(project: Project) -> Iterator[Callable[[int], Path]]:
    """Makes the results' directory a disk of so many KiB."""
    results = project.path / "multiitem-results"

    def make(size: int) -> Path:
        results.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(results)], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("a small disk cannot be mounted here: that needs root")
        return results

    yield make
    if results.is_mount():
        subprocess.run(["umount", "-l", str(results)], check=True)


def run(project: Project, *command: str, **more: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **more
    )  # type: ignore[call-overload]
    assert "Traceback" not in done.stdout and "INTERNALERROR" not in done.stdout, done.stdout
    return done


def pytest_run(project: Project, *arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    project.write("test_it.py", REGRESSION)
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *SMALL, *GATES, *arguments)
    return run(project, *command, **more)


def assert_whole(project: Project) -> None:
    """No process, nothing half written, and nothing that says how a run ended which could not be kept."""
    wait_until(lambda: not running(project.processes()), within=10)
    files = [path for path in project.path.glob("multiitem-results/**/*") if path.is_file()]
    assert not [path for path in files if ".draft" in path.name]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        if ".jsonl" in path.name:
            assert all(json.loads(line) for line in path.read_bytes().splitlines())


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["plain", "xdist"])
def test_a_disk_that_is_full_from_the_beginning_is_a_usage_error(
    project: Project, small_disk: Callable[[int], Path], workers: tuple[str, ...]
) -> None:
    results = small_disk(32)
    done = pytest_run(project, *workers)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert done.stdout.count("cannot write results to ") == 1
    assert "No space left on device; choose another place with --results-dir DIR" in done.stdout
    assert not [*results.iterdir()]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("pytest_runtest_setup", marks=pytest.mark.slow),
        "pytest_runtest_teardown",
        "pytest_multiitem_update_matrix",
    ],
)
def test_a_disk_that_fills_up(
    project: Project, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the first gate, after it, and when all are measured."""
    results = small_disk(1024)
    project.write("conftest.py", FILLER)
    monkeypatch.setenv("FILL_AT", moment)
    done = pytest_run(project)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "multi-item scoring validation" in done.stdout and "gates: " in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("error: "))
    assert "matrix.json: No space left on device; free some space there, or choose another place" in line
    assert not [*results.glob("*/matrix.json"), *results.glob("*/report.md"), *results.glob("latest")]
    assert_whole(project)
    if moment == "pytest_multiitem_update_matrix":  # the raw samples are kept
        assert [*results.glob("*/.samples.jsonl-main")] and "gates: 2 PASS" in done.stdout


@pytest.mark.slow
def test_a_disk_that_fills_up_under_xdist(
    project: Project, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_disk(1024)
    project.write("conftest.py", FILLER)
    monkeypatch.setenv("FILL_AT", "pytest_runtest_teardown")
    done = pytest_run(project, "-n", "2")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "gates: " in done.stdout and "error: cannot write " in done.stdout
    assert_whole(project)


def test_files_that_may_not_grow(project: Project) -> None:
    """As a small quota, on any machine."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    done = pytest_run(project, preexec_fn=limit)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert "cannot write results to " in done.stdout and "File too large" in done.stdout


def test_results_that_somebody_removes_under_way(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        import shutil
        from fake_engine import pytest_multiitem_engines

        def pytest_runtest_teardown(item):
            shutil.rmtree(item.config.rootpath / "multiitem-results", ignore_errors=True)
        """,
    )
    done = pytest_run(project)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "make it, and do not remove it during a run" in done.stdout and "gates: " in done.stdout
    assert_whole(project)


@pytest.mark.parametrize("size", [pytest.param(96, marks=pytest.mark.slow), 150])
def test_a_comparison_on_a_small_disk(project: Project, small_disk: Callable[[int], Path], size: int) -> None:
    """While it measures, and when it writes its report: what was measured is shown in either case."""
    small_disk(size)
    done = run(project, *COMPARE)
    assert done.returncode == 2, done.stdout
    *_, last = done.stdout.splitlines()
    assert last.startswith("multiitem: cannot write ") and "No space left on device" in last
    assert "client chunk size" in done.stdout and "correct" in done.stdout
    assert_whole(project)


@pytest.mark.slow
@pytest.mark.parametrize("size", range(64, 244, 4))
def test_every_size_of_a_disk(project: Project, small_disk: Callable[[int], Path], size: int) -> None:
    """A run, and a comparison beside it, on disks that are full a little later each."""
    results = small_disk(size)
    first = pytest_run(project)
    assert first.returncode in (0, 1, 4), first.stdout
    recorded = {store.read_matrix(path).exit_status for path in results.glob("*/matrix.json")}
    assert recorded == {first.returncode} or (first.returncode and not recorded), first.stdout
    assert first.returncode == 4 or "gates: " in first.stdout
    assert first.returncode == 0 or "cannot write " in first.stdout
    assert_whole(project)
    second = run(project, *COMPARE)
    assert second.returncode in (0, 1, 2), second.stdout
    assert second.returncode == 0 or "cannot write " in second.stdout
    assert_whole(project)


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the embedded engine needs torch")


@pytest.fixture
def no_cache(project: Project, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cache directory that cannot be made."""
    project.write("taken", "a file")
    monkeypatch.setenv("MULTIITEM_CACHE_DIR", str(project.path / "taken/cache"))
    return "generated checkpoints to "


@needs_torch
@pytest.mark.parametrize(
    "words",
    [
        ("serve", "--backend", "pytorch", "--port", "0"),
        pytest.param(("power", "--backend", "pytorch"), marks=pytest.mark.slow),
        ("compare", "run", "--backend", "pytorch"),
        pytest.param(
            ("ab", "--a", "MULTI_ITEM_MASK_IMPL=dense", "--b", "MULTI_ITEM_MASK_IMPL=segment", "--backend", "pytorch"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda words: words[0],
)
def test_a_cache_that_cannot_be_made(project: Project, no_cache: str, words: tuple[str, ...]) -> None:
    done = run(project, *MULTIITEM, *words)
    assert done.returncode == 2, done.stdout
    (line,) = (line for line in done.stdout.splitlines() if "cannot write" in line)
    assert "Not a directory; choose another place with MULTIITEM_CACHE_DIR" in line
    assert words[0] == "serve" or no_cache in line


@needs_torch
@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["plain", "xdist"])
def test_a_cache_that_cannot_be_made_is_a_usage_error(
    project: Project, no_cache: str, workers: tuple[str, ...]
) -> None:
    project.write("test_it.py", REGRESSION)
    done = run(project, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--backend", "pytorch", *workers)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert done.stdout.count(f"cannot write {no_cache}") == 1
