"""An A/B pair by environment variables: what an arm is, and that it is measured interleaved."""

import json
from typing import ClassVar

import httpx
import msgspec
import pytest
from stub_targets import multi, packed

from pytest_multiitem.comparison.measuring import arms
from pytest_multiitem.errors import UsageError

MASKS = (["MULTI_ITEM_MASK_IMPL=dense"], ["MULTI_ITEM_MASK_IMPL=segment"])

JAX = {"multiitem_backend": "jax"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.delenv("MULTI_ITEM_MASK_IMPL", raising=False)


def test_an_arm_is_its_variables_over_what_both_share(monkeypatch):
    monkeypatch.setenv("MULTI_ITEM_BENCH_TIMED_RUNS", "9")
    a, b = arms.arms_of(*MASKS, {"multiitem_backend": "jax"}, "packed")
    assert [arm.side.profile.mask_impl for arm in (a, b)] == ["dense", "segment"]
    assert [arm.side.profile.backend for arm in (a, b)] == ["jax", "jax"]
    assert a.side.settings.bench_timed_runs == b.side.settings.bench_timed_runs == 9
    assert a.side.settings.origins["mask_impl"] == "environment MULTI_ITEM_MASK_IMPL"


@pytest.mark.parametrize(("mode", "role"), [("packed", "multi"), ("prefill_extend", "extend"), ("serial", "serial")])
def test_each_mode_has_its_server(mode, role):
    a, _ = arms.arms_of(["MULTI_ITEM_EXTEND_BATCH_SIZE=4"], [], {**JAX, "multiitem_mask_impl": "dense"}, mode)
    assert a.side.profile.role == role and a.side.settings.extend_batch_size == 4


@pytest.mark.parametrize(
    ("a", "b", "options", "said"),
    [
        (["MULTI_ITEM_MASK_IMP=dense"], [], JAX, "did you mean 'MULTI_ITEM_MASK_IMPL'?"),
        (["dense"], [], JAX, "is no NAME=VALUE"),
        (["MULTI_ITEM_MASK_IMPL=dens"], [], JAX, "'dens' is not valid"),
        (*MASKS, {}, "arm A has backend pytorch,jax; name one: --backend, or MULTI_ITEM_BACKEND"),
        (["MULTI_ITEM_SEED=1"], ["MULTI_ITEM_SEED=2"], JAX, "arm A has mask_impl dense,segment"),
        (*MASKS, {**JAX, "multiitem_mask_impl": "dense"}, "both arms have the same settings"),
        (MASKS[0], MASKS[0], JAX, "both arms have the same settings"),
    ],
)
def test_what_is_no_pair_is_refused(a, b, options, said):
    with pytest.raises(UsageError) as caught:
        arms.arms_of(a, b, options, "packed")
    assert said in str(caught.value)


class Up:
    """A side whose server is up already: answers in ``seconds`` a request, by the order of the log."""

    log: ClassVar[list] = []

    def __init__(self, side, directory):
        self.side, self.target = side, multi(mask=side.profile.mask_impl)
        self.closed = False

    def open(self):
        seconds = {"dense": 0.3, "segment": 0.1}[self.side.profile.mask_impl]
        score = self.target.client.score

        def timed_send(request):
            body = json.loads(request.body)
            self.log.append(self.side.profile.mask_impl)
            scores = score(body["query"], body["items"], body["label_token_ids"])
            return seconds, httpx.Response(200, json={"scores": scores.tolist()})

        self.target.client.timed_send = timed_send
        return self.target

    def close(self):
        self.log.append("closed")


@pytest.mark.parametrize("runs", [5, 6])
def test_a_pair_is_interleaved_and_judged_by_its_interval(monkeypatch, tmp_path, runs):
    monkeypatch.setattr(arms, "Connected", Up)
    monkeypatch.setattr(Up, "log", [])
    options = {**JAX, "multiitem_bench_items": "6", "multiitem_bench_query_tokens": "9"}
    options |= {"multiitem_bench_timed_runs": str(runs), "multiitem_item_tokens": "3"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    names = (["dense", "segment", "segment", "dense"] * 3)[: 2 * runs]
    assert Up.log == ["dense", "segment", *names, "closed", "closed"]
    assert pair.record.ratio_p50 == pytest.approx(3.0) and len({row.session for row in pair.rows}) == 1
    few = "not compared: 5 successful runs to compare; at least 6 are needed"
    assert pair.record.verdict == (few if runs < 6 else "B is faster")
    header, (first, second) = arms.table(pair)
    assert header[0] == "arm" and first[:2] == ["A", "MULTI_ITEM_MASK_IMPL=dense"] and second[3] == "segment"
    assert arms.problems(pair) == [] and pair.record.agreement.max_abs_diff == 0.0
    assert json.loads(msgspec.json.encode(pair.record))["ratio_p50"] == pair.record.ratio_p50


def test_an_arm_with_wrong_scores_is_a_problem_and_not_compared(monkeypatch, tmp_path):
    class Wrong(Up):
        def open(self):
            target = super().open()
            call, segment = target.client.timed_send, self.side.profile.mask_impl == "segment"

            def timed_send(request):
                seconds, answer = call(request)
                rows = json.loads(answer.text)["scores"]
                return seconds, httpx.Response(200, json={"scores": rows[::-1] if segment else rows})

            target.client.timed_send = timed_send
            return target

    monkeypatch.setattr(arms, "Connected", Wrong)
    options = {**JAX, "multiitem_bench_items": "6", "multiitem_bench_query_tokens": "9"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    found = arms.problems(pair)
    assert not any(problem.startswith("arm A") for problem in found)
    assert any(problem.startswith("arm B: failed: wrong_scores: item") for problem in found)
    assert pair.record.verdict == "not compared: the scores of arm B are wrong"
    assert pair.rows[0].status == "ok" and set(pair.rows[1].failure_reason_counts) == {"wrong_scores"}


def test_another_path_than_asked_for_is_a_problem(monkeypatch, tmp_path):
    class Dense(Up):
        def __init__(self, side, directory):
            super().__init__(side, directory)
            self.target = multi(packed, mask=side.profile.mask_impl, executed="dense")

    monkeypatch.setattr(arms, "Connected", Dense)
    options = {**JAX, "multiitem_bench_items": "6", "multiitem_bench_query_tokens": "9"}
    pair = arms.measure(arms.arms_of(*MASKS, options, "packed"), tmp_path)
    (problem,) = arms.problems(pair)
    assert "arm B: segment was requested, but the server executed dense" in problem
