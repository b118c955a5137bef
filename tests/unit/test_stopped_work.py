"""A computation that nobody waits for any more ends at its next step, in both engines and under both masks."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from engine_cases import DELIMITER, LABELS, workload
from test_app import REQUEST, Blocking, make_service, still_answers

from pytest_multiitem.engine import interruption
from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.interruption import Interrupted, Interruption
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig

DENSE = ScorerConfig(delimiter=DELIMITER, chunk_size=0, mask_impl=MaskImpl.DENSE)
SEGMENT = ScorerConfig(delimiter=DELIMITER, chunk_size=0, mask_impl=MaskImpl.SEGMENT)
EXTEND = ScorerConfig(prefill_extend=True, scoring_cache=True, extend_batch_size=4)


class AfterChecks(Interruption):
    """Told when it was asked so many times."""

    def __init__(self, count):
        super().__init__()
        self.count, self.asked = count, 0

    def check(self):
        self.asked += 1
        if self.asked > self.count:
            self.tell()
        super().check()


@pytest.fixture(scope="module", params=["pytorch", "jax"])
def backend(request, checkpoint):
    return load_backend(request.param, checkpoint, dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("config", "steps"),
    [(DENSE, 6), (SEGMENT, 3), (EXTEND, 3), (ScorerConfig(), 9)],
    ids=["dense", "segment", "extend", "serial"],
)
def test_the_engine_stops_between_its_steps_and_is_well_afterwards(backend, config, steps):
    """``steps``: at which it can be stopped, at least."""
    scorer = Scorer(backend, config)
    query, items = workload(3, 30, 9)
    score = partial(scorer.score, query, items, LABELS, True)
    right = score().scores
    whole = AfterChecks(10_000)
    with interruption.by(whole):
        score()
    assert whole.asked >= steps
    for count in {0, 1, whole.asked // 2, whole.asked - 1}:
        scorer.flush_cache()
        ran = scorer.executed()["requests"]
        stopped = AfterChecks(count)
        with interruption.by(stopped), pytest.raises(Interrupted):
            score()
        assert scorer.executed()["requests"] == ran, "what was stopped counts as nothing"
        assert (score().scores == right).all()


def test_only_what_it_was_made_for_is_stopped():
    told = Interruption()
    told.tell()
    with interruption.by(told):
        with pytest.raises(Interrupted):
            interruption.current().check()
        with ThreadPoolExecutor(1) as other:
            other.submit(lambda: interruption.current().check()).result()
    interruption.current().check()


def test_a_client_that_leaves_frees_the_engine():
    """Of four sequences the first is under way when the client goes: the second is not begun."""
    backend = Blocking()
    service = make_service(ScorerConfig(delimiter=999, chunk_size=1), backend=backend)
    app = create_app(service)
    left = asyncio.Event()

    async def scenario():
        messages = [{"type": "http.request", "body": json.dumps(REQUEST | {"items": [[1], [2], [3], [4]]}).encode()}]

        async def receive():
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": [], "query_string": b""}
        asked = asyncio.create_task(app(scope, receive, send))
        await asyncio.to_thread(backend.entered.wait, 5)
        left.set()
        await asyncio.wait_for(asked, 5)
        backend.release.set()

    asyncio.run(scenario())
    still_answers(service)
    assert backend.calls == ["prefix", "segment"] * 3, "one sequence of the request, and two of the next one"
