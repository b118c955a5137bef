"""The speed-up of two sides that were timed apart."""

from __future__ import annotations

from pytest_multiitem.evaluation.records import SpeedPoint, Timing


def speed_point(multi: Timing, serial: Timing) -> SpeedPoint:
    """One N on both sides; every value comes from the latencies."""
    from pytest_multiitem.bench.statistics import p50, ratio_interval

    return SpeedPoint(
        speedup_vs_serial_p50=p50(serial.latencies_sec) / p50(multi.latencies_sec),
        multi_p50_sec=multi.p50_sec,
        multi_p95_sec=multi.p95_sec,
        serial_p50_sec=serial.p50_sec,
        serial_p95_sec=serial.p95_sec,
        multi_items_per_sec_p50=multi.items_per_sec_p50,
        serial_items_per_sec_p50=serial.items_per_sec_p50,
        multi_latencies_sec=multi.latencies_sec,
        serial_latencies_sec=serial.latencies_sec,
        speedup_interval_95=ratio_interval(serial.latencies_sec, multi.latencies_sec, paired=False),
    )
