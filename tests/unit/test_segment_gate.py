"""`segment_lowers`: what a real run and the compile gate say together, and that the record tells which it was."""

from __future__ import annotations

import msgspec
import pytest
from sample_matrix import matrix

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.compile_gates.records import Check, Memory, Report, TierVerdict
from pytest_multiitem.gates.segment import SEGMENT_LOWERS, judge, judge_kernel
from pytest_multiitem.reports.compile_gates import checks_table, report_lines
from pytest_multiitem.reports.formats import markdown
from pytest_multiitem.reports.summary import lines
from pytest_multiitem.results.details import SegmentPath
from pytest_multiitem.results.records import Verdict


class Server:
    """As much of a target as a record tells."""

    engine = model = dtype = "x"

    def __init__(self, device):
        from pytest_multiitem.adapters.base import Profile

        self.info = {"device": device}
        self.profile = Profile("multi", "jax", "segment", 0)


SEGMENT = Attestation("segment")


def report(verdict=Verdict.PASS, reason="compiled for v6e"):
    memory = Memory(argument=3 * 2**20, output=2**20, temp=2**19, alias=0, code=9)
    common = {"chip": "v6e", "tier": "compile"}
    return Report(
        kernel="kernels:case",
        chips=["v6e"],
        verdict=verdict,
        reason=reason,
        tiers=[TierVerdict(tier="compile", verdict=verdict, reason=reason)],
        checks=[
            Check(role="control", name="good", verdict=Verdict.PASS, reason="", **common),
            Check(
                role="kernel", name="rows=8", verdict=verdict, reason=reason, seconds=1.25, memory=memory,
                error="all of it", **common,
            ),
        ],
        versions={"jax": "1.2"},
        seconds=2.5,
    )  # fmt: skip


@pytest.mark.parametrize("device", ["tpu:0", "TPU v6 lite", "cuda:0"])
def test_a_real_run_is_a_pass(device: str) -> None:
    record = judge(Server(device), SEGMENT, None)
    assert record.verdict is Verdict.PASS
    assert record.reason == f"real run: on {device} the segment path answered (executed: segment)"
    assert record.details == SegmentPath(device=device, executed="segment", evidence=["real run"])
    assert (record.engine, record.backend, record.mask_attested) == ("x", "jax", "segment")


def test_both_are_told() -> None:
    record = judge(Server("tpu:0"), SEGMENT, report())
    assert record.verdict is Verdict.PASS
    assert record.reason.startswith("real run: on tpu:0") and record.reason.endswith("; compile gate: compiled for v6e")
    assert record.details.evidence == ["real run", "compile gate"]


@pytest.mark.parametrize("verdict", [Verdict.NOT_RUN, Verdict.INCONCLUSIVE])
def test_a_real_run_stands_beside_a_compile_gate_that_cannot_tell(verdict: Verdict) -> None:
    record = judge(Server("tpu:0"), SEGMENT, report(verdict, "why"))
    assert record.verdict is Verdict.PASS and record.reason.endswith(f"; compile gate {verdict.value}: why")
    assert ("compile gate" in record.details.evidence) is (verdict is Verdict.INCONCLUSIVE)


def test_a_kernel_that_does_not_compile_fails_in_spite_of_a_real_run() -> None:
    record = judge(Server("tpu:0"), SEGMENT, report(Verdict.FAIL, "v5e: too large"))
    assert record.verdict is Verdict.FAIL and record.reason.startswith("compile gate: v5e: too large; on tpu:0 the")


@pytest.mark.parametrize("verdict", list(Verdict))
def test_without_an_accelerator_the_compile_gate_decides(verdict: Verdict) -> None:
    record = judge(Server("cpu"), SEGMENT, report(verdict, "so it is"))
    assert record.verdict is verdict and "compile gate" in record.reason and "so it is" in record.reason
    assert "on cpu the segment path answered (executed: segment)" in record.reason
    assert record.details.evidence == ([] if verdict is Verdict.NOT_RUN else ["compile gate"])
    assert record.details.tpu["checks"][1]["error"] == "all of it"
    assert record.backend == "jax"


def test_without_either_nothing_was_compiled() -> None:
    record = judge(Server("cpu"), SEGMENT, None)
    assert record.verdict is Verdict.NOT_RUN and record.details.evidence == []
    assert record.reason.startswith("no accelerator: the server runs on cpu; there the segment path answered")


@pytest.mark.parametrize("device", ["cpu", "tpu:0"])
@pytest.mark.parametrize("found", [None, report(), report(Verdict.NOT_RUN, "no libtpu"), report(Verdict.FAIL, "no")])
def test_another_mask_than_the_requested_one_is_a_fail(device: str, found: Report | None) -> None:
    record = judge(Server(device), Attestation("dense", problem="dense ran, segment was asked for"), found)
    assert (record.verdict, record.reason) == (Verdict.FAIL, "dense ran, segment was asked for")


def test_a_kernel_without_a_server() -> None:
    record = judge_kernel(SEGMENT_LOWERS, report())
    assert record.verdict is Verdict.PASS and record.reason == "compile gate, no real run: compiled for v6e"
    assert record.details.evidence == ["compile gate"] and record.seconds == 2.5
    assert judge_kernel(SEGMENT_LOWERS, report(Verdict.NOT_RUN, "why")).details.evidence == []


def test_reports_show_every_kernel_and_its_memory(tmp_path) -> None:
    record = judge(Server("cpu"), SEGMENT, report())
    record.details = msgspec.json.decode(msgspec.json.encode(record.details), type=SegmentPath)
    run = matrix([record])
    row = ["case rows=8", "compile", "v6e", "PASS", "1.25", "3.00 MiB", "1.00 MiB", "0.50 MiB"]
    assert checks_table(run)[1] == [row]
    assert "## TPU compile gate" in markdown.render(run) and "| case rows=8 | compile | v6e |" in markdown.render(run)
    assert any(text.startswith("case rows=8   compile   v6e") for text, _ in lines(run, []))


def test_a_report_for_the_terminal() -> None:
    said = report_lines(report(Verdict.FAIL, "v6e: too large"))
    assert said[0] == "kernels:case for v6e; jax 1.2; 2.5 s"
    assert said[-3:] == ["controls: 1 PASS", "compile FAIL: v6e: too large", "FAIL: kernels:case"]
    wrong = report(Verdict.INCONCLUSIVE, "control good: no")
    wrong.checks[0].verdict, wrong.checks[0].reason = Verdict.INCONCLUSIVE, "it did not pass"
    assert "controls: 1 INCONCLUSIVE; good (compile, v6e): it did not pass" in report_lines(wrong)
    assert report_lines(report())[-1] == "PASS: kernels:case: compiled for v6e"
