"""How every gate is measured: what goes wrong on the way is a verdict of its own."""

import pytest
from stub_targets import multi

from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.record import Measurement, blank_record, judged
from pytest_multiitem.results.records import Evidence, Verdict
from pytest_multiitem.servers.errors import ServerError
from pytest_multiitem.transport.client import FailureKind, ScoreFailure


def raising(error):
    def measure(gate):
        raise error

    return measure


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (EngineUnavailable("no such device"), Verdict.NOT_RUN),
        (ScoreFailure(FailureKind.TIMEOUT, "no answer"), Verdict.FAIL),
        (ServerError("it has ended"), Verdict.FAIL),
    ],
)
def test_what_goes_wrong_is_a_verdict_on_the_gate(error, verdict):
    record = judged(EQUIVALENCE, raising(error))
    assert (record.gate, record.verdict, record.reason) == (EQUIVALENCE.name, verdict, str(error))
    assert (record.relation, record.limit, record.value, record.nodeid) == ("<=", 0.02, None, "")


def test_a_mistake_of_the_user_is_no_fail():
    record = judged(EQUIVALENCE, raising(UsageError("a wrong option")))
    assert (record.verdict, record.reason) == (Verdict.ERROR, "a wrong option")


def test_a_measurement_is_judged_and_timed():
    measured = []

    def measure(gate):
        measured.append(gate)
        return Measurement(multi(), 0.03, Evidence(noise_floor=0.0, leak_visibility=0.5, score_spread=0.5))

    record = judged(EQUIVALENCE, measure)
    assert measured == [EQUIVALENCE] and record.verdict is Verdict.FAIL and record.value == 0.03
    assert 0 <= record.seconds < 5 and round(record.seconds, 3) == record.seconds


def test_a_blank_record_stands_for_its_test():
    record = blank_record(EQUIVALENCE, Verdict.NOT_RUN, "why", "test_it.py::test_it")
    assert (record.nodeid, record.limit, record.relation) == ("test_it.py::test_it", 0.02, "<=")
