"""Embedded servers on sockets of this process, as the gates of modes see them."""

from contextlib import ExitStack
from types import SimpleNamespace

from sockets import listening
from stub_targets import StubSubject

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.adapters.embedded import ENGINE
from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.service import Service
from pytest_multiitem.faults.active import ActiveFaults
from pytest_multiitem.faults.catalogue import fault
from pytest_multiitem.gates.record import judged
from pytest_multiitem.scoring.cases import built_in_cases
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import ScoreClient

#: What makes a server one that this run has started, whose caches may be flushed.
OWN = SimpleNamespace(check_alive=lambda patience: None, log_path=None)
DELIMITER, LABELS = 151_643, (9454, 2753)


def service(backend, directory, words, config, faults):
    scorer = Scorer(backend, config, faults.mutate) if faults else Scorer(backend, config)
    info = {
        "engine": "embedded", "model_path": str(directory), "dtype": "float32", "vocab_size": backend.vocab_size,
    }  # fmt: skip
    return Service(
        scorer=scorer.steps, tokenizer=words, model="served", vocab_size=backend.vocab_size,
        max_positions=backend.max_positions, probe_ids=[0, 1], info=info,
    )  # fmt: skip


class Servers:
    """A packed and a serial server of one model, with the faults that the scope of each fault says."""

    def __init__(self, backend, directory, words):
        self.backend, self.directory, self.words = backend, directory, words
        self.case = built_in_cases(
            seed=3, labels=LABELS if backend.classes is None else tuple(range(backend.classes)), delimiter=DELIMITER,
            vocab_size=backend.vocab_size, empty_item=True, mixed_items=8, equal_items=8,
        )[0]  # fmt: skip

    def judged(self, gate, *names, variations=(), semantics=Semantics.PREFIX_FIRST_DELIM, words=True, **more):
        """The record of a gate on such servers; ``names``: faults."""
        with ExitStack() as stack:
            parts = {}
            for role in ("multi", "serial"):
                varied = variations if role == "multi" else ()
                active = [name for name in names if role in fault(name).scope]
                config = ScorerConfig(delimiter=DELIMITER, semantics=semantics) if role == "multi" else ScorerConfig()
                faults = ActiveFaults.parse(active, varied) if active or varied else None
                served = service(self.backend, self.directory, self.words if words else None, config, faults)
                app = create_app(served)
                url = stack.enter_context(listening(faults.before(app) if faults else app))
                packed = ("segment", 0, semantics) if role == "multi" else ()
                client = stack.enter_context(ScoreClient(url, timeout=60))
                parts[role] = Target(
                    Profile(role, "pytorch", *packed),
                    "embedded",
                    client,
                    adapter=ENGINE,
                    server=OWN,
                    delimiter=DELIMITER,
                )
            subject = StubSubject([self.case], semantics=semantics, hand=parts["serial"], **parts, **more)
            return judged(gate, lambda gate: gate.measure(subject))
