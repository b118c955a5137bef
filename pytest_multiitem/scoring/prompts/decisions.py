"""The prompt of a decision: the input, then one question whose answers are labels of one token each.

Worded as sglang 0.5.21 does (its ``prompt_format_version`` 1), in the chat form of Qwen3 with thinking off. The border
between query and item is after the input, so that all questions about it share the query.
"""

from __future__ import annotations

import json
import string
from typing import Any

from pytest_multiitem.scoring.wire.decisions import Question

_HEAD = "<|im_start|>user\n"
_TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_CLOSING = {
    "choice": "Answer with the letter of one option only.",
    "score": "Answer with the number of one level only.",
    "yes_no": "Answer with yes or no only.",
}


def rendered_input(value: Any) -> str:
    """The query: what all questions are about."""
    return f"{_HEAD}{_text(value)}\n\n"


def rendered_question(question: Question) -> str:
    """The item: one question and its labels."""
    asked = _text(question.question)
    lines = [f"Is the following true? {asked}" if question.kind == "yes_no" else f"Question: {asked}"]
    for label, name, detail in zip(labels(question), question.names, question.details, strict=True):
        said = _text(detail)
        if question.kind == "choice":
            lines.append(f"{label}: {name} - {said}" if said else f"{label}: {name}")
        elif said:
            lines.append(f"{label}: {said}")
    return "\n".join([*lines, _CLOSING[question.kind]]) + _TAIL


def labels(question: Question) -> list[str]:
    """The labels in the order of the answers: letters from A, digits from 0, or yes and no."""
    return list(string.ascii_uppercase[: len(question.names)]) if question.kind == "choice" else list(question.names)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
