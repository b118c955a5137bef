"""What counts as a regression, as a user types it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.conditions import parse
from pytest_multiitem.settings.resolve import resolve


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("p95 > 15%", "p95", 1.15),
        ("p95>15%", "p95", 1.15),
        ("  p50 > 0 %", "p50", 1.0),
        ("mean > +2.5%", "mean", 1.025),
        ("p50 > 300%", "p50", 4.0),
        ("throughput < -10%", "throughput", 0.9),
        ("throughput < 0%", "throughput", 1.0),
    ],
)
def test_a_condition(text, metric, limit):
    condition = parse(text)
    assert (condition.metric, condition.text) == (metric, text.strip())
    assert condition.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    "text",
    [
        "", "p95", "p95 15%", "p95 > 15", "p95 > %", "p95 > -5%", "p95 < 15%", "p99 > 5%", "throughput > 10%",
        "throughput < 10%", "throughput < -100%", "p95 > 15% or so", "p95 >= 15%", "p95 > nan%", "p95 > 1e3%",
    ],
)  # fmt: skip
def test_what_is_none_says_what_was_expected(text):
    with pytest.raises(ValueError, match=r"expected a condition such as 'p95 > 15%'.*or 'throughput < -10%'"):
        parse(text)


@given(percent=st.decimals(0, 1000, places=2), metric=st.sampled_from(["p50", "p95", "mean"]))
def test_the_limit_is_the_growth(percent, metric):
    assert parse(f"{metric} > {percent}%").limit == pytest.approx(1 + float(percent) / 100)


def test_several_are_an_option():
    assert resolve({"multiitem_fail_if": "p95 > 15%, throughput < -10%,p95 > 15%"}, {}, {}).fail_if == (
        "p95 > 15%",
        "throughput < -10%",
    )
    with pytest.raises(UsageError, match=r"--multiitem-fail-if: 'p95 .*' is not valid: expected a condition"):
        resolve({"multiitem_fail_if": "p95 > 15%, p42 > 1%"}, {}, {})
