"""The guardrail rule: who may win, who wins, and what is measured again."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import ITEMS, failed_row, matrix, row

from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.guardrail import Candidate
from pytest_multiitem.comparison.records import Row, RunRecord


def bare(size, p95, throughput, **more):
    """A row of a tool that writes figures only."""
    return Row(client_chunk_size=size, status="ok", success_rate=1.0, p95_total_e2e_ms=p95,
               throughput_items_sec=throughput, **more)  # fmt: skip


def chosen(*rows, ratio=1.25):
    return guardrail.recommend([bare(*r) if isinstance(r, tuple) else r for r in rows], ratio)


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([(1, 100, 10)], 1),
        ([(1, 100, 10), (8, 100, 20)], 8),
        ([(1, 100, 20), (8, 100, 10)], 1),
        ([(1, 100, 10), (8, 125, 20)], 8),  # exactly on the guardrail
        ([(1, 100, 10), (8, 125.0001, 20)], 1),  # just beyond it
        ([(1, 100, 10), (8, math.nextafter(125, 126), 20)], 1),
        ([(1, 1000, 10), (8, 100, 20), (64, 110, 30)], 64),
        ([(1, 1000, 99), (8, 100, 20), (64, 126, 30)], 8),
        ([(8, 100, 20), (1, 100, 20)], 1),  # ties go to the smaller chunk
        ([(64, 100, 20), (8, 120, 20), (500, 101, 20)], 8),  # whatever its p95 is within the guardrail
        ([(64, 100, 20), (8, 126, 20), (500, 101, 20)], 64),
        ([], None),
    ],
)
def test_the_highest_throughput_within_the_guardrail_wins(rows, winner):
    for order in itertools.islice(itertools.permutations(rows), 6):
        assert chosen(*order) == winner


def test_another_ratio():
    rows = [(1, 100, 10), (8, 150, 20)]
    assert chosen(*rows) == 1 and chosen(*rows, ratio=1.5) == 8 and chosen(*rows, ratio=1.0) == 1


def test_rows_that_may_not_win_set_no_guardrail():
    assert chosen((1, 100, 10), (8, 120, 20), failed_row(64, good=4, p95_total_e2e_ms=10.0)) == 8
    assert chosen((1, 100, 10), (8, 200, 20), bare(64, 10, None)) == 1
    assert chosen((8, 200, 20), bare(64, 10, None)) == 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "failed"}, "its success rate is 1 (status failed)"),
        ({"status": "partial_failure"}, "its success rate is 1 (status partial_failure)"),
        ({"success_rate": 0.999}, "its success rate is 0.999 (status ok)"),
        ({"success_rate": 0.8, "failure_reason_counts": {"oom": 1, "timeout": 2, "bad_json": 0}},
         "its success rate is 0.8 (1 oom, 2 timeout)"),
        ({"success_rate": 1.0, "timed_runs": 5, "successful_runs": 4}, "its success rate is 0.8 (status ok)"),
        ({"success_rate": 1.0, "timed_runs": 0}, "its success rate is 0 (status ok)"),
        ({"run_records": [RunRecord(ok=True), RunRecord(ok=False)]}, "its success rate is 0.5 (status ok)"),
        ({"success_rate": 0.0}, "its success rate is 0 (status ok)"),
        ({"success_rate": 2.0}, "its success rate is 2 (status ok)"),
        ({"success_rate": None}, "its success rate is not known"),
        ({"success_rate": math.nan}, "its success rate is not known"),
        ({"attestation_problem": "dense ran instead of segment"}, "dense ran instead of segment"),
        ({"p95_total_e2e_ms": None}, "it has no p95"),
        ({"p95_total_e2e_ms": math.nan}, "its p95 is no finite number above 0"),
        ({"p95_total_e2e_ms": 0.0}, "its p95 is no finite number above 0"),
        ({"p95_total_e2e_ms": -1.0}, "its p95 is no finite number above 0"),
        ({"throughput_items_sec": None}, "it has no throughput"),
        ({"throughput_items_sec": math.inf}, "its throughput is no finite number above 0"),
        ({"throughput_items_sec": 0.0}, "its throughput is no finite number above 0"),
    ],
)  # fmt: skip
def test_what_keeps_a_row_from_winning(changes, reason):
    given = {"client_chunk_size": 64, "status": "ok", "success_rate": 1.0, "p95_total_e2e_ms": 50.0,
             "throughput_items_sec": 1e6}  # fmt: skip
    bad = Row(**(given | changes))
    assert guardrail.why_not(bad) == reason
    assert guardrail.recommend([bad]) is None
    assert guardrail.recommend([bad, bare(8, 1000, 1)]) == 8
    assert guardrail.candidate_of(bad, None) is None
    assert guardrail.why_not(Row(**given)) is None


@pytest.mark.parametrize("flag", ["unstable", "recompilation"])
def test_a_doubtful_row_may_win(flag):
    assert guardrail.why_not(row(64, **{flag: "it wobbles"})) is None


def test_a_success_rate_may_follow_from_counts():
    counted = bare(64, 10, 10, timed_runs=5, successful_runs=5)
    counted.success_rate = None
    assert guardrail.success_rate(counted) == 1 and guardrail.why_not(counted) is None


candidates = st.lists(
    st.builds(
        Candidate,
        p95_ms=st.integers(1, 12).map(lambda n: n * 10.0),
        throughput=st.integers(1, 5).map(float),
        chunk_size=st.sampled_from([1, 2, 4, 8, 16]),
        what=st.sampled_from("ab"),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(candidates)
def test_the_rule_by_its_words(found):
    winner = guardrail.choose(found)
    if not found:
        assert winner is None and guardrail.guardrail(found) is None
        return
    limit = 1.25 * min(c.p95_ms for c in found)
    assert guardrail.guardrail(found) == limit
    within = [c for c in found if c.p95_ms <= limit]
    best = max(c.throughput for c in within)
    assert winner in within and winner.throughput == best
    assert winner.chunk_size == min(c.chunk_size for c in within if c.throughput == best)


def test_a_tie_of_everything_goes_to_the_first():
    a, b = (Candidate(10.0, 5.0, 8, what) for what in "ab")
    assert guardrail.choose([a, b]) is a and guardrail.choose([b, a]) is b
    assert guardrail.choose([a, Candidate(9.0, 5.0, 8, "c")]).what == "c"


@pytest.mark.parametrize(
    ("sizes", "choice", "again"),
    [
        ([1, 2, 4, 8, 16, 32, 64, 128, 256, 500], 64, [1, 32, 64, 128]),
        ([1, 2, 4, 8, 16, 32, 64, 128, 256, 500], 1, [1, 2]),
        ([1, 2, 4, 8, 16, 32, 64, 128, 256, 500], 2, [1, 2, 4]),
        ([1, 2, 4, 8, 16, 32, 64, 128, 256, 500], 500, [1, 256, 500]),
        ([500, 64, 8], 64, [8, 64, 500]),
        ([500, 64, 8], 8, [8, 64]),
        ([64, 64, 500], 64, [64, 500]),
        ([64], 64, [64]),
        ([1, 64], None, []),
        ([1, 64], 8, []),
        ([], None, []),
    ],
)
def test_what_is_measured_again(sizes, choice, again):
    assert guardrail.confirm_chunk_sizes(sizes, choice) == again


def sizes_of(summary):
    chosen = (summary.sweep_recommendation, summary.confirm_recommendation, summary.final_recommendation)
    return tuple(c.selected and c.selected.client_chunk_size for c in chosen)


def test_a_summary():
    swept = [row(1, (900,) * 5), row(8, (100,) * 5), row(64, (90,) * 5), row(500, (300,) * 5)]
    confirmed = [row(1, (900,) * 7), row(8, (80,) * 7), row(64, (95,) * 7)]
    found = guardrail.summary_of(matrix(rows=swept, confirm_results=confirmed))
    assert found.guardrail_ratio == 1.25
    assert sizes_of(found) == (64, 8, 8) and found.final_chunk_size == 8
    final = found.final_recommendation
    assert (final.eligible_count, final.guardrail_ratio, final.guardrail_p95_ms) == (3, 1.25, 100.0)
    assert final.selected.throughput_items_sec == 1000 * ITEMS / 80 and final.selected.p95_total_e2e_ms == 80
    assert final.selected.success_rate == 1.0 and final.notes == []
    assert found.confirm_chunk_sizes == [1, 8, 64, 500]


@pytest.mark.parametrize(
    ("confirmed", "final"),
    [
        ([], 64),
        ([failed_row(64)], None),  # what was swept did not hold
        ([failed_row(8)], 64),
        ([failed_row(64), row(8, (100,) * 7)], 8),
    ],
)
def test_a_choice_that_was_not_confirmed(confirmed, final):
    found = guardrail.summary_of(matrix(rows=[row(8, (100,) * 5), row(64, (90,) * 5)], confirm_results=confirmed))
    assert sizes_of(found)[0] == 64 and sizes_of(found)[2] == final


def test_a_summary_of_nothing():
    found = guardrail.summary_of(matrix(rows=[failed_row()]))
    assert sizes_of(found) == (None,) * 3
    assert (found.final_recommendation.eligible_count, found.final_recommendation.notes) == (0, ["no row may win"])
    assert found.confirm_chunk_sizes == []
