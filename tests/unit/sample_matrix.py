"""A small run's matrix for tests of what is made from one."""

from pytest_multiitem.results.records import (
    BenchmarkRecord,
    GateRecord,
    Matrix,
    Place,
    ServerRecord,
    SettingRecord,
    TestRecord,
    Verdict,
)

#: Evidence that a PASS on a difference may rest on.
SEEN = {"noise_floor": 0.0, "leak_visibility": 0.4, "score_spread": 0.6}


def gate_record(gate="same_length_isolation_zero", verdict=Verdict.PASS, where="pytorch-dense", **more):
    given = {
        "reason": "0 is within the limit 0",
        "relation": "==",
        "value": 0.0,
        "limit": 0.0,
        "nodeid": f"tests/regression/test_it.py::TestIt::test_it[{where}]",
        "place": Place(**dict(zip(("backend", "mask", "model"), where.split("-", 2), strict=False)), label=where),
    }
    return GateRecord(gate=gate, verdict=verdict, **(given | more))


def not_run(gate="segment_lowers", reason="no accelerator", **more):
    return gate_record(
        gate, Verdict.NOT_RUN, **({"reason": reason, "value": None, "limit": None, "relation": "holds"} | more)
    )


def benchmark(**more):
    given = {
        "name": "packed", "nodeid": "tests/bench/test_it.py::test_it", "engine": "embedded", "backend": "pytorch",
        "model": "tiny", "mask_requested": "segment", "mask_attested": "segment", "num_items": 500,
        "query_tokens": 2000, "item_tokens": 20, "client_chunk_size": 500, "warmup_runs": 1,
        "runs_sec": [1.0, 2.0, 3.0], "p50_sec": 2.0, "p95_sec": 2.9, "p95_interpolated": True,
        "items_per_sec_p50": 250.0,
    }  # fmt: skip
    return BenchmarkRecord(**(given | more))


def matrix(gates=(), **more):
    given = {
        "run_id": "20260101-000000-1",
        "started_at_utc": "2026-01-01T00:00:00+00:00",
        "finished_at_utc": "2026-01-01T00:01:00+00:00",
        "complete": True,
        "interrupted_by": None,
        "exit_status": 0,
        "command_line": ["pytest", "-q"],
        "machine": {"cpus_usable": 2},
        "versions": {"pytest": "9"},
        "settings": [SettingRecord(name="backend", value="pytorch,jax", origin="default")],
        "servers": [
            ServerRecord(label="serial pytorch", url="http://127.0.0.1:30011", owned=True, command=["serve", "it"])
        ],
        "gates": list(gates),
        "benchmarks": [],
        "tests": [TestRecord(nodeid=gate.nodeid, outcome="passed", gate=gate.gate) for gate in gates],
        "summary": {v.value: sum(g.verdict is v for g in gates) for v in Verdict},
    }
    return Matrix(**(given | more))
