"""The directory of a comparison: resumed where it ended, never mixed with another one, never overwritten."""

import json

import filelock
import pytest
from matrices import row

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.measuring import ledger
from pytest_multiitem.comparison.records import Row, ScoreMatrix
from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.resolve import resolve


def settings_of(**given):
    return resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})


def begin(base, settings, *sizes, finish=False, confirm=()):
    with ledger.opened(settings, base) as kept:
        kept.begin("jax", "portable")
        for matrix in kept.changed("jax", ["portable"]):
            matrix.engine = "fake"
        for size in sizes:
            kept.add("jax", "portable", Row(client_chunk_size=size, status="ok"))
        for size in confirm:
            kept.add("jax", "portable", Row(client_chunk_size=size, status="ok"), confirm=True)
        if finish:
            kept.finish()
        return kept.directory


@pytest.mark.parametrize("named", [False, True])
def test_an_interrupted_comparison_goes_on_with_its_rows(tmp_path, named):
    settings = settings_of(**({"compare_dir": "here"} if named else {}))
    first = begin(tmp_path, settings, 8, 1, confirm=(8,))
    with ledger.opened(settings, tmp_path) as kept:
        assert kept.directory == first and kept.resumed == 3
        assert list(kept.rows("jax", "portable")) == [1, 8], "in the order of their size"
        assert list(kept.rows("jax", "portable", confirm=True)) == [8]
        assert kept.rows("pytorch", "portable") == {}


def test_every_row_is_on_disk_when_it_is_entered(tmp_path):
    with ledger.opened(settings_of(), tmp_path) as kept:
        kept.begin("jax", "portable")
        for count, size in enumerate((1, 2, 4), 1):
            kept.add("jax", "portable", Row(client_chunk_size=size, status="failed"))
            on_disk = artefacts.read(kept.path("jax", "portable"), ScoreMatrix).record
            assert len(on_disk.results) == count


def test_a_finished_one_is_not_gone_on_with(tmp_path):
    first = begin(tmp_path, settings_of(), 8, finish=True)
    assert begin(tmp_path, settings_of()) != first
    named = settings_of(compare_dir=str(tmp_path / "here"))
    begin(tmp_path, named, 8, finish=True)
    with pytest.raises(UsageError, match="holds a finished comparison; choose another --compare-dir"):
        begin(tmp_path, named)


def test_another_comparison_is_never_mixed_in(tmp_path):
    first = begin(tmp_path, settings_of(), 8)
    assert begin(tmp_path, settings_of(confirm_runs="9")) != first
    begin(tmp_path, settings_of(compare_dir="here"), 8)
    with pytest.raises(UsageError, match="begun differently: confirm_runs was 7, is 9"):
        begin(tmp_path, settings_of(compare_dir="here", confirm_runs="9"))


def test_starting_over_keeps_the_old_one_beside(tmp_path):
    first = begin(tmp_path, settings_of(compare_dir="here"), 8)
    second = begin(tmp_path, settings_of(compare_dir="here", fresh=True))
    assert second == first and not artefacts.read(first / "jax_portable_matrix.json", ScoreMatrix).record.results
    (old,) = tmp_path.glob("here.*")
    assert len(artefacts.read(old / "jax_portable_matrix.json", ScoreMatrix).record.results) == 1
    unnamed = begin(tmp_path, settings_of(), 8)
    assert begin(tmp_path, settings_of(fresh=True)) != unnamed


def test_nobody_else_measures_in_it(tmp_path):
    named = settings_of(compare_dir="here")
    with ledger.opened(named, tmp_path) as kept:
        with pytest.raises(UsageError, match="another process measures in"):
            begin(tmp_path, named)
        unnamed = begin(tmp_path, settings_of(), 1)
    with filelock.FileLock(unnamed / ".lock"):
        assert begin(tmp_path, settings_of()) != unnamed
    assert kept.directory != unnamed


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "jax_portable_matrix.json").write_text("{}")
    with pytest.raises(UsageError, match="holds matrices of something else"):
        begin(tmp_path, settings_of(compare_dir="here"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; expected a directory"):
        begin(tmp_path, settings_of(compare_dir="file"))


def test_unknown_fields_of_a_file_are_kept(tmp_path):
    path = tmp_path / "m.json"
    content = {
        "schema_version": "score_matrix_v1",
        "backend": "jax",
        "evaluation_view": "portable",
        "results": [{"client_chunk_size": 1, "status": "ok", "theirs": {"deep": 1}}],
        "own": "words",
    }
    path.write_text(json.dumps(content))
    read = artefacts.read(path, ScoreMatrix)
    assert read.record.results[0].num_chunks is None
    read.record.results[0].num_chunks = 500
    artefacts.write(path, read.record, over=read.content)
    again = json.loads(path.read_bytes())
    assert again["own"] == "words" and again["results"][0]["theirs"] == {"deep": 1}
    assert again["results"][0]["num_chunks"] == 500


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no object"),
        ("{}", "has no schema_version; expected score_matrix_v1; measure one with: multiitem compare run"),
        ('{"schema_version": "canonical_score_workload_v1"}', "is a 'canonical_score_workload_v1' file"),
        ('{"schema_version": "score_matrix_v1", "backend": 3}', "Expected `str`, got `int` - at `$.backend`"),
    ],
)
def test_what_is_no_artefact_is_named(tmp_path, content, said):
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        artefacts.read(path, ScoreMatrix)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_rows_that_were_edited_are_not_gone_on_with(tmp_path):
    with ledger.opened(settings_of(), tmp_path) as kept:
        kept.begin("jax", "portable")
        kept.add("jax", "portable", row(8))
    with ledger.opened(settings_of(), tmp_path) as again:
        assert again.resumed == 1
        path = again.path("jax", "portable")
    content = json.loads(path.read_bytes())
    content["results"][0]["throughput_items_sec"] = 9e9
    path.write_text(json.dumps(content))
    with (
        pytest.raises(UsageError, match=r"jax_portable_matrix\.json contradicts itself: .*throughput_items_sec"),
        ledger.opened(settings_of(), tmp_path),
    ):
        pass
