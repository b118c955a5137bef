"""What a run tells GitHub, where it runs there: a summary of the step, and annotations in its log."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pytest_multiitem.results.records import Matrix

#: The file that the summary of the running step is in; and what is "true" in a job there.
SUMMARY, ACTIONS = "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"


def tell(matrix: Matrix, environ: Mapping[str, str] | None = None) -> list[str]:
    """Add to the step's summary, and give the lines of the log that are annotations; nothing elsewhere.

    A summary that cannot be written is said in a line, and fails no run: its results are on disk.
    """
    environ = os.environ if environ is None else environ
    lines: list[str] = []
    if environ.get(ACTIONS) != "true" and not environ.get(SUMMARY):
        return lines
    from pytest_multiitem.reports.github import log_commands, step_summary  # imports every report

    if environ.get(ACTIONS) == "true":
        lines += log_commands(matrix)
    if environ.get(SUMMARY):
        try:
            with Path(environ[SUMMARY]).open("a", encoding="utf-8") as file:
                file.write(step_summary(matrix))
        except OSError as error:
            lines.append(f"the summary of the step cannot be written: {error.strerror}")
    return lines
