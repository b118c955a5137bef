"""Attach to a server that already runs: it is asked once who it is, and is taken at its word or refused.

Every way to name such a server ends here: ``--multi-url`` and ``--serial-url``, factories with an address, and the
commands ``evaluate``, ``compare``, ``ab`` and ``load``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.base import ROLE_WORDS, Engine, Profile, Role, model_name, role_of
from pytest_multiitem.errors import Origin, UsageError
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.servers.errors import NeverReady
from pytest_multiitem.settings.settings import OPTION_OF, Settings
from pytest_multiitem.targets.first_contact import explained
from pytest_multiitem.targets.ready import check_ready
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.address import Address, api_key
from pytest_multiitem.transport.client import ScoreClient, ScoreFailure
from pytest_multiitem.untrusted.secrets import without_credentials

#: The backend of a server of which nobody says what serves.
UNKNOWN = "unknown"
_DELIMITER = "multi_item_scoring_delimiter"
#: What to do about a server of another role.
_INSTEAD: Mapping[Role, str] = {
    "multi": "give the address of one that packs or runs prefill+extend, or start this one so "
    "(sglang, sgl-jax and multiitem serve: --multi-item-scoring-delimiter ID)",
    "extend": "give the address of one that runs prefill+extend",
    "serial": "the baseline scores serially: start it without a delimiter and without prefill+extend",
}
#: What no count of tokens or items comes to, and no name or path has characters.
_MOST, _LONGEST = 2**31, 1024
_PRODUCTION = tuple(semantics.value for semantics in Semantics if semantics.has_serial_reference)


@dataclass(frozen=True)
class Served:
    """What a server tells of itself, in this package's words; None: it does not tell."""

    role: Role | None = None
    backend: str | None = None
    delimiter: int | None = None
    mask_impl: str | None = None
    chunk_size: int | None = None
    segment_threshold: int | None = None
    semantics: str | None = None
    vocab_size: int | None = None
    dtype: str | None = None
    device: str | None = None
    model: str | None = None

    @classmethod
    def read(cls, info: Mapping[str, Any]) -> Served:
        """What an answer to ``/get_server_info`` says, whichever engine's names it uses."""
        declared = info.get("semantics")
        return cls(
            role=role_of(info),
            backend=_one_of(info.get("backend"), ("jax", "pytorch", "transformers")),
            delimiter=_whole(info.get(_DELIMITER)),
            mask_impl=_word(info.get("multi_item_mask_impl")),
            chunk_size=_whole(info.get("multi_item_scoring_chunk_size")),
            segment_threshold=_whole(info.get("multi_item_segment_fallback_threshold")),
            semantics=_word(declared.get("declared")) if isinstance(declared, dict) else None,
            vocab_size=_whole(info.get("vocab_size")),
            dtype=_one_of(info.get("dtype"), ("float32", "bfloat16", "float16")),
            device=_one_of(info.get("device"), ("cpu", "cuda", "tpu")),
            model=_word(info.get("model_path")) or _word(info.get("served_model_name")),
        )


def attach(role: Role | None, client: ScoreClient, settings: Settings, engine: Engine | None) -> Target:
    """The server behind a client, with the profile that it is judged by.

    ``role``: what the user gave its address as; a multi-item server may turn out to run prefill+extend. None: whatever
    it is. ``settings``: hold where the server does not tell; a setting that the user gave must not differ from what it
    does tell. ``engine``: its adapter, where the settings name one. Raises UsageError for a server that is, by its own
    word, another one than the user says.
    """
    info = client.server_info() or client.model_info() or {}
    served = Served.read(info)
    place = _place(role, client.url)
    accepted = ("multi", "extend") if role == "multi" else (role,)
    if role is not None and served.role is not None and served.role not in accepted:
        raise UsageError(f"{place} says that it {_why(served.role, info)}; {_INSTEAD[role]}")
    for name, declared, given in _contradictions(role, served, settings):
        origin = settings.origins[name]
        where = origin if origin.startswith("--") else OPTION_OF[name].place(origin)
        raise UsageError(
            f"{place} says that {declared}, but {given} was given ({where}); leave that out to take the server at its "
            f"word, or give the address of one with {given}"
        )
    adapter = _named(engine, settings)
    return Target(
        _profile(place, served.role or role or "multi", served, settings),
        ATTACHED if adapter is None else adapter.name,
        client,
        adapter=adapter,
        assumed_vocab_size=settings.vocab_size,
        described=info,
        delimiter=settings.delimiter if served.delimiter is None else served.delimiter,
    )


def attach_ready(role: Role | None, url: str, settings: Settings, engine: Engine | None) -> Target:
    """As `attach`, and the server has answered one real request.

    Raises ScoreFailure or NeverReady where it does not, with what to do next, and leaves no connection open.
    """
    named = _named(engine, settings)
    client = client_of(url, settings, kind=ScoreClient if named is None else named.client)
    try:
        target = attach(role, client, settings, engine)
        check_ready(client, settings.labels, delimiter=target.delimiter)
    except (ScoreFailure, NeverReady) as error:
        client.close()
        failure = explained(error, _place(role, client.url), settings, path=client.path)
        failure.origin = Origin(role or "multi", UNKNOWN, answered=False)
        raise failure from None
    except BaseException:
        client.close()
        raise
    return target


def _named(engine: Engine | None, settings: Settings) -> Engine | None:
    """The adapter where the settings name one: the default says nothing of a server that someone else started."""
    return engine if settings.origins.get("engine", "default") != "default" else None


def _place(role: Role | None, url: str) -> str:
    return f"the {'' if role is None else f'{ROLE_WORDS[role]} '}server {url}"


def client_of(
    url: str, settings: Settings, *, kind: Callable[..., ScoreClient] = ScoreClient, timeout: float | None = None
) -> ScoreClient:
    """A client for a server at an address, as `transport.address.Address` reads it.

    The API key comes from the environment variable that the settings name.
    """
    return kind(
        url,
        timeout=settings.request_timeout if timeout is None else timeout,
        api_key=api_key(settings.api_key_env),
        ca_file=settings.ca_file,
    )


def base_url(text: str, flag: str = "--url") -> Address:
    """The address given by a flag, without the endpoint's own path. Raises UsageError for what is no address."""
    try:
        return Address(text)
    except ValueError as error:
        raise UsageError(f"{flag} {without_credentials(text)!r} is not valid: {error}") from None


def settings_of(given: Mapping[str, tuple[str, Any]]) -> Settings:
    """The settings of a command with options of its own: ``given`` maps settings to flag and value, which is None where
    the user said nothing. Environment variables and ini files have no say."""
    values = {name: value for name, (_, value) in given.items() if value is not None}
    return Settings(**values, origins={name: given[name][0] if name in values else "default" for name in OPTION_OF})


def is_stated(settings: Settings, name: str) -> bool:
    """Whether the user gave a setting, rather than a default, a launch profile or an engine."""
    return not settings.origins.get(name, "default").startswith(("default", "profile ", "engine ", "detected"))


def _why(role: Role, info: Mapping[str, Any]) -> str:
    if role == "extend":
        return "runs prefill+extend"
    packs = "with enable_mis" if info.get("enable_mis") else f"with the delimiter {info.get(_DELIMITER)}"
    return f"packs items ({packs})" if role == "multi" else "scores serially (it has no delimiter)"


def _contradictions(role: Role | None, served: Served, settings: Settings) -> Iterator[tuple[str, str, Any]]:
    """Settings that the user gave and the server contradicts: name, what it says instead, and what was given."""
    backend = "pytorch" if served.backend == "transformers" else served.backend
    facts: dict[str, tuple[Any, Any]] = {
        "backend": (backend, backend if backend in settings.backend else ",".join(settings.backend)),
        "delimiter": (served.delimiter, settings.delimiter),
        "vocab_size": (served.vocab_size, settings.vocab_size),
        "dtype": (served.dtype, settings.dtype),
        "device": (served.device, served.device if settings.device == "auto" else settings.device.partition(":")[0]),
        "model": (served.model, settings.model),
    }
    if role in ("multi", None):
        for name, declared in (("mask_impl", served.mask_impl), ("server_chunk_size", served.chunk_size)):
            values = getattr(settings, name)
            if served.role != "extend":
                facts[name] = (declared, next((value for value in values if value != declared), declared))
            elif is_stated(settings, name):
                yield name, f"it runs prefill+extend, which has no {name.replace('_', ' ')}", values[0]
        if served.role != "extend":
            facts["segment_threshold"] = (served.segment_threshold, settings.segment_threshold)
        facts["semantics"] = (served.semantics if served.semantics in _PRODUCTION else None, settings.semantics)
    for name, (declared, given) in facts.items():
        if declared not in (None, given) and is_stated(settings, name) and _comparable(name, declared, given):
            yield name, f"its {name.replace('_', ' ')} is {declared}", given


def _comparable(name: str, declared: Any, given: Any) -> bool:
    """Whether two words for a fact that differ mean two things, as far as anyone can know."""
    if name == "model":  # a directory has another name on every machine; what is on a hub has one
        return model_name(declared) != model_name(given) and all(map(_on_hub, (declared, given)))
    return name != "vocab_size" or given > declared  # less than the vocabulary may be drawn from, not more


def _on_hub(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith(("/", ".")) and not Path(model).exists()


def _profile(place: str, role: Role, served: Served, settings: Settings) -> Profile:
    named = settings.backend if settings.origins.get("backend", "default") != "default" else ()
    backend = served.backend or (named[0] if len(named) == 1 else UNKNOWN)
    if role == "serial":
        return Profile("serial", backend)
    # A launch profile may declare the semantics of its engine's packed mode.
    own = Semantics.QUERY_PREFIX.value if role == "extend" else settings.semantics
    semantics = settings.semantics if is_stated(settings, "semantics") else served.semantics or own
    if semantics not in _PRODUCTION:
        raise UsageError(
            f"{place} declares the semantics {semantics!r}, which equals no serial scoring; name what it should be "
            f"compared with by {OPTION_OF['semantics'].flag}, or --semantics of a command: {' or '.join(_PRODUCTION)}"
        )
    if role == "extend":
        return Profile("extend", backend, semantics=Semantics(semantics))
    mask, chunk = served.mask_impl, served.chunk_size
    is_engine_mask = settings.origins.get("mask_impl", "default").startswith("engine ")
    if not mask and (is_engine_mask or is_stated(settings, "mask_impl")):
        mask = settings.mask_impl[0]
    if chunk is None and is_stated(settings, "server_chunk_size"):
        chunk = settings.server_chunk_size[0]
    return Profile("multi", backend, mask or None, chunk, Semantics(semantics))


def _whole(value: object) -> int | None:
    """A number of tokens or items; no server has as many as an index has not."""
    return value if type(value) is int and abs(value) < _MOST else None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) < _LONGEST else None


def _one_of(value: object, known: tuple[str, ...]) -> str | None:
    """A word without its number or its library's name ("cuda:0", "torch.float32"), where it is a known one."""
    plain = (_word(value) or "").partition(":")[0].rpartition(".")[2]
    return plain if plain in known else None
