"""Who may use the embedded engine's server: decided before there is a socket, and asked of every request."""

import argparse
import asyncio
import shutil
import subprocess
import sys

import httpx
import pytest
from test_app import REQUEST, make_service

from pytest_multiitem.engine import access, serve
from pytest_multiitem.engine.launch_line import ServeArgs, add_arguments
from pytest_multiitem.errors import UsageError
from pytest_multiitem.transport import listening

KEY = "k-1234567890"


def args_of(*words):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return ServeArgs.from_namespace(parser.parse_args(words))


@pytest.fixture
def bound(monkeypatch):
    """The addresses that a socket would be bound to; none is."""
    addresses = []

    class Socket:
        def __init__(self, *kind):
            pass

        def setsockopt(self, *option):
            pass

        def bind(self, address):
            addresses.append(address)

    monkeypatch.setattr(listening.socket, "socket", Socket)
    return addresses


@pytest.mark.parametrize(
    ("words", "key", "says"),
    [
        (["--host", "0.0.0.0"], None, "'0.0.0.0'; the embedded engine .* add --allow-remote .* MULTI_ITEM_API_KEY"),
        (["--host", "0.0.0.0"], KEY, "listens on loopback only"),  # a key alone opens nothing
        (["--host", "0.0.0.0", "--no-auth"], None, "listens on loopback only"),
        (["--host", "example.org"], None, "expected 127.0.0.1"),
        (["--host", "0.0.0.0", "--allow-remote"], None, "MULTI_ITEM_API_KEY holds no API key.* --no-auth"),
        (["--host", "0.0.0.0", "--allow-remote"], "a b", "MULTI_ITEM_API_KEY holds no API key: character 2"),
        (["--host", "0.0.0.0", "--allow-remote", "--api-key-env", "OTHER"], KEY, "OTHER holds no API key"),
        (["--host", "0.0.0.0", "--allow-remote", "--no-auth", "--api-key-env", "OTHER"], KEY, "contradict"),
        (["--host", "example.org", "--allow-remote", "--no-auth"], None, "'example.org'; expected an IP address"),
        (["--host", "127.0.0.1", "--api-key-env", "OTHER"], None, "OTHER holds no API key"),
    ],
)
def test_no_socket_is_bound_for_what_is_not_allowed(bound, monkeypatch, words, key, says):
    monkeypatch.delenv("MULTI_ITEM_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("MULTI_ITEM_API_KEY", key)
    args = args_of(*words, "--port", "31000")
    with pytest.raises(UsageError, match=says):
        access.access_of(args).bind(args.host, args.port)
    assert bound == []


@pytest.mark.parametrize(
    ("words", "key", "address", "warns"),
    [
        (
            ["--host", "0.0.0.0", "--allow-remote"],
            KEY,
            "0.0.0.0",
            "other machines can reach this server; requests need",
        ),
        (["--host", "0.0.0.0", "--allow-remote", "--no-auth"], None, "0.0.0.0", "NO ACCESS CONTROL"),
        (["--host", "::", "--allow-remote", "--no-auth"], None, "::", "NO ACCESS CONTROL"),
        (["--host", "192.0.2.1", "--allow-remote", "--no-auth"], None, "192.0.2.1", "NO ACCESS CONTROL"),
        (["--host", "localhost"], KEY, "127.0.0.1", None),
        (["--host", "127.0.0.1", "--allow-remote"], None, "127.0.0.1", None),
    ],
)
def test_what_is_allowed_is_bound_with_a_warning_where_others_may_come(bound, monkeypatch, words, key, address, warns):
    monkeypatch.delenv("MULTI_ITEM_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("MULTI_ITEM_API_KEY", key)
    args = args_of(*words, "--port", "31000")
    who = access.access_of(args)
    who.bind(args.host, args.port)
    assert bound == [(address, 31000)]
    assert who.warning is None if warns is None else warns in who.warning
    assert (who.key == KEY) == (key is not None and warns is not None)  # on loopback, that variable is the client's
    assert key is None or key not in (who.warning or "")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": KEY}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer {KEY}"}, 200),
    ],
)
def test_requests_bear_the_key(monkeypatch, given, status):
    monkeypatch.setenv("OTHER", KEY)
    app = serve.application(args_of("--api-key-env", "OTHER"), make_service())

    async def ask(method, path, **more):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://engine") as client:
            return await client.request(method, path, headers=given, **more)

    answer = asyncio.run(ask("POST", "/v1/score", json=REQUEST))
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "unauthorized" and KEY not in answer.text
        assert answer.headers["www-authenticate"] == "Bearer"
    assert asyncio.run(ask("GET", "/get_server_info")).status_code == status
    assert asyncio.run(ask("GET", "/health")).status_code == 200


def test_without_a_key_nothing_stands_before_the_service():
    service = make_service()
    assert type(serve.application(args_of(), service)).__name__ == "Starlette"


NAMESPACE = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
ASKS = """
import os, re, subprocess, sys, httpx
log = open("log", "w+")
line = ["--host", "0.0.0.0", "--port", "30010", "--allow-remote", "--skip-server-warmup", "--api-key-env", "OTHER"]
server = subprocess.Popen([sys.executable, "-m", "pytest_multiitem.engine.serve", *line], stderr=log)
try:
    while "serving" not in open("log").read():
        assert server.poll() is None, open("log").read()
    for headers in ({}, {"authorization": "Bearer " + os.environ["OTHER"]}):
        print(httpx.get("http://127.0.0.1:30010/get_server_info", headers=headers).status_code)
finally:
    server.terminate()
    print(server.wait())
print(open("log").read())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("unshare") and shutil.which("ip")), reason="unshare and ip are missing: apt install iproute2"
)
def test_a_server_that_others_may_reach_asks_for_its_key(tmp_path, monkeypatch):
    """In a network that holds nothing but its own loopback, so that nobody else can come."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network namespace")
    monkeypatch.setenv("OTHER", KEY)
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", ASKS], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout.split("\n")[:3] == ["401", "200", "0"], done.stdout + done.stderr
    assert "WARNING" in done.stdout and "other machines can reach this server" in done.stdout
    assert KEY not in done.stdout
