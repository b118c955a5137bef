"""Requests that a scoring server must refuse, drawn from a seed; each is bad in one way."""

import json
import random
from dataclasses import dataclass, field

VOCAB, DELIMITER = 151_936, 151_643
GOOD = {"query": [1, 2, 3], "items": [[4, 5], [], [6]], "label_token_ids": [7, 8], "apply_softmax": True}
TEXT = {"query": "weather?", "items": ["sunny", " rain"], "label_token_ids": [7, 8], "apply_softmax": True}
IDS = (-1, -(2**63), VOCAB, 2**31, 2**63 - 1, 2**63, 10**400, 1.5, 2.0, True, None, "7", [], {}, [[[]]])
TYPES = (0, 1.5, True, {"a": 1}, "words of text", [None], [True], [["a"]], [[1], "a"], {}, -0.0, "\ud800")


@dataclass(frozen=True)
class Bad:
    """``kind``: in what it is bad. ``content``: the body."""

    kind: str
    content: bytes
    method: str = "POST"
    path: str = "/v1/score"
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


def bad_requests(seed, count):
    """So many of them."""
    draw = random.Random(seed)
    return [KINDS[draw.choice([*KINDS])](draw) for _ in range(count)]


def _json(kind, content, **more):
    return Bad(kind, json.dumps(content).encode(), **more)


def _field_of_another_type(draw):
    name = draw.choice(["query", "items", "label_token_ids", "apply_softmax", "item_first", "temperature"])
    good = {
        "query": lambda v: v == "words of text",
        "items": lambda v: isinstance(v, str),
        "label_token_ids": lambda v: False,
        "apply_softmax": lambda v: v is True,
        "item_first": lambda v: v is True,
        "temperature": lambda v: v == 1.5,
    }[name]
    base = TEXT if draw.random() < 0.3 and name in ("label_token_ids", "apply_softmax", "temperature") else GOOD
    value = draw.choice([v for v in TYPES if not good(v)])
    return _json("type", base | {name: value})


def _missing(draw):
    name = draw.choice(["query", "items", "label_token_ids"])
    body = {k: v for k, v in GOOD.items() if k != name}
    return _json("missing", body | ({name: None} if draw.random() < 0.5 else {}))


def _empty(draw):
    return _json("empty", GOOD | {draw.choice(["query", "items", "label_token_ids"]): []})


def _bad_id(draw):
    value = draw.choice(IDS)
    where = draw.choice(["query", "items", "label_token_ids"])
    good = list(range(draw.randint(0, 40)))
    good.insert(draw.randint(0, len(good)), value)
    return _json("id", GOOD | {where: [[1], good] if where == "items" else good})


def _delimiter(draw):
    return _json("delimiter", GOOD | draw.choice([{"query": [DELIMITER]}, {"items": [[1], [2, DELIMITER, 3]]}]))


def _too_many_items(draw):
    count = draw.randint(600, 60_000) if draw.random() < 0.98 else 1_300_000  # what grows most when it is decoded
    return Bad("items", json.dumps(GOOD | {"items": [[]] * count}, separators=(",", ":")).encode())


def _too_long(draw):
    return _json("long", GOOD | {"items": [[1], [2] * draw.randint(50_000, 400_000)]})


def _too_long_text(draw):
    text = draw.choice(["x", " ", "é", "日本", "a b", "<|im_start|>", "\x00"]) * draw.randint(600_000, 1_500_000)
    return _json("text", TEXT | draw.choice([{"query": text}, {"items": ["sunny", text]}]))


def _too_many_labels(draw):
    return _json("labels", GOOD | {"label_token_ids": [7] * draw.randint(VOCAB + 1, 400_000)})


def _deep(draw):
    return Bad("deep", draw.choice([b"[", b'{"query":', b"[[{}],"]) * draw.randint(2_000, 100_000))


def _no_json(draw):
    good = json.dumps(GOOD).encode()
    content = draw.choice(
        [
            good[: draw.randrange(len(good))],
            good + b"}",
            b"\xff\xfe" + good,
            good.replace(b"[4, 5]", b"[NaN]"),
            good.replace(b"[4, 5]", b"[Infinity, -Infinity]"),
            good.replace(b"[4, 5]", b"[1e400]"),
            good.replace(b"[4, 5]", b"[0x7, 07]"),
            good.replace(b'"query"', b"'query'"),
            b"--x\r\ncontent-disposition: form-data; name=query\r\n\r\n1\r\n--x--",
            draw.randbytes(draw.randint(0, 5000)),
        ]
    )
    return Bad("json", content, headers={"content-type": draw.choice(["text/plain", "multipart/form-data", "a/b; c"])})


def _no_object(draw):
    return _json("object", draw.choice([[], [GOOD], "text", 3, None, True]))


def _twice(draw):
    return Bad("twice", json.dumps(GOOD).encode()[:-1] + b', "query": ' + draw.choice([b"3", b"[]", b"{}"]) + b"}")


def _prompt(draw):
    content = draw.choice([{}, {"text": 3}, {"input_ids": [[1]]}, {"input_ids": []}, {"input_ids": [-1]}, [], "x"])
    return _json("prompt", content, path="/generate")


def _nowhere(draw):
    path = draw.choice(["/", "/v1/score/", "/v1", "/%00", "/%ff?a=b", "/" + "x" * draw.randint(1, 3000), "//health"])
    return Bad("path", b"{}", draw.choice(["GET", "POST", "PUT"]), path)


def _method(draw):
    return Bad("method", b"", draw.choice(["DELETE", "PATCH", "PUT", "OPTIONS", "GET", "TRACE"]))


KINDS = {
    "type": _field_of_another_type, "missing": _missing, "empty": _empty, "id": _bad_id, "delimiter": _delimiter,
    "items": _too_many_items, "long": _too_long, "text": _too_long_text, "labels": _too_many_labels, "deep": _deep,
    "json": _no_json, "object": _no_object, "twice": _twice, "prompt": _prompt, "path": _nowhere, "method": _method,
}  # fmt: skip
