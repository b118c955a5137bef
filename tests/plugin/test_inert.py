"""A project that uses nothing of the plugin does not notice it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from inner_project import Project

#: Names that the plugin knows, in the hands of a project that means something else by them.
FOREIGN = """
    import sys
    import pytest

    @pytest.fixture
    def backend():
        return "postgres"

    @pytest.fixture
    def serial_server():
        return "a serial port"

    @pytest.fixture
    def gate():
        return "of a garden"

    @pytest.mark.bench
    def test_own_marker(backend, gate):
        assert (backend, gate) == ("postgres", "of a garden")

    @pytest.mark.parity
    @pytest.mark.parametrize("mask", ["dense"])
    def test_own_fixture_of_the_same_name(serial_server, mask):
        assert serial_server == "a serial port"

    def test_not_run():
        pytest.skip("NOT ready")

    HEAVY = {"torch", "jax", "numpy", "httpx", "scipy", "jsonschema", "rich", "starlette"}

    def test_nothing_is_loaded():
        assert not HEAVY & set(sys.modules)
        assert not [name for name in sys.modules if name.startswith("pytest_multiitem.engine")]
"""


def test_no_line_no_file_no_import(project: Project) -> None:
    project.write("conftest.py", "")
    project.write("pytest.ini", "[pytest]\naddopts = --strict-markers\nmarkers =\n  bench: a bench in the garden\n")
    project.write("test_foreign.py", FOREIGN)
    # In a process of its own, without pytest-benchmark: that one may import what it likes.
    result = project.pytester.runpytest_subprocess("-p", "no:benchmark", "-p", "no:cacheprovider", "-v")
    result.assert_outcomes(passed=3, skipped=1)
    assert result.ret == 0
    # Its name in pytest's own list of plugins is all there is.
    assert not [line for line in result.outlines if "multi" in line and not line.startswith("plugins: ")]
    result.stdout.no_fnmatch_line("*NOT_RUN*")
    pytesters_own = {"stdout", "stderr", "runpytest-0", "runpytest-current", "__pycache__"}
    assert {path.name for path in project.path.iterdir()} - pytesters_own == {
        "conftest.py", "pytest.ini", "test_foreign.py",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "arguments", "status"),
    [
        ("def test_it(): pass", [], pytest.ExitCode.OK),
        ("def test_it(): assert False", [], pytest.ExitCode.TESTS_FAILED),
        ("", [], pytest.ExitCode.NO_TESTS_COLLECTED),
        ("def test_it(): pass", ["-k", "nothing"], pytest.ExitCode.NO_TESTS_COLLECTED),
        ("import nowhere_to_be_found", [], pytest.ExitCode.INTERRUPTED),
        ("import pytest\ndef test_it(): pytest.exit('enough', 42)", [], 42),
        ("def test_it(): pass", ["--collect-only"], pytest.ExitCode.OK),
        ("def test_it(): pass", ["-n", "1"], pytest.ExitCode.OK),
    ],
)
def test_exit_codes_are_pytests(project: Project, content: str, arguments: list[str], status: int) -> None:
    project.write("test_it.py", content)
    result = project.run(*arguments)
    assert result.ret == status
    result.stdout.no_fnmatch_line("*multi-item*")
    assert not project.runs


def test_own_benchmarks_are_not_switched_off(project: Project) -> None:
    project.write("test_it.py", "import pytest\n@pytest.mark.bench\ndef test_own(benchmark): benchmark(len, 'x')\n")
    project.run().assert_outcomes(passed=1)


def test_the_plugin_is_imported_in_no_time() -> None:
    code = """if True:
        import sys, time
        import pytest
        before = set(sys.modules)
        start = time.process_time()  # of this process alone: other tests run beside it
        import pytest_multiitem.plugin
        seconds = time.process_time() - start
        heavy = {"torch", "jax", "numpy", "httpx", "scipy"} & (set(sys.modules) - before)
        print(seconds, *heavy)
    """
    tries = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(5)
    ]
    assert {len(words) for words in tries} == {1}, f"imported: {tries}"
    assert min(float(words[0]) for words in tries) < 0.15
