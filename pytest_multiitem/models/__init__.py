"""A matrix of models: a quick contract for every model, backend and mask of a file, and what is known of each."""
