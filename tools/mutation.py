"""Mutation testing of the gates: changes their code in small ways, and asks whether any test notices.

    python tools/mutation.py              # all mutants (minutes)
    python tools/mutation.py --again      # only those that survived last time, after adding tests for them
    python tools/mutation.py --page       # write the last run's figures and the accepted survivors into the docs

A surviving mutant is one with which every test passes. Exit status 0: every survivor is one of
``tests/mutation/accepted.txt``; 1: there are others, which are printed in that file's format; 2: the run tells
nothing (no mutants in some module, none killed, tests that fail without any mutant).

Needs ``pip install --group mutation``. What mutmut is to change and which tests it runs stands in pyproject.toml.
mutmut leaves out what stands outside functions, so numbers there, such as the limits of gates, are changed here.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ACCEPTED = ROOT / "tests" / "mutation" / "accepted.txt"
PAGE = ROOT / "docs" / "explanation" / "mutation-testing.md"
WORK = ROOT / "mutants"
FIGURES = WORK / "figures.json"
PACKAGE = "pytest_multiitem"

CHOSEN = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]


def mutated_files() -> list[Path]:
    """What pyproject.toml chooses."""
    left_out = {path for pattern in CHOSEN["do_not_mutate"] for path in ROOT.glob(pattern)}
    return sorted(path for pattern in CHOSEN["only_mutate"] for path in ROOT.glob(pattern) if path not in left_out)


def _has_functions(path: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


#: Mutants that count, as mutmut names them. Of the client it is what decides whether an answer holds scores.
SCOPE = (
    *(f"{PACKAGE}.gates.{p.stem}.*" for p in mutated_files() if p.parent.name == "gates" and _has_functions(p)),
    f"{PACKAGE}.adapters.attestation.*",
    f"{PACKAGE}.transport.client.x_read_scores__*",
)
#: How mutmut's statuses are told. A timeout is noticed by whoever waits for the tests.
_NOTICED = frozenset({"killed", "timeout", "segfault"})
_BEGIN, _END = "<!-- written by tools/mutation.py --page -->", "<!-- end -->"


@dataclass(frozen=True)
class Mutant:
    """A changed function and the lines that change it; two runs on the same code give equal ones."""

    function: str
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def lines(self) -> list[str]:
        """As it stands in the file of accepted survivors."""
        return [self.function, *(f"- {line}" for line in self.removed), *(f"+ {line}" for line in self.added)]

    def short(self) -> tuple[str, str]:
        """What is changed to what: both without the words that they begin and end with alike."""
        was, becomes = (re.findall(r"\w+|\s+|[^\w\s]", " ".join(lines)) for lines in (self.removed, self.added))
        first = next(
            (i for i, (a, b) in enumerate(zip(was, becomes, strict=False)) if a != b), min(len(was), len(becomes))
        )
        start = max(first - 6, 0)
        end = 0
        while end < min(len(was), len(becomes)) - first and was[-1 - end] == becomes[-1 - end]:
            end += 1
        end = max(end - 3, 0)
        told = ("".join(words[start : len(words) - end]).strip() for words in (was, becomes))
        return tuple(told)  # type: ignore[return-value]


def accepted(text: str) -> dict[Mutant, str]:
    """The accepted survivors with the reason of each.

    A line ``= reason`` holds for all mutants after it, up to the next such line. A mutant is the name of its function
    and its lines, ``- `` for what it removes and ``+ `` for what it puts there.
    """
    found: dict[Mutant, str] = {}
    reason, function = "", ""
    lines: dict[str, list[str]] = {"-": [], "+": []}

    def close() -> None:
        if function:
            if not reason:
                raise ValueError(f"no reason stands before {function}")
            found[Mutant(function, tuple(lines["-"]), tuple(lines["+"]))] = reason
        lines["-"], lines["+"] = [], []

    for line in map(str.strip, text.splitlines()):
        if line[:2] in ("- ", "+ "):
            lines[line[0]].append(line[2:])
        elif line and not line.startswith("#"):
            close()
            reason, function = (line[2:], "") if line.startswith("= ") else (reason, line)
    close()
    return found


def mutant_of(name: str, diff: str) -> Mutant:
    """The mutant that mutmut calls ``name``, from its unified diff."""
    function = name.removeprefix(f"{PACKAGE}.").rpartition("__mutmut_")[0]
    function = re.sub(r"\bx_|\bxǁ", "", function).replace("ǁ", ".")
    body = [line for line in diff.splitlines() if line[:1] in "-+" and line[:3] not in ("---", "+++")]
    removed, added = (tuple(line[1:].strip() for line in body if line[0] == sign) for sign in "-+")
    return Mutant(function, removed, added)


class TellsNothing(Exception):
    """A run that says nothing about the tests."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--again", action="store_true", help="only what survived last time")
    parser.add_argument("--page", action="store_true", help="write the page from the last run; run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="mutants at a time")
    options = parser.parse_args()
    os.chdir(ROOT)
    known = accepted(ACCEPTED.read_text(encoding="utf-8"))
    if options.page:
        PAGE.write_text(with_results(PAGE.read_text(encoding="utf-8"), figures_text(), known), encoding="utf-8")
        return 0
    try:
        survivors = run_again(options.jobs) if options.again else run_all(options.jobs)
    except TellsNothing as problem:
        sys.stdout.write(f"this run tells nothing: {problem}\n")
        return 2
    return report(survivors, known, figures_text())


def run_all(jobs: int) -> list[Mutant]:
    """Run every mutant from scratch; what survived."""
    start = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    run_mutmut(SCOPE, jobs)
    constants = [*constant_mutants()]
    return _survivors(constants, {"seconds": time.monotonic() - start, "jobs": jobs, "load": os.getloadavg()[2]})


def run_again(jobs: int) -> list[Mutant]:
    """Run what survived last time; what still does."""
    last = json.loads(FIGURES.read_bytes())
    if last["names"]:
        run_mutmut(last["names"], jobs)
    noticed = [number for number in last["constants"] if number["noticed"]]
    left = {_mutant(number) for number in last["constants"] if not number["noticed"]}
    return _survivors([*((_mutant(number), True) for number in noticed), *constant_mutants(only=left)], last["took"])


def _survivors(constants: Sequence[tuple[Mutant, bool]], took: Mapping[str, float]) -> list[Mutant]:
    """Survivors of both kinds; the figures go into their file. ``took``: the time of a full run, and the load of the
    machine over its last quarter of an hour."""
    statuses = {name: status for name, status in mutmut_statuses().items() if _in_scope(name)}
    if (problem := tells_nothing(statuses, [noticed for _, noticed in constants])) is not None:
        raise TellsNothing(problem)
    names = sorted(name for name, status in statuses.items() if status not in _NOTICED)
    numbers = [{**asdict(mutant), "noticed": noticed} for mutant, noticed in constants]
    figures = {"names": names, "statuses": Counter(statuses.values()), "constants": numbers, "took": took}
    FIGURES.write_text(json.dumps(figures), encoding="utf-8")
    return [*mutmut_mutants(names), *(mutant for mutant, noticed in constants if not noticed)]


def _mutant(number: Mapping[str, Any]) -> Mutant:
    return Mutant(number["function"], tuple(number["removed"]), tuple(number["added"]))


def report(survivors: Sequence[Mutant], known: Mapping[Mutant, str], figures: str) -> int:
    """Print what survived and is not accepted; the exit status."""
    unknown = [mutant for mutant in survivors if mutant not in known]
    gone = known.keys() - set(survivors)
    for mutant in unknown:
        sys.stdout.write("\n".join([*mutant.lines(), ""]))
    for mutant in sorted(gone, key=lambda mutant: mutant.function):
        was, becomes = mutant.short()
        sys.stdout.write(f"accepted, but noticed or gone: {mutant.function}: {was} → {becomes}\n")
    sys.stdout.write(f"{figures}; {len(unknown)} survivors are not accepted\n")
    return 1 if unknown else 0


# -- mutmut ------------------------------------------------------------------------------------


def run_mutmut(names: Sequence[str], jobs: int) -> None:
    """Run the mutants of these names or patterns. Raises TellsNothing, with the end of what mutmut said."""
    command = [
        sys.executable,
        "-c",
        "from mutmut.__main__ import cli; cli()",
        "run",
        "--max-children",
        str(jobs),
        *names,
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise TellsNothing(f"mutmut ended with {ran.returncode}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}")


def mutmut_statuses() -> dict[str, str]:
    """What became of every mutant that mutmut made, by its name."""
    from mutmut.__main__ import status_by_exit_code

    return {
        name: status_by_exit_code[code]
        for path in WORK.rglob("*.meta")
        for name, code in json.loads(path.read_bytes())["exit_code_by_key"].items()
    }


def mutmut_mutants(names: Iterable[str]) -> Iterator[Mutant]:
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    for name in names:
        path = Path(*name.partition(".x")[0].split(".")).with_suffix(".py")
        yield mutant_of(name, get_diff_for_mutant(name, path=path))


def _in_scope(name: str) -> bool:
    return any(name.startswith(pattern.removesuffix("*")) for pattern in SCOPE)


def tells_nothing(statuses: Mapping[str, str], numbers: Sequence[bool]) -> str | None:
    """Why a run says nothing about the tests; None where it does. ``numbers``: whether each changed one was noticed."""
    for pattern in SCOPE:
        if not any(name.startswith(pattern.removesuffix("*")) for name in statuses):
            return f"there is no mutant {pattern}"
    unknown = [name for name, status in statuses.items() if status == "not checked"]
    if unknown:
        return f"{len(unknown)} mutants were not run, such as {unknown[0]}"
    if "killed" not in statuses.values():
        return "no mutant was killed"
    return None if any(numbers) else "no change of a number outside functions was noticed"


# -- numbers outside functions -----------------------------------------------------------------


def constant_mutants(only: Set[Mutant] | None = None) -> Iterator[tuple[Mutant, bool]]:
    """Every number outside functions, once larger and once smaller; whether a test notices.

    ``only``: no others than these. Raises TellsNothing where the tests fail without any change.
    """
    if only is not None and not only:
        return
    tests = CHOSEN["pytest_add_cli_args_test_selection"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(WORK), *sys.path[1:]])}
    environment["MUTANT_UNDER_TEST"] = ""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    latest: list[str] = []  # the file of tests that noticed the change before this one: it often notices this one too

    def noticed() -> bool:
        for files in (latest, tests) if latest else (tests,):
            ran = subprocess.run(
                [*command, *files], cwd=WORK, env=environment, capture_output=True, text=True, check=False
            )
            if ran.returncode != 0:
                latest[:] = re.findall(r"^(?:FAILED|ERROR) (tests/\S+\.py)", ran.stdout, re.MULTILINE)[:1]
                return True
        return False

    if noticed():
        raise TellsNothing("the tests fail without any mutant")
    for path in (path for path in mutated_files() if path.name != "client.py"):
        source = path.read_text(encoding="utf-8")
        copy = WORK / path.relative_to(ROOT)
        kept = copy.read_text(encoding="utf-8")
        try:
            for number in numbers_outside_functions(source):
                for mutant, changed in changes(path, source, number):
                    if only is not None and mutant not in only:
                        continue
                    copy.write_text(changed, encoding="utf-8")
                    yield mutant, noticed()
        finally:
            copy.write_text(kept, encoding="utf-8")


def numbers_outside_functions(source: str) -> list[ast.Constant]:
    """All but a gate's ``order``: the next number is the same place in a table."""
    found: list[ast.Constant] = []

    class Numbers(ast.NodeVisitor):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            pass

        def visit_keyword(self, node: ast.keyword) -> None:
            if node.arg != "order":
                self.generic_visit(node)

        def visit_Constant(self, node: ast.Constant) -> None:
            if type(node.value) in (int, float):
                found.append(node)

    Numbers().visit(ast.parse(source))
    return found


def changes(path: Path, source: str, number: ast.Constant) -> Iterator[tuple[Mutant, str]]:
    """A source with one number changed up, and one with it changed down."""
    value = number.value
    assert isinstance(value, int | float)
    others = [value + 1, value - 1] if isinstance(value, int) else [value * 1.5, value / 2] if value else [1e-9]
    lines = source.splitlines(keepends=True)
    at = number.lineno - 1
    for other in others:
        line = f"{lines[at][: number.col_offset]}{other:.6g}{lines[at][number.end_col_offset :]}"
        module = ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
        place = _statement(source, number)
        yield (
            Mutant(f"{module}: {place}", (lines[at].strip(),), (line.strip(),)),
            "".join([*lines[:at], line, *lines[at + 1 :]]),
        )


def _statement(source: str, number: ast.Constant) -> str:
    """What the number is part of: the name that is assigned."""
    for node in ast.parse(source).body:
        if node.lineno <= number.lineno <= (node.end_lineno or node.lineno):
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", node)
            return target.id if isinstance(target, ast.Name) else getattr(node, "name", "module")
    return "module"


# -- the page ----------------------------------------------------------------------------------


def figures_text() -> str:
    """The figures of the last run."""
    last = json.loads(FIGURES.read_bytes())
    statuses, numbers = Counter(last["statuses"]), Counter(number["noticed"] for number in last["constants"])
    killed = sum(count for status, count in statuses.items() if status in _NOTICED)
    took = last["took"]
    return (
        f"{statuses.total():,} mutants in functions: {killed:,} killed, {statuses.total() - killed} survived; "
        f"{numbers.total()} of numbers outside functions: {numbers[True]} killed, {numbers[False]} survived; "
        f"{took['seconds'] / 60:.0f} minutes, mutants at a time: {took['jobs']}, load of the machine's "
        f"{os.cpu_count()} cores: {took['load']:.1f}"
    )


def table(known: Mapping[Mutant, str]) -> str:
    """The accepted survivors as a Markdown table; those of one reason stand together."""
    rows = ["| function | the mutant | why it is accepted |", "| --- | --- | --- |"]
    for mutant, reason in known.items():
        was, becomes = (f"`{text}`".replace("|", "\\|") if text else "nothing" for text in mutant.short())
        rows.append(f"| `{mutant.function}` | {was} → {becomes} | {reason} |")
    return "\n".join(rows)


def with_results(page: str, figures: str, known: Mapping[Mutant, str]) -> str:
    """The page with the figures and the table between its marks."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}\n\n{figures}.\n\n{table(known)}\n\n{_END}{after}"


if __name__ == "__main__":
    sys.exit(main())
