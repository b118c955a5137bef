"""Products of the JAX engine, accumulated in float32 on every device."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax


def dot(equation: str, a: Any, b: Any, out: Any = jnp.float32) -> Any:
    """A product accumulated in float32; accelerators must not round float32 operands.

    XLA's CPU backend lacks some bfloat16 products with a float32 result, so there the operands are
    widened first, which is exact.
    """
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT

    def product(a: Any, b: Any) -> Any:
        return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=out)

    if a.dtype == out:
        return product(a, b)
    return lax.platform_dependent(a, b, cpu=lambda a, b: product(a.astype(out), b.astype(out)), default=product)
