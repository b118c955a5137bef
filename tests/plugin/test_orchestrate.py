"""`multiitem orchestrate`: the whole way, on real hosts that a fake cloud rents out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_hosts import RealHost, namespaces
from rented import CLIENT, PROGRAM, Rig, needs_gcloud, needs_hosts, wait_for

FOUR = [
    "jax_best_native_matrix.json", "jax_portable_matrix.json", "pytorch_best_native_matrix.json",
    "pytorch_portable_matrix.json",
]  # fmt: skip
#: What the embedded engines measure in a moment.
SMALL = ("--query-tokens", "16", "--num-items", "4", "--item-tokens", "4", "--client-chunk-sizes", "2",
         "--timed-runs", "1", "--timed-runs-confirm", "1", "--allow-inconclusive")  # fmt: skip


def test_a_dry_run_prints_the_exact_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a client, without a network, without leaving anything behind."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "orchestrate", "--dry-run"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": "/nonexistent", "PROJECT": "my-project", "TPU_ZONE": "europe-west4-a",
             "GPU_NAME": "my-g4", "ARTIFACT_SUBDIR": "mine"},
    )  # fmt: skip
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []
    lines = done.stdout.splitlines()
    common = "--project=my-project --format=json"
    keys = f"--metadata-from-file=ssh-keys={tmp_path}/multiitem-results/orchestrations/mine/ssh/authorized"
    for line in (
        f"gcloud compute tpus accelerator-types list --zone=europe-west4-a {common}",
        "gcloud beta quotas info describe TPUV6EPerProjectPerZoneForTPUAPI --service=tpu.googleapis.com " + common,
        "gcloud compute tpus tpu-vm create mi-tpu-v6e1 --zone=europe-west4-a --accelerator-type=v6e-1 "
        f"--version=v2-alpha-tpuv6e --labels=multiitem-run=MARK --metadata=enable-oslogin=FALSE {keys} {common}",
        f"gcloud compute tpus tpu-vm delete mi-tpu-v6e1 --zone=europe-west4-a --quiet {common}",
        "gcloud beta quotas info describe GPUS-PER-GPU-FAMILY-per-project-region --service=compute.googleapis.com "
        + common,
        "gcloud compute instances create my-g4 --zone=us-east5-b --machine-type=g4-standard-48 "
        "--maintenance-policy=TERMINATE --image-family=common-cu128-ubuntu-2204-nvidia-570 "
        "--image-project=deeplearning-platform-release --boot-disk-size=200GB --labels=multiitem-run=MARK "
        f"--metadata=enable-oslogin=FALSE {keys} {common}",
        f"gcloud compute instances delete my-g4 --zone=us-east5-b --quiet {common}",
    ):
        assert line in lines, line
    for said in ("--backend jax --engine sgl-jax", "--backend pytorch --engine sglang", "--model Qwen/Qwen3-0.6B",
                 "rsync -rtp", "setsid -f"):  # fmt: skip
        assert said in done.stdout, said
    assert "l4" not in done.stdout.lower().replace("mul4", "")
    assert all(subprocess.run(["bash", "-nc", line], check=False).returncode == 0 for line in lines)


@pytest.mark.slow
@needs_hosts
def test_the_whole_way_with_recorded_matrices(rig: Rig) -> None:
    status, out, err = rig.run(*rig.words())
    assert status == 0, (out, err)
    assert rig.matrices() == FOUR
    assert rig.comparison()["status"] == "complete"
    assert all((rig.directory / name).with_suffix(".md").exists() for name in FOUR)
    assert "cost of the run: 0.0" in (rig.directory / "final_report.md").read_text()
    assert not [*rig.directory.glob("ssh/id_*")]  # it opens nothing any more
    assert "left: no machine that was rented" in out and f"report: {rig.directory}/orchestration.md" in out
    assert [(step.step.value, step.side) for step in rig.ledger.steps if step.side in ("gpu", None)] == [
        ("preflight", "gpu"), ("create", "gpu"), ("set up", "gpu"), ("run", "gpu"), ("collect", "gpu"),
        ("tear down", "gpu"), ("compare", None),
    ]  # fmt: skip
    rig.nothing_is_left()
    status, out, err = rig.run(*rig.words())
    assert (status, out) == (2, "") and "holds an orchestration already; go on with --resume" in err


@needs_hosts
@pytest.mark.slow
@pytest.mark.parametrize(
    "real", [pytest.param(True, marks=needs_gcloud), False], ids=["google's client", "fake client"]
)
def test_the_whole_way_measured(rig: Rig, real: bool) -> None:
    """The embedded engines beside their servers on the machines, which get the product's own wheel."""
    rig.use_client(real=real)
    setup = rig.path / "setup.toml"
    packages = next(path for path in map(Path, sys.path) if (path / "pytest").is_dir())
    commands = [
        f"{sys.executable} -m venv product",
        f"echo {packages} >$(echo product/lib/python3.*/site-packages)/packages.pth",
        "product/bin/python -m pip install -q --no-deps --no-index {wheel}",
    ]
    setup.write_text(f"[embedded]\ncommands = {json.dumps(commands)}\n")
    begun = time.monotonic()
    status, out, err = rig.run(*rig.words("--setup", str(setup), *SMALL, job=False))
    assert status == 0 and time.monotonic() - begun < 600, (out, err)
    assert rig.matrices() == FOUR and rig.comparison()["status"] == "complete"
    for backend in ("jax", "pytorch"):
        measured = json.loads((rig.directory / f"{backend}_portable_matrix.json").read_text())
        assert measured["backend"] == backend and measured["results"][0]["status"] == "ok"
        assert measured["cost_per_hour_usd"] == (2.7 if backend == "jax" else 4.5)
    assert "JAX" in (rig.directory / "final_report.md").read_text()
    rig.nothing_is_left()


@needs_hosts
@pytest.mark.parametrize(
    "real", [pytest.param(True, marks=needs_gcloud), False], ids=["google's client", "fake client"]
)
def test_no_quota(rig: Rig, real: bool) -> None:
    """Told within seconds, and before anything is created or paid."""
    rig.use_client(real=real)
    rig.cloud.gpu_quota = 0
    status, out, err = rig.run(*rig.words())
    record = next(step for step in rig.ledger.steps if step.side == "gpu")
    assert status == 1 and rig.cloud.created == []
    assert record.step == "preflight" and record.ended_utc is not None
    reason = (
        "gpu: no quota: GPUS-PER-GPU-FAMILY-per-project-region is 0 for NVIDIA_RTX_PRO_6000, us-east5; waiting does not"
    )
    assert reason in err and reason in rig.report() and "l4" not in (out + err).lower()
    assert rig.cloud.asked.count("quota gpu") == 1 and not any("create" in asked for asked in rig.cloud.asked)
    rig.nothing_is_left()


@pytest.mark.slow
@needs_hosts
def test_no_quota_and_a_partial_result(rig: Rig) -> None:
    rig.cloud.gpu_quota = 0
    status, out, err = rig.run(*rig.words("--allow-partial"))
    assert status == 0, (out, err)
    assert rig.cloud.created == ["mi-tpu-v6e1"] and rig.matrices() == FOUR[:2]
    comparison = rig.comparison()
    assert comparison["status"] == "partial" and "GPUS-PER-GPU-FAMILY" in comparison["blocker"]
    for text in (out, rig.report(), (rig.directory / "final_report.md").read_text()):
        assert "TPU-only partial" in text and "GPUS-PER-GPU-FAMILY" in text, text
    rig.nothing_is_left()

    rig.cloud.gpu_quota = 1  # it was granted: the other side alone is measured
    status, out, err = rig.run("orchestrate", "--resume", "--results-dir", str(rig.path / "results"))
    assert status == 0 and rig.comparison()["status"] == "complete", (out, err)
    assert rig.cloud.created == ["mi-tpu-v6e1", "mi-g4"]
    rig.nothing_is_left()


@needs_hosts
def test_one_side_cannot_be_had(rig: Rig) -> None:
    """No capacity for the one is the end of the other as well, which is not kept waiting and paid for."""
    rig.cloud.fault = lambda asked, kind: "stockout" if (asked, kind) == ("create", "gpu") else None
    status, out, err = rig.run(*rig.words())
    assert status == 1 and rig.matrices() == [] and "no capacity" in err
    assert not (rig.directory / "comparison.json").exists() and out.startswith("nothing was measured: ")
    rig.nothing_is_left()


@needs_hosts
@pytest.mark.slow
def test_machines_of_somebody_else(rig: Rig) -> None:
    """One of the same name keeps a run from beginning, and is never deleted; nor is one that takes the name later."""
    rig.cloud.plant("gpu", "mi-g4", {"team": "search"})
    status, _, err = rig.run(*rig.words())
    assert status == 1 and "exists already: there is a mi-g4 already (RUNNING); choose another name" in err
    assert rig.cloud.created == [] and ("gpu", "mi-g4") in rig.cloud.machines

    rig.cloud.machines.pop(("gpu", "mi-g4")).host.stop()

    def begins(work: object, step: str, side: str | None) -> None:
        if (step, side) == ("create", "gpu"):
            rig.cloud.plant("gpu", "mi-g4", {"multiitem-run": "another"})

    rig.begins = begins
    status, _, err = rig.run(*rig.words("--artifact-subdir", "second"))
    assert status == 1 and "somebody else's, and is left alone" in err, err
    assert [*rig.cloud.machines] == [("gpu", "mi-g4")]


@needs_hosts
def test_machines_that_are_taken_as_they_are(rig: Rig) -> None:
    """CREATE_RESOURCES=0: nothing is created, and nothing is deleted, but for what the run itself has put there."""
    keys = rig.path / "results" / "orchestrations" / "run" / "ssh"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", rig.path / "key"], check=True)
    public = (rig.path / "key.pub").read_text()
    for kind, name in (("tpu", "mi-tpu-v6e1"), ("gpu", "mi-g4")):
        rig.cloud.plant(kind, name, keys=public).host.wait_until_up()
    rig.monkeypatch.setenv("CREATE_RESOURCES", "0")
    status, out, err = rig.run(*rig.words("--ssh-key", str(rig.path / "key")))
    assert status == 0, (out, err)
    assert rig.cloud.created == [] and rig.matrices() == FOUR and "no machine was rented: 0.00 USD" in out
    assert not (keys / "id_ed25519").exists()
    for machine in rig.cloud.machines.values():
        assert machine.state in ("READY", "RUNNING") and [*machine.host.home.glob("multiitem-*")] == []
    rig.nothing_is_left(planted=2)


@needs_hosts
@pytest.mark.slow
def test_machines_are_kept_where_asked(rig: Rig) -> None:
    rig.monkeypatch.setenv("TEARDOWN_AT_END", "0")
    status, out, err = rig.run(*rig.words())
    assert status == 0 and len(rig.cloud.machines) == 2, (out, err)
    assert "kept, and paid for: mi-" in out and "multiitem orchestrate --teardown --artifact-subdir run" in out
    rig.monkeypatch.delenv("TEARDOWN_AT_END")
    status, out, err = rig.run("orchestrate", "--teardown", "--results-dir", str(rig.path / "results"))
    assert status == 0, (out, err)
    rig.nothing_is_left()
    assert rig.comparison()["status"] == "complete"
    again = rig.run("orchestrate", "--teardown", "--results-dir", str(rig.path / "results"))
    assert again[0] == 0 and again[1].startswith("nothing is left of the runs in ")


@needs_hosts
@pytest.mark.slow
def test_a_run_that_another_process_works_on(rig: Rig) -> None:
    rig.behave("jax", "slow")
    process = rig.start(*rig.words())
    try:
        wait_for(lambda: len(rig.cloud.machines) == 2)
        status, out, err = rig.run("orchestrate", "--teardown", "--results-dir", str(rig.path / "results"))
        assert (status, out) == (2, "") and f"process {process.pid} is at work on" in err
        assert len(rig.cloud.machines) == 2
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 143 and said.rstrip().endswith("ended by SIGTERM"), said
    rig.nothing_is_left()


@needs_hosts
@pytest.mark.slow
def test_a_closed_terminal(rig: Rig) -> None:
    """SIGHUP, and nobody reads any more: the machines are given back all the same."""
    rig.behave("jax", "slow")
    process = rig.start(*rig.words())
    assert process.stdout is not None
    for line in process.stdout:
        if "half" in line:
            break
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) in (129, 1)  # 1: the command line's own last line had no reader either
    rig.nothing_is_left()
    assert rig.matrices()[0] == "jax_portable_matrix.json"


@needs_hosts
@pytest.mark.parametrize("where", ["namespace", pytest.param("loopback", marks=pytest.mark.slow)])
def test_machines_that_exist(rig: Rig, where: str) -> None:
    """By ssh, with a configuration of the user's own; and this very machine as the other side."""
    if where == "namespace" and not namespaces():
        pytest.skip("NOT_RUN: network namespaces are not allowed here")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", rig.path / "own"], check=True)
    host = RealHost(rig.path / "existing", (rig.path / "own.pub").read_text(), own_network=where == "namespace")
    try:
        host.wait_until_up()
        config = rig.path / "config"
        config.write_text(
            f"Host my-tpu\n HostName {host.address}\n Port {host.port}\n User root\n IdentityFile {rig.path}/own\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {rig.path}/known\n StrictHostKeyChecking accept-new\n"
        )
        words = rig.words()
        if "--ssh-option" in words:  # the port is the configuration's here
            del words[words.index("--ssh-option") : words.index("--ssh-option") + 2]
        status, out, err = rig.run(*words, "--provider", "local", "--tpu-host", "my-tpu", "--ssh-config", str(config))
        assert status == 0, (out, err)
        assert rig.matrices() == FOUR and rig.cloud.asked == []
        assert [*host.home.glob("multiitem-*")] == [] and host.jobs() == []
        assert [*(rig.directory / "machines" / "gpu").iterdir()] == []
    finally:
        host.stop()


@needs_hosts
@pytest.mark.slow
def test_hostile_words_of_a_machine_and_of_the_service(rig: Rig) -> None:
    """Whatever a machine's job or the API says, it is text."""
    (rig.recorded / "python").write_text(
        "#!/bin/sh\nprintf '\\033]0;owned\\007 ::error::no\\nhf_abcdefghijklmnopqrstuv\\n'; exit 3\n"
    )
    rig.cloud.fault = lambda asked, kind: (
        (403, "\x1b[2J PERMISSION_DENIED\n::error::no") if (asked, kind) == ("delete", "tpu") else None
    )
    status, out, err = rig.run(*rig.words())
    assert status == 1
    assert "\x1b" not in out + err + rig.report() and "\x07" not in err
    assert "\n::error" not in out + err and "hf_abc" not in out + err + rig.report()
    rig.cloud.fault = lambda *_: None
    assert rig.run("orchestrate", "--teardown", "--results-dir", str(rig.path / "results"))[0] == 0
    rig.nothing_is_left()


def test_without_the_client(rig: Rig) -> None:
    """Nothing was begun: one line says what is missing."""
    only = rig.path / "bin"
    only.mkdir()
    for name in ("ssh", "rsync", "ssh-keygen", "sh"):
        (only / name).symlink_to(shutil.which(name) or "/bin/true")
    rig.monkeypatch.setenv("PATH", str(only))
    status, _, err = rig.run(*rig.words())
    assert status == 1 and "multiitem: gcloud: client missing: it is not on PATH" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--project", ""], "--project (or PROJECT) is not given: expected the id of your cloud project"),
        (["--gpu-name", "-rf"], "--gpu-name: '-rf' is not valid"),
        (["--tpu-zone", "us east"], "--tpu-zone: 'us east' is not valid: expected a zone, such as us-east5-b"),
        (["--artifact-subdir", "../x"], "--artifact-subdir: '../x' is not valid"),
        (["--provider", "aws"], "--provider 'aws' is not valid: expected gcloud, ssh or local"),
        (["--provider", "ssh"], "--provider ssh: no machine is named for the tpu; give --tpu-host [USER@]HOST"),
        (["--tpu-host", "-oProxyCommand=x"], "is no host"),
        (["--max-usd", "5"], "--max-usd needs the prices: give --tpu-usd-per-hour and --gpu-usd-per-hour"),
        (["--max-minutes", "0"], "--max-minutes 0 is not valid: expected more than 0"),
        (["--tpu-name", "same-x", "--gpu-name", "same-x"], "both machines are called same-x"),
        (
            ["--tpu-engine", "sgl-jx"],
            "no set-up for the engine 'sgl-jx'; expected sgl-jax, sglang, embedded (did you mean",
        ),
        (["--ssh-option", "Port"], "--ssh-option 'Port' is not valid: expected NAME=VALUE"),
        (["--client-chunk-sizes", "two"], "--compare-chunk-sizes 'two' is not valid"),
        (["--resume", "--teardown"], "are three different commands; give one of them"),
        (["--resume"], "there is no orchestration in "),
        (["--teardown", "--artifact-subdir", "none"], "cannot read "),
    ],
)
def test_what_cannot_be_asked_for(rig: Rig, words: list[str], said: str) -> None:
    status, out, err = rig.run("orchestrate", "--project", "p1", "--results-dir", str(rig.path / "results"), *words)
    assert (status, out) == (2, "") and said in err and err.count("\n") == 1, err
    assert rig.cloud.asked == [] and not [*rig.path.glob("results/orchestrations/*/ledger.json")]


def test_the_fake_client_is_the_first_on_path(rig: Rig) -> None:
    assert shutil.which("gcloud") == str(CLIENT / "gcloud")
