"""What the table of modes and engines takes from runs, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pytest_multiitem.adapters.base import ENGINES
from pytest_multiitem.errors import UsageError
from pytest_multiitem.reports.verified_modes import table, verified
from pytest_multiitem.results.details import RequestContract
from pytest_multiitem.results.records import GateRecord, Matrix, Place, ServerRecord, SettingRecord, Verdict
from pytest_multiitem.results.verified_modes import VerifiedMode, VerifiedModes

SAME = "same_length_isolation_zero"


def record(gate: str, verdict: Verdict = Verdict.PASS, **more: Any) -> GateRecord:
    return GateRecord(gate=gate, verdict=verdict, reason="r", relation="holds", backend="pytorch", **more)


def contract(held: tuple[str, ...] = (), broken: tuple[str, ...] = ()) -> GateRecord:
    seen = RequestContract(
        broken=dict.fromkeys(broken, "x"), held=dict.fromkeys(held, "y"), not_made={"temperature": "z"}
    )
    return record("request_contract_holds", Verdict.FAIL if broken else Verdict.PASS, details=seen)


def run(*gates: GateRecord, engine: str = "sglang", complete: bool = True, **server: Any) -> Matrix:
    server = server or {"info": {"version": "0.5.23"}}
    return Matrix(
        run_id="r", started_at_utc="2026-11-30T00:00:00Z", finished_at_utc="", complete=complete, interrupted_by=None,
        exit_status=0, command_line=[], machine={}, versions={}, benchmarks=[], tests=[], summary={},
        settings=[SettingRecord(name="engine", value=engine, origin="command line")],
        servers=[ServerRecord(label="s", url="u", owned=True, **server)], gates=[*gates],
    )  # fmt: skip


def states(matrix: Matrix) -> dict[str, bool | None]:
    return {each.mode: each.holds for each in verified(matrix)}


def test_a_mode_is_verified_by_its_gate_and_by_its_checks() -> None:
    matrix = run(record(SAME), record("setwise_agrees"), contract(held=("text", "duplicates")))
    assert states(matrix) == {"ids": True, "text": True, "setwise": True}
    assert {(each.engine, each.version) for each in verified(matrix)} == {("sglang", "0.5.23")}


def test_what_was_not_run_verifies_nothing_and_what_fails_says_so() -> None:
    matrix = run(
        record(SAME), record("rerank_agrees", Verdict.NOT_RUN), record("setwise_agrees", Verdict.FAIL),
        record("decisions_agree", Verdict.INCONCLUSIVE), contract(broken=("temperature",)),
    )  # fmt: skip
    assert states(matrix) == {"ids": True, "setwise": False, "decisions": None, "temperature": False}
    (setwise,) = (each for each in verified(matrix) if each.mode == "setwise")
    assert setwise.because == ["setwise_agrees"]


def test_a_check_that_breaks_in_a_mode_is_that_modes() -> None:
    seen = RequestContract(broken={"token log-probabilities": "null"}, held={"order": "y"}, not_made={})
    sets = record("setwise_agrees", Verdict.FAIL, details=seen)
    matrix = run(sets, contract(held=("temperature", "token log-probabilities")))
    assert states(matrix) == {"setwise": False, "temperature": True}
    (setwise,) = (each for each in verified(matrix) if each.mode == "setwise")
    assert setwise.because == ["setwise_agrees: token log-probabilities"]


def test_one_failure_among_passes_is_enough() -> None:
    again = record("equivalence_at_floor", Verdict.FAIL)
    assert states(run(record(SAME), again)) == {"ids": False}


def test_plain_gates_of_vllm_are_about_its_own_way_to_score() -> None:
    matrix = run(record(SAME), engine="vllm", packages={"vllm": "0.32.0+cpu"})
    (found,) = verified(matrix)
    assert (found.mode, found.version) == ("generative_scoring", "0.32.0+cpu")


def test_a_variant_of_a_profile_matrix_verifies_no_engine() -> None:
    assert states(run(record(SAME, place=Place(variant="fp8")))) == {}


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"complete": False}, "run r is not complete"), ({"engine": "mine"}, "run r is of the engine 'mine'")],
)
def test_a_run_that_says_too_little_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        verified(run(record(SAME), **changed))


def attached(engine: str, gate: str, *makers: str) -> list[VerifiedMode]:
    """Of a run on servers that were attached by their address, and said who made them."""
    matrix = run(record(gate), engine=engine)
    matrix.servers = [
        ServerRecord(label=maker, url="u", owned=False, info={"maker": maker, "version": "0.1"}) for maker in makers
    ]
    return verified(matrix)


def test_a_server_that_is_known_by_its_address_verifies_the_engine_that_made_it() -> None:
    (ranks,), (classifies,) = (
        attached("rerank", "rerank_agrees", "vllm"),
        attached("classify", "classification_agrees", "vllm"),
    )
    assert {(each.engine, each.version) for each in (ranks, classifies)} == {("vllm", "0.1")}
    assert (ranks.mode, classifies.mode) == ("rerank", "classification")


@pytest.mark.parametrize(
    ("makers", "version"),
    [(("infinity",), "infinity 0.1"), (("trtllm",), "trtllm 0.1"), (("vllm", "infinity"), "0.1"), ((), None)],
    ids=["no adapter", "an adapter without the mode", "two makers", "nobody says"],
)
def test_a_maker_without_an_adapter_of_the_mode_stands_before_its_version(
    makers: tuple[str, ...], version: str | None
) -> None:
    (found,) = attached("rerank", "rerank_agrees", *makers)
    assert (found.engine, found.version) == ("rerank", version)


def mode(name: str, version: str, *, holds: bool | None = True, at: str = "1") -> VerifiedMode:
    return VerifiedMode(mode=name, engine="sglang", version=version, holds=holds, because=["g"], backends=[],
                        measured_at_utc=at)  # fmt: skip


def test_the_last_run_counts_for_its_own_version_alone() -> None:
    known = VerifiedModes().renewed([mode("ids", "1"), mode("ids", "2")]).renewed([mode("ids", "2", holds=False)])
    assert [(each.version, each.holds) for each in known.modes] == [("1", True), ("2", False)]
    assert msgspec.json.decode(msgspec.json.encode(known), type=VerifiedModes) == known


def test_the_table_has_a_column_a_version_and_a_word_for_everything() -> None:
    unknown = VerifiedMode(mode="ids", engine="sglang", version="2", holds=None, because=["g", "other"], backends=[],
                           measured_at_utc="1")  # fmt: skip
    known = VerifiedModes(modes=[mode("ids", "1"), mode("temperature", "1", holds=False), unknown])
    head, rows = table(known, {("sglang", "g"): "findings.md#g"})
    versions = {"sglang": ["`sglang` 1", "`sglang` 2"]}
    assert head == ["mode", *(each for name in ENGINES.shipped() for each in versions.get(name, [f"`{name}`"]))]
    by_mode = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    only = "by command line only"
    ids, temperature = by_mode["`ids`"], by_mode["`temperature`"]
    assert (ids["`sglang` 1"], ids["`sglang` 2"]) == ("verified here", "undecided here: [`g`](findings.md#g), `other`")
    assert (ids["`embedded`"], ids["`rerank`"], ids["`trtllm`"], ids["`vllm`"]) == (only, "–", only, "–")
    assert (temperature["`sglang` 1"], temperature["`sglang` 2"]) == ("fails here: [`g`](findings.md#g)", only)


def test_what_fails_without_a_finding_is_no_table() -> None:
    known = VerifiedModes(modes=[mode("ids", "1", holds=False)])
    with pytest.raises(UsageError, match=r"'g' fails on sglang 1.*<!-- fails: sglang g -->"):
        table(known, {("vllm", "g"): "findings.md#g"})
