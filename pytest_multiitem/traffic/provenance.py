"""Where the requests of a measurement came from."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.results.records import TrafficSource
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.traffic.encoding import Encoder
from pytest_multiitem.traffic.lines import Line, Traffic

__all__ = ["TrafficSource", "source_of"]


def source_of(traffic: Traffic, lines: Sequence[Line], encoder: Encoder | None, settings: Settings) -> TrafficSource:
    """What is recorded of a file and of the ``lines`` that are sent of it."""
    return TrafficSource(
        path=str(settings.workload),
        sha256=traffic.sha256,
        requests=len(traffic.lines),
        drawn=len(lines),
        seed=settings.seed,
        tokenizer=encoder.source if encoder is not None and any(line.needs_tokenizer for line in lines) else None,
    )
