"""The formats of a run's report, one a file: a module here defines ``FORMAT``, and `format` finds it."""
