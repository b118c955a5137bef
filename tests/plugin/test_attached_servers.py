"""Attached servers that say who they are: taken at their word by every gate, or refused before anything is measured."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch

import pytest
from inner_project import PARITY, REGRESSION, Project

Start = Callable[..., str]
GATES = "not Speedup and not tpu"


@pytest.mark.slow
def test_a_healthy_server_with_a_delimiter_of_its_own_passes(project: Project, server: Start) -> None:
    project.write("test_it.py", REGRESSION)
    project.write("test_parity.py", PARITY)
    urls = ["--multi-url", server("multi", "--delimiter", "2000"), "--serial-url", server("serial")]
    result = project.run(*urls, "-k", "not Speedup", "--multiitem-property-examples=20")
    assert result.ret == 0, "\n".join(result.outlines)
    verdicts = {gate: set(found) for gate, found in project.verdicts.items()}
    for gate in (
        "same_length_isolation_zero", "changed_length_isolation_zero", "delimiter_aligned_equiv_le_0p02",
        "semantics_as_declared", "request_isolation_le_0p02", "request_contract_holds", "negative_control_fails",
        "metamorphic_relations_hold",
    ):  # fmt: skip
        assert "PASS" in verdicts[gate], gate
    assert not set.union(*verdicts.values()) & {"FAIL", "INCONCLUSIVE"}
    assert len(project.matrix["servers"]) == 2, "each is attached once"


@pytest.mark.slow
def test_a_prefill_extend_server_is_measured_as_what_it_is(project: Project, server: Start) -> None:
    project.write("test_it.py", REGRESSION)
    project.write("test_parity.py", PARITY)
    urls = ["--multi-url", server("extend"), "--serial-url", server("serial")]
    result = project.run(*urls, "-k", "not Speedup", "--multiitem-property-examples=20")
    assert result.ret == 0, "\n".join(result.outlines)
    passed = [record for record in project.matrix["gates"] if record["verdict"] == "PASS"]
    assert {record["gate"] for record in passed} == {
        "same_length_isolation_zero", "changed_length_isolation_zero", "delimiter_aligned_equiv_le_0p02",
        "semantics_as_declared", "request_isolation_le_0p02", "request_contract_holds", "negative_control_fails",
        "metamorphic_relations_hold", "prefill_extend_replay_le_1e_4", "content_isolation", "length_isolation",
        "equivalence_at_floor", "traffic_agrees", "every_size_agrees", "every_label_agrees", "every_score_agrees",
        "label_mass_not_zero",
    }  # fmt: skip
    measured = [record for record in passed if record["gate"] != "negative_control_fails"]
    assert {(r["mask_requested"], r["mask_attested"]) for r in measured} == {(None, "prefill+extend")}
    assert {r["semantics"] for r in measured} == {"query_prefix"}
    reason = project.gate("segment_vs_dense_le_1e_4")["reason"]
    assert "runs prefill+extend; this gate needs one that packs with mask segment" in reason


def test_packed_inside_serial_still_fails(project: Project, server: Start) -> None:
    """What a server claims is one thing, what it executes another: only the first is known before it is measured."""
    project.write("test_it.py", REGRESSION)
    urls = ["--multi-url", server("multi", "--fault", "lie"), "--serial-url", server("serial")]
    assert project.run(*urls, "-k", "same_length").ret == pytest.ExitCode.TESTS_FAILED
    assert (
        "dense was requested, but the server executed segment" in project.gate("same_length_isolation_zero")["reason"]
    )


@pytest.mark.parametrize(
    ("roles", "options", "message"),
    [
        (("multi", "serial"), ["--multiitem-delimiter=7"], "its delimiter is 151643, but 7 was given"),
        (
            ("multi", "serial"),
            ["--mask-impl=segment"],
            "its mask impl is dense, but segment was given (*",
        ),
        (("multi", "serial"), ["--multiitem-delimiter=7", "-n", "2"], "its delimiter is 151643, but 7 was given"),
        (("extend", "serial"), ["--mask-impl=dense"], "it runs prefill+extend, which has no mask impl"),
        (("serial", "serial"), [], "the multi-item server http://127.0.0.1:* says that it scores serially"),
        (("multi", "multi"), [], "the serial server http://127.0.0.1:* says that it packs items"),
    ],
    ids=["delimiter", "mask", "xdist", "extend", "no multi", "no serial"],
)
def test_a_server_that_is_another_one_is_a_usage_error(
    project: Project, server: Start, roles: tuple[str, str], options: list[str], message: str
) -> None:
    project.write("test_it.py", REGRESSION)
    urls = [f"--multi-url={server(roles[0])}", f"--serial-url={server(roles[1])}"]
    result = project.run(*urls, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.errlines if line.startswith("ERROR: "))
    assert fnmatch(line, f"ERROR: *{message}*")
    assert not list(project.path.glob("multiitem-results/*/matrix.json"))


def test_what_a_factory_says_of_its_server_counts_as_the_users_word(project: Project, server: Start) -> None:
    address = server("multi", "--delimiter", "2000")
    project.write(
        "conftest.py",
        f"""
        from pytest_multiitem.fixtures import factories
        staging = factories.multi_item_server(url="{address}")
        another = factories.multi_item_server(url="{address}", mask_impl="segment")
        """,
    )
    project.write(
        "test_it.py",
        """
        def test_it(staging, multiitem_run):
            assert staging.delimiter == 2000
            assert not any(2000 in item for case in multiitem_run.cases(staging) for item in case.items)
        def test_another(another): ...
        """,
    )
    result = project.run()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*its mask impl is dense, but segment was given (mask_impl (the test's server factory))*"]
    )
