"""Isolation in a mode, on the mode's own answers: what stands beside an item, or beside its request, must not show.

At the same shapes nothing may move: no engine and no precision rounds otherwise there. Other lengths, other requests
and cold caches are other shapes: there an engine that promises the same bits in every shape is held to that, and every
other one to what the order of sums may do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.gates.checks import Broken, NotMade, Undecided
from pytest_multiitem.gates.content_isolation import mixes_experts
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.judge import NOISE_FACTOR, ROUNDING
from pytest_multiitem.gates.mode_probe import Checks, ModeProbe, largest
from pytest_multiitem.gates.rounding import Precision, precision_of
from pytest_multiitem.gates.traffic import among
from pytest_multiitem.scoring.limits import PLACED
from pytest_multiitem.targets.target import Target

Content = TypeVar("Content")
#: What an answer has for each content, in the order of the request; of any shape.
Tables = Sequence[NDArray[np.float64]]
#: By how many tokens, or words of text, one item grows; each at the first, a middle and the last place.
GROWTH = (1, 7, 40)
_REPLAYS = 2


@dataclass(eq=False)
class Isolation(Generic[Content]):
    """The checks of isolation that every mode has, by how it is asked.

    ``contents`` [N]: of one request, such as items, documents or questions. ``ask``: the answer of a server to a
    request of such contents. ``other``: another content as long as one, of which there are several by number.
    ``longer``: one that has so much more of tokens at its beginning, or of words at its end. Either may raise NotMade.
    ``unit``: the size of the numbers, where they are no probabilities. ``exact``: whether ``other`` is known to have as
    many tokens; where not, another content may be another shape.
    """

    probe: ModeProbe
    contents: Sequence[Content]
    ask: Callable[[Sequence[Content], Target], Tables]
    other: Callable[[Content, int], Content]
    longer: Callable[[Content, int], Content]
    unit: Callable[[Tables], float] = lambda tables: 1.0
    exact: bool = True

    @property
    def checks(self) -> Checks:
        """By what is changed."""
        return {
            "the content of one item": self.content,
            "the length of one item": self.length,
            "an item alone": self.alone,
            "another order, and copies": self.permuted,
            "requests around it": self.around,
            "cold and warm caches": self.cold,
        }

    @cached_property
    def whole(self) -> Tables:
        """All contents in one request."""
        return self._asked(self.contents)

    @cached_property
    def floor(self) -> float:
        """How far quiet replays move a number of the answer."""
        replays = [self._asked(self.contents) for _ in range(_REPLAYS)]
        return largest([self._apart(each) for each in replays])

    @property
    def _precision(self) -> Precision:
        return precision_of(self.probe.multi.dtype, self.probe.multi.info.get("device"))

    @property
    def _bitwise(self) -> bool:
        """Whether a number has the same bits in requests of all shapes, by what the engine promises."""
        adapter = self.probe.multi.adapter
        return self._precision.exact and adapter is not None and adapter.bitwise

    @property
    def _rounding(self) -> float:
        """What another order of sums may do, at most."""
        return NOISE_FACTOR * max(self._precision.floor * self.unit(self.whole), self.floor)

    def _asked(self, contents: Sequence[Content]) -> Tables:
        return self.ask(contents, self.probe.multi)

    def _apart(self, found: Tables, places: Sequence[tuple[int, int]] | None = None) -> float:
        """The largest difference from the whole request. ``places``: what is compared, place found and place there."""
        places = [(place, place) for place in range(len(self.contents))] if places is None else places
        return largest([max_abs(found[place] - self.whole[there]) for place, there in places])

    def _at(self) -> list[int]:
        """The first, a middle and the last content. Raises NotMade where there is nothing beside them."""
        if len(self.contents) < 2:
            raise NotMade("the request has one item")
        return [*dict.fromkeys((0, len(self.contents) // 2, len(self.contents) - 1))]

    def content(self) -> str:
        """At the same shapes, so that nothing else may move, whatever the engine."""
        count, moved, own = len(self.contents), [], []
        for number, at in enumerate(self._at()):
            changed = [*self.contents]
            changed[at] = self.other(self.contents[at], number)
            found = self._asked(changed)
            moved.append(self._apart(found, [(place, place) for place in range(count) if place != at]))
            own.append(max_abs(found[at] - self.whole[at]))
        if not largest(own) > 0:
            if all(np.array_equal(each, self.whole[0]) for each in self.whole) and len({*map(repr, self.contents)}) > 1:
                raise Broken(f"all {count} items have the same answer, whatever they are: items are not read")
            raise NotMade("another content of an item gives it the same answer: what leaks would not show")
        most, allowed = largest(moved), NOISE_FACTOR * self.floor
        if not self.exact:
            return self._placed(most, f"{len(moved)} items with another content, whose tokens are not known here")
        seen = f"{len(moved)} items with another content move others by {most:.3g}, at most {allowed:.3g}"
        if not most <= allowed:
            if most <= PLACED and mixes_experts(self.probe.multi):
                raise Undecided(f"{seen}, but for a mixture of experts, whose batches change shape with the content")
            raise Broken(seen)
        if allowed > PLACED:
            raise Undecided(f"{seen}; replays of the same request are {self.floor:.3g} apart")
        return f"{seen}, and their own answer by {largest(own):.3g}"

    def length(self) -> str:
        """One item longer, by little and by much."""
        places, moved = self._at(), []
        for place, grown in [*((at, GROWTH[0]) for at in places), *((places[len(places) // 2], g) for g in GROWTH[1:])]:
            changed = [*self.contents]
            changed[place] = self.longer(self.contents[place], grown)
            rows = [(at, at) for at in range(len(self.contents)) if at != place]
            moved.append(self._apart(self._asked(changed), rows))
        return self._shaped(largest(moved), f"{len(moved)} longer items")

    def alone(self) -> str:
        """Each in a request of its own."""
        found = [self._asked([each])[0] for each in self.contents]
        return self._placed(self._apart(found), f"{len(found)} items alone, against all in one request")

    def permuted(self) -> str:
        """The other way round, and the first once more in the middle."""
        order = [*reversed(range(len(self.contents)))]
        order.insert(len(order) // 2, 0)
        found = self._asked([self.contents[number] for number in order])
        return self._placed(self._apart(found, [*enumerate(order)]), "items in another order, one twice")

    def around(self) -> str:
        """The request right after another one of the mode, and while others run."""
        turned = [self.contents[-1 - number] for number in range(len(self.contents))]
        others = [[self.other(each, number + place) for place, each in enumerate(turned)] for number in range(3)]
        asking = [lambda server, contents=contents: self.ask(contents, server) for contents in others]
        first, *beside = asking
        found = among(self.probe.multi, lambda server: self.ask(self.contents, server), first, beside)
        after = self._asked(self.contents)
        return self._shaped(max(self._apart(found), self._apart(after)), "others before and beside it")

    def cold(self) -> str:
        """After a flush, and again; then after a request with other contents, and again."""
        multi = self.probe.multi
        if multi.adapter is None or not multi.adapter.flushes_cache:
            raise NotMade("not sent: the engine has no request that flushes its caches")
        if not multi.owned:
            raise NotMade("not sent: the server is another's")
        multi.flush_cache()
        found = [self._asked(self.contents), self._asked(self.contents)]
        multi.flush_cache()
        self._asked([self.other(each, place) for place, each in enumerate(self.contents)])
        found += [self._asked(self.contents), self._asked(self.contents)]
        return self._shaped(largest([self._apart(each) for each in found]), f"{len(found)} answers after flushes")

    def _shaped(self, difference: float, what: str) -> str:
        """Where an engine that promises the same bits has no reason to move a number."""
        if not self._bitwise:
            return self._placed(difference, what)
        allowed = NOISE_FACTOR * self.floor
        seen = f"{what}: {difference:.3g} apart, at most {allowed:.3g}"
        if difference <= allowed:
            return seen
        if difference <= self._rounding:
            raise Undecided(f"{seen}; {ROUNDING}, of which this engine has none")
        raise Broken(seen)

    def _placed(self, difference: float, what: str) -> str:
        """Where sums may run in another order."""
        limit = self._rounding if self._bitwise else self.probe.same * max(1.0, self.unit(self.whole))
        return self.probe.within(difference, what, limit)
