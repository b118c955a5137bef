"""The wheel of exactly the product that is running here, whether it was installed from one or from a clone."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import pytest_multiitem
from pytest_multiitem import __version__
from pytest_multiitem.errors import UsageError
from pytest_multiitem.storage import writing

NAME: Final = f"pytest_multiitem-{__version__}-py3-none-any.whl"
_INFO: Final = f"pytest_multiitem-{__version__}.dist-info"
_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: multiitem orchestrate\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # equal contents make equal wheels


def write_wheel(directory: Path) -> Path:
    """Write it, and give its path. Raises UsageError where the product is not installed, and StorageError."""
    root = Path(pytest_multiitem.__file__).parent
    try:
        installed = distribution("pytest-multiitem")
    except PackageNotFoundError:
        raise UsageError("the product is not installed here, so its metadata is unknown; give --wheel FILE") from None
    files = {
        f"pytest_multiitem/{path.relative_to(root)}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in ("METADATA", "entry_points.txt"):
        files[f"{_INFO}/{name}"] = (installed.read_text(name) or "").encode()
    files[f"{_INFO}/WHEEL"] = _WHEEL.encode()
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{_INFO}/RECORD"] = f"{record}{_INFO}/RECORD,,\n".encode()
    path = directory / NAME
    with writing(path), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
