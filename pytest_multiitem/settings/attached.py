"""Which servers that already run the settings name."""

from __future__ import annotations

from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.settings import Settings


def has_serial(settings: Settings) -> bool:
    """Whether the settings name a serial server to attach to: another one, or the multi-item server itself."""
    return settings.serial_url is not None or (settings.one_server and settings.multi_url is not None)


def check_addresses(settings: Settings) -> None:
    """Raises UsageError where one server is said to be two, or is none that runs."""
    if settings.one_server and settings.serial_url is not None:
        raise UsageError(
            "--multiitem-one-server says that one server answers for both sides, and --serial-url names another; give "
            "one of them"
        )
    if settings.one_server and settings.multi_url is None:
        raise UsageError("--multiitem-one-server is of a server that already runs; give its address: --multi-url")
