"""The calibration of the isolation gates, with few seeds: rounding by shape passes, a leak on top of it does not."""

import pytest

from benchmarks.isolation_calibration import LEAKS, Bench, healthy_is_right, leak_is_seen
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.faults.variations import ShapeNoise

STRENGTHS = dict(zip(("float32", "bfloat16"), ShapeNoise.strengths, strict=True))


@pytest.fixture(scope="module", params=STRENGTHS)
def bench(request, checkpoint):
    return Bench(load_backend("pytorch", checkpoint, dtype=request.param, device="cpu"), "segment", 999, (17, 403))


def strength(bench):
    return STRENGTHS[bench.backend.dtype]


def test_rounding_by_shape_is_left_alone(bench):
    for seed in range(10):
        records = bench.records(ShapeNoise(strength(bench), seed), None, contents=0)
        assert healthy_is_right(records), {name: record.reason for name, record in records.items()}
        assert records["length_isolation"].value > 0


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_on_top_of_it_is_seen(bench, leak):
    for seed in range(2):
        records = bench.records(ShapeNoise(strength(bench), seed), leak, contents=0)
        assert leak_is_seen(records), {name: record.reason for name, record in records.items()}


def test_a_bench_without_noise_is_exact(bench):
    records = bench.records(ShapeNoise(1e-300), None, contents=0)
    assert {record.value for record in records.values()} == {0.0}
