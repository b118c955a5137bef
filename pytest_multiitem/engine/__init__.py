"""The embedded engine: a Qwen3-architecture scorer on PyTorch and on JAX behind the production wire.

Only modules in here import torch or jax, and only inside a server's own process.
"""
