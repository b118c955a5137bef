"""The reports: everything that a run found appears, and nothing looks better than it is."""

import re

import pytest
from sample_matrix import benchmark, gate_record, matrix, not_run

from pytest_multiitem.bench.curve import CurvePoint
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.registry import gate_names
from pytest_multiitem.reports import summary as terminal
from pytest_multiitem.reports import table
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.reports.formats import FORMATS, ReportFormat, markdown, rendered, write_reports
from pytest_multiitem.results.details import Semantics, Speedup
from pytest_multiitem.results.published import PUBLISHED
from pytest_multiitem.results.records import Place, ServerRecord, SettingRecord, Verdict


def text_of(run, unmet=()):
    return "\n".join(line for line, _ in terminal.lines(run, unmet))


def rows(text, heading):
    """The cells of the Markdown tables under a heading, split at bars that are not escaped."""
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for line in section.splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "\0").strip("|").split("|")
            found.append([cell.strip().replace("\0", "|") for cell in cells])
    return found


def with_verdict(gate, verdict, **more):
    if verdict is Verdict.NOT_RUN:
        return not_run(gate, "nothing to run it on", **more)
    return gate_record(gate, verdict, reason=f"why {gate} is {verdict.value}", value=0.5, limit=0.02, **more)


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("where", ["pytorch-dense", "jax", "attached-segment"])
@pytest.mark.parametrize("gate", gate_names())
def test_every_gate_verdict_and_reason_appears(gate, verdict, where):
    record = with_verdict(gate, verdict, where=where)
    run = matrix([record])
    page, lines = markdown.render(run), text_of(run)
    assert gate in page and gate in lines and where in page
    shown = [cell for row in rows(page, "Gates") if row[0] == gate for cell in row]
    assert any(cell.startswith(verdict.value) for cell in shown)
    if verdict is not Verdict.PASS:
        assert record.reason in page and record.reason in lines
        assert not any("PASS" in cell for cell in shown)
        assert f"{verdict.value} {gate}: {record.reason}" in lines
        assert "1 PASS" not in page and "1 PASS" not in lines


def test_a_gate_that_did_not_run_is_no_evidence():
    page = markdown.render(matrix([not_run()]))
    assert "## Evidence" not in page and "**NOT_RUN** `segment_lowers`" in page
    assert "**1 NOT_RUN**" in page


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (("PASS", "FAIL"), "FAIL"),
        (("PASS", "INCONCLUSIVE"), "INCONCLUSIVE"),
        (("PASS", "NOT_RUN"), "NOT_RUN"),
        (("INCONCLUSIVE", "NOT_RUN", "FAIL"), "FAIL"),
        (("NOT_RUN", "INCONCLUSIVE"), "INCONCLUSIVE"),
    ],
)
def test_the_worst_verdict_of_a_cell_wins(verdicts, worst, order):
    records = [with_verdict("same_length_isolation_zero", Verdict(v)) for v in verdicts[::order]]
    header, (row,) = table.pivot(records)
    assert header == ["gate", "limit", "pytorch-dense"]
    assert row[2].split()[0] == worst
    own = next(row for row in rows(markdown.render(matrix(records)), "Beside published results") if "**" in row[0])
    assert own[1] == ("NOT_RUN" if worst == "NOT_RUN" else "0.50")


def test_the_worst_value_stands_beside_the_published_ones():
    records = [
        gate_record(verdict=Verdict.FAIL, value=0.25, nodeid="a.py::test_it[pytorch-dense]"),
        gate_record(value=0.0, nodeid="b.py::test_it[pytorch-dense]"),
    ]
    own = next(row for row in rows(markdown.render(matrix(records)), "Beside published results") if "**" in row[0])
    assert own[:2] == ["**pytorch-dense**", "0.25"]


def test_a_gate_that_is_missing_in_a_column_stays_blank():
    records = [gate_record(), gate_record(where="jax-dense"), gate_record("changed_length_isolation_zero")]
    header, body = table.pivot(records)
    assert header == ["gate", "limit", "pytorch-dense", "jax-dense"]
    assert body == [
        ["same_length_isolation_zero", "== 0", "PASS 0 | - | -", "PASS 0 | - | -"],
        ["changed_length_isolation_zero", "== 0", "PASS 0 | - | -", ""],
    ]


FLOORS = {"noise_floor": 1e-7, "traffic_floor": 0.003, "leak_visibility": 0.47}


def test_a_value_is_shown_with_its_floor_and_its_visibility():
    run = matrix([gate_record(value=6.7e-7, **FLOORS), gate_record("segment_lowers", value=0.5, where="jax", **FLOORS)])
    page, said = markdown.render(run), text_of(run)
    header, body = table.pivot(run.gates)
    assert body == [["same_length_isolation_zero", "== 0", "PASS 6.7e-07 | 0.003 | 0.47"]]
    assert "PASS 6.7e-07 | 0.003 | 0.47" in said and f"cells: {table.LEGEND}" in said and table.LEGEND in page
    header, (row,) = table.others(run.gates)
    shown = dict(zip(header, row, strict=True))
    assert (shown["verdict"], shown["noise floor"], shown["leak visibility"]) == ("PASS 0.50", "0.003", "0.47")
    assert row in rows(page, "Gates") and header in rows(page, "Gates")


def test_the_table_of_four_servers_fits_a_wide_terminal():
    servers = ("pytorch-dense", "pytorch-segment", "jax-dense", "jax-segment")
    names = ("same_length_isolation_zero", "delimiter_aligned_equiv_le_0p02", "request_isolation_le_0p02")
    records = [
        gate_record(name, value=6.7e-7, limit=0.02, where=where, noise_floor=0.0, leak_visibility=0.47)
        for name in names
        for where in servers
    ]
    assert max(map(len, text_of(matrix(records)).splitlines())) <= 150


def test_pipes_and_line_breaks_do_not_break_a_table():
    run = matrix([gate_record(mask_attested="a | b\nc", semantics="x|y")])
    header, _, row = rows(markdown.render(run), "Evidence")
    assert len(row) == len(header)
    assert row[header.index("semantics")] == "x|y" and row[header.index("mask executed")] == "a | b c"


def test_square_brackets_stay_in_the_terminal():
    run = matrix([not_run(reason="see [the log]")], benchmarks=[benchmark(name="packed [bold]fast[/bold] :smile:")])
    assert "packed [bold]fast[/bold] :smile:" in text_of(run) and "see [the log]" in text_of(run)


def test_evidence():
    record = gate_record(
        "delimiter_aligned_equiv_le_0p02", relation="<=", value=0.0148, limit=0.02, noise_floor=0.0,
        traffic_floor=0.003, leak_visibility=0.34, semantic_visibility=0.25, score_spread=0.5, shape_floor=1e-6,
        leak_bound=2e-7,
        samples={"items": 58, "timed_runs": 5}, mask_requested="segment",
        mask_attested="segment", server_chunk_size=0, items_per_sequence=29.0, semantics="prefix_first_delim",
    )  # fmt: skip
    header, _, row = rows(markdown.render(matrix([record])), "Evidence")
    assert dict(zip(header, row, strict=True)) == {
        "gate": "delimiter_aligned_equiv_le_0p02", "for": "pytorch-dense", "verdict": "PASS", "value": "0.015",
        "limit": "<= 0.02", "noise floor": "0", "traffic floor": "0.003", "leak visibility": "0.34",
        "semantic visibility": "0.25", "score spread": "0.50", "shape floor": "1e-06", "leak bound": "2e-07",
        "samples": "58 items, 5 timed runs", "semantics": "prefix_first_delim", "mask requested": "segment",
        "mask executed": "segment", "server chunk": "all", "items per sequence": "29.0",
    }  # fmt: skip


def test_published_rows_are_always_there():
    published = rows(markdown.render(matrix()), "Beside published results")[2:]
    assert [row[0] for row in published] == [row.model for row in PUBLISHED]
    assert published[0] == ["Qwen3-0.6B", "0", "0", "0.0148", "0.0041", "0.0115", "3.45", "4.69", "5.30"]
    assert "TPU v6e-1" in markdown.render(matrix())


def point(speedup):
    return CurvePoint(32, (speedup,), (1.0,)).record()


def test_speed_ups():
    record = gate_record(
        "speedup_n32_ge_3x", relation=">=", value=4.5, limit=3.0,
        details=Speedup(performance={"8": point(2.5), "32": point(4.5)}),
    )  # fmt: skip
    run = matrix([gate_record(), record])
    page = markdown.render(run)
    assert rows(page, "Speed-up") == [
        ["speed-up over serial, p50", "N=8", "N=32"],
        ["---"] * 3,
        ["pytorch-dense", "2.50x", "4.50x"],
    ]
    assert "4.50x" in text_of(run)
    own = rows(page, "Beside published results")[-1]
    assert own[-3:] == ["2.50", "4.50", "-"]


def test_speed_ups_over_a_tuned_baseline_stand_in_a_row_of_their_own():
    details = Speedup(performance={"32": point(8.0)}, performance_vs_tuned_serial={"32": point(2.5)})
    run = matrix([gate_record("speedup_n32_ge_3x", value=8.0, details=details)])
    for text in (text_of(run), markdown.render(run)):
        lines = [line for line in text.splitlines() if "x" in line and "pytorch-dense" in line]
        assert any("8.00x" in line and "tuned" not in line for line in lines)
        assert any("2.50x" in line and "pytorch-dense vs tuned serial" in line for line in lines)


def test_the_gap_between_semantics_is_told():
    distances = {"prefix_first_delim": 1e-6, "query_prefix": 0.25, "causal": 0.5}
    details = Semantics(distances=distances, nearest="prefix_first_delim")
    record = gate_record("semantics_as_declared", semantics="prefix_first_delim", details=details)
    found = rows(markdown.render(matrix([record])), "Semantics")
    assert found[0] == ["max abs diff to", "declared", *distances]
    assert found[-1] == ["pytorch-dense", "prefix_first_delim", "1e-06", "0.25", "0.50"]


def test_several_models_are_a_row_each():
    isolated, other = "same_length_isolation_zero", "jax_serial_vs_torch_serial_le_0p02"
    gates = [gate_record(isolated, where=f"jax-segment-{model}") for model in ("one-1", "two")]
    gates += [
        gate_record(other, value=value, place=Place(label=model, model=model))
        for model, value in (("one-1", 0.25), ("two", 0.75))
    ]
    run = matrix(gates, settings=[SettingRecord(name="models", value="a/one-1,two", origin="command line")])
    for text in (text_of(run), markdown.render(run)):
        assert re.search(r"jax-segment-one-1\W.*\b0\.25\b", text) and re.search(r"jax-segment-two\W.*\b0\.75\b", text)
        assert not re.search(r"jax-segment-one-1\W.*\b0\.75\b", text)


def test_a_known_incompatibility_that_is_gone_is_told():
    run = matrix([gate_record(now_passes="its heads do not fit")])
    assert "NOW PASSES (1 gates) although known not to: its heads do not fit" in text_of(run)


def test_the_environment_of_an_engine_of_its_own():
    packages = {"sglang": "0.5.23", "torch": "2"}
    server = ServerRecord(label="serial", url="http://127.0.0.1:1", owned=True, packages=packages)
    assert "- the engine's own environment: sglang 0.5.23, torch 2" in markdown.render(matrix(servers=[server, server]))


@pytest.mark.parametrize("by", ["SIGTERM", None])
def test_an_incomplete_run_says_so(by):
    run = matrix([gate_record()], complete=False, interrupted_by=by)
    assert f"**Incomplete run** ({by or 'it ended before every test was reached'})." in markdown.render(run)
    assert f"incomplete: {by or 'the run ended early'}" in text_of(run)


def test_a_complete_run_does_not():
    run = matrix([gate_record()])
    assert "ncomplete" not in markdown.render(run) + text_of(run)
    assert "What is not a PASS" not in markdown.render(run)


def test_a_run_without_gates():
    assert "no gate was selected" in markdown.render(matrix())
    assert text_of(matrix()) == "gates: none"


def test_benchmarks_servers_settings_and_machine():
    page = markdown.render(matrix(benchmarks=[benchmark()]))
    expected = ["packed", "pytorch", "segment", "2000/500/20", "500", "3", "2.000", "250.0"]
    assert rows(page, "Benchmarks")[-1] == expected
    assert rows(page, "Servers")[-1][:3] == ["serial pytorch", "http://127.0.0.1:30011", "started by this run"]
    assert rows(page, "Settings")[-1] == ["backend", "pytorch,jax", "default"]
    assert "- cpus_usable: 2" in page and "- pytest: 9" in page
    assert "`pytest -q`" in page and "exit status 0" in page


def test_the_terminal_names_unmet_requirements():
    assert text_of(None, ["segment_lowers"]) == "required gate not run: segment_lowers"


@pytest.mark.parametrize(
    ("page", "answer"), [((), ()), (("report.html",), ()), (("report.html",), ("answer.json",))],
    ids=["no page", "page", "answer"],
)  # fmt: skip
def test_the_terminal_names_files_for_people_first(tmp_path, page, answer):
    run = tmp_path / "multiitem-results" / "run"
    run.mkdir(parents=True)
    for name in ("matrix.json", "report.md", *page, *answer):
        (run / name).touch()
    names = ", ".join([*page, "report.md", *answer, "matrix.json"])
    assert terminal.results_line(run, tmp_path) == f"results: multiitem-results/run/{names}"
    assert terminal.results_line(run, tmp_path / "elsewhere") == f"results: {run}/{names}"


def test_equal_reasons_are_counted_once():
    found = text_of(matrix([not_run(where="jax"), not_run(where="pytorch")]))
    assert found.count("no accelerator") == 1 and "(2 tests)" in found


@pytest.mark.parametrize(
    ("verdict", "color"), [("PASS", "green"), ("FAIL", "red"), ("INCONCLUSIVE", "yellow"), ("NOT_RUN", "yellow")]
)
def test_the_summary_has_the_colour_of_the_worst_verdict(verdict, color):
    run = matrix([gate_record(), with_verdict("speedup_n32_ge_3x", Verdict(verdict))])
    line, markup = next(line for line in terminal.lines(run, []) if line[0].startswith("gates: "))
    assert color in markup and verdict in line


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0"), (-0.0, "0"), (0.0148, "0.015"), (1e-12, "1e-12"), (0.1, "0.10"), (4.694, "4.69"),
     (12345.6, "1.2e+04")],
)  # fmt: skip
def test_numbers(value, shown):
    assert table.number(value) == shown


@pytest.mark.parametrize("nodeid", ["a/b.py::test_it", "a/b.py::T::test_it[jax-segment]"])
def test_tables_are_made_from_the_record_and_not_from_its_node_id(nodeid):
    assert table.where(gate_record(nodeid=nodeid, place=Place())) == "-"
    assert table.where(gate_record(nodeid=nodeid, place=Place(label="a-b"))) == "a-b"
    assert table.pivot([gate_record(nodeid=nodeid, place=Place())])[1] == []


@pytest.mark.parametrize("model", [None, "a-model-4b", "dense"])
@pytest.mark.parametrize(("backend", "mask"), [("rocm", "flex"), ("jax-rocm", "block-sparse"), ("segment", "jax")])
def test_any_backend_mask_and_model_has_its_column_and_its_row(backend, mask, model):
    place = Place(label="-".join(filter(None, (backend, mask, model))), backend=backend, mask=mask, model=model)
    serial, packed = "jax_serial_vs_torch_serial_le_0p02", "jax_multi_vs_torch_multi_semantic_le_0p02"
    between = [Place(label=model, model=model), Place(label="other", mask="other")]
    gates = [gate_record(place=place), gate_record("changed_length_isolation_zero", value=0.25, place=place)]
    gates += [gate_record(serial, value=value, place=p) for value, p in zip((0.5, 0.75), between, strict=True)]
    gates.append(gate_record(packed, value=0.125, place=Place(label=mask, mask=mask)))
    header, body = table.pivot(gates)
    assert header == ["gate", "limit", place.label] and [row[0] for row in body] == [gates[0].gate, gates[1].gate]
    (own,) = table.contract(matrix(gates))[1]
    assert own == [place.label, "0", "0.25", "-", "0.50", "-", "-", "-", "-"], "JAX packed is about another backend"


# -- formats -----------------------------------------------------------------------------------


def counted(run):
    return b"\xff" + str(len(run.gates)).encode()


COUNT = ReportFormat("count", "count.bin", counted)


@pytest.fixture
def count():
    undo = FORMATS.extend([COUNT])
    yield COUNT
    undo()
    assert "count" not in FORMATS.all()


def test_a_run_is_written_in_every_format(tmp_path, count):
    run = matrix([gate_record()])
    write_reports(run, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"count.bin", "gates.csv", "report.html", "report.md"}
    assert (tmp_path / "count.bin").read_bytes() == b"\xff1"
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown.render(run)


def test_every_module_of_the_formats_is_one_of_them(count):
    assert list(FORMATS.all()) == ["csv", "html", "markdown", "count"]


def test_an_unknown_format_is_refused():
    with pytest.raises(UsageError, match=r"no report format is called 'markdwon'.*did you mean 'markdown'"):
        rendered(matrix(), "markdwon")


def test_no_cell_of_a_terminal_table_is_cut():
    _, rule, row, end = terminal_table(["gate", "reason"], [["a", "x" * 2000 + " [bold] end"]])
    assert row.endswith("x [bold] end") and len(row) == len(rule) and end == ""


def bounded(speedup, ceiling, roofline=None):
    record = point(speedup)
    record.ceiling, record.share_of_ceiling, record.share_of_roofline = ceiling, speedup / ceiling, roofline
    return record


def test_a_speed_up_stands_beside_what_it_is_at_most():
    details = Speedup(
        performance={"1": bounded(1.5, 1.0), "8": bounded(2.5, 5.0, 0.1234), "32": bounded(5.97, 9.1)},
        performance_vs_tuned_serial={"8": point(0.5)},
        refused={"64": "refused: HTTP 413: too | many"},
        refused_vs_tuned_serial={"128": "refused: no"},
        ceiling_basis="operations of M",
        remarks=["5.97 is a lot"],
    )
    run = matrix([gate_record("speedup_n32_ge_3x", value=5.97, details=details)])
    page = markdown.render(run)
    head, _, own, tuned = rows(page, "Speed-up")
    assert head == ["speed-up over serial, p50", "N=1", "N=8", "N=32", "N=64", "N=128"]
    both = "2.50x of 5x (50 %), 12 % of the device's rate"
    above = "1.50x of 1x (150 %)"
    assert own == ["pytorch-dense", above, both, "5.97x of 9.1x (66 %)", "refused", ""]
    assert tuned == ["pytorch-dense vs tuned serial", "", "0.50x", "", "", "refused"]
    for note in ("at most: operations of M", r"N = 64: refused: HTTP 413: too \| many", "5.97 is a lot"):
        assert f"- pytorch-dense: {note}" in page
    assert "- pytorch-dense: N = 128 vs tuned serial: refused: no" in page
    assert "5.97x of 9.1x (66 %)" in text_of(run)
