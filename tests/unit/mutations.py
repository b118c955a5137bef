"""Changes of a decoded JSON file: a number, a verdict, a flag, the length of a list, a key; seeded, or one by name."""

import json
import math
import random

NUMBERS = (
    lambda x: 0.0,
    lambda x: -x,
    lambda x: 10 * x + 1,
    lambda x: x + 0.5,
    lambda x: x / 3,
    lambda x: x * (1 + 1e-6) + 1e-6,
    lambda x: math.nan,
    lambda x: math.inf,
    lambda x: 1e308,
)
VERDICTS = ("PASS", "FAIL", "ERROR", "INCONCLUSIVE", "NOT_RUN")


def places(value, path=()):
    """Every place in a file, but for the top."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


class Mutations:
    """Changes of one file, one at a time."""

    def __init__(self, content, seed):
        self._text, self._random = json.dumps(content), random.Random(seed)
        self._by_depth = {}
        for path in places(content):
            self._by_depth.setdefault(len(path), []).append(path)

    def draw(self):
        """A copy with one change, and what was changed."""
        depth = self._random.choice(sorted(self._by_depth))  # else long lists are all that is drawn
        return _changed(json.loads(self._text), self._random.choice(self._by_depth[depth]), self._random)


def _changed(new, path, random):
    holder = new
    for key in path[:-1]:
        holder = holder[key]
    last, value = path[-1], holder[path[-1]]
    kinds = ["drop", "null"]
    if isinstance(value, bool):
        kinds += ["flip"] * 4
    elif isinstance(value, int | float):
        kinds += ["number"] * 8
    elif value in VERDICTS:
        kinds += ["verdict"] * 8
    elif isinstance(value, str):
        kinds += ["text"]
    elif isinstance(value, list) and value:
        kinds += ["shorter", "longer", "empty"] * 2
    if isinstance(last, str):
        kinds.append("rename")
    kind = random.choice(kinds)
    if kind == "drop":
        del holder[last]
    elif kind == "rename":
        holder[f"{last}_"] = holder.pop(last)
    elif kind == "number":
        changed = random.choice(NUMBERS)(value)
        holder[last] = int(changed) if isinstance(value, int) and math.isfinite(changed) else changed
    elif kind == "verdict":
        holder[last] = random.choice([verdict for verdict in VERDICTS if verdict != value])
    else:
        holder[last] = {
            "null": None, "flip": not value, "text": f"{value} or so",
            "shorter": value[:-1] if kind == "shorter" else None,
            "longer": [*value, value[-1]] if kind == "longer" else None, "empty": [],
        }[kind]  # fmt: skip
    return new, f"{'/'.join(map(str, path))}: {kind}, {value!r:.60}"


def set_to(*path):
    """A change that sets one value: the path's last entry."""

    def change(content):
        *keys, last, value = path
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def drop(*path):
    """A change that takes one entry away."""

    def change(content):
        *keys, last = path
        for key in keys:
            content = content[key]
        del content[last]

    return change
