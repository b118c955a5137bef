"""pytest-multiitem: the acceptance test for multi-item scoring servers.

Importing this package loads neither torch nor jax; engines live in their own processes.
"""

__version__ = "0.1.0"
