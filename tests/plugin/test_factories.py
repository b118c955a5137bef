"""Server fixtures: another one is one line; owned ones are stopped, attached ones are not."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from inner_project import PARITY, REGRESSION, SMALL, Project

Start = Callable[..., str]


def test_a_second_server_is_one_line(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        from fake_engine import pytest_multiitem_engines
        from pytest_multiitem.fixtures import factories

        segment_server = factories.multi_item_server(mask_impl="segment", server_chunk_size=2)
        jax_serial_server = factories.serial_server(backend="jax")
        """,
    )
    project.write(
        "test_it.py",
        """
        def test_two(multi_item_server, segment_server, jax_serial_server):
            assert multi_item_server.profile.mask_impl == "dense"
            assert (segment_server.profile.mask_impl, segment_server.profile.chunk_size) == ("segment", 2)
            assert jax_serial_server.profile.backend == "jax"
            assert len({s.url for s in (multi_item_server, segment_server, jax_serial_server)}) == 3
            scores = segment_server.score_ids([1, 2, 3], [[4], [5, 6], [7]], [8, 9])
            assert scores.shape == (3, 2)
            assert (scores == multi_item_server.score_ids([1, 2, 3], [[4], [5, 6], [7]], [8, 9])).all()

        def test_shared(segment_server):
            assert segment_server.client.server_info()["executed"]["requests"] == 2  # readiness, and the test above
        """,
    )
    result = project.run(*SMALL)
    result.assert_outcomes(passed=2)
    assert len(project.states()) == 3
    assert {state["status"] for state in project.states()} == {"exited"}
    assert not project.processes()


def test_a_factory_with_an_address_attaches_and_never_stops(project: Project, server: Start) -> None:
    address = server("multi", "--mask", "segment")
    project.write(
        "conftest.py",
        f"""
        from pytest_multiitem.fixtures import factories
        staging = factories.multi_item_server(url="{address}")
        """,
    )
    project.write(
        "test_it.py",
        """
        def test_it(staging):
            assert not staging.owned and staging.profile.mask_impl == "segment"
            assert staging.score_ids([1], [[2]], [3, 4]).shape == (1, 2)
        """,
    )
    project.run().assert_outcomes(passed=1)
    (record,) = project.matrix["servers"]
    assert (record["url"], record["owned"], record["command"], record["log"]) == (address, False, [], None)
    assert httpx.get(f"{address}/health").status_code == 200
    assert not project.states()


@pytest.mark.slow
def test_a_run_attached_by_options(project: Project, server: Start) -> None:
    multi, serial = server("multi", "--mask", "segment"), server("serial", "--fault", "sleep=0.004")
    project.write("test_it.py", REGRESSION)
    project.write("test_parity.py", PARITY)
    result = project.run("--multi-url", multi, f"--serial-url={serial}/", "--multiitem-items=32", "-k", "not Segment")
    assert result.ret == 0
    verdicts = {(r["gate"], r["verdict"]) for r in project.matrix["gates"]}
    for gate in ("same_length_isolation_zero", "delimiter_aligned_equiv_le_0p02", "speedup_n32_ge_3x"):
        assert (gate, "PASS") in verdicts
    assert ("jax_serial_vs_torch_serial_le_0p02", "NOT_RUN") in verdicts
    record = project.gate("same_length_isolation_zero")
    assert (record["engine"], record["backend"]) == ("attached", "attached")
    assert (record["mask_requested"], record["mask_attested"]) == ("segment", "segment")
    assert not project.states()
    for address in (multi, serial):
        assert httpx.get(f"{address}/health").status_code == 200


def test_half_attached_says_what_is_missing(project: Project, server: Start) -> None:
    project.write("test_it.py", REGRESSION)
    result = project.run("--multi-url", server("multi"), "-k", "length_isolation and not test_length")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["NOT_RUN *no serial server is attached; give --serial-url as well"])


def test_a_factory_s_address_where_nobody_answers_is_an_error(project: Project) -> None:
    """One that the settings name ends the run before it begins; this one is known when a test asks for it."""
    project.write(
        "conftest.py",
        """
        from pytest_multiitem.fixtures import factories
        nobody = factories.multi_item_server(url="http://127.0.0.1:9")
        """,
    )
    project.write(
        "test_it.py",
        """
        import pytest
        @pytest.mark.multiitem_gate("same_length_isolation_zero")
        def test_it(nobody, multiitem_gate): ...
        """,
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(errors=1)
    record = project.gate("same_length_isolation_zero")
    assert record["verdict"] == "ERROR"
    assert "http://127.0.0.1:9 cannot be asked" in record["reason"] and "nothing listens there" in record["reason"]


def test_a_server_asked_for_at_run_time(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        def test_it(multiitem_run, request):
            from pytest_multiitem.adapters.base import Profile
            assert multiitem_run.target(Profile("serial", "pytorch")).score_ids([1], [[2]], [3, 4]).shape == (1, 2)
        """,
    )
    project.run(*SMALL).assert_outcomes(passed=1)
    assert not project.processes()
