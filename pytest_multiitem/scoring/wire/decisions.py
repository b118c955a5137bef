"""The wire of ``POST /v1/decisions``: questions about one input, answered by the probabilities of their labels.

As sglang 0.5.21 has it. Differences: unknown fields are ignored, as by the other endpoints here, and images are not
known.
"""

from __future__ import annotations

import unicodedata
from typing import Any, Final

import msgspec

from pytest_multiitem.scoring.modes import ModeName, scoring_mode
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.fields import (
    Usage,
    check_finite,
    check_temperature,
    decode_object,
    mistyped,
    optional,
    required,
    too_many_items,
)

DECISIONS_PATH: Final = scoring_mode(ModeName.DECISIONS).paths[0]
#: Options are labelled by the letters, levels by the digits.
MOST_OPTIONS: Final = 26
MOST_LEVELS: Final = 10

#: Text, or an object or a list, which is shown in a prompt as JSON.
Shown = str | dict[str, Any] | list[Any]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question: ``kind`` choice, score or yes_no. ``names``: what its answers are called in a response: the names
    of the options, the numbers of the levels, yes and no. ``details``: what is said of each, None where nothing is."""

    id: str
    kind: str
    question: Shown
    names: list[str]
    details: list[Shown | None]


class DecisionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Questions about one ``input``. ``temperature``: of the probabilities, not of the label mass."""

    input: Shown
    questions: list[Question]
    temperature: float = 1.0
    return_prompt_token_ids: bool = False
    model: str | None = None


class DecisionAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``probabilities``: by the names of the answers, 1 together. ``label_mass``: the labels' share of the whole
    vocabulary's probability, at temperature 1. ``choice``: the name of the most probable option. ``score``: the mean
    level.

    With ``return_prompt_token_ids``, what ``/v1/score`` gives the same for: ``prompt_token_ids`` [S], of which the
    first ``query_tokens`` are the query and the others the item (None from engines that do not pack), and
    ``label_token_ids``.
    """

    type: str
    probabilities: dict[str, float]
    label_mass: float
    choice: str | None = None
    score: float | None = None
    prompt_token_ids: list[int] | None = None
    query_tokens: int | None = None
    label_token_ids: list[int] | None = None


class DecisionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer for each question, by its id."""

    answers: dict[str, DecisionAnswer]
    model: str
    object: str = "decisions"
    usage: Usage | None = None


def encode_decisions(response: DecisionResponse) -> bytes:
    """The response as JSON. Raises ValueError on numbers that are not finite."""
    for name, answer in response.answers.items():
        check_finite(f"the probabilities of {name!r}", [*answer.probabilities.values(), answer.label_mass])
    return msgspec.json.encode(response)


def decode_decisions(body: bytes) -> DecisionResponse:
    """The answers of a response. Raises ValueError where it is none."""
    try:
        return msgspec.json.decode(body, type=DecisionResponse)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no answers to decisions: {error}") from None


def parse_decision_request(body: bytes, *, max_items: int | None = None) -> DecisionRequest:
    """Decode and check a request body; questions ``max_items`` at most.

    A field that is ``null`` counts as absent; unknown fields are ignored. Raises WireError.
    """
    fields = decode_object(body, "input and questions")
    shown, questions = (required(fields, name) for name in ("input", "questions"))
    temperature = check_temperature(fields.get("temperature"))
    return DecisionRequest(
        input=_check_shown(shown, "input", "input"),
        questions=_check_questions(questions, max_items),
        temperature=1.0 if temperature is None else temperature,
        return_prompt_token_ids=optional(fields, "return_prompt_token_ids", bool, False),
        model=optional(fields, "model", str, None),
    )


def _check_shown(value: Any, code: str, param: str) -> Any:
    """Text, an object or a list with something in it."""
    if not isinstance(value, str | dict | list):
        raise mistyped(f"invalid_{code}_type", param, value, "text, an object or a list")
    if not (value.strip() if isinstance(value, str) else value):
        raise WireError(400, f"empty_{code}", f"{param} is empty; expected text, an object or a list", param)
    return value


def _check_questions(questions: Any, most: int | None) -> list[Question]:
    if not isinstance(questions, list):
        raise mistyped("invalid_questions_type", "questions", questions, "a list of questions")
    if not questions:
        raise WireError(400, "empty_questions", "questions is empty; expected at least one question", "questions")
    if most is not None and len(questions) > most:
        raise too_many_items(len(questions), most, "questions")
    checked: dict[str, Question] = {}
    for number, fields in enumerate(questions):
        question = _check_question(fields, f"questions[{number}]")
        if question.id in checked:
            param = f"questions[{number}].id"
            message = f"{param} is {question.id!r}, which another question has; answers are told apart by it"
            raise WireError(400, "duplicate_question_id", message, param)
        checked[question.id] = question
    return [*checked.values()]


def _check_question(fields: Any, at: str) -> Question:
    if not isinstance(fields, dict):
        raise mistyped("invalid_questions_type", at, fields, "an object with id, type and question")
    name = fields.get("id")
    if not isinstance(name, str) or not name.strip():
        raise mistyped("invalid_question_id", f"{at}.id", name, "text that is not blank")
    kind = fields.get("type")
    if kind not in ("choice", "score", "yes_no"):
        raise mistyped("invalid_question_kind", f"{at}.type", kind, '"choice", "score" or "yes_no"')
    question = _check_shown(fields.get("question"), "question", f"{at}.question")
    names, details = _ANSWERS[kind](fields, at)
    return Question(id=name, kind=kind, question=question, names=names, details=details)


def _options(fields: dict[str, Any], at: str) -> tuple[list[str], list[Any]]:
    options = _some(fields, at, "options", MOST_OPTIONS)
    names: list[str] = []
    for number, option in enumerate(options):
        param = f"{at}.options[{number}]"
        name = option.get("name") if isinstance(option, dict) else None
        if not isinstance(name, str) or not name.strip() or not _in_one_line(name):
            raise mistyped("invalid_option", param, option, "an object whose name is text in one line, not blank")
        if name.strip().casefold() in (other.strip().casefold() for other in names):
            message = f"{param}.name is {name!r}, which another option has; answers are told apart by it"
            raise WireError(400, "duplicate_option", message, param)
        names.append(name)
    return names, [_described(option, "description", f"{at}.options[{i}]") for i, option in enumerate(options)]


def _levels(fields: dict[str, Any], at: str) -> tuple[list[str], list[Any]]:
    levels = _some(fields, at, "levels", MOST_LEVELS)
    details = [_check_shown(level, "level", f"{at}.levels[{number}]") for number, level in enumerate(levels)]
    return [*map(str, range(len(levels)))], details


def _yes_no(fields: dict[str, Any], at: str) -> tuple[list[str], list[Any]]:
    return ["yes", "no"], [_described(fields, name, at) for name in ("yes", "no")]


_ANSWERS: Final = {"choice": _options, "score": _levels, "yes_no": _yes_no}


def _some(fields: dict[str, Any], at: str, name: str, most: int) -> list[Any]:
    """Two entries of a list at least, and not more than there are labels for."""
    values = fields.get(name)
    if not isinstance(values, list) or not 2 <= len(values) <= most:
        raise mistyped(f"invalid_{name}", f"{at}.{name}", values, f"a list of 2 to {most}")
    return values


def _described(fields: dict[str, Any], name: str, at: str) -> Any:
    value = fields.get(name)
    if value is not None and not isinstance(value, str | dict | list):
        raise mistyped("invalid_description_type", f"{at}.{name}", value, "text, an object or a list, or none")
    return value


def _in_one_line(text: str) -> bool:
    """Each option is a line of the prompt."""
    return not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)
