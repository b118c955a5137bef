"""What is installed in an engine's own environment, asked from its interpreter; nothing of it is imported here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pytest_multiitem.errors import EngineUnavailable

_TIMEOUT = 120.0  # seconds; a cold disk makes even this slow

#: Runs in the engine's interpreter: reads metadata and source files, imports nothing of the engine.
_QUESTION = """
import importlib.metadata, importlib.util, json, pathlib, platform, re, sys
root, package, sources, *names = sys.argv[1:]
sys.path[:0] = [root] * bool(root)
versions = {}
for name in names:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
spec = importlib.util.find_spec(package)
roots = [pathlib.Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
flags = set()
for path in (path for root in roots for pattern in sources.split() for path in root.glob(pattern)):
    text = path.read_text(encoding="utf-8", errors="replace")
    flags.update(re.findall(r'[\\x22\\x27]--([a-z0-9][a-z0-9-]*)[\\x22\\x27]', text))
    # Newer versions derive a flag from every field of their argument classes.
    flags.update(name.replace("_", "-") for name in re.findall(r"^    ([a-z][a-z0-9_]*)[ ]*:", text, re.M))
answer = {"python": platform.python_version(), "versions": versions, "flags": sorted(flags), "found": bool(spec)}
answer["places"] = list(map(str, roots))
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Installed:
    """One engine as it is installed: its version, the flags it knows, the packages around it, and where it lies."""

    python: str
    version: str
    flags: frozenset[str]
    packages: Mapping[str, str]
    places: tuple[str, ...] = ()

    def lacking(self, flags: Iterable[str]) -> list[str]:
        """Those of ``flags`` that this version does not know; ``no-NAME`` switches off what it knows as NAME."""
        return sorted(flag for flag in flags if not {flag, flag.removeprefix("no-")} & self.flags)


@cache
def inspect(
    python: str, package: str, sources: str, distribution: str, further: tuple[str, ...] = (), root: str = ""
) -> Installed:
    """Ask the interpreter ``python`` for an engine.

    ``package``: its import name; ``sources``: patterns of the files below it that define the launch flags;
    ``distribution``: its name in package metadata; ``further``: packages whose versions belong into the
    results. ``root``: a directory that comes before what is installed. Raises EngineUnavailable where the interpreter
    does not run or lacks the engine.
    """
    command = [python, "-I", "-c", _QUESTION, root, package, sources, distribution, *further]
    try:
        # -I: the caller's PYTHONPATH and directory must not stand for what the environment holds.
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except OSError as error:
        raise EngineUnavailable(
            f"the interpreter {python!r} does not start ({error.strerror}); name the python of the environment "
            f"that holds {distribution}: --engine-python PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(f"the interpreter {python!r} did not answer within {_TIMEOUT:g} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise EngineUnavailable(f"{python!r} is no usable Python interpreter: {last}") from None
    versions = answer["versions"]
    if not answer["found"]:
        raise EngineUnavailable(
            f"{distribution} is not installed in {python} (Python {answer['python']}); install it there, or name "
            "another interpreter: --engine-python PATH"
        )
    packages = {"python": answer["python"], **versions}
    version, flags = versions.get(distribution, "unknown"), frozenset(answer["flags"])
    return Installed(str(Path(python)), version, flags, packages, tuple(answer.get("places", ())))
