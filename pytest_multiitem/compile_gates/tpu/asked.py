"""What JAX answers a kernel that asks which device it runs on: the chip that is compiled for.

``jax.devices()``, ``jax.local_devices()`` and ``jax.default_backend()`` are what kernels ask (JAX's own
``ragged_paged_attention`` and megablox among them). In a process without a TPU they answer with the CPU, and such a
kernel raises, or takes other tile sizes than it would on the chip.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

#: Each with the place of its argument ``backend``.
_QUESTIONS = {"devices": 0, "local_devices": 1, "default_backend": 0}


class DescribedDevice:
    """A chip that nothing but its kind is known of: what JAX's own devices say, as far as lowering alone can tell."""

    id = 0
    process_index = 0
    local_hardware_id = 0
    host_id = 0
    platform = "tpu"
    coords = (0, 0, 0)
    core_on_chip = 0
    slice_index = 0

    def __init__(self, kind: str, cores: int) -> None:
        self.device_kind = kind
        self.num_cores = cores

    def __repr__(self) -> str:
        return f"TpuDevice(id=0, device_kind={self.device_kind!r})"


class Asked:
    """Answers the questions for as long as a chip is known, and notices those that come before: ``early``, the first
    one that was asked outside JAX while no chip was known."""

    def __init__(self) -> None:
        import jax

        self.early = ""
        self._device: Any = None
        for name in _QUESTIONS:
            setattr(jax, name, self._answering(name, getattr(jax, name)))

    @contextmanager
    def answered(self, device: Any) -> Iterator[None]:
        """Within this, ``device`` is the answer."""
        self._device = device
        try:
            yield
        finally:
            self._device = None

    def _answering(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def answer(*arguments: Any, **named: Any) -> Any:
            wanted = named.get("backend", (*arguments, None, None)[_QUESTIONS[name]])
            if self._device is not None and wanted in (None, "tpu"):
                return "tpu" if name == "default_backend" else [self._device]
            asker = str(sys._getframe(1).f_globals.get("__name__", ""))
            if self._device is None and asker.partition(".")[0] not in ("jax", "jaxlib"):
                self.early = self.early or f"jax.{name}()"
            return original(*arguments, **named)

        return answer
