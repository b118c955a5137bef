"""`multiitem power` and `pytest --power` on the real embedded engines: a small fixed set; CI measures the whole one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest

from pytest_multiitem.validation.validate import examine

pytest.importorskip("torch")
pytest.importorskip("jax")

pytestmark = pytest.mark.slow

#: One fault of attention, of the layout and of the wire.
SMALL = "leak_next=0.01,score_at_delimiter,short_list"


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from pytest_multiitem.cli import main; main()", *words]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("MULTI_ITEM_", "PYTEST_"))}


def the_matrix(directory: Path) -> dict:
    (path,) = directory.glob("multiitem-results/power/*/kill_matrix.json")
    return json.loads(path.read_bytes())


def servers_of(directory: Path) -> list[psutil.Process]:
    """Processes that this directory's run has left."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(directory) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


def test_the_small_set_is_killed_on_both_backends(tmp_path: Path) -> None:
    done = subprocess.run(
        command("power", "--multiitem-power-faults", SMALL, "--multiitem-items", "32"),
        cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False, env=environment(),
    )  # fmt: skip
    made = the_matrix(tmp_path)
    assert made["complete"] and made["interrupted_by"] is None, done.stderr
    (path,) = tmp_path.glob("multiitem-results/power/*/kill_matrix.json")
    assert examine(path).problems == []
    healthy = {b["backend"]: {c["verdict"] for c in b["cells"] if c["gate"] != "speedup_n32_ge_3x"}
               for b in made["builds"] if b["fault"] is None}  # fmt: skip
    assert healthy == {"pytorch": {"PASS"}, "jax": {"PASS"}}, done.stdout
    killed = {(b["backend"], b["label"]): set(b["killed_by"]) for b in made["builds"] if b["fault"]}
    assert len(killed) == 6
    for backend in ("pytorch", "jax"):
        isolation = {"same_length_isolation_zero", "changed_length_isolation_zero"}
        assert isolation <= killed[backend, "leak_next=0.01"], "a leak of 1 % fails both isolation gates in float32"
        assert not isolation & killed[backend, "score_at_delimiter"]
        assert "delimiter_aligned_equiv_le_0p02" in killed[backend, "score_at_delimiter"]
        assert isolation <= killed[backend, "short_list"]
    assert f"{len(made['expected'])} of {len(made['expected'])} faults killed" in done.stdout
    assert (tmp_path / "multiitem-results/power").is_dir() and not servers_of(tmp_path)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("power", "--multiitem-power-faults", "score_at_delimiter,score_before_last,permuted", "--backend=jax"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stderr is not None and process.stdout is not None
        first = process.stderr.readline()
        assert "healthy" in first, first + process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; what was measured is kept" in err
    made = the_matrix(tmp_path)
    assert not made["complete"] and made["interrupted_by"] == "KeyboardInterrupt"
    assert made["builds"][0]["label"] == "healthy" and "kill_matrix.json" in out
    assert all((b["cells"] and b["killed_by"]) or b["fault"] is None for b in made["builds"]), "no half-measured build"
    deadline = time.monotonic() + 10
    while servers_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not servers_of(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_what_is_killed_from_outside_counts_for_no_fault(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM ends the command; SIGKILL its process with the servers, and new ones measure again what was in hand."""
    with subprocess.Popen(
        command("power", "--multiitem-power-faults", "score_at_delimiter,score_before_last", "--backend=pytorch"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "healthy" in process.stderr.readline()
        (state,) = tmp_path.glob("multiitem-results/power/*/servers/*/*/state.json")
        victim = json.loads(state.read_bytes())["engine_pid"] if number == signal.SIGKILL else process.pid
        os.kill(victim, number)
        out, err = process.communicate(timeout=200)
    assert "Traceback" not in err and "healthy" in out + err, err
    made = the_matrix(tmp_path)
    assert not any(b["killed_by"] for b in made["builds"] if not b["cells"]), made["builds"]
    connection = [c["reason"] for b in made["builds"] for c in b["cells"] if "connection" in c["reason"]]
    assert connection == [] and not servers_of(tmp_path)
    if number == signal.SIGTERM:
        assert process.returncode == 143 and not made["complete"] and made["interrupted_by"] == "SIGTERM", err
    else:
        (again,) = made["retried"]
        assert "was measured again: this machine: " in again and "was killed by SIGKILL" in again
        assert made["complete"] and made["failed"] == [] and made["interrupted_by"] is None, err
        assert {b["label"] for b in made["builds"] if b["killed_by"]} == {"score_at_delimiter", "score_before_last"}


def test_in_pytest_every_fault_is_a_test(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--power", "--backend=jax", "--junitxml=j.xml",
         "--multiitem-power-faults=score_at_delimiter,drift=1e-6", "test_nothing.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "PASS fault_is_killed" not in done.stdout
    matrix = json.loads((tmp_path / "multiitem-results/latest/matrix.json").read_bytes())
    verdicts = {gate["nodeid"]: gate["verdict"] for gate in matrix["gates"]}
    assert verdicts.pop("multiitem-power::healthy_build_passes[jax-healthy]") in ("PASS", "FAIL")  # it times as well
    assert verdicts == {
        "multiitem-power::fault_is_killed[jax-score_at_delimiter]": "PASS",
        "multiitem-power::fault_is_killed[jax-drift=1e-06]": "FAIL",
    }
    cases = {c.get("name"): c for c in ET.parse(tmp_path / "j.xml").iter("testcase")}
    assert cases["fault_is_killed[jax-drift=1e-06]"].find("failure") is not None
    report = (tmp_path / "multiitem-results/latest/report.md").read_text()
    assert "## Power of the gates" in report and "| F18 | drift=1e-06 | SURVIVES |" in report
    assert (tmp_path / "multiitem-results/latest/power/kill_matrix.json").exists()
    assert "kill matrix: multiitem-results/" in done.stdout and "not killed: F18" in done.stdout


def test_power_refuses_company(tmp_path: Path) -> None:
    for more in (["-n", "2"], ["--engine=sglang", f"--engine-python={sys.executable}", "--model=x"]):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--power", *more],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env=environment(),
        )  # fmt: skip
        assert done.returncode == 4, done.stdout
        assert "run without -n" in done.stderr or "multiitem proxy" in done.stderr
