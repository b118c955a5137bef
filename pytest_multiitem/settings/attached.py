"""Which servers that already run the settings name."""

from __future__ import annotations

from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.settings import Settings


def has_serial(settings: Settings) -> bool:
    """Whether the settings name a serial server to attach to: another one, or the multi-item server itself."""
    return settings.serial_url is not None or (settings.one_server and settings.multi_url is not None)


def check_addresses(settings: Settings) -> None:
    """Raises UsageError where two servers are one by their addresses, or one is said to be two."""
    if settings.one_server and settings.serial_url is not None:
        raise UsageError(
            "--multiitem-one-server says that one server answers for both sides, and --serial-url names another; give "
            "one of them"
        )
    if settings.one_server and settings.multi_url is None:
        raise UsageError("--multiitem-one-server is of a server that already runs; give its address: --multi-url")
    same = settings.serial_url is not None and settings.serial_url == settings.multi_url
    if same:
        raise UsageError(
            f"{settings.multi_url} is given both as --multi-url and as --serial-url; one server that scores both ways "
            "is --multiitem-one-server with --multi-url, or multiitem accept --url"
        )
