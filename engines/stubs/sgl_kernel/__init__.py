"""Stands in for sgl_kernel, sglang's compiled kernels: GPU builds only; scoring on a CPU calls none of them."""

from _absent_on_cpu import attributes_of

__getattr__ = attributes_of(__name__)
