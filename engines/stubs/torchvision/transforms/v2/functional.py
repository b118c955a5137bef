"""Stands in for torchvision.transforms.v2.functional: see torchvision."""

from _absent_on_cpu import attributes_of

__getattr__ = attributes_of(__name__)
