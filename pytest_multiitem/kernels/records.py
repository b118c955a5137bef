"""What a kernel was seen to do, as it stands in JSON (schema ``multiitem_kernel_check_v1``)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from pytest_multiitem.kernels.abilities import Abilities, Dtype
from pytest_multiitem.results.verdict import Verdict

SCHEMA_VERSION: Final = "multiitem_kernel_check_v1"

#: The checks, in the order in which they are made.
CheckName = Literal["exact", "large", "nonfinite", "equivalence", "ladder", "repeats"]


class Failure(msgspec.Struct, kw_only=True):
    """Where a check has failed.

    ``shape``: the first one at which it did. ``smallest``: the smallest one at which it still does, and ``reason``
    what is wrong there. ``picture``: the mask that is due there beside the one that the kernel has, a line a string.
    ``trace``: of an exception, where it was raised.
    """

    shape: str
    smallest: str
    reason: str
    picture: list[str] = []
    trace: str | None = None


class Check(msgspec.Struct, kw_only=True):
    """One check of the kernel in one type. ``shapes``: at how many it was made, the failing one included; a check ends
    at the first that fails. ``not_run``: why it could not be made; ``silent``: seconds after which it was given up;
    ``returncode``: of a process that ended in it, at the shape ``at``."""

    check: CheckName
    dtype: Dtype
    verdict: Verdict
    reason: str
    shapes: int
    seconds: float
    failure: Failure | None = None
    not_run: str | None = None
    silent: float | None = None
    returncode: int | None = None
    at: str | None = None


class Control(msgspec.Struct, kw_only=True):
    """A kernel whose result is known, under one check. ``failed``: whether the check saw something wrong."""

    check: CheckName
    kernel: str
    expected: Literal["pass", "fail"]
    failed: bool
    verdict: Verdict
    reason: str = ""


class LeftOut(msgspec.Struct, kw_only=True):
    """A check that was not made at a shape, and why. It is no part of the verdict."""

    check: CheckName
    shape: str
    why: str


class Report(msgspec.Struct, kw_only=True):
    """One run of ``multiitem kernel-check``. ``can``: what the kernel says that it can do; None where it said
    nothing."""

    schema_version: Literal["multiitem_kernel_check_v1"] = SCHEMA_VERSION
    kernel: str
    can: Abilities | None = None
    verdict: Verdict
    reason: str
    checks: list[Check] = []
    controls: list[Control] = []
    left_out: list[LeftOut] = []
    versions: dict[str, str] = {}
    seconds: float = 0.0
