"""The proxy with faults: what it hands on, how it starts and ends, and the faults of ``multiitem serve``."""

import asyncio
import gzip
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from fake_backend import FakeBackend
from sockets import listening
from test_app import REQUEST, make_service

from pytest_multiitem.engine import serve as serve_module
from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.serve import build_service, serve
from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.active import ActiveFaults
from pytest_multiitem.faults.base import ScorerFault, WireFault
from pytest_multiitem.faults.catalogue import catalogue
from pytest_multiitem.faults.proxy import Each, Forward, proxy, wire_faults
from pytest_multiitem.reports.faults import listing
from pytest_multiitem.transport.client import FailureKind, ScoreClient, ScoreFailure

UPSTREAM = "http://upstream:1"


def through(upstream, method="POST", path="/v1/score", *, with_faults=lambda app: app, url=UPSTREAM, **request):
    """The answer of an ASGI application behind the proxy."""

    async def once():
        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(app=upstream)) as behind,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=with_faults(Forward(behind, url))), base_url="http://proxy"
            ) as http,
        ):
            return await http.request(method, path, **request)

    return asyncio.run(once())


class Recorder:
    """An ASGI application that keeps the requests it gets, and answers with given status, headers and body."""

    def __init__(self, status=200, headers=(), body=b"{}"):
        self.answer = status, list(headers), body
        self.scopes, self.bodies = [], []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        self.bodies.append((await receive())["body"])
        status, headers, body = self.answer
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


# -- handing on --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "request_"),
    [
        ("POST", "/v1/score", {"json": REQUEST | {"apply_softmax": True}}),
        ("POST", "/v1/score", {"json": {}}),
        ("POST", "/v1/score", {"content": b"\xff{"}),
        ("GET", "/get_server_info", {}),
        ("GET", "/v1/models?x=1", {}),
        ("POST", "/flush_cache", {}),
        ("GET", "/nowhere", {}),
        ("DELETE", "/v1/score", {}),
    ],
)
def test_without_a_fault_bodies_are_identical(method, path, request_):
    behind = create_app(make_service())
    faulty = through(behind, method, path, **request_)
    alone = through(behind, method, f"/healthy{path}", with_faults=Each, **request_)

    async def direct():
        transport = httpx.ASGITransport(app=create_app(make_service()))
        async with httpx.AsyncClient(transport=transport, base_url=UPSTREAM) as http:
            return await http.request(method, path, **request_)

    plain = asyncio.run(direct())
    if path == "/get_server_info":  # it counts, and the first request was counted
        assert faulty.json() == alone.json()
    assert (faulty.status_code, faulty.content) == (plain.status_code, plain.content)
    assert faulty.headers == plain.headers == alone.headers and alone.status_code == plain.status_code


def test_a_request_arrives_as_it_was_sent():
    behind = Recorder()
    through(
        behind,
        "PUT",
        "/a%2Fb/c%20d?x=1&y=%20&z",
        url="http://upstream:1/prefix/",
        content=b"body",
        headers={
            "authorization": "Bearer key", "x-own": "1", "connection": "x-hop, close", "x-hop": "1", "te": "trailers",
            "content-type": "text/plain", "accept-encoding": "br",
        },
    )  # fmt: skip
    scope, headers = behind.scopes[0], dict(behind.scopes[0]["headers"])
    assert (scope["method"], scope["raw_path"], scope["query_string"]) == (
        "PUT",
        b"/prefix/a%2Fb/c%20d",
        b"x=1&y=%20&z",
    )
    assert behind.bodies == [b"body"]
    assert headers.pop(b"host") == b"upstream:1"
    assert headers.pop(b"content-length") == b"4"
    headers.pop(b"user-agent"), headers.pop(b"accept")
    assert headers == {
        b"authorization": b"Bearer key", b"x-own": b"1", b"content-type": b"text/plain", b"accept-encoding": b"br"
    }  # fmt: skip


def test_an_answer_comes_back_as_it_was_sent():
    packed = gzip.compress(b"{}")
    headers = [
        (b"content-encoding", b"gzip"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"connection", b"x-hop"),
        (b"x-hop", b"1"), (b"content-length", b"%d" % len(packed)), (b"server", b"other"),
    ]  # fmt: skip
    response = through(Recorder(418, headers, packed), "GET", "/v1/models")
    assert response.status_code == 418 and response.content == b"{}"
    assert [(name, value) for name, value in response.headers.raw if name != b"connection"] == [
        pair for pair in headers if pair[0] not in (b"connection", b"x-hop")
    ]


def test_a_redirection_and_a_cookie_are_the_clients_to_follow():
    behind = Recorder(307, [(b"location", b"http://elsewhere/"), (b"set-cookie", b"a=1")], b"")
    assert through(behind, "GET", "/old").headers["location"] == "http://elsewhere/"
    assert len(behind.scopes) == 1


@pytest.mark.parametrize("broken", [httpx.ConnectError("refused"), httpx.RemoteProtocolError("Server disconnected")])
def test_a_server_that_does_not_answer_is_a_502(broken):
    def fail(request):
        raise broken

    async def once():
        async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as behind:
            forward = Forward(behind, "http://user:secret@upstream:1/prefix")
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=forward), base_url="http://proxy") as http:
                return await http.post("/v1/score", json=REQUEST)

    response = asyncio.run(once())
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (502, "bad_gateway", "server_error")
    assert "http://upstream:1/prefix, gave no answer" in error["message"] and "secret" not in response.text


def test_a_client_that_goes_away_takes_its_request_along():
    async def run():
        began, ended = asyncio.Event(), asyncio.Event()

        async def never(request):
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with httpx.AsyncClient(transport=httpx.MockTransport(never)) as behind:
            messages = [{"type": "http.request", "body": b"{}"}]

            async def receive():
                if messages:
                    return messages.pop()
                await began.wait()
                return {"type": "http.disconnect"}

            async def send(message):
                raise AssertionError("nobody listens")

            scope = {
                "type": "http", "method": "POST", "path": "/v1/score", "raw_path": b"/v1/score", "query_string": b"",
                "headers": [],
            }  # fmt: skip
            await Forward(behind, UPSTREAM)(scope, receive, send)
            async with asyncio.timeout(5):
                await ended.wait()

    asyncio.run(run())


# -- faults ------------------------------------------------------------------------------------


def test_faults_stand_before_the_server():
    behind = create_app(make_service())
    plain = through(behind, json=REQUEST).json()["scores"]
    both = ActiveFaults.parse(["labels_swapped", "short_list"])
    assert through(behind, json=REQUEST, with_faults=both.before).json()["scores"] == [plain[0][::-1]]


def test_each_fault_has_a_prefix():
    behind, request = create_app(make_service()), REQUEST | {"apply_softmax": True}

    def below(label, *only):
        return through(behind, "POST", f"/{label}/v1/score", with_faults=lambda app: Each(app, only), json=request)

    plain = below("healthy").json()["scores"]
    assert below("labels_swapped").json()["scores"] == [row[::-1] for row in plain]
    moved = below("drift=0.01").json()["scores"]
    assert abs(moved[0][0] - plain[0][0]) == pytest.approx(0.01)
    assert below("drift=0.01", "drift=0.01").status_code == 200
    for label, only, message in (
        ("drift", ["drift=0.01"], "no /drift=0.1; expected one of drift=0.01, healthy"),
        ("drft", [], "no fault is called 'drft'"),
        ("drift=2", [], "'2' is no strength"),
    ):
        response = below(label, *only)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
        assert message in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/healthy", "/healthy/", "/healthy/a/", "/healthy/a%2Fb?c"])
def test_a_prefix_is_taken_off(path):
    behind = Recorder()
    response = through(behind, "GET", path, with_faults=Each)
    if path == "/":
        assert response.status_code == 404 and not behind.scopes
        return
    rest = path.removeprefix("/healthy").partition("?")[0] or "/"
    assert behind.scopes[0]["raw_path"] == rest.encode()


def test_each_prefix_keeps_its_state():
    async def run():
        async def behind(scope, receive, send):
            await Recorder(200, [], b'{"scores":[[0.5,0.5]]}')(scope, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=behind)) as upstream:
            app = Each(Forward(upstream, UPSTREAM))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://proxy") as http:
                return [
                    (await http.post(f"/{label}/v1/score", json=REQUEST)).json()["scores"]
                    for label in ("nondeterministic", "nondeterministic=0.07", "nondeterministic=0.01")
                ]

    first, second, weaker = asyncio.run(run())
    assert first != second  # one label, one generator, which has gone on
    assert abs(weaker[0][0] - 0.5) == pytest.approx(abs(first[0][0] - 0.5) / 7)


# -- as a process ------------------------------------------------------------------------------


@contextmanager
def started(*argv):
    """A proxy process; gives the process, its URL and its line."""
    command = [sys.executable, "-m", "pytest_multiitem.faults.proxy", *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, re.search(r"http://[^ ]+", line).group(), line
    finally:
        process.kill()
        process.communicate()


def test_a_proxy_in_front_of_a_server():
    with (
        listening(create_app(make_service())) as url,
        started("--upstream", f"{url}/v1/score", "--fault", "dies=2") as (
            process,
            address,
            line,
        ),
    ):
        assert line == f"multiitem proxy: {address} in front of {url} with dies=2\n"
        assert not {name for name in ("torch", "jax", "jaxlib") if any(f"/{name}/" in m.path for m in maps(process))}
        want = httpx.post(f"{url}/v1/score", json=REQUEST)
        for _ in range(2):
            got = httpx.post(f"{address}/v1/score", json=REQUEST)
            assert got.content == want.content
            assert set(got.headers) == set(want.headers) and len(got.headers.raw) == len(want.headers.raw)
        children = psutil.Process(process.pid).children(recursive=True)
        with ScoreClient(address) as client, pytest.raises(ScoreFailure) as caught:
            client.score([1], [[2]], [3])
        assert caught.value.kind is FailureKind.CONNECTION
        assert process.wait(10) == 137 and children == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
        assert httpx.get(f"{url}/health").status_code == 200


def maps(process):
    return psutil.Process(process.pid).memory_maps()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_proxy_even_while_a_request_hangs(signum):
    with (
        listening(create_app(make_service())) as url,
        started("--upstream", url, "--fault", "hangs", "--fault", "rounded") as (process, address, line),
        httpx.Client() as http,
    ):
        assert line.endswith(" with hangs, rounded\n")
        assert http.post(f"{address}/v1/score", json=REQUEST).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            http.post(f"{address}/v1/score", json=REQUEST, timeout=0.2)
        hanging = threading.Thread(target=_ignore, args=(f"{address}/v1/score",))
        hanging.start()
        assert http.get(f"{address}/health").status_code == 200
        start = time.monotonic()
        process.send_signal(signum)
        assert process.wait(10) == 0 and time.monotonic() - start < 8
        hanging.join(5)
        assert not hanging.is_alive() and process.stderr.read() == ""


def _ignore(url):
    with suppress(httpx.HTTPError):
        httpx.post(url, json=REQUEST, timeout=30)


def test_a_proxy_starts_before_its_server(free_port):
    with started("--upstream", f"http://127.0.0.1:{free_port}", "--each") as (process, address, line):
        assert line.endswith(" with each of every fault of the wire\n")
        response = httpx.get(f"{address}/healthy/health")
        assert response.status_code == 502 and f"127.0.0.1:{free_port}" in response.json()["error"]["message"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0 and process.stderr.read() == ""


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--upstream"),
        (["--upstream", "127.0.0.1:3"], "--upstream is '127.0.0.1:3': expected an address such as"),
        (["--upstream", "http://h", "--fault", "drft"], "did you mean 'drift'"),
        (["--upstream", "http://h", "--fault", "drift=2"], "above 0 and below 0.5"),
        (["--upstream", "http://h", "--host", "0.0.0.0"], "the proxy has no access control"),
        (["--upstream", "http://h", "--port", "70000"], "--port is 70000"),
        (["--upstream", "http://h", "--workers", "2"], "--workers"),
    ],
)
def test_a_proxy_that_cannot_start_says_why(argv, says, capsys):
    assert proxy(argv) == 2
    message = capsys.readouterr().err
    assert says in message and "Traceback" not in message


def test_a_fault_of_the_engine_is_not_for_a_proxy(monkeypatch):
    class Leaks(ScorerFault):
        """Leaks."""

    leaks = Leaks()
    leaks.name = "leaks"  # of the instance alone: the class stays out of the catalogue
    monkeypatch.setattr("pytest_multiitem.faults.active.fault", lambda text: leaks)
    with pytest.raises(UsageError, match=r"leaks is a fault inside .* multiitem serve --fault leaks, .* permuted, "):
        wire_faults(["leaks"])


# -- multiitem serve ---------------------------------------------------------------------------


def arguments(*argv):
    from test_serve_args import parse

    return parse("--model-path", str(Path(__file__).parent), *argv)


def test_serve_without_faults_imports_nothing_of_them():
    code = (
        "import sys\n"
        "from pytest_multiitem.engine import serve\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from fake_backend import FakeBackend\n"
        "serve.load_backend = lambda *a, **k: FakeBackend()\n"
        "import argparse\n"
        "parser = argparse.ArgumentParser()\n"
        "serve.add_arguments(parser)\n"
        f"args = serve.ServeArgs.from_namespace(parser.parse_args(['--model-path', {str(Path(__file__).parent)!r}]))\n"
        "info = serve.build_service(args).info\n"
        "assert 'faults' not in info and args.faults is None\n"
        "print([name for name in sys.modules if name.startswith('pytest_multiitem.faults')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_serve_puts_faults_into_the_engine_and_before_it(monkeypatch):
    class Doubles(ScorerFault):
        """Scores twice as high."""

        def score(self, *args, **kwargs):
            result = self.inner.score(*args, **kwargs)
            result.scores[:] *= 2
            return result

    doubles = Doubles()
    doubles.name = "doubles"  # of the instance alone: the class stays out of the catalogue
    monkeypatch.setattr(serve_module, "load_backend", lambda *args, **kwargs: FakeBackend())
    healthy = build_service(arguments())
    assert type(healthy.scorer) is Scorer

    args = arguments("--fault", "labels_swapped", "--fault", "drift=0.01")
    service = build_service(args)
    assert type(service.scorer) is Scorer and service.info["faults"] == ["labels_swapped", "drift=0.01"]
    assert {name: value for name, value in service.info.items() if name != "faults"} == healthy.info

    known = {"doubles": doubles, "labels_swapped": catalogue()["labels_swapped"]()}
    monkeypatch.setattr("pytest_multiitem.faults.active.fault", known.__getitem__)
    args = arguments("--fault", "doubles", "--fault", "labels_swapped", "--fault", "doubles")
    service = build_service(args)
    assert service.info["faults"] == ["doubles", "labels_swapped", "doubles"]

    def ask(app):
        async def once():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://engine") as http:
                return (await http.post("/v1/score", json=REQUEST)).json()["scores"]

        return asyncio.run(once())

    plain = ask(create_app(healthy))
    assert ask(args.faults.before(create_app(service))) == [[4 * score for score in row[::-1]] for row in plain]


@pytest.mark.parametrize(
    ("fault", "says"), [("drft", "did you mean 'drift'"), ("drift=7", "below 0.5"), ("permuted=1", "has no strength")]
)
def test_serve_refuses_what_is_no_fault_before_it_loads_a_model(fault, says, capsys, monkeypatch):
    monkeypatch.setattr(serve_module, "load_backend", lambda *args, **kwargs: pytest.fail("loaded"))
    assert serve(["--port", "0", "--fault", fault]) == 2
    message = capsys.readouterr().err
    assert message.startswith("multiitem serve: error: ") and says in message


def test_a_faulty_server_says_so_and_dies(tmp_path):
    """`dies` in the embedded server: the process is gone at once, and leaves no child."""
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from fake_backend import FakeBackend\n"
        "from pytest_multiitem.engine import serve\n"
        "serve.load_backend = lambda *args, **kwargs: FakeBackend()\n"
        "sys.exit(serve.serve(sys.argv[1:]))\n"
    )
    argv = ["--port", "0", "--model-path", str(tmp_path), "--fault", "dies=1"]
    process = subprocess.Popen([sys.executable, "-c", script, *argv], stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if " on http://" in line:
                break
        assert any("WARNING" in line and "faulty on purpose: dies=1" in line for line in lines)
        url = lines[-1].split(" on ")[1].strip()
        assert httpx.get(f"{url}/get_server_info").json()["faults"] == ["dies=1"]
        assert len(httpx.post(f"{url}/v1/score", json=REQUEST).json()["scores"]) == 2
        children = psutil.Process(process.pid).children(recursive=True)
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{url}/v1/score", json=REQUEST)
        assert process.wait(10) == 137 and children == []
    finally:
        process.kill()
        process.communicate()


# -- multiitem faults --------------------------------------------------------------------------


def test_the_list_of_faults(multiitem):
    code, out, err = multiitem("faults")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert out == listing(catalogue()) and len(lines) == len(catalogue()) + 4
    wire = sum(issubclass(kind, WireFault) for kind in catalogue().values())
    assert lines[-1] == f"{len(catalogue())} faults: {len(catalogue()) - wire} of the engine, {wire} of the wire"
    drift = next(line for line in lines if re.match(r"F18 +drift ", line))
    assert " wire " in drift and "0.1, 0.015, 0.001" in drift and "towards 0.5" in drift and "graded" in drift


def test_the_proxy_is_a_command(multiitem):
    code, out, err = multiitem("proxy", "--upstream", "nowhere")
    assert (code, out) == (2, "") and "--upstream is 'nowhere'" in err
    code, out, err = multiitem("proxy", "--help")
    assert code == 0 and "--each" in out
