"""The answer of an acceptance on a page: the sentence, the client chunk size, the gates, what is not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_multiitem.acceptance.words import counted, factor, small
from pytest_multiitem.reports.answer import curve
from pytest_multiitem.reports.html import run
from pytest_multiitem.reports.html.page import Block, Cell, Chapter, Figure, Grid, Section, Texts, css_of, gate_anchor
from pytest_multiitem.reports.html.plots import Lines, Point, Series, cloud, lines, named_below
from pytest_multiitem.reports.sentence import of_answer
from pytest_multiitem.reports.table import number
from pytest_multiitem.results.answer import Answer, ChunkFigures
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.verdict import Verdict

#: What the reasons stand under.
_WHY = {"YES": "What it rests on", "NO": "What is against it", "UNDECIDED": "What is open"}
#: Facts of the run that stand beside the answer's; how it was started is the acceptance's affair.
_OF_THE_RUN = ("verdicts", "measured")
_X_NAME = "items in one request"
_POINTS = 500


def chapter(answer: Answer, matrix: Matrix | None = None) -> Chapter:
    """An answer, and behind it the whole run that it was made from, where that is at hand."""
    name = f"Acceptance of {answer.written_at_utc}" if matrix is None else f"Acceptance {matrix.run_id}"
    made = Chapter(name, of_answer(answer), _facts(answer))
    gates = {record.gate for record in matrix.gates} if matrix is not None else set()
    made.sections = [
        Section(_WHY[answer.answer], [Texts(answer.reasons)]),
        Section("How many items a request?", [*_sizes(answer)],
                "The one to deploy has the most items a second among those whose p95 is within the guardrail. The p95 "
                "is of the time until all items of one request are scored; * marks one from fewer than 90 such times."),
        Section("Is it safe?", [_gates(answer, gates)],
                "Without the PASS of each gate that is needed there is no YES; a FAIL of any gate is a NO."),
        Section("Timed scores, packed and alone", [*_both(answer)]),
        Section("What was not measured", [Texts(answer.not_measured)] if answer.not_measured else []),
    ]  # fmt: skip
    if matrix is not None:
        whole = run.chapter(matrix)
        addresses = dict.fromkeys(server.url for server in matrix.servers)
        made.facts += [("servers", ", ".join(addresses))] if addresses else []
        made.facts += [(f"run: {name}", value) for name, value in whole.facts if name in _OF_THE_RUN]
        made.sections += whole.sections
    return made


def _facts(answer: Answer) -> list[tuple[str, str]]:
    given = answer.given
    machine = answer.machine
    timed = f"{counted(len(given.timed), 'request')} ({counted(sum(each.items for each in given.timed), 'item')})"
    return [
        ("deploy", "-" if answer.deploy is None else f"{answer.deploy} items a request"),
        ("times as fast", "-" if answer.times_as_fast is None else _times(answer.times_as_fast, answer.interval_95)),
        ("largest difference", "-" if answer.largest_difference is None else small(answer.largest_difference)),
        ("answers compared", f"{answer.answers_compared:,}"),
        ("requests", "your own" if given.own_traffic else "made for it"),
        ("timed", timed if given.timed else "none"),
        ("sides", "one server" if given.one_server else "two servers"),
        ("effort", given.effort),
        ("written", answer.written_at_utc),
        ("machine", ", ".join(str(machine[n]) for n in ("processor", "architecture") if machine.get(n)) or "-"),
    ]  # fmt: skip


def _times(ratio: float, interval: tuple[float, float] | None) -> str:
    return factor(ratio) if interval is None else f"{factor(ratio)} (95 %: {' to '.join(map(factor, interval))})"


def _gates(answer: Answer, known: set[str]) -> Grid:
    rows = []
    for line in answer.gates:
        if not line.needed and line.verdict == Verdict.NOT_RUN:
            continue
        note = "rounding alone" if line.gate in answer.rounding else ""
        rows.append([
            Cell(line.gate, to=gate_anchor(line.gate, None) if line.gate in known else None),
            Cell(line.says, "said"), Cell("needed" if line.needed else ""), Cell(line.verdict, css_of(line.verdict)),
            Cell("-" if line.value is None else small(line.value)),
            Cell(note or _reason(line.verdict, line.reason), "said"),
        ])  # fmt: skip
    header = ["gate", "asks whether", "for a YES", "verdict", "value", "why"]
    columns = len(header) if any(row[-1].text for row in rows) else len(header) - 1
    return Grid("What each gate looks at", header[:columns], [row[:columns] for row in rows])


def _reason(verdict: str, reason: str) -> str:
    first = reason.split("\n", 1)[0]
    return "" if verdict == Verdict.PASS else first if len(first) <= 240 else f"{first[:240]}…"


def _sizes(answer: Answer) -> Iterator[Block]:
    """The curves, and why each size is, or is not, the one to deploy."""
    packed = [figures for figures in answer.curve if figures.client_chunk_size is not None]
    if not packed:
        return
    header, rows = curve(answer)
    said = [
        [*row[:-1], "deploy" if row[-1] else "" if figures.client_chunk_size is None else figures.why_not or "fastest"]
        for figures, row in zip(answer.curve, rows, strict=True)
    ]
    header = [*header[:-1], "why"]
    chosen = next((figures for figures in packed if figures.why_not is None), None)
    word = None if chosen is None else f"{'deploy' if answer.deploy else 'fastest'}: {chosen.client_chunk_size}"
    ring = "" if chosen is None else f" The ring is the {'one to deploy' if answer.deploy else 'fastest'}."
    limit = answer.guardrail_p95_ms
    levels = [] if limit is None else [(f"guardrail {number(limit)} ms", limit)]
    serial = [figures for figures in answer.curve if figures.client_chunk_size is None]
    alone = serial[0].items_per_sec if serial else None
    for key, name, caption, picks, beside in (
        ("accept-times", "times as fast", "How many times as fast as one request for each item, with 95 % intervals.",
         "times_as_fast", [("one request for each item", 1.0)]),
        ("accept-speed", "items a second", f"Items a second: higher is better.{ring}",
         "items_per_sec", [] if alone is None else [("one request for each item", alone)]),
        ("accept-p95", "p95, ms", "Time until all items of a request are scored, p95: lower is better. What is above "
         "the guardrail may not win.", "p95_ms", levels),
    ):  # fmt: skip
        series = _series(name, packed, picks)
        if not series.points:
            continue
        rings = [(x, y, word) for x, y in series.points if word and chosen and x == chosen.client_chunk_size]
        log_y = picks != "times_as_fast"
        look = Lines(_X_NAME, name, True, log_y, beside, rings)
        about = f"{caption} By items in one request."
        yield Figure(lines(key, f"{name[0].upper()}{name[1:]} by items in one request", about, [series], look), caption,
                     (header, said))  # fmt: skip
    cells = [[*map(Cell, row[:-1]), Cell(row[-1], "v-pass" if row[-1] == "deploy" else "said")] for row in said]
    yield Grid("Why each client chunk size is the one to deploy, or is not", header, cells)


def _series(name: str, packed: Sequence[ChunkFigures], field: str) -> Series:
    """The known values of a field over the chunk size."""
    points: list[Point] = []
    spread: list[Point | None] = []
    for figures in packed:
        value = getattr(figures, field)
        if value is not None and value > 0:
            points.append((float(figures.client_chunk_size or 1), value))
            spread.append(figures.interval_95 if field == "times_as_fast" else None)
    return Series(name, points, spread)


def _both(answer: Answer) -> Iterator[Block]:
    """The scores of the timed items: packed, in requests of the largest size, over those that they get alone."""
    every = [
        (alone[0], packed[0], f"{request.name}, item {place}")
        for request in answer.given.timed
        if request.serial_scores is not None and request.packed_scores is not None
        for place, alone, packed in zip(
            request.serial_places, request.serial_scores, request.packed_scores, strict=False
        )
        if alone and packed
    ]
    if not every:
        return
    worst = sorted(every, key=lambda each: -abs(each[0] - each[1]))
    named = [each for each in worst[:2] if each[0] != each[1]]
    step = max(1, -(-len(every) // _POINTS))
    points = [(a, b) for a, b, _ in [*every[::step], *worst[:2]]]
    about = "The score of the first label of every timed item. A right server puts every point on the line."
    picture = cloud(
        "accept-scores", "Timed scores, packed and alone", f"{len(every)} items. {about}",
        [Series("timed items", points)], "score alone", "score packed", named,
    )  # fmt: skip
    rows = [[what, f"{a:.6g}", f"{b:.6g}", number(abs(a - b))] for a, b, what in worst[:60]]
    yield Figure(picture, about, (["item", "alone", "packed", "difference"], rows), named_below(named))
