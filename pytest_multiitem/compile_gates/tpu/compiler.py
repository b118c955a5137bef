"""JAX in its process: ``python -m pytest_multiitem.compile_gates.tpu.compiler FD``, see `compile_gates.child`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from pytest_multiitem.compile_gates.child import outside, place, serve
from pytest_multiitem.compile_gates.subject import StageError
from pytest_multiitem.compile_gates.tpu.asked import Asked, DescribedDevice
from pytest_multiitem.results.machine import package_versions

_NO_LIBTPU = (
    "libtpu is not installed (pip install 'pytest-multiitem[tpu-aot]'; MULTI_ITEM_TPU_LIBTPU=DIR names one that is "
    "installed apart)"
)
_CONTROLS = "pytest_multiitem.compile_gates.tpu.controls"
_NO_KERNEL = "the lowered program holds no TPU kernel (no tpu_custom_call): interpret mode, or another path"
_ASKED_EARLY = "; {} was called when no chip was known, while a module was imported: call it where the kernel is made"

#: The operation that the compiler names: ``at location: loc("select_n:"("select_n/select_n"))``.
_OPERATION = re.compile(r'loc\("(?:[^"]*/)?(\w+):?"')


class _NoKernelError(Exception):
    pass


class PallasCompiler:
    """Lowers and compiles Pallas kernels: ``lower`` needs JAX alone, ``compile`` libtpu as well."""

    packages: tuple[str, ...] = ("jax", "jaxlib", "libtpu")
    modules: tuple[str, ...] = ("jax", "jaxlib")

    def load(self, chips: dict[str, dict[str, Any]]) -> ModuleType:
        """Import JAX; from then on who asks JAX for its devices is heard."""
        try:
            importlib.import_module("jax.experimental.pallas.tpu")
            importlib.import_module("jax.experimental.topologies")
            controls = importlib.import_module(_CONTROLS)
            # Before the kernel's module, so that `from jax import devices` there is heard as well.
            self._asked = Asked()
        except Exception as error:
            version = "".join(f" (jax {each})" for each in package_versions(("jax",)).values())
            raise StageError("jax", error, message=f"{error}{version}") from error
        self._chips = _Chips(chips)
        return controls

    def run(self, chip: str, tier: str, make: Callable[..., Any], case: dict[str, Any]) -> dict[str, Any]:
        """``kernels``, calls of a TPU kernel in the lowered program, and ``memory`` of the compiled one."""
        import jax

        sharding = None
        if tier == "lower":
            context, device = self._chips.lowering(chip)
        else:
            context, sharding, device = self._chips.compiling(chip)
        jax.clear_caches()  # what was traced for another chip may have asked which one it is for
        stage: Any = "case"
        try:
            with context, self._asked.answered(device):  # a kernel may ask which chip it is made for
                function, arguments = _abstract(make(**case), sharding)
                stage = "trace"
                # One that is under jit already has its own donated buffers and static arguments.
                traced = (function if hasattr(function, "trace") else jax.jit(function)).trace(*arguments)
                stage = "lower"
                lowered = traced.lower(lowering_platforms=("tpu",)) if tier == "lower" else traced.lower()
                kernels = lowered.as_text().count("tpu_custom_call")
                if not kernels:
                    early = "" if make.__module__ == _CONTROLS else self._asked.early
                    stage = "asked early" if early else "no kernel"
                    raise _NoKernelError(_NO_KERNEL + (_ASKED_EARLY.format(early) if early else ""))
                stage = "compile"
                memory = None if tier == "lower" else _memory(lowered.compile())
        except Exception as error:
            where = _place(traced.jaxpr, error, self.modules) if stage == "compile" else ""
            raise StageError(stage, error, place=where) from error
        return {"kernels": kernels, "memory": memory}


class _Chips:
    """The described chips, each described once. Raises StageError("topology") for one that cannot be."""

    def __init__(self, chips: dict[str, dict[str, Any]]) -> None:
        self._chips = chips
        self._topologies: dict[str, Any] = {}

    def lowering(self, name: str) -> tuple[AbstractContextManager[Any], Any]:
        """The context in which JAX lowers for a chip that nothing but its name is known of, and such a device."""
        chip = self._chips[name]
        try:
            from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

            further = {"platform": "tpu"} if "platform" in inspect.signature(AbstractDevice).parameters else {}
            device = AbstractDevice(chip["kind"], chip["cores"], **further)
            mesh: AbstractContextManager[Any] = use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))
            return mesh, DescribedDevice(chip["kind"], chip["cores"])
        except Exception as error:
            raise StageError("topology", error) from error

    def compiling(self, name: str) -> tuple[AbstractContextManager[Any], Any, Any]:
        """The context in which JAX compiles for a chip as libtpu describes it, the sharding of arguments, the chip."""
        chip = self._chips[name]
        if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
            raise StageError("libtpu", ImportError(_NO_LIBTPU))
        try:
            import numpy as np
            from jax.experimental import topologies
            from jax.sharding import Mesh, SingleDeviceSharding, use_abstract_mesh

            if name not in self._topologies:
                bounds = {} if chip["bounds"] is None else {"chips_per_host_bounds": chip["bounds"]}
                self._topologies[name] = topologies.get_topology_desc(chip["topology"], platform="tpu", **bounds)
            device = self._topologies[name].devices[0]
            mesh = Mesh(np.array([device]), ("x",)).abstract_mesh
            return use_abstract_mesh(mesh), SingleDeviceSharding(device), device
        except Exception as error:
            raise StageError("topology", error) from error


def _abstract(made: Any, sharding: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The callable, and its arguments as shapes and types alone, placed on the chip where there is one."""
    import jax

    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[0]) and isinstance(made[1], tuple | list)):
        raise TypeError(
            f"expected (callable, abstract arguments), such as (f, (jax.ShapeDtypeStruct((8, 128), 'float32'),)), "
            f"got {str(made)[:200]}"
        )

    def placed(leaf: Any) -> Any:
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(f"expected arguments with shape and dtype, such as jax.ShapeDtypeStruct, got {leaf!r}")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return made[0], tuple(jax.tree.map(placed, tuple(made[1])))


def _place(program: Any, error: Exception, modules: tuple[str, ...]) -> str:
    """Where in a kernel's source the compiler stopped; where it names no single line, where the kernel begins.

    The compiler keeps no lines of a kernel, but the operation's name, which may be there once only. Empty where the
    program holds several kernels and none is named, or this JAX tells otherwise what a program was traced from.
    """
    is_outside = outside(modules)
    with contextlib.suppress(AttributeError):
        kernels = [eqn.params["jaxpr"] for eqn in _equations(program) if eqn.primitive.name == "pallas_call"]
        said = f"{error} {error.__cause__ or ''}"
        name = named[1] if (named := _OPERATION.search(said)) else None
        equations = [eqn for kernel in kernels for eqn in _equations(kernel) if eqn.primitive.name == name]
        frames = [
            next((f for f in eqn.source_info.traceback.frames if is_outside(f.file_name)), None) for eqn in equations
        ]
        lines = {(frame.file_name, frame.line_num) for frame in frames if frame is not None}
        if not lines:
            lines = {(kernel.debug_info.func_filename, kernel.debug_info.func_lineno) for kernel in kernels}
        if len(lines) == 1:
            return place(*lines.pop())
    return ""


def _equations(program: Any) -> Iterator[Any]:
    """The equations of a traced program and of all that it calls."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield from _equations(inner)


def _memory(compiled: Any) -> dict[str, int] | None:
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    names = {"argument": "argument", "output": "output", "temp": "temp", "alias": "alias", "code": "generated_code"}
    return {ours: int(getattr(analysis, f"{theirs}_size_in_bytes")) for ours, theirs in names.items()}


if __name__ == "__main__":
    serve(PallasCompiler())
