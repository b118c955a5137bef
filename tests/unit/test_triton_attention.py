"""The Triton kernel's numbers by Triton's interpreter, and that it compiles for four kinds of GPU, with no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
#: Bytes of shared memory that a block may ask for, by compute capability.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pytest_multiitem.engine.triton_attention import gpu_case
case = gpu_case(dtype=sys.argv[2])
constants = {(case.kernel.arg_names.index(name),): value for name, value in case.constants.items()}
source = ASTSource(case.kernel, case.signature, constants)
built = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=case.options)
print(len(built.asm["cubin"]), built.metadata.shared)
"""


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


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_it_compiles_and_fits_the_shared_memory(capability, tmp_path):
    """bfloat16, what a GPU is for; in float32 no unit but the registers is asked for more."""
    size, shared = map(int, ran("-c", COMPILE, str(capability), "bfloat16", TRITON_CACHE_DIR=str(tmp_path)).split())
    assert size > 1000 and 0 < shared <= SHARED_MEMORY[capability]


def test_operands_on_a_cpu_are_refused_without_the_interpreter():
    code = (
        "import torch; from pytest_multiitem.engine.triton_attention import segment_attention as attend\n"
        "x, i = torch.ones(1, 1, 16), torch.zeros(1, dtype=torch.int32)\n"
        "try: attend(x, x, x, x, x, i, i)\nexcept ValueError as error: print(error)"
    )
    assert "operands are on cpu; expected a CUDA device, or TRITON_INTERPRET=1" in ran("-c", code, TRITON_INTERPRET="0")
