"""Decisions: questions about one input, against the prompts and labels that the answers themselves name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from pytest_multiitem.gates.checks import Broken, NotMade
from pytest_multiitem.gates.gate import Measurement
from pytest_multiitem.gates.mode_isolation import Isolation
from pytest_multiitem.gates.mode_probe import TEMPERATURES, Checks, ModeProbe, largest, measured, mode_gate
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.readout import softmax
from pytest_multiitem.scoring.wire.decisions import DecisionAnswer
from pytest_multiitem.targets.modes import decided
from pytest_multiitem.targets.target import Target

#: One question of each type.
_QUESTIONS: Final[tuple[dict[str, Any], ...]] = (
    {
        "id": "colour",
        "type": "choice",
        "question": "Which colour has the door?",
        "options": [{"name": "red"}, {"name": "green", "description": "or nearly so"}, {"name": "blue"}],
    },
    {
        "id": "size",
        "type": "score",
        "question": "How large is the house?",
        "levels": ["one room", "a few rooms", "many rooms"],
    },
    {"id": "old", "type": "yes_no", "question": "The house is older than its owner."},
)
_INPUT: Final = {"text": "A house by the sea, whose red door was painted a hundred years ago."}
_SUM = 1e-6
#: A label mass may differ by this share of it.
_MASS: Final = 0.02


def measure(subject: Subject) -> Measurement:
    """Ask a question of each type, and compare with scores by ids of the prompt and the labels that each answer names:
    its probabilities, at three temperatures, and its label mass with the sum of the labels' plain probabilities.

    Questions are answered as before wherever `gates.mode_isolation` puts them.
    """
    return measured(subject, ModeName.DECISIONS, _checks)


def _checks(probe: ModeProbe) -> Checks:
    decisions = _Decisions(probe)
    return {
        "probabilities sum to 1": decisions.sums,
        "probabilities by ids": decisions.by_ids,
        "label mass": decisions.mass,
        "temperature": decisions.temperature,
        "what follows": decisions.follows,
        **decisions.isolation.checks,
    }


class _Decisions:
    """The questions, and what the server answers."""

    def __init__(self, probe: ModeProbe) -> None:
        self.probe = probe
        self._whole: Mapping[str, DecisionAnswer] | None = None

    def asked(self, *questions: Mapping[str, Any], **more: Any) -> Mapping[str, DecisionAnswer]:
        body = {"input": _INPUT, "questions": [*questions], **more}
        return decided(self.probe.multi, body).answers

    @property
    def isolation(self) -> Isolation[Mapping[str, Any]]:
        """Of questions, by their wording."""

        def worded(text: Callable[[str, int], str]) -> Callable[[Mapping[str, Any], int], Mapping[str, Any]]:
            return lambda question, number: {**question, "question": text(question["question"], number)}

        other, longer = worded(self.probe.other_text), worded(self.probe.longer_text)
        return Isolation(self.probe, _QUESTIONS, self._in_order, other, longer, exact=self.probe.knows_tokens)

    def _in_order(self, questions: Sequence[Mapping[str, Any]], server: Target) -> list[np.ndarray]:
        """Probabilities and label mass of each question, whose names are its own wherever it stands."""
        named = [{**question, "id": f"{number}"} for number, question in enumerate(questions)]
        answers = decided(server, {"input": _INPUT, "questions": named}).answers
        found = [answers[question["id"]] for question in named]
        return [np.array([*answer.probabilities.values(), answer.label_mass]) for answer in found]

    @property
    def whole(self) -> Mapping[str, DecisionAnswer]:
        """All questions in one request."""
        if self._whole is None:
            self._whole = self.asked(*_QUESTIONS, return_prompt_token_ids=True)
        return self._whole

    def _by_ids(self, *, softmaxed: bool) -> dict[str, np.ndarray]:
        """The scores [K] of each question's prompt at its labels: packed where the answer says where its query ends,
        else serially."""
        found = {}
        for name, answer in self.whole.items():
            prompt, labels = answer.prompt_token_ids, answer.label_token_ids
            if not prompt or not labels or len(labels) != len(answer.probabilities):
                raise NotMade(f"the answer to {name!r} does not name its prompt and a label for each probability")
            split = answer.query_tokens
            if split is not None:
                query, item = prompt[:split], prompt[split:]
                rows = self.probe.multi.score_ids(query, [item], labels, apply_softmax=softmaxed)
            else:
                rows = self.probe.serial.score_ids(prompt[:1], [prompt[1:]], labels, apply_softmax=softmaxed)
            found[name] = rows[0]
        return found

    def _apart(self, answers: Mapping[str, DecisionAnswer], wanted: Mapping[str, np.ndarray]) -> float:
        return largest(
            [
                float(np.abs(np.array([*answers[name].probabilities.values()]) - row).max())
                for name, row in wanted.items()
            ]
        )

    def sums(self) -> str:
        for name, answer in self.whole.items():
            total = math.fsum(answer.probabilities.values())
            if not abs(total - 1) <= _SUM or min(answer.probabilities.values()) < 0:
                raise Broken(f"the probabilities of {name!r} sum to {total:.9g}")
        return f"{len(self.whole)} questions"

    def by_ids(self) -> str:
        apart = self._apart(self.whole, self._by_ids(softmaxed=True))
        return self.probe.within(apart, f"{len(self.whole)} prompts by ids")

    def mass(self) -> str:
        """The sum of the labels' probabilities over the vocabulary."""
        sums = {name: float(row.sum()) for name, row in self._by_ids(softmaxed=False).items()}
        for name, total in sums.items():
            said = self.whole[name].label_mass
            if not abs(said - total) <= _MASS * total:
                raise Broken(f"the label mass of {name!r} is {said:.6g}; its labels' probabilities sum to {total:.6g}")
        return f"{min(sums.values()):.3g} to {max(sums.values()):.3g}"

    def temperature(self) -> str:
        """The softmax of the logarithms over it; the label mass stays."""
        wanted = {name: np.array([[*answer.probabilities.values()]]) for name, answer in self.whole.items()}
        seen = []
        for temperature in TEMPERATURES:
            answers = self.asked(*_QUESTIONS, temperature=temperature)
            with np.errstate(divide="ignore"):
                expected = {name: softmax(np.log(row), temperature)[0] for name, row in wanted.items()}
            limit = self.probe.same / min(1.0, temperature)
            seen.append(self.probe.within(self._apart(answers, expected), f"at temperature {temperature:g}", limit))
            for name, answer in answers.items():
                before = self.whole[name].label_mass
                if not abs(answer.label_mass - before) <= _MASS * before:
                    raise Broken(
                        f"at temperature {temperature:g} the label mass of {name!r} is {answer.label_mass:.6g}"
                    )
        return "; ".join(seen)

    def follows(self) -> str:
        """The choice is the most probable option, the score the mean level."""
        colour, size = self.whole["colour"], self.whole["size"]
        best = max(colour.probabilities.values())
        if colour.choice is None or not colour.probabilities.get(colour.choice, -1.0) >= best - self.probe.same:
            raise Broken(f"the choice is {colour.choice!r}; the most probable option has {best:.6g}")
        mean = math.fsum(level * share for level, share in enumerate(size.probabilities.values()))
        if size.score is None or not abs(size.score - mean) <= len(size.probabilities) * self.probe.same:
            raise Broken(f"the score is {size.score}; the mean level is {mean:.6g}")
        return f"choice {colour.choice!r}, score {mean:.3g}"


DECISIONS = mode_gate(
    ModeName.DECISIONS,
    "decisions_agree",
    "the answers to questions about one input, against scores by ids of the prompts that they name; label mass, "
    "temperature; the isolation of questions, to the bit where the engine promises it",
    measure,
    short="decisions",
    order=33,
)
GATES = (DECISIONS,)
