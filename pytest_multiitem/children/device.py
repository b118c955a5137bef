"""What libraries say of a machine without the GPU that a kernel asks for."""

from __future__ import annotations

from typing import Final

#: In lower case.
NO_DEVICE: Final = (
    "0 active drivers",
    "no nvidia driver",
    "torch not compiled with cuda",
    "no cuda gpus are available",
)


def lacks_device(message: str) -> bool:
    """Whether an exception's message says that there is no such device, which is no fault of a kernel."""
    return any(words in message.lower() for words in NO_DEVICE)
