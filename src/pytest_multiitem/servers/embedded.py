"""The adapter of the embedded engine: this package's own server, run by this interpreter."""

from __future__ import annotations

import importlib.util
import sys

from pytest_multiitem.options import BACKENDS, Settings
from pytest_multiitem.servers.engines import Profile
from pytest_multiitem.servers.process import LaunchSpec

_PACKAGES = {"pytorch": ("torch", ("torch", "transformers")), "jax": ("jax", ("jax", "jaxlib"))}
_DEFAULT_PORTS = {"multi": 30_010, "serial": 30_011, "extend": 30_012}


class EmbeddedEngine:
    """`servers.engines.Engine` of ``multiitem serve``."""

    name = "embedded"
    allows_empty_items = True

    def unavailable(self, backend: str) -> str | None:
        """A backend needs its packages in this interpreter."""
        extra, packages = _PACKAGES[backend]
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if not missing:
            return None
        return (
            f"{' and '.join(missing)} not installed in {sys.executable}; "
            f"install with: pip install 'pytest-multiitem[{extra}]'"
        )

    def launch(self, profile: Profile, settings: Settings) -> LaunchSpec:
        """``multiitem serve`` with the profile of the contract for this role."""
        command = [sys.executable, "-m", "pytest_multiitem.engine.serve", "--backend", profile.backend]
        command += ["--host", "127.0.0.1", "--port", "{port}", "--dtype", settings.dtype]
        command += ["--device", settings.device, "--log-level", settings.bench_log_level]
        if settings.model is not None:
            command += ["--model-path", settings.model]
        if settings.bench_download_dir is not None:
            command += ["--download-dir", settings.bench_download_dir]
        if profile.role == "multi":
            command += ["--multi-item-scoring-delimiter", str(settings.delimiter)]
            command += ["--multi-item-scoring-chunk-size", str(profile.chunk_size or 0)]
            command += ["--multi-item-mask-impl", str(profile.mask_impl)]
            command += ["--multi-item-segment-fallback-threshold", str(settings.segment_threshold)]
            command += ["--multi-item-semantics", str(profile.semantics)]
            command += ["--max-multi-item-count", "4096", "--max-multi-item-seq-len", "131072"]
            command += ["--disable-radix-cache", "--chunked-prefill-size", "-1", "--attention-backend", "fa"]
        elif profile.role == "extend":
            command += ["--multi-item-enable-prefill-extend", "--enable-scoring-cache"]
            command += ["--multi-item-extend-batch-size", str(settings.extend_batch_size)]
            command += ["--max-multi-item-count", "4096"]
            command += ["--max-running-requests", str(settings.extend_max_running_requests)]
            command += ["--precompile-bs-paddings", *map(str, settings.extend_precompile_bs_paddings)]
        chosen = {"multi": settings.multi_port, "serial": settings.serial_port}.get(profile.role)
        return LaunchSpec(
            label=profile.label,
            command=tuple(command),
            env={},
            preferred_port=_port(profile, settings, chosen or _DEFAULT_PORTS[profile.role]),
            strict_port=chosen is not None,
            startup_timeout=settings.startup_timeout,
        )


def _port(profile: Profile, settings: Settings, first: int) -> int:
    """Each server of a role its own port: the first from ``first``, further ones in steps of 10."""
    combinations = [
        (backend, mask, chunk)
        for backend in BACKENDS
        for mask in (settings.mask_impl if profile.role == "multi" else (None,))
        for chunk in (settings.server_chunk_size if profile.role == "multi" else (None,))
    ]
    wanted = (profile.backend, profile.mask_impl, profile.chunk_size)
    in_use = [c for c in combinations if c[0] in settings.backend]
    index = in_use.index(wanted) if wanted in in_use else len(in_use)
    return first + 10 * index


ENGINE = EmbeddedEngine()
