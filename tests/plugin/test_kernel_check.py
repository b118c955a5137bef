"""The fixture ``multiitem_kernel_check``."""

from __future__ import annotations

from pathlib import Path

from inner_project import Project

KERNELS = Path(__file__).parents[1] / "unit" / "kernel_subjects.py"


def test_a_kernel_of_the_project(project: Project) -> None:
    project.write("kernel_subjects.py", KERNELS.read_text(encoding="utf-8"))
    project.write(
        "test_kernels.py",
        """
        from kernel_subjects import leaks

        def test_passes(multiitem_kernel_check):
            report = multiitem_kernel_check("kernel_subjects:right", "exact")
            assert [check.check for check in report.checks] == ["exact"]

        def test_fails(multiitem_kernel_check):
            multiitem_kernel_check(leaks, "exact")

        def test_cannot_run(multiitem_kernel_check):
            multiitem_kernel_check("kernel_subjects:needs_a_device")

        def test_is_not_there(multiitem_kernel_check):
            multiitem_kernel_check("kernel_subjects:rihgt")

        def test_no_such_check(multiitem_kernel_check):
            multiitem_kernel_check("kernel_subjects:right", "exakt")
        """,
    )
    result = project.run("-rs", "test_kernels.py")
    result.assert_outcomes(passed=1, failed=3, skipped=1)
    out = result.stdout.str()
    assert "FAIL: kernel_subjects:leaks: " in out and "b ##··#·     ##XX#·" in out
    assert "NOT_RUN: kernel_subjects:needs_a_device: this kernel needs a CUDA device" in out
    assert "did you mean 'right'" in out and "did you mean 'exact'" in out
    assert "During handling" not in out
