"""Which executor a user names: ``local``, ``ray`` or ``ray://HOST:PORT``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from pytest_multiitem.errors import UsageError
from pytest_multiitem.execution.cells import GIB, Executor, Needs
from pytest_multiitem.execution.local import LocalExecutor

LOCAL, RAY = "local", "ray"
_SCHEME = f"{RAY}://"


def executor_name(text: str) -> str:
    """An executor's name, checked. Raises ValueError."""
    name = text.strip()
    host, colon, port = name.removeprefix(_SCHEME).rpartition(":")
    if name not in (LOCAL, RAY) and not (name.startswith(_SCHEME) and host and colon and port.isdecimal()):
        raise ValueError(f"expected {LOCAL}, {RAY} or {_SCHEME}HOST:PORT, the address that `ray start --head` prints")
    return name


def is_local(name: str) -> bool:
    """Whether cells are measured on this machine, by this process."""
    return name == LOCAL


def open_executor(name: str, directory: Path, run: str, environment: Mapping[str, str]) -> Executor:
    """The executor of that name. ``directory``: where a local one keeps its servers' logs; ``run``: names the
    measurement; ``environment``: variables that processes elsewhere need.

    Raises UsageError where Ray is not installed, or where there is no such cluster.
    """
    if is_local(name):
        return LocalExecutor(directory)
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"--executor {name} needs Ray; install it with: pip install 'pytest-multiitem[ray]'")
    from pytest_multiitem.execution.cluster import RayExecutor  # only here: it imports Ray

    return RayExecutor(name.removeprefix(_SCHEME) if name != RAY else None, run, environment)


def parse_needs(text: str) -> Needs:
    """What a cell needs: ``CPU=2,TPU=1,memory=8`` (GiB). Raises ValueError."""
    numbers: dict[str, float] = {}
    for word in text.split(","):
        name, equals, number = (part.strip() for part in word.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not (name and equals) or not 0 <= value < 1e9:
            raise ValueError("expected NAME=NUMBER, … such as CPU=2,TPU=1,memory=8 (memory in GiB)")
        numbers[name] = value
    further = tuple(sorted((n, v) for n, v in numbers.items() if n not in ("CPU", "GPU", "memory") and v))
    memory = numbers.get("memory", 0.0) * GIB
    return Needs(numbers.get("CPU", 1.0), numbers.get("GPU", 0.0), memory, further)
