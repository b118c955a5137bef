"""The Triton kernel's numbers by Triton's interpreter, with no GPU; `tests/gpu` compiles it. `make gpu` runs this."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed; `make gpu` installs it and runs these tests")

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def ran(*command, **env):
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=900, check=False, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_its_numbers_by_the_interpreter():
    out = ran(
        *("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-o", "addopts=", str(HERE / "interpreted_triton.py")),
        TRITON_INTERPRET="1",
    )
    assert " passed" in out and "skipped" not in out


def test_operands_on_a_cpu_are_refused_without_the_interpreter():
    code = (
        "import torch; from pytest_multiitem.engine.triton_attention import segment_attention as attend\n"
        "x, i = torch.ones(1, 1, 16), torch.zeros(1, dtype=torch.int32)\n"
        "try: attend(x, x, x, x, x, i, i)\nexcept ValueError as error: print(error)"
    )
    assert "operands are on cpu; expected a CUDA device, or TRITON_INTERPRET=1" in ran("-c", code, TRITON_INTERPRET="0")


def test_a_triton_that_does_not_interpret_is_not_taken_for_one_that_does():
    code = (
        "import triton; from pytest_multiitem.engine.kernel_cases import segment_triton\n"
        "from pytest_multiitem.errors import EngineUnavailable\n"
        "try: segment_triton()\nexcept EngineUnavailable as error: print(error)"
    )
    assert "imported before it was told to interpret" in ran("-c", code, TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="")
