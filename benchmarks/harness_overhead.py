"""How much time the harness adds to a request of the canonical shape: ``python benchmarks/harness_overhead.py``.

Exit status 0: at most 2 ms at the median, and the 95 % interval says so too. 1: more, or undecided.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from pytest_multiitem.bench.overhead import measure_overhead, null_server
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.scoring.cases import equal_length_case, token_pool
from pytest_multiitem.transport.client import prepare

LIMIT_MS = 2.0
LABELS = (9454, 2753)
DELIMITER = 151_643
VOCABULARY = 151_936
NAMES = {
    "raw_socket": "raw socket, the same bytes",
    "harness": "harness, as in a timed run",
    "requests_post": "requests.post(url, json=body)",
}


def main() -> int:
    """Measure, print the table, and judge; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--query-tokens", type=int, default=2000)
    parser.add_argument("--num-items", type=int, default=500)
    parser.add_argument("--item-tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=500, help="calls of each kind (default: %(default)s)")
    args = parser.parse_args()
    if args.repeats < 10:
        parser.error(f"--repeats is {args.repeats}; a median and its interval need at least 10")
    case = equal_length_case(
        seed=20_260_101,
        query_tokens=args.query_tokens,
        num_items=args.num_items,
        item_tokens=args.item_tokens,
        labels=LABELS,
        pool=token_pool(VOCABULARY, [*LABELS, DELIMITER]),
    )
    load = os.getloadavg()[0]
    with null_server(len(case.items), len(LABELS)) as url:
        found = measure_overhead(url, prepare(case.query, case.items, case.labels), repeats=args.repeats)
    tokens = len(case.query) + sum(map(len, case.items))
    say(
        f"{tokens} tokens in {len(case.items)} items and a query: {found['request_bytes']} bytes to a null server, "
        f"{found['response_bytes']} bytes back.",
        f"{args.repeats} calls of each kind, interleaved; load average before: {load:.2f}.",
        "",
        *terminal_table(["call", "p50 ms", "p95 ms", "p99 ms", "to raw socket", "samples"], table(found)),
    )
    outside = found["outside_the_clock"]
    say(
        f"Outside the clock: encode {outside['encode_ms_p50']:.2f} ms, build {outside['build_ms_p50']:.2f} ms, "
        f"decode and check {outside['decode_ms_p50']:.2f} ms."
    )
    if found["requests_post"] is not None:
        low, high = found["requests_over_harness_interval_95"]
        ratio = found["requests_over_harness"]
        say(f"requests.post takes {ratio:.1f} times as long as the harness (95 %: {low:.1f} to {high:.1f}).")
    low, high = found["added_ms_interval_95"]
    verdict = "PASS" if high <= LIMIT_MS else "FAIL" if low > LIMIT_MS else "INCONCLUSIVE"
    say(
        f"{verdict}: the harness adds {found['added_ms_p50']:.2f} ms at the median (95 %: {low:.2f} to {high:.2f}); "
        f"limit {LIMIT_MS:g} ms."
    )
    return 0 if verdict == "PASS" else 1


def table(found: dict[str, Any]) -> list[list[str]]:
    """One row a kind of call."""
    rows = []
    for kind, name in NAMES.items():
        times = found[kind]
        if times is None:
            rows.append([name, "not measured: the package requests is not installed"])
            continue
        shown = ["-" if times[percent] is None else f"{times[percent]:.2f}" for percent in ("p50", "p95", "p99")]
        rows.append([name, *shown, f"{times['p50'] / found['raw_socket']['p50']:.1f}", str(times["samples"])])
    return rows


def say(*lines: str) -> None:
    """To standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
