"""Servers under guards: started once, shared, found dead, and never left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pytest_multiitem.errors import StorageError
from pytest_multiitem.servers.errors import PortUnavailable, ServerDied, ServerError, ServerNotReady
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, RunningServer
from pytest_multiitem.servers.starter import Starter

ENGINE = """
import http.server, json, os, signal, socket, subprocess, sys, time

options = json.loads(sys.argv[2])
print("engine says hello", flush=True)
if options.get("ignore_term"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if options.get("own_group"):
    os.setpgid(0, 0)
children = []
for detached in options.get("grandchildren", []):
    code = "import time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    sleeper = [sys.executable, "-I", "-S", "-c", code]
    children.append(subprocess.Popen(sleeper, start_new_session=detached).pid)
time.sleep(options.get("delay", 0))
if "exit" in options:
    sys.exit(options["exit"])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            os._exit(7)
        fds = {}
        for fd in os.listdir("/proc/self/fd"):
            try:
                fds[fd] = os.readlink("/proc/self/fd/" + fd)
            except OSError:
                pass
        about = {"pid": os.getpid(), "children": children, "fds": fds, "env": dict(os.environ)}
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(about).encode())
    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., LaunchSpec]:
    """A factory: the fake engine, behaving as ``options`` say."""
    script = tmp_path / "engine.py"
    script.write_text(ENGINE)

    def build(*, env: dict[str, str | None] | None = None, **options: Any) -> LaunchSpec:
        command = (sys.executable, "-I", "-S", str(script), "{port}", json.dumps(options))
        return LaunchSpec("Fake engine", command, env or {}, preferred_port=23450, startup_timeout=5, stop_grace=0.3)

    return build


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ServerPool]:
    with ServerPool(tmp_path / "run", owner=True) as opened:
        yield opened


def about(url: str) -> dict[str, Any]:
    content: dict[str, Any] = httpx.get(url, timeout=2, trust_env=False).raise_for_status().json()
    return content


def ready(url: str) -> None:
    about(url)


def never(url: str) -> None:
    raise ConnectionError("scores are not finite")


def guard_of(server: RunningServer) -> psutil.Process:
    return psutil.Process(json.loads((server.directory / "state.json").read_text())["guard_pid"])


def watches_of(guard: psutil.Process) -> list[psutil.Process]:
    """The guard's parent and its parent: those before them are in another session."""
    return [each for each in guard.parents() if os.getsid(each.pid) == os.getsid(guard.pid)]


def family(server: RunningServer) -> list[psutil.Process]:
    """Watches, guard, anchor, engine and descendants, each known by pid AND creation time (psutil compares both)."""
    guard = guard_of(server)
    found = {*watches_of(guard), guard, *guard.children(recursive=True)}
    found |= {psutil.Process(pid) for pid in about(server.url)["children"]}
    return list(found)


def assert_gone(processes: list[psutil.Process], within: float = 0.1) -> None:
    """By default: they have ended already; a guard's lock is free an instant before the kernel removes it."""
    wait_until(lambda: not any(is_alive(process) for process in processes), within)


def wait_until(condition: Callable[[], bool], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_ended(server: RunningServer) -> None:
    """For a server that never answered: its guard has told of the end, and then ended itself."""
    state = json.loads((server.directory / "state.json").read_text())
    assert state["status"] == "exited"
    wait_until(lambda: not psutil.pid_exists(state["guard_pid"]), within=0.1)
    assert not psutil.pid_exists(state["engine_pid"])


def python(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Another process of the run, as an xdist worker is one."""
    code = "from pytest_multiitem.servers.pool import *\nimport sys\nfrom pathlib import Path\n"
    code += "import json, urllib.request\n"
    code += "def ready(url): urllib.request.urlopen(url, timeout=2).read()\n" + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def spec_arguments(spec: LaunchSpec) -> str:
    return json.dumps([spec.label, list(spec.command), dict(spec.env)])


SPEC_FROM_ARGUMENT = """
label, command, env = json.loads(sys.argv[2])
spec = LaunchSpec(label, tuple(command), env, preferred_port=23450, startup_timeout=5, stop_grace=0.3)
"""


def test_acquire_waits_until_ready_and_close_leaves_nothing(tmp_path: Path, spec: Any) -> None:
    with ServerPool(tmp_path / "run", owner=True) as pool:
        server = pool.acquire(spec(delay=0.3, grandchildren=[False]), ready)
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert server.poll() is None
        server.check_alive()
        processes = family(server)
        assert len(processes) == 6  # two watches, guard, anchor, engine, grandchild
    assert_gone(processes)
    assert server.log_path == tmp_path / "run" / "servers" / server.log_path.name
    assert "engine says hello" in server.log_path.read_text()
    with pytest.raises(ServerDied, match="SIGTERM"):
        server.check_alive()


def test_engine_inherits_nothing_and_is_cut_off_from_the_terminal(pool: ServerPool, spec: Any) -> None:
    server = pool.acquire(spec(env={"MULTIITEM_ADDED": "yes", "HOME": None}), ready)
    seen = about(server.url)
    files = {int(fd): name for fd, name in seen["fds"].items() if not name.startswith(("socket:", "/proc/"))}
    assert files == {0: "/dev/null", 1: str(server.log_path), 2: str(server.log_path)}
    assert seen["env"]["MULTIITEM_ADDED"] == "yes"
    assert "HOME" not in seen["env"]
    guard = guard_of(server)
    assert os.getsid(seen["pid"]) == os.getsid(guard.pid) != os.getsid(0)
    assert os.getpgid(seen["pid"]) not in (guard.pid, os.getsid(guard.pid), os.getpgid(0))


def test_the_port_stays_claimed_even_before_the_engine_binds_it(pool: ServerPool, spec: Any) -> None:
    starting = pool.start(spec(delay=30))
    beside = dataclasses.replace(spec(), preferred_port=starting.port)
    assert pool.acquire(beside, ready).port > starting.port
    strict = dataclasses.replace(beside, label="strict", strict_port=True)
    with pytest.raises(PortUnavailable, match=f"port {starting.port} .*has claimed it"):
        pool.acquire(strict, ready)


def test_death_during_start_tells_exit_code_and_log(pool: ServerPool, spec: Any) -> None:
    broken = spec(exit=3, delay=0.1)
    started = time.monotonic()
    with pytest.raises(ServerDied) as caught:
        pool.acquire(broken, ready)
    assert time.monotonic() - started < broken.startup_timeout / 2
    assert caught.value.returncode == 3
    assert "engine says hello" in caught.value.log_tail
    assert "exited with code 3 (by itself)" in str(caught.value)
    assert str(caught.value.log_path) in str(caught.value)


def test_a_command_that_does_not_exist_is_a_death_too(pool: ServerPool) -> None:
    with pytest.raises(ServerDied, match=r"could not be started.*no-such-engine") as caught:
        pool.acquire(LaunchSpec("absent", ("/no-such-engine",), preferred_port=23450), ready)
    assert caught.value.returncode == 127


def test_timeout_stops_the_server_and_tells_the_last_probe(pool: ServerPool, spec: Any) -> None:
    slow = dataclasses.replace(spec(), startup_timeout=0.4)

    def never_once_it_has_spoken(url: str) -> None:
        logs = pool.run_dir.joinpath("servers")
        wait_until(lambda: any(b"engine says hello" in log.read_bytes() for log in logs.glob("*.log")), within=20)
        never(url)

    with pytest.raises(ServerNotReady, match=r"within 0\.4 s.*scores are not finite") as caught:
        pool.acquire(slow, never_once_it_has_spoken)
    assert isinstance(caught.value.last_error, ConnectionError)
    assert "engine says hello" in caught.value.log_tail
    with pytest.raises(ServerDied, match="stopped on request") as stopped:
        pool.start(slow)
    assert_ended(RunningServer("", 0, stopped.value.log_path, next(pool.run_dir.glob("servers/*/0"))))


@pytest.mark.parametrize(
    "options",
    [
        {"ignore_term": True},
        {"grandchildren": [False, False]},
        {"grandchildren": [True]},
        {"own_group": True},
        {"own_group": True, "ignore_term": True, "grandchildren": [True, False]},
    ],
    ids=["ignores-SIGTERM", "grandchildren", "detached-grandchild", "own-group", "all"],
)
def test_stop_ends_even_the_stubborn(pool: ServerPool, spec: Any, options: dict[str, Any]) -> None:
    server = pool.acquire(spec(**options), ready)
    processes = family(server)
    server.stop()
    assert_gone(processes)
    expected = -signal.SIGKILL if options.get("ignore_term") else -signal.SIGTERM
    assert server.poll() == expected
    server.stop()  # idempotent


def test_stop_timeout_shortens_the_grace(pool: ServerPool, spec: Any) -> None:
    server = pool.acquire(dataclasses.replace(spec(ignore_term=True), stop_grace=60.0), ready)
    started = time.monotonic()
    server.stop(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    assert server.poll() == -signal.SIGKILL


def test_leftovers_end_when_the_engine_exits_by_itself(pool: ServerPool, spec: Any) -> None:
    server = pool.acquire(spec(grandchildren=[False, True]), ready)
    processes = family(server)
    with contextlib.suppress(httpx.HTTPError):
        httpx.get(server.url + "/crash", timeout=2, trust_env=False)
    assert_gone(processes, within=3)
    assert server.poll() == 7


def test_a_dead_server_stays_dead_for_everyone_unless_restarted(pool: ServerPool, spec: Any) -> None:
    chosen = spec()
    server = pool.acquire(chosen, ready)
    guard = guard_of(server)  # it may be gone as soon as the engine is
    psutil.Process(about(server.url)["pid"]).kill()
    assert_gone([guard], within=3)
    attached = ServerPool(pool.run_dir, owner=False)
    for anyone in (pool, attached):
        with pytest.raises(ServerDied, match="was killed by SIGKILL"):
            anyone.acquire(chosen, ready)
        with pytest.raises(ServerDied):
            anyone.start(chosen)
    again = attached.acquire(chosen, ready, restart=True)
    assert again.directory != server.directory
    assert pool.acquire(chosen, ready, restart=True) == again  # alive: nothing to restart
    assert server.poll() == -signal.SIGKILL  # the old handle still tells of the old server


@pytest.mark.parametrize(
    "options",
    [{"grandchildren": [False]}, {"own_group": True}],
    ids=["anchor-kills-the-group", "death-signal-kills-an-engine-outside-of-it"],
)
def test_killed_guard_takes_the_engine_along(pool: ServerPool, spec: Any, options: dict[str, Any]) -> None:
    server = pool.acquire(spec(ignore_term=True, **options), ready)
    processes = family(server)
    guard_of(server).kill()
    assert_gone(processes, within=3)
    with pytest.raises(ServerDied, match="its guard was killed"):
        server.check_alive()


def supervisors(server: RunningServer) -> dict[str, psutil.Process]:
    """Who supervises an engine, by name."""
    guard = guard_of(server)
    inner, outer = watches_of(guard)
    engine = about(server.url)["pid"]
    (anchor,) = (each for each in guard.children() if each.pid != engine)
    return {"outer": outer, "inner": inner, "guard": guard, "anchor": anchor, "engine": psutil.Process(engine)}


@pytest.mark.parametrize("killed", [*combinations(("outer", "inner", "guard", "anchor", "engine"), 2)], ids="+".join)
def test_any_two_that_are_killed_together_leave_nothing(pool: ServerPool, spec: Any, killed: tuple[str, str]) -> None:
    """Not even what ignores SIGTERM in a session of its own."""
    server = pool.acquire(spec(ignore_term=True, grandchildren=[True, False]), ready)
    other = pool.acquire(spec(name="of another engine", grandchildren=[True]), ready)
    processes, bystanders = family(server), family(other)
    found = supervisors(server)
    for name in killed:  # nobody runs between the two
        found[name].suspend()
    for name in killed:
        with contextlib.suppress(psutil.NoSuchProcess):  # the first took it along
            found[name].kill()
    assert_gone(processes, within=3)
    with pytest.raises(ServerDied):
        server.check_alive()
    assert all(is_alive(each) for each in bystanders)


@pytest.mark.parametrize("group", [*("outer", "inner", "guard", "anchor")])
def test_a_process_group_that_is_killed_leaves_nothing(pool: ServerPool, spec: Any, group: str) -> None:
    server = pool.acquire(spec(ignore_term=True, grandchildren=[True]), ready)
    processes = family(server)
    os.killpg(os.getpgid(supervisors(server)[group].pid), signal.SIGKILL)
    assert_gone(processes, within=3)


@pytest.mark.parametrize("watch", ["outer", "inner"])
def test_signalled_watch_ends_the_engine_as_the_guard_does(pool: ServerPool, spec: Any, watch: str) -> None:
    server = pool.acquire(spec(), ready)
    processes = family(server)
    supervisors(server)[watch].terminate()
    assert_gone(processes, within=3)
    with pytest.raises(ServerDied, match=r"was killed by SIGTERM \(its guard got SIGTERM\)"):
        server.check_alive()


def test_a_directory_that_somebody_removes_costs_the_account_and_nothing_else(tmp_path: Path, spec: Any) -> None:
    with ServerPool(tmp_path / "run", owner=True) as pool:
        server = pool.acquire(spec(grandchildren=[True]), ready)
        processes = family(server)
        shutil.rmtree(tmp_path / "run")
        assert about(server.url)["pid"]
        with pytest.raises(StorageError, match="do not remove it during"):
            server.check_alive()
        with pytest.raises(StorageError, match="do not remove it during"):
            pool.acquire(spec(name="another"), ready)
    assert_gone(processes, within=3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signalled_guard_ends_the_engine(pool: ServerPool, spec: Any, number: signal.Signals) -> None:
    server = pool.acquire(spec(), ready)
    processes = family(server)
    guard_of(server).send_signal(number)
    assert_gone(processes, within=3)
    with pytest.raises(ServerDied, match=f"its guard got {number.name}"):
        server.check_alive()


def test_servers_start_side_by_side(pool: ServerPool, spec: Any) -> None:
    specs = [spec(delay=0.5, name=name) for name in "abc"]
    started = time.monotonic()
    for each in specs:
        pool.start(each)
    assert pool.start(specs[0]) == pool.start(specs[0])
    servers = [pool.acquire(each, ready) for each in specs]
    assert time.monotonic() - started < 1.5  # one after another would take longer
    assert len({server.port for server in servers}) == 3
    processes = [process for server in servers for process in family(server)]
    pool.release_all()
    assert_gone(processes)


def test_a_starter_has_servers_ready_in_order_a_few_at_a_time(pool: ServerPool, spec: Any) -> None:
    first, slow, last = spec(name="first"), spec(name="slow", delay=3), spec(name="last")
    starter = Starter(pool, ready, at_once=1)
    starter.begin([first, slow, last, first])
    assert about(starter.server(first).url)
    assert not list(pool.run_dir.glob(f"servers/{last.key}/*")), "the last one has begun before the slow one is ready"
    starter.settle()
    assert len({starter.server(each).port for each in (first, slow, last)}) == 3


def test_a_starter_does_not_let_a_server_wait_that_is_asked_for(pool: ServerPool, spec: Any) -> None:
    slow, wanted, unplanned = spec(delay=30, name="slow"), spec(name="wanted"), spec(name="unplanned")
    starter = Starter(pool, ready, at_once=1)
    starter.begin([slow, wanted])
    assert about(starter.server(wanted).url) and about(starter.server(unplanned).url)
    starter.close()


def test_a_starter_hands_a_failure_to_who_asks_and_goes_on(pool: ServerPool, spec: Any) -> None:
    broken, good = spec(exit=3), spec()
    starter = Starter(pool, ready, at_once=1)
    starter.begin([broken, good])
    starter.settle()
    with pytest.raises(ServerDied, match="exited with code 3"):
        starter.server(broken)
    assert about(starter.server(good).url)


def test_a_closed_starter_begins_nothing(pool: ServerPool, spec: Any) -> None:
    slow, queued = spec(delay=30, name="slow"), spec(name="queued")
    starter = Starter(pool, ready, at_once=1)
    starter.begin([slow, queued])
    starter.close()
    pool.close()
    starter.settle()
    assert not list(pool.run_dir.glob(f"servers/{queued.key}/*"))


def test_stopping_a_server_that_is_just_starting(pool: ServerPool, spec: Any) -> None:
    server = pool.start(spec(delay=30))
    server.stop()
    assert server.poll() is not None
    assert_ended(server)


def test_two_processes_share_one_server_and_either_may_stop_it(pool: ServerPool, spec: Any) -> None:
    chosen = spec(delay=0.2)
    script = (
        SPEC_FROM_ARGUMENT
        + """
    pool = ServerPool(Path(sys.argv[1]), owner=False)
    server = pool.acquire(spec, ready)
    print(server.url, flush=True)
    if sys.stdin.readline() == "stop\\n":
        server.stop()
    """.replace("\n    ", "\n")
    )
    workers = [python(script, pool.run_dir, spec_arguments(chosen)) for _ in range(2)]
    urls = [line(worker) for worker in workers]
    server = pool.acquire(chosen, ready)
    assert urls == [server.url, server.url]
    assert server.log_path.read_text().count("engine says hello") == 1
    processes = family(server)

    # A worker's end is nobody's loss, not even if it is the one that started the server ...
    workers[0].communicate("leave\n", timeout=10)
    server.check_alive()
    assert about(server.url)["pid"] in {process.pid for process in processes}
    # ... but it can stop what another one has started.
    workers[1].communicate("stop\n", timeout=10)
    assert [worker.returncode for worker in workers] == [0, 0]
    assert_gone(processes)
    with pytest.raises(ServerDied, match="stopped on request"):
        server.check_alive()


def owner_script(ending: str) -> str:
    return (
        SPEC_FROM_ARGUMENT
        + "pool = ServerPool(Path(sys.argv[1]), owner=True)\n"
        + "server = pool.acquire(spec, ready)\n"
        + "print(server.directory, flush=True)\n"
        + ending
    )


@pytest.mark.parametrize(
    "ending",
    ["sys.stdin.read()", "import os, time\nif os.fork() == 0: time.sleep(3); os._exit(0)\nsys.stdin.read()"],
    ids=["alone", "with-a-forked-child"],
)
def test_owner_killed_with_sigkill_leaves_nothing(tmp_path: Path, spec: Any, ending: str) -> None:
    run_dir = tmp_path / "run"
    chosen = spec(ignore_term=True, grandchildren=[False])
    with python(owner_script(ending), run_dir, spec_arguments(chosen)) as owner:
        directory = Path(line(owner))
        server = ServerPool(run_dir, owner=False).acquire(chosen, ready)
        assert server.directory == directory
        processes = family(server)
        with pytest.raises(ServerError, match="another process owns"):
            ServerPool(run_dir, owner=True)
        owner.kill()
        owner.wait()
        assert_gone(processes, within=2)
    with pytest.raises(ServerDied, match="its owner ended"):
        server.check_alive()
    late = ServerPool(run_dir, owner=False)
    with pytest.raises(ServerError, match="the run has ended"):
        late.acquire(chosen, ready, restart=True)


def test_ctrl_c_in_the_middle_of_acquire_leaks_nothing(tmp_path: Path, spec: Any) -> None:
    run_dir = tmp_path / "run"
    script = SPEC_FROM_ARGUMENT + textwrap.dedent(
        """
        def blocking(url):
            print("probing", flush=True)
            sys.stdin.read()
        ServerPool(Path(sys.argv[1]), owner=True).acquire(spec, blocking)
        """
    )
    chosen = spec(grandchildren=[True], ignore_term=True)
    with python(script, run_dir, spec_arguments(chosen)) as owner:
        assert line(owner) == "probing"
        server = ServerPool(run_dir, owner=False).start(chosen)
        wait_until(lambda: port_is_open(server.port))
        processes = family(server)
        assert [is_alive(process) for process in processes] == [True] * 6
        owner.send_signal(signal.SIGINT)
        assert owner.wait(timeout=10) != 0
        assert_gone(processes)  # when the owner's process has ended, atexit has waited for all of them


def port_is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_without_an_owner_nothing_is_started(tmp_path: Path, spec: Any) -> None:
    orphan = ServerPool(tmp_path / "run", owner=False)
    with pytest.raises(ServerError, match="owner=True"):
        orphan.start(spec())
    assert list(tmp_path.glob("run/servers/*/*")) == []


def test_key_is_what_runs_and_not_where(spec: Any) -> None:
    one = spec(delay=1)
    assert dataclasses.replace(one, preferred_port=1, startup_timeout=1).key == one.key
    others = [
        dataclasses.replace(one, label="other"),
        dataclasses.replace(one, env={"A": "1"}),
        dataclasses.replace(one, env={"A": None}),
        spec(delay=2),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5
