"""Engines that refuse, servers behind keys and prefixes, and several models one after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from inner_project import REGRESSION, SMALL, Project

Start = Callable[..., str]


def test_a_server_that_refuses_to_start_is_not_run_with_its_own_words(
    project: Project, faults: Callable[[str], None]
) -> None:
    faults("multi:refuse")
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, "-k", "length_isolation and not test_length")
    result.assert_outcomes(skipped=2)
    assert result.ret == 5, "nothing was measured"
    record = project.gate("same_length_isolation_zero")
    assert record["verdict"] == "NOT_RUN" and "fake refused to start: no such mask on this device" in record["reason"]


def test_a_refusal_of_a_required_gate_fails_the_run(project: Project, faults: Callable[[str], None]) -> None:
    faults("multi:refuse")
    project.write("test_it.py", REGRESSION)
    assert project.run(*SMALL, "-k", "same_length", "--require=same_length_isolation_zero").ret == 1


def test_a_key_is_sent_and_written_nowhere(project: Project, server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("test_it.py", REGRESSION)
    urls = [server(role, "--fault", "key=K-314159", "--fault", "prefix=/v9/team") for role in ("multi", "serial")]
    options = [f"--multi-url={urls[0]}/v9/team", f"--serial-url={urls[1]}/v9/team/", "-k", "same_length"]
    refused = project.run(*options)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR, "without a key"
    refused.stderr.fnmatch_lines(["ERROR: *HTTP 401*MULTI_ITEM_API_KEY"])
    monkeypatch.setenv("MULTI_ITEM_API_KEY", "K-314159")
    assert project.run(*options).ret == 0
    monkeypatch.delenv("MULTI_ITEM_API_KEY")
    monkeypatch.setenv("STAGING_KEY", "K-314159")
    assert project.run(*options, "--multiitem-api-key-env=STAGING_KEY").ret == 0
    written = [path for path in project.path.glob("multiitem-results/*/*") if path.is_file()]
    assert len(written) >= 9 and not [path for path in written if b"K-314159" in path.read_bytes()]
    assert project.matrix["servers"][0]["info"]["api_key"] == "[redacted]"


def test_models_run_one_after_the_other_in_one_table(project: Project) -> None:
    project.write("test_it.py", REGRESSION)
    models = "--models=org/one-1,/models/two/,org/known-broken-3,org/known-4"
    result = project.run(*SMALL, models, "-k", "length_isolation and not test_length")
    result.assert_outcomes(passed=6, skipped=2)
    isolation = [r for r in project.matrix["gates"] if r["gate"].endswith("_length_isolation_zero")]
    verdicts = {r["nodeid"].partition("[")[2]: r["verdict"] for r in isolation}
    assert verdicts == {
        "pytorch-dense-one-1]": "PASS",
        "pytorch-dense-two]": "PASS",
        "pytorch-dense-known-broken-3]": "NOT_RUN",
        "pytorch-dense-known-4]": "PASS",
    }
    result.stdout.fnmatch_lines(
        [
            "model *same-len*",
            "pytorch-dense-one-1 *",
            "pytorch-dense-two *",
            "NOT_RUN * known incompatibility, as expected: its heads do not fit*",
            "NOW PASSES (2 gates) although known not to: its heads do not fit",
        ]
    )
    assert {s["label"] for s in project.matrix["servers"]} >= {
        "multi-item pytorch dense two",
        "multi-item pytorch dense known-4",
    }
    order = [s["label"].rpartition(" ")[2] for s in project.matrix["servers"]]
    assert order == sorted(order, key=["one-1", "two", "known-broken-3", "known-4"].index), "no model comes back"
    assert not project.processes()


def test_a_model_that_fails_unexpectedly_fails(project: Project) -> None:
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, "--models=org/broken,org/fine", "-k", "same_length")
    result.assert_outcomes(errors=1, passed=1)
    assert result.ret == 1


@pytest.mark.parametrize("more", [("-n", "2"), ("--multi-url=http://127.0.0.1:9",)], ids=["xdist", "attached"])
def test_models_where_they_make_no_sense_are_an_error(project: Project, more: tuple[str, ...]) -> None:
    project.write("test_it.py", REGRESSION)
    result = project.run(*SMALL, "--models=a,b", *more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--models starts*"])
