"""``multiitem accept``: one answer from servers that run, and one line for what is typed wrong."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from inner_project import closed_port, wait_until

from pytest_multiitem import cli
from pytest_multiitem.signals import ENDING
from pytest_multiitem.validation.validate import examine

Start = Callable[..., str]
Accept = Callable[..., tuple[int, str, str]]
#: A directory with a tokenizer, as of a model that lies on this machine: texts are sent as well.
TOKENIZER = Path(cli.__file__).parent / "engine" / "data"
#: What makes the evidence small; that it is enough for a verdict is the suites' own affair.
SMALL = (
    "--effort=quick", "--multiitem-compare-chunk-sizes=8,16,32", "--multiitem-max-in-flight=2",
)  # fmt: skip
#: Seconds more a one-item request takes, so that the saving shows on a busy machine as well.
SLOW = ("--fault", "sleep=0.003")
GOOD = {"query": [17, 18, 19, 20], "items": [[101, 102], [103], [104, 105, 106]], "label_token_ids": [9454, 2753]}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with no setting of this environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MULTI_ITEM_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def accept(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Accept:
    """Run the command in this process; gives exit status, standard output and standard error."""

    def run(*words: str, before: Sequence[str] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["multiitem", *before, "accept", *words])
        handlers = {number: signal.getsignal(number) for number in ENDING}
        with pytest.raises(SystemExit) as caught:
            cli.main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def answer_in(place: Path) -> dict[str, Any]:
    """The answer of the one run there, which is valid, as its records are."""
    (path,) = place.glob("multiitem-results/*-*/answer.json")
    for file in (path, path.parent / "matrix.json"):
        assert examine(file).problems == []
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


# What is measured


def test_two_healthy_servers_are_a_yes(accept: Accept, place: Path, server: Start) -> None:
    lines = []
    for at in range(3):
        items = [[token + at for token in item] for item in GOOD["items"] * 8]
        lines.append(json.dumps({**GOOD, "query": [*GOOD["query"], at], "items": items}))
    (place / "traffic.jsonl").write_text("\n".join(lines))
    urls = ["--multi-url", server("multi"), "--serial-url", server("serial", *SLOW)]
    code, out, err = accept(*urls, *SMALL, "--workload", "traffic.jsonl")
    answer = answer_in(place)
    assert (code, answer["answer"], answer["exit_status"]) == (0, "YES", 0), out
    assert out.startswith(f"{answer['sentence']}\n")
    assert re.match(
        r"YES: packing \d+ candidates a request gives every candidate the score it gets alone \(largest difference 0, "
        r"3 requests of your traffic, [\d,]+ answers compared\) and is [\d.]+ times as fast "
        r"\(95 %: [\d.]+ to [\d.]+\); deploy \d+ a request: \d+ is .+\.$",
        answer["sentence"],
    )
    assert answer["deploy"] in (8, 16, 24) and answer["given"]["own_traffic"] and answer["given"]["requests"] == 3
    assert {line["verdict"] for line in answer["gates"] if line["needed"]} == {"PASS"}
    (run,) = place.glob("multiitem-results/*-*")
    assert (place / "multiitem-results/latest").resolve() == run.resolve() and (run / "report.md").is_file()
    names = "report.html, report.md, answer.json, matrix.json"
    assert out.endswith(f"\nresults: multiitem-results/{run.name}/{names}\n")
    page = (run / "report.html").read_text()
    assert "<title>YES: " in page and f"deploy: {answer['deploy']}" in page and ">Every verdict</a></h2>" in page
    stated = {each["name"]: each for each in json.loads((run / "matrix.json").read_bytes())["settings"]}
    origins = {name: each["origin"] for name, each in stated.items()}
    assert {origins[name] for name in ("multi_url", "serial_url", "workload", "effort")} == {"command line"}
    assert {origins[name] for name in ("property_examples", "property_max_tokens", "workload_sample")} == {
        "effort quick"
    }
    assert origins["compare_chunk_sizes"] == "command line" and origins["semantics"] == "default"
    steps = [line for line in err.splitlines() if re.match(r"\[ *\d+ s, about \d+ s left\] ", line)]
    assert len(steps) > 15 and any("PASS content_isolation" in line for line in steps)
    assert not (run / "pytest.ini").exists() and "Traceback" not in out + err


@pytest.mark.slow
def test_rounding_by_the_shape_of_a_batch_is_a_yes_that_says_so(accept: Accept, place: Path, server: Start) -> None:
    urls = ["--multi-url", server("multi", "--fault", "shapes"), "--serial-url", server("serial", *SLOW)]
    code, out, _ = accept(*urls, *SMALL)
    answer = answer_in(place)
    assert (code, answer["answer"]) == (0, "YES"), out
    assert "the score it gets alone, up to rounding (" in answer["sentence"]
    assert "changed_length_isolation_zero" in answer["rounding"]
    verdicts = {line["gate"]: line["verdict"] for line in answer["gates"]}
    assert all(verdicts[name] == "INCONCLUSIVE" for name in answer["rounding"])
    assert verdicts["content_isolation"] == verdicts["length_isolation"] == "PASS"


@pytest.mark.slow
def test_far_more_than_rounding_is_no_yes(accept: Accept, place: Path, server: Start) -> None:
    urls = ["--multi-url", server("multi", "--fault", "shapes=0.05"), "--serial-url", server("serial", *SLOW)]
    code, out, _ = accept(*urls, *SMALL)
    assert code in (1, 5) and answer_in(place)["rounding"] == [], out


@pytest.mark.slow
def test_a_module_and_a_password_reach_the_gates_and_the_password_no_file(
    accept: Accept, place: Path, server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "theirs.py").write_text(
        "from pathlib import Path\n\n\ndef pytest_configure(config):\n    Path('loaded.txt').write_text('by pytest')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(place), prepend=os.pathsep)
    monkeypatch.syspath_prepend(place)
    login = ("--fault", "login=her-name:her-word")
    urls = []
    for role, more in (("multi", ()), ("serial", SLOW)):
        urls += [f"--{role}-url", server(role, *login, *more).replace("://", "://her-name:her-word@")]
    code, out, err = accept(*urls, *SMALL, before=("-p", "theirs"))
    assert (code, answer_in(place)["answer"]) == (0, "YES"), out + err
    assert (place / "loaded.txt").read_text() == "by pytest", "only a pytest run calls this hook"
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"answer.json", "matrix.json", "report.html", "gates.log"} <= {path.name for path in files}
    encoded = base64.b64encode(b"her-name:her-word").decode()
    for said in (out, err, *(path.read_text(errors="replace") for path in files)):
        assert "her-word" not in said and encoded not in said


@pytest.mark.slow
@pytest.mark.parametrize("silent", [[], ["--fault", "silent"]], ids=["tells", "tells nothing"])
def test_a_leak_before_the_server_is_a_no_in_plain_words(
    accept: Accept, place: Path, server: Start, proxy: Start, silent: list[str]
) -> None:
    multi, serial = server("multi", *silent), server("serial", *silent, *SLOW)
    code, out, _ = accept("--multi-url", proxy(multi, "softmax_over_items"), "--serial-url", serial, *SMALL)
    answer = answer_in(place)
    assert (code, answer["answer"], answer["deploy"]) == (1, "NO", None), out
    assert out.startswith("NO: do not pack on this server as it is: a candidate's score changes when ")


@pytest.mark.slow
def test_servers_that_tell_nothing_are_a_yes_as_well(accept: Accept, place: Path, server: Start) -> None:
    silent = ("--fault", "silent")
    code, out, _ = accept(
        "--multi-url", server("multi", *silent), "--serial-url", server("serial", *silent, *SLOW), *SMALL
    )
    assert (code, answer_in(place)["answer"]) == (0, "YES"), out


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "code", "word"), [([], 0, "YES"), (["--fault", "leak"], 1, "NO")])
def test_one_server_for_both_sides(
    accept: Accept, place: Path, server: Start, fault: list[str], code: int, word: str
) -> None:
    got, out, _ = accept("--url", server("multi", "--model", str(TOKENIZER), *SLOW, *fault), *SMALL)
    answer = answer_in(place)
    assert (got, answer["answer"]) == (code, word), out
    assert answer["given"]["one_server"]
    semantics = next(line for line in answer["gates"] if line["gate"] == "semantics_as_declared")
    assert not semantics["needed"]
    if fault:  # what it asked on the way contradicts itself, whatever the server declares
        assert semantics["verdict"] == "FAIL" and "contradictions" in semantics["reason"]
    else:
        assert semantics["verdict"] == "NOT_RUN" and "--serial-url" in semantics["reason"]


@pytest.mark.slow
def test_ctrl_c_keeps_and_shows_what_there_is(place: Path, server: Start) -> None:
    urls = ["--multi-url", server("multi"), "--serial-url", server("serial")]
    command = [sys.executable, "-c", "from pytest_multiitem.cli import main; main()", "accept", *urls, *SMALL]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    heard = next(line for line in process.stderr if "PASS" in line)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    answer = answer_in(place)
    assert (answer["answer"], answer["complete"]) == ("UNDECIDED", False)
    assert out.startswith("UNDECIDED: the measurement was ended early (Ctrl-C).") and "Traceback" not in out + err
    gate = heard.split()[-1]
    assert next(line["verdict"] for line in answer["gates"] if line["gate"] == gate) == "PASS"
    wait_until(lambda: not any("accepting" in " ".join(each) for each in _command_lines()))


def _command_lines() -> Iterator[list[str]]:
    import psutil

    for process in psutil.process_iter():
        try:
            yield process.cmdline()
        except psutil.Error:
            continue


# What is typed wrong


def one_line(accept: Accept, place: Path, *words: str) -> str:
    """The one line that a command says which could not begin."""
    code, out, err = accept(*words)
    lines = [line for line in err.splitlines() if not line.startswith("[")]  # the step that it began with
    assert (code, out, len(lines)) == (2, "", 1), out + err
    assert "Traceback" not in err and not list(place.glob("multiitem-results/*/answer.json"))
    return lines[0]


@pytest.mark.parametrize("role", ["multi", "serial"])
@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("http://127.0.0.1:{closed}", "start the server, or correct host and port: nothing listens there"),
        ("http://no-such-host.invalid:8000", "no such host is known"),
        ("https://127.0.0.1:{plain}", "write http:// in its address: it may not speak https"),
        ("http://127.0.0.1:{tls}", "if it speaks https, write https://"),
        ("https://127.0.0.1:{tls}", "--multiitem-ca-file FILE"),
        ("http://127.0.0.1:{plain}/elsewhere", "give the address before /v1/score"),
    ],
    ids=["down", "unknown host", "https to http", "http to https", "self-signed", "wrong path"],
)
def test_an_address_that_leads_nowhere(
    accept: Accept, place: Path, server: Start, tls: int, role: str, address: str, advice: str
) -> None:
    other = {"multi": "serial", "serial": "multi"}[role]
    plain = server(role, "--fault", "prefix=/only-here").rpartition(":")[2]
    urls = [
        f"--{role}-url",
        address.format(closed=closed_port(), tls=tls, plain=plain),
        f"--{other}-url",
        server(other),
    ]
    line = one_line(accept, place, *urls, "--multiitem-request-timeout=5")
    assert line.startswith(f"multiitem: the {'multi-item' if role == 'multi' else 'serial'} server ") and advice in line


@pytest.mark.parametrize(
    ("way", "advice"),
    [
        ("401", "put its API key into the environment variable MULTI_ITEM_API_KEY"),
        ("429", "it takes no more requests now"),
        ("502", "what answers is a gateway"),
        ("400", "--multiitem-labels"),
        ("hang", "--multiitem-request-timeout"),
    ],
)
def test_a_server_that_answers_no_score(accept: Accept, place: Path, server: Start, way: str, advice: str) -> None:
    urls = ["--multi-url", server("multi", "--fault", f"from=1:{way}"), "--serial-url", server("serial")]
    assert advice in one_line(accept, place, *urls, "--multiitem-request-timeout=1")


def test_one_server_that_does_not_answer(accept: Accept, place: Path) -> None:
    line = one_line(accept, place, "--url", f"http://127.0.0.1:{closed_port()}")
    assert "nothing listens there" in line


def test_the_score_path_behind_an_address_is_no_mistake(accept: Accept, place: Path, server: Start) -> None:
    """It goes as far as the other side, which is not there."""
    urls = ["--multi-url", f"{server('multi')}/v1/score", "--serial-url", f"http://127.0.0.1:{closed_port()}/v1/score"]
    assert one_line(accept, place, *urls).startswith("multiitem: the serial server ")


@pytest.mark.parametrize(
    ("roles", "options", "message"),
    [
        (("multi", "serial"), ["--multiitem-delimiter=7"], "its delimiter is 151643, but 7 was given"),
        (("multi", "serial"), ["--mask-impl=segment"], "its mask impl is dense, but segment was given"),
        (("multi", "serial"), ["--multiitem-labels=200000,3"], "--multiitem-labels"),
        (("serial", "serial"), [], "says that it scores serially"),
        (("multi", "multi"), [], "the serial server {serial} says that it packs items"),
        (("multi", "multi"), ["--fresh-start"], "--fresh-start"),
    ],
    ids=["delimiter", "mask", "labels outside", "multi is serial", "serial packs", "no such option"],
)
def test_a_server_that_is_another_one(
    accept: Accept, place: Path, server: Start, roles: tuple[str, str], options: list[str], message: str
) -> None:
    urls = {"multi": server(roles[0]), "serial": server(roles[1])}
    words = [f"--multi-url={urls['multi']}", f"--serial-url={urls['serial']}", *options]
    if options == ["--fresh-start"]:
        code, out, err = accept(*words)
        assert (code, out) == (2, "") and message in err
        return
    assert message.format(**urls) in one_line(accept, place, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which server? give --multi-url URL and --serial-url URL, or --url URL"),
        (["--multi-url=http://127.0.0.1:9"], "give its baseline as well: --serial-url URL, or, for one server"),
        (["--serial-url=http://127.0.0.1:9"], "give the server that packs as well: --multi-url URL"),
        (["--url=http://127.0.0.1:9", "--serial-url=http://127.0.0.1:8"], "--url is of one server for both sides"),
        (["--multi-url=http://127.0.0.1:9", "--serial-url=http://127.0.0.1:9/v1/score"], "give --url URL instead"),
        (["--url=127.0.0.1:9"], "expected an address such as http://"),
        (["--backend=jax,pytorch"], "name one backend"),
        (["--backend=jax", "--mask-impl=dense,segment"], "name one mask"),
        (["--backend=jacks"], "jacks"),
        (["--effort=some", "--url=http://127.0.0.1:9"], "--multiitem-effort"),
        (["--url=http://127.0.0.1:9", "--power"], "--power is of another measurement"),
        (["--url=http://127.0.0.1:9", "--workload=missing.jsonl"], "missing.jsonl"),
        (["--url=http://127.0.0.1:9", "--multiitem-ca-file=missing.pem"], "missing.pem"),
    ],
)
def test_options_that_do_not_go_together(accept: Accept, place: Path, words: list[str], message: str) -> None:
    assert message in one_line(accept, place, *words)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**GOOD, "item": [[1]]}, "'item'"),
        ({**GOOD, "label_token_ids": [200_000, 1]}, "200000"),
        ({**GOOD, "query": "text"}, "token"),
        ({"query": [1], "items": []}, "'items'"),
        ({**GOOD, "items": [[101, 151_643]]}, "151643"),
    ],
    ids=["misspelt field", "labels outside", "no tokenizer", "no items", "delimiter inside"],
)
def test_a_workload_that_cannot_be_sent(
    accept: Accept, place: Path, server: Start, line: dict[str, Any], message: str
) -> None:
    (place / "traffic.jsonl").write_text("\n".join([json.dumps(GOOD), json.dumps(line)]))
    urls = ["--multi-url", server("multi"), "--serial-url", server("serial")]
    said = one_line(accept, place, *urls, "--workload=traffic.jsonl")
    assert "traffic.jsonl" in said and "line 2" in said and message in said


def test_a_request_that_is_longer_than_the_server_takes(accept: Accept, place: Path, server: Start) -> None:
    """It is refused before a gate would take the server's refusal for a wrong answer."""
    long = {**GOOD, "items": [[101] * 40_000, [102] * 30_000]}
    (place / "traffic.jsonl").write_text("\n".join([json.dumps(GOOD), json.dumps(long)]))
    urls = ["--multi-url", server("multi"), "--serial-url", server("serial")]
    said = one_line(accept, place, *urls, "--workload=traffic.jsonl")
    assert "traffic.jsonl" in said and "line 2" in said and "70,007 tokens packed, and http" in said, said
    assert "takes 65,536" in said


def test_a_backend_that_is_not_installed(accept: Accept, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torch" else found(name, *more)
    )
    line = one_line(accept, place, "--backend=pytorch")
    assert "torch not installed" in line and "pip install 'pytest-multiitem[torch]'" in line


def test_results_that_cannot_be_written(accept: Accept, place: Path) -> None:
    (place / "file").touch()
    line = one_line(accept, place, "--url=http://127.0.0.1:9", "--results-dir=file")
    assert "choose another place with --results-dir DIR" in line


def test_no_password_is_shown(accept: Accept, place: Path) -> None:
    line = one_line(accept, place, "--url", f"http://user:word@127.0.0.1:{closed_port()}")
    assert "user:word" not in line and "nothing listens there" in line
