"""The contract against the TensorRT-LLM bridge, on a stand-in for the engine: healthy, and with a mask that is planned
and not run (FlashInfer #3434)."""

from __future__ import annotations

from pathlib import Path

import pytest
from inner_project import REGRESSION, Project

from trtllm_environment import environment, model

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

CHOSEN = "same_length or equiv or semantics or negative"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("trtllm"))


def run(project: Project, python: Path, device: str) -> pytest.RunResult:
    project.write("test_it.py", REGRESSION)
    return project.run(
        "-q", "--engine=trtllm", f"--engine-python={python}", f"--model={model(project.path / 'm')}",
        f"--multiitem-device={device}", "--dtype=float32", "--labels=11,12", "--multiitem-delimiter=1000",
        "--effort=quick", "-k", CHOSEN,
    )  # fmt: skip


def judged(project: Project) -> dict[str, str]:
    return {
        record["gate"]: record["verdict"]
        for record in project.matrix["gates"]
        if record["reason"] != "deselected on the command line"
    }


def test_the_packed_contract_holds_on_the_bridge(project: Project, python: Path) -> None:
    result = run(project, python, "cuda")
    found = judged(project)
    assert result.ret == 0 and set(found.values()) == {"PASS"}, result.stdout.str()
    assert {"same_length_isolation_zero", "delimiter_aligned_equiv_le_0p02", "semantics_as_declared"} <= set(found)
    record = project.gate("same_length_isolation_zero")
    assert (record["mask_attested"], record["semantics"]) == ("flashinfer", "query_prefix")
    assert record["items_per_sequence"] > 2, "several items in a sequence, by the bridge's own count"


def test_a_mask_that_is_planned_and_not_run_is_seen(
    project: Project, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRTLLM", "causal")
    result = run(project, python, "cuda")
    found = judged(project)
    assert result.ret == 1 and found["same_length_isolation_zero"] == "FAIL", result.stdout.str()
    assert found["semantics_as_declared"] == "FAIL"
    assert found["negative_control_fails"] == "PASS", "the serial server has no mask to miss"


def test_without_a_gpu_it_is_not_run_with_the_command(project: Project, python: Path) -> None:
    result = run(project, python, "cpu")
    assert result.ret == 5 and set(judged(project).values()) == {"NOT_RUN"}
    reason = project.gate("same_length_isolation_zero")["reason"]
    assert "TensorRT-LLM needs a CUDA GPU" in reason and f"--engine trtllm --engine-python {python}" in reason
