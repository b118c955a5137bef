"""The compile gate in a test: what the fixture ``multiitem_tpu_check`` gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pytest_multiitem.checks import GateCheck
from pytest_multiitem.collection import gate_of
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.segment import judge_kernel
from pytest_multiitem.options import Settings
from pytest_multiitem.reports.tpu import report_lines
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.session import Session
from pytest_multiitem.tpu.gate import Wanted, check_kernel
from pytest_multiitem.tpu.naming import name_of
from pytest_multiitem.tpu.records import Report


def wanted(settings: Settings, kernel: str, cases: Sequence[Mapping[str, Any]] = ()) -> Wanted:
    """What a run's settings ask for; modules are looked for where this process finds them."""
    return Wanted(
        kernel=kernel,
        cases=tuple(dict(case) for case in cases) or ({},),
        chips=settings.tpu_chips,
        tier=settings.tpu_tier,
        timeout=settings.tpu_timeout,
        libtpu=settings.tpu_libtpu,
        path=tuple(sys.path),
    )


class TpuCheck:
    """Checks a kernel and ends the test by the verdict.

    In a test marked ``@pytest.mark.multiitem_gate("segment_lowers")`` the verdict is that gate's.
    """

    def __init__(self, item: pytest.Item, session: Session) -> None:
        self._item = item
        self._session = session

    def __call__(self, kernel: str | Callable[..., Any], *cases: Mapping[str, int | str]) -> Report:
        """Lower and compile a kernel for the chips of the run's settings; returns what was found where it passes.

        ``kernel``: ``MODULE:FUNCTION``, or the function itself, defined at the top level of a module; it returns
        (callable, abstract arguments). ``cases``: its keyword arguments, each a case; none: one case of its defaults.
        FAIL and INCONCLUSIVE fail the test, and so does a kernel that does not exist; NOT_RUN skips it.
        """
        settings = self._session.settings
        gate = gate_of(self._item)
        check = None if gate is None else GateCheck(gate, self._item, self._session)
        try:
            report = check_kernel(wanted(settings, name_of(kernel), cases))
        except UsageError as error:
            if check is not None:
                check.fail(str(error))
            pytest.fail(str(error), pytrace=False)
        lines = report_lines(report)
        if check is not None:
            check.conclude(judge_kernel(check.gate, report), evidence=lines)
            return report
        text = f"{report.verdict.value}: {report.kernel}: {report.reason}"
        lenient = report.verdict is Verdict.INCONCLUSIVE and settings.allow_inconclusive
        if report.verdict is Verdict.NOT_RUN or lenient:
            pytest.skip(text)
        if report.verdict is not Verdict.PASS:
            pytest.fail("\n".join([text, *(f"  {line}" for line in lines)]), pytrace=False)
        return report
