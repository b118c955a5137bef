"""The fixture ``multiitem_tpu_check``, and the suite's own use of the compile gate."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from inner_project import REGRESSION, Project

KERNELS = Path(__file__).parents[1] / "tpu" / "segment_kernels.py"
#: JAX alone, one chip: a second or two a check.
QUICK = ("--multiitem-tpu-tier=lower", "--multiitem-tpu-chips=v6e")
WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["plain", "xdist"])

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX"),
    pytest.mark.slow,
]


@pytest.fixture
def kernels(project: Project) -> Project:
    """A project with kernels of its own, beside its tests."""
    project.write("segment_kernels.py", KERNELS.read_text(encoding="utf-8"))
    return project


@WORKERS
def test_a_kernel_of_the_project(kernels: Project, workers: tuple[str, ...]) -> None:
    kernels.write(
        "test_kernels.py",
        """
        import pytest
        from pytest_multiitem.compile_gates.records import Report

        def test_passes(multiitem_tpu_check):
            report = multiitem_tpu_check("segment_kernels:working", {"rows": 128}, {"rows": 256})
            assert isinstance(report, Report) and report.verdict == "PASS" and len(report.checks) == 6

        def test_fails(multiitem_tpu_check):
            multiitem_tpu_check("segment_kernels:integer_gather")

        def test_is_not_there(multiitem_tpu_check):
            multiitem_tpu_check("segment_kernels:workin")

        @pytest.mark.multiitem_gate("segment_lowers")
        def test_gate(multiitem_tpu_check):
            multiitem_tpu_check("segment_kernels:integer_gather")
        """,
    )
    result = kernels.run(*QUICK, *workers)
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "FAIL: segment_kernels:integer_gather: lower FAIL: v6e: it does not lower: *",
            "*segment_kernels has no function 'workin' (did you mean 'working'[?]); *",
            "FAIL: segment_lowers: compile gate, no real run: lower FAIL: v6e: it does not lower: *",
        ]
    )
    record = kernels.gate("segment_lowers")
    assert record["verdict"] == "FAIL" and record["details"]["evidence"] == ["compile gate"]
    (check,) = (c for c in record["details"]["tpu"]["checks"] if c["role"] == "kernel")
    assert "Traceback" in check["error"]
    assert "| integer_gather defaults | lower | v6e | FAIL |" in kernels.report


def test_a_function_of_the_test_module(kernels: Project) -> None:
    """The child process imports it from where this one does."""
    kernels.write(
        "tests/test_kernels.py",
        """
        def case():
            import jax
            from jax.experimental import pallas as pl
            tile = jax.ShapeDtypeStruct((8, 128), "float32")
            def kernel(tile, out):
                out[...] = tile[...] + 1.0
            return pl.pallas_call(kernel, out_shape=tile), (tile,)

        def test_it(multiitem_tpu_check):
            multiitem_tpu_check(case)

        def test_inner(multiitem_tpu_check):
            multiitem_tpu_check(lambda: None)
        """,
    )
    result = kernels.run(*QUICK)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*is not a function of a module; *define it at the top level of a module"])


@pytest.mark.parametrize(
    ("options", "outcome", "verdict"),
    [
        ((), "skipped", "NOT_RUN"),
        (("--require=segment_lowers",), "failed", "NOT_RUN"),
    ],
)
def test_what_cannot_be_told_is_not_run(kernels: Project, options: tuple[str, ...], outcome: str, verdict: str) -> None:
    kernels.write("broken_kernels.py", "import no_such_package\n")
    kernels.write(
        "test_kernels.py",
        """
        import pytest

        @pytest.mark.multiitem_gate("segment_lowers")
        def test_gate(multiitem_tpu_check):
            multiitem_tpu_check("broken_kernels:case")

        def test_plain(multiitem_tpu_check):
            multiitem_tpu_check("broken_kernels:case")
        """,
    )
    result = kernels.run(*QUICK, *options)
    result.assert_outcomes(**({"skipped": 2} if outcome == "skipped" else {"skipped": 1, "failed": 1}))
    assert kernels.gate("segment_lowers")["verdict"] == verdict
    assert "No module named 'no_such_package'" in kernels.gate("segment_lowers")["reason"]


@pytest.mark.parametrize(("options", "outcome"), [((), "failed"), (("--allow-inconclusive",), "skipped")])
def test_a_gate_that_tells_nothing_fails_unless_it_may(
    kernels: Project, options: tuple[str, ...], outcome: str
) -> None:
    kernels.write(
        "test_kernels.py",
        """
        from pytest_multiitem.compile_gates.tpu import gate

        def test_it(multiitem_tpu_check, monkeypatch):
            monkeypatch.setattr(gate, "_CONTROLS", {"lower": ()})
            multiitem_tpu_check("segment_kernels:working")
        """,
    )
    # In a process of its own: what is patched there must be what is used there.
    result = kernels.pytester.runpytest_subprocess(*QUICK, *options)
    result.assert_outcomes(**{outcome: 1})


@WORKERS
@pytest.mark.parametrize(
    ("kernel", "outcome", "verdict"), [("working", "passed", "PASS"), ("integer_gather", "failed", "FAIL")]
)
def test_the_suite_compiles_the_kernel_of_the_settings(
    kernels: Project, workers: tuple[str, ...], kernel: str, outcome: str, verdict: str
) -> None:
    """An engine that names its kernel: the real run is on a CPU, so the compile gate decides."""
    kernels.write("test_it.py", REGRESSION)
    result = kernels.run(
        *QUICK, *workers, f"--multiitem-tpu-kernel=segment_kernels:{kernel}", "--engine=fake", "--backend=jax",
        "--mask-impl=segment", "-k", "runs_on_tpu", "-m", "tpu_segment",
    )  # fmt: skip
    result.assert_outcomes(**{outcome: 1}, deselected=result.parseoutcomes().get("deselected", 0))
    record = kernels.gate("segment_lowers")
    assert (record["verdict"], record["mask_attested"]) == (verdict, "segment")
    assert record["reason"].startswith("compile gate")
    assert record["details"]["evidence"] == ["compile gate"]


def test_the_kernel_of_this_package_is_not_that_of_another_engine(kernels: Project) -> None:
    kernels.write("test_it.py", REGRESSION)
    result = kernels.run("--engine=fake", "--backend=jax", "--mask-impl=segment", "-k", "runs_on_tpu")
    assert result.parseoutcomes().get("skipped") == 1
    record = kernels.gate("segment_lowers")
    assert record["reason"].startswith("no accelerator: ") and "tpu" not in record["details"]


def test_a_kernel_that_does_not_exist_is_an_error_of_the_gate(kernels: Project) -> None:
    kernels.write("test_it.py", REGRESSION)
    kernels.run(
        *QUICK, "--multiitem-tpu-kernel=segment_kernels:none", "--engine=fake", "--backend=jax",
        "--mask-impl=segment", "-k", "runs_on_tpu",
    )  # fmt: skip
    record = kernels.gate("segment_lowers")
    assert record["verdict"] == "ERROR" and "has no function 'none'" in record["reason"]


def test_a_run_without_the_fixture_loads_nothing_of_the_gate(kernels: Project) -> None:
    kernels.write(
        "test_it.py",
        "def test_it():\n    import sys\n    assert 'pytest_multiitem.children.process' not in sys.modules",
    )
    result = kernels.pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
