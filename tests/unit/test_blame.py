"""Whose failure it is: of the server under test, of its baseline, or nobody's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_multiitem.errors import CheckpointError, EngineUnavailable, MultiItemError, Origin, UsageError
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.record import judged, verdict_of
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results.verdict import WORST_FIRST, Verdict, failing, worse
from pytest_multiitem.servers.errors import NeverReady, PortUnavailable, ServerDied, ServerError, ServerNotReady
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

PACKED = gates()["same_length_isolation_zero"]
MULTI, SERIAL, REFERENCE = (Origin(role, "pytorch", True) for role in ("multi", "serial", "reference"))
EXTEND, JAX = Origin("extend", "jax", True), Origin("serial", "jax", True)
LOG = "[2026-01-01 00:00:00] loading\n[2026-01-01 00:00:01] torch.OutOfMemoryError: CUDA out of memory.\nbye"


def failure(kind: FailureKind, status: int | None = None) -> ScoreFailure:
    return ScoreFailure(kind, "the message", status)


def died(log: str = "") -> ServerDied:
    return ServerDied("serial pytorch", 1, "by itself", Path("x.log"), log)


def not_ready(error: BaseException | None) -> ServerNotReady:
    return ServerNotReady("serial pytorch", 2.0, error, Path("x.log"), "")


def of(error: MultiItemError, origin: Origin | None, *, answered: bool = True) -> MultiItemError:
    error.origin = None if origin is None else Origin(origin.role, origin.backend, answered)
    return error


BROKEN = {
    "time-out": failure(FailureKind.TIMEOUT),
    "connection": failure(FailureKind.CONNECTION),
    "500": failure(FailureKind.HTTP_ERROR, 500),
    "502": failure(FailureKind.HTTP_ERROR, 502),
    "memory": failure(FailureKind.OOM, 500),
    "400": failure(FailureKind.HTTP_ERROR, 400),
    "404": failure(FailureKind.HTTP_ERROR, 404),
    "NaN": failure(FailureKind.BAD_JSON, 200),
    "shape": failure(FailureKind.BAD_RESPONSE, 200),
    "died": died(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_server_that_has_answered(name: str) -> None:
    """The same end is a FAIL of the server under test, and no FAIL where it is another one's."""
    error = BROKEN[name]
    assert verdict_of(of(error, MULTI), PACKED) is Verdict.FAIL
    assert verdict_of(of(error, EXTEND), PACKED) is Verdict.FAIL
    assert verdict_of(of(error, SERIAL), PACKED) is Verdict.ERROR
    assert verdict_of(of(error, REFERENCE), PACKED) is Verdict.ERROR
    assert verdict_of(of(error, None), PACKED) is Verdict.FAIL, "a server that nobody named may be the one under test"


@pytest.mark.parametrize("status", [301, 302, 307, 401, 402, 403, 407, 429])
def test_who_is_not_admitted_has_no_score(status: int) -> None:
    for origin in (MULTI, SERIAL, None):
        assert verdict_of(of(failure(FailureKind.HTTP_ERROR, status), origin), PACKED) is Verdict.ERROR


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (failure(FailureKind.TIMEOUT), Verdict.ERROR),
        (failure(FailureKind.CONNECTION), Verdict.ERROR),
        (failure(FailureKind.CONNECTION, 500), Verdict.ERROR),
        (failure(FailureKind.HTTP_ERROR, 400), Verdict.ERROR),
        (failure(FailureKind.HTTP_ERROR, 404), Verdict.ERROR),
        (failure(FailureKind.HTTP_ERROR, 502), Verdict.ERROR),
        (failure(FailureKind.HTTP_ERROR, 500), Verdict.FAIL),
        (failure(FailureKind.OOM, 500), Verdict.FAIL),
        (failure(FailureKind.BAD_JSON, 200), Verdict.FAIL),
        (failure(FailureKind.BAD_RESPONSE, 200), Verdict.FAIL),
        (died(), Verdict.ERROR),
        (PortUnavailable("taken"), Verdict.ERROR),
        (NeverReady("no", failure(FailureKind.HTTP_ERROR, 422)), Verdict.ERROR),
        (NeverReady("no", failure(FailureKind.BAD_JSON, 200)), Verdict.FAIL),
        (not_ready(None), Verdict.ERROR),
        (not_ready(failure(FailureKind.HTTP_ERROR, 500)), Verdict.ERROR),
        (not_ready(NeverReady("no", failure(FailureKind.HTTP_ERROR, 400))), Verdict.ERROR),
        (not_ready(NeverReady("no", failure(FailureKind.BAD_RESPONSE, 200))), Verdict.FAIL),
    ],
)
def test_a_server_that_never_answered(error: MultiItemError, verdict: Verdict) -> None:
    """It could not be had; but a first answer that is wrong is a wrong answer."""
    assert verdict_of(of(error, MULTI, answered=False), PACKED) is verdict
    assert verdict_of(of(error, SERIAL, answered=False), PACKED) is Verdict.ERROR


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (EngineUnavailable("no TPU"), Verdict.NOT_RUN),
        (UsageError("no such file"), Verdict.ERROR),
        (CheckpointError("damaged"), Verdict.ERROR),
        (OSError(28, "No space left on device"), Verdict.ERROR),
        (KeyError("a bug"), Verdict.ERROR),
        (PortUnavailable("taken"), Verdict.ERROR),
        (ServerError("it cannot be stopped"), Verdict.FAIL),
    ],
)
def test_what_no_server_has_done(error: Exception, verdict: Verdict) -> None:
    assert verdict_of(error, PACKED) is verdict


#: Gates whose verdict is about serial servers, and which of them.
SERIAL_GATES = {
    "serial_vs_reference_le_0p02": (True, True),
    "jax_serial_vs_torch_serial_le_0p02": (False, True),
    "negative_control_fails": (False, False),
}


@pytest.mark.parametrize("gate", gates().values(), ids=lambda gate: gate.name)
def test_each_gate_knows_whom_it_is_about(gate: Gate) -> None:
    about_torch, about_jax = SERIAL_GATES.get(gate.name, (False, False))
    assert [gate.is_about(SERIAL), gate.is_about(JAX), gate.is_about(REFERENCE)] == [about_torch, about_jax, False]
    assert gate.is_about(MULTI) is gate.is_about(EXTEND) is (gate.name not in SERIAL_GATES)


def test_an_error_is_recorded_in_its_own_words() -> None:
    def full(gate: Gate) -> None:
        raise OSError(28, "No space left on device", "samples.jsonl")

    record = judged(PACKED, full)
    assert record.verdict is Verdict.ERROR and "No space left on device: 'samples.jsonl'" in record.reason


def test_a_bug_is_not_swallowed() -> None:
    def bug(gate: Gate) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        judged(PACKED, bug)


def test_a_dead_server_is_quoted_in_the_first_line() -> None:
    first, *rest = str(died(LOG)).splitlines()
    assert first.endswith("(by itself): torch.OutOfMemoryError: CUDA out of memory.")
    assert "  | bye" in rest
    assert str(died("fine\nbye")).splitlines()[0].endswith("(by itself).")


def test_error_stands_between_fail_and_inconclusive() -> None:
    assert [*WORST_FIRST] == [Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.NOT_RUN, Verdict.PASS]
    assert worse(Verdict.FAIL, Verdict.ERROR) and worse(Verdict.ERROR, Verdict.INCONCLUSIVE)
    assert failing(allow_inconclusive=True) == {Verdict.FAIL, Verdict.ERROR}
    assert failing(allow_inconclusive=False) == {Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE}
