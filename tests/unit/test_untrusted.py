"""A server's words are data: what is made of them shows them as text, in Markdown, on a terminal, in XML and a log."""

import re
import string
from xml.etree import ElementTree

import msgspec
import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from sample_matrix import benchmark, gate_record, matrix, not_run
from test_offline_comparison import compared, whole

from hostile_words import EVIL, harmless
from pytest_multiitem.errors import UsageError
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.reports import summary as terminal
from pytest_multiitem.reports.blocks import bullets, code, code_block, escape, header, row, section, terminal_table
from pytest_multiitem.reports.comparison import comparison_lines, comparison_markdown, final_report
from pytest_multiitem.reports.formats import markdown
from pytest_multiitem.results.records import ServerRecord, Verdict
from pytest_multiitem.transport.client import FailureKind, ScoreFailure
from pytest_multiitem.untrusted.words import plain, plain_lines


def shown(text):
    """A page as a renderer of GitHub's Markdown understands it: its elements in their order, and the text in them."""
    found, texts = [], []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        for part in [token, *(token.children or [])]:
            if part.type not in ("text", "inline") or (found and found[-1] != "text"):
                found.append(part.type)
            texts.append(
                part.content if part.type in ("text", "code_inline", "fence", "html_inline", "html_block") else ""
            )
    return [kind for kind in found if kind not in ("text", "inline", "code_inline")], "\n".join(texts)


def strings(value, change):
    """A JSON value with every text in it changed, names left alone."""
    if isinstance(value, dict):
        return {name: strings(entry, change) for name, entry in value.items()}
    if isinstance(value, list):
        return [strings(entry, change) for entry in value]
    return change(value) if isinstance(value, str) else value


def with_words(record, words):
    """A record with words put behind each of its texts, wherever its schema lets a text be any."""
    made, kind = msgspec.to_builtins(record), type(record)
    places = []

    def walk(value, path):
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, entry in inner:
            if isinstance(entry, str):
                places.append((value, name, entry))
            walk(entry, (*path, name))

    walk(made, ())
    for inside, name, text in places:
        inside[name] = f"{text} {words}"
        try:
            msgspec.convert(made, kind)
        except msgspec.ValidationError:
            inside[name] = text
    return msgspec.convert(made, kind)


def run():
    """A run in which every kind of line of a report stands."""
    info = {"model_path": "m", "dtype": "float32", "device": "cpu"}
    return matrix(
        [
            gate_record(),
            gate_record("changed_length_isolation_zero", Verdict.FAIL, value=0.5, mask_attested="dense"),
            gate_record("request_isolation_le_0p02", Verdict.INCONCLUSIVE, where="jax", value=0.5, mask_requested="d"),
            not_run(),
        ],
        benchmarks=[benchmark()],
        servers=[
            ServerRecord(label="multi", url="http://h", owned=True, command=["a"], info=info, packages={"p": "1"})
        ],
        interrupted_by="Ctrl-C",
        complete=False,
    )


@pytest.mark.parametrize("words", [*EVIL, "".join(EVIL)], ids=lambda words: repr(words)[:20])
def test_a_runs_report_has_the_same_elements_whatever_the_words(words):
    page = markdown.render(with_words(run(), words))
    elements, text = shown(page)
    assert elements == shown(markdown.render(with_words(run(), "x")))[0]
    assert text.replace(" ", "").count(plain(words.replace("\n", " ")).replace(" ", "")) >= 10, "they show as they are"
    assert harmless(page)


@pytest.mark.parametrize(
    "words",
    ["".join(EVIL), *(pytest.param(words, marks=pytest.mark.slow) for words in EVIL)],
    ids=lambda words: repr(words)[:20],
)
def test_so_have_the_reports_of_a_comparison(words):
    def pages(words):
        sides = [with_words(side, words) for side in whole()]
        found = with_words(compared(*whole()), words)
        return comparison_markdown(found), final_report(found, sides), comparison_lines(found)

    for page, calm in zip(pages(words)[:2], pages("x")[:2], strict=True):
        assert shown(page)[0] == shown(calm)[0]
        assert harmless(page)


SPECIAL = st.text(st.sampled_from("ab1 \\`*_{}[]()<>#+-.!|~&;:/@$=\"'\n\t\r\x1b\u202e\u200b?"), max_size=30)


@settings(max_examples=300, deadline=None)
@given(text=SPECIAL)
@example(text="a_b_ _c_")
@example(text="\\|")
@example(text="1. x")
@example(text="    x")
@example(text="a\\")
def test_any_text_shows_as_itself(text):
    expected = plain(text.replace("\n", " ")).split()
    for page, elements in (
        (f"x {escape(text)}", ["paragraph_open", "paragraph_close"]),
        (section("x", f"x {text}"), ["heading_open", "heading_close", "paragraph_open", "paragraph_close"]),
        (bullets([text]), None),
        ("\n".join([header("a", "b"), row("x", text)]), None),
        (f"x {code(text)}", None),
    ):
        kinds, found = shown(page)
        assert found.split()[-len(expected) :] == expected or not expected, page
        assert elements is None or kinds == elements, page
        assert not {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open", "s_open"} & set(kinds)


@settings(max_examples=100, deadline=None)
@given(text=SPECIAL)
def test_any_text_stays_in_its_block(text):
    assert shown(code_block(text, "json"))[0] == ["fence"]


def test_a_renderer_would_be_fooled_by_what_is_not_escaped():
    """The checks above can fail."""
    page = "\n".join([header("a", "b", "c"), f"| x | y | {EVIL[0]} |"])
    assert shown(page)[0].count("tr_open") > 2
    assert "html_inline" in shown(f"x {EVIL[11]}")[0] and not harmless(EVIL[5]) and not harmless(EVIL[17])


class Screen:
    """A terminal, after it was shown some lines."""

    def __init__(self, lines):
        self.screen = pyte.Screen(4000, len(lines) + 50)
        pyte.Stream(self.screen).feed("".join(f"{line}\r\n" for line in lines))
        self.lines = [line.rstrip() for line in self.screen.display[: len(lines)]]

    @property
    def is_plain(self):
        cells = [cell for line in self.screen.buffer.values() for cell in line.values()]
        return all(
            (cell.fg, cell.bg, cell.bold, cell.reverse) == ("default", "default", False, False) for cell in cells
        )


def narrow(text):
    """Without what a terminal draws two cells wide, for the emulator pads it."""
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("words", [*EVIL, "".join(EVIL)], ids=lambda words: repr(words)[:20])
def test_a_terminal_shows_every_line_of_the_summary_as_a_line(words):
    lines = [text for text, _ in terminal.lines(with_words(run(), words), [])]
    screen = Screen(lines)
    assert [narrow(line) for line in screen.lines] == [narrow(line) for line in lines]
    assert screen.is_plain and screen.screen.title == "" and screen.screen.cursor.y == len(lines)
    assert all(map(harmless, lines)) and not any("\n" in line for line in lines)
    table = terminal_table(["a", "b"], [[words, "c"]])
    assert len(table) == 4 and harmless("\n".join(table))


def test_an_emulator_would_be_fooled_by_what_is_not_escaped():
    assert not Screen([EVIL[5]]).is_plain and Screen(["FAIL\r PASS"]).lines == [" PASS"]


@pytest.mark.parametrize("words", EVIL, ids=lambda words: repr(words)[:20])
def test_errors_and_progress_are_harmless(words, capsys):
    for error in (UsageError(words + "\ud800"), ScoreFailure(FailureKind.BAD_RESPONSE, words, 200)):
        assert harmless(str(error)) and harmless(getattr(error, "message", ""))
    with ProgressBar() as bar:
        bar.print(plain(f"[bold]:warning: {words}"))
    shown_text = capsys.readouterr().err
    assert "[bold]:warning:" in shown_text and harmless(shown_text)


def test_our_own_line_breaks_stay():
    assert str(UsageError("one\ntwo\x1b")) == "one\ntwo\\x1b" and plain_lines("a\n::error::b") == "a\n\\x3a:error::b"


def test_what_is_harmless_is_left_alone():
    for text in (
        string.ascii_letters,
        "é 中文 ≤ … × 12:30 a::b C++::x # one ## two",
        "C:\\x",
        "http://h:1/x",
        "at ::1 or [::1]:80",
    ):
        assert plain(text) == text
    for text in ("same_length_isolation_zero <= 0.02", "a < b && c > d", "2 - 1 = 1", "10 % of (x), {y}!", "5 & 6"):
        assert escape(text) == text


def test_xml_can_hold_them():
    words = plain("".join(EVIL))
    element = ElementTree.Element("property", value=words)
    assert ElementTree.fromstring(ElementTree.tostring(element)).attrib["value"] == words
