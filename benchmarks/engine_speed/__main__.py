"""How fast the embedded engines score, beside one-item calls, transformers' own model and the real sglang server.

    make bench                                                    # python -m benchmarks.engine_speed
    python -m benchmarks.engine_speed --quick                     # small shapes, few runs
    python -m benchmarks.engine_speed --shapes 2000/500/20 --only segment,serial --backend pytorch
    python docs/generate.py --engine-speed multiitem-results/engine-speed/engine-speed.json      # the page in docs/

Writes engine-speed.json and engine-speed.md. Exit status 0: no target is missed (one whose figure was not measured is
NOT_RUN, with the reason). 1: a target is missed. 2: usage, or nothing could run. On one machine, run nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine_speed.page import shape_table, targets_table
from benchmarks.engine_speed.run import PARTS, Plan, Run
from benchmarks.engine_speed.shapes import DEFAULT_SHAPES, Shape
from benchmarks.engine_speed.surroundings import ROOT
from benchmarks.engine_speed.targets import BACKENDS, MISSED
from benchmarks.engine_speed.timing import Effort
from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.reports.blocks import terminal_table

_GROWTH_ITEMS = (1, 8, 32, 128, 500, 1000, 2000)
_GROWTH_QUERY = (40, 250, 500, 1000, 2000, 4000)
_QUICK_SHAPES = DEFAULT_SHAPES[:2]
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and judge; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--backend", default=",".join(BACKENDS), metavar="NAME,…", help="default: %(default)s")
    parser.add_argument(
        "--shapes", metavar="Q/N/L,…", help=f"default: {','.join(shape.name for shape in DEFAULT_SHAPES)}"
    )
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,…", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="two small shapes, three runs, little growth")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="of a side and a shape, before only three runs are made (default: 5)"
    )
    parser.add_argument(
        "--extend-batch-size", type=int, default=32, metavar="ITEMS", help="prefill+extend (default: %(default)s)"
    )
    parser.add_argument(
        "--sglang-python",
        type=Path,
        default=Path(os.environ.get("SGLANG_PYTHON") or ROOT / ".engines/sglang-0.5.23/bin/python"),
        metavar="PATH",
        help="of the environment that make engines builds (default: that one)",
    )
    parser.add_argument("--output", type=Path, default=Path("multiitem-results/engine-speed"), metavar="DIR")
    args = parser.parse_args(argv)
    begin = time.monotonic()

    def say(text: str) -> None:
        if text:
            sys.stderr.write(f"[{time.monotonic() - begin:6.1f} s] {text}\n")
            sys.stderr.flush()

    try:
        plan = _plan(args, tuple(sys.argv[1:] if argv is None else argv))
        results = Run(plan, args.output, say).measure()
    except (MultiItemError, OSError) as error:
        sys.stderr.write(f"engine_speed: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"\nengine_speed: interrupted; what was measured is in {args.output}\n")
        return _INTERRUPTED
    lines: list[str] = []
    for entry in results["shapes"]:
        header, rows = shape_table(entry)
        lines += [entry["shape"], *terminal_table(header, rows)]
    lines += terminal_table(*targets_table(results))
    for name, reason in results["missing"].items():
        lines.append(f"NOT_RUN {name}: {reason}")
    lines.append(f"{args.output / 'engine-speed.json'}, {args.output / 'engine-speed.md'}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if not results["shapes"] and not results["isolation"] and "growth_items" not in results:
        sys.stderr.write("engine_speed: error: nothing could be measured\n")
        return 2
    return 1 if any(one["verdict"] == MISSED for one in results["targets"]) else 0


def _plan(args: argparse.Namespace, given: tuple[str, ...]) -> Plan:
    """What the options ask for. Raises UsageError."""
    backends, parts = _chosen("--backend", args.backend, BACKENDS), _chosen("--only", args.only, PARTS)
    shapes = _QUICK_SHAPES if args.quick else DEFAULT_SHAPES
    if args.shapes is not None:
        shapes = tuple(dict.fromkeys(map(Shape.parse, args.shapes.split(","))))
    if args.extend_batch_size < 1:
        raise UsageError(f"--extend-batch-size is {args.extend_batch_size}; expected at least 1")
    if args.seconds is not None and args.seconds <= 0:
        raise UsageError(f"--seconds is {args.seconds:g}; expected more than 0")
    quick = args.quick
    effort = Effort(3, 3, 0.1) if quick else Effort()
    if args.seconds is not None:
        effort = Effort(effort.least_runs, effort.most_runs, args.seconds)
    query, counts = (500, _GROWTH_ITEMS[:4]) if quick else (2000, _GROWTH_ITEMS)
    queries = _GROWTH_QUERY[:3] if quick else _GROWTH_QUERY
    return Plan(
        backends=backends,
        parts=parts,
        shapes=shapes,
        growth_items=tuple(Shape(query, count, 20) for count in counts),
        growth_query=tuple(Shape(tokens, 128 if quick else 500, 20) for tokens in queries),
        effort=effort,
        growth_effort=Effort(3, 3, 0.1) if quick else Effort(3, 7, 2.0),
        extend_batch=args.extend_batch_size,
        sglang_python=args.sglang_python,
        given=_without_paths(given),
    )


def _chosen(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        raise UsageError(f"{option} is {text!r}; expected some of {', '.join(known)}")
    return words


def _without_paths(given: Sequence[str]) -> tuple[str, ...]:
    """Options for the results: where somebody keeps files is nobody's business."""
    shown: list[str] = []
    words = iter(given)
    for word in words:
        if word.split("=")[0] in ("--output", "--sglang-python"):
            if "=" not in word:
                next(words, None)
            continue
        shown.append(word)
    return tuple(shown)


if __name__ == "__main__":
    sys.exit(main())
