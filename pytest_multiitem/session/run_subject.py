"""What a pytest run gives a gate: as any run does, and it keeps what explains a verdict."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pytest_multiitem.compile_gates.records import Report
from pytest_multiitem.gates.run_subject import RunSubject
from pytest_multiitem.reports.compile_gates import report_lines
from pytest_multiitem.reports.counterexample import failure_lines
from pytest_multiitem.results.counterexample import Counterexample


@dataclass(eq=False)
class ExplainedSubject(RunSubject):
    """``explanation``: lines on what explains a verdict, once it is kept."""

    explanation: list[str] = field(default_factory=list)

    def keep(self, finding: Counterexample | Report) -> None:
        """Save a counterexample in the run's directory; what it, or a report, comes to is the explanation."""
        if isinstance(finding, Report):
            self.explanation += report_lines(finding)
            return
        attached, variable = not self.multi.owned, self.settings.api_key_env
        key = variable if attached and os.environ.get(variable) else None
        path = self.run.keep_counterexample(finding)
        self.explanation += failure_lines(finding, path, api_key_env=key, further=bool(self.explanation))
