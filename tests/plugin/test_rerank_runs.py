"""Runs of the suites on a server that ranks, known by its address alone: its rankings are judged, and nothing else."""

from __future__ import annotations

import pytest
from inner_project import REGRESSION, Project

from fake_vllm import FakeVllm, serving


def attached(project: Project, url: str) -> pytest.RunResult:
    project.write("test_it.py", REGRESSION)
    return project.run("--engine=rerank", f"--multi-url={url}", f"--serial-url={url}")


def test_rankings_pass_and_all_that_sends_ids_is_not_run(project: Project) -> None:
    with serving(FakeVllm()) as url:
        result = attached(project, url)
    assert result.ret == 0, "\n".join(result.outlines)
    found = {r["gate"]: r for r in project.matrix["gates"] if "deselected" not in r["reason"]}
    assert {name for name, record in found.items() if record["verdict"] == "PASS"} == {"rerank_agrees"}
    assert {record["verdict"] for record in found.values()} == {"PASS", "NOT_RUN"}
    assert "takes texts alone; it speaks rerank" in found["same_length_isolation_zero"]["reason"]
