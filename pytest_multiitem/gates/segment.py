"""The segment path on the target accelerator: it must compile there and answer.

Two kinds of evidence. A real run: the server's device is an accelerator, and the segment path answered there. The
compile gate (`compile_gates.tpu`): the kernel lowers and compiles for TPUs on a machine that has none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.compile_gates.gpu.gate import Wanted as GpuWanted
from pytest_multiitem.compile_gates.records import GpuReport, Report
from pytest_multiitem.compile_gates.tpu.gate import Wanted, check_kernel
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.record import blank_record, record_of
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.target import Target

_ACCELERATORS = ("cuda", "tpu", "TPU")
#: What the embedded engine's TPU kernel is compiled for: its default, a layer of Qwen3-0.6B at the canonical workload,
#: in both precisions, and the generated checkpoint, whose heads are narrower than a vector register.
_TPU_CASES: tuple[dict[str, int | str], ...] = (
    {},
    {"dtype": "float32"},
    {"heads": 4, "kv_heads": 2, "head_dim": 32, "rows": 512, "prefix": 256, "slot_width": 32, "dtype": "float32"},
)


def measure(subject: Subject) -> GateRecord:
    """A real run where the server's device is an accelerator, and the compile gate on its kernel, where it is known.

    Without either, the segment path still has to run and to attest itself; the gate then stays NOT_RUN, because
    nothing was compiled for an accelerator. Raises UsageError for a kernel that does not exist.
    """
    segment, settings = subject.multi, subject.settings
    with segment.attest() as attestation:
        segment.score(subject.cases(segment)[0])
    embedded = segment.owned and segment.engine == EMBEDDED.name
    is_known = embedded or settings.origins["tpu_kernel"] != "default"
    if segment.profile.backend == "pytorch" or not is_known:
        return judge(segment, attestation, None)
    cases = _TPU_CASES if settings.origins["tpu_kernel"] == "default" else ()
    report = check_kernel(wanted(settings, settings.tpu_kernel, cases))
    subject.keep(report)
    return judge(segment, attestation, report)


def wanted(settings: Settings, kernel: str, cases: Sequence[Mapping[str, Any]] = ()) -> Wanted:
    """What a run's settings ask for; modules are looked for where this process finds them."""
    return Wanted(
        kernel=kernel,
        cases=tuple(dict(case) for case in cases) or ({},),
        chips=settings.tpu_chips,
        tier=settings.tpu_tier,
        timeout=settings.tpu_timeout,
        libtpu=settings.tpu_libtpu,
        path=tuple(sys.path),
    )


def wanted_of_gpus(settings: Settings, kernel: str, cases: Sequence[Mapping[str, Any]] = ()) -> GpuWanted:
    """The same of a Triton kernel."""
    return GpuWanted(
        kernel=kernel,
        cases=tuple(dict(case) for case in cases) or ({},),
        chips=settings.gpu_chips,
        tier=settings.gpu_tier,
        timeout=settings.gpu_timeout,
        triton=settings.gpu_triton,
        spills=settings.gpu_spills,
        path=tuple(sys.path),
    )


def judge(target: Target, attestation: Attestation, report: Report | None) -> GateRecord:
    """The verdict on a segment server that has answered; ``report``: of the compile gate, None where it has no kernel
    of this server.

    A kernel that does not compile is a FAIL, wherever the server runs. Else a real run on an accelerator is a PASS;
    without one the compile gate decides, and it alone passes only where the kernel was compiled, or lowering alone was
    asked for. ``details.evidence`` names what the verdict rests on.
    """
    device = str(target.info.get("device", "unknown"))
    ran = device.startswith(_ACCELERATORS)
    answered = f"on {device} the segment path answered (executed: {attestation.mask})"
    verdict = "" if report is None or report.verdict is Verdict.PASS else f" {report.verdict.value}"
    beside = "" if report is None else f"; compile gate{verdict}: {report.reason}"
    holds = f"real run: {answered}{beside}" if ran else None
    record = record_of(SEGMENT_LOWERS, Measurement(target, None, attestation=attestation, holds=holds))
    if not ran and report is None:
        record.verdict = Verdict.NOT_RUN
        record.reason = (
            f"no accelerator: the server runs on {device}; there the segment path answered "
            f"(executed: {attestation.mask}), which says nothing about a TPU"
        )
    elif not ran and report is not None:
        record.verdict = report.verdict
        record.reason = f"compile gate, no real run: {report.reason}; {answered}"
    if attestation.problem is not None:
        record.verdict, record.reason = Verdict.FAIL, attestation.problem
    elif report is not None and report.verdict is Verdict.FAIL:
        record.verdict = Verdict.FAIL
        record.reason = f"compile gate: {report.reason}; {answered}"
    kinds = (("real run", ran), ("compile gate", report is not None and report.verdict is not Verdict.NOT_RUN))
    record.details = details.SegmentPath(
        device=device,
        executed=attestation.mask,
        evidence=[kind for kind, is_there in kinds if is_there],
        tpu=msgspec.to_builtins(report),
    )
    return record


def judge_kernel(gate: Gate, report: Report) -> GateRecord:
    """The verdict of the compile gate alone, on a kernel that no server runs."""
    record = blank_record(gate, report.verdict, f"compile gate, no real run: {report.reason}")
    evidence = ["compile gate"] if report.verdict is not Verdict.NOT_RUN else []
    which = "gpu" if isinstance(report, GpuReport) else "tpu"
    record.details = details.SegmentPath(evidence=evidence, **{which: msgspec.to_builtins(report)})
    record.seconds = report.seconds
    return record


SEGMENT_LOWERS = Gate(
    "segment_lowers",
    "the segment path compiles for the target accelerator and answers",
    rests_on="an accelerator, or libtpu and control kernels that behave",
    measure=measure,
    needs=("multi",),
    no_column="it judges a compiler for an accelerator, not scores; its faults are broken kernels",
    order=17,
)
GATES = (SEGMENT_LOWERS,)
