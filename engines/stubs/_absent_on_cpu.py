"""What the stubs beside this module are made of: names that can be imported and passed around, and raise when called.

sglang and transformers import GPU-only packages at the top of modules that a text model on a CPU imports too but
never calls. A stub lets those imports through; should a call be made all the same, it fails at once and says why,
instead of returning something that looks like a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


class Absent:
    """A function, class or constant of a package that has no CPU build; its attributes are absent too."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Absent:
        if attribute.startswith("_"):  # Python's own protocols, such as copying, must see that these are not there
            raise AttributeError(attribute)
        return Absent(f"{self._name}.{attribute}")

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"{self._name} has no CPU build: this environment has a stub in its place, which must never be called"
        )

    def __repr__(self) -> str:
        return f"<{self._name}: absent on a CPU>"


def attributes_of(module: str) -> Callable[[str], Absent]:
    """The ``__getattr__`` of a stub module: any public name is there, and absent."""

    def module_getattr(name: str) -> Absent:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return Absent(f"{module}.{name}")

    return module_getattr
