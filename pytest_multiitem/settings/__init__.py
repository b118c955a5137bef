"""Every setting of a run, each stated once."""
