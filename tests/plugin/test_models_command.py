"""`multiitem models` on the embedded engine: a healthy model, a faulty server that is known, and one that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_multiitem.validation.validate import examine

pytest.importorskip("torch")

SAME = "same_length_isolation_zero"
FILE = f"""\
gates = ["{SAME}", "delimiter_aligned_equiv_le_0p02", "negative_control_fails"]
[settings]
labels = "11,12"
delimiter = 1000
bench_timed_runs = 2
backend = "pytorch"
mask_impl = "dense"

[[models]]
name = "healthy"
model = "tiny"

[[models]]
name = "known"
model = "tiny"
settings = {{ profiles = "faulty.toml" }}
[[models.expected_failures]]
gate = "{SAME}"
issue = "https://example.org/issues/1"

[[models]]
name = "unknown"
model = "tiny"
settings = {{ profiles = "faulty.toml" }}

[[models]]
name = "mended"
model = "tiny"
[[models.expected_failures]]
gate = "{SAME}"
backend = "pytorch"
issue = "https://example.org/issues/2"
[[models.expected_failures]]
gate = "negative_control_fails"
backend = "jax"
issue = "https://example.org/issues/3"

[[models]]
name = "no engine"
model = "tiny"
engine = "sgl-jax"
"""
FAULTY = '[embedded-multi]\nflags = { fault = "leak_next=0.001" }\n'


def multiitem(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MULTI_ITEM_", "PYTEST_"))}
    program = [sys.executable, "-c", "from pytest_multiitem.cli import main; main()"]
    return subprocess.run(
        [*program, *words], cwd=directory, capture_output=True, text=True, timeout=400, check=False, env=kept
    )


@pytest.mark.slow
def test_what_is_known_is_expected_and_what_is_not_fails(tmp_path: Path) -> None:
    assert multiitem(tmp_path, "checkpoint", "tiny", "--vocab-size", "1024", "--num-hidden-layers", "1").returncode == 0
    (tmp_path / "models.toml").write_text(FILE)
    (tmp_path / "faulty.toml").write_text(FAULTY)
    done = multiitem(tmp_path, "models", "models.toml")
    (path,) = tmp_path.glob("multiitem-results/models/*/model_matrix.json")
    assert examine(path).problems == []
    cells = {cell["model"]: cell for cell in json.loads(path.read_bytes())["cells"]}
    assert {name: cell["state"] for name, cell in cells.items()} == {
        "healthy": "pass", "known": "expected_failure", "unknown": "fail", "mended": "now_passes",
        "no engine": "not_run",
    }, done.stdout + done.stderr  # fmt: skip
    assert all(cell["speed"]["items_per_sec"] > 0 for name, cell in cells.items() if name != "no engine")
    problems = [line for line in done.stderr.splitlines() if line.startswith("multiitem: ")]
    assert done.returncode == 1 and len(problems) == 2
    assert problems[0].startswith(f"multiitem: unknown pytorch dense: {SAME} FAIL: ")
    assert "mended pytorch dense" in problems[1] and "NOW PASSES" in problems[1] and "issues/2" in problems[1]
    assert "--engine-python PATH" in cells["no engine"]["reason"]
    report = (path.parent / "report.md").read_text()
    assert "fails as expected" in report and "508.30 to 518.36" in report
    assert multiitem(tmp_path, "validate", str(path)).returncode == 0


def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('[[models]]\nname = "a"\nmodel = "tiny"\n')
    for words, said in (
        (["m.toml"], "multiitem: models file m.toml: models[0].model: 'tiny' is no directory beside the file"),
        (["none.toml"], "multiitem: cannot read models file none.toml: No such file or directory"),
    ):
        done = multiitem(tmp_path, "models", *words)
        assert done.returncode == 2 and done.stderr.startswith(said) and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "multiitem-results").exists()


def test_an_executor_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Where Ray is not installed, it says what to install; where it is, that nobody answers."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "m.toml").write_text('[[models]]\nname = "a"\nmodel = "tiny"\n')
    done = multiitem(tmp_path, "models", "m.toml", "--executor", "ray://127.0.0.1:1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "pip install 'pytest-multiitem[ray]'" in done.stderr or "does not answer" in done.stderr
