"""The power of the gates: every known fault is planted into a build, and the gates must see it."""
