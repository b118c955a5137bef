"""The canonical workload on an accelerator, beside the floor that its matrix rate sets.

    python benchmarks/accelerator.py                 # Qwen3-0.6B's shape, random weights, bfloat16, CUDA, PyTorch
    python benchmarks/accelerator.py --backend jax --device tpu
    python benchmarks/accelerator.py --device cpu --layers 2 --hidden 64 --heads 4 --kv-heads 2 --head-dim 16 \\
        --intermediate 128 --dtype float32 --shape 40/32/8           # the script itself, anywhere

Every path is a server of its own (`multiitem serve --device …`), one at a time in the device's memory, and the same
requests go to all of them over HTTP. The floor is the operations that the scores depend on over the rate of one large
matrix product, measured on the same device; the roofline is the same over the rate of the device's data sheet. With
PyTorch, a layer's attention is timed by itself by each kernel that could compute it (`benchmarks/attention_rates.py`).
Writes accelerator.json. Exit status 0: measured, and the goal is reached where it applies. 1: a path failed, or misses
it. 2: usage. 3: NOT_RUN, the device or the backend is missing here; standard output says why.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

# Run as a script, this file's directory is on the path, and the repository's root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import attention_rates
from benchmarks.engine_speed import sides, surroundings
from benchmarks.engine_speed.shapes import CANONICAL, Requests, Shape
from benchmarks.engine_speed.timing import Effort, Timed, measure_shape
from pytest_multiitem.bench import flops
from pytest_multiitem.bench.statistics import p50
from pytest_multiitem.engine.checkpoint import CheckpointSpec, write_checkpoint
from pytest_multiitem.engine.config import ModelConfig, read_config
from pytest_multiitem.errors import EngineUnavailable, MultiItemError, UsageError
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.store import utc_now

SCHEMA: Final = "multiitem_accelerator_v1"
NOT_RUN: Final = 3
#: Items a second of Qwen3-0.6B at the canonical workload on an H200, packed.
GOAL: Final = 10_000.0
_GOAL_DEVICE: Final = "NVIDIA H200"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    args = _parser().parse_args(argv)
    begin = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - begin:6.1f} s] {text}\n")
        sys.stderr.flush()

    try:
        spec, shape, paths = _spec(args), Shape.parse(args.shape), _paths(args.paths)
        if args.runs < 1:
            raise UsageError(f"--runs is {args.runs}; expected at least 1")
        results = measure(args, spec, shape, paths, say)
    except EngineUnavailable as error:
        sys.stdout.write(f"NOT_RUN: {error}\n")
        return NOT_RUN
    except (MultiItemError, OSError) as error:
        sys.stderr.write(f"accelerator: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\naccelerator: interrupted\n")
        return 130
    args.output.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(results), indent=1)
    (args.output / "accelerator.json").write_bytes(encoded + b"\n")
    rate = results["matrix_rate"]
    lines = [
        f"{shape.name} on {rate['device_name']}, {args.backend}, {args.dtype}: {args.layers} layers of {args.hidden}; "
        f"matrix rate {rate['flops_per_sec'] / 1e12:,.3f} TFLOP/s ({rate['size']}³)",
        *terminal_table(*table(results)),
        *(f"NOT_RUN {key}: {reason}" for key, reason in results["missing"].items()),
        *terminal_table(*attention_rates.table(results["attention"], rate["flops_per_sec"])),
        roofline_line(results),
        str(args.output / "accelerator.json"),
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    failed = results["missing"] or any("failure" in one or one["problem"] for one in results["sides"])
    failed = failed or results["goal_reached"] is False
    return 1 if failed else 0


def measure(
    args: argparse.Namespace, spec: CheckpointSpec, shape: Shape, paths: Sequence[sides.PathName], say: Any
) -> dict[str, Any]:
    """Write the checkpoint, and time one path after the other.

    Raises EngineUnavailable where the device or the backend is missing.
    """
    load = list(os.getloadavg())
    rate = surroundings.matrix_rate(args.backend, device=args.device, dtype=args.dtype, size=args.matrix_size)
    say(f"matrix rate {rate['flops_per_sec'] / 1e12:,.3f} TFLOP/s")
    attention = []
    if args.backend == "pytorch":
        attention = attention_rates.measure(spec, shape, device=args.device, dtype=args.dtype, runs=args.runs)
        for kernel in attention:
            shown = f"{1000 * p50(kernel['seconds']):,.3f} ms" if "seconds" in kernel else kernel["failure"]
            say(f"attention by {kernel['kernel']}: {shown}")
    with tempfile.TemporaryDirectory(prefix="accelerator-") as scratch:
        model = Path(scratch) / "model"
        write_checkpoint(model, spec)
        config = read_config(model)
        say(f"a checkpoint of {sum(file.stat().st_size for file in model.iterdir()) / 2**30:.2f} GiB is written")
        requests = Requests(spec.vocab_size)
        wanted = sides.own(
            args.backend,
            paths,
            model=model,
            device=args.device,
            dtype=args.dtype,
            extend_batch=args.extend_batch_size,
            delimiter=requests.delimiter,
        )
        records, missing = [], {}
        # One server at a time: a device that holds one model need not hold four. On a CPU nothing else would change.
        for number, one in enumerate(wanted):
            with sides.started([one], Path(scratch) / f"run{number}", say, labels=requests.labels) as started:
                missing.update(started.missing)
                effort = Effort(min(3, args.runs), args.runs, 20.0)
                for timed in measure_shape(started.sides, shape, requests, effort, say):
                    records.append(_record(timed, config, rate["flops_per_sec"], len(requests.labels)))
                    shown = records[-1].get("failure") or f"{records[-1]['items_per_sec_p50']:,.1f} items/s"
                    say(f"{timed.side.about}: {shown}")
    peak = attention_rates.peak_rate(rate["device_name"])
    work = flops.packed(config, shape.query_tokens, shape.lengths, labels=len(requests.labels))
    packed = [one.get("items_per_sec_p50", 0.0) for one in records if one["side"] == "segment"]
    applies = (
        rate["device_name"].startswith(_GOAL_DEVICE)
        and shape.name == CANONICAL.name
        and spec == _spec(_parser().parse_args([]))
        and bool(packed)
    )
    return {
        "schema": SCHEMA,
        "finished_at_utc": utc_now(),
        "git": surroundings.git_state(),
        "machine": machine_info(),
        "versions": package_versions(),
        "load_average_before": load,
        "backend": args.backend,
        "device": args.device,
        "dtype": args.dtype,
        "model": {f: getattr(spec, f) for f in spec.__dataclass_fields__},
        "shape": shape.name,
        "matrix_rate": rate,
        "attention": attention,
        "peak_flops_per_sec": peak,
        "roofline_items_per_sec": None if peak is None else roofline(work.total, shape.items, peak),
        "goal_items_per_sec": GOAL if applies else None,
        "goal_reached": max(packed) >= GOAL if applies else None,
        "sides": records,
        "missing": missing,
    }


def roofline(operations: int, items: int, rate: float) -> float:
    """Items a second where all of ``rate`` (FLOP/s) goes into the ``operations`` of a request of ``items``."""
    return items * rate / operations


def roofline_line(results: dict[str, Any]) -> str:
    """The data sheet's bound, and whether the goal is reached, for people."""
    bound = results["roofline_items_per_sec"]
    if bound is None:
        return f"roofline: NOT_RUN: no data-sheet rate of {results['matrix_rate']['device_name']} is known here"
    line = f"roofline: {bound:,.0f} items/s at {results['peak_flops_per_sec'] / 1e12:,.0f} TFLOP/s"
    if results["goal_reached"] is None:
        return f"{line}; the goal is for Qwen3-0.6B at {CANONICAL.name} on an {_GOAL_DEVICE}"
    verdict = "reached" if results["goal_reached"] else "missed"
    return f"{line}; goal of {results['goal_items_per_sec']:,.0f}: {verdict}"


def table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row a path."""
    header = ["path", "items/s", "95 % interval", "runs × items", "ms", "floor ms", "share of the rate", "executed"]
    rows = []
    for one in results["sides"]:
        if "failure" in one:
            rows.append([one["about"], f"failed: {one['failure']}", *["-"] * 6])
            continue
        interval = one["items_per_sec_interval_95"]
        share = one["share_needed"]
        rows.append(
            [
                one["about"],
                f"{one['items_per_sec_p50']:,.1f}",
                "-" if interval is None else f"{interval[0]:,.1f} to {interval[1]:,.1f}",
                f"{one['runs']} × {one['items_per_run']}",
                f"{1000 * p50(one['seconds']):,.2f}",
                "-" if one["floor_sec"] is None else f"{1000 * one['floor_sec']:,.2f}",
                "-" if share is None else f"{share:.2%}",
                one["problem"] or one["executed"] or "-",
            ]
        )
    return header, rows


def _record(timed: Timed, config: ModelConfig, rate: float, labels: int) -> dict[str, Any]:
    record = timed.as_dict()
    if timed.failure is not None:
        return record
    count = {"packed": flops.packed, "extended": flops.extended, "serial": flops.serial}[timed.side.work]
    lengths = timed.shape.lengths[: timed.items]
    # A query that is known is not computed again: what such a run computes is another count.
    floor = None
    if not timed.side.knows_query:
        work = count(config, timed.shape.query_tokens, lengths, labels=labels)
        record |= {"flops_needed": work.total}
        floor = work.total / rate
    seconds = p50(timed.seconds)
    return record | {"floor_sec": floor, "share_needed": None if floor is None else floor / seconds}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--backend", choices=("pytorch", "jax"), default="pytorch")
    parser.add_argument("--device", choices=("cuda", "tpu", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--shape", default=CANONICAL.name, metavar="Q/N/L", help="default: %(default)s")
    parser.add_argument("--paths", default=",".join(sides.OWN_PATHS), metavar="PATH,…", help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--intermediate", type=int, default=3072)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--extend-batch-size", type=int, default=64, metavar="ITEMS")
    parser.add_argument("--runs", type=int, default=9, help="timed runs of a path (default: %(default)s)")
    parser.add_argument("--matrix-size", type=int, default=8192, help="of the matrix rate (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("multiitem-results/accelerator"), metavar="DIR")
    return parser


def _spec(args: argparse.Namespace) -> CheckpointSpec:
    return CheckpointSpec(
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        head_dim=args.head_dim,
        vocab_size=args.vocabulary,
    )


def _paths(text: str) -> list[sides.PathName]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    found: list[sides.PathName] = [path for path in sides.OWN_PATHS if path in words]
    if not found or set(words) - set(sides.OWN_PATHS):
        raise UsageError(f"--paths is {text!r}; expected some of {', '.join(sides.OWN_PATHS)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
