"""The effective value of every setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The effective value of every option; ``origins`` says where each came from."""

    backend: tuple[str, ...]
    engine: str
    engine_python: str | None
    profiles: Path | None
    multi_profile: str | None
    serial_profile: str | None
    extend_profile: str | None
    reference: str
    mask_impl: tuple[str, ...]
    model: str | None
    models: tuple[str, ...]
    vocab_size: int | None
    dtype: str
    semantics: str
    device: str
    bench: bool
    compare: bool
    views: tuple[str, ...]
    compare_chunk_sizes: tuple[int, ...]
    confirm_runs: int
    compare_load: bool
    latency_objective_ms: int
    compare_urls: tuple[tuple[str, str], ...]
    compare_dir: Path | None
    fresh: bool
    cost_per_hour: tuple[tuple[str, float], ...]
    blocker: str | None
    baseline: str | None
    fail_if: tuple[str, ...]
    save_baseline: str | None
    allow_inconclusive: bool
    require: tuple[str, ...]
    workload: Path | None
    server_chunk_size: tuple[int, ...]
    client_chunk_sizes: tuple[int, ...]
    segment_threshold: int
    labels: tuple[int, ...]
    delimiter: int
    seed: int
    power: bool
    power_faults: tuple[str, ...]
    property_examples: int
    property_max_tokens: int
    items: tuple[int, ...]
    query_tokens: int
    item_tokens: int
    bench_items: int
    bench_query_tokens: int
    bench_chunk_sizes: tuple[int, ...]
    bench_warmup_runs: int
    bench_timed_runs: int
    bench_download_dir: str | None
    bench_log_level: str
    extend_batch_size: int
    extend_max_running_requests: int
    extend_precompile_bs_paddings: tuple[int, ...]
    tpu_kernel: str
    tpu_chips: tuple[str, ...]
    tpu_tier: str
    tpu_timeout: float
    tpu_libtpu: Path | None
    multi_port: int | None
    serial_port: int | None
    multi_url: str | None
    serial_url: str | None
    api_key_env: str
    ca_file: Path | None
    startup_timeout: float
    request_timeout: float
    results_dir: Path
    origins: Mapping[str, str] = field(default_factory=dict)

    def shown(self, name: str) -> str:
        """The value of an option as a user would type it."""
        value = getattr(self, name)
        if value is None or value == ():
            return "-"
        if not isinstance(value, tuple):
            return str(value)
        pairs = all(isinstance(entry, tuple) for entry in value)
        return ",".join(f"{a}={b}" if a else str(b) for a, b in value) if pairs else ",".join(map(str, value))
