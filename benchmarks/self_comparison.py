"""A/A: how often a comparison of a server with itself shows a difference where there is none.

    python benchmarks/self_comparison.py [--times 20] [--backend pytorch] [--items 500] [--runs 7]

Starts one embedded server and compares it with itself, as a comparison compares two: interleaved runs, and a verdict
from the 95 % interval of the ratio of medians. Exit status 1 where more than one comparison in ten shows a difference.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision.speed import versus
from pytest_multiitem.comparison.measuring.rows import row_of, sample
from pytest_multiitem.comparison.measuring.sides import Connected, sides_of
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.results.machine import machine_info
from pytest_multiitem.settings.resolve import resolve


def main() -> int:
    """Compare and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--backend", choices=("pytorch", "jax"), default="pytorch")
    parser.add_argument("--query-tokens", type=int, default=2000)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    settings = resolve({"multiitem_backend": options.backend, "multiitem_views": "portable"}, {}, {})
    (side,) = sides_of(settings, choose_engine("embedded"))
    requests = workload.generate(query_tokens=options.query_tokens, num_items=options.items).requests
    found = []
    with tempfile.TemporaryDirectory() as directory:
        connected = Connected(side, Path(directory))
        try:
            target = connected.open()
            for number in range(options.times):
                both = sample(
                    [(target, options.items)] * 2, requests, warmup_runs=int(number == 0), timed_runs=options.runs
                )
                rows = list(map(row_of, both))
                found.append(versus(*rows))
        finally:
            connected.close()
    differences = sum(one.verdict in ("a_faster", "b_faster") for one in found)
    header = ["A/A", "ratio of medians", "95 % interval", "verdict"]
    table = [
        [
            str(n),
            f"{one.ratio:.3f}",
            "-" if one.interval is None else "{:.3f} to {:.3f}".format(*one.interval),
            one.verdict,
        ]
        for n, one in enumerate(found, 1)
    ]
    print("\n".join(terminal_table(header, table)))  # noqa: T201
    machine = machine_info()
    print(  # noqa: T201
        f"{options.backend}, {options.query_tokens}/{options.items}/20, {options.runs} runs of each side, "
        f"{machine['cpus_usable']} cores of {machine['processor']}: "
        f"{differences} of {options.times} comparisons of a server with itself show a difference"
    )
    decided = all(one.interval is not None for one in found)
    return 0 if decided and differences <= options.times // 10 else 1


if __name__ == "__main__":
    sys.exit(main())
