"""docs/guides/runbook.md: every line of its blocks runs, and every option in them exists."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pytest_multiitem import cli
from pytest_multiitem.commands.options import old_names
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.engine.launch_line import add_arguments
from pytest_multiitem.validation.validate import examine
from runbook_checker import GATES, runbooks_answers

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/guides/runbook.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)
LINES = [
    words
    for line in "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
    if (words := shlex.split(line.partition(" > ")[0])) and words[0] == "multiitem"
]

#: What makes the canonical shape a small one; each stands in the guide.
REDUCED = {
    r"--query-tokens 2000": "--query-tokens 40",
    r"--num-items 500": "--num-items 12",
    r"--item-tokens 20": "--item-tokens 5",
    r"--client-chunk-sizes 1,2,4,8,16,32,64,128,256,500": "--client-chunk-sizes 4,8,500",
    r"(--mode \w+)": r"\1 --query-tokens 40 --item-tokens 5 --items 1,32 --timed-runs 6",
}
#: A network of its own, which holds nothing but its loopback: there, a server may listen for everybody.
NAMESPACE = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
EVERYBODY = {r"--host 127.0.0.1": "--host 0.0.0.0 --allow-remote --no-auth"}
PORTS = (30010, 30011, 30020)

#: Notes how each command ends. What is judged by its times ends with 1 on a machine that is busy.
SHIM = """#!/bin/sh
run() { "{python}" -c 'from pytest_multiitem.cli import main; main()' "$@"; }
case "$1" in serve) exec "{python}" -c 'from pytest_multiitem.cli import main; main()' "$@";; esac
run "$@"; code=$?
echo "$code $1" >> "{ended}"
case "$1 $code" in "check 1"|"compare 1") exit 0;; esac
exit $code
"""


def options_of(command):
    """The option names that a command of the command line takes, old ones too."""
    if command == "serve":
        parser = argparse.ArgumentParser(add_help=False)
        add_arguments(parser)
        return {name for action in parser._actions for name in action.option_strings}
    found = typer.main.get_command(cli.app)
    for word in command.split():
        found = found.commands[word]
    names = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names | set(old_names(found))  # the guide names them as the public scripts do


@pytest.mark.parametrize("words", LINES, ids=[f"{n}-{words[1]}" for n, words in enumerate(LINES)])
def test_every_option_of_the_guide_exists(words):
    command = "compare files" if words[1:3] == ["compare", "files"] else words[1]
    given = [word for word in words if word.startswith("--")]
    assert not set(given) - options_of(command)


def test_the_guide_has_both_runbooks_step_by_step():
    """What a reader looks for is there, and what is run is most of what there is."""
    comparison, validation = GUIDE.split("## Validation of a multi-item server")
    for step in ("Step 1", "Step 2", "Step 3", "Step 4", "Step 5", "Steps 6 and 7"):
        assert f"### {step}:" in comparison
    for step in ("Step 1", "Steps 2 and 3", "Step 4", "Step 5", "Step 6", "Step 7"):
        assert f"### {step}:" in validation
    commands = [words[1] for words in LINES]
    assert commands.count("serve") == commands.count("launch") == 5 and commands.count("matrix") == 4
    assert {"workload", "compare", "evaluate", "combine", "check"} <= set(commands)
    assert GUIDE.count("```") == 2 * len(BLOCKS)  # what stands in the guide as code is run


def reduced(script, changes):
    for pattern, replacement in changes.items():
        script, count = re.subn(pattern, replacement, script)
        assert count, f"the guide has no {pattern}"
    return script


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("curl")), reason="bash or curl is missing: apt install curl"
)
def test_every_line_of_the_guide_runs(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MULTI_ITEM_")]:
        monkeypatch.delenv(name)
    alone = (
        bool(shutil.which("unshare") and shutil.which("ip"))
        and not subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode
    )
    if not alone:
        for port in PORTS:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    pytest.skip(f"port {port} is in use, and this user may not make a network namespace")
    tools, work, ended = tmp_path / "tools", tmp_path / "work", tmp_path / "ended"
    tools.mkdir()
    work.mkdir()
    shim = tools / "multiitem"
    shim.write_text(SHIM.replace("{python}", sys.executable).replace("{ended}", str(ended)))
    shim.chmod(0o755)
    (tools / "pytest").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pytest -p no:cacheprovider "$@"\n')
    (tools / "pytest").chmod(0o755)
    script = "set -e\nset -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n"
    script += reduced("\n".join(BLOCKS), {**REDUCED, **(EVERYBODY if alone else {})})
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    command = [*(NAMESPACE if alone else []), "bash", "-c", script]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=900, check=False)
    logs = "".join(f"\n{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(work.glob("*.log")))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:] + logs
    expected = [words[1] for words in LINES if words[1] != "serve"]
    results = [line.split() for line in ended.read_text().splitlines()]
    assert [name for _, name in results] == expected
    assert {name for code, name in results if code != "0"} <= {"check", "compare"}
    if alone:
        assert "NO ACCESS CONTROL" in (work / "jax_portable.log").read_text()
    a_comparison_is_there(work / "reports/artifacts/jax-vs-pytorch-multi-item")
    both_checkers_agree(work / "docs/features/reports", done.stdout)
    assert re.search(r"2 passed", done.stdout)  # step 7: one test a model


def a_comparison_is_there(directory):
    for backend in ("jax", "pytorch"):
        for view in ("portable", "best_native"):
            path = directory / f"{backend}_{view}_matrix.json"
            matrix = artefacts.read(path, ScoreMatrix).record
            assert (matrix.backend, matrix.evaluation_view, matrix.complete) == (backend, view, True)
            assert [row.client_chunk_size for row in matrix.results] == [4, 8, 12]
            assert examine(path).problems == [] and path.with_suffix(".md").exists()
    comparison = json.loads((directory / "comparison.json").read_bytes())
    assert comparison["status"] == "complete" and (directory / "final_report.md").exists()


def both_checkers_agree(directory, printed):
    paths = [directory / f"{name}.json" for name in ("multi_vs_serial_eval_results", "jax_torch_parity_results")]
    answers = runbooks_answers(*(json.loads(path.read_bytes()) for path in paths))
    found: dict[str, str] = {}
    for verdict, gate, *_ in (line.split() for line in printed.splitlines() if len(line.split()) > 1):
        if gate in GATES:
            found.setdefault(gate, verdict)  # what is printed later is the test run's of step 7
    assert list(found) == list(GATES)
    for gate, verdict in found.items():
        assert verdict in ("PASS" if answers[gate] else "FAIL", "INCONCLUSIVE"), gate
    assert found[GATES[0]] == found[GATES[1]] == "PASS"
