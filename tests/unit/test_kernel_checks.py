"""What the checks of kernels see, and what they leave alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kernel_gate import checks_of, killers

from pytest_multiitem.errors import UsageError
from pytest_multiitem.kernels import planted
from pytest_multiitem.kernels.abilities import Abilities, abilities_of
from pytest_multiitem.kernels.arrays import UNIT_ROUNDOFF, rounded
from pytest_multiitem.kernels.equivalence import single_error
from pytest_multiitem.kernels.inputs import random_inputs
from pytest_multiitem.kernels.layout import Bounds
from pytest_multiitem.kernels.look import controls, planned
from pytest_multiitem.kernels.picture import picture
from pytest_multiitem.kernels.plan import CHECKS, steps
from pytest_multiitem.kernels.records import Report
from pytest_multiitem.kernels.reference import attended
from pytest_multiitem.kernels.shapes import Shape, smaller
from pytest_multiitem.kernels.shrink import smallest
from pytest_multiitem.kernels.subject import Subject
from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.scoring.layout import packed_length
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.validation.kernel import problems

MASK = Semantics.PREFIX_FIRST_DELIM
FAULTS = {fault.name: fault for fault in planted.FAULTS}
TINY = Abilities(max_rows=80, max_items=8)


def tiny(name):
    """A fault's kernel within small limits."""
    subject = planted.subject(FAULTS[name])
    return msgspec.structs.replace(subject.can, max_rows=80, max_items=8), subject


# ------------------------------------------------------------------ faults, and who sees them


@pytest.mark.parametrize(
    ("name", "only"),
    [("soft_causal", "exact"), ("soft_items", "large"), ("nan_spill", "nonfinite")],
)
def test_a_fault_that_one_check_alone_sees(name, only):
    can, subject = tiny(name)
    assert killers(Subject(subject.name, subject.attention, can)) == {only}


def test_an_order_of_summation_that_changes_is_seen_by_repeating_the_call():
    shape = Shape(MASK, ((40, (9, 2)),))
    assert "called again" in CHECKS["repeats"](planted.subject(FAULTS["run_to_run"]), shape, "float32").reason
    assert CHECKS["equivalence"](planted.subject(FAULTS["run_to_run"]), shape, "float32") is None


def test_memory_that_a_kernel_keeps_is_seen_after_other_work():
    kept = {}

    def attention(q, k, v, layout):
        out = planted.Tiled()(q, k, v, layout)
        last = kept.get(out.shape, out)
        kept[out.shape] = out.copy()
        out[-2] = last[-2]
        return out

    subject = Subject("keeps", attention, TINY)
    found = CHECKS["repeats"](subject, Shape(MASK, ((5, (3, 1)),)), "float32")
    assert found is not None and "called after other work" in found.reason


def test_sixteen_bits_at_65_536_rows_are_seen_by_the_ladder_alone():
    subject = planted.subject(FAULTS["uint16_wrap"])
    look = CHECKS["ladder"]
    assert look(subject, Shape(MASK, ((64, (250,) * 4),), 1, 1, 16), "float32") is None
    kept = [step.shape for step in steps(subject.can) if step.check == "ladder" and 65_000 < step.shape.rows < 66_000]
    assert {shape.rows for shape in kept} >= {65_535, 65_536, 65_537, 65_836}
    wrong = look(subject, next(shape for shape in kept if shape.rows == 65_836), "float32")
    assert wrong is not None and "of 65,836 rows are wrong" in wrong.reason


@pytest.mark.parametrize("tile", [16, 48])
def test_a_right_kernel_passes_whatever_its_tiles(tile):
    assert killers(Subject("tile", planted.Tiled(tile=tile), TINY)) == set()


def test_controls_pass_and_fail():
    found = controls(CHECKS)
    assert [control.verdict.value for control in found] == ["PASS"] * 12
    assert {(control.check, control.expected) for control in found} == {
        (name, expected) for name in CHECKS for expected in ("pass", "fail")
    }


# ------------------------------------------------------------------ limits


def test_rounding_to_bfloat16_is_to_the_nearest_and_halves_to_even():
    step = 2.0**-7
    given = np.array([1, 1 + step / 2, 1 + 1.5 * step, 1 + 0.51 * step, np.nan, np.inf, -3.14159], dtype=np.float32)
    out = rounded(given, "bfloat16")
    assert out[:4].tolist() == [1, 1, 1 + 2 * step, 1 + step]
    assert np.isnan(out[4]) and np.isposinf(out[5]) and abs(out[6] + 3.14159) <= 3.2 * UNIT_ROUNDOFF["bfloat16"]


def test_the_limit_grows_with_the_keys():
    shape = Shape(MASK, ((200, (3, 40)),), 1, 1, 16)
    layout = shape.layout()
    q, k, v = random_inputs(shape, layout, "float32")
    right = attended(q, k, v, layout)
    same = right._replace(products=np.ones_like(right.products))
    limits = single_error(same, 16)[:200, 0, 0]
    assert (np.diff(limits) > 0).all() and limits[0] < 1e-4


def test_the_reference_is_dense_attention():
    shape = Shape(Semantics.QUERY_PREFIX, ((5, (3, 1, 4)), (2, (2,))), 2, 2, 16)
    layout = shape.layout()
    q, k, v = random_inputs(shape, layout, "float32")
    found = attended(q, k, v, layout).out
    for head in range(4):
        scores = q[:, head].astype(float) @ k[:, head // 2].T.astype(float) / 4
        weights = np.where(layout.mask(), np.exp(scores), 0)
        due = weights / weights.sum(axis=1, keepdims=True) @ v[:, head // 2]
        assert np.abs(found[:, head] - due)[layout.judged].max() < 1e-12


@pytest.mark.parametrize(
    ("dtype", "cap", "is_seen"),
    [
        ("float32", 8000, True),
        ("float32", 64_000, False),
        ("bfloat16", 2000, True),
        ("bfloat16", 16_000, False),
        ("float16", 4000, True),
        ("float16", 32_000, False),
    ],
)
def test_a_soft_cap_is_seen_up_to_the_one_that_the_guide_names(dtype, cap, is_seen):
    can = msgspec.structs.replace(FAULTS["soft_cap"].can, dtypes=(dtype,))
    capped = planted.Tiled(scored=lambda scores: cap * np.tanh(scores / np.float32(cap)))
    found = checks_of(Subject("capped", capped, can), ["equivalence"])["equivalence", dtype]
    assert (found.failure is not None) == is_seen, found.reason
    assert not is_seen or ", where scores are about ±256 to ±512" in found.reason


def test_queries_that_are_scaled_in_bfloat16_are_right():
    """The shift that they round is one number for all keys."""
    right = planted.Tiled(scale=lambda dim: 1)
    scaled = lambda q, k, v, layout: right(rounded(q * np.float32(q.shape[2] ** -0.5), "bfloat16"), k, v, layout)  # noqa: E731
    can = Abilities(dtypes=("bfloat16",), head_dims=(128, 64), max_rows=300)
    found = checks_of(Subject("scaled", scaled, can), ["equivalence"])["equivalence", "bfloat16"]
    assert found.verdict is Verdict.PASS, found.reason


# ------------------------------------------------------------------ the smallest shape, and its picture


def test_the_smallest_shape_and_its_picture():
    subject = planted.subject(FAULTS["place_kept"])
    look = CHECKS["exact"]
    large = Shape(MASK, ((20, (7, 33, 2, 18, 1)),), 2)
    found, finding = smallest(look, subject, large, "float32", look(subject, large, "float32"), 30)
    assert found.lengths == ((1, (1, 1)),) and (found.heads, found.kv_heads) == (1, 1)
    assert picture(subject, found, "float32", finding.row, finding.head)[1:] == [
        "  must see   sees",
        "  q|a|b|     q|a|b|",
        "q #·····     #·····",
        "| ##····     ##····",
        "a ###···     ###···",
        "|",
        "b ##··#·     ##XX#·",
        "|",
    ]


def test_a_picture_may_not_take_for_ever():
    shape = Shape(MASK, ((200, (3,)),))
    assert picture(planted.good(), shape, "float32", None, None, 0.0) == ["no picture: 205 rows took more than 0 s"]


def test_key_value_heads_are_made_fewer_one_step_at_a_time():
    subject = planted.subject(FAULTS["fourth_head"])
    shape = Shape(MASK, ((5, (3, 1, 4)),), 2, 9)
    look = CHECKS["exact"]
    found, _ = smallest(look, subject, shape, "float32", look(subject, shape, "float32"), 30)
    assert (found.heads, found.kv_heads, found.lengths) == (5, 5, ((1, (1,)),))


def test_a_missing_key_and_a_right_mask_are_drawn_as_such():
    hidden = planted.subject(FAULTS["query_hidden"])
    drawn = picture(hidden, Shape(MASK, ((2, (1,)),)), "float32", None, None)
    assert drawn[-2] == "a ####·      ##o#·"
    right = picture(planted.good(), Shape(MASK, ((2, (1,)),)), "float32", None, None)
    assert right == ["the mask is as it must be: what is wrong is the numbers"]


def test_a_large_picture_is_a_part_about_the_wrong_row():
    subject = planted.subject(FAULTS["place_kept"])
    drawn = picture(subject, Shape(MASK, ((100, (30, 2)),)), "float32", None, None)
    assert len(drawn) <= 12 and "rows " in drawn[0] and any("X" in line for line in drawn[3:])


def test_every_step_down_is_smaller():
    shape = Shape(MASK, ((9, (4, 4, 1)), (3, (2,))), 2, 2, 64)
    can = Abilities(head_dims=(16, 64), max_sequences=None)
    size = lambda s: (s.rows * s.heads * s.head_dim, s.rows)  # noqa: E731
    assert all(size(less) < size(shape) for less in smaller(shape, can))


# ------------------------------------------------------------------ what a kernel says that it can do


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtype": ["float32"]}, r"'dtype' \(did you mean 'dtypes'\?\)"),
        ({"dtypes": ["int8"]}, r"Invalid enum value 'int8' .*; expected some of: float32, bfloat16, float16$"),
        ({"semantics": ["causal"]}, "expected some of: prefix_first_delim, query_prefix$"),
        ({"dtypes": "float32"}, "Expected a list, got `str` - at `.*dtypes`; expected some of: float32"),
        ({"dtypes": []}, "expected at least one"),
        ({"head_dims": [8]}, "head_dims 8: expected 16 or more"),
        ({"groups": [0]}, "groups 0: expected whole numbers from 1"),
        ({"max_rows": 0}, "max_rows=0: expected a whole number from 1"),
        ({"semantics": ["all_delims_prefix"]}, "an ablation equals no serial scoring"),
    ],
)
def test_abilities_that_are_not_valid(given, said):
    with pytest.raises(UsageError, match=said):
        abilities_of(given, "m:f")


def test_a_kernel_for_some_numbers_of_heads_is_tried_with_these():
    def of_some(q, k, v, layout):
        assert k.shape[1] in (4, 8), k.shape
        return planted.Tiled()(q, k, v, layout)

    can = msgspec.structs.replace(TINY, kv_heads=(4, 8))
    assert {step.shape.kv_heads for step in steps(can)} == {4, 8}
    assert killers(Subject("some heads", of_some, can)) == set()
    look, shape = CHECKS["exact"], Shape(MASK, ((20, (7, 33)),), 1, 8)
    wrong = Subject("some heads", planted.subject(FAULTS["place_kept"]).attention, can)
    found, _ = smallest(look, wrong, shape, "float32", look(wrong, shape, "float32"), 10)
    assert found.kv_heads == 4


def test_what_lies_beyond_the_limits_is_left_out_and_said():
    kept, out = planned(Abilities(max_rows=50, keeps_nonfinite=False), CHECKS, 2**31)
    assert max(step.shape.rows for step in kept) <= 50
    assert "keeps_nonfinite=False" in {each.why for each in out}
    assert any("more than max_rows=50" in each.why for each in out)
    _, heavy = planned(Abilities(max_sequences=None), CHECKS, 2**31)
    assert any("GiB of arrays; --memory 2" in each.why for each in heavy)
    assert not any(step.check == "nonfinite" for step in kept)


def _planned(check, **says):
    kept, _ = planned(Abilities(**says), [check], 2**31)
    return [step.shape for step in kept]


def test_a_kernel_of_two_sequences_is_tried_with_two():
    for name in CHECKS:
        assert 2 in {len(shape.lengths) for shape in _planned(name, max_sequences=2)}, name


def test_the_limits_that_a_kernel_says_are_tried_themselves():
    shapes = _planned("ladder", max_rows=900, max_items=100, max_item_length=200, max_sequences=20)
    assert max(shape.rows for shape in shapes) == 900
    assert max(len(items) for shape in shapes for _, items in shape.lengths) == 100
    assert max(length for shape in shapes for _, items in shape.lengths for length in items) == 200
    assert max(len(shape.lengths) for shape in shapes) == 20


def test_every_border_is_tried_with_each_mask_group_dimension_and_page():
    says = {"head_dims": (16, 64, 128), "groups": (1, 2, 8), "page_sizes": (1, 16)}
    shapes = [shape for shape in _planned("ladder", **says) if shape.lengths == ((3, (64, 1, 64)),)]
    assert {shape.semantics for shape in shapes} == set(Abilities().semantics)
    assert {shape.head_dim for shape in shapes} == {16, 64, 128}
    assert {shape.group for shape in shapes} == {1, 2, 8}
    assert {shape.page_size for shape in shapes} == {1, 16}


@pytest.mark.parametrize("tile", [24, 48, 96, 192, 40])
def test_borders_of_tiles_that_are_no_power_of_two_are_tried(tile):
    """A query, an item, a prefix, and all rows of just so many and one more or less."""
    shapes = [*_planned("ladder"), *(_planned("ladder", tiles=(40,)) if tile == 40 else [])]
    about = {tile - 1, tile, tile + 1}
    assert about <= {shape.lengths[0][0] for shape in shapes}
    assert about <= {length for shape in shapes for length in shape.lengths[0][1]}
    assert about <= {shape.rows for shape in shapes}
    assert about <= {shape.layout().sequences[0].visible_prefix_length for shape in shapes if shape.rows < 1000}


def test_every_size_of_page_has_a_sequence_that_fills_it():
    rows = {shape.page_size: set() for shape in _planned("ladder", page_sizes=(8, 16, 48))}
    for shape in _planned("ladder", page_sizes=(8, 16, 48)):
        rows[shape.page_size].add(shape.rows % shape.page_size)
    assert all({0, 1, size - 1} <= found for size, found in rows.items())


def test_a_result_in_fewer_bits_that_is_said_is_judged_in_them():
    right = planted.Tiled()
    halved = Subject("halved", lambda *given: right(*given).astype(np.float16), Abilities(result_dtype="float16"))
    coarse = Subject("coarse", lambda *given: (right(*given) * 1.01).astype(np.float16), halved.can)
    shape = Shape(MASK, ((40, (9, 2)),))
    assert [CHECKS[name](halved, shape, "float32") for name in CHECKS] == [None] * len(CHECKS)
    assert "limit of float16" in CHECKS["equivalence"](coarse, shape, "float32").reason


# ------------------------------------------------------------------ multiitem kernel-check


SUBJECTS = (Path(__file__).parent / "kernel_subjects.py").read_text().splitlines()


@pytest.fixture
def kernel_check(multiitem, monkeypatch):
    """``multiitem kernel-check`` where the kernels are."""
    monkeypatch.chdir(Path(__file__).parent)
    return lambda kernel, *words: multiitem("kernel-check", f"kernel_subjects:{kernel}", *words)


def test_command_passes(kernel_check, tmp_path):
    file = tmp_path / "report.json"
    status, out, err = kernel_check("right", "--check", "exact", "--output-json", str(file))
    assert (status, err) == (0, "") and "PASS: kernel_subjects:right: 1 checks at" in out
    content = json.loads(file.read_text())
    assert content["schema_version"] == "multiitem_kernel_check_v1" and content["verdict"] == "PASS"
    assert "controls: 2 of 2 as they must be" in out and "for max_rows=80" in out


def test_command_fails_with_the_smallest_shape_and_a_picture(kernel_check, tmp_path):
    file = tmp_path / "report.json"
    status, out, _ = kernel_check("leaks", "--check", "exact", "--output-json", str(file))
    assert status == 1 and "at query=1 items=1+1 heads=1/1 dim=64" in out
    assert "b ##··#·     ##XX#·" in out
    failure = json.loads(file.read_text())["checks"][0]["failure"]
    assert failure["smallest"].startswith("query=1 items=1+1") and failure["picture"]


def test_an_exception_is_a_failure_at_the_smallest_shape(kernel_check):
    status, out, _ = kernel_check("raises", "--check", "exact")
    assert status == 1 and "items=4 heads=1/1" in out and "it raised IndexError: tile 4 of 4" in out
    line = 1 + next(at for at, text in enumerate(SUBJECTS) if "raise IndexError" in text)
    assert f"(line {line} of kernel_subjects.py)" in out


@pytest.mark.parametrize(("kernel", "said"), [("spills_nan", 1), ("raises", 0), ("right", 0)])
def test_who_may_spill_nan_is_told_how_to_say_so(kernel_check, kernel, said):
    _, out, _ = kernel_check(kernel, "--check", "exact", "--check", "nonfinite")
    assert out.count("keeps_nonfinite=False)") == said


def test_checks_that_fail_for_one_reason_say_it_once(kernel_check):
    _, out, _ = kernel_check("other_shape", "--check", "exact", "--check", "repeats")
    assert "exact (float32), repeats (float32) FAIL at query=1 items=1 " in out
    assert out.count("expected that of q") == 1


def test_what_a_library_raises_is_said_of_the_line_that_calls_it():
    def attention(q, k, v, layout):
        return np.stack([q, k[:1]])

    found = checks_of(Subject("stacks", attention, TINY), ["exact"])["exact", "float32"]
    line = attention.__code__.co_firstlineno + 1
    assert found.failure is not None and found.failure.reason.endswith(f"(line {line} of {Path(__file__).name})")


@pytest.mark.parametrize(("written", "said"), [("k", "the keys"), ("v", "the values"), ("q", None)])
def test_keys_and_values_must_be_left_as_they_were(written, said):
    """A result in the place of the queries is nobody's loss."""

    def attention(q, k, v, layout):
        out = planted.Tiled()(q, k, v, layout)
        {"k": k, "v": v, "q": q}[written][0, 0, 0] += 1
        return out

    found = checks_of(Subject(written, attention, TINY), ["repeats"])["repeats", "float32"]
    assert (found.failure is None) == (said is None)
    assert said is None or f"it overwrites {said} that it is given" in found.reason


def test_a_result_of_another_shape_is_a_failure(kernel_check):
    status, out, _ = kernel_check("other_shape", "--check", "repeats")
    assert status == 1 and "expected that of q" in out and "no picture" not in out


@pytest.mark.parametrize(("says", "seen"), [({}, "expected that of q, float16"), ({"result_dtype": "float32"}, None)])
def test_a_result_has_the_type_of_q_or_the_one_that_the_kernel_says(says, seen):
    can = msgspec.structs.replace(FAULTS["widened_result"].can, max_rows=40, **says)
    found = checks_of(Subject("wide", FAULTS["widened_result"].make(), can), ["exact"])["exact", "float16"]
    assert (found.verdict is Verdict.PASS) == (seen is None), found.reason
    assert seen is None or f"it returned an array of float32, {seen}" in found.reason


def test_a_kernel_that_ends_its_process_fails_and_the_other_checks_go_on(kernel_check):
    status, out, _ = kernel_check("dies", "--check", "exact", "--check", "repeats")
    assert status == 1
    assert out.count("was ended by SIGABRT") == 2 and "repeats (float32) FAIL at query=" in out


def test_the_smallest_shape_at_which_a_kernel_ends_its_process_is_shown(kernel_check, tmp_path):
    """It ends it where there are more than 15 rows, which no smaller shape has; the first one tried has 16 or more."""
    file = tmp_path / "report.json"
    kernel_check("dies", "--check", "exact", "--output-json", str(file))
    check = msgspec.json.decode(file.read_bytes(), type=Report).checks[0]
    assert check.at.startswith("query=5 items=") and check.verdict is Verdict.FAIL
    found = re.match(r"at query=(\d+) items=([\d+×]+) heads=1/1 dim=64 ", check.reason)
    assert found, check.reason
    items = [part.split("×") for part in found[2].split("+")]
    lengths = [int(each[-1]) for each in items for _ in range(int(each[0]) if len(each) > 1 else 1)]
    assert packed_length(int(found[1]), lengths) == 16


def test_a_kernel_that_does_not_answer_is_inconclusive(kernel_check):
    status, out, _ = kernel_check("hangs", "--check", "repeats", "--kernel-timeout", "2")
    assert status == 3 and "no answer within 2 s; give it more time: --kernel-timeout SECONDS" in out


def test_an_interrupted_check_says_where_it_was(tmp_path):
    """Else the shape at which a kernel hangs, and all that was checked before, is lost."""
    here, mark = Path(__file__).parent, tmp_path / "began"
    words = ["kernel-check", "kernel_subjects:hangs_later", "--check", "exact", "--check", "equivalence"]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest_multiitem", *words],
        cwd=here,
        env={**os.environ, "BEGAN": str(mark)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline and command.poll() is None:
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=60)
    assert command.returncode == 130
    assert re.search(
        r"interrupted in equivalence \(float32\) at query=.*; checked before: exact \(float32\) PASS$", err.strip()
    )


def test_a_kernel_that_hangs_where_it_is_made_smaller_fails_as_it_did_before(kernel_check, tmp_path):
    file = tmp_path / "report.json"
    words = ("--check", "repeats", "--check", "exact", "--kernel-timeout", "2", "--output-json", str(file))
    status, out, _ = kernel_check("hangs_where_it_is_small", *words)
    assert status == 1 and "exact (float32) FAIL at query=5 items=3+1+4 heads=4/2" in out
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    assert problems(report) == []
    assert {check.check for check in report.checks} == {"exact", "repeats"}


def test_pages_that_a_kernel_claims_and_does_not_read_are_a_failure(kernel_check):
    status, out, _ = kernel_check("says_pages", "--check", "exact")
    assert status == 1 and "page=4" in out and "has not asked layout.pages() where the rows lie" in out


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("needs_a_device", "needs a CUDA device"),
        ("needs_a_package", "No module named 'no_such_package'"),
        ("finds_no_gpu", "the kernel needs a GPU, and there is none: RuntimeError: 0 active drivers"),
        ("on_an_absent_device", "the kernel needs torch's device 'cuda:99', which is not here: "),
    ],
)
def test_what_cannot_run_here_is_not_run(kernel_check, kernel, said):
    status, out, _ = kernel_check(kernel)
    assert status == 3 and f"NOT_RUN: kernel_subjects:{kernel}: " in out and said in out


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("no_kernel", "returned 7; expected attention"),
        ("is_the_kernel", "takes q, k, v, layout; expected a function without arguments that returns the kernel"),
        ("unknown_ability", "did you mean 'dtypes'"),
        ("small_heads", "expected 16 or more"),
        ("rigth", "did you mean 'right'"),
        ("on_a_device_that_is_none", "says device 'cudb': expected the name of one of torch's, such as cpu or cuda"),
        ("numpy_on_a_device", "says device 'cuda' and arrays 'numpy': a device is torch's alone"),
    ],
)
def test_command_is_used_wrongly(kernel_check, kernel, said):
    status, _, err = kernel_check(kernel)
    assert status == 2 and said in re.sub(r"\s+", " ", err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check", "exat"], "'exat' is not known (did you mean 'exact'?)"),
        (["--memory", "0"], "--memory 0 is not valid"),
        (["--kernel-timeout", "-1"], "--kernel-timeout -1 is not valid"),
    ],
)
def test_options_that_are_not_valid(kernel_check, words, said):
    status, _, err = kernel_check("right", *words)
    assert status == 2 and said in re.sub(r"\s+", " ", err)


def test_a_report_below_a_file_is_refused(kernel_check, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = kernel_check("right", "--output-json", str(tmp_path / "file" / "report.json"))
    assert status == 2 and err.strip().endswith("file is no directory")


def test_a_timeout_may_be_of_any_size(kernel_check):
    assert kernel_check("right", "--check", "repeats", "--kernel-timeout", "1e30")[0] == 0


def test_a_check_without_a_shape_within_the_limits_is_not_run(kernel_check):
    status, out, _ = kernel_check("of_five_rows", "--check", "exact")
    assert status == 3 and "exact (float32) NOT_RUN none of its shapes lies within the limits" in out


def test_a_report_whose_verdicts_do_not_follow_is_not_valid(kernel_check, tmp_path):
    file = tmp_path / "report.json"
    kernel_check("leaks", "--check", "exact", "--check", "repeats", "--output-json", str(file))
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    assert problems(report) == []
    changed = msgspec.structs.replace(report, verdict=Verdict.PASS)
    assert problems(changed) == ["verdict is PASS; the checks give FAIL"]
    report.checks[0].verdict = Verdict.PASS
    assert problems(report) == ["exact (float32) is PASS; what was seen gives FAIL"]
    report.checks[0].verdict = Verdict.FAIL
    report.controls = [control for control in report.controls if control.expected == "pass"]
    assert [text for text in problems(report) if "no control that has to fail" in text]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_key_among_a_thousand_is_counted_in_every_type(dtype):
    """The type with the fewest bits is counted in classes of their own calls."""

    def one_more(layout):
        first, prefix_end, own_start = layout.bounds
        last = np.arange(layout.rows) == layout.rows - 2
        return Bounds(first, prefix_end, own_start - last)

    shape = Shape(MASK, ((1000, (40, 3)),), 1, 1)
    right, wrong = (Subject("counted", planted.Tiled(bounds=each), TINY) for each in (lambda x: x.bounds, one_more))
    assert CHECKS["ladder"](right, shape, dtype) is None
    found = CHECKS["ladder"](wrong, shape, dtype)
    assert found is not None and "token 3 of item 2 (row 1,044" in found.reason and "1 of 1,046 rows" in found.reason


@pytest.mark.parametrize(("keys", "is_seen"), [(2100, True), (100, False)])
def test_a_sum_in_bfloat16_is_seen_where_it_has_many_parts(keys, is_seen):
    """With two tiles it rounds as often as a good kernel may, so nothing is wrong with it."""
    found = CHECKS["equivalence"](
        planted.subject(FAULTS["bfloat16_sums"]), Shape(MASK, ((keys, (3,)),), 1, 1, 16), "bfloat16"
    )
    assert (found is not None) == is_seen


@pytest.mark.parametrize(
    ("arrays", "expected"), [("numpy", "numpy.ndarray"), ("torch", "torch.Tensor"), ("jax", "jax.Array")]
)
@pytest.mark.parametrize(("returned", "said"), [(None, "NoneType"), ([[0.5]], "list")])
def test_what_is_no_array_of_the_kernels_library_is_named(arrays, expected, returned, said):
    pytest.importorskip(arrays)
    can = msgspec.structs.replace(TINY, arrays=arrays)
    report = checks_of(Subject("other", lambda q, k, v, layout: returned, can), ["exact"])["exact", "float32"]
    assert report.verdict is Verdict.FAIL
    assert f"it returned {said}, expected {expected}" in report.failure.reason, report.failure.reason
