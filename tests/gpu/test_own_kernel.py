"""The PyTorch engine's own Triton kernel under the GPU compile gate, and the gate's eyes on it: needs `make gpu`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pytest_multiitem.compile_gates.gpu.gate import Wanted, check_kernel
from pytest_multiitem.compile_gates.records import Check, GpuReport
from pytest_multiitem.compile_gates.shapes import Case
from pytest_multiitem.results.records import Verdict

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the kernel's module needs torch")

OWN = "pytest_multiitem.engine.triton_attention:gpu_case"
DTYPES = ("bfloat16", "float32")
#: Head dimensions that have tiles of their own.
HEAD_DIMS = (128, 64, 80, 256)


def checked(triton: Path | None, kernel: str, **change: object) -> GpuReport:
    return check_kernel(Wanted(kernel, triton=triton, path=(str(Path(__file__).parent),), **change))  # type: ignore[arg-type]


def of_kernel(report: GpuReport) -> list[Check]:
    return [check for check in report.checks if check.role == "kernel"]


def test_it_fits_four_architectures_and_spills_nothing(triton: Path | None) -> None:
    cases: tuple[Case, ...] = tuple({"dtype": dtype, "head_dim": dim} for dtype in DTYPES for dim in HEAD_DIMS)
    report = checked(triton, OWN, tier="compile", cases=cases)
    assert report.verdict is Verdict.PASS, report.reason
    taken = [check.resources for check in of_kernel(report)]
    assert len(taken) == 4 * len(cases)
    assert all(each is not None and each.spill_stores + each.spill_loads == 0 for each in taken)


def test_with_the_tiles_of_another_architecture_it_spills(triton: Path | None) -> None:
    report = checked(triton, OWN, tier="compile", chips=("sm_120",), cases=({"capability": 90},))
    assert report.verdict is Verdict.FAIL and "a thread spills" in report.reason


def test_its_numbers_in_both_types_and_for_other_heads(triton: Path | None) -> None:
    other: Case = {"heads": 4, "kv_heads": 4, "head_dim": 80}
    report = checked(triton, OWN, tier="interpret", cases=({}, other, {"dtype": "float32"}))
    assert report.verdict is Verdict.PASS, report.reason
    assert [check.verdict for check in of_kernel(report)] == [Verdict.PASS] * 3


def test_the_numbers_alone_see_a_row_with_one_key_more(triton: Path | None) -> None:
    report = checked(triton, "own_kernel:one_key_more", chips=("sm_90",))
    assert {check.tier: check.verdict for check in of_kernel(report)} == {
        "compile": Verdict.PASS,
        "interpret": Verdict.FAIL,
    }
    assert "interpreted, its numbers are wrong" in report.reason


def test_a_fourth_stage_is_more_shared_memory_than_an_sm_120_has(triton: Path | None) -> None:
    limits = {"chips": ("sm_120",), "tier": "compile", "spills": 1024}
    report = checked(triton, "own_kernel:pipelined", cases=({"stages": 3}, {"stages": 4}), **limits)
    assert [check.verdict for check in of_kernel(report)] == [Verdict.PASS, Verdict.FAIL], report.reason
    assert "KiB of shared memory a block, the chip has 99 KiB" in report.reason


def test_what_is_no_case_of_it(triton: Path | None) -> None:
    report = checked(triton, OWN, tier="interpret", cases=({"dtype": "float16"}, {"heads": 3, "kv_heads": 2}))
    reasons = [check.reason for check in of_kernel(report)]
    assert report.verdict is Verdict.FAIL
    assert "dtype is 'float16'; expected one of float32, bfloat16" in reasons[0]
    assert "heads (3) must be a multiple of kv_heads (2)" in reasons[1]
