"""The commands of ``multiitem``, one a file."""
