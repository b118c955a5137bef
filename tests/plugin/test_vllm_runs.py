"""Runs of the suites on vLLM's wire: N items in one request, each a sequence of its own, healthy and with a leak."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from inner_project import REGRESSION, Project

from fake_vllm import FakeVllm, serving

#: Without the search and the ladders, which take longest and know no wire.
GATES = "not relations and not every_size and not every_label and not full_traffic"


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> Iterator[FakeVllm]:
    server = FakeVllm(getattr(request, "param", ""), max_model_len=4096)
    with serving(server) as server.url:
        yield server


def attached(project: Project, fake: FakeVllm, selection: str) -> pytest.RunResult:
    project.write("test_it.py", REGRESSION)
    urls = (f"--multi-url={fake.url}", f"--serial-url={fake.url}", "--multiitem-vocab-size=5000")
    return project.run("--engine=vllm", *urls, "-k", selection)


def test_gates_that_need_no_packing_run_and_the_others_say_why_not(project: Project, fake: FakeVllm) -> None:
    fake.refuses_long = True
    result = attached(project, fake, GATES)
    assert result.ret == 0, "\n".join(result.outlines)
    found = {r["gate"]: r for r in project.matrix["gates"] if "deselected" not in r["reason"]}
    passed = {name for name, record in found.items() if record["verdict"] == "PASS"}
    assert passed == {
        "same_length_isolation_zero", "changed_length_isolation_zero", "content_isolation", "length_isolation",
        "delimiter_aligned_equiv_le_0p02", "equivalence_at_floor", "semantics_as_declared",
        "request_isolation_le_0p02", "request_contract_holds", "negative_control_fails", "every_score_agrees",
        "label_mass_not_zero", "generative_scoring_agrees",
    }  # fmt: skip
    speedup = found["speedup_n32_ge_3x"]
    assert speedup["verdict"] == "NOT_RUN" and speedup["reason"].startswith("vLLM does not pack"), speedup
    assert {found[name]["mask_attested"] for name in passed - {"negative_control_fails"}} == {"unpacked"}
    assert {path for path, _ in fake.calls} == {"/generative_scoring"}


def test_prompts_that_the_engine_cuts_fail(project: Project, fake: FakeVllm) -> None:
    result = attached(project, fake, "generative")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    record = project.gate("generative_scoring_agrees")
    assert record["verdict"] == "FAIL" and "a prompt of 4098 tokens is cut without a word" in record["reason"], record


@pytest.mark.parametrize("fake", ["leak"], indirect=True)
def test_a_leak_between_sequences_of_one_request_fails(project: Project, fake: FakeVllm) -> None:
    result = attached(project, fake, "isolation and not request and not control")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    verdicts = {r["gate"]: r["verdict"] for r in project.matrix["gates"] if "deselected" not in r["reason"]}
    assert verdicts["content_isolation"] == verdicts["same_length_isolation_zero"] == "FAIL", verdicts
    assert not any(len(body["label_token_ids"]) != 2 for _, body in fake.calls if body["apply_softmax"])


def test_a_workload_that_the_engine_would_cut_is_not_run(project: Project, fake: FakeVllm) -> None:
    fake.max_model_len = 24
    result = attached(project, fake, "same_length")
    assert result.ret in (0, 5), "\n".join(result.outlines)
    record = project.gate("same_length_isolation_zero")
    assert record["verdict"] == "NOT_RUN" and "cuts a prompt to the first 23 without a word" in record["reason"]
