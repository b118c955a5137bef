"""What the settings say of where cells are measured: what each needs of a node, and how long it is waited for."""

from __future__ import annotations

from dataclasses import replace

from pytest_multiitem.execution.cells import Needs
from pytest_multiitem.execution.driver import Deadlines
from pytest_multiitem.settings.settings import Settings


def needs_of(settings: Settings) -> Needs:
    """What the user says that a cell needs; else a CPU, and one accelerator of the device's kind."""
    if settings.cell_needs is not None:
        return settings.cell_needs
    if settings.device == "cuda":
        return replace(Needs(), gpus=1.0)
    return replace(Needs(), further=(("TPU", 1.0),)) if settings.device == "tpu" else Needs()


def deadlines_of(settings: Settings) -> Deadlines:
    """How long a cell may take, and how long a node is waited for."""
    return Deadlines(settings.cell_timeout, settings.node_timeout)
