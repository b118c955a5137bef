"""Pages as text: what they say first, what they show, how large they become; csv and rows for notebooks."""

import csv
import io
import json
import math
import re

import answers
import msgspec
import numpy as np
import pytest
from artefacts import builtins
from pages import (
    EQUIV,
    PLACES,
    acceptance,
    comparison_with_matrices,
    content,
    equivalence,
    every_page,
    full_run,
    history,
    record,
)
from sample_matrix import SEEN, gate_record, matrix, not_run

from hostile_words import EVIL, harmless
from pytest_multiitem.acceptance.derive import derive
from pytest_multiitem.gates.scored_items import scored_items
from pytest_multiitem.reports import sentence
from pytest_multiitem.reports.formats import rendered
from pytest_multiitem.reports.html import page, plots, scores
from pytest_multiitem.reports.html.chapters import page_of
from pytest_multiitem.reports.html.page import MOST_BYTES
from pytest_multiitem.reports.html.svg import Picture, Scale, number, scale
from pytest_multiitem.reports.notebook import load_run
from pytest_multiitem.results import store
from pytest_multiitem.results.answer import ANSWER
from pytest_multiitem.results.records import ServerRecord, Verdict
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.validation.validate import examine


def text_of(made):
    """What of a page is text, on one line."""
    made = made.replace("<wbr>", "")
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", made, flags=re.DOTALL).split())


def contradictions(tmp_path, run):
    path = tmp_path / "matrix.json"
    path.write_bytes(msgspec.json.encode(run))
    return examine(path).problems


# -- the sentence --------------------------------------------------------------------------------------


def test_a_run_that_holds_says_what_was_shown():
    said = sentence.of_run(full_run())
    assert (said.light, said.word) == ("green", "PASS")
    assert said.headline == "all 17 verdicts that were measured hold; 1 could not be measured."
    assert said.sentences[0] == (
        "When its neighbours change, the score of an item moves by 0 at most; a leak would move it by 0.40."
    )
    assert "to within 4e-07" in said.sentences[1] and "is 8.00 to 14.00 times as fast" in said.sentences[2]


def test_a_run_that_fails_names_the_gate_and_the_reason_and_claims_nothing_of_it():
    said = sentence.of_run(full_run(leak=0.3))
    assert (said.light, said.word) == ("red", "FAIL")
    assert said.headline.startswith("2 of 17 measured verdicts fail. content_isolation (pytorch-dense): it leaks")
    assert not any("neighbours" in text or "alone" in text for text in said.sentences)


@pytest.mark.parametrize(
    ("gates", "more", "light", "word"),
    [
        ([gate_record(**SEEN)], {}, "green", "PASS"),
        ([gate_record(verdict=Verdict.ERROR)], {}, "red", "ERROR"),
        ([gate_record(verdict=Verdict.INCONCLUSIVE)], {}, "yellow", "UNDECIDED"),
        ([gate_record(verdict=Verdict.INCONCLUSIVE), gate_record(verdict=Verdict.FAIL)], {}, "red", "FAIL"),
        ([not_run()], {}, "yellow", "NOT MEASURED"),
        ([], {}, "yellow", "NOT MEASURED"),
        ([gate_record(**SEEN)], {"complete": False, "interrupted_by": "SIGINT"}, "yellow", "INCOMPLETE"),
        ([gate_record(**SEEN)], {"exit_status": 1}, "yellow", "NOT ACCEPTED"),
    ],
)
def test_every_kind_of_run_has_its_light(gates, more, light, word):
    said = sentence.of_run(matrix(gates, **more))
    assert (said.light, said.word) == (light, word)


def test_the_worst_part_names_the_page():
    made = page_of([full_run(), full_run(leak=0.3)])
    assert made[made.index("<title>") :].startswith("<title>FAIL: ")


def test_a_comparison_a_kill_matrix_and_load_say_what_they_come_to():
    compared, _ = comparison_with_matrices()
    assert sentence.of_comparison(compared).word == "DEPLOY"
    compared.recommendation.winner = None
    assert sentence.of_comparison(compared).light != "green"
    assert sentence.of_power(record("kill_matrix")).word == "FAIL", "one fault survives"
    saturated = sentence.of_load(record("load"))
    assert (saturated.light, saturated.word) == ("yellow", "SATURATED")
    below = record("load")
    for level in below.levels:
        level.saturated = False
    assert sentence.of_load(below).light == "green", "it kept up with every level"
    wrong = record("load")
    wrong.scores.wrong_warm_ups = 1
    assert sentence.of_load(wrong).word == "FAIL"


# -- what is shown -----------------------------------------------------------------------------------


def test_the_worst_items_are_named_with_their_text():
    made = text_of(page_of([full_run(leak=0.3)]))
    assert "item 3: Wie hoch ist die Miete i…" in made and "Wie hoch ist die Miete in Jena?" in made


def test_a_leak_stands_in_the_table_of_who_moves_whom():
    made = text_of(page_of([full_run(leak=0.3)]))
    assert "Measured, pytorch-dense: FAIL, 1 of 42 pairs leak" in made
    assert "Measured, jax-dense: PASS, none of 42 pairs leaks" in made


def test_a_run_with_a_comparison_holds_both():
    compared, sides = comparison_with_matrices()
    made = text_of(page_of([full_run()], {0: [compared, *sides]}))
    assert "Client chunk size: best_native" in made and "Speed-up over serial requests" in made
    assert "why each chunk size wins or does not" in made and "guardrail" in made


def test_an_answer_stands_before_its_run():
    answer, run = acceptance()
    page = page_of([answer], {0: [run]})
    made = text_of(page)
    assert page[page.index("<title>") :].startswith("<title>YES: ") and page.count('class="answer"') == 1
    assert made.index(answer.sentence.removeprefix("YES: ")) < made.index("What it rests on")
    order = ("What it rests on", "How many items a request?", "Is it safe?", "What was not measured", "Every verdict")
    places = [page.index(f">{title}</a></h2>") for title in order]
    assert places == sorted(places)
    assert "run: verdicts" in made and "run: command" not in made
    assert "deploy: 64" in made and "guardrail 12.75 ms" in made and "one request for each item" in made
    for figures in answer.curve:
        assert figures.why_not is None or figures.client_chunk_size is None or figures.why_not in made
    assert all(text in made for text in [*answer.reasons, *answer.not_measured])
    for target in set(re.findall(r'href="#([^"]+)"', page)):
        assert f'id="{target}"' in page


@pytest.mark.parametrize(
    ("verdict", "light", "word", "title"),
    [(Verdict.FAIL, "red", "NO", "What is against it"), (Verdict.ERROR, "yellow", "UNDECIDED", "What is open")],
)
def test_an_answer_that_is_no_yes_has_its_light_and_names_nothing_to_deploy(verdict, light, word, title):
    answer, run = acceptance(content_isolation={"verdict": verdict, "value": 0.3, "reason": "0.3 exceeds the limit"})
    page = page_of([answer], {0: [run]})
    assert f'aria-label="traffic light: {light}"' in page and f">{word}</span>" in page
    assert f">{title}</a></h2>" in page and "deploy: 64" not in page and "fastest: 64" in page
    assert ">deploy</td>" not in page


def test_an_answer_of_which_nothing_was_timed_has_a_page():
    answer = derive(None, answers.given(timed=[], rows=[], not_timed="Ctrl-C"))
    page = page_of([answer])
    assert "<figure" not in page and "UNDECIDED" in page and "no client chunk size was timed" in page


def test_each_of_several_answers_is_headed_with_its_run():
    (answer, run), (_, other) = acceptance(), acceptance()
    other.run_id = "20260202-000000-000-2"
    page = page_of([answer, answer, answer], {0: [run], 1: [other]})
    for title in (run.run_id, other.run_id, f"of {answer.written_at_utc}"):
        assert f'<h2 class="part">Acceptance {title}</h2>' in page
    run.servers = [ServerRecord(label="multi", url="http://127.0.0.1:81", owned=False)]
    assert "servers http://127.0.0.1:81" in text_of(page_of([answer], {0: [run]}))


def test_the_ring_is_the_one_to_deploy_where_there_is_one():
    answer, run = acceptance()
    assert "The ring is the one to deploy." in page_of([answer], {0: [run]})
    answer, run = acceptance(content_isolation={"verdict": Verdict.FAIL, "value": 0.3, "reason": "0.3"})
    made = page_of([answer], {0: [run]})
    assert "The ring is the fastest." in made and "The ring is the one to deploy" not in made


def test_what_was_timed_is_counted_apart():
    answer, _ = acceptance()
    answer.given.timed = answer.given.timed[:1]
    items = answer.given.timed[0].items
    assert f"timed 1 request ({items} items)" in text_of(page_of([answer]))


@pytest.mark.parametrize("worst", [[(0.5, 0.5), (0.5, 0.5)], [(0.02, 0.02), (0.98, 0.97)], [(0.3, 0.9), (0.31, 0.9)]])
def test_the_number_of_a_point_stands_beside_the_points_and_the_diagonal(worst):
    every = [(at / 60, at / 60) for at in range(1, 60)] + worst
    named = [(x, y, f"item {at}, whose text is long") for at, (x, y) in enumerate(worst)]
    made = plots.cloud("k", "t", "a", [plots.Series("items", every)], "x", "y", named).drawn()
    assert ">item 0" not in re.sub(r"<title>.*?</title>", "", made), "words are below"
    numbers = [(float(x), float(y) - 4) for x, y in re.findall(
        r'<text class="halo strong" x="([^"]+)" y="([^"]+)"[^>]*>[12]</text>', made
    )]  # fmt: skip
    marks = [tuple(map(float, at)) for at in re.findall(r'class="c0 mark" cx="([^"]+)" cy="([^"]+)"', made)][:-1]
    (start, end) = re.search(r'class="level" d="M(\S+ \S+)L(\S+ \S+)"', made).groups()
    (x0, y0), (x1, y1) = (tuple(map(float, each.split())) for each in (start, end))
    assert len(numbers) == len(worst) and math.dist(*numbers) > 12
    for x, y in numbers:
        assert min(math.dist((x, y), mark) for mark in marks) > 8
        away = abs((x1 - x0) * (y0 - y) - (x0 - x) * (y1 - y0)) / math.dist((x0, y0), (x1, y1))
        assert away > 8 and x0 < x < x1 and y1 < y < y0
    assert plots.named_below(named)[1] == "2: item 1, whose text is long"


def test_the_names_of_columns_do_not_touch():
    names = ["query", "delim", *map(str, range(10))]
    content = [[plots.CellOf("sees")] * len(names)] * len(names)
    made = plots.cells("k", "t", "a", (names, names), content, ("who", "sees")).drawn()
    assert made.count("rotate(-90") == 2, "query and delim alone"
    assert "rotate" not in plots.cells("k", "t", "a", (["q"], ["0"]), [[plots.CellOf("sees")]], ("a", "b")).drawn()


@pytest.mark.parametrize(("value", "text"), [(0.0096, ".01"), (0.0104, ".01"), (0.0049, "5e-3"), (0, "0")])
def test_the_same_number_has_one_form_in_a_cell(value, text):
    assert scores._tiny(value) == text


def test_every_column_of_a_run_has_a_name():
    run = full_run()
    run.servers = [ServerRecord(label="multi", url="http://127.0.0.1:81", owned=False)]
    made = page_of([run])
    tables = made[made.index(">How it was measured</a></h2>") :]
    assert "<td></td>" not in "".join(re.findall(r"<thead>.*?</thead>", tables, re.DOTALL))


def test_several_runs_are_a_history_from_the_oldest_to_the_newest():
    made = page_of(history())
    table = made[made.index("Verdicts by run") :]
    assert table.index("2026-01-01") < table.index("2026-01-02") < table.index("2026-01-03")
    first = text_of(table[table.index("<tbody>") : table.index("</tr>", table.index("<tbody>"))])
    assert first.startswith("content_isolation pytorch-dense PASS 0 PASS 0 FAIL 0.30"), "what changed comes first"


def test_names_for_links_are_there_once():
    for name, made in every_page().items():
        found = re.findall(r'\sid="([^"]*)"', made)
        assert len(found) == len(set(found)), name


# -- hostile words, and very many -------------------------------------------------------------------------


@pytest.mark.parametrize("words", EVIL, ids=range(len(EVIL)))
def test_every_word_is_escaped(words):
    run = full_run()
    run.gates[0].reason = run.gates[1].model = words
    run.servers = [ServerRecord(label=words, url=words, owned=False, info={"model_path": words}, command=[words])]
    made = page_of([run], title=words)
    assert harmless(made.replace("\n", ""))
    plain = page_of([full_run()])
    for sign in ("<script", "<img", "<!--", "<b>PASS", "<?xml"):
        assert made.count(sign) == plain.count(sign)


def test_a_page_is_bounded_whatever_a_run_holds():
    run = full_run()
    run.gates += [gate_record(where=f"pytorch-{at}", reason="x" * 9000, **SEEN) for at in range(3000)]
    run.servers = [ServerRecord(label="s", url="u", owned=False, info={"model_path": "y" * 10**6})] * 50
    text = page_of([run])
    assert len(text.encode()) <= MOST_BYTES and "<h1>" in text


def test_what_makes_a_page_too_large_is_left_out_and_said_to_be(monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 60_000)
    text = page_of([full_run()])
    assert len(text.encode()) <= 60_000
    assert "Left out, because the page would be too large" in text and "all 17 verdicts" in text


def test_a_usual_page_is_small():
    assert len(page_of([full_run()]).encode()) < 400_000


# -- the scores behind it ----------------------------------------------------------------------------


def test_of_many_items_the_worst_are_kept():
    rng = np.random.default_rng(1)
    serial = rng.uniform(size=(5000, 2))
    packed = serial + rng.normal(size=(5000, 2)) * 1e-6
    packed[4321, 1] += 0.4
    case = Case("many", (1,), ((2,),) * 5000, (5, 6), (7, 8), texts=tuple(f"item {at}" for at in range(5000)))
    kept = scored_items(case, packed, serial, 100)
    assert 50 <= len(kept.items) <= 100 and kept.items == sorted(set(kept.items))
    at = kept.items.index(4321)
    assert abs(kept.packed[at] - kept.serial[at]) == pytest.approx(0.4, abs=1e-4)
    assert kept.texts["4321"] == "item 4321" and len(kept.texts) == 3
    apart = np.abs(packed - serial).max(axis=1)
    assert set(np.argsort(-apart)[:50]) <= set(kept.items)


def test_scores_of_few_items_are_all_kept():
    serial = np.array([[0.25, 0.75], [0.5, 0.5]])
    kept = scored_items(Case("two", (1,), ((2,), (3,)), (5, 6), (7,)), serial, serial, 100)
    assert (kept.items, kept.packed, kept.texts) == ([0, 1], [0.25, 0.5], {})


@pytest.mark.parametrize("change", ["score", "length", "missing"])
def test_scores_that_contradict_the_value_are_no_evidence(tmp_path, change):
    run = matrix([equivalence("jax-dense")])
    assert contradictions(tmp_path, run) == []
    scored = run.gates[0].details.scored[0]
    if change == "score":
        scored.packed[9] += 0.5
    elif change == "length":
        scored.packed.pop()
    else:
        scored.packed[9] = None
    assert any(EQUIV in problem for problem in contradictions(tmp_path, run))


@pytest.mark.parametrize("moved", [0.3, None])
def test_a_pair_that_contradicts_the_value_is_no_evidence(tmp_path, moved):
    run = matrix([content("jax-dense")])
    assert contradictions(tmp_path, run) == []
    run.gates[0].details.pairs.moved[1][4] = moved
    assert any("content_isolation" in problem for problem in contradictions(tmp_path, run))


# -- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[1.0], [1e-9, 1.0], [3.0, 3.0], [0.5, 26.0, 4.0], [1e-7, 2e-7], [], [9e8, 1e9]])
def test_scales_hold_every_value_and_have_ticks(values, log):
    made = scale(values, 0, 100, log=log)
    places = [made.at(value) for value in sorted(values)]
    assert all(0 <= place <= 100 for place in places) and places == sorted(places)
    assert 1 <= len(made.ticks()) <= 12
    assert all(made.low <= tick <= made.high * 1.000001 for tick in made.ticks())


def test_a_value_beyond_a_scale_stands_at_its_end():
    assert Scale(1, 10, 0, 100, log=True).at(0) == 0 and Scale(1, 10, 100, 0).at(99) == 0


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (1e-7, "1e-7"), (0.5, "0.5"), (20_000, "20k"), (3e9, "3e9")])
def test_numbers_of_axes(value, shown):
    assert number(value) == shown


def test_a_picture_is_data():
    picture = Picture("k", "<b>title</b>", "about & more", 10)
    picture.text(1, 2, "</text><script>\u202e")
    picture.mark(1, 1, 3, hint='"><script>')
    drawn = str(picture.drawn("p-"))
    assert "<script" not in drawn and "<b>" not in drawn and "\u202e" not in drawn and 'id="p-k-title"' in drawn


# -- csv and notebooks ----------------------------------------------------------------------------------


def test_a_csv_has_a_line_for_every_verdict():
    run = full_run(leak=0.3)
    run.gates[0].reason = '=HYPERLINK("http://x"), "quoted"\n'
    rows = list(csv.DictReader(io.StringIO(rendered(run, "csv").decode())))
    assert len(rows) == len(run.gates)
    assert rows[0]["reason"].startswith("'=HYPERLINK") and "\n" not in rows[0]["reason"]
    failed = [row["gate"] for row in rows if row["verdict"] == "FAIL"]
    assert failed == ["content_isolation", EQUIV]
    assert rows[-1]["value"] == "", "nothing was measured"
    assert rendered(matrix(), "csv").decode().startswith("gate,verdict,"), "a header alone, of nothing"


def test_a_run_for_a_notebook_is_plain_rows(tmp_path):
    run = full_run()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / store.MATRIX).write_text(json.dumps(builtins(run)))
    loaded = load_run(str(tmp_path / "run"))
    assert [row["gate"] for row in loaded.gates] == [gate.gate for gate in run.gates]
    assert {(row["place"], row["items"]) for row in loaded.speedups} == {
        (p, n) for p in PLACES for n in (1, 8, 32, 128)
    }
    assert len(loaded.runs) == 4 * 4 * 2 * 5 and len(loaded.items) == 4 * 32 and len(loaded.pairs) == 4 * 49
    assert next(row for row in loaded.items if row["item"] == 3)["text"] == "Wie hoch ist die Miete in Jena?"
    assert loaded.benchmarks[0]["p50_sec"] == 2.0
    every = [*loaded.gates, *loaded.speedups, *loaded.runs, *loaded.items, *loaded.pairs, *loaded.benchmarks]
    assert all(isinstance(value, str | int | float | None) for row in every for value in row.values())


# -- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """A file of each of some kinds."""

    def write(name, content):
        (tmp_path / name).write_text(json.dumps(builtins(content)))
        return tmp_path / name

    return [
        write("matrix.json", full_run()), write("load.json", record("load")),
        write("kills.json", record("kill_matrix")),
        write("pair.json", record("pair")),
        write("side.json", record("score_matrix")),
    ]  # fmt: skip


def test_several_files_become_one_page(multiitem, files, tmp_path):
    code, out, err = multiitem("report", *files, "--output", tmp_path / "page.html")
    assert (code, out, err) == (0, "", "")
    made = (tmp_path / "page.html").read_text()
    for title in ("Run 20260101-000000-1", "Load on", "Power of the gates, run r", "A/B"):
        assert f'<a href="#part-{title.lower().split(" ")[0].replace("a/b", "a-b")}' in made, title
    code, out, _ = multiitem("report", *files)
    assert code == 0 and out == made, "html without being asked for"


def test_an_acceptance_that_was_ended_early_stands_in_a_page_with_others(multiitem, files, tmp_path):
    ended = tmp_path / "ended"
    ended.mkdir()
    store.write_record(ended / ANSWER, derive(None, answers.given(interrupted_by="Ctrl-C")))
    code, out, err = multiitem("report", ended, files[1])
    assert (code, err) == (0, "") and "the measurement was ended early (Ctrl-C)" in out and "Load on" in out


def test_an_answer_brings_its_run(multiitem, tmp_path):
    """Named alone, with its run beside it, and by the directory."""
    path = answers.written(tmp_path, answers.run(), answers.given())
    pages = []
    for words in ([path], [path, tmp_path / "matrix.json"], [tmp_path, "--format", "html"]):
        code, out, err = multiitem("report", *words)
        assert (code, err) == (0, "")
        pages.append(out)
    assert "<title>YES: " in pages[0] and ">Every verdict</a></h2>" in pages[0]
    assert pages[0] == pages[1] == pages[2]
    code, out, _ = multiitem("report", tmp_path)
    assert code == 0 and out.startswith("# "), "a run as before"
    code, out, _ = multiitem("report", path, tmp_path / "matrix.json", "--format", "markdown")
    assert code == 2


def test_an_answer_that_contradicts_its_run_has_no_page(multiitem, tmp_path):
    path = answers.written(tmp_path, answers.run(), answers.given())
    content = json.loads(path.read_text())
    content["deploy"] = 128
    path.write_text(json.dumps(content))
    code, out, err = multiitem("report", path)
    assert (code, out) == (2, "") and "contradicts itself" in err and err.count("\n") == 1


@pytest.mark.parametrize("at", range(5))
def test_one_file_of_any_kind(multiitem, files, tmp_path, at):
    code, _, err = multiitem("report", files[at], "--output", tmp_path / "page.html")
    assert (code, err) == (0, "") and (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_a_file_of_which_there_is_no_report(multiitem, tmp_path):
    from artefacts import sent_workload

    path = tmp_path / "workload.json"
    path.write_text(json.dumps(sent_workload()))
    code, out, err = multiitem("report", path)
    assert (code, out) == (2, "") and "of which there is no report" in err and err.count("\n") == 1


def test_markdown_of_several_is_refused(multiitem, files):
    code, out, err = multiitem("report", *files[:2], "--format", "markdown")
    assert (code, out) == (2, "") and "--format markdown" in err and err.count("\n") == 1


def test_a_file_that_contradicts_itself_is_refused(multiitem, files):
    content = json.loads(files[1].read_text())
    content["levels"][0]["goodput_items_per_sec"] = 1e6
    files[1].write_text(json.dumps(content))
    code, out, err = multiitem("report", *files)
    assert (code, out) == (2, "") and "contradicts itself" in err
