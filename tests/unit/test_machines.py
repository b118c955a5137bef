"""Machines, without one: what a service's words mean, which quota holds, how a job is found again."""

import json
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pytest_multiitem.machines.commands import Commands, Finished
from pytest_multiitem.machines.gcloud import G4, TpuVm, quota_limit
from pytest_multiitem.machines.hosts import LocalHost, SshHost, configuration, remote_error
from pytest_multiitem.machines.job import Job, parse_look
from pytest_multiitem.machines.problem import Kind, MachineError
from pytest_multiitem.machines.provider import State
from pytest_multiitem.machines.stop import Stop, Stopped

COMMON = {"zone": "us-east5-b", "project": "p1", "spot": False, "user": "me", "ssh": Path("/run/ssh/config")}
TPU, GPU = TpuVm(label="tpu", name="t1", **COMMON), G4(label="gpu", name="g1", **COMMON)
FIND = "(gcloud.compute.instances.create) Could not fetch resource:"


def failed(err, status=1, argv=("gcloud",), out=""):
    return Finished(argv, status, out, err)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (f"ERROR: {FIND}\n - Quota 'GPUS_PER_GPU_FAMILY' exceeded.  Limit: 0.0 in region R.\n", Kind.QUOTA,
         "Could not fetch resource: - Quota 'GPUS_PER_GPU_FAMILY' exceeded. Limit: 0.0 in region R."),
        (f"ERROR: {FIND}\n---\ncode: ZONE_RESOURCE_POOL_EXHAUSTED\nmessage: The zone is full.\n", Kind.CAPACITY,
         "Could not fetch resource: --- code: ZONE_RESOURCE_POOL_EXHAUSTED message: The zone is full."),
        ("ERROR: (gcloud.x) ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", Kind.CAPACITY, None),
        ("ERROR: (gcloud.compute.tpus.tpu-vm.create) RESOURCE_EXHAUSTED: Quota limit 'X' has been exceeded. Limit: 0",
         Kind.QUOTA, "RESOURCE_EXHAUSTED: Quota limit 'X' has been exceeded. Limit: 0"),
        ('Create request issued for: [t1]\nERROR: (gcloud.compute.tpus.tpu-vm.create) {\n  "code": 8,\n  "message": "'
         'There is no more capacity in the zone \\"Z\\"; you can try in another zone."\n}', Kind.CAPACITY, None),
        ("ERROR: (gcloud.a) You do not currently have an active account selected.\nPlease run:\n  $ gcloud auth login",
         Kind.LOGIN, None),
        ("ERROR: (gcloud.a) PERMISSION_DENIED: Required 'tpu.nodes.create' permission", Kind.PERMISSION, None),
        ("ERROR: (gcloud.a) The resource 'projects/p1/zones/z/instances/g1' already exists", Kind.EXISTS, None),
        ("ERROR: (gcloud.a) NOT_FOUND: Resource 'projects/p1/locations/z/nodes/t1' was not found", Kind.ABSENT, None),
        ("ERROR: gcloud crashed (ConnectionError): HTTPConnectionPool: Max retries exceeded\n\nIf you would like to "
         "report this issue, please run the following command:\n  gcloud feedback", Kind.SERVICE,
         "gcloud crashed (ConnectionError): HTTPConnectionPool: Max retries exceeded"),
        ("ERROR: (gcloud.a) HTTPError 503: backend error", Kind.SERVICE, None),
        ("ERROR: (gcloud.a) unrecognized arguments: --spto", Kind.OTHER, "unrecognized arguments: --spto"),
        ("", Kind.OTHER, "gcloud ended with exit status 1"),
    ],
)  # fmt: skip
def test_errors_of_the_client(text, kind, words):
    error = GPU.error("gpu", failed(text))
    assert error.kind is kind and (words is None or error.words == words), error
    assert "\n" not in str(error)


def test_a_quota_never_clears_by_waiting_and_a_stockout_may():
    assert "waiting does not help" in str(MachineError(Kind.QUOTA, "gpu", "0"))
    assert "try again later" in str(MachineError(Kind.CAPACITY, "gpu", "full"))


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("ERROR: (x) The resource 'projects/p1/zones/us-east5-b/instances/g1' was not found", True),
        ("ERROR: (x) The resource 'projects/p1/zones/us-east5-b' was not found", False),
        ("ERROR: (x) The resource 'projects/p1' was not found", False),
        ("ERROR: (x) The resource 'projects/p1/zones/us-east5-b/instances/g11' was not found", False),
        ("ERROR: (x) PERMISSION_DENIED: 'projects/p1/zones/us-east5-b/instances/g1'", False),
    ],
)
def test_a_machine_is_absent_only_where_it_is_named(text, absent):
    """A project that is not found would otherwise look like machines that are gone."""
    assert GPU.is_absent(GPU.error("gpu", failed(text))) is absent


def row(value, **dimensions):
    return {"dimensions": dimensions, "details": {"value": value}}


FAMILY, HERE = "NVIDIA_RTX_PRO_6000", {"gpu_family": "NVIDIA_RTX_PRO_6000", "region": "us-east5"}


@pytest.mark.parametrize(
    ("rows", "limit"),
    [
        ([row("0", gpu_family=FAMILY), row("4", gpu_family=FAMILY, region="us-east5")], 4),
        ([row("4", gpu_family=FAMILY), row("0", gpu_family=FAMILY, region="us-east5")], 0),
        ([row("8", gpu_family="NVIDIA_H100", region="us-east5"), row("0", gpu_family=FAMILY)], 0),
        ([row("0", region="europe-west4"), row("16")], 16),
        ([row("-1", **HERE)], -1),
        ([row("8", gpu_family="NVIDIA_H100")], None),
        ([row("many", **HERE), {"details": {}}, "nothing", None], None),
        ([], None),
    ],
)
def test_the_most_specific_quota_holds(rows, limit):
    assert quota_limit({"dimensionsInfos": rows}, HERE) == limit


@pytest.mark.parametrize("answer", [None, [], {}, {"dimensionsInfos": None}, {"dimensionsInfos": [{"dimensions": 3}]}])
def test_a_quota_that_says_nothing_is_no_zero(answer):
    GPU.checks()[0].judge(answer)
    assert quota_limit(answer, HERE) is None


def test_zero_quota_and_types_that_are_not_offered():
    with pytest.raises(
        MachineError, match="no quota: GPUS-PER-GPU-FAMILY-per-project-region is 0 for NVIDIA_RTX_PRO_6000"
    ):
        GPU.checks()[0].judge({"dimensionsInfos": [row("0", **HERE)]})
    with pytest.raises(MachineError, match=r"not offered: v6e-1 is not among the types of us-east5-b \(v5p-8\)"):
        TPU.checks()[1].judge([{"type": "v5p-8"}])
    with pytest.raises(MachineError, match="not offered: g4-standard-48 is no machine type"):
        GPU.checks()[1].judge([{"name": "g4-standard-96"}])
    TPU.checks()[1].judge([{"type": "v6e-1"}])
    GPU.checks()[1].judge([{"name": "g4-standard-48"}])


@pytest.mark.parametrize(
    ("machine", "answer", "state", "address"),
    [
        (TPU, {"state": "CREATING"}, State.COMING, None),
        (TPU, {"state": "READY", "networkEndpoints": [{"ipAddress": "10.0.0.2"}]}, State.READY, "10.0.0.2"),
        (TPU, {"state": "READY", "networkEndpoints": [{"ipAddress": "a", "accessConfig": {"externalIp": "b"}}]},
         State.READY, "b"),
        (TPU, {"state": "PREEMPTED"}, State.GONE, None),
        (TPU, {"state": "DELETING"}, State.LEAVING, None),
        (GPU, {"status": "STAGING"}, State.COMING, None),
        (GPU, {"status": "RUNNING", "networkInterfaces": [{"networkIP": "a", "accessConfigs": [{"natIP": "b"}]}]},
         State.READY, "b"),
        (GPU, {"status": "TERMINATED", "networkInterfaces": [{}]}, State.GONE, None),
        (GPU, None, State.GONE, None),
        (TPU, {"state": 3, "labels": [], "networkEndpoints": "none"}, State.GONE, None),
    ],
)  # fmt: skip
def test_states(machine, answer, state, address):
    seen = machine.seen(answer)
    assert (seen.state, seen.address) == (state, address)


def test_lost_connections_are_no_failed_commands():
    host = SshHost("gpu", "me@there")
    cases = {("ssh", 255): Kind.CONNECTION, ("ssh", 1): Kind.REMOTE, ("rsync", 12): Kind.CONNECTION,
             ("rsync", 30): Kind.CONNECTION, ("rsync", 23): Kind.REMOTE}  # fmt: skip
    for (client, status), kind in cases.items():
        assert remote_error(host, failed("it broke", status, (client,))).kind is kind
    assert remote_error(LocalHost("gpu", Path("/x")), failed("", 255, ("sh",))).kind is Kind.REMOTE


def test_the_users_own_options_come_first():
    """ssh takes the first value that it is given."""
    words = SshHost("gpu", "there", ("ConnectTimeout=2",), Path("c"), Path("k")).shell("uname")
    assert words[:5] == ["ssh", "-F", "c", "-i", "k"] and words[-2:] == ["there", "sh -c uname"]
    assert words.index("ConnectTimeout=2") < words.index("ConnectTimeout=10") and "BatchMode=yes" in words


@pytest.mark.skipif(shutil.which("ssh") is None, reason="NOT_RUN: no ssh on PATH; apt-get install openssh-client")
def test_a_rented_machine_is_reached_by_a_configuration_of_the_run(tmp_path):
    """As ssh itself reads it; the user's options win."""
    config = tmp_path / "config"
    config.write_text(configuration(["ConnectTimeout=2", "Port=2222"], Path("/a b/key"), Path("/a b/known")))
    said = subprocess.run(["ssh", "-G", "-F", config, "me@1.2.3.4"], capture_output=True, text=True, check=True).stdout
    expected = (
        "connecttimeout 2", "port 2222", "batchmode yes", "identityfile /a b/key", "identitiesonly yes",
        "stricthostkeychecking accept-new", "userknownhostsfile /a b/known", "serveraliveinterval 5",
    )  # fmt: skip
    for line in expected:
        assert line in said.splitlines(), said
    assert GPU.host("1.2.3.4", "gpu-1").shell("true") == [
        "ssh", "-F", "/run/ssh/config", "-o", "HostKeyAlias=gpu-1", "me@1.2.3.4", "sh -c true",
    ]  # fmt: skip


@pytest.fixture
def shell(tmp_path):
    def run(command):
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout

    (tmp_path / "d").mkdir()
    return run


def until(shell, job, *states):
    end = time.monotonic() + 30
    while (looked := parse_look(shell(job.look(0)))).state not in states:
        assert time.monotonic() < end, looked
        time.sleep(0.02)
    return looked


def test_a_job_outlives_who_started_it_and_says_how_it_ended(shell):
    job = Job("d", 1)
    assert parse_look(shell(job.look(0))).state == "none"
    shell(job.start("echo one; echo 'tw''o'; exit 3"))
    looked = until(shell, job, "ended")
    assert (looked.status, looked.log) == (3, b"one\ntwo\n")
    assert parse_look(shell(job.look(4))).log == b"two\n"
    shell(job.start("echo again"))  # the attempt has been: nothing begins twice
    assert parse_look(shell(job.look(0))).log == b"one\ntwo\n"


def test_a_job_is_ended_with_all_that_it_has_started(shell, tmp_path):
    job = Job("d", 2)
    shell(job.start("trap '' TERM; sleep 300 & echo $! >child; wait"))
    until(shell, job, "running")
    while not ((tmp_path / "d/child").exists() and (tmp_path / "d/child").read_text().endswith("\n")):
        time.sleep(0.02)
    shell(job.end(1))
    assert parse_look(shell(job.look(0))).state == "vanished"
    child = int((tmp_path / "d/child").read_text())
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(child).status() == psutil.STATUS_ZOMBIE  # nobody has buried it yet
    assert shell(job.end(1)) == ""  # again, and nothing happens


def test_a_pid_that_is_another_process_by_now_is_left_alone(shell, tmp_path):
    with subprocess.Popen(["sleep", "300"]) as bystander:
        (tmp_path / "d/job-3").mkdir()
        (tmp_path / "d/job-3/pid").write_text(f"{bystander.pid} 1\n")
        assert parse_look(shell(Job("d", 3).look(0))).state == "vanished"
        shell(Job("d", 3).end(1))
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("output", ["", "Welcome to the machine\nrunning\n", "ended\n", "ended x\n", "running now\n"])
def test_what_is_no_state_of_a_job(output):
    with pytest.raises(ValueError, match="no state of a job"):
        parse_look(output)


def test_commands_end_in_time_and_when_they_are_told(tmp_path):
    with pytest.raises(MachineError, match=r"sleep: no answer in time: it did not end within 0\.3 s"):
        Commands(Stop()).run(["sleep", "300"], timeout=0.3)
    with pytest.raises(MachineError, match="nothing-such: client missing: cannot be run: No such file"):
        Commands(Stop()).run(["nothing-such"], timeout=1)
    stop = Stop(lambda: "enough" if (tmp_path / "begun").exists() else None)
    begun = time.monotonic()
    with pytest.raises(Stopped, match="enough"):
        Commands(stop).run(["sh", "-c", f"touch {tmp_path}/begun; sleep 300"], timeout=300)
    assert time.monotonic() - begun < 60
    with pytest.raises(Stopped, match="enough"):
        stop.wait(300)


def test_commands_that_flood():
    with pytest.raises(MachineError, match="it wrote more than 8 MiB"):
        Commands(Stop()).run(["yes"], timeout=60)


def test_bytes_of_a_log_are_counted_as_they_came():
    done = Commands(Stop()).run(["printf", "running\\n\\377\\376x"], timeout=30)
    assert parse_look(done.out).log == b"\xff\xfex"
    assert json.dumps(done.status) == "0"
