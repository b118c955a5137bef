"""The kill matrix without servers: what is planned, what it comes to, and what is shown of it."""

import itertools
from types import SimpleNamespace

import msgspec
import pytest
from release_gates import RELEASED

from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.catalogue import catalogue, variation
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.power import columns as power_columns
from pytest_multiitem.power.builds import Build
from pytest_multiitem.power.measuring import judged_build
from pytest_multiitem.power.plan import Planned, check_settings, plan
from pytest_multiitem.power.records import FaultRecord, KillMatrix
from pytest_multiitem.power.summary import summarise, verdict
from pytest_multiitem.reports.power import kill_table, power_lines, render, summary_lines
from pytest_multiitem.results.details import BuildRecord, Cell
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.settings.resolve import resolve

EQUIV, SAME, SPEED = "delimiter_aligned_equiv_le_0p02", "same_length_isolation_zero", "speedup_n32_ge_3x"


def settings_of(**given):
    return resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})


# -- the plan ----------------------------------------------------------------------------------


def test_every_fault_is_planned_on_every_backend_with_its_strengths():
    planned = plan(settings_of())
    for backend in ("pytorch", "jax"):
        of = [each for each in planned if each.backend == backend]
        first = [each.fault.name for each in of if not each.healthy and not each.further]
        known = {name for name, kind in catalogue().items() if kind.planned}
        assert set(catalogue()) - known == {"wrong_row"}, "by name only"
        assert sorted(first) == sorted(known), "one build at the default strength of each fault"
        assert all(each.expects for each in of if not each.further)
        further = [each for each in of if each.further]
        assert len(further) == sum(max(0, len(kind.strengths) - 1) for kind in catalogue().values())
        reached = {each.label for each in further if each.expects}
        assert {"size_limit=2048", "busy=32", "length_wrap=8"} <= reached
        assert not {"length_wrap=16", "leak_next=1e-06", "drift=0.001"} & reached
        assert [each.label for each in of if each.healthy] == [
            "healthy", "healthy, delimiter 0", "healthy, server chunk size 8", "healthy, effort normal",
            "healthy, shape_noise=4e-07",
        ]  # fmt: skip
    assert {each.fault.number for each in planned if each.fault} >= set(range(1, 41)), "all 40 of the list"


def test_what_a_user_names_is_what_is_expected_to_be_killed():
    planned = plan(settings_of(power_faults="leak_next=1e-4,delimiter_zero_unset", backend="jax"))
    assert [(each.label, each.expects) for each in planned] == [
        ("healthy", True), ("healthy, delimiter 0", True), ("leak_next=0.0001", True), ("delimiter_zero_unset", True),
    ]  # fmt: skip


def test_parts_measure_every_fault_once_and_the_healthy_builds_each_time():
    def labels(**settings):
        return [each.label for each in plan(settings_of(backend="jax", **settings))]

    whole, parts = labels(), [labels(power_part=f"{number}/3") for number in (1, 2, 3)]
    faults = [[label for label in each if not label.startswith("healthy")] for each in (whole, *parts)]
    assert sorted(itertools.chain(*faults[1:])) == sorted(faults[0])
    assert all({"healthy", "healthy, shape_noise=4e-07"} <= set(each) for each in parts)
    assert labels(power_faults="leak_next=1e-4,causal", power_part="2/2") == ["healthy", "causal"]


def test_a_part_without_a_fault_proves_nothing():
    with pytest.raises(UsageError, match=r"power-part.*'2/2'.*no fault is in that part"):
        check_settings(settings_of(power_faults="causal", power_part="2/2"))


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b", "-1/2", "1.0/2"])
def test_what_is_no_part(text):
    with pytest.raises(UsageError, match=r"expected K/N, the K-th of N parts, such as 1/2"):
        settings_of(power_part=text)


def test_a_fault_that_is_not_known_names_the_option():
    with pytest.raises(UsageError, match=r"--multiitem-power-faults.*no fault is called .leak_nxt..*did you mean"):
        check_settings(settings_of(power_faults="causal,leak_nxt"))


@pytest.mark.parametrize("given", [{"engine": "sglang"}, {"multi_url": "http://127.0.0.1:1"}])
def test_faults_need_the_embedded_engine(given):
    with pytest.raises(UsageError, match="multiitem proxy"):
        check_settings(settings_of(**given))


# -- columns -----------------------------------------------------------------------------------


def test_every_gate_is_a_column_or_says_why_not():
    measured = {column.gate.name for column in power_columns.columns()}
    assert measured | set(power_columns.not_measured()) == set(gates())
    assert not measured & set(power_columns.not_measured())
    assert all(power_columns.not_measured().values())


def test_columns_and_other_gates_stand_in_the_order_of_the_published_matrix():
    released = [column.name for column in power_columns.columns() if column.gate.name in RELEASED]
    assert released == [
        SAME, "changed_length_isolation_zero", EQUIV, f"{EQUIV}[extend]", "semantics_as_declared",
        "request_isolation_le_0p02", "request_contract_holds", "metamorphic_relations_hold", "negative_control_fails",
        "segment_vs_dense_le_1e_4", "prefill_extend_replay_le_1e_4", "jax_serial_vs_torch_serial_le_0p02",
        "jax_multi_vs_torch_multi_semantic_le_0p02", "cross_backend_max_abs_le_0p02", "cross_backend_mean_abs_le_0p01",
        "serial_vs_reference_le_0p02", SPEED,
    ]  # fmt: skip
    assert [name for name in power_columns.not_measured() if name in RELEASED] == [
        "segment_lowers", "comparison_measured", "own_reference_max_abs_le_0p02", "own_reference_mean_abs_le_0p01",
        "healthy_build_passes", "fault_is_killed", "no_regression_vs_baseline",
    ]  # fmt: skip


LABS = SimpleNamespace(settings=settings_of(), record=None)


def test_a_gate_is_measured_where_a_server_that_it_judges_has_the_fault():
    by_name = {column.name: column for column in power_columns.columns()}

    def measured(backend, name=None, **circumstances):
        made = Build(LABS, backend, None if name is None else catalogue()[name](), circumstances)
        return {column for column, known in by_name.items() if known.concerns(made)}

    assert measured("jax") == set(by_name), "a healthy build is measured by every gate"
    causal, drift, late = (measured("jax", name) for name in ("causal", "drift", "extend_late"))
    assert SAME in causal and f"{EQUIV}[extend]" not in causal and SPEED not in causal
    assert f"{EQUIV}[extend]" in late and EQUIV not in late
    multi_semantic = "jax_multi_vs_torch_multi_semantic_le_0p02"
    assert multi_semantic in drift and multi_semantic not in measured("pytorch", "drift")
    assert SPEED in measured("jax", "serial_inside")
    chunked = measured("jax", server_chunk_size=8)
    assert SAME in chunked and f"{EQUIV}[extend]" not in chunked and SPEED not in chunked


# -- what it comes to --------------------------------------------------------------------------


def cell(gate, said, value=None, place=None):
    return Cell(gate=gate, verdict=Verdict(said), reason="because", value=value, place=place)


def build(backend, fault, strength, cells, *, expects=True):
    killed = [c.gate for c in cells if c.verdict is Verdict.FAIL]
    label = "healthy" if fault is None else fault if strength is None else f"{fault}={strength:g}"
    expected = all(c.verdict is Verdict.PASS for c in cells) if fault is None else bool(killed)
    return BuildRecord(
        backend=backend, label=label, fault=fault, strength=strength, cells=cells,
        killed_by=list(dict.fromkeys(killed)), as_expected=expected if expects else None,
    )  # fmt: skip


def matrix(*builds, faults=(("leak", 2, [1.0, 0.01]), ("swap", 14, []), ("slow", 24, [])), complete=True):
    made = KillMatrix(
        run_id="r",
        started_at_utc="t",
        gates=[SAME, EQUIV, f"{EQUIV}[extend]", SPEED],
        faults=[
            FaultRecord(name=n, number=i, about="a", seen="s", layer="engine", scope=["multi"], strengths=s)
            for n, i, s in faults
        ],
        builds=list(builds),
        complete=complete,
    )
    summarise(made)
    return made


def healthy(backend):
    return build(backend, None, None, [cell(SAME, "PASS", 0.0), cell(EQUIV, "PASS", 1e-7)])


def both(*arguments, **more):
    return [build(backend, *arguments, **more) for backend in ("pytorch", "jax")]


FULL = (
    healthy("pytorch"), healthy("jax"),
    *both("leak", 1.0, [cell(SAME, "FAIL", 0.4), cell(EQUIV, "FAIL", 0.5)]),
    *both("leak", 0.01, [cell(SAME, "FAIL", 0.001), cell(EQUIV, "PASS", 0.002)], expects=False),
    *both("swap", None, [cell(SAME, "PASS", 0.0), cell(EQUIV, "FAIL", 0.9), cell(EQUIV, "FAIL", 0.8, "extend")]),
    *both("slow", None, [cell(SAME, "PASS", 0.0), cell(SPEED, "FAIL", 1.3)]),
)  # fmt: skip


def test_killed_unique_and_sensitivity():
    made = matrix(*FULL)
    assert made.killed == {"pytorch": [2, 14, 24], "jax": [2, 14, 24]} and made.expected == [2, 14, 24]
    assert made.unique == {SAME: ["leak=0.01"], EQUIV: ["swap"], SPEED: ["slow"]}
    assert made.sensitivity == {SAME: {"leak": 0.01}, EQUIV: {"leak": 1.0}}
    assert verdict(made) == (0, [])


def test_a_number_is_killed_only_if_all_its_faults_are():
    faults = (("leak", 2, []), ("leak_too", 2, []))
    kills, survives = [cell(SAME, "FAIL", 0.1)], [cell(SAME, "PASS", 0.0)]
    one = matrix(
        healthy("jax"), build("jax", "leak", None, kills), build("jax", "leak_too", None, survives), faults=faults
    )
    assert one.killed == {"jax": []}
    assert verdict(one) == (1, ["leak_too (jax) survives: no gate fails on it"])
    unmeasured = matrix(healthy("jax"), build("jax", "leak", None, kills), faults=faults)
    assert unmeasured.killed == {"jax": []}, "what was not measured is not killed"


def test_unique_on_one_backend_only_says_so():
    alone, more = [cell(SAME, "FAIL", 0.1)], [cell(SAME, "FAIL", 0.1), cell(EQUIV, "FAIL", 0.1)]
    made = matrix(build("jax", "swap", None, alone), build("pytorch", "swap", None, more))
    assert made.unique == {SAME: ["swap (jax)"]}


def test_a_gate_sees_a_strength_only_if_it_does_on_every_backend():
    made = matrix(
        build("jax", "leak", 1.0, [cell(SAME, "FAIL", 0.4)]), build("pytorch", "leak", 1.0, [cell(SAME, "FAIL", 0.4)]),
        build("jax", "leak", 0.01, [cell(SAME, "FAIL", 0.4)]), build("pytorch", "leak", 0.01, [cell(SAME, "PASS", 0)]),
    )  # fmt: skip
    assert made.sensitivity == {SAME: {"leak": 1.0}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"complete": False}, "the kill matrix is not complete"),
        ({"missing": {"jax": "jax not installed"}}, "jax was not measured: jax not installed"),
        ({"builds": list(FULL[:2])}, "no fault was measured"),
        ({"builds": []}, "no fault was measured"),
        (
            {"builds": [build("jax", None, None, [cell(SAME, "PASS", 0.0), cell(EQUIV, "FAIL", 0.1)]), *FULL[2:]]},
            f"healthy (jax) does not pass: {EQUIV} FAIL",
        ),
        (
            {"builds": [build("jax", None, None, [cell(SAME, "INCONCLUSIVE", 0.0)]), *FULL[2:]]},
            f"healthy (jax) does not pass: {SAME} INCONCLUSIVE",
        ),
    ],
)
def test_the_matrix_cannot_fail_open(change, problem):
    made = matrix(*FULL)
    for name, value in change.items():
        setattr(made, name, value)
    status, problems = verdict(made)
    assert status == 1 and problem in problems


# -- what is shown -----------------------------------------------------------------------------


def test_every_value_is_shown_with_its_verdict():
    header, rows = kill_table(matrix(*FULL), "jax")
    assert header == ["", "build", "", "same", "equiv", "equiv ext", "speed-up"]
    assert rows == [
        ["", "healthy", "passes", "0", "1e-07", "·", "·"],
        ["F2", "leak=1", "killed by 2", "✗ 0.40", "✗ 0.50", "·", "·"],
        ["F2", "leak=0.01", "killed by 1", "✗ 0.001", "0.002", "·", "·"],
        ["F14", "swap", "killed by 1", "0", "✗ 0.90", "✗ 0.80", "·"],
        ["F24", "slow", "killed by 1", "0", "·", "·", "✗ 1.30"],
    ]


def test_a_survivor_is_loud():
    survivor = [cell(SAME, "PASS", 0.0), cell(EQUIV, "INCONCLUSIVE", 0.1), cell(SPEED, "NOT_RUN")]
    made = matrix(healthy("jax"), build("jax", "swap", None, survivor), faults=(("swap", 14, []),))
    _, rows = kill_table(made, "jax")
    assert rows[1] == ["F14", "swap", "SURVIVES", "0", "? 0.10", "·", "n"]
    assert summary_lines(made) == [
        "jax: 0 of 1 faults killed; 1 of 1 healthy builds pass every gate", "jax: not killed: F14",
    ]  # fmt: skip


def test_a_page_and_a_terminal_show_the_same():
    made = matrix(*FULL)
    page, lines = render(made), "\n".join(power_lines(made))
    for text in ("pytorch: 3 of 3 faults killed", "✗ 0.40", "leak=0.01", "1 of 1 healthy builds"):
        assert text in page and text in lines
    assert "incomplete" not in page
    made.complete, made.interrupted_by = False, "KeyboardInterrupt"
    assert "incomplete (KeyboardInterrupt)" in render(made)


# -- variations ----------------------------------------------------------------------------------

CHANGED = "changed_length_isolation_zero"
ROUNDED = "3e-07 is above the limit 0, but all of it is rounding: floor 1e-06, content leak ≤ 5e-07"


@pytest.mark.parametrize(
    ("said", "reason", "expected"),
    [
        ("INCONCLUSIVE", ROUNDED, True),
        ("PASS", "0 is within the limit 0", True),
        ("INCONCLUSIVE", "the noise floor 1e-07 is above the limit 0", False),
        ("FAIL", ROUNDED, False),
    ],
)
def test_a_variation_passes_and_may_be_called_rounding(said, reason, expected):
    varied = Planned("jax", variation("shape_noise"))
    cells = [cell(SAME, "PASS", 0.0), msgspec.structs.replace(cell(CHANGED, said, 3e-7), reason=reason)]
    record = judged_build(varied, cells)
    assert (record.label, record.fault, record.strength) == ("healthy, shape_noise=4e-07", None, None)
    assert record.as_expected is expected
    assert not judged_build(Planned("jax"), cells).as_expected or said == "PASS", "a plain healthy build has none"


def test_a_fault_that_is_called_rounding_only_survives():
    found = judged_build(Planned("jax", catalogue()["causal"]()), [build_cell := cell(CHANGED, "INCONCLUSIVE", 3e-7)])
    assert build_cell.verdict is Verdict.INCONCLUSIVE and found.as_expected is False


def test_a_variation_is_a_healthy_build_of_the_report():
    varied = judged_build(Planned("jax", variation("shape_noise")), [cell(SAME, "PASS", 0.0)])
    made = matrix(*both("leak", 1.0, [cell(SAME, "FAIL", 0.5)]), varied)
    assert ["", "healthy, shape_noise=4e-07", "passes"] in [row[:3] for row in kill_table(made, "jax")[1]]
