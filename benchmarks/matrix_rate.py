"""The rate of one large matrix product on a device: ``python benchmarks/matrix_rate.py --backend pytorch``.

A process of its own, so that nothing else of this repository runs in it, with the threads that a server gets. Prints
JSON: ``flops_per_sec`` (of the fastest product), ``seconds`` (of every one), ``threads``, ``device``, ``versions``.
Exit status 3, with the reason on standard error, where the backend or the device is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

MISSING = 3


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("pytorch", "jax"), default="pytorch")
    parser.add_argument("--device", choices=("cpu", "cuda", "tpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--size", type=int, default=2048, help="rows and columns (default: %(default)s)")
    parser.add_argument(
        "--product", choices=("own", "onednn"), default="own", help="of PyTorch on a CPU: torch.mm, or oneDNN's"
    )
    parser.add_argument("--repeats", type=int, default=15, help="timed products (default: %(default)s)")
    args = parser.parse_args()
    if args.size < 1 or args.repeats < 1:
        parser.error("--size and --repeats must be at least 1")
    if args.product == "onednn" and (args.backend, args.device) != ("pytorch", "cpu"):
        parser.error("--product onednn is of --backend pytorch on --device cpu")
    try:
        make = _jax if args.backend == "jax" else partial(_torch, product=args.product)
        multiply, about = make(args.device, args.dtype, args.size)
    except (ImportError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        sys.stderr.write(f"{args.backend} on {args.device}: {reason}\n")
        return MISSING
    seconds = []
    for repeat in range(args.repeats + 3):  # the first ones start threads, compile, and wake the processor up
        start = time.perf_counter()
        multiply()
        if repeat >= 3:
            seconds.append(time.perf_counter() - start)
    found = {"flops_per_sec": 2 * args.size**3 / min(seconds), "seconds": seconds, **vars(args), **about}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _torch(device: str, dtype: str, size: int, product: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the embedded server has it
    import torch

    if device == "tpu":
        raise RuntimeError("the PyTorch engine runs on cpu and cuda only")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no CUDA device")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(left)
    onednn = None
    if product == "onednn":
        from pytest_multiitem.engine import torch_products

        onednn = torch_products.onednn()
        if onednn is None:
            raise RuntimeError("this PyTorch has no oneDNN")

    def multiply() -> None:
        if onednn is None:
            torch.mm(left, right, out=out)
        else:
            onednn(left, right)
        if device == "cuda":
            torch.cuda.synchronize()

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return multiply, {
        "threads": torch.get_num_threads(),
        "device_name": name,
        "versions": {"torch": str(torch.__version__)},
    }


def _jax(device: str, dtype: str, size: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    found = jax.devices(device)[0]
    keys = jax.random.split(jax.random.key(0), 2)
    with jax.default_device(found):
        left, right = (jax.random.normal(key, (size, size)).astype(dtype) for key in keys)
    # As the engine has it: accelerators must not round float32 operands.
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else jax.lax.Precision.DEFAULT
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    about = {"threads": None, "device_name": found.device_kind, "versions": {"jax": jax.__version__}}
    return lambda: product(left, right).block_until_ready(), about


if __name__ == "__main__":
    sys.exit(main())
