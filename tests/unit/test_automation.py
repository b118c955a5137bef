"""The action and the workflows: they say what they take, and no word that a caller gives is a command."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pytest_multiitem.settings.settings import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}

#: Stands in for the Python that runs the suites: notes what it is called with, leaves a run, and ends as it is told.
PYTHON = """#!/bin/bash
printf '%s\\n' "$@" > "$ASKED"
for word in "$@"; do case "$word" in --junitxml=*) mkdir -p "$(dirname "${word#*=}")"; touch "${word#*=}";; esac; done
mkdir -p "$MULTI_ITEM_RESULTS_DIR/run" && ln -sfn run "$MULTI_ITEM_RESULTS_DIR/latest"
exit "${STATUS:-0}"
"""


def used(value) -> set[str]:
    return set(re.findall(r"\binputs\.([\w-]+)", str(value)))


def test_the_action_declares_what_it_uses():
    assert used(ACTION["runs"]) == set(ACTION["inputs"])
    assert all(each["description"] and "default" in each for each in ACTION["inputs"].values())
    named = set(re.findall(r"outputs\.([\w-]+)", str(ACTION["outputs"])))
    assert named == set(re.findall(r'"?([\w-]+)=\S*" >> "\$GITHUB_OUTPUT"', STEPS["Measure"]["run"])) | {"report"}


@pytest.mark.parametrize("step", [step for step in STEPS.values() if "run" in step], ids=lambda step: step["name"])
def test_no_word_of_a_caller_is_a_command(step):
    assert "${{" not in step["run"]
    variables = {name for name in step["env"] if name.startswith("MULTI_ITEM_")}
    assert variables <= {option.variable for option in OPTIONS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_gives_the_action_what_it_takes(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            assert "${{ inputs" not in step.get("run", "")
            if step.get("uses") == "./":
                assert set(step["with"]) <= set(ACTION["inputs"])
                given = {name for name in step.get("env", {}) if name.startswith("MULTI_ITEM_")}
                assert given <= {option.variable for option in OPTIONS}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    python, asked, output = tmp_path / "python", tmp_path / "asked", tmp_path / "output"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(name, **variables):
        environ = {
            "PATH": os.environ["PATH"], "PYTHON": str(python), "ASKED": str(asked), "GITHUB_OUTPUT": str(output),
            "MULTI_ITEM_RESULTS_DIR": "results", "ARGUMENTS": "", "EXTRAS": "", "VERSION": "", "HERE": "/the action",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", STEPS[name]["run"]],
            cwd=tmp_path, env={**environ, **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        written = output.read_text().split() if output.exists() else []
        return done, asked.read_text().splitlines(), dict(line.split("=", 1) for line in written)

    return run


@pytest.mark.parametrize("status", [0, 1, 5])
def test_the_action_ends_as_the_run_and_says_where_it_is(measured, tmp_path, status):
    done, asked, output = measured("Measure", STATUS=str(status))
    assert done.returncode == status, done.stderr
    assert asked == ["-m", "pytest", "--pyargs", "pytest_multiitem.suites", "--junitxml=results/junit.xml"]
    assert output == {"report": str(tmp_path / "results/run"), "exit-status": str(status)}
    assert (tmp_path / "results/run/junit.xml").exists()


def test_a_line_is_one_argument(measured, tmp_path):
    done, asked, _ = measured("Measure", ARGUMENTS="-k\nnot speedup\n\n$(touch hurt); `touch hurt`\n")
    assert done.returncode == 0 and asked[-3:] == ["-k", "not speedup", "$(touch hurt); `touch hurt`"]
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize(
    ("variables", "what"),
    [
        ({}, "/the action"),
        ({"EXTRAS": "torch,jax"}, "/the action[torch,jax]"),
        ({"VERSION": "0.2.0"}, "pytest-multiitem==0.2.0"),
        ({"VERSION": "0.2.0", "EXTRAS": "jax"}, "pytest-multiitem[jax]==0.2.0"),
        ({"VERSION": "1; touch hurt"}, "pytest-multiitem==1; touch hurt"),
    ],
)
def test_what_the_action_installs(measured, tmp_path, variables, what):
    done, asked, _ = measured("Install", **variables)
    assert done.returncode == 0 and asked == ["-m", "pip", "install", "-q", what]
    assert not (tmp_path / "hurt").exists()
