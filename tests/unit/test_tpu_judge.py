"""From observations to verdicts: whose failure it is, what controls decide, what a PASS says."""

from __future__ import annotations

import signal

import pytest

from pytest_multiitem.children.process import exit_words, last_words
from pytest_multiitem.compile_gates.classify import Failure, cause, shortened
from pytest_multiitem.compile_gates.judge import Observed, Step, judge, overall, tier_verdicts
from pytest_multiitem.results.records import Verdict

FINE = Observed(result={"kernels": 1, "memory": None}, seconds=0.5)
COMPILED = Observed(
    result={"kernels": 1, "memory": {"argument": 1, "output": 2, "temp": 3, "alias": 4, "code": 5}}, seconds=1.5
)


def failure(stage="compile", kind="MosaicError", message="INTERNAL: no", bases=("RuntimeError",), **more) -> Failure:
    return Failure(stage=stage, kind=kind, message=message, bases=[kind, *bases, "Exception"], trace="trace", **more)


def refused(stage="compile", **more) -> Observed:
    return Observed(failure=failure(stage, **more))


def steps(tier="compile", chip="v6e"):
    return [
        Step(tier, chip, "good", control="good"),
        Step(tier, chip, "bad", control="bad", must_fail=frozenset({"compile"})),
        Step(tier, chip, "rows=8"),
    ]


def verdicts(*observed, tier="compile", chip="v6e"):
    return judge(zip(steps(tier, chip), observed, strict=True))


# ------------------------------------------------------------------ whose failure


@pytest.mark.parametrize(
    "found",
    [
        failure("jax", "ModuleNotFoundError", "No module named 'jax'", ("ImportError",)),
        failure("jax", "TypeError", "anything at all"),
        failure("libtpu", "ImportError", "libtpu is not installed"),
        failure("topology", "JaxRuntimeError", "anything at all"),
        failure("module", "ModuleNotFoundError", "No module named 'torch'", ("ImportError",)),
        failure("compile", "MemoryError", ""),
        failure("lower", "ValueError", "Unsupported TPU device kind: cpu"),
        failure("compile", "JaxRuntimeError", "ABORTED: Internal error when accessing libtpu multi-process Lockfile"),
        failure("compile", "JaxRuntimeError", "UNKNOWN: The TPU is already in use by process 7"),
        failure("module", "AttributeError", "no CompilerParams", owner="jax.experimental.pallas.tpu"),
        failure("lower", "AttributeError", "no attribute 'x'", owner="builtins.NoneType", raised_in="jax._src.core"),
    ],
    ids=lambda found: f"{found.stage} {found.kind}",
)
def test_trouble_of_the_environment(found: Failure) -> None:
    assert cause(found) == "environment"


@pytest.mark.parametrize(
    "found",
    [
        failure("compile", "MosaicError", "INTERNAL: Mosaic failed to compile TPU kernel"),
        failure("compile", "JaxRuntimeError", "RESOURCE_EXHAUSTED: vmem"),
        failure("lower", "NotImplementedError", "Cannot do int indexing on TPU"),
        failure("trace", "TypeError", "add got incompatible shapes"),
        failure("case", "ValueError", "heads (3) must be a multiple of 8"),
        failure("no kernel", "_NoKernelError", "no TPU kernel"),
        failure("trace", "AttributeError", "no attribute 'rows'", owner="kernels.Tiling", raised_in="kernels"),
        failure("trace", "AttributeError", "no attribute 'x'", owner="jax._src.core.DynamicJaxprTracer",
                raised_in="jax._src.core"),
        # What an environment says of itself comes at once, not deep in the program that a message quotes.
        failure("compile", "MosaicError", "INTERNAL: no" + " " * 2000 + "lockfile"),
    ],
    ids=lambda found: f"{found.stage} {found.kind}",
)  # fmt: skip
def test_a_failure_of_the_kernel(found: Failure) -> None:
    assert cause(found) == "kernel"


def test_a_message_is_shortened_to_what_it_says_first() -> None:
    assert shortened("\n  first \nsecond") == "first"
    assert shortened("") == "(no message)"
    assert shortened("x" * 300) == "x" * 300
    assert len(shortened("x" * 301)) == 300 and shortened("x" * 301).endswith(" …")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "it wrote nothing"),
        ("one\ntwo\n\n", "two"),
        ("F1124 16:51:37.626544   12956 layout.h:341] Check failed: a\n*** trace\nE1124 16:51 RAW: b",
         "layout.h:341] Check failed: a"),
    ],
)  # fmt: skip
def test_the_last_words_of_a_process(output: str, said: str) -> None:
    assert last_words(output) == said


def test_how_a_process_ended() -> None:
    assert exit_words(3) == "ended with exit status 3"
    assert exit_words(-6) == "was ended by SIGABRT"
    assert exit_words(-200) == "was ended by signal 200"


# ------------------------------------------------------------------ one kernel among its controls


def test_a_kernel_passes_where_both_controls_behave() -> None:
    good, bad, kernel = verdicts(COMPILED, refused(), COMPILED)
    assert [good.verdict, bad.verdict, kernel.verdict] == [Verdict.PASS] * 3
    assert (good.role, bad.role, kernel.role) == ("control", "control", "kernel")
    assert (good.expected, bad.expected, kernel.expected) == ("pass", "fail", "pass")
    assert bad.reason.startswith("failed, as it has to") and bad.error is None
    assert kernel.memory is not None and (kernel.memory.argument, kernel.memory.temp) == (1, 3)
    assert (kernel.seconds, kernel.kernels) == (1.5, 1)


@pytest.mark.parametrize(
    ("seen", "verdict", "said"),
    [
        (refused(), Verdict.FAIL, "it does not compile: MosaicError: INTERNAL: no"),
        (refused("lower"), Verdict.FAIL, "it does not lower: "),
        (refused("trace"), Verdict.FAIL, "it cannot be traced: "),
        (refused("case"), Verdict.FAIL, "the case cannot be made: "),
        (refused("no kernel", message="it holds no TPU kernel"), Verdict.FAIL, "it holds no TPU kernel"),
        (refused("topology"), Verdict.NOT_RUN, "environment: MosaicError: "),
        (refused("libtpu", message="libtpu is not installed"), Verdict.NOT_RUN, "libtpu is not installed"),
        (Observed(silent=30.0), Verdict.INCONCLUSIVE, "no answer of the compiler within 30 s"),
        (Observed(returncode=-signal.SIGABRT, output="F1124 16:51:37.6   1 a.h:3] Check failed"), Verdict.FAIL,
         "the compiler's process was ended by SIGABRT: a.h:3] Check failed"),
        (Observed(returncode=-signal.SIGSEGV), Verdict.FAIL, "was ended by SIGSEGV"),
        (Observed(returncode=0), Verdict.FAIL, "ended with exit status 0"),
        (Observed(returncode=-signal.SIGKILL), Verdict.NOT_RUN, "may be out of memory"),
        (Observed(not_reached="environment: why"), Verdict.NOT_RUN, "environment: why"),
    ],
)  # fmt: skip
def test_what_a_kernel_can_be(seen: Observed, verdict: Verdict, said: str) -> None:
    kernel = verdicts(COMPILED, refused(), seen)[-1]
    assert (kernel.verdict, said in kernel.reason) == (verdict, True), kernel.reason


def test_the_whole_message_is_kept_as_evidence() -> None:
    assert verdicts(COMPILED, refused(), refused())[-1].error == "trace"
    assert verdicts(COMPILED, refused(), Observed(returncode=-6, output="all"))[-1].error == "all"


@pytest.mark.parametrize("kernel", [COMPILED, refused()], ids=["kernel passes", "kernel fails"])
@pytest.mark.parametrize(
    ("good", "bad", "verdict", "said"),
    [
        (refused(), refused(), Verdict.INCONCLUSIVE, "control good: a kernel that has to pass did not"),
        (Observed(silent=9.0), refused(), Verdict.INCONCLUSIVE, "control good: a kernel that has to pass did not"),
        (COMPILED, COMPILED, Verdict.INCONCLUSIVE, "control bad: a kernel that has to fail passed"),
        (COMPILED, refused("lower"), Verdict.INCONCLUSIVE, "control bad: a kernel that has to fail failed otherwise"),
        (COMPILED, Observed(returncode=-6), Verdict.INCONCLUSIVE, "failed otherwise (the compiler's process"),
        (refused("topology"), refused(), Verdict.NOT_RUN, "control good: environment: "),
        (COMPILED, refused("topology"), Verdict.NOT_RUN, "control bad: environment: "),
    ],
)
def test_controls_that_misbehave_tell_nothing_of_a_kernel(
    kernel: Observed, good: Observed, bad: Observed, verdict: Verdict, said: str
) -> None:
    found = verdicts(good, bad, kernel)[-1]
    assert found.verdict is verdict and said in found.reason
    assert ("of the kernel itself" in found.reason) is (kernel is not COMPILED)


def test_a_kernel_without_controls_is_not_believed() -> None:
    (found,) = judge([(Step("compile", "v6e", "rows=8"), COMPILED)])
    assert (found.verdict, found.reason) == (Verdict.INCONCLUSIVE, "no control kernel was checked beside it")


@pytest.mark.parametrize(("tier", "chip"), [("lower", "v6e"), ("compile", "v5e")])
def test_controls_of_another_tier_or_chip_are_no_controls(tier: str, chip: str) -> None:
    step = Step(tier, chip, "rows=8")
    found = judge([*zip(steps(), (COMPILED, refused(), COMPILED), strict=True), (step, FINE)])
    assert [check.verdict for check in found[-2:]] == [Verdict.PASS, Verdict.INCONCLUSIVE]


def test_a_chip_without_behaving_controls_leaves_the_others_alone() -> None:
    found = [*verdicts(COMPILED, COMPILED, COMPILED, chip="v5e"), *verdicts(COMPILED, refused(), COMPILED)]
    assert [check.verdict for check in found if check.role == "kernel"] == [Verdict.INCONCLUSIVE, Verdict.PASS]


# ------------------------------------------------------------------ tiers and the whole

LIBTPU = refused("libtpu", message="libtpu is not installed")
NO_LIBTPU = (LIBTPU, LIBTPU, LIBTPU)


def whole(*checks, chips=("v6e", "v5e")):
    tiers = tier_verdicts([check for found in checks for check in found], chips)
    return tiers, *overall(tiers)


def lowered(chip="v6e"):
    made = [Step("lower", chip, "good", control="good"), Step("lower", chip, "rows=8")]
    return judge(zip(made, (FINE, FINE), strict=True))


def test_a_pass_says_what_was_done() -> None:
    _, verdict, reason = whole(lowered(), verdicts(COMPILED, refused(), COMPILED), chips=("v6e",))
    assert (verdict, reason) == (Verdict.PASS, "lowered for v6e; compiled for v6e")


def test_lowering_alone_is_a_pass_only_where_no_more_was_asked_for() -> None:
    tiers, verdict, reason = whole(lowered(), chips=("v6e",))
    assert verdict is Verdict.PASS and [tier.tier for tier in tiers] == ["lower"]
    assert reason == "lowered for v6e; compile was not asked for (tier lower)"


def test_without_libtpu_lowering_is_no_pass() -> None:
    tiers, verdict, reason = whole(lowered(), verdicts(*NO_LIBTPU), chips=("v6e",))
    assert verdict is Verdict.NOT_RUN
    assert reason == "lowered for v6e; compile NOT_RUN: libtpu is not installed"
    assert [(tier.tier, tier.verdict) for tier in tiers] == [("lower", Verdict.PASS), ("compile", Verdict.NOT_RUN)]


def test_what_no_case_could_be_told_for_is_said_once() -> None:
    made = [*steps(), Step("compile", "v6e", "rows=16", case=1)]
    _, verdict, reason = whole(judge(zip(made, (*NO_LIBTPU, LIBTPU), strict=True)))
    assert (verdict, reason) == (Verdict.NOT_RUN, "compile NOT_RUN: libtpu is not installed")


def test_what_does_not_lower_is_a_fail_without_libtpu_too() -> None:
    made = [Step("lower", "v6e", "good", control="good"), Step("lower", "v6e", "rows=8")]
    broken = judge(zip(made, (FINE, refused("lower")), strict=True))
    _, verdict, reason = whole(broken, verdicts(*NO_LIBTPU), chips=("v6e",))
    assert verdict is Verdict.FAIL
    assert reason.startswith("lower FAIL: v6e: it does not lower") and "compile NOT_RUN: libtpu" in reason


def test_chips_with_one_reason_share_it() -> None:
    _, verdict, reason = whole(
        *(verdicts(COMPILED, refused(), refused(), chip=chip) for chip in ("v6e", "v5e")),
    )
    assert (verdict, reason) == (Verdict.FAIL, "compile FAIL: v6e, v5e: it does not compile: MosaicError: INTERNAL: no")


def test_one_chip_that_fails_is_named() -> None:
    _, verdict, reason = whole(
        verdicts(COMPILED, refused(), COMPILED), verdicts(COMPILED, refused(), refused(), chip="v5e")
    )
    assert verdict is Verdict.FAIL and reason.startswith("compile FAIL: v5e: ") and "v6e" not in reason


def test_cases_are_named_where_they_fail_differently() -> None:
    made = [*steps(), Step("compile", "v6e", "rows=16", case=1)]
    found = judge(zip(made, (COMPILED, refused(), refused(), refused(message="too large")), strict=True))
    _, _, reason = whole(found)
    assert "v6e (rows=8): " in reason and "v6e (rows=16): it does not compile: MosaicError: too large" in reason


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ((refused(), Observed(silent=1.0), LIBTPU, COMPILED), Verdict.FAIL),
        ((COMPILED, Observed(silent=1.0), LIBTPU), Verdict.INCONCLUSIVE),
        ((COMPILED, LIBTPU, COMPILED), Verdict.NOT_RUN),
        ((COMPILED, COMPILED), Verdict.PASS),
    ],
)
def test_the_worst_verdict_is_that_of_all(seen: tuple[Observed, ...], verdict: Verdict) -> None:
    made = [*steps()[:2], *(Step("compile", "v6e", f"rows={at}", case=at) for at in range(len(seen)))]
    _, found, _ = whole(judge(zip(made, (COMPILED, refused(), *seen), strict=True)))
    assert found is verdict


def test_nothing_checked_is_no_pass() -> None:
    assert overall([]) == (Verdict.INCONCLUSIVE, "nothing was checked")
    (tier,) = tier_verdicts(judge(zip(steps()[:2], (COMPILED, refused()), strict=True)), ("v6e",))
    assert (tier.verdict, tier.reason) == (Verdict.INCONCLUSIVE, "no kernel was checked")
