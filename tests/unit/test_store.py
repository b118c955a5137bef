"""A run's files: written whole or not at all, and refused where they break their schema."""

import json
import math
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator
from sample_matrix import benchmark, gate_record, matrix, not_run

from pytest_multiitem.errors import MultiItemError, StorageError, UsageError
from pytest_multiitem.results import store
from pytest_multiitem.results.details import Notes
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.storage import writing
from pytest_multiitem.validation.schemas import KINDS, schema_of

FULL = matrix(
    [
        gate_record(interval=(3.0, 4.0), samples={"items": 3}, details=Notes(entries={"case": "ü | \n", "x": None})),
        not_run(),
    ],
    benchmarks=[benchmark()],
    complete=False,
    interrupted_by="SIGTERM",
)


def test_a_round_trip(tmp_path):
    path = store.write_matrix(tmp_path, FULL)
    assert path == tmp_path / "matrix.json"
    assert store.read_matrix(path) == store.read_matrix(tmp_path) == FULL
    assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == "multiitem_matrix_v1"


@pytest.mark.parametrize("name", KINDS)
def test_the_shipped_schemas_are_what_the_records_give(name):
    shipped = json.loads(store.schema_file(name).read_text(encoding="utf-8"))
    assert shipped == schema_of(name), (
        "the records changed: run docs/generate.py, and raise the schema's version where a field was removed or changed"
    )
    Draft202012Validator.check_schema(shipped)
    top = shipped["$defs"][KINDS[name].record.__name__]
    assert top["properties"]["schema_version"] == {"const": name} and "schema_version" in top["required"]
    assert shipped["$id"].endswith(f":{name}")


def test_every_shipped_schema_is_one_of_a_kind_of_file():
    shipped = {path.name for path in Path(str(store.schema_file("any"))).parent.glob("*.json")}
    assert shipped == {f"{name}.schema.json" for name in KINDS}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "isolation"}, "gates/0/details: 'worst' is a required property"),
        ({"kind": "tickets"}, "gates/0/details: {'kind': 'tickets'} is not valid under any of the given schemas"),
        ({"kind": "notes", "entries": {"a": [1]}}, "gates/0/details/entries/a: [1] is not "),
    ],
)
def test_details_are_of_a_known_kind(change, problem):
    content = json.loads(msgspec.json.encode(matrix([gate_record()])))
    content["gates"][0]["details"] = change
    assert any(line.startswith(problem) for line in store.schema_problems(content)), store.schema_problems(content)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(tmp_path, value):
    path = store.write_matrix(tmp_path, matrix([gate_record(verdict=Verdict.FAIL, value=value)]))
    assert json.loads(path.read_text())["gates"][0]["value"] is None
    assert store.read_matrix(path).gates[0].value is None


@pytest.mark.parametrize(
    "broken",
    [
        {"benchmarks": [benchmark(p50_sec=math.nan)]},
        {"exit_status": "0"},
        {"gates": [gate_record(relation="~")]},
        {"gates": [gate_record(samples={"items": 1.5})]},
        {"schema_version": "multiitem_matrix_v0"},
        {"summary": {"PASS": None}},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_content_that_breaks_the_schema_is_not_written(tmp_path, broken):
    with pytest.raises(MultiItemError, match=r"matrix\.json does not match its schema: "):
        store.write_matrix(tmp_path, matrix(**broken))
    assert list(tmp_path.iterdir()) == []


def test_problems_name_their_place():
    content = json.loads(msgspec.json.encode(matrix([gate_record()])))
    assert store.schema_problems(content) == []
    content["gates"][0]["verdict"] = "MAYBE"
    del content["run_id"]
    problems = store.schema_problems(content)
    assert any(problem.startswith("gates/0/verdict: 'MAYBE'") for problem in problems)
    assert any(problem.startswith("top level: 'run_id' is a required property") for problem in problems)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"run_id": "\xff"}', b'{"schema_version": "v2"}'])
def test_a_file_that_is_no_matrix(tmp_path, content):
    (tmp_path / "matrix.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"is not valid JSON|expected a? ?multiitem_matrix_v1"):
        store.read_matrix(tmp_path)


def test_another_schema_version_is_refused(tmp_path):
    content = json.loads(msgspec.json.encode(matrix())) | {"schema_version": "multiitem_matrix_v2"}
    (tmp_path / "matrix.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="multiitem_matrix_v2"):
        store.read_matrix(tmp_path)


@pytest.mark.parametrize("name", ["absent", "absent/matrix.json"])
def test_a_missing_run(tmp_path, name):
    with pytest.raises(UsageError, match=r"cannot read .*absent"):
        store.read_matrix(tmp_path / name)


def test_an_atomic_write_replaces(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    store.write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_content_and_no_scratch_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        store.write_atomically(path, "text, not bytes")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    directory = tmp_path / "directory"
    (directory / "full").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"cannot write .*directory: Is a directory; name a file in it"):
        store.write_atomically(directory, b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["directory", "file"]


def test_latest_follows_the_newest_run(tmp_path):
    for name in ("one", "two", "two"):
        (tmp_path / name).mkdir(exist_ok=True)
        store.point_latest(tmp_path / name)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert (tmp_path / "latest").readlink().parts == ("two",), "a moved results directory must stay whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "one", "two"]


def test_latest_that_points_nowhere_is_replaced(tmp_path):
    (tmp_path / "latest").symlink_to("gone")
    (tmp_path / "one").mkdir()
    store.point_latest(tmp_path / "one")
    assert (tmp_path / "latest").resolve() == tmp_path / "one"


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_latest_that_is_no_link_is_left_alone(tmp_path, kind):
    latest = tmp_path / "latest"
    latest.mkdir() if kind == "directory" else latest.touch()
    (tmp_path / "one").mkdir()
    with pytest.raises(
        UsageError, match=r"latest exists and is not a link; remove it, or choose another --results-dir"
    ):
        store.point_latest(tmp_path / "one")
    assert not latest.is_symlink()


WRITER = """
import sys
from pathlib import Path
from pytest_multiitem.results.store import SampleWriter
write = SampleWriter(Path(sys.argv[1]), sys.argv[2])
write({"kind": "server", "url": sys.argv[2]})
for number in range(200):
    write({"kind": "replay", "process": sys.argv[2], "number": number})
"""


def test_samples_of_several_processes_are_joined(tmp_path):
    names = ("main", "gw0", "gw1")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in names]
    assert [writer.wait(30) for writer in writers] == [0, 0, 0]
    servers = store.server_samples(tmp_path)
    store.merge_samples(tmp_path)
    assert sorted(line["url"] for line in servers) == sorted(names)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 201
    for name in names:
        assert [line["number"] for line in lines if line.get("process") == name] == list(range(200))
    assert [p.name for p in tmp_path.iterdir()] == ["samples.jsonl"]


def test_samples_hold_any_text(tmp_path):
    store.SampleWriter(tmp_path, "main")({"kind": "note", "text": "a\nb\u2028c", "value": math.nan})
    assert store.server_samples(tmp_path) == []
    store.merge_samples(tmp_path)
    (line,) = (tmp_path / "samples.jsonl").read_bytes().splitlines()
    assert json.loads(line) == {"kind": "note", "text": "a\nb\u2028c", "value": None}


def test_no_samples_make_no_file(tmp_path):
    store.merge_samples(tmp_path)
    assert store.server_samples(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_run_ids_sort_by_time():
    assert store.new_run_id()[:8].isdigit() and store.new_run_id() <= store.new_run_id()


def test_the_machine_is_described_without_names():
    info = machine_info()
    assert info["cpus_usable"] >= 1 and info["memory_gib"] > 0
    assert not {"node", "hostname", "host", "user"} & set(info)
    assert {"pytest-multiitem", "pytest", "numpy"} <= set(package_versions())


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from pytest_multiitem.results import store
whole = store._write_all
def half(file, content):
    whole(file, content[: len(content) // 2])
    print("half", flush=True)
    {then}
store._write_all = half
store.write_atomically(Path(sys.argv[1]), b"0123456789")
"""


def writer(path, then):
    command = [sys.executable, "-c", KILLED_WRITER.format(then=then), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    return process


def hidden(directory):
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


def test_a_killed_writer_leaves_what_the_next_one_takes_away(tmp_path):
    path = tmp_path / "matrix.json"
    with writer(path, "os.kill(os.getpid(), signal.SIGKILL)") as killed:
        assert killed.wait(30) == -9
    (left,) = hidden(tmp_path)
    assert left.startswith(".matrix.json.") and left.endswith(".draft") and not path.exists()
    store.write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole" and hidden(tmp_path) == []


def test_a_run_takes_away_what_killed_ones_beside_it_have_left(tmp_path):
    (tmp_path / "old").mkdir()
    with writer(tmp_path / "old/matrix.json", "os.kill(os.getpid(), signal.SIGKILL)") as killed:
        killed.wait(30)
    (tmp_path / "old/.samples.jsonl-main").write_bytes(b"{}\n")
    store.make_run_dir(tmp_path / "new")
    assert hidden(tmp_path / "old") == [".samples.jsonl-main"]


def test_a_living_writer_is_left_alone(tmp_path):
    path = tmp_path / "matrix.json"
    with writer(path, "sys.stdin.read(); whole(file, content[len(content) // 2 :])") as slow:
        store.write_atomically(path, b"meanwhile")
        (tmp_path / "beside").mkdir()
        store.make_run_dir(tmp_path / "beside")
        assert len(hidden(tmp_path)) == 1
        slow.stdin.close()
        assert slow.wait(30) == 0
    assert path.read_bytes() == b"0123456789" and hidden(tmp_path) == []


def full(whole, after=0):
    """A disk that takes some bytes more."""

    def write(file, content):
        whole(file, content[:after])
        raise OSError(28, "No space left on device")

    return write


def test_a_full_disk_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(store, "_write_all", full(store._write_all, 2))
    with pytest.raises(
        StorageError, match=r"^cannot write .*/file: No space left on device; free some space there, or "
    ):
        store.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


def test_a_sample_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write, whole = store.SampleWriter(tmp_path, "main"), store._write_all
    write({"number": 1})
    monkeypatch.setattr(store, "_write_all", full(whole, 5))
    with pytest.raises(StorageError, match=r"cannot write .*\.samples\.jsonl-main: No space left on device"):
        write({"number": 2})
    monkeypatch.setattr(store, "_write_all", whole)
    write({"number": 3})
    store.merge_samples(tmp_path)
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"number": 1}, {"number": 3}]


def test_a_new_file_replaces_none(tmp_path):
    store.write_new(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        store.write_new(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first" and hidden(tmp_path) == []


@pytest.mark.parametrize("taken", ["multiitem-results", "multiitem-results/run"])
def test_a_run_directory_that_is_a_file(tmp_path, taken):
    path = tmp_path / taken
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(
        StorageError, match=r"^cannot write results to .*; choose another place with --results-dir DIR$"
    ):
        store.make_run_dir(tmp_path / "multiitem-results/run")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("out", "cannot write out: Is a directory; name a file in it"),
        (".", "cannot write .: Is a directory; name a file in it"),
        ("gone/page.html", "cannot write gone/page.html: No such file or directory; its directory is not there; make "),
    ],
)
def test_a_place_that_cannot_be_written_is_named_as_it_was_given(tmp_path, monkeypatch, place, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError) as caught:
        store.write_atomically(Path(place), b"x")
    assert str(caught.value).startswith(said)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_what_is_no_matter_of_storage_keeps_its_own_words(tmp_path):
    with pytest.raises(ConnectionRefusedError), writing(tmp_path):
        raise ConnectionRefusedError(111, "Connection refused")
