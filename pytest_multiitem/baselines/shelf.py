"""What a run leaves for later ones, under a name: ``RESULTS_DIR/DIRECTORY/NAME.json``, written atomically, and never
overwritten without a copy."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.results.store import write_atomically
from pytest_multiitem.storage import writing

#: Below a shelf: what was replaced.
REPLACED: Final = "replaced"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_name(name: str) -> bool:
    """Whether something may be called so."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Shelf:
    """One kind of saved files. ``a``, ``the``: what one is called. ``option``: saves one from a run."""

    directory: str
    noun: str
    plural: bool
    option: str

    @property
    def advice(self) -> str:
        """What to do where there is none that can be used."""
        return f"save {'new ones' if self.plural else 'a new one'} with {self.option} NAME"

    def check_name(self, name: str) -> None:
        """Raises UsageError for what cannot be a name here."""
        if not is_name(name) or name.endswith(".json"):
            raise UsageError(
                f"{name!r} is no name for {self._a}: expected letters, digits, '.', '_' and '-', the first a letter or "
                "a digit, without .json at the end"
            )

    def names(self, results_dir: Path) -> list[str]:
        """The names of all that is saved."""
        return sorted(path.stem for path in (results_dir / self.directory).glob("*.json") if is_name(path.stem))

    def find(self, name: str, results_dir: Path, base: Path) -> Path:
        """The file of a name, or a path (relative to ``base``). Raises UsageError where there is none."""
        save = "them" if self.plural else "one"
        if "/" in name or "\\" in name or name.endswith(".json"):
            path = base / Path(name).expanduser()
            if not path.is_file():
                raise UsageError(f"there is no {self._file} {path}; save {save} with {self.option} NAME")
            return path
        self.check_name(name)
        path = results_dir / self.directory / f"{name}.json"
        if not path.is_file():
            known = self.names(results_dir)
            listed = f"there are: {', '.join(known)}{did_you_mean(name, known)}" if known else "there is none yet"
            raise UsageError(
                f"there {'are' if self.plural else 'is'} no {self.noun} {name!r} in {path.parent}; {listed}; save "
                f"{save} with {self.option} {name}"
            )
        return path

    def write(self, results_dir: Path, name: str, record: msgspec.Struct, *, replace: bool) -> Path:
        """Write a record under its name; one that it replaces is kept below ``replaced``.

        Raises UsageError where it cannot be written, or the name is taken and ``replace`` is not wanted.
        """
        path = results_dir / self.directory / f"{name}.json"
        if path.exists() and not replace:
            raise UsageError(
                f"there {'are' if self.plural else 'is'} {self._a} {name!r} already: {path}; choose another name, or "
                f"let a run that passes replace {'them' if self.plural else 'it'}: pytest {self.option} {name}"
            )
        content = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
        with writing(path, what=f"the {self.noun} "):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _keep(path)
        write_atomically(path, content)
        return path

    def delete(self, name: str, results_dir: Path) -> Path:
        """Take something out; a copy stays below ``replaced``. Raises UsageError where there is none of that name."""
        self.check_name(name)
        path = self.find(name, results_dir, results_dir)
        with writing(path, what=f"the {self.noun} "):
            kept = _keep(path)
            path.unlink()
        return kept

    @property
    def _a(self) -> str:
        return self.noun if self.plural else f"a {self.noun}"

    @property
    def _file(self) -> str:
        return f"file of {self.noun}" if self.plural else f"{self.noun} file"


def _keep(old: Path) -> Path:
    """Copy a file that is about to go; the copy is one of its kind as well."""
    kept = old.parent / REPLACED
    kept.mkdir(exist_ok=True)
    copy = next(path for n in itertools.count(1) if not (path := kept / f"{old.stem}.{n}.json").exists())
    write_atomically(copy, old.read_bytes())
    return copy
