"""The installed suite, under the node ids of the contract."""

from pytest_multiitem.suites.bench.test_bench_multi_item_score import *  # noqa: F403
