"""The bench suite."""
