"""The compile gate with libtpu: our kernel compiles for every chip, broken ones for none.

``make tpu`` installs libtpu apart from the environment and runs these.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pytest_multiitem.compile_gates.records import Report
from pytest_multiitem.compile_gates.tpu import gate
from pytest_multiitem.compile_gates.tpu.gate import Wanted, check_kernel
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.settings.chips import CHIPS, DEFAULT_CHIPS

HERE = Path(__file__).parent
OURS = "pytest_multiitem.engine.segment_kernel"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX")


def checked(libtpu: Path | None, kernel: str, **change: object) -> Report:
    return check_kernel(Wanted(kernel, libtpu=libtpu, path=(str(HERE),), **change))  # type: ignore[arg-type]


def verdicts(report: Report, tier: str) -> dict[str, Verdict]:
    """Of the kernel under test, by chip."""
    return {check.chip: check.verdict for check in report.checks if check.role == "kernel" and check.tier == tier}


def all_chips(verdict: Verdict) -> dict[str, Verdict]:
    return dict.fromkeys(DEFAULT_CHIPS, verdict)


@pytest.mark.skipif(importlib.util.find_spec(OURS) is None, reason=f"{OURS} is not part of this package")
def test_our_kernel_compiles_for_every_chip(libtpu: Path | None) -> None:
    report = checked(libtpu, f"{OURS}:tpu_case")
    assert report.verdict is Verdict.PASS, report.reason
    assert verdicts(report, "lower") == verdicts(report, "compile") == all_chips(Verdict.PASS)
    assert set(report.versions) == {"jax", "jaxlib", "libtpu"}
    for check in report.checks:
        if check.tier == "compile" and check.role == "kernel":
            assert check.memory is not None and check.memory.argument > 0 and check.memory.output > 0
            assert check.memory.temp < 2**20, "no copy of an operand: the smallest has 4 MiB"


def test_a_small_kernel_compiles_for_every_chip_that_is_known(libtpu: Path | None) -> None:
    report = checked(libtpu, "segment_kernels:working", chips=tuple(CHIPS))
    assert report.verdict is Verdict.PASS, report.reason
    assert verdicts(report, "compile") == dict.fromkeys(CHIPS, Verdict.PASS)
    memory = next(check.memory for check in report.checks if check.tier == "compile" and check.role == "kernel")
    # q, k, v of 128 and 256 rows of 128 floats, 128 + 256 segments; libtpu may pad them.
    assert memory is not None and memory.argument >= 4 * (128 * 128 + 2 * 256 * 128 + 128 + 256)


@pytest.mark.parametrize(
    ("kernel", "lowers"), [("integer_gather", False), ("boolean_truncation", True), ("vmem_overflow", True)]
)
def test_a_broken_kernel_compiles_for_no_chip(libtpu: Path | None, kernel: str, lowers: bool) -> None:
    report = checked(libtpu, f"segment_kernels:{kernel}")
    assert report.verdict is Verdict.FAIL
    assert verdicts(report, "lower") == all_chips(Verdict.PASS if lowers else Verdict.FAIL)
    assert verdicts(report, "compile") == all_chips(Verdict.FAIL)
    for check in report.checks:
        if check.role == "control":
            assert check.verdict is Verdict.PASS, check.reason
        elif check.verdict is Verdict.FAIL:
            assert check.error is not None and "Traceback" in check.error


def test_a_kernel_that_crashes_the_compiler_is_a_fail(libtpu: Path | None) -> None:
    report = checked(libtpu, "segment_kernels:compiler_crash")
    assert verdicts(report, "compile") == all_chips(Verdict.FAIL)
    assert all(check.verdict is Verdict.PASS for check in report.checks if check.role == "control")


@pytest.mark.parametrize("kernel", ["ragged_paged", "tiles_of_its_chip"])
def test_a_kernel_that_asks_for_its_chip_passes(libtpu: Path | None, kernel: str) -> None:
    """JAX's own ragged_paged_attention with its default arguments among them."""
    report = checked(libtpu, f"segment_kernels:{kernel}")
    assert report.verdict is Verdict.PASS, report.reason
    assert verdicts(report, "lower") == verdicts(report, "compile") == all_chips(Verdict.PASS)


@pytest.mark.parametrize("mode", ["donated", "none", "partial"])
def test_arguments_that_are_none_bound_or_given_for_good(libtpu: Path | None, mode: str) -> None:
    report = checked(libtpu, "segment_kernels:cache_update", cases=({"mode": mode},), chips=("v6e",))
    assert report.verdict is Verdict.PASS, report.reason
    memory = next(check.memory for check in report.checks if check.tier == "compile" and check.role == "kernel")
    assert memory is not None and (memory.alias > 0) is (mode == "donated")


def test_a_kernel_that_asks_otherwise_is_not_run(libtpu: Path | None) -> None:
    report = checked(libtpu, "segment_kernels:own_way_of_asking", chips=("v6e",))
    assert verdicts(report, "lower") == verdicts(report, "compile") == {"v6e": Verdict.NOT_RUN}


@pytest.mark.parametrize("kernel", ["integer_gather", "boolean_truncation"])
def test_a_refusal_names_the_place_in_the_kernel(libtpu: Path | None, kernel: str) -> None:
    """Before the compiler's own words end; by a line where there is one, and else by where the kernel begins."""
    report = checked(libtpu, f"segment_kernels:{kernel}", chips=("v6e",), tier="compile")
    (failure,) = (check.failure for check in report.checks if check.role == "kernel")
    assert failure is not None and "segment_kernels.py:" in failure.place and failure.place in report.reason


def test_interpret_mode_is_no_compile(libtpu: Path | None) -> None:
    report = checked(libtpu, "segment_kernels:no_kernel", chips=("v6e",))
    assert verdicts(report, "lower") == verdicts(report, "compile") == {"v6e": Verdict.FAIL}
    assert "holds no TPU kernel" in report.reason


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ((("good", frozenset({"compile"})),), "a kernel that has to fail passed, so a PASS means nothing"),
        ((("not_compilable", frozenset()),), "a kernel that has to pass did not, so a FAIL means nothing"),
    ],
    ids=["a gate that cannot fail", "a gate that cannot pass"],
)
def test_a_compiler_whose_controls_misbehave_tells_nothing(
    libtpu: Path | None, monkeypatch: pytest.MonkeyPatch, controls: object, said: str
) -> None:
    monkeypatch.setattr(gate, "_CONTROLS", {"compile": controls})
    report = checked(libtpu, "segment_kernels:working", chips=("v6e",), tier="compile")
    assert report.verdict is Verdict.INCONCLUSIVE and said in report.reason


def test_a_tpu_host_variable_does_not_abort_it(libtpu: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a TPU's host sets, and a cache that would answer instead of the compiler."""
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-8")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    report = checked(libtpu, "segment_kernels:working", chips=("v6e",))
    assert report.verdict is Verdict.PASS, report.reason


def test_a_chip_that_libtpu_cannot_describe_is_trouble_of_the_environment(
    libtpu: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setitem(CHIPS, "v6e", replace(CHIPS["v6e"], topology="v99:1x1"))
    report = checked(libtpu, "segment_kernels:working", chips=("v6e", "v5e"), tier="compile")
    assert verdicts(report, "compile") == {"v6e": Verdict.NOT_RUN, "v5e": Verdict.PASS}
    assert "environment: " in report.reason
