"""No secret gets into what a command prints or writes, in whatever form it was given or told."""

import json
import sys

import pytest

from hostile_servers import served
from pytest_multiitem.errors import UsageError
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, wait_ready
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.attach import client_of
from pytest_multiitem.transport.address import Address, api_key
from pytest_multiitem.untrusted.secrets import redacted, redacted_command, without_credentials, without_secrets
from secret_forms import Secrets, echoing, environment, info_with, with_login


@pytest.fixture
def secrets():
    return Secrets()


@pytest.fixture(params=["healthy", "echo", "refuses"])
def urls(request, secrets):
    """A multi-item and a serial server that tell more than they should; their addresses, with a login each."""
    score = {"healthy": None, "echo": echoing(secrets), "refuses": echoing(secrets, b"401 Unauthorized")}[request.param]
    hostile = {} if score is None else {"/v1/score": score}
    info = info_with(secrets)
    packs, scores = {"multi_item_scoring_delimiter": 151_643}, {"multi_item_scoring_delimiter": None}
    with served(hostile, info=info | packs) as multi, served(hostile, info=info | scores) as serial:
        yield (
            with_login(multi.url, secrets, "login"),
            with_login(serial.url, secrets, "encoded login", encoded=True),
        )


SMALL = ("--query-tokens", 8, "--item-tokens", 4)
COMMANDS = {
    "evaluate": ("evaluate", "--mode", "multi", "--url", "{multi}", "--output-json", "e.json", *SMALL, "--items", 1,
                 "--timed-runs", 1, "--warmup-runs", 0),
    "evaluate serial": ("evaluate", "--mode", "serial", "--url", "{serial}", "--output-json", "e.json", *SMALL,
                        "--items", 1, "--timed-runs", 1, "--warmup-runs", 0),
    "load": ("load", "--url", "{multi}", "--concurrency", 1, "--duration", 0.1, "--num-items", 2, *SMALL,
             "--output-json", "l.json"),
    "workload": ("workload", "--output", "w.json", "--url", "{serial}", "--query-tokens", 8, "--item-tokens", 4,
                 "--items", 2),
    "compare": ("compare", "run", "--backend", "pytorch", "--multiitem-compare-urls", "pytorch={multi}",
                "--serial-url", "{serial}", "--multiitem-bench-items", 4, "--multiitem-bench-query-tokens", 8,
                "--multiitem-views", "portable", "--multiitem-compare-chunk-sizes", 4,
                "--multiitem-confirm-runs", 1, "--multiitem-bench-timed-runs", 1, "--compare-dir", "c"),
    "ab": ("ab", "--a", "MULTI_ITEM_MULTI_URL={multi}", "--b", "MULTI_ITEM_MULTI_URL={multi}/v1/score",
           "--backend", "pytorch", "--multiitem-bench-items", 4, "--multiitem-bench-query-tokens", 8,
           "--multiitem-bench-timed-runs", 1, "--output-json", "ab.json"),
    "a wrong address": ("load", "--url", "{multi}:x"),
    "a wrong setting": ("compare", "run", "--multiitem-compare-urls", "pytorch={multi}x?y"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_tells_a_secret(command, urls, secrets, multiitem, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in environment(secrets).items():
        monkeypatch.setenv(name, value)
    words = [str(word).format(multi=urls[0], serial=urls[1]) for word in COMMANDS[command]]
    status, out, err = multiitem(*words)
    assert status in (0, 1, 2) and "Traceback" not in err and out + err
    assert len(secrets.values) >= 25
    assert secrets.leaks(tmp_path, out, err) == []


def test_the_logins_and_the_key_are_sent(secrets, monkeypatch):
    """They are kept from files, not from the server."""
    for name, value in environment(secrets).items():
        monkeypatch.setenv(name, value)
    with served() as server:
        for url in (server.url, with_login(server.url, secrets, "login", encoded=True)):
            with client_of(url, Settings()) as client, client.another() as other:
                client.get("/health")
                other.get("/health")
    sent = [asked.headers["authorization"] for asked in server.seen]
    key = f"Bearer {secrets.of('key in the environment')}"
    assert sent[:2] == [key, key] and sent[2] == sent[3] and sent[2].startswith("Basic ")


def test_a_leak_would_be_found(secrets, tmp_path):
    (tmp_path / "a").write_text(f"x {secrets.of('one')}")
    assert secrets.leaks(tmp_path, secrets.of("two")) == [("a text", "two"), (str(tmp_path / "a"), "one")]


def test_a_server_tells_what_is_no_secret(secrets):
    info = info_with(secrets)
    shown = json.loads(json.dumps(redacted(info)))
    assert set(shown) == set(info) and secrets.found_in(json.dumps(shown).encode()) == []
    for name in ("model_path", "dtype", "vocab_size", "tokenizer_path", "max_multi_item_seq_len"):
        assert shown[name] == info[name]
    assert shown["environment"]["PATH"] == "/bin" and shown["argv"][3:5] == ["--port", "1"]
    assert shown["server_args"] == "ServerArgs(model='m', api_key=[redacted], port=1)"


@pytest.mark.parametrize(
    "text",
    [
        "max_total_tokens: 4096", "eos_token='</s>', pad_token: x", "label_token_ids=[1, 2]", "token_logprobs: None",
        "the limit is 8 tokens; expected at most 8", "tokenizer_path=/models/m", "cache key: a", "keyfile: /x/y.pem",
        "http://127.0.0.1:30010/v1/score did not answer", "api_key=None, password=null", "secrets: true",
        "unexpected token: 5", "a@b.example wrote", "MULTI_ITEM_API_KEY", "--api-key-env NAME", "input_tokens=12",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_left_alone(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "http://u:a/{}@h:1/x", "http://u:a b{}@h", "http://u:{}@h:x", "https://h?token={}", "http://u:p{}\u2028@h",
        "pytorch=http://u:{}@h:x,jax=http://v:w@i", "ftp://u:{}@h", "http://u:{}@",
    ],
)  # fmt: skip
def test_no_wrong_address_is_shown_whole(text, multiitem):
    given = text.format("SeCrEt")
    assert "SeCrEt" not in without_credentials(given)
    for words in (("load", "--url", given), ("compare", "run", "--multiitem-compare-urls", given)):
        status, out, err = multiitem(*words)
        assert status == 2 and "expected" in err and "SeCrEt" not in out + err


@pytest.mark.parametrize(
    ("value", "key"),
    [("K1234\n", "K1234"), ("K1234\r\n", "K1234"), (" K1234\t", "K1234"), ("", None), ("\n", None), ("K", "K")],
)
def test_a_key_is_read_without_space_around_it(value, key, monkeypatch):
    monkeypatch.setenv("A_KEY", value)
    assert api_key("A_KEY") == key and "K1234" not in repr([api_key("A_KEY")])


@pytest.mark.parametrize(
    "value", ["SeCrEt\nx", "SeCr\x00Et"[:4] + "\x01", "SeCrEtü", "\u201cSeCrEt\u201d", "Se CrEt", "SeCrEt\x7f"]
)
def test_a_key_that_no_header_can_carry_is_an_error_that_does_not_show_it(value, monkeypatch, multiitem):
    monkeypatch.setenv("MULTI_ITEM_API_KEY", value)
    with pytest.raises(UsageError, match=r"MULTI_ITEM_API_KEY holds no API key: character \d+ of \d+") as caught:
        api_key("MULTI_ITEM_API_KEY")
    assert "SeCr" not in str(caught.value)
    status, out, err = multiitem("load", "--url", "http://127.0.0.1:9")
    assert status == 2 and err.count("\n") == 1 and "SeCr" not in out + err


@pytest.mark.parametrize("name", ["sk-SeCrEt-1234", "SeCrEt.x", "a b SeCrEt", "=SeCrEt", "hf_SeCrEtSeCrEtSeCrEt"])
def test_a_key_instead_of_a_name_is_not_shown(name, multiitem):
    for words in (("load", "--url", "http://127.0.0.1:9", "--api-key-env", name),
                  ("launch", "embedded-multi", "--dry-run", "--multiitem-api-key-env", name)):  # fmt: skip
        status, out, err = multiitem(*words)
        assert status == 2 and "NAME of an environment variable" in err and "SeCrEt" not in out + err


def test_words_of_a_command_line():
    words = ["x", "--url=http://u:S@h/p", "--api-key", "S", "--multi-url", "http://S@h", "TOKEN=S", "-k", "a or b"]
    assert redacted_command(words) == [
        "x", "--url=http://[redacted]@h/p", "--api-key", "[redacted]", "--multi-url", "http://[redacted]@h",
        "TOKEN=[redacted]", "-k", "a or b",
    ]  # fmt: skip


def test_an_address_keeps_its_login_to_itself():
    address = Address("http://me%40x:p%2Fw@host:8/x/v1/score/")
    assert (str(address), repr(address), f"{address}") == ("http://host:8/x", "'http://host:8/x'", "http://host:8/x")
    assert address.login == ("me@x", "p/w") and "p/w" not in repr(address.login) and Address(address) is address
    assert Address("https://[::1]:8/").login is None


def test_a_launch_profile_is_shown_without_its_secrets(multiitem, tmp_path, secrets):
    own = tmp_path / "own.toml"
    own.write_text(
        f"""
        [own]
        engine = "embedded"
        role = "multi"
        port = 30010
        about = "x"
        env.HF_TOKEN = "{secrets.of("variable")}"
        flags.api-key = "{secrets.of("flag")}"
        """
    )
    status, out, err = multiitem("launch", "own", "--dry-run", "--backend", "pytorch", "--multiitem-profiles", own)
    assert (
        status == 0 and "HF_TOKEN=" in out and "--api-key" in out and secrets.leaks(tmp_path / "none", out, err) == []
    )


def test_the_log_of_a_server_that_the_run_started_tells_none(secrets, tmp_path):
    """Engines log the arguments that they were given."""
    engine = tmp_path / "engine.py"
    engine.write_text(
        "import sys, time\n"
        "print(f'ServerArgs(model=1, api_key={sys.argv[2]!r}, port=5)\\r\\nall the rest', flush=True)\n"
        "time.sleep(60)\n"
    )
    key = secrets.of("flag")
    spec = LaunchSpec("an engine", (sys.executable, str(engine), "--api-key", key), env={"HF_TOKEN": secrets.of("env")})
    assert secrets.found_in(repr(spec).encode()) == []

    def ready(url):
        assert key.encode() in log.read_bytes()

    with ServerPool(tmp_path / "run", owner=True) as pool:
        server = pool.start(spec)
        log = server.log_path
        wait_ready(server, ready, 20)
    assert secrets.leaks(tmp_path) == []
    assert b"ServerArgs(model=1, api_key=[redacted], port=5)\r\nall the rest" in log.read_bytes()
