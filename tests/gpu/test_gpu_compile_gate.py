"""The GPU compile gate with Triton: a correct kernel passes on every architecture, broken ones on none.

``make gpu`` installs Triton apart from the environment and runs these. None needs a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pytest_multiitem import cli
from pytest_multiitem.compile_gates.gpu import gate
from pytest_multiitem.compile_gates.gpu.gate import Wanted, check_kernel
from pytest_multiitem.compile_gates.records import Check, GpuReport
from pytest_multiitem.compile_gates.shapes import Case
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.settings.chips import GPUS

HERE = Path(__file__).parent
ONE = ("sm_90",)

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the interpreter needs torch")


def checked(triton: Path | None, kernel: str, **change: object) -> GpuReport:
    return check_kernel(Wanted(f"tile_kernels:{kernel}", triton=triton, path=(str(HERE),), **change))  # type: ignore[arg-type]


def kernels(report: GpuReport, tier: str) -> dict[str, Check]:
    """The checks of the kernel under test, by chip."""
    return {check.chip: check for check in report.checks if check.role == "kernel" and check.tier == tier}


def controls_behave(report: GpuReport) -> bool:
    return all(check.verdict is Verdict.PASS for check in report.checks if check.role == "control")


@needs_torch
def test_a_correct_kernel_passes_on_four_architectures(triton: Path | None) -> None:
    report = checked(triton, "working")
    assert report.verdict is Verdict.PASS, report.reason
    compiled = kernels(report, "compile")
    assert list(compiled) == ["sm_80", "sm_90", "sm_100", "sm_120"] == list(GPUS)
    for name, check in compiled.items():
        taken = check.resources
        # A tile of keys and of values, 32 rows of 64 numbers in two bytes, is the least that a pipeline holds.
        assert taken is not None and 2 * 32 * 64 * 2 <= taken.shared <= taken.shared_limit == GPUS[name].shared
        assert 0 < taken.registers <= 255 and (taken.spill_stores, taken.spill_loads) == (0, 0)
    numbers = kernels(report, "interpret")["interpreter"].numbers
    assert numbers is not None and numbers.difference is not None and 0 < numbers.difference < numbers.limit
    assert controls_behave(report) and len(report.checks) == 4 * (5 + 1) + 1 + 4 + 1
    assert {"triton", "torch"} <= set(report.versions)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("too_much_shared", "KiB of shared memory a block, the chip has "),
        ("type_error", "incompatible dimensions at index 1: 32 and 64 (at "),
        ("unsupported_instruction", "it does not compile: PTXASError: Not a name of any known instruction: 'exp2'"),
    ],
)
def test_a_broken_kernel_fails_on_four_architectures(triton: Path | None, kernel: str, said: str) -> None:
    report = checked(triton, kernel, tier="compile")
    assert report.verdict is Verdict.FAIL and controls_behave(report)
    found = kernels(report, "compile")
    assert len(found) == 4 and all(check.verdict is Verdict.FAIL and said in check.reason for check in found.values())
    assert report.reason.count(said) == (1 if kernel != "too_much_shared" else len({c.reason for c in found.values()}))


def test_a_pipeline_that_fits_one_architecture_only(triton: Path | None) -> None:
    """Two tiles of 64 keys and values ahead: more than an sm_120 has, less than an sm_90."""
    shape: Case = {"keys": 64, "stages": 4}
    report = checked(triton, "too_much_shared", cases=(shape,), chips=("sm_90", "sm_120"), tier="compile")
    found = kernels(report, "compile")
    assert [check.verdict for check in found.values()] == [Verdict.PASS, Verdict.FAIL], report.reason
    assert "the chip has 99 KiB" in found["sm_120"].reason


@needs_torch
def test_a_kernel_that_compiles_but_computes_something_else(triton: Path | None) -> None:
    report = checked(triton, "mask_dropped", chips=ONE)
    assert kernels(report, "compile")["sm_90"].verdict is Verdict.PASS
    found = kernels(report, "interpret")["interpreter"]
    assert found.verdict is report.verdict is Verdict.FAIL and "interpreted, its numbers are wrong" in found.reason


@needs_torch
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("rows", "tile"), [(80, 32), (16, 16), (33, 64)])
def test_numbers_of_other_shapes(triton: Path | None, dtype: str, rows: int, tile: int) -> None:
    report = checked(triton, "working", cases=({"rows": rows, "tile": tile, "dtype": dtype},), tier="interpret")
    assert report.verdict is Verdict.PASS, report.reason


def test_the_place_is_a_line_of_the_kernel(triton: Path | None) -> None:
    report = checked(triton, "type_error", chips=ONE, tier="compile")
    failure = kernels(report, "compile")["sm_90"].failure
    source = (HERE / "tile_kernels.py").read_text(encoding="utf-8").splitlines()
    number = next(at for at, line in enumerate(source, 1) if "2 * keys" in line)
    assert failure is not None and failure.place.endswith(f"tile_kernels.py:{number}: {source[number - 1].strip()}")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("of_another_triton", "has no attribute 'no_such_function'"),
        ("asks_for_a_gpu", "0 active drivers"),
    ],
)
def test_what_is_not_the_kernels_fault_is_not_run(triton: Path | None, kernel: str, said: str) -> None:
    report = checked(triton, kernel, chips=ONE, tier="compile")
    assert report.verdict is Verdict.NOT_RUN and said in report.reason and controls_behave(report)


@needs_torch
@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("unsupported_instruction", "Triton's interpreter cannot run it: inline_asm"),
        ("adds_bfloat16", "it does not compute with bfloat16 element by element"),
        ("without_numbers", "the case has no numbers to compare"),
    ],
)
def test_what_the_interpreter_cannot_tell_is_not_run(triton: Path | None, kernel: str, said: str) -> None:
    report = checked(triton, kernel, tier="interpret")
    assert report.verdict is Verdict.NOT_RUN and said in report.reason and controls_behave(report)


def test_a_case_without_numbers_is_compiled_alone(triton: Path | None) -> None:
    report = checked(triton, "without_numbers", chips=ONE)
    assert report.verdict is Verdict.PASS and [tier.tier for tier in report.tiers] == ["compile"]
    assert report.reason.startswith("compiled for sm_90; not interpreted: the case has no numbers to compare")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("not_a_case", "TypeError: expected a pytest_multiitem.compile_gates.gpu.case.TritonCase"),
        ("forgets_an_argument", "arguments say nothing of the kernel's parameter 'k': its type, or its value"),
        ("knows_an_argument_more", "the kernel has no parameter 'queries'; it takes q, k, v, "),
        ("no_type", "rows: 'i32:8' is not a type such as *bf16:16"),
        ("another_type", "rows: 'int32' is not a type such as *bf16:16"),
        ("misspelt_option", "this Triton has no option 'num_warp' (did you mean 'num_warps'?)"),
        ("autotuned", "expected a function under @triton.jit as kernel"),
    ],
)
def test_what_is_no_case(triton: Path | None, kernel: str, said: str) -> None:
    report = checked(triton, kernel, chips=ONE, tier="compile")
    assert report.verdict is Verdict.FAIL and report.reason.startswith("compile FAIL: sm_90: the case cannot be made: ")
    assert said in report.reason


def test_spills_are_limited(triton: Path | None) -> None:
    few = checked(triton, "spills", chips=ONE, tier="compile")
    found = kernels(few, "compile")["sm_90"]
    assert found.verdict is Verdict.FAIL and found.resources is not None
    spilled = found.resources.spill_stores + found.resources.spill_loads
    assert spilled > 0 and "a thread spills" in found.reason and "MULTI_ITEM_GPU_SPILLS" in found.reason
    allowed = checked(triton, "spills", chips=ONE, tier="compile", spills=spilled)
    assert allowed.verdict is Verdict.PASS and controls_behave(allowed), "controls have a limit of their own"


@pytest.mark.parametrize(
    ("tier", "controls", "said"),
    [
        ("compile", (("good", frozenset({"compile"})),), "a kernel that has to fail passed, so a PASS means nothing"),
        ("compile", (("not_typed", frozenset()),), "a kernel that has to pass did not, so a FAIL means nothing"),
        ("compile", (("spilling", frozenset({"shared"})),), "a kernel that has to fail failed otherwise"),
        ("interpret", (("wrong_numbers", frozenset()),), "a kernel that has to pass did not"),
    ],
)
def test_a_gate_whose_controls_misbehave_tells_nothing(
    triton: Path | None, monkeypatch: pytest.MonkeyPatch, tier: str, controls: object, said: str
) -> None:
    monkeypatch.setattr(gate, "_CONTROLS", {**gate._CONTROLS, tier: controls})
    report = checked(triton, "working", chips=ONE, tier=tier)
    assert report.verdict is Verdict.INCONCLUSIVE and said in report.reason


def test_a_triton_without_an_assembler_is_trouble_of_the_environment(
    triton: Path | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import triton.backends.nvidia.compiler as c\n"
        "def get_ptxas(arch): raise RuntimeError('Cannot find ptxas')\nc.get_ptxas = get_ptxas\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    report = checked(triton, "working", chips=ONE, tier="compile")
    assert report.verdict is Verdict.NOT_RUN and "no PTX assembler in this Triton: Cannot find ptxas" in report.reason


def test_another_triton_is_trouble_of_the_environment(
    triton: Path | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One without the interface that this package was written for."""
    (tmp_path / "sitecustomize.py").write_text("import triton.compiler\ndel triton.compiler.ASTSource\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    report = checked(triton, "working", chips=ONE, tier="compile")
    assert report.verdict is Verdict.NOT_RUN and "cannot import name 'ASTSource'" in report.reason


def test_the_command(triton: Path | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(HERE)
    where = () if triton is None else ("--gpu-triton", str(triton))
    file, run = tmp_path / "report.json", CliRunner().invoke
    asked = ("tile_kernels:type_error", "--gpu-chips", "sm_120", "--gpu-tier", "compile", "--output-json", str(file))
    found = run(cli.app, ["gpu-check", *asked, *where])
    assert found.exit_code == 1 and "controls: 5 PASS" in found.output and "(at tile_kernels.py:" in found.output
    content = json.loads(file.read_bytes())
    assert (content["schema_version"], content["verdict"]) == ("multiitem_gpu_check_v1", "FAIL")
    valid = run(cli.app, ["validate", str(file)])
    assert valid.exit_code == 0 and "tile_kernels:type_error for sm_120" in valid.output
