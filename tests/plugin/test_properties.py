"""The property-based test in a run: its counterexample is printed, saved and replayed; plain, parallel, attached."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inner_project import REGRESSION, SMALL, Project

Faults = Callable[[str], None]
GATE = "metamorphic_relations_hold"
MULTIITEM = Path(sys.executable).with_name("multiitem")
CHOSEN = ("-k", "metamorphic")


def counterexamples(project: Project) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_bytes()) for path in project.runs[-1].glob("counterexample*")}


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_a_good_server_passes(project: Project, workers: list[str]) -> None:
    project.write("test_it.py", REGRESSION)
    result = project.run("--engine=fake", "--mask-impl=dense", *CHOSEN, *workers)
    assert result.ret == 0, "\n".join(result.outlines)
    assert project.verdicts[GATE] == ["PASS", "PASS"]
    records = [r for r in project.matrix["gates"] if r["gate"] == GATE]
    assert all(r["value"] == 0.0 and r["samples"]["examples"] == 100 for r in records)
    assert all("empty" in r["details"]["relations"] for r in records)
    assert counterexamples(project) == {}
    assert not (project.path / ".hypothesis").exists()


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_a_leak_is_printed_saved_and_can_be_replayed(
    project: Project, faults: Faults, server: Callable[..., str], workers: list[str]
) -> None:
    faults("multi:leak")
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, *CHOSEN, *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    kept = counterexamples(project)
    name, found = "counterexample.json", kept["counterexample.json"]
    assert len({each["relation"] for each in kept.values()}) == len(kept) > 1
    assert found["schema_version"] == "multiitem_counterexample_v1"
    assert found["relation"] == "mutate" and found["reproduced"] is True
    assert [len(item) for item in found["scenario"]["base"]["items"]] == [1, 1]
    assert {s["name"]: s["value"] for s in found["settings"]}["property_examples"] == "20"
    record = project.gate(GATE)
    assert record["verdict"] == "FAIL" and "mutate: Items keep their scores" in record["reason"]
    said = "\n".join(result.outlines)
    for pattern in (
        r"counterexample: mutate, example \d+ of seed 20260101",
        r"base: query \[\d+\], items \[\[\d+\], \[\d+\]\], labels \[9454, 2753, \d+\]",
        r"saved: multiitem-results/\S+/counterexample\.json",
        r"replay: multiitem replay multiitem-results/\S+/counterexample\.json --url http://127\.0\.0\.1:\d+",
        r"base: curl -sS http://127\.0\.0\.1:\d+/v1/score .*\"items\":\[\[\d+\],\[\d+\]\]",
        r"variant: curl -sS http://127",
    ):
        assert re.search(pattern, said), pattern
    path = str(project.runs[-1] / name)
    for arguments, status in ((["--fault", "leak"], 1), ([], 0)):
        done = project.pytester.run(MULTIITEM, "replay", path, "--url", server("multi", *arguments))
        assert done.ret == status


def test_every_server_keeps_its_own_file(project: Project, faults: Faults) -> None:
    faults("multi:leak")
    project.write("test_it.py", REGRESSION)
    project.run(*SMALL[:2], *SMALL[3:], *CHOSEN)
    assert counterexamples(project).keys() >= {
        "counterexample-multi-item-pytorch-dense.json", "counterexample-multi-item-pytorch-segment.json",
        "counterexample-multi-item-pytorch-dense-2.json", "counterexample-multi-item-pytorch-segment-2.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "verdict", "reason"),
    [
        ("multi:noise", "INCONCLUSIVE", "replaying the same request moves scores"),
        ("multi:short", "FAIL", "was not answered: bad_response"),
        ("multi:lie", "FAIL", "dense was requested, but the server executed segment"),
        ("multi:die_after=40", "FAIL", "device lost"),
    ],
)
def test_a_misbehaving_server(project: Project, faults: Faults, fault: str, verdict: str, reason: str) -> None:
    faults(fault)
    project.write("test_it.py", REGRESSION)
    assert project.run(*SMALL, *CHOSEN).ret == pytest.ExitCode.TESTS_FAILED
    record = project.gate(GATE)
    assert record["verdict"] == verdict and reason in record["reason"]


def test_attached_no_empty_item_is_sent(
    project: Project, server: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGING_KEY", "s3cret")
    project.write("test_it.py", REGRESSION)
    url = server("multi", "--fault", "leak", "--fault", "key=s3cret")
    result = project.run(f"--multi-url={url}", "--multiitem-api-key-env=STAGING_KEY", *CHOSEN)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = "\n".join(result.outlines)
    assert "s3cret" not in said and f"--url {url} --api-key-env STAGING_KEY" in said
    assert 'Bearer $STAGING_KEY"' in said
    assert "s3cret" not in (project.runs[-1] / "counterexample.json").read_text(encoding="utf-8")
    assert all(r["request"] != "" for r in _relations(project))
    assert not any(re.search(r"of (?:.*, )?0[, ]", r["request"]) for r in _relations(project))


def _relations(project: Project) -> list[dict[str, Any]]:
    lines = (project.runs[-1] / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [sample for sample in map(json.loads, lines) if sample["kind"] == "relation"]


def test_with_hypothesis_own_plugin_as_well(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS")
    project.write("test_it.py", REGRESSION)
    result = project.pytester.runpytest_subprocess(*SMALL, *CHOSEN)
    assert result.ret == 0, "\n".join(result.outlines)
    assert "hypothesis-" in next(line for line in result.outlines if line.startswith("plugins: "))
    assert project.gate(GATE)["verdict"] == "PASS" and not (project.path / ".hypothesis").exists()
