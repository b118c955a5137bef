"""The texts that endpoints render their requests into, one a module."""
