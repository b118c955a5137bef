"""What a run looks like to people: one format a module, each made from the same ``Matrix``."""
