"""The benchmark of the engines: its targets and its page follow from the results, and its scripts run."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from reference import Reference

from benchmarks import accelerator, attention_rates
from benchmarks.engine_speed import growth, memory, page, run, sides, surroundings, targets, timing
from benchmarks.engine_speed.__main__ import main
from benchmarks.engine_speed.shapes import CANONICAL, DELIMITER, LABELS, Requests, Shape
from pytest_multiitem.bench import flops
from pytest_multiitem.engine.checkpoint import CheckpointSpec
from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.errors import EngineUnavailable, UsageError

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--layers=2", "--hidden=64", "--heads=4", "--kv-heads=2", "--head-dim=16", "--intermediate=128")


def faster(ratio: float) -> dict[str, Any]:
    return {"ratio": ratio, "interval_95": [0.9 * ratio, 1.1 * ratio], "blocks": 3}


def side(backend: str, key: str, rate: float, above_idle: int, **more: Any) -> dict[str, Any]:
    return {
        "backend": backend, "side": key, "about": key, "items_per_sec_p50": rate, "items_per_sec_interval_95": None,
        "runs": 3, "items_per_run": 8, "peak_above_idle_bytes": above_idle, "idle_bytes": 2**20, "executed": key,
        "problem": None, "segment_faster": {}, "seconds": [1.0, 1.0, 1.0], **more,
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    """Results of a run that holds every target, exactly at the limit where that is possible."""
    found = []
    for backend, limit in targets.SERIAL_RATIO.items():
        found += [
            side(backend, "segment", 500, 20, share_needed=0.45, share_interval_95=[0.4, 0.5]),
            side(backend, "dense", 100, 100, segment_faster={backend: faster(5.0)}),
            side(backend, "serial", 10, 30, segment_faster={backend: faster(limit)}),
        ]
    both = {"pytorch": faster(25.0), "jax": faster(30.0)}
    slow = {"pytorch": faster(250.0), "jax": faster(300.0)}
    found += [
        side("sglang", "sglang_8", 20, 40, segment_faster=both),
        side("sglang", "sglang_1", 2, 40, segment_faster=slow),
    ]
    fit = growth.linear_fit([1, 10, 100], [0.011, 0.02, 0.11])
    isolated = {
        "shape": CANONICAL.name, "mutations": 9, "max_abs_change_of_others": 0.0, "scores_that_changed": 0,
        "touched_change": 0.1, "score_spread": 0.4, "executed": "segment", "problem": None,
    }  # fmt: skip
    agreed = [{"backend": backend, "max_abs_diff": 1e-4} for backend in targets.BACKENDS]
    return {
        "missing": {},
        "shapes": [{"shape": CANONICAL.name, "sides": found, "agreement": agreed}],
        "isolation": [{"backend": backend, **isolated} for backend in targets.BACKENDS],
        "growth_items": {"fits": dict.fromkeys(targets.BACKENDS, fit)},
    }


def verdicts(results: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(one["target"], one["backend"]): one["verdict"] for one in targets.judge(results)}


def missed(results: dict[str, Any]) -> list[tuple[str, str]]:
    return [where for where, verdict in verdicts(results).items() if verdict != targets.HOLDS]


def test_limits_themselves_hold(results: dict[str, Any]) -> None:
    assert set(verdicts(results).values()) == {targets.HOLDS} and len(verdicts(results)) == 18
    assert "25.0 × (95 %: 22.5 × to 27.5 ×)" in [one["shown"] for one in targets.judge(results)]


@pytest.mark.parametrize(
    ("vendor", "share", "verdict"),
    [
        ("AuthenticAMD", 0.55, targets.HOLDS),
        ("AuthenticAMD", 0.5499, targets.MISSED),
        ("GenuineIntel", 0.45, targets.HOLDS),
        ("GenuineIntel", 0.4499, targets.MISSED),
    ],
)
def test_the_share_of_the_rate_is_asked_by_the_make_of_the_processor(
    results: dict[str, Any], vendor: str, share: float, verdict: str
) -> None:
    results["instruction_set"] = {"vendor": vendor}
    for backend in targets.BACKENDS:
        the_side(results, backend, "segment").update(share_needed=share)
    found = {name: one for (name, _), one in verdicts(results).items() if "GEMM" in name}
    assert set(found.values()) == {verdict} and f"≥ {targets.MATRIX_SHARE[vendor]:.0%}" in next(iter(found))


def test_the_kind_of_processor_is_that_of_its_first_core() -> None:
    first = (
        "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"
        "flags\t\t: fpu avx avx2 avx512f\n"
    )
    kind = {"vendor": "AuthenticAMD", "family": "26", "model": "2", "vectors": "AVX-512"}
    assert surroundings.instruction_set(first + first.replace("avx512f", "amx_tile")) == kind
    assert surroundings.instruction_set(first.replace(" avx512f", ""))["vectors"] == "AVX2"
    assert set(surroundings.instruction_set("").values()) == {None}


def the_side(results: dict[str, Any], backend: str, key: str) -> dict[str, Any]:
    return next(s for s in results["shapes"][0]["sides"] if (s["backend"], s["side"]) == (backend, key))


def below(value: float) -> float:
    return float(np.nextafter(value, 0))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda r: the_side(r, "jax", "serial")["segment_faster"].update(jax=faster(below(30.0))), "one-item calls"),
        (lambda r: the_side(r, "jax", "dense")["segment_faster"].update(jax=faster(below(5.0))), "dense in time"),
        (lambda r: the_side(r, "jax", "segment").update(peak_above_idle_bytes=21), "peak memory"),
        (lambda r: the_side(r, "sglang", "sglang_8")["segment_faster"].update(jax=faster(24.9)), "sglang"),
        (lambda r: the_side(r, "jax", "segment").update(share_needed=below(0.45)), "GEMM"),
        (lambda r: r["isolation"][1].update(max_abs_change_of_others=1e-300), "isolation"),
        (lambda r: r["isolation"][1].update(scores_that_changed=1), "isolation"),
        (lambda r: r["shapes"][0]["agreement"][1].update(max_abs_diff=2e-4), "agree"),
        (lambda r: r["growth_items"]["fits"].update(jax={"r2": 0.98, "largest_relative_residual": 0.1}), "R²"),
        (lambda r: r["growth_items"]["fits"].update(jax={"r2": 1.0, "largest_relative_residual": 0.2}), "residual"),
    ],
)
def test_what_is_beyond_a_limit_is_missed(results: dict[str, Any], change: Any, part: str) -> None:
    change(results)
    ((target, backend),) = missed(results)
    assert part in target and backend == "jax"
    assert verdicts(results)[target, backend] == targets.MISSED


def test_the_best_mode_of_sglang_counts(results: dict[str, Any]) -> None:
    best = targets.best_sglang(results, CANONICAL.name)
    assert isinstance(best, dict) and best["side"] == "sglang_8"


@pytest.mark.parametrize(
    ("change", "count", "reason"),
    [
        (lambda r: r["shapes"].clear(), 12, "measured"),
        (lambda r: r["shapes"][0].update(shape="1/1/1"), 10, "2000/500/20 was not measured"),
        (lambda r: the_side(r, "jax", "dense").update(failure="no answer"), 2, "dense: no answer"),
        (lambda r: the_side(r, "jax", "segment").update(problem="ran dense"), 5, "ran dense"),
        (lambda r: the_side(r, "jax", "segment").update(peak_above_idle_bytes=None), 1, "does not tell"),
        (lambda r: r["isolation"][0].update(touched_change=0.0), 1, "nothing was seen"),
        (lambda r: r["isolation"].pop(), 1, "isolation of jax was not measured"),
        (lambda r: r.pop("growth_items"), 4, "was not measured"),
    ],
)
def test_what_was_not_measured_is_not_run(results: dict[str, Any], change: Any, count: int, reason: str) -> None:
    change(results)
    found = [one for one in targets.judge(results) if one["verdict"] == targets.NOT_RUN]
    assert len(found) == count and all(reason in one["reason"] and one["value"] is None for one in found)
    assert targets.MISSED not in verdicts(results).values()


def test_a_missing_engine_is_not_run_with_its_reason(results: dict[str, Any]) -> None:
    results["shapes"][0]["sides"] = [s for s in results["shapes"][0]["sides"] if s["backend"] != "sglang"]
    results["missing"]["sglang"] = "there is no such python"
    reasons = [one["reason"] for one in targets.judge(results) if one["verdict"] == targets.NOT_RUN]
    assert reasons == ["there is no such python"] * 2
    with pytest.raises(EngineUnavailable, match="make engines"):
        sides.sglang(Path("/nowhere/python"), Path("m"))


def test_transformers_scores_a_request_as_float64_does(checkpoint: Path, tmp_path: Path) -> None:
    query, items, labels = [3, 1, 4], [[1, 5], [9], [2, 6, 5]], [7, 11]
    reference = Reference(checkpoint)
    logits = np.array([reference.serial_logits([*query, *item])[labels] for item in items])
    due = np.exp(logits - logits.max(axis=1, keepdims=True))
    due /= due.sum(axis=1, keepdims=True)
    said: list[str] = []
    with sides.started(sides.transformers(checkpoint), tmp_path, said.append, labels=labels) as found:
        assert not found.missing and said == ["transformers_loop: ready", "transformers_padded: ready"]
        for side in found.sides:
            scores = side.server.target.client.score(query, items, labels, apply_softmax=True)
            assert np.abs(np.array(scores) - due).max() <= 1e-6, side.key


def test_a_line_is_found_and_its_worst_point() -> None:
    exact = growth.linear_fit([1, 10, 100, 1000], [2 + 3 * n for n in (1, 10, 100, 1000)])
    assert exact["slope_sec_per_item"] == pytest.approx(3) and exact["intercept_sec"] == pytest.approx(2)
    assert exact["r2"] == pytest.approx(1) and exact["largest_relative_residual"] < 1e-9
    bent = growth.linear_fit([1, 10, 100, 1000], [5, 32, 302, 6004])
    assert bent["largest_relative_residual"] > 0.1 and bent["r2"] < 1
    with pytest.raises(ValueError, match="at least 3"):
        growth.linear_fit([1, 2], [1, 2])


def test_a_residual_is_relative_to_its_own_time() -> None:
    counts, seconds = [1, 2, 1000], [1.0, 1.0, 500.0]
    fit = growth.linear_fit(counts, seconds)
    apart = [
        abs(t - fit["intercept_sec"] - fit["slope_sec_per_item"] * n) / t for n, t in zip(counts, seconds, strict=True)
    ]
    assert fit["largest_relative_residual"] == pytest.approx(max(apart))
    assert fit["at_items"] == counts[int(np.argmax(apart))]


def test_requests_are_never_the_same_and_always_the_same() -> None:
    shape, requests = Shape.parse("30/4/5"), Requests(151_936)
    first, again, second = requests.case(shape, 1), Requests(151_936).case(shape, 1), requests.case(shape, 2)
    assert first == again and first.query != second.query and not set(first.items) & set(second.items)
    assert (len(first.query), len(first.items), {len(item) for item in first.items}) == (30, 4, {5})
    assert not {DELIMITER, *LABELS} & {*first.query, *sum(first.items, ())}
    small = Requests(1000)
    assert max(small.case(shape, 1).query) < 1000 and small.delimiter == 999 and small.labels == (2, 3)


@pytest.mark.parametrize("text", ["2000/500", "a/b/c", "0/1/1", "1/2/3/4", ""])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="QUERY/ITEMS"):
        Shape.parse(text)


def test_the_effort_follows_from_the_first_run() -> None:
    effort = timing.Effort(3, 9, 6.0)
    assert [effort.runs(seconds) for seconds in (0.0, 0.1, 1.0, 2.0, 60.0)] == [9, 9, 6, 3, 3]


def test_of_many_slow_modes_the_two_fastest_are_timed_again() -> None:
    def timed(key: str, seconds: float, scanned: bool = True) -> timing.Timed:
        one = sides.Side(key, key, "sglang", None, "serial", scanned=scanned)  # type: ignore[arg-type]
        return timing.Timed(one, CANONICAL, 1, [seconds])

    turns = [timed("a", 40.0), timed("b", 12.0), timed("c", 10.0), timed("d", 11.0), timed("own", 90.0, scanned=False)]
    planned = timing._plan(turns, timing.Effort(3, 9, 6.0))
    assert [planned[one] for one in turns] == [1, 1, 3, 3, 3]
    assert set(timing._plan(turns, timing.Effort(3, 9, 600.0)).values()) == {9, 6}, "a mode that is quick is no matter"
    failed = timing.Timed(turns[0].side, CANONICAL, 1, failure="no answer")
    assert timing._plan([failed, turns[0], turns[2]], timing.Effort()) == {failed: 0, turns[0]: 1, turns[2]: 3}


def test_ratios_are_of_the_blocks_that_both_were_in() -> None:
    slow = timing.Timed(None, CANONICAL, 2, [4.0, 8.0, 8.0])  # type: ignore[arg-type]
    fast = timing.Timed(None, CANONICAL, 4, [4.0, 4.0, 4.0, 99.0, 99.0])  # type: ignore[arg-type]
    found = timing.ratio(slow, fast)
    assert found is not None and found["ratio"] == 4.0 and found["blocks"] == 3
    assert timing.ratio(slow, timing.Timed(None, CANONICAL, 4)) is None  # type: ignore[arg-type]
    low, high = timing.median_interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert low <= 2.0 <= high and timing.median_interval([1.0, 2.0]) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc of Linux")
def test_peak_memory_counts_from_a_moment_on() -> None:
    code = """
import sys
def touch(mebibytes): block = bytearray(b'x' * (mebibytes << 20)); del block
touch(64); print(flush=True); sys.stdin.readline(); touch(24); print(flush=True); sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout
        child.stdout.readline()
        idle, highest = memory.resident([child.pid]), memory.peak([child.pid])
        memory.forget_peak([child.pid])
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        later = memory.peak([child.pid])
        child.stdin.write("\n")
    assert idle and highest and later
    assert highest - idle > 60 << 20 and 20 << 20 < later - idle < 60 << 20
    assert memory.resident([child.pid]) is None


@pytest.mark.parametrize(
    "arguments",
    [["--only", "speed"], ["--backend", "tpu"], ["--shapes", "1/2"], ["--extend-batch-size", "0"], ["--seconds", "0"]],
)
def test_bad_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "engine_speed: error:" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_measures_judges_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--quick", "--shapes", "12/3/4", "--only", "segment,isolation,sglang", "--backend", "pytorch"]
    status = main([*wanted, "--sglang-python", str(tmp_path / "no"), "--output", str(tmp_path / "out")])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    results = json.loads((tmp_path / "out/engine-speed.json").read_bytes())
    assert results["schema"] == run.SCHEMA and results["complete"] and results["options"] == wanted
    (entry,) = results["shapes"]
    (segment,) = entry["sides"]
    assert segment["executed"] == "segment" and len(segment["seconds"]) == segment["runs"] == 3
    rate = max(one["flops_per_sec"] for one in results["matrix_rates"])
    assert segment["share_needed"] == pytest.approx(
        entry["flops"]["packed_needed"] / np.median(segment["seconds"]) / rate
    )
    assert results["isolation"][0]["max_abs_change_of_others"] == 0.0 and results["isolation"][0]["touched_change"] > 0
    held = [one for one in results["targets"] if one["verdict"] == targets.HOLDS]
    assert [one["backend"] for one in held] == ["pytorch"] and held[0]["target"].startswith("isolation")
    assert results["missing"]["sglang"].endswith("make engines")
    text = (tmp_path / "out/engine-speed.md").read_text(encoding="utf-8")
    assert text == page.page(msgspec.json.decode((tmp_path / "out/engine-speed.json").read_bytes()))
    assert str(tmp_path) not in text + json.dumps(results) and "NOT_RUN sglang" in shown.out


@pytest.mark.slow
def test_the_accelerator_script_runs_on_a_processor(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/accelerator.py"), "--device=cpu", "--dtype=bfloat16", *TINY]
    command += ["--vocabulary=1000", "--shape=20/3/4", "--runs=2", "--matrix-size=64", "--paths=segment"]
    done = subprocess.run([*command, f"--output={tmp_path}"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "accelerator.json").read_bytes())
    (segment,) = results["sides"]
    assert segment["executed"] == "segment" and 0 < segment["share_needed"] < 1
    assert results["model"]["num_hidden_layers"] == 2 and "packed, segment" in done.stdout
    attention = {one["kernel"]: one for one in results["attention"]}
    for kernel in ("products", "flex_attention"):
        assert attention[kernel]["max_abs_diff"] <= 0.02 and len(attention[kernel]["seconds"]) == 2
    for kernel in ("triton", "flashinfer, paged", "flashinfer, ragged"):
        assert "seconds" not in attention[kernel] and attention[kernel]["failure"]
    assert "roofline: NOT_RUN: no data-sheet rate of cpu is known here" in done.stdout
    assert results["goal_reached"] is None


def test_the_roofline_of_the_canonical_workload() -> None:
    """989 TFLOP/s of an H200 are 31,600 items/s of Qwen3-0.6B: what the goal of 10,000 is to be seen against."""
    config = ModelConfig(
        vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=1e6, max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )  # fmt: skip
    peak = attention_rates.peak_rate("NVIDIA H200 NVL")
    assert peak == 989e12 and attention_rates.peak_rate("cpu") is None
    given = (config, CANONICAL.query_tokens, CANONICAL.lengths)
    # Without what no score depends on, and with it.
    needed, nominal = (flops.packed(*given, labels=2, needed=needed).total for needed in (True, False))
    most, least = (accelerator.roofline(work, CANONICAL.items, peak) for work in (needed, nominal))
    assert least < 31_600 < most < 1.1 * least


@pytest.mark.parametrize(("reached", "words"), [(True, "goal of 10,000: reached"), (False, "goal of 10,000: missed")])
def test_the_goal_is_told_where_it_applies(reached: bool, words: str) -> None:
    results = {"roofline_items_per_sec": 31_600.0, "peak_flops_per_sec": 989e12, "goal_items_per_sec": 10_000.0}
    assert accelerator.roofline_line(results | {"goal_reached": reached}).endswith(words)


def test_a_wrong_attention_kernel_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_attention = pytest.importorskip("pytest_multiitem.engine.torch_attention")
    honest = torch_attention.segment
    monkeypatch.setattr(torch_attention, "segment", lambda *given: 1.01 * honest(*given) + 1e-3)
    spec = CheckpointSpec(64, 160, 2, 4, 2, 16, 1000)
    found = attention_rates.measure(spec, Shape(20, 3, 4), device="cpu", dtype="float32", runs=1)
    (products,) = [one for one in found if one["kernel"] == "products"]
    assert "seconds" not in products and products["failure"].startswith("wrong by 0.0")
    header, rows = attention_rates.table(found, 1e12)
    assert {len(row) for row in rows} == {len(header)}


def test_without_the_device_the_accelerator_is_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, str(ROOT / "benchmarks/accelerator.py"), f"--output={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3 and done.stdout.startswith("NOT_RUN: pytorch on cuda:"), done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_the_page_of_a_failed_side_says_why(results: dict[str, Any]) -> None:
    changed = copy.deepcopy(results)
    the_side(changed, "jax", "dense").update(failure="no answer")
    header, rows = page.shape_table(changed["shapes"][0])
    assert {len(row) for row in rows} == {len(header)}
    assert any("failed: no answer" in row for row in rows)
