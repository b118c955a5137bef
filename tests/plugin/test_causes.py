"""What is nobody's score: a usage error before anything is measured, ERROR later, and never a FAIL of the engine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
from inner_project import REGRESSION, SMALL, VERDICTS, Project, closed_port

Start = Callable[..., str]
#: One gate that asks both servers.
ALIGNED = ("-k", "delimiter_aligned")


def usage_error(project: Project, *arguments: str) -> str:
    """The one line of a run that ends before anything is measured."""
    project.write("test_it.py", VERDICTS)
    result = project.run(*arguments)
    said = "\n".join([*result.outlines, *result.errlines])
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said
    assert "Traceback" not in said and "INTERNALERROR" not in said
    assert not list(project.path.glob("multiitem-results/*/matrix.json"))
    lines = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert len(lines) == 1, said
    return lines[0]


ROLES = {"multi": "multi-item", "serial": "serial"}


@pytest.mark.parametrize(
    ("role", "way", "advice"),
    [
        ("multi", "401", "put its API key into the environment variable MULTI_ITEM_API_KEY"),
        ("serial", "401", "put its API key into the environment variable MULTI_ITEM_API_KEY"),
        ("multi", "403", "put its API key into the environment variable MULTI_ITEM_API_KEY"),
        ("multi", "404", "give the address before /v1/score"),
        ("multi", "405", "give the address before /v1/score"),
        ("multi", "302", "redirects are not followed"),
        ("multi", "400", "--multiitem-labels"),
        ("multi", "429", "it takes no more requests now"),
        ("multi", "502", "what answers is a gateway"),
        ("serial", "502", "what answers is a gateway"),
        ("multi", "503", "what answers is a gateway"),
        ("multi", "reset", "if it speaks https, write https://"),
        ("serial", "hang", "see whether it is overloaded or still starting"),
        ("multi", "drip", "see whether it is overloaded or still starting"),
    ],
)
def test_a_server_that_cannot_be_asked(project: Project, server: Start, role: str, way: str, advice: str) -> None:
    urls = {each: server(each, *(["--fault", f"from=1:{way}"] if each == role else [])) for each in ROLES}
    options = [f"--multi-url={urls['multi']}", f"--serial-url={urls['serial']}", "--multiitem-request-timeout=1"]
    line = usage_error(project, *options)
    assert line.startswith(f"ERROR: the {ROLES[role]} server {urls[role]} cannot be asked: ")
    assert advice in line and "user:word" not in line


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("http://127.0.0.1:{closed}", "start the server, or correct host and port: nothing listens there"),
        ("http://user:word@127.0.0.1:{closed}", "nothing listens there"),
        ("http://no-such-host.invalid:30010", "no such host is known"),
        ("https://127.0.0.1:{plain}", "write http:// in its address: it may not speak https"),
        ("http://127.0.0.1:{tls}", "if it speaks https, write https://"),
        ("https://127.0.0.1:{tls}", "give the authority that signed its certificate: --multiitem-ca-file FILE"),
        ("http://127.0.0.1:{plain}/somewhere/v1/score", "give the address before /v1/score"),
    ],
    ids=["down", "credentials", "unknown-host", "https-to-http", "http-to-https", "certificate", "path"],
)
def test_an_address_that_leads_nowhere(project: Project, server: Start, tls: int, address: str, advice: str) -> None:
    prefixed = server("serial", "--fault", "prefix=/only-here")
    url = address.format(closed=closed_port(), plain=prefixed.rpartition(":")[2], tls=tls)
    line = usage_error(project, f"--serial-url={url}", "--multiitem-request-timeout=5")
    assert line.startswith("ERROR: the serial server ") and "user:word" not in line
    assert advice in line


def test_two_workers_say_the_same(project: Project, server: Start) -> None:
    """Under pytest-xdist it is the controller that ends the run."""
    options = [f"--multi-url={server('multi', '--fault', 'from=1:401')}", f"--serial-url={server('serial')}"]
    assert "put its API key" in usage_error(project, *options, "-n", "2")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--multi-url=nonsense", "expected an address"),
        ("--multiitem-request-timeout=soon", "soon"),
        ("--multiitem-ca-file=missing.pem", "missing.pem"),
        ("--workload=missing.jsonl", "missing.jsonl"),
        ("--workload=broken.jsonl", "line 7: items[0] must be text or a list of token ids, got 11"),
        ("--workload=misspelt.jsonl", "line 7: there is no field 'lables' (did you mean 'labels'?)"),
        ("--workload=unlabelled.jsonl", "line 7: it has no labels; give"),
        ("--tokenizer=missing.json --workload=good.jsonl", "missing.json does not exist"),
        ("--baseline=missing", "missing"),
        ("--require=same_length_isolation", "same_length_isolation_zero"),
        ("--engine=sglang", "--engine-python"),
        ("--multiitem-labels=nonsense", "nonsense"),
        ("--mask-impl=flex", "flex"),
    ],
)
def test_a_setting_that_cannot_be_used(project: Project, option: str, message: str) -> None:
    good = '{"query": [7, 8, 9], "items": [[11, 12], [13]], "labels": ["Yes", 2753]}\n'
    for name, line in {
        "good": good,
        "broken": '{"query": [7, 8, 9], "items": [11]}\n',
        "misspelt": good.replace("labels", "lables"),
        "unlabelled": '{"query": [7, 8, 9], "items": [[11]]}\n',
    }.items():
        project.write(f"{name}.jsonl", good * 6 + line + good)
    assert message in usage_error(project, *option.split())


# Later: ERROR, with the server's role and address


def one(project: Project) -> dict[str, str]:
    (record,) = (r for r in project.matrix["gates"] if r["reason"] != "deselected on the command line")
    return record


def attached(project: Project, server: Start, role: str, way: str, *more: str) -> tuple[dict[str, str], str]:
    """The record of a gate whose server of a role answers the third scoring request in this way, and its address."""
    project.write("test_it.py", REGRESSION)
    urls = {each: server(each, *(["--fault", f"from=3:{way}"] if each == role else [])) for each in ROLES}
    options = [f"--multi-url={urls['multi']}", f"--serial-url={urls['serial']}", "--multiitem-request-timeout=1"]
    result = project.run(*options, *(more or ALIGNED), "--junitxml=junit.xml")
    said = "\n".join(result.outlines)
    assert result.ret == pytest.ExitCode.TESTS_FAILED, said
    assert "Traceback" not in said and "INTERNALERROR" not in said
    record = one(project)
    entry = "error" if record["verdict"] == "ERROR" else "failure"
    (case,) = (case for case in project.junit().values() if len(case) > 0 and case.find("skipped") is None)
    assert [child.tag for child in case if child.tag != "properties"] == [entry]
    assert re.search(rf"^{record['gate']} .*\b{record['verdict']}\b", said, re.MULTILINE)
    assert f"**{record['verdict']}** `{record['gate']}`" in project.report
    assert project.matrix["summary"][record["verdict"]] == 1
    return record, urls[role]


WAYS = ["hang", "drip", "reset", "500", "502", "nan", "short", "error", "404"]


@pytest.mark.parametrize("way", [*WAYS, "401", "302", "429"])
def test_a_baseline_that_fails_later_is_an_error(project: Project, server: Start, way: str) -> None:
    record, url = attached(project, server, "serial", way)
    assert record["verdict"] == "ERROR"
    assert "serial" in record["reason"] and url in record["reason"]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_under_test_that_fails_later_fails(project: Project, server: Start, way: str) -> None:
    record, url = attached(project, server, "multi", way)
    assert record["verdict"] == "FAIL"
    assert "multi-item" in record["reason"] and url in record["reason"]


@pytest.mark.parametrize("way", ["401", "403", "302", "429"])
def test_a_server_that_lets_nobody_in_any_more_is_an_error(project: Project, server: Start, way: str) -> None:
    record, url = attached(project, server, "multi", way)
    assert record["verdict"] == "ERROR"
    assert url in record["reason"] and "user:word" not in record["reason"]


@pytest.mark.parametrize("test", ["contract", "same_length", "speedup", "every_score", "ladder", "without_isolation"])
def test_a_dead_baseline_fails_no_gate(project: Project, server: Start, test: str) -> None:
    """Every gate that asks it, not only the one that compares."""
    project.write("test_it.py", REGRESSION)
    urls = [f"--multi-url={server('multi')}", f"--serial-url={server('serial', '--fault', 'from=3:500')}"]
    project.run(*urls, "-k", test, "--multiitem-items=8", "--multiitem-effort=quick")
    ran = [r for r in project.matrix["gates"] if r["reason"] != "deselected on the command line"]
    assert not [r for r in ran if r["verdict"] == "FAIL"]
    assert test == "every_score" or [r for r in ran if r["verdict"] == "ERROR"]


@pytest.mark.parametrize("way", ["nan", "short", "error", "500"])
def test_a_first_answer_that_is_wrong_fails_the_server_under_test(project: Project, server: Start, way: str) -> None:
    project.write("test_it.py", REGRESSION)
    urls = [f"--multi-url={server('multi', '--fault', f'from=1:{way}')}", f"--serial-url={server('serial')}"]
    assert project.run(*urls, *ALIGNED, "--junitxml=junit.xml").ret == pytest.ExitCode.TESTS_FAILED
    assert one(project)["verdict"] == "FAIL"
    (case,) = (case for case in project.junit().values() if case.find("failure") is not None)
    assert case.find("error") is None


@pytest.mark.parametrize(
    ("faults_of", "verdict", "reason"),
    [
        ("serial:exit=3", "ERROR", "serial pytorch: expected a running server, but it exited with code 3"),
        ("multi:exit=3", "ERROR", "multi-item pytorch dense: expected a running server, but it exited with code 3"),
        ("serial:memory_error", "ERROR", "ValueError: Loaded weights leave no GPU memory for the cache"),
        ("multi:memory_error", "ERROR", "ValueError: Loaded weights leave no GPU memory for the cache"),
        ("serial:die_after=3", "ERROR", "serial pytorch: expected a running server, but it exited with code 9"),
        ("multi:die_after=3", "FAIL", "multi-item pytorch dense: expected a running server, but it exited with code 9"),
        ("multi:refuse", "NOT_RUN", "fake refused to start: no such mask on this device"),
        ("serial:from=1:hang", "ERROR", "serial pytorch: expected a ready server within 2 s"),
        ("multi:from=1:nan", "FAIL", "multi-item pytorch dense: expected a ready server; the last probe said"),
        ("serial:from=1:nan", "ERROR", "serial pytorch: expected a ready server; the last probe said"),
    ],
)
def test_servers_that_the_run_starts(
    project: Project, faults: Callable[[str], None], faults_of: str, verdict: str, reason: str
) -> None:
    faults(faults_of)
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, "--multiitem-startup-timeout=2", *ALIGNED)
    assert result.ret == (5 if verdict == "NOT_RUN" else 1)
    record = one(project)
    assert record["verdict"] == verdict
    assert reason in record["reason"].partition("\n")[0]
    assert not project.processes()


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("raise OSError(28, 'No space left on device')", "ERROR"),
        ("raise RuntimeError('a bug')", "ERROR"),
        ("assert not 'what the test says'", "FAIL"),
        ("pytest.fail('what the test says')", "FAIL"),
        ("multiitem_gate.check(full)", "ERROR"),
        ("multiitem_gate.check(measured(0.0)); assert not 'what the test says'", "FAIL"),
        ("multiitem_gate.check(measured(0.0)); raise RuntimeError('a bug')", "ERROR"),
    ],
)
def test_what_a_test_raises(project: Project, body: str, verdict: str) -> None:
    own = """
    def full(gate):
        raise OSError(28, "No space left on device")

    @pytest.mark.multiitem_gate("cross_backend_max_abs_le_0p02")
    def test_own(multiitem_gate):
        """
    project.write("test_it.py", VERDICTS + own + body)
    assert project.run("-k", "own").ret == 1
    assert project.gate("cross_backend_max_abs_le_0p02")["verdict"] == verdict


# Nothing was measured


@pytest.mark.parametrize(
    ("arguments", "beside", "status"),
    [
        ([], "", 5),
        (["--allow-nothing"], "", 0),
        ([], "\ndef test_own(): pass\n", 0),
        ([], "\ndef test_own(): assert False\n", 1),
        ([], "\nimport pytest\ndef test_own(): pytest.skip('not today')\n", 5),
        (["--require=segment_lowers"], "", 1),
        (["-n", "1"], "", 5),
    ],
    ids=["nothing", "--allow-nothing", "own test", "own failure", "own skip", "required", "xdist"],
)
def test_nothing_measured_is_exit_status_5(project: Project, arguments: list[str], beside: str, status: int) -> None:
    project.write("test_it.py", VERDICTS + "    " + beside.replace("\n", "\n    "))
    result = project.run("-k", "not_run or own", *arguments)
    assert result.ret == project.matrix["exit_status"] == status
    said = "no gate was measured: exit status 5; --allow-nothing accepts that" in "\n".join(result.outlines)
    assert said is (status == 5)


def test_a_run_that_measures_something_is_none_of_these(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    assert project.run("-k", "not_run or pass").ret == 0


def test_the_environment_says_no_secret(project: Project, server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the wrong account is in no message."""
    monkeypatch.setitem(os.environ, "MULTI_ITEM_API_KEY", "not-this-one")
    line = usage_error(project, f"--multi-url={server('multi', '--fault', 'key=the-right-one')}")
    assert "401" in line and "not-this-one" not in line and "the-right-one" not in line
