"""Stands in for torchvision: the build on PyPI registers operators that exist only beside a GPU build of torch.

sglang imports it for its image models; a text model never calls it.
"""

from _absent_on_cpu import attributes_of

__getattr__ = attributes_of(__name__)

__version__ = "0.28.0"  # the release that goes with torch 2.13; transformers compares it
