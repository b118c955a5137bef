"""Triton in its process: ``python -m pytest_multiitem.compile_gates.gpu.compiler FD``, see `compile_gates.child`.

Compiling and interpreting are of different processes: which of them ``@triton.jit`` makes is decided when a kernel's
module is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import math
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from pytest_multiitem.children.function import parameters_of
from pytest_multiitem.compile_gates.child import place, serve
from pytest_multiitem.compile_gates.gpu.case import Numbers, TritonCase
from pytest_multiitem.compile_gates.subject import StageError
from pytest_multiitem.errors import did_you_mean

_NO_TRITON = (
    "Triton cannot be imported: {} (pip install 'pytest-multiitem[gpu-aot]'; MULTI_ITEM_GPU_TRITON=DIR names one that "
    "is installed apart)"
)
_CONTROLS = "pytest_multiitem.compile_gates.gpu.controls"
_NO_NUMBERS = "the case has no numbers to compare (TritonCase.numbers)"
_THREADS_OF_A_WARP = 32
#: The argument by which a function that makes cases asks for the chip's compute capability, ten times: 80, 90.
_CAPABILITY = "capability"
#: What ptxas says with -v, and of what it refuses.
_USED = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REFUSED = re.compile(r"^ptxas.*?(?:error|fatal)\s*:\s*(.*)", re.MULTILINE)


class _NoLaunchError(Exception):
    pass


class _BFloat16Error(NotImplementedError):
    pass


class TritonCompiler:
    """Compiles Triton kernels to cubins, or interprets them."""

    packages: tuple[str, ...] = ("triton", "torch")
    modules: tuple[str, ...] = ("triton",)

    def load(self, chips: dict[str, dict[str, Any]]) -> ModuleType:
        """Import Triton, and find its assembler."""
        self._chips = chips
        try:
            importlib.import_module("triton.compiler")
            importlib.import_module("triton.backends.compiler")
            self._nvidia = importlib.import_module("triton.backends.nvidia.compiler")
            controls = importlib.import_module(_CONTROLS)
        except Exception as error:
            raise StageError("triton", error, message=_NO_TRITON.format(error)) from error
        return controls

    def run(self, chip: str, tier: str, make: Callable[..., Any], case: dict[str, Any]) -> dict[str, Any]:
        """``resources`` of the compiled kernel, or ``numbers`` of the interpreted one."""
        try:
            made = make(**{**self._of_chip(make, chip, tier), **case})
            if not isinstance(made, TritonCase):
                raise TypeError(f"expected a pytest_multiitem.compile_gates.gpu.case.TritonCase, got {str(made)[:200]}")
        except Exception as error:
            raise StageError("case", error) from error
        if tier == "interpret":
            return self._interpret(made)
        chip_limits = self._chips[chip]
        return self._compile(made, chip_limits, spills=0 if make.__module__ == _CONTROLS else chip_limits["spills"])

    def _of_chip(self, make: Callable[..., Any], chip: str, tier: str) -> dict[str, Any]:
        """What a function that makes cases is told of the chip, if it asks: a kernel may have other tiles on each."""
        asks = tier == "compile" and _CAPABILITY in (parameters_of(make) or ())
        return {_CAPABILITY: self._chips[chip]["capability"]} if asks else {}

    def _compile(self, case: TritonCase, chip: dict[str, Any], *, spills: int) -> dict[str, Any]:
        try:
            import triton
            from triton.backends.compiler import GPUTarget
            from triton.compiler import ASTSource, make_backend
        except Exception as error:
            raise StageError("triton", error, message=f"not a Triton that is known: {error}") from error
        try:
            self._nvidia.get_ptxas(chip["capability"]).path  # noqa: B018, it raises where there is none
            triton.knobs.nvidia.dump_ptxas_log = True
            target = GPUTarget("cuda", chip["capability"], _THREADS_OF_A_WARP)
        except Exception as error:
            raise StageError("triton", error, message=f"no PTX assembler in this Triton: {error}") from error
        try:
            signature, constants, attributes = _specialised(case)
            source = ASTSource(fn=case.kernel, signature=signature, constexprs=constants, attrs=attributes)
            _check_options(case, make_backend(target).parse_options({}))
        except Exception as error:
            raise StageError("case", error) from error
        log = io.StringIO()
        try:
            with contextlib.redirect_stdout(log):
                compiled = triton.compile(source, target=target, options=dict(case.options))
        except Exception as error:
            raise _refused(error, case.kernel) from error
        used, spilled = _USED.search(log.getvalue()), _SPILLED.search(log.getvalue())
        if used is None or spilled is None:
            said = ValueError(f"expected what ptxas -v says of registers and spills, got {log.getvalue()[:200]!r}")
            raise StageError("triton", said, message=f"{said}; another Triton may say it")
        resources = {
            "shared": int(compiled.metadata.shared),
            "shared_limit": chip["shared"],
            "tensor": int(getattr(compiled.metadata, "tmem_size", 0) or 0),
            "tensor_limit": chip["tensor"],
            "registers": int(used[1]),
            "spill_stores": int(spilled[1]),
            "spill_loads": int(spilled[2]),
            "spill_limit": spills,
        }
        return {"kernels": 1, "resources": resources}

    def _interpret(self, case: TritonCase) -> dict[str, Any]:
        if case.numbers is None:
            raise StageError("no numbers", ValueError(_NO_NUMBERS))
        try:
            importlib.import_module("torch")
        except Exception as error:
            raise StageError("triton", error, message=f"the interpreter needs torch: {error}") from error
        numbers = case.numbers
        try:
            with _launches() as launched, _bfloat16():
                found = numbers.run(*numbers.inputs())
            due = numbers.reference(*numbers.inputs())
        except Exception as error:
            raise _not_interpreted(error) from error
        if not launched:
            raise StageError("no kernel", _NoLaunchError("numbers.run launched no Triton kernel: nothing was checked"))
        try:
            difference = _difference(found, due)
        except Exception as error:
            raise StageError("run", error) from error
        return {"kernels": len(launched), "numbers": {"difference": difference, "limit": _limit(numbers)}}


def _is_type(text: str) -> bool:
    from triton.language import str_to_ty

    try:
        str_to_ty(text, None)
    except (LookupError, ValueError):
        return False
    return True


def _check_options(case: TritonCase, known: Any) -> None:
    """Triton passes over an option that it does not know, and compiles with the default of the one that was meant."""
    for name in case.options:
        if not hasattr(known, name):
            hint = did_you_mean(name, list(vars(known)))
            raise ValueError(f"this Triton has no option {name!r}{hint}")


def _specialised(case: TritonCase) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[Any]]]:
    """Types, constants and divisibilities of a kernel's parameters, as `ASTSource` takes them."""
    parameters = getattr(case.kernel, "params", None)
    if parameters is None or not hasattr(case.kernel, "src"):
        raise TypeError(
            f"expected a function under @triton.jit as kernel, got {case.kernel!r:.200}; of an autotuned one it is its "
            "fn, with one configuration's constants and options"
        )
    names = [parameter.name for parameter in parameters]
    if unknown := [name for name in case.arguments if name not in names]:
        raise ValueError(f"the kernel has no parameter {unknown[0]!r}; it takes {', '.join(names)}")
    if missing := [name for name in names if name not in case.arguments]:
        raise ValueError(f"arguments say nothing of the kernel's parameter {missing[0]!r}: its type, or its value")
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[Any]] = {}
    for at, parameter in enumerate(parameters):
        given = case.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", given
            continue
        kind, _, divisor = str(given).partition(":")
        if divisor not in ("", "16") or not _is_type(kind):
            raise ValueError(f"{parameter.name}: {given!r} is not a type such as *bf16:16, i32 or fp32")
        signature[parameter.name] = kind
        if divisor:
            attributes[(at,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _refused(error: Exception, kernel: Any) -> StageError:
    """In which stage a kernel was refused, where in its source, and why in one line."""
    from triton.compiler.errors import CompilationError

    if isinstance(error, CompilationError):
        own, inner = error, error
        while isinstance(cause := inner.__cause__ or inner.__context__, Exception):
            inner = cause
            if isinstance(inner, CompilationError) and inner.src == kernel.src:
                own = inner  # not in a function that the kernel calls, but where it calls it
        line = getattr(own.node, "lineno", None)
        where = "" if line is None else _place(kernel, line)
        if isinstance(inner, AttributeError | ImportError):  # perhaps of another Triton: `classify` tells
            return StageError("trace", inner, place=where)
        why = getattr(inner, "error_message", None) or str(inner)
        return StageError("trace", error, place=where, message=why)
    if type(error).__name__ == "PTXASError":
        refused = _REFUSED.search(str(error))
        return StageError("compile", error, place=_place(kernel), message=refused[1] if refused else str(error))
    return StageError("lower", error, place=_place(kernel))


def _place(kernel: Any, line: int = 1) -> str:
    """A line of a kernel's source as Triton counts them: the first one is that of its ``def``."""
    decorators = next(at for at, text in enumerate(kernel.raw_src) if text.lstrip().startswith("def "))
    return place(inspect.getsourcefile(kernel.fn) or "", kernel.starting_line_number + decorators + line - 1)


@contextlib.contextmanager
def _launches() -> Iterator[list[Any]]:
    """Within this, the kernels that the interpreter launches."""
    from triton.runtime.interpreter import GridExecutor

    launched: list[Any] = []
    original = GridExecutor.__call__

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        launched.append(self)
        return original(self, *arguments, **named)

    GridExecutor.__call__ = counted
    try:
        yield launched
    finally:
        GridExecutor.__call__ = original


@contextlib.contextmanager
def _bfloat16() -> Iterator[None]:
    """Within this the interpreter's matrix products of bfloat16 are right, and its arithmetic of it is refused.

    It holds bfloat16 as unsigned integers and computes with these (seen in Triton 3.9.0). Products are exact in
    float32. Raises _BFloat16Error where a kernel adds or multiplies element by element.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    originals = {name: getattr(InterpreterBuilder, name) for name in ("create_dot", "binary_op", "unary_op")}

    def is_bfloat16(value: Any) -> bool:
        if not isinstance(value, TensorHandle) or value.data.dtype != np.uint16:
            return False
        return bool(value.dtype.scalar == tl.bfloat16)

    def widened(value: Any) -> Any:
        if not is_bfloat16(value):
            return value
        return TensorHandle((value.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *further: Any) -> Any:
        return originals["create_dot"](self, widened(a), widened(b), *further)

    def refusing(name: str) -> Callable[..., Any]:
        def operation(self: Any, *operands: Any) -> Any:
            if any(map(is_bfloat16, operands)):
                raise _BFloat16Error(
                    "it does not compute with bfloat16 element by element: give float16 or float32 inputs to numbers, "
                    "or let the kernel convert them first"
                )
            return originals[name](self, *operands)

        return operation

    InterpreterBuilder.create_dot = dot
    InterpreterBuilder.binary_op, InterpreterBuilder.unary_op = refusing("binary_op"), refusing("unary_op")
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(InterpreterBuilder, name, original)


def _not_interpreted(error: Exception) -> StageError:
    """Whether the interpreter cannot do what a kernel asks, or the kernel is wrong."""
    from triton.runtime.errors import InterpreterError

    inner = error.__cause__ if isinstance(error, InterpreterError) else None
    if not isinstance(inner, Exception):
        return StageError("run", error)
    if isinstance(inner, NotImplementedError):
        return StageError("triton", inner, message=f"Triton's interpreter cannot run it: {inner}")
    return StageError("run", inner)


def _difference(found: Any, due: Any) -> float | None:
    """The largest difference of two elements in float64; None where they differ in NaN or infinity."""
    import torch

    pairs = [each if isinstance(each, tuple | list) else [each] for each in (found, due)]
    if len(pairs[0]) != len(pairs[1]):
        raise ValueError(f"run returns {len(pairs[0])} tensors, reference {len(pairs[1])}")
    largest = 0.0
    for ours, theirs in zip(*pairs, strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(f"run returns shape {tuple(ours.shape)}, reference {tuple(theirs.shape)}")
        a, b = ours.to(torch.float64), theirs.to(torch.float64)
        same = (a == b) | (a.isnan() & b.isnan())
        apart = (a - b).abs()[~same]
        if not bool(torch.isfinite(apart).all()):
            return None
        largest = max(largest, float(apart.max()) if apart.numel() else 0.0)
    return largest


def _limit(numbers: Numbers) -> float:
    if not (math.isfinite(numbers.limit) and numbers.limit >= 0):
        error = ValueError(f"numbers.limit is {numbers.limit!r}; expected a finite number of 0 or more")
        raise StageError("case", error)
    return float(numbers.limit)


if __name__ == "__main__":
    serve(TritonCompiler())
