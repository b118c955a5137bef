"""Files that may be anything, given to every command that reads one: a line that says what is wrong, and no more."""

import errno
import json
import math
import os
import random
import re
import signal
from pathlib import Path

import artefacts
import pytest
from stub_targets import packed

from pytest_multiitem.errors import UsageError
from pytest_multiitem.inputs import read_bytes, read_json

#: Of a command: the kind of file that it reads, and its words, where `FILE` is the file and `GOOD` a valid one of that
#: kind. `NEW`: a file that is not there.
FILE, GOOD, NEW = object(), object(), object()
COMMANDS = {
    **{f"validate {kind}": (kind, ("validate", FILE)) for kind in (*artefacts.CONTENTS, "multi", "serial", "combined")},
    "report": ("run", ("report", FILE)),
    "compare": ("score_matrix", ("compare", "files", GOOD, FILE, "--output-dir", NEW)),
    "check": ("combined", ("check", FILE)),
    "check with another": ("combined", ("check", GOOD, FILE)),
    "combine --multi": ("multi", ("combine", "--multi", FILE, "--serial", "serial.json", "--output-json", NEW)),
    "combine --serial": ("serial", ("combine", "--multi", "multi.json", "--serial", FILE, "--output-json", NEW)),
    "combine --torch-serial": (
        "torch",
        ("combine", "--multi", "multi.json", "--serial", "serial.json", "--torch-serial", FILE, "--output-json", NEW),
    ),
    "replay": ("counterexample", ("replay", FILE, "--url", "http://127.0.0.1:9")),
    "load --workload": ("sent_workload", ("load", "--url", "http://multi", "--workload", FILE)),
    "evaluate --workload": (
        "sent_workload",
        ("evaluate", "--mode", "multi", "--url", "http://multi", "--workload", FILE, "--output-json", NEW),
    ),
    "baseline check FILE": ("baseline", ("baseline", "check", FILE, "run.json")),
    "baseline check main RUN": ("run", ("baseline", "check", "baseline.json", FILE)),
    "baseline check main MATRIX": ("score_matrix", ("baseline", "check", "baseline.json", FILE)),
    "baseline save": ("run", ("baseline", "save", "other", FILE)),
    "baseline list": ("baseline", ("baseline", "list", "--results-dir", ".")),
}  # fmt: skip
#: For the others it is enough to know now and then: they read as one of these does.
OFTEN = (
    "validate load", "validate combined", "report", "compare", "check", "combine --multi", "replay", "load --workload",
    "evaluate --workload", "baseline check FILE", "baseline check main RUN", "baseline list",
)  # fmt: skip


def of(names):
    slow = pytest.mark.slow
    return pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=slow) for n in names])


def text(content):
    return json.dumps(content).encode()


def numbers_replaced(content, by, seed=3):
    """The file with one number replaced, in several ways."""
    found = [match.span() for match in re.finditer(rb"(?<=[\[ ,:])-?\d+(\.\d+)?(e-?\d+)?(?=[\],}])", content)]
    chosen = random.Random(seed).sample(found, min(3, len(found)))
    return [content[:begin] + by + content[end:] for begin, end in chosen]


#: The bytes of hostile files, from those of a good one.
FORMS = {
    "empty": lambda good: [b""],
    "truncated": lambda good: [good[: len(good) // 2], good.rstrip()[:-1]],
    "no UTF-8": lambda good: [good.replace(b'"', b'"\xff', 1), good.decode().encode("utf-16")],
    "BOM": lambda good: [b"\xef\xbb\xbf" + good],
    "deep lists": lambda good: [b"[" * 100_000, b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
    "deep objects": lambda good: [b'{"a":' * 100_000],
    "a key twice": lambda good: [b'{"schema_version": "x", ' + good[1:]],
    "half a character": lambda good: [b'{"a": "\\ud800", ' + good[1:]],
    "no object": lambda good: [b"[]", b"null", b"3", b'"text"', b"[" + good + b"]"],
    "another kind": lambda good: [
        b"{}",
        b'{"schema_version": "x"}',
        b'{"schema_version": null}',
        b'{"schema_version": []}',
    ],
}
#: Forms that are read: a workload may begin so, and other tools' results name no schema.
READ = (("evaluate --workload", "BOM"), ("load --workload", "BOM"), ("check with another", "another kind"))
#: Numbers that no JSON has, that no float holds, that no integer of 64 bits holds.
NUMBERS = {"NaN": b"NaN", "Infinity": b"-Infinity", "10**5000": b"1" + b"0" * 5000, "10**30": b"1" + b"0" * 30,
           "1e999": b"1e999"}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_hangs():
    def late(*_):
        raise TimeoutError("the command hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def texts():
    """Good files by their kind, made once."""
    return {kind: text(make()) for kind, make in artefacts.CONTENTS.items()}


@pytest.fixture
def good(tmp_path, monkeypatch, texts, joined, evaluated, served):
    """A directory with a good file of every kind; gives that of a command's kind."""
    monkeypatch.chdir(tmp_path)
    if "combined" not in texts:
        texts["combined"] = joined().read_bytes()
        texts |= {name: (tmp_path / f"{name}.json").read_bytes() for name in ("multi", "serial", "torch")}
    served("multi", packed)
    for kind, content in texts.items():
        (tmp_path / f"{kind}.json").write_bytes(content)
    (tmp_path / "baselines").mkdir(exist_ok=True)
    return lambda name: texts[COMMANDS[name][0]]


@pytest.fixture
def command(multiitem, good, tmp_path):
    """Runs a command of `COMMANDS` on some content, or on what stands at its file's place; gives what `multiitem`
    gives."""

    def run(name, content=None):
        kind, words = COMMANDS[name]
        file = place_of(name, tmp_path)
        if content is not None:
            file.write_bytes(content)
        known = {FILE: file, GOOD: tmp_path / f"{kind}.json", NEW: tmp_path / "new"}
        return multiitem(*(known.get(word, word) for word in words))

    return run


def place_of(name, directory):
    return directory / ("baselines/file.json" if name == "baseline list" else "file.json")


def is_refused(found, name):
    """Whether a command refused its file, and said why in a line."""
    code, out, err = found
    if name.startswith("validate") and code == 1:
        return out.startswith("/") and err == ""
    return code == 2 and err.startswith("multiitem: ") and err.count("\n") == 1


@of(name for name in COMMANDS if name.startswith(("validate", "report", "check", "combine", "evaluate", "baseline l")))
def test_a_good_file_is_no_hostile_one(command, good, name):
    code, _, err = command(name, good(name))
    assert code == 0 and "file.json" not in err


@pytest.mark.parametrize("form", FORMS)
@of(COMMANDS)
def test_content_of_any_form(command, good, name, form):
    if (name, form) in READ:
        return
    for content in FORMS[form](good(name)):
        found = command(name, content)
        assert is_refused(found, name), (content[:60], found)


@pytest.mark.parametrize("form", NUMBERS)
@of(name for name in COMMANDS if not name.startswith("evaluate"))
def test_numbers_that_are_none(command, good, name, form):
    """A file that holds one is refused, or FAILs."""
    for content in numbers_replaced(good(name), NUMBERS[form]):
        code, out, _ = found = command(name, content)
        failed = name.startswith("check") and code == 1 and "FAIL" in out
        assert failed or is_refused(found, name), (content, found)


def a_directory(path):
    path.mkdir()


def a_fifo(path):
    os.mkfifo(path)


def a_device(path):
    path.symlink_to("/dev/zero")


def a_link_to_itself(path):
    path.symlink_to(path)


def a_large_file(path):
    with path.open("wb") as file:
        file.truncate(200 * 2**20)


@pytest.mark.parametrize("make", [a_directory, a_fifo, a_device, a_link_to_itself, a_large_file])
@of(COMMANDS)
def test_what_is_no_file_to_read(command, name, make, tmp_path):
    make(place_of(name, tmp_path))
    assert is_refused(command(name), name)


@of(COMMANDS)
def test_a_file_that_may_not_be_read(command, good, name, tmp_path, monkeypatch):
    """Whoever runs the tests may read everything."""
    file, really_open = place_of(name, tmp_path), os.open

    def refusing(path, *more, **further):
        if Path(path).resolve() == file:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return really_open(path, *more, **further)

    file.write_bytes(good(name))
    monkeypatch.setattr(os, "open", refusing)
    found = command(name)
    assert is_refused(found, name) and "Permission denied" in found[2]


# -- the reader itself ---------------------------------------------------------------------------


def test_what_is_read_is_what_stands_there(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, 2.5, "\\ud83d\\ude00ä", NaN, 1e999], "b": {"a": null}}')
    read = read_json(path)
    assert read["a"][:3] == [1, 2.5, "😀ä"] and read["b"] == {"a": None}
    assert math.isnan(read["a"][3]) and read["a"][4] == math.inf


def test_the_largest_file_is_read_and_a_larger_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_multiitem.inputs.MAX_BYTES", 100)
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100)
    assert read_bytes(path) == b"x" * 100
    path.write_bytes(b"x" * 101)
    with pytest.raises(UsageError, match="it is larger than 0 MiB, the most that is read"):
        read_bytes(path)
