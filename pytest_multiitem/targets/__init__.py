"""A server as something to measure."""
