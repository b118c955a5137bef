"""What sets an arm of an A/B pair apart: the words it is given, and whether they can make a pair at all."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_multiitem.adapters.base import Role
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.settings.settings import OPTION_OF, OPTIONS
from pytest_multiitem.untrusted.secrets import without_credentials

Kind = Literal["url", "python", "checkout", "variables"]

_VARIABLES = {option.variable: option for option in OPTIONS}
_PLACES: Mapping[str, str] = {
    "url": "the address of a server that runs already",
    "python": "the interpreter of an environment",
    "checkout": "a directory with the sources of the engine",
}
#: The settings that name a running server, by what it is there for.
_URLS: Mapping[Role, str] = {"multi": "multi_url", "extend": "multi_url", "serial": "serial_url"}
#: What may differ between the connections to two servers that run already.
_CONNECTION = ("api_key_env", "ca_file", "request_timeout")
_GIT_SECONDS = 20.0
_EXAMPLE = "give each its own, such as --a url=URL --b url=URL, python=PATH, checkout=DIR, or a variable of a setting"


@dataclass(frozen=True)
class Variation:
    """What an arm is given: a ``place`` of its ``kind``, and variables of settings."""

    name: str
    kind: Kind
    place: str | None
    variables: Mapping[str, str]

    @property
    def words(self) -> dict[str, str]:
        """All of it, by the names under which it is typed."""
        return {**({self.kind: self.place} if self.place is not None else {}), **self.variables}

    def options(self, role: Role, given: Mapping[str, str | None]) -> dict[str, str | None]:
        """The options of the run for this arm. Raises UsageError where one of them names the same for both."""
        wanted = {"url": _URLS[role], "python": "engine_python"}.get(self.kind)
        if wanted is None:
            return dict(given)
        option = OPTION_OF[wanted]
        if given.get(option.ini) is not None:
            raise UsageError(
                f"{option.short_flag} says it of both arms, and {self.kind}= of arm {self.name}; leave "
                f"{option.short_flag} out"
            )
        try:
            option.parse(str(self.place))
        except ValueError as error:
            shown = without_credentials(str(self.place))
            raise UsageError(f"arm {self.name}: {self.kind}={shown!r} is not valid: {error}") from None
        return {**given, option.ini: self.place}

    @property
    def version(self) -> str | None:
        """What is checked out, as git calls it; None where that is not known, or is no checkout."""
        if self.kind != "checkout" or self.place is None:
            return None
        command = ["git", "-C", self.place, "describe", "--always", "--dirty", "--tags"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() or None


def variation(name: str, words: Sequence[str], role: Role) -> Variation:
    """The words of an arm, ``NAME=VALUE`` each. Raises UsageError for what no arm can have."""
    places: dict[str, str] = {}
    variables: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        known = (*_PLACES, *_VARIABLES)
        if not equals or key not in known:
            hint = did_you_mean(key, known)
            raise UsageError(
                f"arm {name}: {without_credentials(word)!r} is no NAME=VALUE of a setting's environment variable, and "
                f"none of url=URL, python=PATH and checkout=DIR{hint}"
            )
        if key in (*places, *variables):
            raise UsageError(f"arm {name} has {key}= twice; an arm is one server: give it once")
        (places if key in _PLACES else variables)[key] = value
    url = OPTION_OF[_URLS[role]].variable
    if url in variables and "url" not in places:
        places["url"] = variables.pop(url)
    elif url in variables:
        raise UsageError(f"arm {name} has url= and {url}; an arm is one server: leave one out")
    if len(places) > 1:
        raise UsageError(f"arm {name} has {'= and '.join(places)}=; what differs is one thing: leave one out")
    kind: Kind = next((key for key in ("url", "python", "checkout") if key in places), "variables")
    return Variation(name, kind, next(iter(places.values()), None), variables)


def check_pair(first: Variation, second: Variation, role: Role, mode: str) -> None:
    """Raises UsageError, which names the option, where two arms do not differ in a way that can be measured."""
    for arm, other in ((first, second), (second, first)):
        if arm.kind != other.kind and arm.place is not None:
            raise UsageError(
                f"arm {arm.name} is {_PLACES[arm.kind]} ({arm.kind}=), and arm {other.name} has no {arm.kind}=; give "
                f"both arms one, or neither"
            )
        if arm.place == "":
            raise UsageError(f"arm {arm.name}: {arm.kind}= is empty; expected {_PLACES[arm.kind]}")
        _check_variables(arm, role, mode)
    if first.words == second.words:
        raise UsageError(f"both arms have the same settings; {_EXAMPLE} (an option on the command line wins over one)")


def check_urls(first: Variation, second: Variation, url: str | None, origin: str, role: Role) -> None:
    """Raises UsageError where both arms would be one server that runs already, at the ``url`` that a setting names."""
    if first.kind == "url" or url is None:
        return
    option = OPTION_OF[_URLS[role]]
    varied = ", ".join(dict.fromkeys([*first.words, *second.words])) or "what the arms have"
    raise UsageError(
        f"{option.short_flag} ({origin}) names one server that runs already, for both arms: {varied} cannot change it; "
        "give each arm its own (--a url=URL --b url=URL), or leave it out"
    )


def _check_variables(arm: Variation, role: Role, mode: str) -> None:
    for variable in arm.variables:
        name = _VARIABLES[variable].name
        if name in _URLS.values():
            raise UsageError(
                f"arm {arm.name}: {variable} names no server that mode {mode} measures; give url=URL, or another --mode"
            )
        if arm.kind == "url" and name not in _CONNECTION:
            raise UsageError(
                f"arm {arm.name}: {variable} cannot be varied beside url=: that server runs already; start one with "
                f"it and give its address, or say it of both arms by {_VARIABLES[variable].flag}"
            )
        if arm.kind == "python" and name == "engine_python":
            raise UsageError(f"arm {arm.name} has python= and {variable}; leave one out")
