"""Generated checkpoints: equal specs give equal bytes, and the cache never serves a damaged copy."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pytest_multiitem.engine import checkpoint
from pytest_multiitem.engine.checkpoint import CheckpointSpec, tiny_checkpoint, write_checkpoint
from pytest_multiitem.engine.config import read_config
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.tokenizer import load_tokenizer
from pytest_multiitem.errors import CheckpointError, StorageError, UsageError
from pytest_multiitem.settings.cache import cache_directory, checkpoint_cache

SMALL = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 60,
}  # fmt: skip
SPEC = CheckpointSpec(**SMALL)


def content(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def write(directory, **more):
    write_checkpoint(directory, CheckpointSpec(**(SMALL | more)))
    return directory


def test_equal_specs_give_equal_bytes(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert content(one) == content(two)
    assert set(content(one)) == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "multiitem-checksums.json",
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"], "scratch was left behind"


def test_another_seed_gives_other_weights(tmp_path):
    one, two = (load_file(write(tmp_path / str(seed), seed=seed) / "model.safetensors") for seed in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].shape == two[name].shape
        if "norm" not in name:
            assert (one[name] != two[name]).mean() > 0.9, name


def test_a_classification_head_stands_on_the_weights_of_the_causal_model(tmp_path):
    plain, headed = write(tmp_path / "plain"), write(tmp_path / "headed", num_labels=3)
    weights, more = (load_file(each / "model.safetensors") for each in (plain, headed))
    assert all((more[name] == weights[name]).all() for name in weights)
    assert more.keys() - weights.keys() == {"score.weight"} and more["score.weight"].shape == (3, 16)
    assert (read_config(plain).classes, read_config(headed).classes) == (None, 3)
    assert CheckpointSpec(**SMALL, num_labels=3).digest != SPEC.digest
    config = json.loads((headed / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForSequenceClassification"] and "num_labels" not in config


def test_a_checkpoint_that_lacks_its_head(tmp_path):
    """transformers would draw one at random, and the scores would mean nothing."""
    directory = write(tmp_path / "one")
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["Qwen3ForSequenceClassification"]
    (directory / "config.json").write_text(json.dumps(config))
    assert read_config(directory).classes == 2, "what Hugging Face means where none are named"
    for name, package in (("pytorch", "torch"), ("jax", "jax"), ("transformers", "torch")):
        pytest.importorskip(package)
        with pytest.raises(CheckpointError, match=r"lacks .*score\.weight"):
            load_backend(name, directory, dtype="float32", device="cpu")


def test_tensors_are_independent_of_each_other(tmp_path):
    """One more layer leaves every other tensor as it was."""
    one, two = (load_file(write(tmp_path / str(n), num_hidden_layers=n) / "model.safetensors") for n in (1, 2))
    assert all((two[name] == one[name]).all() for name in one) and len(two) > len(one)
    a, b = (two[f"model.layers.{n}.self_attn.q_proj.weight"] for n in (0, 1))
    assert not np.array_equal(a, b)


def test_it_reads_back(tmp_path):
    directory = write(tmp_path / "one")
    config = read_config(directory)
    assert {name: getattr(config, name) for name in SMALL} == SMALL
    assert config.tie_word_embeddings and load_tokenizer(directory) is not None
    weights = load_file(directory / "model.safetensors")
    assert weights["model.embed_tokens.weight"].shape == (60, 16)
    assert all(values.dtype == np.float32 for values in weights.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 7}, "head_dim is 7; rotary positions need an even number"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "3.* is no multiple of num_key_value_heads .2"),
        *(({name: bad}, f"{name} is {bad}; expected a positive number") for name in SMALL for bad in (0, -1)),
    ],
)
def test_impossible_sizes(change, message):
    with pytest.raises(CheckpointError, match=message):
        CheckpointSpec(**(SMALL | change))


def test_the_digest_changes_with_everything():
    digests = [SPEC.digest, CheckpointSpec(**SMALL, seed=1).digest]
    digests += [CheckpointSpec(**(SMALL | {name: value * 2})).digest for name, value in SMALL.items()]
    assert len(set(digests)) == len(digests) and CheckpointSpec(**SMALL).digest == SPEC.digest


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(CheckpointError, match="exists and is not an empty directory; name a new one"):
            write_checkpoint(place, SPEC)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_empty_directory_and_missing_parents_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    assert content(write(tmp_path / "empty")) == content(write(tmp_path / "a" / "b" / "c"))


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def broken(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_json", broken)
    with pytest.raises(StorageError, match="No space left"):
        write_checkpoint(tmp_path / "one", SPEC)
    assert list(tmp_path.iterdir()) == []


# -- the cache --------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """The cache holds a small checkpoint; gives the list of directories written."""
    written, write_it = [], checkpoint.write_checkpoint

    def counted(directory, spec):
        written.append(directory)
        write_it(directory, spec)

    monkeypatch.setattr(checkpoint, "CheckpointSpec", lambda **more: replace(SPEC, **more))
    monkeypatch.setattr(checkpoint, "write_checkpoint", counted)
    return written


def test_the_cache_generates_once(tmp_path, small):
    first, second = tiny_checkpoint(tmp_path), tiny_checkpoint(tmp_path)
    assert first == second == tmp_path / "checkpoints" / f"tiny-{SPEC.digest}"
    assert small == [first] and "model.safetensors" in content(first)


def test_the_cache_is_where_the_environment_says(tmp_path, small, monkeypatch):
    monkeypatch.setenv("MULTIITEM_CACHE_DIR", str(tmp_path / "mine"))
    assert tiny_checkpoint().is_relative_to(tmp_path / "mine")


def test_the_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MULTIITEM_CACHE_DIR", raising=False)
    assert cache_directory() == tmp_path / "xdg" / "pytest-multiitem"
    monkeypatch.setenv("MULTIITEM_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"
    monkeypatch.delenv("MULTIITEM_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "pytest-multiitem"


def test_an_intact_cache_is_only_read(tmp_path, small, monkeypatch):
    """It may be read-only."""
    first = tiny_checkpoint(tmp_path)

    def refused(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checkpoint.filelock, "FileLock", refused)
    monkeypatch.setattr(Path, "mkdir", refused)
    assert tiny_checkpoint(tmp_path) == first and small == [first]
    flip(first / "model.safetensors")
    with pytest.raises(StorageError, match="Read-only file system; choose another place with MULTIITEM_CACHE_DIR"):
        tiny_checkpoint(tmp_path)


def test_what_a_killed_process_was_writing_is_taken_away(tmp_path, small):
    left = tmp_path / "checkpoints" / f".tiny-{SPEC.digest}-killed/checkpoint"
    left.mkdir(parents=True)
    tiny_checkpoint(tmp_path)
    assert not left.parent.exists()


@pytest.mark.parametrize("cause", ["a file", "no home"])
def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, cause):
    monkeypatch.setenv("MULTIITEM_CACHE_DIR", str(tmp_path / "file/cache") if cause == "a file" else "")
    (tmp_path / "file").touch()
    if cause == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container's user without an entry
    with pytest.raises(UsageError, match="MULTIITEM_CACHE_DIR"):
        checkpoint_cache()


def test_a_full_disk_leaves_no_checkpoint(tmp_path, monkeypatch):
    def full(*_, **__):
        raise checkpoint.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match="No space left on device; free some space there"):
        write_checkpoint(tmp_path / "one", SPEC)
    assert [*tmp_path.iterdir()] == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": lambda d: flip(d / "model.safetensors"),
    "a cut file": lambda d: (d / "model.safetensors").write_bytes(b"short"),
    "a changed config": lambda d: (d / "config.json").write_text("{}"),
    "a missing file": lambda d: (d / "tokenizer.json").unlink(),
    "no checksums": lambda d: (d / "multiitem-checksums.json").unlink(),
    "checksums that are no JSON": lambda d: (d / "multiitem-checksums.json").write_text("{"),
    "checksums of another shape": lambda d: (d / "multiitem-checksums.json").write_text("[1]"),
    "empty checksums": lambda d: (d / "multiitem-checksums.json").write_text("{}"),
    "nothing left": lambda d: [path.unlink() for path in d.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_replaced(tmp_path, small, damage):
    directory = tiny_checkpoint(tmp_path)
    before = content(directory)
    DAMAGES[damage](directory)
    assert content(directory) != before
    assert content(tiny_checkpoint(tmp_path)) == before
    assert len(small) == 2


def test_checksums_are_of_the_files(tmp_path):
    directory = write(tmp_path / "one")
    checksums = json.loads((directory / "multiitem-checksums.json").read_text())
    assert set(checksums) == set(content(directory)) - {"multiitem-checksums.json"}


def test_concurrent_first_uses_give_one_intact_copy(tmp_path, small):
    found, barrier = [], threading.Barrier(4)

    def use():
        barrier.wait()
        found.append(tiny_checkpoint(tmp_path))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4 and len(set(found)) == 1 and len(small) == 1
    assert content(found[0]) == content(write(tmp_path / "reference"))


def test_a_full_tokenizer_names_every_id_and_reads_text_as_before(tmp_path):
    from tokenizers import Tokenizer

    small = CheckpointSpec(hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8, vocab_size=4000)
    write_checkpoint(tmp_path / "full", small, full_tokenizer=True)
    write_checkpoint(tmp_path / "plain", small)
    full, plain = (Tokenizer.from_file(str(tmp_path / name / "tokenizer.json")) for name in ("full", "plain"))
    assert set(range(4000)) <= set(full.get_vocab().values())
    assert not set(range(4000)) <= set(plain.get_vocab().values())
    text = "How far is the moon? <unused 3000> 12,5 km"
    assert full.encode(text).ids == plain.encode(text).ids
