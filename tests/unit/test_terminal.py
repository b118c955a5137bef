"""Tables as wide as the terminal, nothing of them left out; colours where a terminal shows them."""

from __future__ import annotations

import io
import os
import pty
import random
import re

import pytest
from rich.cells import cell_len
from sample_matrix import gate_record, matrix

from pytest_multiitem.commands import output
from pytest_multiitem.gates.registry import gate_names
from pytest_multiitem.reports import colours, summary
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.reports.fitting import fitted, terminal_width
from pytest_multiitem.results.verdict import Verdict


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def a_run():
    """Every gate on four servers, and one between backends: the widest table that a run shows."""
    servers = ("pytorch-dense", "pytorch-segment", "jax-dense", "jax-segment")
    records = [
        gate_record(gate, Verdict.PASS, where=where, value=1.2e-6, limit=0.02)
        for gate in gate_names()
        for where in (*servers, "jax")
    ]
    return matrix(records)


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_of_a_run_fits_the_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = [line for line, _ in summary.lines(a_run(), [])]
    table = [line for line in lines if not line.startswith(("cells: ", "gates: "))]
    assert max(map(cell_len, table)) <= width
    shown = "\n".join(table)
    assert all(gate in shown for gate in gate_names()), "no name is broken"
    monkeypatch.delenv("COLUMNS")
    whole = [line for line, _ in summary.lines(a_run(), [])]
    assert max(map(cell_len, whole)) > width, "in a pipe a row is a line"
    assert len(whole) < len(lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200, None])
def test_nothing_is_wider_than_the_terminal_and_nothing_is_left_out(width):
    for seed in range(25):
        a_drawn_table_fits(random.Random(seed), width)


def a_drawn_table_fits(draw, width):
    columns, count = draw.randint(1, 9), draw.randint(1, 6)

    def word():
        return "".join(draw.choices("abc日_", k=draw.choice([1, 4, 12, 30, 90])))

    def text():
        return " ".join(word() for _ in range(draw.choice([1, 1, 1, 3])))

    header, rows = [f"h{n}" for n in range(columns)], [[text() for _ in range(columns)] for _ in range(count)]
    lines = fitted(header, rows, width)
    assert width is None or max(map(cell_len, lines)) <= width
    # A cell may be broken, but every piece of it stands there, in order.
    together = re.sub(r"[\s─;]", "", "".join(lines))
    for row in rows:
        for cell in row:
            letters = re.sub(r"\s", "", cell)
            assert letters in together or (width is not None and _stands_in_pieces(letters, together))
    assert all(name in together for name in header)


def _stands_in_pieces(letters, together):
    place = 0
    for letter in letters:
        place = together.find(letter, place) + 1
        if not place:
            return False
    return True


def test_a_table_that_fits_is_left_alone():
    header, rows = ["gate", "verdict"], [["a", "PASS"], ["b", "FAIL"]]
    assert (
        fitted(header, rows, 80)
        == fitted(header, rows, None)
        == ["gate   verdict", "─" * 14, "a      PASS", "b      FAIL"]
    )


def test_columns_stand_in_further_tables_with_what_names_the_row():
    header, rows = ["gate", "one", "two"], [["a", "1" * 20, "2" * 20], ["b", "3" * 20, "4" * 20]]
    lines = fitted(header, rows, 40)
    assert [line.split() for line in lines if "─" not in line] == [
        ["gate", "one"], ["a", "1" * 20], ["b", "3" * 20], [], ["gate", "two"], ["a", "2" * 20], ["b", "4" * 20],
    ]  # fmt: skip


def test_what_leaves_no_room_stands_below_its_row():
    reason = "a long reason with many words that no terminal of forty columns has room for"
    rows = [["a", "FAIL", reason, "7"], ["b", "PASS", "", "8"]]
    lines = fitted(["gate", "verdict", "reason", "seen"], rows, 40)
    assert lines[1] == "    reason" and lines[3] == "a      FAIL" and lines[4].startswith("    a long reason")
    assert " ".join(line.strip() for line in lines[4:-2]) == f"{reason}; seen 7", "a sentence needs no name in each row"
    assert lines[-2:] == ["b      PASS", "    seen 8"]


def test_a_short_cell_below_its_row_has_its_name():
    lines = fitted(["gate", "verdict", "reason"], [["a" * 30, "FAIL", "as it is, of 26 characters"]], 40)
    assert lines[-1] == "    reason as it is, of 26 characters"


def test_the_width_is_that_of_the_terminal(monkeypatch):
    owner, terminal = pty.openpty()
    with os.fdopen(owner, "rb"), os.fdopen(terminal, "w") as stream:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 97, 0, 0))
        assert terminal_width(stream) == 97
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 0, 0, 0))
        assert terminal_width(stream) is None, "a terminal that does not know"
        monkeypatch.setenv("COLUMNS", "132")
        assert terminal_width(stream) == 132
    monkeypatch.delenv("COLUMNS")
    assert terminal_width(io.StringIO()) is None
    closed = io.StringIO()
    closed.close()
    assert terminal_width(closed) is None and not colours.wanted(closed)


@pytest.mark.parametrize("given", ["", "0", "wide", "-3"])
def test_columns_that_are_no_width_count_as_none(monkeypatch, given):
    monkeypatch.setenv("COLUMNS", given)
    assert terminal_width(io.StringIO()) is None


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("variables", "stream", "wanted"),
    [
        ({"TERM": "xterm"}, Terminal(), True),
        ({"TERM": "dumb"}, Terminal(), False),
        ({"TERM": "xterm"}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, Terminal(), False),
        ({"FORCE_COLOR": "1"}, io.StringIO(), True),
        ({"NO_COLOR": "", "TERM": "xterm"}, Terminal(), True),
    ],
)
def test_where_colours_are_shown(monkeypatch, variables, stream, wanted):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert colours.wanted(stream) is wanted


def test_verdicts_are_coloured_where_they_begin_a_cell():
    lines = terminal_table(
        ["gate", "verdict", "reason"], [["PASS_like", "FAIL 0.3", "was PASS before"], ["b", "PASS", ""]]
    )
    first, second = (colours.coloured(line) for line in lines[2:4])
    assert first == "PASS_like   \x1b[1;31mFAIL\x1b[0m 0.3   was PASS before"
    assert second == "b           \x1b[32mPASS\x1b[0m"
    assert re.sub(r"\x1b\[[\d;]*m", "", first) == lines[2]


def test_a_command_colours_on_a_terminal_only(monkeypatch, capsys):
    output.say("NOT_RUN a: \x1b[31mwords")
    assert capsys.readouterr().out == "NOT_RUN a: \\x1b[31mwords\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    output.say("NOT_RUN a: \x1b[31mwords")
    assert capsys.readouterr().out == "\x1b[33mNOT_RUN\x1b[0m a: \\x1b[31mwords\n"
