"""Signals to a command that measures: its servers stop, no traceback, and the exit status that a shell expects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest
from inner_project import FAKE, Project, running, wait_until

COMPARE = (
    *(
        "-p",
        "fake_engine",
        "compare",
        "run",
        "--engine",
        "fake",
        "--mask-impl",
        "dense",
        "--multiitem-views",
        "portable",
    ),
    *("--multiitem-bench-items", "6", "--multiitem-bench-query-tokens", "30", "--multiitem-item-tokens", "5"),
)
COMMANDS: dict[str, Callable[[str, str], tuple[str, ...]]] = {
    "compare": lambda *_: COMPARE,
    "load": lambda url, _: ("load", "--url", url, "--duration", "30", "--output-json", "out.json"),
    "evaluate": lambda url, _: ("evaluate", "--mode", "multi", "--url", url, "--output-json", "out.json"),
    "ab": lambda *urls: ("ab", "--a", f"MULTI_ITEM_MULTI_URL={urls[0]}", "--b", f"MULTI_ITEM_MULTI_URL={urls[1]}",
                         "--multiitem-bench-timed-runs", "60", "--output-json", "out.json"),
}  # fmt: skip
CTRL_C, CANCELLED = [signal.SIGINT] * 3, [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        *((name, CANCELLED) for name in COMMANDS),
        ("compare", CTRL_C),
        *(pytest.param(name, CTRL_C, marks=pytest.mark.slow) for name in ("load", "evaluate", "ab")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0].name,
)
def test_a_command_ends_by_a_signal(
    project: Project,
    server: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    numbers: list[signal.Signals],
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", "multi:sleep=0.05")
    monkeypatch.setenv("PYTHONPATH", str(FAKE), prepend=os.pathsep)
    urls = () if name == "compare" else (server("multi", "--fault", "sleep=0.05"), server("multi"))
    process = subprocess.Popen(
        [sys.executable, "-c", "from pytest_multiitem.cli import main; main()", *COMMANDS[name](*urls)],
        cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    command = psutil.Process(process.pid)
    wait_until(
        lambda: process.poll() is not None or command.net_connections("tcp4")
    )  # it measures, or looks for servers
    family = command.children(recursive=True)
    for number, pause in zip(numbers, (0.3, 0.01, 0.01), strict=True):  # of two that wait together, Python takes SIGINT
        process.send_signal(number)
        time.sleep(pause)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + numbers[0], said
    assert "Traceback" not in said and "Aborted" not in said, said
    assert numbers is CTRL_C or said.splitlines()[-1] == "multiitem: ended by SIGTERM"
    wait_until(lambda: not running(family), within=10)
    assert not [*project.path.glob(".*.draft"), *project.path.glob("multiitem-results/**/.*.draft")]


@pytest.mark.parametrize("words", [("faults",), ("--help",)], ids=lambda words: words[0])
def test_a_reader_that_has_seen_enough(words: tuple[str, ...]) -> None:
    """``multiitem … | head -1``."""
    program = "from pytest_multiitem.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_a_full_disk_behind_the_standard_output() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", "from pytest_multiitem.cli import main; main()", "faults"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "multiitem: cannot write: No space left on device; free some space there, or choose another place"
    ]
