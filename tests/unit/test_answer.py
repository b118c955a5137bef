"""The answer of an acceptance: what makes it YES, NO or UNDECIDED, in words, and whether a file of it is so."""

import json

import answers
import pytest

from pytest_multiitem.acceptance.curve import curve_of
from pytest_multiitem.acceptance.derive import derive
from pytest_multiitem.acceptance.words import (
    BEYOND_ROUNDING,
    CORRECTNESS,
    NEEDS_A_SERIAL_SERVER,
    WANT_EQUAL_BITS,
    factor,
    percent,
    small,
)
from pytest_multiitem.bench.statistics import ratio_interval
from pytest_multiitem.comparison.decision import speed
from pytest_multiitem.reports.answer import lines
from pytest_multiitem.results.details import Notes, Relations
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.validation.validate import examine

_INTERVALS = {}


@pytest.fixture(autouse=True)
def intervals_are_worked_out_once(monkeypatch):
    """Most answers here hold the same times."""

    def once(a, b, **more):
        key = (tuple(a), tuple(b), *more.items())
        if key not in _INTERVALS:
            _INTERVALS[key] = ratio_interval(a, b, **more)
        return _INTERVALS[key]

    monkeypatch.setattr(speed, "ratio_interval", once)


def test_yes_says_how_fast_and_how_many():
    answer = derive(answers.run(), answers.given())
    assert (answer.answer, answer.exit_status, answer.deploy) == ("YES", 0, 64)
    assert answer.times_as_fast == pytest.approx(10) and answer.interval_95[0] > 9
    assert answer.sentence.startswith(
        "YES: packing 64 candidates a request gives every candidate the score it gets alone (largest difference 0) "
        "and is 10 times as fast (95 %: "
    )
    assert answer.sentence.endswith("; deploy 64 a request: 128 is 9 % slower.")


@pytest.mark.parametrize("gate", CORRECTNESS)
@pytest.mark.parametrize(
    ("verdict", "word"),
    [("FAIL", "NO"), ("ERROR", "UNDECIDED"), ("INCONCLUSIVE", "UNDECIDED"), ("NOT_RUN", "UNDECIDED")],
)
def test_no_yes_without_the_pass_of_every_gate_on_the_scores(gate, verdict, word):
    matrix = answers.run(**{gate: {"verdict": Verdict(verdict), "reason": "seen", "value": None}})
    answer = derive(matrix, answers.given())
    assert answer.answer == word and answer.exit_status == {"NO": 1, "UNDECIDED": 5}[word] and answer.deploy is None
    assert answer.sentence.startswith(f"{word}: ") and f"{gate}" in answer.sentence and "seen" in answer.sentence


@pytest.mark.parametrize("gate", CORRECTNESS)
def test_no_yes_without_a_record_of_every_gate_on_the_scores(gate):
    matrix = answers.run()
    matrix.gates = [record for record in matrix.gates if record.gate != gate]
    answer = derive(matrix, answers.given())
    assert answer.answer == "UNDECIDED" and gate in " ".join(answer.reasons)


@pytest.mark.parametrize(("verdict", "word"), [("FAIL", "NO"), ("ERROR", "UNDECIDED"), ("INCONCLUSIVE", "YES")])
def test_gates_beside_those_on_the_scores_can_only_hinder(verdict, word):
    matrix = answers.run()
    matrix.gates.append(answers.gate_record("speedup_n32_ge_3x", Verdict(verdict), value=1.4, limit=3.0, reason="slow"))
    answer = derive(matrix, answers.given())
    assert answer.answer == word
    if word == "NO":
        assert (
            "32 candidates in one request are not three times as fast as 32 requests, only 1.4 times" in answer.sentence
        )
    if word == "YES":
        assert any("speedup_n32_ge_3x INCONCLUSIVE" in text for text in answer.not_measured)


def test_the_worst_record_of_a_gate_counts():
    """A gate that is measured on two servers, or twice."""
    for order in (1, -1):
        matrix = answers.run()
        matrix.gates += [answers.gate_record("content_isolation", Verdict.FAIL, value=0.3, reason="it leaks")]
        matrix.gates = matrix.gates[::order]
        assert derive(matrix, answers.given()).answer == "NO"
    matrix.gates = [*answers.records(), answers.gate_record("content_isolation", Verdict.NOT_RUN, reason="no mask")]
    assert derive(matrix, answers.given()).answer == "YES"


def test_a_leak_is_told_in_plain_words():
    leak = {"verdict": Verdict.FAIL, "value": 0.28, "reason": "0.28 is above the limit 0"}
    matrix = answers.run(same_length_isolation_zero=leak, delimiter_aligned_equiv_le_0p02=leak)
    sentence = derive(matrix, answers.given()).sentence
    assert sentence.startswith(
        "NO: do not pack on this server as it is: a candidate's score changes when another candidate in the same "
        "request is swapped, by up to 0.28 ("
    )
    assert sentence.endswith("1 more against it below.")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("http_error: multi-item attached http://x: HTTP 500: boom", "it refuses requests that it must answer"),
        ("multi-item attached http://x: connection: refused", "it stops answering"),
        ("timeout: no answer within 180 s", "it does not answer in time"),
        ("bad_response: multi-item http://x: 3 rows", "what it answers are no scores"),
    ],
)
def test_a_server_that_gives_no_scores_is_not_said_to_leak(reason, said):
    gone = {"verdict": Verdict.FAIL, "value": None, "reason": reason}
    answer = derive(answers.run(content_isolation=gone, traffic_agrees=gone, every_label_agrees=gone), answers.given())
    assert answer.answer == "NO" and "candidate's score changes" not in answer.sentence
    assert answer.reasons == [f"{said} (content_isolation: {reason}, and 2 more gates for the same)"]


def test_a_leak_is_said_before_a_missing_answer():
    gone = {"verdict": Verdict.FAIL, "value": None, "reason": "http_error: HTTP 500: boom"}
    wrong = {"verdict": Verdict.FAIL, "value": None, "reason": "it: wrong_scores: item 1 of 6: connection: x"}
    answer = derive(answers.run(content_isolation=gone, every_score_agrees=wrong), answers.given())
    assert [reason.split(" (")[0] for reason in answer.reasons] == [
        "scores of the same candidate contradict each other",
        "it refuses requests that it must answer",
    ]


@pytest.mark.parametrize(("by", "status"), [("Ctrl-C", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_what_ended_it_is_said_whatever_the_answer(by, status):
    leak = {"content_isolation": {"verdict": Verdict.FAIL, "value": 0.2, "reason": "it leaks"}}
    for verdicts, word in ((leak, "NO"), ({}, "UNDECIDED")):
        answer = derive(answers.run(**verdicts), answers.given(interrupted_by=by))
        assert (answer.answer, answer.exit_status, answer.complete) == (word, status, False)
        assert f"the measurement was ended early ({by})" in answer.sentence


def test_what_an_early_end_left_out_is_counted():
    matrix = answers.run()
    del matrix.gates[3:]
    answer = derive(matrix, answers.given(interrupted_by="Ctrl-C"))
    assert answer.reasons == [
        "the measurement was ended early (Ctrl-C)", f"{len(CORRECTNESS) - 3} gates on the scores were not measured",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "word", "why"),
    [
        ([answers.row(64, 10.0, wrong="wrong_scores: item 1")], "NO", "an answer to a timed request is wrong"),
        ([answers.row(64, 10.0, max_abs_diff=0.5)], "NO", "0.5 away from the one it gets alone"),
        ([answers.row(64, 10.0, max_abs_diff=float("nan"))], "NO", "away from the one it gets alone"),
        ([answers.row(64, 120.0, max_abs_diff=0.0)], "NO", "packing is not faster than one request for each"),
        ([answers.row(64, 100.0, max_abs_diff=0.0)], "UNDECIDED", "whether packing saves anything is not shown"),
        ([answers.row(64, 10.0, failures={"timeout": 1})], "UNDECIDED", "runs failed: 1 timeout"),
        ([answers.row(64, 10.0, problem="segment was requested, but")], "UNDECIDED", "segment was requested"),
    ],
)
def test_what_is_timed_decides_too(rows, word, why):
    answer = derive(answers.run(), answers.given(*rows))
    assert answer.answer == word and why in answer.sentence


def test_a_wrong_serial_side_is_nobodys_no():
    found = answers.given()
    found.rows[0].wrong = "wrong_scores: item 1 is elsewhere"
    answer = derive(answers.run(), found)
    assert answer.answer == "UNDECIDED" and "the serial side contradicts itself" in answer.sentence


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"interrupted_by": "Ctrl-C"}, "the measurement was ended early (Ctrl-C)"),
        ({"problem": "the server is gone"}, "the server is gone"),
        ({"timed": [], "rows": [], "not_timed": "the run did not come to it"}, "no client chunk size was timed"),
        ({"rows": [answers.row(64, 10.0)]}, "how much packing saves is not known"),
    ],
)
def test_what_is_missing_leaves_it_open(more, why):
    answer = derive(answers.run(), answers.given(**more))
    assert answer.answer == "UNDECIDED" and why in " ".join(answer.reasons)


def test_what_is_open_is_not_said_twice():
    gone = {"verdict": Verdict.NOT_RUN, "value": None, "reason": "the run ended before this test"}
    answer = derive(answers.run(every_size_agrees=gone), answers.given())
    assert answer.answer == "UNDECIDED" and "every_size_agrees" in answer.reasons[0]
    assert not any("every_size_agrees" in text for text in answer.not_measured)
    leak = {"verdict": Verdict.FAIL, "value": 0.2, "reason": "it leaks"}
    answer = derive(answers.run(every_size_agrees=gone, content_isolation=leak), answers.given())
    assert answer.answer == "NO" and any("every_size_agrees NOT_RUN" in text for text in answer.not_measured)


def test_what_is_missing_does_not_hide_a_no():
    matrix = answers.run(content_isolation={"verdict": Verdict.FAIL, "value": 0.2, "reason": "it leaks"})
    matrix.complete = False
    assert derive(matrix, answers.given(interrupted_by="Ctrl-C")).answer == "NO"


def test_without_any_gate_nothing_is_said():
    answer = derive(None, answers.given())
    assert (answer.answer, answer.exit_status, answer.complete) == ("UNDECIDED", 5, False)
    assert "the gates left no results" in answer.reasons
    assert derive(answers.run(), answers.given()).complete


def test_an_incomplete_run_is_no_yes():
    matrix = answers.run()
    matrix.complete, matrix.interrupted_by = False, "SIGTERM"
    answer = derive(matrix, answers.given())
    assert answer.answer == "UNDECIDED" and "SIGTERM" in answer.sentence


def test_one_server_is_not_asked_for_what_it_never_gives():
    (name,) = NEEDS_A_SERIAL_SERVER
    matrix = answers.run(**{name: {"verdict": Verdict.NOT_RUN, "reason": "give a serial server as well"}})
    assert derive(matrix, answers.given()).answer == "UNDECIDED"
    answer = derive(matrix, answers.given(one_server=True))
    assert answer.answer == "YES" and any(name in text for text in answer.not_measured)
    matrix = answers.run(**{name: {"verdict": Verdict.FAIL, "reason": "another one"}})
    assert derive(matrix, answers.given(one_server=True)).answer == "NO"


def test_a_delimiter_that_nobody_told_is_doubted():
    apart = {"verdict": Verdict.FAIL, "value": 0.1, "reason": "0.1 is above the limit"}
    matrix = answers.run(delimiter_aligned_equiv_le_0p02=apart)
    said = " ".join(derive(matrix, answers.given(delimiter_told=False)).reasons)
    assert "does not tell its delimiter, and 7 was taken" in said and "--multiitem-delimiter" in said
    assert "--multiitem-delimiter" not in " ".join(derive(matrix, answers.given()).reasons)
    matrix = answers.run(delimiter_aligned_equiv_le_0p02=apart, content_isolation=apart)
    assert "--multiitem-delimiter" not in " ".join(derive(matrix, answers.given(delimiter_told=False)).reasons)


# Rounding

#: What a gate that wants equal bits says of a healthy server whose rounding depends on the shape of a batch.
ROUNDS = {
    "verdict": Verdict.INCONCLUSIVE,
    "value": 4e-7,
    "shape_floor": 3e-7,
    "leak_bound": 1e-7,
    "reason": "4e-07 is above the limit 0, but all of it is rounding: floor 3e-07, content leak ≤ 1e-07",
}


#: The same of rules between requests, some of which change lengths.
RELATIONS = {
    "relations": {}, "over_limit": 0, "dismissed_as_noise": 0, "not_reproduced": 0.0, "rounding": {"lengthen": 2e-7},
}  # fmt: skip
RULES = {
    "verdict": Verdict.INCONCLUSIVE,
    "value": 2e-7,
    "reason": "all of it is rounding: scores differ where lengths change, by no more than sums over other shapes may "
    "(lengthen 2e-07), and by nothing where only content changes",
    "details": Relations(**RELATIONS),
    "samples": {"examples": 8},
}
BITS, BETWEEN = WANT_EQUAL_BITS[:2], WANT_EQUAL_BITS[2]


def rounding():
    return dict.fromkeys(BITS, ROUNDS) | {BETWEEN: RULES}


def test_rounding_alone_is_a_yes_that_says_so():
    answer = derive(answers.run(**rounding()), answers.given())
    assert (answer.answer, answer.exit_status, answer.deploy) == ("YES", 0, 64)
    assert answer.sentence.startswith(
        "YES: packing 64 candidates a request gives every candidate the score it gets alone, up to rounding (largest "
        "difference 0, a neighbour moves it by 4e-7 at most, as the shape of a batch alone does) and is 10 times"
    )
    assert answer.rounding == [*WANT_EQUAL_BITS] and answer.reasons[0] == "12 of 15 gates on the scores PASS"
    for name in WANT_EQUAL_BITS:
        assert any(text.startswith(f"{name} is INCONCLUSIVE for rounding alone (") for text in answer.reasons)
        assert any(f"{name} INCONCLUSIVE: " in text for text in answer.not_measured)


def test_equal_bits_are_not_said_to_be_rounding():
    answer = derive(answers.run(), answers.given())
    assert answer.rounding == [] and "rounding" not in answer.sentence.split("(")[0]


@pytest.mark.parametrize("gate", BEYOND_ROUNDING)
@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.NOT_RUN, Verdict.ERROR, None])
def test_rounding_is_no_yes_where_nothing_looked_beyond_it(gate, verdict):
    matrix = answers.run(**rounding(), **({gate: {"verdict": verdict, "reason": "seen"}} if verdict else {}))
    if verdict is None:
        matrix.gates = [record for record in matrix.gates if record.gate != gate]
    answer = derive(matrix, answers.given())
    assert (answer.answer, answer.rounding) == ("UNDECIDED", [])
    assert any("same_length_isolation_zero INCONCLUSIVE: 4e-07" in text for text in answer.reasons)


@pytest.mark.parametrize(
    "more",
    [
        {"shape_floor": 1e-7},
        {"shape_floor": None},
        {"value": None},
        {"noise_floor": 3e-7},
        {"reason": "segment was requested, but dense was executed"},
        {"reason": "the noise floor 3e-07 is above the limit 0: a violation could not be told from noise"},
    ],
    ids=["above the floor", "no floor", "no value", "noise as well", "another doubt", "noise"],
)
@pytest.mark.parametrize("gate", BITS)
def test_no_other_doubt_is_rounding(gate, more):
    matrix = answers.run(**(rounding() | {gate: ROUNDS | more}))
    answer = derive(matrix, answers.given())
    assert answer.answer == "UNDECIDED" and any(f"({gate} INCONCLUSIVE: " in text for text in answer.reasons)


@pytest.mark.parametrize(
    ("seen", "more"),
    [
        ({"rounding": {}}, {}),
        ({"dismissed_as_noise": 1}, {}),
        ({"not_reproduced": 0.1}, {}),
        ({"no_reference": "it refused"}, {}),
        ({"over_limit": 5}, {}),
        ({}, {"score_spread": 0.001}),
        ({}, {"noise_floor": 1e-7}),
        ({}, {"reason": "scores hardly differ"}),
        ({}, {"details": Notes()}),
    ],
)
def test_no_other_doubt_about_the_rules_is_rounding(seen, more):
    record = RULES | {"details": Relations(**(RELATIONS | seen))} | more
    answer = derive(answers.run(**(rounding() | {BETWEEN: record})), answers.given())
    assert answer.answer == "UNDECIDED" and any(f"({BETWEEN} INCONCLUSIVE: " in text for text in answer.reasons)


def test_of_two_servers_the_one_with_another_doubt_counts():
    for order in (1, -1):
        matrix = answers.run(**rounding())
        other = ROUNDS | {"reason": "scores hardly differ", "value": 0.0}
        matrix.gates += [answers.gate_record("same_length_isolation_zero", **other)]
        matrix.gates = matrix.gates[::order]
        assert derive(matrix, answers.given()).answer == "UNDECIDED"


def test_rounding_does_not_excuse_another_gate():
    for gate in set(CORRECTNESS) - {*BITS}:
        assert derive(answers.run(**{gate: ROUNDS}), answers.given()).answer == "UNDECIDED"


# The curve


def test_the_guardrail_keeps_a_faster_size_from_winning():
    slow_now_and_then = answers.row(128, 9.7, max_abs_diff=0.0)
    slow_now_and_then.runs_ms[0][0] = slow_now_and_then.runs_ms[1][1] = 13.5
    slow_now_and_then.runs_ms = [[ms * 0.93 for ms in runs] for runs in slow_now_and_then.runs_ms]
    found = answers.given(answers.row(64, 10.0, max_abs_diff=0.0), slow_now_and_then)
    curve = curve_of(found)
    (other,) = (figures for figures in curve.figures if figures.client_chunk_size == 128)
    faster = other.items_per_sec > curve.chosen.items_per_sec
    assert curve.chosen.client_chunk_size == (64 if other.p95_ms > curve.limit_ms else 128)
    if other.p95_ms > curve.limit_ms:
        assert (
            f"{'but' if faster else 'and'} its p95 of" in other.why_not and "breaks the 1.25 guardrail" in other.why_not
        )


def test_a_serial_sample_stands_for_all_items():
    found = answers.given()
    whole = curve_of(found).chosen
    for request in found.timed:  # the same times, of half of the items
        request.items = 256
    assert curve_of(found).chosen.times_as_fast == pytest.approx(2 * whole.times_as_fast)


def test_a_size_that_fails_cannot_win():
    failing = answers.row(128, 5.0, failures={"timeout": 1})
    failing.runs_ms[0][2] = None
    curve = curve_of(answers.given(answers.row(64, 10.0), failing))
    assert curve.chosen.client_chunk_size == 64
    assert [f.why_not for f in curve.figures if f.client_chunk_size == 128] == ["runs failed: 1 timeout"]


def test_what_is_shown():
    said = list(lines(derive(answers.run(), answers.given())))
    assert said[0].startswith("YES: ") and all(len(line) <= 80 for line in said[2:20])
    text = "\n".join(said)
    assert "deploy" in text and "not 128 a request: 9 % slower" in text and "not measured:" in text
    assert "PASS      content_isolation" in text and "1, serial" in text
    said = "\n".join(lines(derive(None, answers.given(interrupted_by="Ctrl-C"))))
    assert "further open:" in said


def test_numbers_as_people_write_them():
    assert [small(x) for x in (0, 4.2e-6, 0.02, 0.28)] == ["0", "4e-6", "0.02", "0.28"]
    assert [factor(x) for x in (0.5, 9.14, 12.3)] == ["0.5", "9.1", "12"]
    assert [percent(x) for x in (1.03, 0.79, 0.995)] == ["3 % faster", "21 % slower", "0.5 % slower"]


# The file


@pytest.fixture
def path(tmp_path):
    return answers.written(tmp_path, answers.run(), answers.given())


def changed(path, change):
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    return " ".join(examine(path).problems)


def test_what_was_written_is_valid(path):
    found = examine(path)
    assert found.problems == [] and found.summary == "YES, 64 items a request"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("answer",), "NO"),
        (("sentence",), "YES: buy it."),
        (("exit_status",), 5),
        (("deploy",), 128),
        (("times_as_fast",), 20.0),
        (("interval_95", 0), 9.99),
        (("largest_difference",), 1e-9),
        (("complete",), False),
        (("gates", 0, "verdict"), "FAIL"),
        (("gates", 3, "needed"), False),
        (("gates", 1, "rounding"), True),
        (("rounding",), ["same_length_isolation_zero"]),
        (("curve", 1, "p95_ms"), 1.0),
        (("curve", 2, "why_not"), "nothing"),
        (("not_measured",), []),
        (("given", "guardrail_ratio"), 2.0),
        (("given", "effort"), "full"),
        (("given", "one_server"), True),
        (("given", "own_traffic"), True),
        (("given", "rows", 1, "runs_ms", 0, 0), -1.0),
        (("given", "rows", 1, "runs_ms", 0, 0), None),
        (("given", "rows", 1, "runs_ms", 0, 0), 400.0),
        (("given", "rows", 1, "client_chunk_size"), 64),
        (("given", "rows", 3, "max_abs_diff"), 0.001),
        (("given", "timed", 0, "packed_scores", 0, 0), 0.99),
        (("given", "timed", 0, "serial_places"), [0]),
        (("given", "timed", 0, "serial_places", 1), 128),
        (("given", "rows", 3, "client_chunk_size"), 129),
        (("given", "timed", 0, "items"), 4),
        (("given", "timed", 0, "serial_scores"), [[0.1]]),
        (("given", "matrix_sha256"), "0" * 64),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_what_contradicts_what_was_measured_is_refused(path, where, value):
    def change(content):
        for step in where[:-1]:
            content = content[step]
        assert content[where[-1]] != value
        content[where[-1]] = value

    assert changed(path, change)


def test_a_yes_over_a_run_that_says_no_is_refused(tmp_path):
    """Also where everything else of the answer was made to fit."""
    path = answers.written(tmp_path, answers.run(), answers.given())
    kept = json.loads(path.read_bytes())
    bad = answers.run(content_isolation={"verdict": Verdict.FAIL, "value": 0.2, "reason": "0.2: it leaks"})
    answers.written(tmp_path, bad, answers.given())
    kept["given"]["matrix_sha256"] = json.loads(path.read_bytes())["given"]["matrix_sha256"]
    path.write_text(json.dumps(kept))
    problems = examine(path).problems
    assert any("answer is 'YES'; what was measured gives 'NO'" in text for text in problems)


def test_a_yes_over_rounding_is_valid_and_no_other_one_is(tmp_path):
    path = answers.written(tmp_path, answers.run(**rounding()), answers.given())
    assert examine(path).problems == []
    assert "rounding" in changed(path, lambda content: content.update(rounding=[]))


def test_a_run_that_contradicts_itself_makes_no_answer(tmp_path):
    """A PASS over its own limit, in the matrix."""
    over = {"value": 0.5, "reason": "0.5 is within the limit"}
    path = answers.written(tmp_path, answers.run(delimiter_aligned_equiv_le_0p02=over), answers.given())
    assert any(text.startswith("matrix.json: ") for text in examine(path).problems)


def test_an_answer_without_its_run(path):
    (path.parent / "matrix.json").unlink()
    (problem,) = examine(path).problems
    assert problem.startswith("its run cannot be read, from which it follows")


def test_a_yes_without_any_run_is_refused(path):
    def change(content):
        content["given"]["matrix_sha256"] = None

    assert "answer is 'YES'; what was measured gives 'UNDECIDED'" in changed(path, change)
