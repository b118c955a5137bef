"""Matrices as they come from a run, and as bare as a foreign tool may write them."""

import numpy as np

from pytest_multiitem.bench.statistics import ratio_interval
from pytest_multiitem.comparison.records import OwnReference, Row, RunRecord, ScoreMatrix, SelfComparison, WorkloadRef
from pytest_multiitem.gates.evidence import score_spread

ITEMS = 40


def spread_scores(seed=1, items=ITEMS, labels=2, shift=0.0):
    """Scores [items, labels] that differ between items; ``shift`` moves some probability to the first label."""
    logits = np.random.default_rng(seed).normal(0, 1.5, (items, labels))
    raised = np.exp(logits)
    scores = raised / raised.sum(axis=1, keepdims=True)
    scores[:, 0] += shift
    if labels > 1:
        scores[:, 1] -= shift
    return scores.tolist()


def row(size=64, times=(100.0, 101.0, 99.0, 100.5, 99.5), *, session="one", scores=None, items=ITEMS, **more):
    """A row whose runs took ``times`` milliseconds, with all figures that follow from them."""
    times = [float(time) for time in times]
    p50, chunks = float(np.median(times)), -(-items // size)
    given = {
        "client_chunk_size": size,
        "status": "ok",
        "num_chunks": chunks,
        "timed_runs": len(times),
        "successful_runs": len(times),
        "success_rate": 1.0,
        "p50_total_e2e_ms": p50,
        "p95_total_e2e_ms": float(np.percentile(times, 95)),
        "mean_total_e2e_ms": float(np.mean(times)),
        "throughput_items_sec": 1000 * items / float(np.mean(times)),
        "reference_scores": spread_scores(items=items) if scores is None else scores,
        "run_records": [
            RunRecord(ok=True, total_e2e_ms=time, call_latencies_ms=[time / chunks] * chunks, run_index=i, block=i)
            for i, time in enumerate(times)
        ],
        "p95_interpolated": True,
        "session": session,
        "noise_floor": 0.0,
    }
    made = Row(**(given | more))
    if made.reference_scores and "score_spread" not in more:
        made.score_spread = score_spread([np.array(made.reference_scores)])
    return made


def failed_row(size=64, kind="timeout", runs=5, good=0, **more):
    """A row of which ``good`` runs of ``runs`` succeeded."""
    given = {
        "status": "partial_failure" if good else "failed",
        "timed_runs": runs,
        "successful_runs": good,
        "success_rate": good / runs,
        "failure_reason_counts": {kind: runs - good},
        "run_records": [
            RunRecord(ok=True, total_e2e_ms=50.0, block=i)
            if i < good
            else RunRecord(ok=False, failure_reason=kind, block=i)
            for i in range(runs)
        ],
    }
    if not good:
        given |= dict.fromkeys(
            ("p50_total_e2e_ms", "p95_total_e2e_ms", "mean_total_e2e_ms", "throughput_items_sec", "noise_floor")
        ) | {"reference_scores": [], "score_spread": None}
    return row(size, (50.0,) * runs, **(given | more))


def own_reference(scores, indices=(0, 3, 7, 20), semantics="prefix_first_delim", shift=0.0, **more):
    """The serial scores of some items, off by ``shift``."""
    chosen = np.array(scores)[list(indices)]
    chosen[:, 0] += shift
    chosen[:, 1:2] -= shift
    given = {"semantics": semantics, "source": "serial", "item_indices": list(indices), "scores": chosen.tolist(),
             "noise_floor": 0.0}  # fmt: skip
    return OwnReference(**(given | more))


def self_comparison(interval=(0.98, 1.02), size=64):
    """A/A of an interval that a test chooses."""
    return SelfComparison(
        client_chunk_size=size, first_ms=[100.0] * 5, second_ms=[100.0] * 5, ratio_p50=1.0, ratio_interval_95=interval
    )


def against_itself(size=64):
    """A/A as it is measured."""
    first, second = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2], [100.2, 99.0, 100.0, 101.0, 99.5, 100.3]
    return SelfComparison(
        client_chunk_size=size, first_ms=first, second_ms=second, ratio_p50=float(np.median(first) / np.median(second)),
        ratio_interval_95=ratio_interval(first, second),
    )  # fmt: skip


def matrix(backend="jax", rows=None, view="portable", **more):
    """A whole matrix of a run, with its own reference where it has scores."""
    rows = [row()] if rows is None else list(rows)
    scored = next((each.reference_scores for each in rows if each.reference_scores), None)
    given = {
        "schema_version": "score_matrix_v1",
        "backend": backend,
        "evaluation_view": view,
        "results": rows,
        "generated_at_utc": "2026-01-01T00:00:00+00:00",
        "package_version": "0.1.0",
        "hardware": {"processor": "a processor", "device": "cpu"},
        "server_config": {"server_chunk_size": 0, "command": ["serve", backend]},
        "workload_ref": WorkloadRef(path="canonical_workload.json", sha256="a" * 64, request_id="canonical"),
        "workload": {"num_items": ITEMS, "query_tokens": 200, "item_tokens": 20, "label_token_ids": [9454, 2753]},
        "engine": "embedded",
        "model": "tiny",
        "dtype": "float32",
        "semantics": "prefix_first_delim",
        "mask_requested": "segment",
        "versions": {"numpy": "2"},
        "self_comparison": against_itself(),
        "own_reference": None if scored is None or len(scored) <= 20 else own_reference(scored),
        "complete": True,
    }
    return ScoreMatrix(**(given | more))


def around(center, seed, runs=7):
    """Times that scatter by 1 %."""
    return tuple(center * (1 + np.random.default_rng(seed).normal(0, 0.01, runs)))


def best_pair(a=100.0, b=80.0, view="best_native", sizes=(8, 64), **more):
    """Two sides, confirmed, of which one is clearly faster."""
    made = []
    for backend, time in (("jax", a), ("pytorch", b)):
        rows = [row(size, around(time * 64 / size, seed=size), session=f"{view} {size}") for size in sizes]
        again = [row(sizes[-1], around(time, seed=backend == "jax"), session=f"{view} confirm")]
        made.append(matrix(backend, rows, view, confirm_results=again, **more))
    return made


def foreign(backend="jax", view="portable", rows=((64, 100.0), (128, 90.0)), **more):
    """A matrix with what no tool can leave out, and figures where one would give any."""
    return ScoreMatrix(
        schema_version="score_matrix_v1",
        backend=backend,
        evaluation_view=view,
        results=[
            Row(
                client_chunk_size=size,
                status="ok",
                success_rate=1.0,
                p50_total_e2e_ms=time,
                p95_total_e2e_ms=1.1 * time,
                throughput_items_sec=1000 * ITEMS / time,
            )
            for size, time in rows
        ],
        **more,
    )


def unlabelled(matrices):
    """Matrices as `offline.compare` takes them, without files."""
    return [(None, each) for each in matrices]
