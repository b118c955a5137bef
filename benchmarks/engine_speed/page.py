"""The results as Markdown: the page in the documentation, and the file beside the JSON. From the results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engine_speed import memory
from benchmarks.engine_speed.sides import PADDED_BATCH, SERIAL_ITEMS
from benchmarks.engine_speed.targets import BACKENDS
from pytest_multiitem.reports.blocks import Markdown, escape, markdown_table, section

Results = Mapping[str, Any]

_HEAD = """\
# Speed of the embedded engines

<!-- Written by docs/generate.py from engine-speed.json; do not edit by hand. Measure again with: make bench -->

How fast the embedded engines score the same requests by each of their paths, beside what one would use instead:
one-item calls, transformers' own model, and the real sglang server on the same processor. `make bench` measures it:
`python -m benchmarks.engine_speed`, which ends with status 1 where a target is missed."""

_HOW = f"""\
- Every side scores the same requests over HTTP, each server a process of its own, one at work at a time. Times are
  those of whole calls. No request is sent to a server twice, so that nothing comes from a cache; where it says "query
  known", another item behind the same query was scored just before.
- Runs are interleaved. Figures are medians, intervals are 95 % bootstrap intervals over blocks; fewer than three runs
  have none. Where every item costs a whole pass, {SERIAL_ITEMS} items are timed in each run, and the time is per item.
- sglang scores serially on a CPU. Where a run takes long, each of its modes is run once and the two fastest again.
  "Radix cache on" shares the query between calls, and there all items of the request are timed.
- transformers: float32, scaled_dot_product_attention, {PADDED_BATCH} sequences a batch where padded.
- Memory: {memory.HOW}; summed over a server's processes. Ways to score on the same server share its peak.
- Operations: a multiply-add counts as two. "Needed" leaves out what no score depends on (closing delimiters; in the
  last layer all but keys and values of rows that are not read), "nominal" sends every token through every layer; both
  count attention over visible keys only (`pytest_multiitem.bench.flops`). A share is operations over time over the
  GEMM rate: the best of repeated 2048³ products with the same backend in a process of its own, while nothing else ran,
  before the servers started and after they had stopped. For transformers and sglang it is PyTorch's rate, `torch.mm`.
  On a processor with AVX-512 that is not Intel's, the PyTorch engine multiplies with weights by oneDNN, which is faster
  than `torch.mm` there: "of the better GEMM" is the share of what such a processor can do. No share is given where a
  server keeps the query."""


def page(results: Results, others: Sequence[Results] = ()) -> str:
    """The whole page: of one run, and the targets of ``others``, on other machines or of other commits."""
    parts = [
        _HEAD,
        _incomplete(results),
        section("Targets", markdown_table(*targets_table(results))),
        *(_shape(entry) for entry in results["shapes"]),
        _growth(results),
        section("Isolation", markdown_table(*_isolation(results))),
        section("Agreement of the scores", markdown_table(*_agreement(results))),
        section("How it was measured", Markdown(_HOW)),
        section("Machine and versions", Markdown(_machine(results))),
        *(
            section(
                f"Another run: {other['machine']['processor']}, commit {other['git']['commit']}",
                markdown_table(*targets_table(other)),
                Markdown(_machine(other)),
            )
            for other in others
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def targets_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows of "target | measured | holds?"."""
    rows = []
    for one in results["targets"]:
        verdict = one["verdict"] if not one["reason"] else f"{one['verdict']}: {one['reason']}"
        rows.append([one["target"], one["backend"], one["shown"], verdict])
    return ["target", "backend", "measured", "holds?"], rows


def shape_table(entry: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one shape's sides."""
    header = [
        "backend", "path", "items/s", "95 % interval", "runs × items", "× own serial", "× own dense",
        *(f"{backend} segment: times as fast" for backend in BACKENDS),
        "peak above idle, MiB", "idle, MiB", "GEMM share: needed", "nominal", "needed, of the better GEMM", "executed",
    ]  # fmt: skip
    rows = []
    for side in entry["sides"]:
        if "failure" in side:
            rows.append([side["backend"], side["about"], f"failed: {side['failure']}", *["-"] * (len(header) - 3)])
            continue
        executed = side["executed"] or "-"
        rows.append(
            [
                side["backend"],
                side["about"],
                _figure(side["items_per_sec_p50"]),
                _interval(side["items_per_sec_interval_95"]),
                f"{side['runs']} × {side['items_per_run']}",
                _times(side.get("faster_than_serial")),
                _times(side.get("faster_than_dense"), spread=False),
                *(_times(side["segment_faster"].get(backend), spread=False) for backend in BACKENDS),
                _mebibytes(side["peak_above_idle_bytes"]),
                _mebibytes(side["idle_bytes"]),
                _percent(side.get("share_needed")),
                _percent(side.get("share_nominal")),
                _percent(side.get("share_needed_of_better")),
                executed if not side["problem"] else f"{executed}: {side['problem']}",
            ]
        )
    return header, rows


def _incomplete(results: Results) -> str:
    return "" if results["complete"] else "**This run was interrupted; what follows is a part of it.**"


def _shape(entry: Mapping[str, Any]) -> str:
    flops = entry["flops"]
    note = (
        f"Query of {entry['query_tokens']} tokens, {entry['items']} items of {entry['item_tokens']}. Packed: "
        f"{flops['packed_needed'] / 1e9:.2f} GFLOP needed, {flops['packed_nominal'] / 1e9:.2f} nominal. Serial: "
        f"{flops['serial_needed'] / 1e9:.2f} needed."
    )
    return section(f"{entry['shape']}: query tokens, items, tokens an item", note, markdown_table(*shape_table(entry)))


def _growth(results: Results) -> str:
    parts = []
    for field, what in (("growth_items", "items"), ("growth_query", "query tokens")):
        growth = results.get(field)
        if not growth:
            continue
        points = growth["points"]
        rows = []
        for shape in dict.fromkeys(point["shape"] for point in points):
            row = [shape]
            for backend in growth["backends"]:
                point = next(p for p in points if p["shape"] == shape and p["backend"] == backend)
                if "failure" in point:
                    row += [f"failed: {point['failure']}", "-", "-"]
                    continue
                seconds = point["p50_sec"]
                interval = point["interval_95"]
                row += [
                    f"{1000 * seconds:,.1f}",
                    "-" if interval is None else f"{1000 * interval[0]:,.1f} to {1000 * interval[1]:,.1f}",
                    f"{_figure(point['items'] / seconds)} ({_percent(point.get('share_needed'))})",
                ]
            rows.append(row)
        header = ["shape"]
        for backend in growth["backends"]:
            header += [f"{backend} ms", "95 % interval", "items/s (GEMM share needed)"]
        fits = []
        for backend, fit in growth.get("fits", {}).items():
            line = f"{1e6 * fit['slope_sec_per_item']:,.1f} µs an item and {1000 * fit['intercept_sec']:,.1f} ms"
            residual = f"{fit['largest_relative_residual']:.1%}, at N = {fit['at_items']}"
            fits.append(f"- {backend}: {line}; R² {fit['r2']:.5f}; largest relative residual {residual}")
        parts.append(
            section(f"Growth with {what}: packed segment", markdown_table(header, rows), Markdown("\n".join(fits)))
        )
    return "\n\n".join(parts)


def _isolation(results: Results) -> tuple[list[str], list[list[str]]]:
    header = [
        "backend", "shape", "mutations", "largest change of others", "scores that changed",
        "least change of the mutated", "score spread", "executed",
    ]  # fmt: skip
    rows = []
    for one in results.get("isolation", ()):
        if one.get("failure"):
            rows.append([one["backend"], one["shape"], f"failed: {one['failure']}", *["-"] * 5])
            continue
        rows.append(
            [
                one["backend"],
                one["shape"],
                str(one["mutations"]),
                f"{one['max_abs_change_of_others']:.3g}",
                str(one["scores_that_changed"]),
                f"{one['touched_change']:.3g}",
                f"{one['score_spread']:.3g}",
                one["executed"],
            ]
        )
    return header, rows


def _agreement(results: Results) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            one["shape"],
            f"{one['backend']} {one['side']}",
            one["with"],
            str(one["items"]),
            f"{one['max_abs_diff']:.2g}",
        ]
        for entry in results["shapes"]
        for one in entry["agreement"]
    ]
    return ["shape", "side", "with", "items", "largest score difference"], rows


def _machine(results: Results) -> str:
    machine = results["machine"]
    rates = []
    for rate in results["matrix_rates"]:
        threads = f", {rate['threads']} threads" if rate["threads"] else ""
        rates.append(
            f"- GEMM, {rate['backend']} {rate['dtype']} {rate['size']}³: {rate['flops_per_sec'] / 1e9:,.1f} GFLOP/s "
            f"at best ({rate['when']}; {rate['repeats']} products{threads})"
        )
    load = ", ".join(f"{value:.2f}" for value in results["load_average_before"])
    kind = results.get("instruction_set")
    about = f" ({', '.join(f'{name} {value}' for name, value in kind.items() if value)})" if kind else ""
    git = results["git"]
    commit = f"{git['commit']}{' with changes that are not committed' if git['modified'] else ''}"
    checkpoint = results["checkpoint"]
    lines = [
        f"- {machine['processor']}{about}, {machine['cpus_usable']} usable cores, {machine['memory_gib']} GiB; "
        f"{machine['system']} {machine['release']}; Python {machine['python']}",
        f"- load average before the run: {load} (1, 5 and 15 minutes)",
        *rates,
        f"- float32; {checkpoint['layers']} layers, hidden {checkpoint['hidden_size']}, "
        f"{checkpoint['heads']}/{checkpoint['kv_heads']} heads of {checkpoint['head_dim']}, vocabulary "
        f"{checkpoint['vocab_size']}; weights SHA-256 {checkpoint['weights_sha256'][:16]}…",
        "- " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        *(
            f"- {engine}: " + ", ".join(f"{name} {version}" for name, version in packages.items())
            for engine, packages in results["other_environments"].items()
        ),
        f"- commit {commit}; {results['started_at_utc']} to {results['finished_at_utc']}; "
        f"{results['seconds']:.0f} s; options: {' '.join(results['options']) or 'none'}",
        *(f"- NOT_RUN {key}: {escape(reason)}" for key, reason in results["missing"].items()),
    ]
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _interval(interval: Any) -> str:
    return "-" if interval is None else f"{_figure(interval[0])} to {_figure(interval[1])}"


def _times(found: Mapping[str, Any] | None, *, spread: bool = True) -> str:
    if found is None:
        return "-"
    interval = found["interval_95"] if spread else None
    shown = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return f"{found['ratio']:.2f} ×{shown}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _mebibytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f}"
