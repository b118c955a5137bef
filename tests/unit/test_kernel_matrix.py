"""The kill matrix of kernels: every planted fault is seen by the check that claims it, every right kernel passes."""

from __future__ import annotations

import importlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from kernel_gate import checks_of, killers

from pytest_multiitem.engine import kernel_cases
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.kernels import planted, ready
from pytest_multiitem.kernels.gate import Wanted, check_kernel
from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.kernels.plan import CHECKS, steps
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.kernels.subject import Subject
from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.scoring.semantics import Semantics

MASK = Semantics.PREFIX_FIRST_DELIM
#: Faults that one check alone sees.
ALONE = {
    "soft_causal", "soft_items", "nan_spill", "bfloat16_sums", "bfloat16_products", "beyond_1024", "item_33",
    "uint16_wrap", "fourth_head", "scale_of_64", "alike", "full_page", "item_of_32",
    "item_of_48", "prefix_of_192", "rows_of_95", "at_tile", "full_sequence", "starts_wrap", "items_wrap",
    "stale_pages", "head_33", "one_kv_head", "soft_cap", "soft_cap_bfloat16", "item_81", "one_token", "stale_mask",
    "grouped_prefix", "half_border", "run_to_run", "overwrites_values",
}  # fmt: skip
RIGHT = [
    (ready, "numpy_tiled"),
    (ready, "torch_dense"),
    (ready, "torch_sdpa"),
    (ready, "flex_attention"),
    (ready, "ragged_paged_attention"),
    (kernel_cases, "segment_torch"),
    (kernel_cases, "segment_pallas"),
]


def made(module, name):
    """A case's kernel; NOT_RUN where what it needs is not there."""
    try:
        return getattr(module, name)()
    except EngineUnavailable as error:
        pytest.skip(f"NOT_RUN: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("fault", planted.FAULTS, ids=lambda fault: fault.name)
def test_every_fault_is_seen_by_the_check_that_claims_it(fault):
    seen = killers(planted.subject(fault))
    assert fault.claimed in seen
    if fault.name in ALONE:
        assert seen == {fault.claimed}


def test_there_are_enough_faults_and_each_check_is_claimed():
    names = [fault.name for fault in planted.FAULTS]
    assert len(names) == len(set(names)) >= 12 and set(names) > ALONE
    assert {fault.claimed for fault in planted.FAULTS} == set(CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), RIGHT, ids=[name for _, name in RIGHT])
def test_right_kernels_of_different_make_pass(module, name):
    kernel, can = made(module, name)
    # Larger ones are for the command: make kernels.
    within = msgspec.structs.replace(can, max_rows=min(can.max_rows or 2400, 2400))
    found = checks_of(Subject(name, kernel, within))
    assert {key: check.reason for key, check in found.items() if check.verdict != "PASS"} == {}
    claimed = {check for check in CHECKS if check != "nonfinite" or can.keeps_nonfinite}
    assert {check for check, _ in found} == claimed


@pytest.mark.slow
def test_our_triton_kernel_passes(monkeypatch):
    """In a process of its own: whether Triton interprets is decided when it is imported, and torch may have done so."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # its products are small: more threads take more time
    report = check_kernel(Wanted("pytest_multiitem.engine.kernel_cases:segment_triton"))
    if report.verdict is Verdict.NOT_RUN and not report.checks:
        pytest.skip(f"NOT_RUN: {report.reason}")
    assert report.verdict is Verdict.PASS, report.reason
    assert {check.check for check in report.checks} == set(CHECKS)


@pytest.mark.parametrize("name", ["torch_dense", "torch_sdpa"])
def test_kernels_that_do_not_claim_to_keep_nan_do_not(name):
    kernel, can = made(ready, name)
    found = CHECKS["nonfinite"](Subject(name, kernel, can), Shape(MASK, ((5, (3, 1)),)), "float32")
    assert found is not None and "hidden from it is NaN" in found.reason


@pytest.mark.slow
def test_an_item_over_32_767_tokens_whose_places_are_held_in_15_bits_is_seen_by_the_ladder_alone():
    kernel, can = made(kernel_cases, "segment_torch")

    def wrapped(q, k, v, layout):
        """Rows from 32,768 of an item on have a negative place, and see themselves alone."""
        out = kernel(q, k, v, layout)
        place = np.arange(layout.rows) - layout.bounds.own_start
        late = np.flatnonzero(place >= 2**15)
        if len(late):
            out[late] = v[late].repeat_interleave(q.shape[1] // v.shape[1], 1)
        return out

    subject = Subject("wrapped", wrapped, can)
    ladder = [step for step in steps(can) if step.check == "ladder"]
    longest = {max(step.shape.lengths[0][1], default=0): step for step in ladder}
    assert {2**15 + 1, 2**16 + 1} <= set(longest)
    look = CHECKS["ladder"]
    short = replace(longest[2**15 + 1].shape, lengths=((3, (2, 2000, 2)),))
    assert look(subject, short, "float32") is None
    found = look(subject, longest[2**15 + 1].shape, "float32")
    assert found is not None and "of item 2" in found.reason


def test_what_has_no_gpu_is_not_run():
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        pytest.skip("NOT_RUN: there is a GPU")
    with pytest.raises(EngineUnavailable, match="FlashInfer"):
        ready.flashinfer_paged()


def test_a_jax_that_cannot_interpret_a_kernel_is_not_run(monkeypatch):
    tpu = pytest.importorskip("jax.experimental.pallas.tpu")
    pytest.importorskip("jax.experimental.pallas.ops.tpu.ragged_paged_attention")
    monkeypatch.delattr(tpu, "force_tpu_interpret_mode")
    with pytest.raises(EngineUnavailable, match="force_tpu_interpret_mode"):
        ready.ragged_paged_attention()


@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("semantics", ready.Abilities().semantics)
def test_items_as_sequences_of_their_own_see_what_they_must(semantics, size):
    """Of an item's keys none is missing and none is another's; whole pages of a prefix are shared, not copied."""
    layout = Layout(semantics, ((5, (3, 0, 4)), (16, (1, 20)), (33, ())), page_size=size)
    pages, rows, tables, keys, queries = ready._sequences(layout)
    held = np.full(pages.total * size, -1)
    held[pages.slots] = rows
    assert len(set(pages.slots.tolist())) == len(rows)
    starts = np.cumsum([0, *queries])
    assert starts[-1] == layout.rows
    for at, table in enumerate(tables):
        mine = range(starts[at], starts[at + 1])
        slots = (table[:, None].astype(np.int64) * size + np.arange(size)).ravel()[: keys[at]]
        assert len(table) == -(-keys[at] // size)
        for place, row in enumerate(mine, start=keys[at] - len(mine)):
            seen = np.flatnonzero(layout.mask()[row])
            if layout.judged[row]:
                np.testing.assert_array_equal(held[slots[: place + 1]], seen)
    copies = len(rows) - layout.rows
    left = [each.visible_prefix_length % size * each.num_items for each in layout.sequences]
    assert copies == sum(left)
