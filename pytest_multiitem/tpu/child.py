"""The process in which JAX lowers and compiles: ``python -m pytest_multiitem.tpu.child FD``.

Reads a job (JSON, a line) from standard input, which stays open as long as its parent lives, and writes an event
(JSON) a line to the file descriptor FD:

- ``{"usage": TEXT}``: the job cannot be done as asked; the last event;
- ``{"failed": FAILURE}``: JAX or the module cannot be imported; the last event;
- ``{"versions": {…}}``: both are imported;
- ``{"begin": N}``, then ``{"end": N, "seconds": …}`` with ``failed``, or with ``kernels`` and, of a compile,
  ``memory``: one step each.

Whatever the kernel's module prints goes to standard output, which is not looked at.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.results.machine import package_versions
from pytest_multiitem.tpu.shapes import shown

_PACKAGES = ("jax", "jaxlib", "libtpu")
_NO_LIBTPU = (
    "libtpu is not installed (pip install 'pytest-multiitem[tpu-aot]'; MULTI_ITEM_TPU_LIBTPU=DIR names one that is "
    "installed apart)"
)


class _StageError(Exception):
    """What was raised, and in which stage."""

    def __init__(self, stage: str, error: BaseException) -> None:
        self.stage, self.error = stage, error


class _NoKernelError(Exception):
    pass


def main() -> None:
    """Do the job."""
    out = os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8")

    def emit(**event: Any) -> None:
        out.write(json.dumps(event) + "\n")

    job = _job()
    sys.path[:] = [*dict.fromkeys([*job["path"], *sys.path])]
    try:
        try:
            importlib.import_module("jax.experimental.pallas.tpu")
            importlib.import_module("jax.experimental.topologies")
            controls = importlib.import_module("pytest_multiitem.tpu.controls")
        except Exception as error:
            raise _StageError("jax", error) from error
        subject = _subject(job["kernel"])
        for case in job["cases"]:
            _check_arguments(job["kernel"], subject, case)
    except _StageError as stopped:
        return emit(failed=_failure(stopped))
    except UsageError as error:
        return emit(usage=str(error))
    emit(versions=package_versions(_PACKAGES))
    chips = _Chips(job["chips"])
    for step in job["steps"]:
        make = getattr(controls, step["control"]) if step["control"] else subject
        case = job["cases"][step["case"]] if step["control"] is None else {}
        emit(begin=step["id"])
        start = time.perf_counter()
        try:
            result = _run(chips, step["chip"], step["tier"], make, case)
        except _StageError as stopped:
            result = {"failed": _failure(stopped)}
        emit(end=step["id"], seconds=round(time.perf_counter() - start, 3), **result)
    return None


def _job() -> dict[str, Any]:
    """The job; from then on this process and all that it has started end when the parent is gone."""
    source = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:  # a kernel's module has no business with the parent's words
        os.dup2(nothing.fileno(), 0)
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(source, 1 << 16)
        if not part:
            raise SystemExit("the parent is gone")
        line += part
    threading.Thread(target=_end_with_parent, args=(source,), daemon=True).start()
    job: dict[str, Any] = json.loads(line)
    return job


def _end_with_parent(source: int) -> None:
    os.read(source, 1)  # nothing comes any more but the end
    if os.getpgrp() == os.getpid():  # the group is this process's own
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


class _Chips:
    """The described chips, each described once. Raises _StageError("topology") for one that cannot be."""

    def __init__(self, chips: dict[str, dict[str, Any]]) -> None:
        self._chips = chips
        self._topologies: dict[str, Any] = {}

    def lowering(self, name: str) -> AbstractContextManager[Any]:
        """The context in which JAX lowers for a chip that nothing but its name is known of."""
        chip = self._chips[name]
        try:
            from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

            further = {"platform": "tpu"} if "platform" in inspect.signature(AbstractDevice).parameters else {}
            device = AbstractDevice(chip["kind"], chip["cores"], **further)
            mesh: AbstractContextManager[Any] = use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))
            return mesh
        except Exception as error:
            raise _StageError("topology", error) from error

    def compiling(self, name: str) -> tuple[AbstractContextManager[Any], Any]:
        """The context in which JAX compiles for a chip as libtpu describes it, and the sharding of arguments."""
        chip = self._chips[name]
        if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
            raise _StageError("libtpu", ImportError(_NO_LIBTPU))
        try:
            import numpy as np
            from jax.experimental import topologies
            from jax.sharding import Mesh, SingleDeviceSharding, use_abstract_mesh

            if name not in self._topologies:
                bounds = {} if chip["bounds"] is None else {"chips_per_host_bounds": chip["bounds"]}
                self._topologies[name] = topologies.get_topology_desc(chip["topology"], platform="tpu", **bounds)
            device = self._topologies[name].devices[0]
            mesh = Mesh(np.array([device]), ("x",)).abstract_mesh
            return use_abstract_mesh(mesh), SingleDeviceSharding(device)
        except Exception as error:
            raise _StageError("topology", error) from error


def _run(chips: _Chips, chip: str, tier: str, make: Callable[..., Any], case: dict[str, Any]) -> dict[str, Any]:
    """Lower or compile one case for one chip."""
    import jax

    sharding = None
    if tier == "lower":
        context = chips.lowering(chip)
    else:
        context, sharding = chips.compiling(chip)
    stage = "case"
    try:
        with context:  # a kernel may ask which chip it is made for
            function, arguments = _abstract(make(**case), sharding)
            stage = "trace"
            traced = jax.jit(function).trace(*arguments)
            stage = "lower"
            lowered = traced.lower(lowering_platforms=("tpu",)) if tier == "lower" else traced.lower()
            kernels = lowered.as_text().count("tpu_custom_call")
            if not kernels:
                stage = "no kernel"
                raise _NoKernelError(
                    "the lowered program holds no TPU kernel (no tpu_custom_call): interpret mode, or a path that is "
                    "chosen by jax.default_backend(), which is not tpu here"
                )
            stage = "compile"
            memory = None if tier == "lower" else _memory(lowered.compile())
    except Exception as error:
        raise _StageError(stage, error) from error
    return {"kernels": kernels, "memory": memory}


def _abstract(made: Any, sharding: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The callable, and its arguments as shapes and types alone, placed on the chip where there is one."""
    import jax

    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[0]) and isinstance(made[1], tuple | list)):
        raise TypeError(
            f"expected (callable, abstract arguments), such as (f, (jax.ShapeDtypeStruct((8, 128), 'float32'),)), "
            f"got {str(made)[:200]}"
        )

    def place(leaf: Any) -> Any:
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(f"expected arguments with shape and dtype, such as jax.ShapeDtypeStruct, got {leaf!r}")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return made[0], tuple(jax.tree.map(place, tuple(made[1])))


def _memory(compiled: Any) -> dict[str, int] | None:
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    names = {"argument": "argument", "output": "output", "temp": "temp", "alias": "alias", "code": "generated_code"}
    return {ours: int(getattr(analysis, f"{theirs}_size_in_bytes")) for ours, theirs in names.items()}


def _subject(kernel: str) -> Callable[..., Any]:
    """The function that makes the cases. Raises UsageError where there is none of that name."""
    name, _, attribute = kernel.partition(":")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise UsageError(
                f"no module {missing!r}{did_you_mean(missing.rpartition('.')[2], _neighbours(missing))}; expected one "
                "that can be imported from the current directory or the environment, such as kernels:segment_case"
            ) from None
        if isinstance(error, ImportError | AttributeError):  # another version, or a package that is not there
            raise _StageError("module", error) from error
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{where.filename}, line {where.lineno}" if not isinstance(error, SyntaxError) else ""
        text = f"{type(error).__name__}: {error}" + (f" ({line})" if line else "")
        raise UsageError(f"{name} cannot be imported: {text}") from None
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(function):
        known = _functions(module)
        what = "has no function" if function is None else "has no callable"
        raise UsageError(
            f"{name} {what} {attribute!r}{did_you_mean(attribute, known)}; "
            f"its own functions: {', '.join(known) or 'none'}"
        )
    return function


def _neighbours(missing: str) -> Iterable[str]:
    """The modules beside the one that is missing."""
    package = missing.rpartition(".")[0]
    path = getattr(sys.modules[package], "__path__", []) if package else None
    return [module.name for module in pkgutil.iter_modules(path)]


def _functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _check_arguments(kernel: str, function: Callable[..., Any], case: dict[str, Any]) -> None:
    """Raise UsageError unless a function can be called with the arguments of a case."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without one: the call itself will say what is wrong
        return
    parameters = signature.parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in named) or "no arguments"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in case:
            if name not in [p.name for p in named]:
                raise UsageError(
                    f"shape {shown(case)}: {kernel} has no argument {name!r}"
                    f"{did_you_mean(name, [p.name for p in named])}; it takes {takes}"
                )
    missing = [p.name for p in named if p.default is p.empty and p.name not in case]
    if missing:
        raise UsageError(
            f"{kernel} needs {', '.join(missing)}; give a value for each: --shape "
            f"{','.join(f'{name}=…' for name in missing)}"
        )


def _failure(stopped: _StageError) -> dict[str, Any]:
    """What `classify` judges."""
    error = stopped.error
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    owner = ""
    if isinstance(error, AttributeError) and error.obj is not None:
        obj = error.obj
        owner = obj.__name__ if isinstance(obj, ModuleType) else f"{type(obj).__module__}.{type(obj).__qualname__}"
    return {
        "stage": stopped.stage,
        "kind": type(error).__name__,
        "bases": [base.__name__ for base in type(error).__mro__],
        "message": str(error),
        "raised_in": frames[-1].f_globals.get("__name__", "") if frames else "",
        "owner": owner,
        "trace": "".join(traceback.format_exception(error)),
    }


if __name__ == "__main__":
    main()
