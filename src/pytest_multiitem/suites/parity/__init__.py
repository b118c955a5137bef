"""The parity suite."""
