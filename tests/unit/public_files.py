"""Small files as the public scripts write them, by hand: a matrix a side and view, their comparison, a workload, and
the files of the two-step evaluation. What is selected is worked out here, by the public rule."""

import hashlib
import json

import numpy as np

ITEMS = 6
LIMITS = {"max_abs_diff": 0.02, "mean_abs_diff": 0.01}


def scores(shift=0.0):
    first = 0.2 + 0.1 * np.arange(ITEMS) + shift
    return np.column_stack([first, 1 - first]).tolist()


def row(size, times, shift=0.0):
    """A row all of whose runs succeeded; runs take a little longer than their requests."""
    chunks = -(-ITEMS // size)
    calls = [[time / chunks - 0.01] * chunks for time in times]
    each = [call for run in calls for call in run]
    mean = float(np.mean(times))
    return {
        "client_chunk_size": size, "num_chunks": chunks, "timed_runs": len(times), "successful_runs": len(times),
        "success_rate": 1.0, "status": "ok", "p50_total_e2e_ms": float(np.percentile(times, 50)),
        "p95_total_e2e_ms": float(np.percentile(times, 95)), "mean_total_e2e_ms": mean,
        "mean_chunk_call_ms": float(np.mean(each)), "p95_chunk_call_ms": float(np.percentile(each, 95)),
        "throughput_items_sec": 1000 * ITEMS / mean, "first_run_penalty_ratio": times[0] / float(np.mean(times[1:])),
        "failure_reason_counts": {}, "usd_per_run": None, "items_per_usd": None, "reference_scores": scores(shift),
        "run_records": [
            {"run_index": at, "ok": True, "total_e2e_ms": time, "call_latencies_ms": calls[at], "failure_reason": None,
             "failure_detail": None}
            for at, time in enumerate(times)
        ],
    }  # fmt: skip


def fastest(entries, ratio=1.25):
    """The public rule: of (p95, items/s, tie-breakers, …) the most items/s within the guardrail."""
    limit = min((p95 for p95, *_ in entries), default=None)
    within = [entry for entry in entries if entry[0] <= ratio * limit] if entries else []
    return (None if limit is None else ratio * limit), min(within, key=lambda e: (-e[1], *e[2:]), default=None)


def recommendation(rows):
    good = [r for r in rows if r["success_rate"] == 1]
    limit, best = fastest([(r["p95_total_e2e_ms"], r["throughput_items_sec"], r["client_chunk_size"]) for r in good])
    selected = None if best is None else {
        "client_chunk_size": best[2], "throughput_items_sec": best[1], "p95_total_e2e_ms": best[0], "success_rate": 1.0
    }  # fmt: skip
    return {"eligible_count": len(rows), "guardrail_ratio": 1.25, "guardrail_p95_ms": limit, "selected": selected,
            "notes": []}  # fmt: skip


def matrix(backend, view, pace, shift=0.0, workload=None):
    """Chunk sizes 1, 3 and 6, the last two confirmed; ``pace``: of the sweep's largest, in milliseconds."""
    wobble = np.array([0.0, 2.0, -1.0, 1.0, 0.5])
    swept = [row(size, (pace * factor + wobble).tolist(), shift) for size, factor in ((1, 3), (3, 1.4), (6, 1))]
    further = np.array([*wobble, 0.7, -0.2])
    again = [row(size, (pace * factor + further).tolist(), shift) for size, factor in ((3, 1.4), (6, 1.02))]
    final = recommendation(again)
    return {
        "schema_version": "score_matrix_v1", "generated_at_utc": "2026-02-11T00:00:00+00:00", "backend": backend,
        "evaluation_view": view, "hardware": {"hostname": "machine", "tpu_env": {}},
        "server_config": {"multi_item_scoring_delimiter": 151643, "note": "a note"},
        "workload_ref": {"path": "reports/canonical_workload.json", "sha256": workload or "a" * 64,
                         "request_id": "canonical_score_request_000"},
        "workload": {"model": "Qwen/Qwen3-0.6B", "query_tokens": 4, "num_items": ITEMS, "item_tokens": 2,
                     "label_token_ids": [9454, 2753]},
        "results": swept, "confirm_results": again,
        "summary": {
            "guardrail_ratio": 1.25, "sweep_recommendation": recommendation(swept), "confirm_chunk_sizes": [1, 3, 6],
            "confirm_recommendation": final, "final_recommendation": final, "correctness_thresholds": dict(LIMITS),
        },
        "notes": ["Correctness is judged elsewhere."],
    }  # fmt: skip


PACES = {("jax", "portable"): 100.0, ("pytorch", "portable"): 120.0,
         ("jax", "best_native"): 90.0, ("pytorch", "best_native"): 80.0}  # fmt: skip


def matrices(shift=0.0):
    """By what their files are called; PyTorch's scores are off by ``shift``."""
    return {
        f"{backend}_{view}_matrix.json": matrix(backend, view, pace, shift if backend == "pytorch" else 0.0)
        for (backend, view), pace in PACES.items()
    }


def difference(a, b):
    each = np.abs(np.array(a["reference_scores"]) - np.array(b["reference_scores"]))
    largest, mean = float(each.max()), float(each.mean())
    passed = largest <= LIMITS["max_abs_diff"] and mean <= LIMITS["mean_abs_diff"]
    return {"status": "ok", "max_abs_diff": largest, "mean_abs_diff": mean, "num_compared": each.size, "pass": passed,
            "detail": ""}  # fmt: skip


def winner(entries):
    """Of (backend, row, whether its scores agree)."""
    known = [
        (r["p95_total_e2e_ms"], r["throughput_items_sec"], backend, r["client_chunk_size"])
        for backend, r, passed in entries
        if passed and r["success_rate"] == 1
    ]
    limit, best = fastest(known)
    won = None if best is None else {
        "backend": best[2], "client_chunk_size": best[3], "throughput_items_sec": best[1], "p95_total_e2e_ms": best[0]
    }  # fmt: skip
    return {"eligible_count": len(known), "guardrail_ratio": 1.25, "guardrail_p95_ms": limit, "winner": won}


def selected_row(matrix):
    """The row that a matrix recommends: the confirmed one where there is one."""
    size = matrix["summary"]["final_recommendation"]["selected"]["client_chunk_size"]
    return next(r for r in matrix["confirm_results"] + matrix["results"] if r["client_chunk_size"] == size)


FIGURES = ("status", "success_rate", "p95_total_e2e_ms", "throughput_items_sec")


def comparison(files):
    """As the public comparison decides between four matrices: portable by the sweep, best_native by what each side
    recommends. Reads nothing but public fields."""
    sides = {b: files[f"{b}_portable_matrix.json"]["results"] for b in ("jax", "pytorch")}
    rows, entries = [], []
    for ours in sides["jax"]:
        theirs = next((r for r in sides["pytorch"] if r["client_chunk_size"] == ours["client_chunk_size"]), None)
        if theirs is None:
            continue
        found = difference(ours, theirs)
        rows.append({
            "client_chunk_size": ours["client_chunk_size"], "jax": {name: ours[name] for name in FIGURES},
            "pytorch": {name: theirs[name] for name in FIGURES}, "correctness": found,
        })  # fmt: skip
        entries += [("jax", ours, found["pass"]), ("pytorch", theirs, found["pass"])]
    best = {b: selected_row(files[f"{b}_best_native_matrix.json"]) for b in ("jax", "pytorch")}
    found = difference(*best.values())
    native = winner([(backend, r, found["pass"]) for backend, r in best.items()])
    won = native["winner"]
    overall = (
        f"Overall: use best-native winner ({won['backend']} at chunk {won['client_chunk_size']})."
        if won
        else "Overall: -"
    )
    return {
        "schema_version": "cross_backend_comparison_v1", "generated_at_utc": "2026-02-11T00:00:00+00:00",
        "portable_view": {
            "guardrail_ratio": 1.25, "rows": rows, "winner": winner(entries),
            "backend_best": {b: winner([e for e in entries if e[0] == b]) for b in ("jax", "pytorch")},
        },
        "best_native_view": {"guardrail_ratio": 1.25, "jax_selected": best["jax"], "pytorch_selected": best["pytorch"],
                             "correctness": found, "winner": native},
        "correctness": {"thresholds": dict(LIMITS)},
        "recommendations": {"portable": "Portable view: no winner.", "overall": overall},
        "notes": ["Rows need 100 % success."], "inputs": {"jax_portable_json": "jax_portable_matrix.json"},
    }  # fmt: skip


def workload():
    request = {
        "request_id": "canonical_score_request_000", "query_token_ids": [11, 12, 13, 14],
        "items_token_ids": [[20 + at, 40 + at] for at in range(ITEMS)], "label_token_ids": [9454, 2753],
        "apply_softmax": True, "item_first": False,
    }  # fmt: skip
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return {
        "schema_version": "canonical_score_workload_v1", "generated_at_utc": "2026-02-11T00:00:00+00:00",
        "model": "Qwen/Qwen3-0.6B", "query_tokens": 4, "num_items": ITEMS, "item_tokens": 2,
        "delimiter_token_id": 151643, "label_token_ids": [9454, 2753],
        "tokenizer": {"name_or_path": "Qwen/Qwen3-0.6B", "vocab_size": 151643, "special_token_ids": []},
        "safe_token_pool": [11, 12], "requests": [request],
        "checksums": {"canonical_score_request_000_sha256": hashlib.sha256(text.encode()).hexdigest()},
    }  # fmt: skip


def worst(a, b):
    return np.abs(np.array(a) - np.array(b)).max(axis=1).tolist()


def combined(multi, serial, torch):
    """The two files that join evaluations: multi against serial, and JAX against PyTorch."""
    plain, aligned = worst(multi, serial), worst(multi, torch)
    point = {
        "multi_p50_sec": 0.02, "multi_p95_sec": 0.02, "serial_p50_sec": 0.1, "serial_p95_sec": 0.1,
        "speedup_vs_serial_p50": 5.0, "multi_items_per_sec_p50": 1600.0, "serial_items_per_sec_p50": 320.0,
        "multi_latencies_sec": [0.02] * 3, "serial_latencies_sec": [0.1] * 3,
    }  # fmt: skip
    against_serial = {
        "model": "Qwen/Qwen3-0.6B", "multi_url": "http://a/v1/score", "serial_url": "http://b/v1/score",
        "labels": [9834, 902],
        "equivalence": {"abs_diffs_multi_vs_serial": plain, "max_abs_diff": max(plain),
                        "mean_abs_diff": float(np.mean(plain)), "multi_scores": multi, "serial_scores": serial},
        "isolation": {f"{kind}_length_mutation_{name}": value for kind in ("same", "changed")
                      for name, value in (("unchanged_diffs", [0.0] * 4), ("max_abs_diff", 0.0))},
        "performance": {"32": point},
        "equivalence_query_plus_delimiter": {
            "abs_diffs_multi_vs_serial_query_plus_delimiter": aligned, "max_abs_diff": max(aligned),
            "mean_abs_diff": float(np.mean(aligned)), "serial_query_plus_delimiter_scores": torch,
        },
    }  # fmt: skip
    pairs = {"multi_vs_torch_serial": (multi, torch), "multi_vs_torch_multi_semantic": (multi, torch),
             "serial_vs_torch_serial": (serial, torch)}  # fmt: skip
    parity = {
        "model": "Qwen/Qwen3-0.6B", "delimiter": 151643, "labels": [9834, 902], "query_ids": [1, 2],
        "item_ids": [[3], [4]], "jax_multi_scores": multi, "jax_serial_scores": serial,
        "torch_serial_reference_scores": torch, "torch_multi_semantic_reference_scores": torch,
        **{f"abs_diff_jax_{name}": worst(*both) for name, both in pairs.items()},
        **{f"max_abs_diff_jax_{name}": max(worst(*both)) for name, both in pairs.items()},
    }  # fmt: skip
    return against_serial, parity
