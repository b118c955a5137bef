"""The fixture ``multiitem_gpu_check``; the kernels themselves are compiled in tests/gpu."""

from __future__ import annotations

import pytest
from inner_project import Project

pytestmark = pytest.mark.slow

TESTS = """
    import pytest

    def test_plain(multiitem_gpu_check):
        multiitem_gpu_check("gpu_kernels:case", {"rows": 8})

    @pytest.mark.multiitem_gate("segment_lowers")
    def test_gate(multiitem_gpu_check):
        multiitem_gpu_check("gpu_kernels:case")
"""


@pytest.fixture
def no_triton(project: Project) -> Project:
    """A project whose Triton cannot be imported."""
    project.write("apart/triton/__init__.py", "raise ImportError('no Triton here')")
    project.write("gpu_kernels.py", "def case(rows=4):\n    raise AssertionError('Triton is imported first')")
    project.write("test_kernels.py", TESTS)
    return project


def test_without_triton_it_is_not_run(no_triton: Project) -> None:
    result = no_triton.run("--multiitem-gpu-triton=apart", "--multiitem-gpu-chips=sm_90", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*NOT_RUN: gpu_kernels:case: compile, interpret NOT_RUN: Triton cannot be imported*"])
    record = no_triton.gate("segment_lowers")
    assert record["verdict"] == "NOT_RUN" and "no Triton here" in record["reason"]
    report = record["details"]["gpu"]
    assert report["schema_version"] == "multiitem_gpu_check_v1" and report["chips"] == ["sm_90"]
    assert record["details"]["evidence"] == [] and "tpu" not in record["details"]
    assert "| case defaults | compile | sm_90 | NOT_RUN |" in no_triton.report


def test_what_must_run_fails_without_triton(no_triton: Project) -> None:
    result = no_triton.run("--multiitem-gpu-triton=apart", "--multiitem-gpu-chips=sm_90", "--require=segment_lowers")
    result.assert_outcomes(skipped=1, failed=1)


def test_a_name_that_is_none_is_an_error(no_triton: Project) -> None:
    no_triton.write(
        "test_kernels.py",
        "def test_it(multiitem_gpu_check):\n    multiitem_gpu_check('gpu_kernels')\n",
    )
    result = no_triton.run("--multiitem-gpu-triton=apart")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*kernel 'gpu_kernels' is not valid: expected MODULE:FUNCTION*"])
