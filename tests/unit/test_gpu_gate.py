"""The GPU compile gate without Triton: what its absence says, and what is made of what a compiler said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_multiitem.compile_gates.classify import Failure
from pytest_multiitem.compile_gates.gpu.case import TritonCase
from pytest_multiitem.compile_gates.gpu.compiler import TritonCompiler
from pytest_multiitem.compile_gates.gpu.gate import Wanted, check_kernel
from pytest_multiitem.compile_gates.judge import Observed, Step, judge, overall, tier_verdicts
from pytest_multiitem.compile_gates.records import GpuReport
from pytest_multiitem.errors import UsageError
from pytest_multiitem.reports.compile_gates import report_lines
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.settings.resolve import resolve

FITS = {"shared": 99 * 1024, "shared_limit": 99 * 1024, "tensor": 512, "tensor_limit": 512, "registers": 255,
        "spill_stores": 4, "spill_loads": 4, "spill_limit": 8}  # fmt: skip


def compiled(**change: int) -> Observed:
    return Observed(result={"kernels": 1, "resources": {**FITS, **change}}, seconds=1.0)


def interpreted(difference: float | None, limit: float = 0.5) -> Observed:
    return Observed(result={"kernels": 1, "numbers": {"difference": difference, "limit": limit}}, seconds=1.0)


def refused(stage: str = "trace", **more: str) -> Observed:
    words = {"kind": "CompilationError", "message": "no", **more}
    return Observed(failure=Failure(stage=stage, bases=["Exception"], **words))  # type: ignore[arg-type]


def verdict(seen: Observed, *, tier: str = "compile", chip: str = "sm_120"):
    good = compiled() if tier == "compile" else interpreted(0.0)
    bad = Step(tier, chip, "bad", control="bad", must_fail=frozenset({"trace"}))
    steps = [(Step(tier, chip, "good", control="good"), good), (bad, refused()), (Step(tier, chip, "a"), seen)]
    return judge(steps)[-1]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (compiled(), None),
        (compiled(shared=99 * 1024 + 1), "a launch asks for 99.0 KiB of shared memory a block, the chip has 99 KiB"),
        (compiled(tensor=513), "a launch asks for 513 columns of tensor memory a block, the chip has 512"),
        (compiled(tensor_limit=0), "a launch asks for 512 columns of tensor memory a block, the chip has 0"),
        (compiled(spill_stores=5), "a thread spills 5 bytes and loads 4 back (255 registers), 8 bytes in all"),
        (compiled(spill_loads=5), "a thread spills 4 bytes and loads 5 back"),
        (interpreted(0.5), None),
        (interpreted(0.5000001), "interpreted, its numbers are wrong: 0.5 from the reference, 0.5 is allowed"),
        (interpreted(None), "NaN or inf where there should be none"),
        (interpreted(0.0, 0.0), None),
    ],
)
def test_a_limit_holds_up_to_itself(seen: Observed, said: str | None) -> None:
    is_compiled = "resources" in (seen.result or {})
    found = verdict(seen, tier="compile" if is_compiled else "interpret")
    assert found.verdict is (Verdict.PASS if said is None else Verdict.FAIL)
    assert said is None or said in found.reason


@pytest.mark.parametrize(
    ("stage", "seen"),
    [
        ("shared", compiled(shared=2**20)),
        ("tensor", compiled(tensor=1024)),
        ("spills", compiled(spill_stores=9)),
        ("numbers", interpreted(None)),
    ],
)
def test_a_control_fails_by_its_own_limit(stage: str, seen: Observed) -> None:
    for wanted, expected in ((stage, Verdict.PASS), ("trace", Verdict.INCONCLUSIVE)):
        (found,) = judge([(Step("compile", "sm_80", "c", control="c", must_fail=frozenset({wanted})), seen)])  # type: ignore[arg-type]
        assert found.verdict is expected, found.reason


@pytest.mark.parametrize("message", ["0 active drivers ([]).", "Torch not compiled with CUDA enabled",
                                     "PTXAS error: `ptxas` failed with error code -9"])  # fmt: skip
def test_a_machine_without_a_gpu_is_no_fault_of_a_kernel(message: str) -> None:
    assert verdict(refused("case", kind="RuntimeError", message=message)).verdict is Verdict.NOT_RUN


def test_each_cause_stands_once() -> None:
    """Two cases, two chips and two tiers that say the same."""
    same = refused(place="kernels.py:7: x = y")
    checks = []
    for tier in ("lower", "compile"):
        for chip in ("v6e", "v5p"):
            bad = Step(tier, chip, "bad", control="bad", must_fail=frozenset({"trace"}))
            steps = [
                Step(tier, chip, "good", control="good"),
                bad,
                Step(tier, chip, "a"),
                Step(tier, chip, "b", case=1),
            ]
            checks += judge(zip(steps, (compiled(), refused(), same, same), strict=True))
    tiers = tier_verdicts(checks, ("v6e", "v5p"))
    found, reason = overall(tiers)
    cause = "it cannot be traced: CompilationError: no (at kernels.py:7: x = y)"
    assert (found, reason) == (Verdict.FAIL, f"lower, compile FAIL: v6e, v5p (a, b): {cause}")
    report = GpuReport(kernel="k:f", chips=["v6e", "v5p"], verdict=found, reason=reason, tiers=tiers, checks=checks)
    lines = report_lines(report)
    assert sum(cause in line for line in lines) == 1
    assert not any("registers" in line or "spilled" in line for line in lines)  # of nothing that was compiled


def test_a_column_stands_where_one_row_has_something_in_it() -> None:
    checks = [verdict(compiled()), verdict(refused())]
    report = GpuReport(kernel="k:f", chips=["sm_120"], verdict=Verdict.FAIL, reason="", tiers=[], checks=checks)
    text = "\n".join(report_lines(report))
    assert "registers" in text and "255" in text and "from reference" not in text


class Telling(TritonCompiler):
    """Says what the case was made with instead of compiling it."""

    def _compile(self, case, chip, *, spills):
        return case.arguments

    def _interpret(self, case):
        return case.arguments


def asking(*, rows: int = 16, capability: int | None = None) -> TritonCase:
    return TritonCase(kernel=None, arguments={"rows": rows, "capability": capability})


def not_asking(*, rows: int = 16, **further: int) -> TritonCase:
    return TritonCase(kernel=None, arguments={"rows": rows, **further})


@pytest.mark.parametrize(
    ("make", "tier", "case", "told"),
    [
        (asking, "compile", {}, {"rows": 16, "capability": 120}),
        (asking, "compile", {"rows": 32}, {"rows": 32, "capability": 120}),
        (asking, "compile", {"capability": 90}, {"rows": 16, "capability": 90}),
        (asking, "interpret", {}, {"rows": 16, "capability": None}),
        (asking, "interpret", {"capability": 90}, {"rows": 16, "capability": 90}),
        (not_asking, "compile", {}, {"rows": 16}),
        (not_asking, "interpret", {}, {"rows": 16}),
    ],
)
def test_a_case_is_told_the_chips_capability_if_it_asks(make, tier: str, case, told) -> None:
    compiler = Telling()
    compiler._chips = {"sm_120": {"capability": 120, "spills": 0}}
    assert compiler.run("sm_120", tier, make, case) == told


def test_without_triton_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('no Triton here')")
    (tmp_path / "kernels.py").write_text("def case():\n    pass\n")
    report = check_kernel(Wanted("kernels:case", chips=("sm_80",), triton=tmp_path, path=(str(tmp_path),)))
    assert report.verdict is Verdict.NOT_RUN and not report.versions
    assert "compile, interpret NOT_RUN: Triton cannot be imported: no Triton here" in report.reason
    assert "pytest-multiitem[gpu-aot]" in report.reason and "no compiler was imported" in report_lines(report)[0]


@pytest.mark.parametrize(
    ("kernel", "case", "said"),
    [
        ("kernals:case", {}, "no module 'kernals' (did you mean 'kernels'?)"),
        ("kernels:cas", {}, "kernels has no function 'cas' (did you mean 'case'?); its own functions: case"),
        ("kernels:case", {"row": 8}, "kernels:case has no argument 'row' (did you mean 'rows'?)"),
        ("guarded:cas", {}, "guarded has no function 'cas' (did you mean 'case'?)"),
        (
            "many:cas",
            {},
            "(did you mean 'case'?); its own functions: f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11 and 9 more",
        ),
        ("importing:cas", {}, None),
        ("confused:cas", {}, None),
    ],
)
def test_without_triton_a_misspelling_is_told(tmp_path: Path, kernel: str, case: dict[str, int], said: str | None):
    """As far as a module can be imported without it; what else a module raises there may be for want of it."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('no Triton here')")
    guard = "try:\n    import triton\nexcept ImportError:\n    pass\n"
    many = "".join(f"def f{number}():\n    pass\n" for number in range(20))
    modules = {
        "kernels": "",
        "many": many,
        "guarded": guard,
        "importing": "import triton\n",
        "confused": f"{guard}triton.jit\n",
    }
    for name, begin in modules.items():
        (tmp_path / f"{name}.py").write_text(f"{begin}def case(rows=8):\n    pass\n")
    wanted = Wanted(kernel, cases=(case,), chips=("sm_80",), triton=tmp_path, path=(str(tmp_path),))
    if said is None:
        report = check_kernel(wanted)
        assert report.verdict is Verdict.NOT_RUN and "Triton cannot be imported: no Triton here" in report.reason
        return
    with pytest.raises(UsageError) as caught:
        check_kernel(wanted)
    assert said in str(caught.value)


def test_settings_of_the_gate(tmp_path: Path) -> None:
    settings = resolve({}, {}, {})
    assert settings.gpu_chips == ("sm_80", "sm_90", "sm_100", "sm_120")
    assert (settings.gpu_tier, settings.gpu_timeout, settings.gpu_triton, settings.gpu_spills) == ("auto", 180, None, 0)
    (tmp_path / "triton").mkdir()
    given = {"MULTI_ITEM_GPU_TRITON": str(tmp_path), "MULTI_ITEM_GPU_SPILLS": "64", "MULTI_ITEM_GPU_CHIPS": "sm_90"}
    settings = resolve({}, {}, given)
    assert (settings.gpu_triton, settings.gpu_spills, settings.gpu_chips) == (tmp_path, 64, ("sm_90",))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kernels:f", "--gpu-chips", "sm_91"], "--gpu-chips 'sm_91' is not valid: expected one of sm_80, sm_90"),
        (["kernels:f", "--gpu-tier", "lower"], "--gpu-tier 'lower' is not valid: expected one of auto, compile, inter"),
        (["kernels:f", "--gpu-triton", "/nowhere"], "expected a directory that holds triton"),
        (["kernels:f", "--gpu-spills", "-1"], "--gpu-spills '-1' is not valid"),
        (["kernels:f", "--shape", "rows"], "--shape 'rows' is not valid: expected NAME=VALUE"),
        (["kernels"], "kernel 'kernels' is not valid: expected MODULE:FUNCTION"),
    ],
)
def test_the_command_is_used_wrongly(multiitem, words: list[str], said: str) -> None:
    status, _, err = multiitem("gpu-check", *words)
    assert status == 2 and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [({"tier": "lower"}, "tier 'lower' is not valid"), ({"chips": ("v6e",)}, "chip 'v6e' is not known")],
)
def test_what_is_not_known_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_kernel(Wanted("kernels:case", **change))  # type: ignore[arg-type]
