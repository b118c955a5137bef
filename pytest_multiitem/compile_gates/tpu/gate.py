"""The TPU compile gate: lowering by JAX, and compiling by libtpu."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_multiitem.compile_gates.checking import Controls, Kernel, Toolchain, check
from pytest_multiitem.compile_gates.records import TpuReport
from pytest_multiitem.compile_gates.shapes import Case
from pytest_multiitem.settings.chips import CHIPS, DEFAULT_CHIPS
from pytest_multiitem.settings.tiers import DEFAULT_TIMEOUT, EVERY_TIER, TPU_TIERS

_CONTROLS: Controls = {
    "lower": (
        ("good", frozenset()),
        ("asks", frozenset()),
        ("not_lowerable", frozenset({"trace", "lower"})),
        ("no_kernel", frozenset({"no kernel"})),
    ),
    "compile": (("good", frozenset()), ("asks", frozenset()), ("not_compilable", frozenset({"compile"}))),
}
#: What libtpu and JAX must find before they are imported. A TPU's host sets some of these; here is none.
_ENVIRONMENT: Final[dict[str, str | None]] = {
    "JAX_PLATFORMS": "cpu",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": None,  # with v6e-1, v6e-4, v6e-8 or v4-8 libtpu aborts
    # A program from a cache was compiled by whoever filled it.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    # Which module raised an exception must not be cut out of its traceback.
    "JAX_TRACEBACK_FILTERING": "off",
}


@dataclass(frozen=True)
class Wanted:
    """What is to be checked: see `checking.Kernel`. A case is (callable, abstract arguments).

    ``libtpu``: directory in which libtpu is installed apart from this environment; None: it is in it, or nowhere.
    """

    kernel: str
    cases: tuple[Case, ...] = ({},)
    chips: tuple[str, ...] = DEFAULT_CHIPS
    tier: str = EVERY_TIER
    timeout: float = DEFAULT_TIMEOUT
    libtpu: Path | None = None
    path: tuple[str, ...] = ()


def check_kernel(wanted: Wanted) -> TpuReport:
    """Lower and compile every case for every chip, with control kernels beside them.

    Raises UsageError for a kernel that does not exist or cannot be called so.
    """
    jax = Toolchain(
        name="JAX",
        module="pytest_multiitem.compile_gates.tpu.compiler",
        tiers=TPU_TIERS,
        controls=_CONTROLS,
        chips=CHIPS,
        environment=dict.fromkeys(TPU_TIERS, _ENVIRONMENT),  # one process: all is lowered before libtpu is loaded
        scratch=("TPU_LOG_DIR",),
        apart=wanted.libtpu,
    )
    kernel = Kernel(wanted.kernel, wanted.cases, wanted.chips, wanted.tier, wanted.timeout, wanted.path)
    return check(jax, kernel, TpuReport)
