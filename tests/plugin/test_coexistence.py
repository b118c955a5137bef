"""Other plugins, all loaded at once, each doing its own work beside ours."""

from __future__ import annotations

import json

import pytest
from inner_project import REGRESSION, SMALL, Project, without

OTHERS = """
    import asyncio
    import time
    import pytest

    def test_a_benchmark_of_their_own(benchmark):
        assert benchmark(sum, [1, 2]) == 3

    @pytest.mark.asyncio
    async def test_async():
        await asyncio.sleep(0)

    @pytest.mark.timeout(5)
    def test_in_time():
        pass

    @pytest.fixture
    def backend():
        return "postgres"

    def test_own_fixture(backend):
        assert backend == "postgres"
"""


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["plain", "xdist"])
def test_all_together(project: Project, monkeypatch: pytest.MonkeyPatch, workers: list[str]) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", without("hypothesispytest"))  # slow to load
    project.write("pytest.ini", "[pytest]\naddopts = --strict-markers --strict-config\ntimeout = 60\n")
    project.write("test_others.py", OTHERS)
    project.write("test_it.py", REGRESSION)
    # A process of its own: coverage is measured in this one, perhaps.
    result = project.pytester.runpytest_subprocess(
        *SMALL, "-k", "others or same_length", "--cov=test_others", "--cov-report=json",
        "--benchmark-json=times.json", *workers,
    )  # fmt: skip
    assert result.ret == 0, "\n".join(result.outlines)
    assert result.parseoutcomes()["passed"] == 4 + 1
    assert project.matrix["summary"]["PASS"] == 1
    loaded = next(line for line in result.outlines if line.startswith("plugins: "))
    for name in ("asyncio", "benchmark", "cov", "timeout", "xdist", "multiitem"):
        assert f"{name}-" in loaded
    assert {t["nodeid"].partition("::")[0] for t in project.matrix["tests"]} == {"test_it.py"}
    coverage = json.loads((project.path / "coverage.json").read_bytes())
    assert coverage["totals"]["percent_covered"] == 100
    if not workers:  # pytest-benchmark switches itself off under xdist
        (timed,) = json.loads((project.path / "times.json").read_bytes())["benchmarks"]
        assert timed["name"] == "test_a_benchmark_of_their_own"
    assert not project.processes()


def test_a_timeout_of_a_test_is_a_fail_of_its_gate(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", without("hypothesispytest", "asyncio"))
    project.write(
        "test_it.py",
        """
        import time
        import pytest

        @pytest.mark.timeout(0.3)
        @pytest.mark.multiitem_gate("segment_lowers")
        def test_hangs(multiitem_gate):
            time.sleep(30)
        """,
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    record = project.gate("segment_lowers")
    assert record["verdict"] == "FAIL" and "Timeout" in record["reason"]


def test_stopping_at_the_first_failure_still_writes(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest

        def test_a(multiitem_run):
            assert False

        @pytest.mark.multiitem_gate("segment_lowers")
        def test_b(multiitem_gate):
            assert False
        """,
    )
    result = project.run("-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    record = project.gate("segment_lowers")
    assert (record["verdict"], record["reason"]) == ("NOT_RUN", "the run ended before this test")
    assert [t["outcome"] for t in project.matrix["tests"]] == ["failed", "not reached"]
