"""Saved scores: what moved is found, rounding is not, and nothing that cannot be compared passes."""

import json

import msgspec
import numpy as np
import pytest

from pytest_multiitem.baselines import golden
from pytest_multiitem.baselines.golden import GoldenScores, ScoredRequest, ScoredServer, sha256_of, workload_sha256
from pytest_multiitem.baselines.score_judging import evidence_lines, judge, since_when
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.golden import SCORES_AS_SAVED
from pytest_multiitem.results.details import Notes
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.validation import run_details
from pytest_multiitem.validation.validate import examine

RANDOM = np.random.default_rng(20_260_101)
SCORES = RANDOM.dirichlet([1.0, 1.0], size=8)
SHA = {"first": "1" * 64, "second": "2" * 64}


def server(**more):
    told = {
        "role": "multi", "engine": "embedded", "version": "0.1.0", "backend": "jax", "mask_attested": "segment",
        "server_chunk_size": 0, "semantics": "prefix_first_delim", "delimiter": 9, "model": "/models/tiny",
        "dtype": "float32",
    }  # fmt: skip
    return ScoredServer(**(told | more))


def scored(name="first", scores=SCORES, who="multi-item jax segment", **more):
    told = {"request_sha256": SHA[name], "labels": [5, 6], "noise_floor": 0.0}
    return ScoredRequest(server=who, request=name, scores=np.asarray(scores).tolist(), **(told | more))


def saved(*requests, servers=None, **more):
    requests = list(requests) or [scored(), scored("second", SCORES[::-1])]
    told = {
        "name": "main",
        "saved_at_utc": "2026-01-01T00:00:00+00:00",
        "run_id": "run-0",
        "versions": {"jax": "0.5.0"},
    }
    made = GoldenScores(
        workload_sha256=workload_sha256({each.request: each.request_sha256 for each in requests}),
        servers=servers if servers is not None else {"multi-item jax segment": server()},
        requests=requests,
        **(told | more),
    )
    made.scores_sha256 = sha256_of(made)
    return made


def later(*requests, servers=None, **more):
    given = {"run_id": "run-9", "saved_at_utc": "2026-02-01T00:00:00+00:00", "versions": {"jax": "0.5.0"}}
    return saved(*requests, servers=servers, **(given | more))


def moved(by, at=3):
    scores = SCORES.copy()
    scores[at] += (by, -by)
    return scores


def test_equal_scores_pass_and_say_how_many_there_are():
    record = judge(saved(), later(), name="main")
    assert (record.verdict, record.gate, record.value) == (Verdict.PASS, "scores_as_saved", 0.0)
    assert record.reason == "none of 16 items of 2 requests moved: at most 0 away from saved"
    assert record.samples == {"requests": 2, "items": 16, "moved": 0} and record.details.since is None
    assert [*run_details.problems(record)] == []


@pytest.mark.parametrize(
    ("dtype", "by", "verdict"),
    [
        ("float32", 1e-6, "PASS"), ("float32", 9e-5, "PASS"), ("float32", 2e-4, "FAIL"),
        ("bfloat16", 0.015, "PASS"), ("bfloat16", 0.03, "FAIL"), (None, 0.015, "PASS"), (None, 0.03, "FAIL"),
    ],
)  # fmt: skip
def test_rounding_is_left_alone_and_more_is_named(dtype, by, verdict):
    servers = {"multi-item jax segment": server(dtype=dtype)}
    record = judge(
        saved(servers=servers), later(scored(scores=moved(by)), scored("second", SCORES[::-1]), servers=servers)
    )
    assert record.verdict == verdict and record.value == pytest.approx(by)
    (first, second) = record.details.requests
    assert second.verdict is Verdict.PASS and first.worst[0].index == 3
    assert [*run_details.problems(record)] == []
    if verdict == "FAIL":
        assert f"1 of 8 items moved by more than {first.limit:g}, most item 3 by {by:.3g}" in record.reason
        assert f"  item 3: [{SCORES[3][0]:.6g}, {SCORES[3][1]:.6g}] was saved, " in "\n".join(evidence_lines(record))


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (later(scored()), "missing in this run: the run's workload has no such request"),
        (later(scored(who="serial jax"), servers={"serial jax": server(role="serial")}), "the run has no such server"),
        (later(scored(), missing={"serial jax": "no jax"}), "missing in this run: the run's workload has no such"),
        (later(scored(), scored("second", SCORES[::-1], request_sha256="3" * 64)), "another workload: the request"),
        (later(scored(labels=[6, 5]), scored("second", SCORES[::-1])), "labels 5,6 are saved, 6,5 in this run"),
        (later(scored(scores=SCORES[:7]), scored("second", SCORES[::-1])), "scores of shape [7, 2], or no finite ones"),
    ],
)  # fmt: skip
def test_a_request_that_is_missing_or_another_one_fails(run, said):
    record = judge(saved(), run)
    assert record.verdict is Verdict.FAIL and said in record.reason
    assert [*run_details.problems(record)] == []


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({"delimiter": 8}, "FAIL", "delimiter 9 as saved, 8 in this run"),
        ({"semantics": "query_prefix"}, "FAIL", "semantics prefix_first_delim as saved, query_prefix in this run"),
        ({"dtype": "bfloat16"}, "FAIL", "dtype float32 as saved, bfloat16 in this run"),
        ({"backend": "pytorch"}, "FAIL", "backend jax as saved, pytorch in this run"),
        ({"engine": "sgl-jax"}, "FAIL", "engine embedded as saved, sgl-jax in this run"),
        ({"server_chunk_size": 2}, "FAIL", "server chunk size 0 as saved, 2 in this run"),
        ({"mask_attested": "dense"}, "FAIL", "mask executed segment as saved, dense in this run"),
        ({"model": "/models/large"}, "FAIL", "model tiny as saved, large in this run"),
        ({"attestation_problem": "dense ran"}, "FAIL", "dense ran"),
        ({"model": "/elsewhere/tiny"}, "PASS", "none of 16 items"),
        ({"version": "0.2.0"}, "PASS", "none of 16 items"),
        ({"mask_attested": "unattested"}, "INCONCLUSIVE", "mask executed not known of this run's server"),
        ({"delimiter": None}, "INCONCLUSIVE", "delimiter not known of this run's server"),
        ({"model": None}, "INCONCLUSIVE", "model not known of this run's server"),
    ],
)
def test_another_server_never_passes(changed, verdict, said):
    record = judge(saved(), later(servers={"multi-item jax segment": server(**changed)}))
    assert record.verdict == verdict and said in record.reason
    assert [*run_details.problems(record)] == []


def test_nothing_scored_fails():
    run = GoldenScores(
        name="x", saved_at_utc="2026", workload_sha256="0" * 64, servers={}, requests=[], missing={"a": "no jax\nhere"}
    )
    record = judge(saved(), run)
    assert record.verdict is Verdict.FAIL
    assert record.reason == "nothing was scored; main has 2 requests; a: no jax"


@pytest.mark.parametrize(
    ("floor", "by", "verdict"),
    [(0.0, 3e-4, "FAIL"), (2e-4, 3e-4, "INCONCLUSIVE"), (2e-4, 9e-4, "FAIL"), (2e-4, 0.0, "INCONCLUSIVE"),
     (None, 0.0, "INCONCLUSIVE")],
)  # fmt: skip
def test_a_server_that_does_not_repeat_itself_cannot_be_judged_by_less(floor, by, verdict):
    record = judge(saved(scored(noise_floor=floor)), later(scored(scores=moved(by), noise_floor=floor)))
    assert record.verdict == verdict and [*run_details.problems(record)] == []


def test_a_few_of_many_differences_of_every_size_are_found_where_they_are():
    """Whatever moves by more than the limit fails, and the item is named; whatever does not, passes: seeded."""
    random = np.random.default_rng(7)
    for _ in range(60):
        at, size = int(random.integers(8)), float(10 ** random.uniform(-8, -1))
        record = judge(saved(scored()), later(scored(scores=moved(size, at))))
        actual = abs(moved(size, at)[at][0] - SCORES[at][0])
        assert record.verdict is (Verdict.FAIL if actual > 1e-4 else Verdict.PASS)
        assert actual == 0 or record.details.requests[0].worst[0].index == at


def test_since_when_is_between_the_last_run_as_saved_and_the_first_other_one():
    def run(number, scores, version):
        jax = {"versions": {"jax": f"0.5.{number}"}, "servers": {"multi-item jax segment": server(version=version)}}
        return later(
            scored(scores=scores), run_id=f"run-{number}", saved_at_utc=f"2026-01-0{number + 1}T00:00:00", **jax
        )

    earlier = [run(3, moved(0.1), "0.2.0"), run(1, SCORES, "0.1.0"), run(2, moved(1e-6), "0.1.1")]
    unlike = later(scored("second"), run_id="run-2b", saved_at_utc="2026-01-03T12:00:00")  # says nothing of it
    record = judge(saved(scored()), run(4, moved(0.2), "0.2.1"), earlier=[*earlier, unlike])
    assert record.details.since == (
        "as saved last seen in run run-2, others first seen in run run-3: embedded 0.1.1, jax 0.5.2 then, embedded "
        "0.2.0, jax 0.5.3 now"
    )
    assert record.reason.endswith(record.details.since)
    same = since_when(saved(), later(), {scored().key}, [])
    assert same.endswith("run run-9: with the same versions (embedded 0.1.0, jax 0.5.0)")


# -- the file ------------------------------------------------------------------------------------


def test_a_file_that_is_whole_is_read_and_valid(tmp_path):
    path = golden.SHELF.write(tmp_path, "main", saved(), replace=False)
    assert golden.read(path) == saved() and examine(path).problems == []
    with pytest.raises(UsageError, match="there are saved scores 'main' already"):
        golden.SHELF.write(tmp_path, "main", saved(), replace=False)
    golden.SHELF.write(tmp_path, "main", saved(name="main", run_id="other"), replace=True)
    assert golden.read(tmp_path / "scores/replaced/main.1.json").run_id == "run-0"
    assert golden.SHELF.names(tmp_path) == ["main"]
    kept = golden.SHELF.delete("main", tmp_path)
    assert golden.SHELF.names(tmp_path) == [] and golden.read(kept).run_id == "other"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["requests"][0]["scores"][0].__setitem__(0, 0.5), "scores_sha256 is "),
        (lambda c: c["servers"]["multi-item jax segment"].update(dtype="bfloat16"), "scores_sha256 is "),
        (lambda c: c.update(workload_sha256="0" * 64), "workload_sha256 is 0000"),
        (lambda c: c.update(requests=[]), "requests: there is none; scores of nothing would let everything pass"),
        (lambda c: c["requests"].append(c["requests"][0]), "requests: 2 are 'multi-item jax segment · first'"),
        (lambda c: c.update(servers={}), "its server is not among those that are described"),
        (lambda c: c["requests"][0]["scores"].__setitem__(0, [0.5]), "a row has another number of scores than"),
        (lambda c: c["requests"][0]["scores"].__setitem__(0, [0.5, float("nan")]), "nan is no score"),
        (lambda c: c["requests"][0].update(scores=[]), "it has no score"),
        (lambda c: c["requests"][0].update(request_sha256="x"), "'x' is no sha256"),
        (lambda c: c["requests"][0].update(noise_floor=-1.0), "its noise floor is -1.0"),
        (lambda c: c.update(name="a b"), "name: 'a b' is no name for saved scores"),
        (lambda c: c.update(schema_version="multiitem_baseline_v1"), "is a 'multiitem_baseline_v1' file"),
        (lambda c: c.pop("servers"), "missing required field `servers`"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(tmp_path, change, said):
    content = json.loads(msgspec.json.encode(saved()))
    change(content)
    path = tmp_path / "main.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError) as caught:
        golden.read(path)
    assert said in str(caught.value) and "save new ones with --save-scores NAME" in str(caught.value)
    assert examine(path).problems


# -- what stands in a run ------------------------------------------------------------------------


def failing():
    return judge(saved(), later(scored(scores=moved(0.3)), scored("second", SCORES[::-1])))


def set_(**fields):
    return lambda cell: [setattr(cell, name, value) for name, value in fields.items()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_(verdict=Verdict.PASS), "it is PASS; its figures give FAIL"),
        (set_(moved=0, verdict=Verdict.PASS), "0 of 8 items moved by more than 0.0001, but the largest is 0.3"),
        (set_(limit=0.5, moved=0, verdict=Verdict.PASS), "its limit is 0.5; expected 0.0001 or 0.02"),
        (set_(largest=1e-6, mean=1e-7, moved=0, verdict=Verdict.PASS), "its largest difference is 1e-06; its"),
        (set_(mean=0.9), "its mean 0.9 is above its largest difference 0.3"),
        (set_(worst=[]), "its worst items give 0"),
        (lambda cell: setattr(cell.worst[0], "difference", 1e-6), "item 3: difference is 1e-06; its scores give 0.3"),
        (lambda cell: setattr(cell.worst[0], "now", [0.1]), "item 3: difference is 0.3; its scores give nan"),
    ],
)  # fmt: skip
def test_details_that_contradict_the_verdict_are_named(change, said):
    record = failing()
    assert [*run_details.problems(record)] == []
    change(record.details.requests[0])
    assert any(said in problem for problem in run_details.problems(record))


def test_a_pass_needs_its_details():
    record = failing()
    record.verdict = Verdict.PASS
    assert "its verdict is PASS; its requests give FAIL" in [*run_details.problems(record)]
    record = judge(saved(), later())
    record.details = Notes()
    assert "do not hold what was measured (against_scores)" in next(iter(run_details.problems(record)))
    assert SCORES_AS_SAVED.name == record.gate


# -- the command ---------------------------------------------------------------------------------


def test_the_command_lists_shows_compares_and_deletes(multiitem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert multiitem("scores", "list")[:2] == (0, "no saved scores in multiitem-results/scores\n")
    results = tmp_path / "multiitem-results"
    golden.SHELF.write(results, "main", saved(), replace=False)
    (results / "run-9").mkdir()
    run = results / "run-9/scores.json"
    run.write_bytes(msgspec.json.encode(later()))
    status, out, _ = multiitem("scores", "list")
    assert (status, out) == (0, "main: 16 items of 1 servers, saved 2026-01-01T00:00:00+00:00, run run-0\n")
    status, out, _ = multiitem("scores", "show", "main")
    assert status == 0 and "multi-item jax segment · second" in out and "0.1.0" in out
    status, out, _ = multiitem("scores", "compare", "main", "multiitem-results/run-9")
    assert status == 0 and out.splitlines()[-1].startswith("PASS: none of 16 items")
    run.write_bytes(msgspec.json.encode(later(scored(scores=moved(0.3)), scored("second", SCORES[::-1]))))
    status, out, _ = multiitem("scores", "compare", "main", "multiitem-results/run-9")
    assert status == 1 and "FAIL: 1 of 2 requests: multi-item jax segment · first: 1 of 8 items moved" in out
    run.write_bytes(b"{")
    status, _, err = multiitem("scores", "compare", "main", "multiitem-results/run-9")
    assert status == 2 and len(err.splitlines()) == 1
    status, out, _ = multiitem("scores", "delete", "main")
    assert status == 0 and "a copy is kept: multiitem-results/scores/replaced/main.1.json" in out
    status, _, err = multiitem("scores", "delete", "main")
    assert status == 2 and "there are no saved scores 'main' in multiitem-results/scores; there is none yet" in err
