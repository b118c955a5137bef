"""What an acceptance of healthy servers has measured, for tests of what is made from it."""

import hashlib

import numpy as np
from sample_matrix import SEEN, gate_record, matrix

from pytest_multiitem.acceptance.derive import derive
from pytest_multiitem.acceptance.words import CORRECTNESS
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results import store
from pytest_multiitem.results.answer import ANSWER, Given, TimedRequest, TimedRow
from pytest_multiitem.results.records import SettingRecord, TestRecord

_RANDOM = np.random.default_rng(20_260_101)
SERIAL = np.round(_RANDOM.uniform(0.1, 0.9, (4, 1)), 6)


def records(**verdicts):
    """A record of every gate that a YES needs; ``verdicts``: those that are no PASS, with fields of their own."""
    found = []
    for name in CORRECTNESS:
        gate = gates()[name]
        more = {"relation": gate.relation, "limit": gate.limit, "value": 0.0, "reason": "as it must be", **SEEN}
        given = verdicts.get(name, {})
        node = f"suites/test_it.py::test_{name}[attached]"
        found.append(gate_record(name, where="attached", nodeid=node, **{**more, **given}))
    return found


def run(**verdicts):
    """The matrix of such a run."""
    found = records(**verdicts)
    settings = [SettingRecord(name="effort", value="quick", origin="command line")]
    settings.append(SettingRecord(name="one_server", value="False", origin="default"))
    settings.append(SettingRecord(name="workload", value="-", origin="default"))
    tests = [
        TestRecord(
            nodeid=record.nodeid,
            outcome="passed" if record.verdict == "PASS" else "skipped" if record.verdict == "NOT_RUN" else "failed",
            gate=record.gate,
            verdict=record.verdict,
        )
        for record in found
    ]
    status = int(any(record.verdict not in ("PASS", "NOT_RUN") for record in found))
    return matrix(found, settings=settings, tests=tests, exit_status=status)


def row(size, milliseconds, **more):
    """Six blocks of two requests, steady up to a hundredth."""
    runs = [[milliseconds * (1 + 0.01 * ((block + request) % 3)) for block in range(6)] for request in range(2)]
    return TimedRow(client_chunk_size=size, runs_ms=runs, **more)


def given(*rows, **more):
    """Two requests of 128 items, two of them timed serially: 64 is the fastest within the guardrail."""
    both = np.hstack([SERIAL, 1 - SERIAL])
    timed = [
        TimedRequest(
            name=f"request {at}",
            query_tokens=60,
            items=128,
            serial_places=[0, 1],
            serial_scores=both[2 * at : 2 * at + 2].tolist(),
            packed_scores=both[2 * at : 2 * at + 2].tolist(),
        )
        for at in range(2)
    ]
    packed = rows or (row(8, 20.0, max_abs_diff=0.0), row(64, 10.0, max_abs_diff=0.0), row(128, 11.0, max_abs_diff=0.0))
    return Given(**{"effort": "quick", "timed": timed, "rows": [row(None, 100.0 / 64), *packed], "delimiter": 7} | more)


def written(directory, matrix, found):
    """A run's directory with its answer; gives the answer's path."""
    path = store.write_matrix(directory, matrix)
    found.matrix_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    store.write_record(directory / ANSWER, derive(matrix, found))
    return directory / ANSWER
