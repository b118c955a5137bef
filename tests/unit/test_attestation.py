"""What a server says it executed: counters before and after, and what is said where they differ from what was asked."""

import pytest

from pytest_multiitem.adapters.attestation import Attestation, Executed, contradictions


def counters(dense=0, segment=0, items=None, extended=0, serial=0):
    return executed({"dense": dense, "segment": segment}, items or {"dense": 0, "segment": 0}, extended, serial)


def executed(sequences, items, extended, serial):
    read = {
        "packed_sequences": sequences,
        "packed_items": items,
        "prefill_extend": {"items": extended},
        "serial_sequences": serial,
    }
    return Executed.read({"executed": read})


def between(before, after, wanted=("dense",)):
    found = Attestation()
    after.since(before, found, set(wanted))
    return found


def test_only_what_ran_in_between_counts():
    before = counters(dense=5, items={"dense": 40, "segment": 7}, serial=3, extended=2)
    after = counters(dense=7, items={"dense": 46, "segment": 7}, serial=3, extended=2)
    found = between(before, after)
    assert (found.mask, found.problem) == ("dense", None)
    assert (found.packed_sequences, found.packed_items, found.items_per_sequence) == (2, 6, 3.0)


def test_a_mask_that_no_request_had_run_before_is_counted_from_zero():
    found = between(executed({}, {}, 0, 0), executed({"dense": 1}, {"dense": 4}, 0, 0))
    assert (found.mask, found.packed_sequences, found.packed_items) == ("dense", 1, 4)


def test_everything_that_ran_is_named():
    found = between(counters(), counters(dense=1, segment=1, extended=1, serial=1), wanted=("dense", "segment"))
    assert found.mask == "dense+segment+prefill+extend+serial"
    assert found.problem == f"dense or segment was requested, but the server executed {found.mask}"


def test_nothing_that_ran_is_a_problem():
    found = between(counters(dense=3), counters(dense=3))
    assert found.mask == "none" and found.items_per_sequence is None
    assert found.problem == "dense was requested, but the server executed none"


@pytest.mark.parametrize("mask", ["dense", "segment"])
def test_either_mask_is_what_auto_asked_for(mask):
    assert between(counters(), counters(**{mask: 1}), wanted=("dense", "segment")).problem is None


GOOD = {
    "packed_sequences": {"dense": 1},
    "packed_items": {"dense": 3},
    "prefill_extend": {"items": 5},
    "serial_sequences": 7,
}


def test_counters_are_read_by_their_names():
    counted = Executed.read({"executed": GOOD})
    assert (counted.packed_sequences, counted.packed_items) == ({"dense": 1}, {"dense": 3})
    assert (counted.prefill_extend.items, counted.serial_sequences) == (5, 7)


@pytest.mark.parametrize("name", GOOD)
def test_counters_that_are_incomplete_attest_nothing(name):
    assert Executed.read({"executed": {key: value for key, value in GOOD.items() if key != name}}) is None
    assert Executed.read({"executed": GOOD | {name: None}}) is None


@pytest.mark.parametrize("info", [None, {}, {"executed": None}, {"executed": [1]}, {"executed": "all"}])
def test_a_server_without_counters_attests_nothing(info):
    assert Executed.read(info) is None


def test_all_problems_of_joined_blocks_are_named_once():
    parts = [Attestation("dense", problem=problem) for problem in ("one", "two", "one", None)]
    assert Attestation.joined(parts).problem == "one; two"


@pytest.mark.parametrize(("told", "asked"), [("torch.bfloat16", "bfloat16"), ("jnp.bfloat16", "BFloat16")])
def test_a_type_is_the_same_by_any_librarys_name(told, asked):
    assert contradictions({"dtype": told}, {"dtype": asked}) == []
    assert contradictions({"dtype": told}, {"dtype": "float32"}) == [
        f"dtype was set to float32, but the server says {told}"
    ]


def test_every_contradiction_is_told_in_the_order_of_names():
    told = contradictions(
        {"dtype": "float16", "attention_backend": "fa"}, {"dtype": "float32", "attention_backend": "x"}
    )
    assert [text.split()[0] for text in told] == ["attention_backend", "dtype"]
