"""The embedded engine's launch line: sgl-jax's flag names, so that a launch line carries over."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pytest_multiitem.engine.model_files import EXTRAS
from pytest_multiitem.engine.worker import MOST_QUEUED
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.semantics import Semantics

if TYPE_CHECKING:  # a healthy server imports nothing of faults
    from pytest_multiitem.faults.active import ActiveFaults

_DEFAULTS = ScorerConfig()

#: The environment variable of the key, where other machines may come from and no other one is named.
KEY_VARIABLE = "MULTI_ITEM_API_KEY"

#: The backends that do more than score serially.
_PACKING_BACKENDS = ("pytorch", "jax")

#: The groups of flags in the order of the help, and what it says of them.
_PACKING = "packed and prefill+extend scoring"
_GROUPS: Mapping[str, str | None] = {
    "engine": None,
    "server": None,
    "multi-item scoring": None,
    _PACKING: "not with --backend transformers",
}

#: Flags of sgl-jax and sglang that change nothing here, by the values that they take (as argparse's `nargs`).
_WITHOUT_EFFECT: Mapping[int | str | None, Sequence[str]] = {
    None: (
        "--attention-backend", "--chunked-prefill-size", "--cuda-graph-max-bs", "--dist-init-addr",
        "--grammar-backend", "--max-prefill-tokens", "--max-running-requests", "--max-total-tokens",
        "--mem-fraction-static", "--multi-item-score-from-cache-v2-items-per-step", "--node-rank", "--page-size",
        "--random-seed", "--watchdog-timeout",
    ),
    0: (
        "--disable-cuda-graph", "--disable-overlap-schedule", "--disable-precompile", "--disable-radix-cache",
        "--enable-metrics", "--log-requests", "--multi-item-enable-score-from-cache-v2",
        "--multi-item-score-label-only-logprob", "--trust-remote-code",
    ),
    "+": (
        "--precompile-bs-paddings", "--precompile-token-paddings",
    ),
}  # fmt: skip

#: Flags of which only the value 1 makes sense in one process.
_ONLY_ONE = (("--tp-size", "--tp", "--tensor-parallel-size"), ("--dp-size", "--dp"), ("--nnodes",))


def _flag(group: str, help: str | None = None, default: Any = None, also: str | None = None, **options: Any) -> Any:
    """A field that a flag of its name sets; ``also``: another name of the flag."""
    return field(default=default, metadata={"group": group, "also": also, "options": {"help": help, **options}})


@dataclass(frozen=True, kw_only=True)
class ServeArgs:
    """The launch line, under sgl-jax's names; ``/get_server_info`` shows these fields as they are.

    ``model_path``: ``None`` = the built-in tiny checkpoint. ``context_length``: tokens, ``None`` =
    the model's. ``multi_item_semantics``: ``None`` = the mode's own. ``accepted_without_effect``:
    the flags given that change nothing here, in their order. ``faults``: ``None`` = a healthy server,
    without variations.
    """

    backend: str = _flag(
        "engine",
        "transformers: any causal LM that it has, serially only, as a reference (default: %(default)s)",
        "pytorch",
        choices=tuple(EXTRAS),
    )
    model_path: str | None = _flag(
        "engine", "checkpoint directory or hub id (default: a tiny one)", also="--model", metavar="DIR"
    )
    served_model_name: str | None = _flag("engine", "default: the model path", metavar="NAME")
    download_dir: str | None = _flag("engine", "where a hub id is downloaded to", metavar="DIR")
    host: str = _flag("server", "a loopback address; with --allow-remote any (default: %(default)s)", "127.0.0.1")
    port: int = _flag("server", "0: any free one (default: %(default)s)", 30010)
    allow_remote: bool = _flag(
        "server", "listen where other machines may come from, such as --host 0.0.0.0; needs a key, or --no-auth", False
    )
    api_key_env: str | None = _flag(
        "server",
        f"environment variable with the key that requests must bear (with --allow-remote: {KEY_VARIABLE})",
        metavar="NAME",
    )
    no_auth: bool = _flag("server", "with --allow-remote: answer whoever reaches this machine, without a key", False)
    dtype: str = _flag("engine", "auto: float32", "auto", choices=("auto", "float32", "bfloat16"))
    device: str = _flag("engine", None, "cpu", choices=("cpu", "cuda", "tpu", "auto"))
    log_level: str = _flag("server", None, "info", choices=("debug", "info", "warning", "error", "critical"))
    context_length: int | None = _flag("engine", "default: the model's", metavar="TOKENS")
    multi_item_scoring_delimiter: int | None = _flag(
        _PACKING, "pack items, separated by this token (default: no packing)", metavar="ID"
    )
    multi_item_scoring_chunk_size: int = _flag(
        _PACKING, "items per packed sequence, 0: all (default: %(default)s)", _DEFAULTS.chunk_size, metavar="ITEMS"
    )
    multi_item_mask_impl: str = _flag(
        _PACKING, None, _DEFAULTS.mask_impl.value, choices=[impl.value for impl in MaskImpl]
    )
    multi_item_segment_fallback_threshold: int = _flag(
        _PACKING,
        "mask auto: segment up to this packed length, padding counted, else dense (default: %(default)s)",
        _DEFAULTS.segment_threshold,
        metavar="TOKENS",
    )
    multi_item_semantics: str | None = _flag(_PACKING, choices=[semantics.value for semantics in Semantics])
    max_multi_item_seq_len: int = _flag(_PACKING, None, _DEFAULTS.max_seq_len, metavar="TOKENS")
    max_multi_item_count: int = _flag("multi-item scoring", None, _DEFAULTS.max_items, metavar="ITEMS")
    multi_item_enable_prefill_extend: bool = _flag(
        _PACKING, "run the query once, then batches of items; needs --enable-scoring-cache", False
    )
    multi_item_extend_batch_size: int = _flag(_PACKING, None, _DEFAULTS.extend_batch_size, metavar="ITEMS")
    enable_scoring_cache: bool = _flag(
        _PACKING, "keep computed queries for later requests: of prefill+extend, and of packed segment scoring", False
    )
    max_queued_requests: int = _flag(
        "server",
        "requests that wait for the engine; further ones get 503 (default: %(default)s)",
        MOST_QUEUED,
        metavar="REQUESTS",
    )
    skip_server_warmup: bool = _flag("server", "listen without having scored one item first", False)
    accepted_without_effect: tuple[str, ...] = ()
    faults: ActiveFaults | None = None

    @classmethod
    def from_namespace(cls, namespace: argparse.Namespace) -> ServeArgs:
        """The arguments that a parser prepared by :func:`add_arguments` has read.

        Raises UsageError where a flag of packed or prefill+extend scoring meets a backend without either, for one
        of which only 1 is possible, and for an unknown fault.
        """
        declared = [f for f in fields(cls) if f.metadata]
        packing = {_named(f.name) for f in declared if f.metadata["group"] == _PACKING}
        refused = [flag for flag in namespace.given if flag in packing]
        if refused and namespace.backend not in _PACKING_BACKENDS:
            raise UsageError(
                f"--backend {namespace.backend} scores serially only, one forward pass per item, and takes no "
                f"{', no '.join(refused)}; leave that out, or choose a backend that packs and extends: "
                + " or ".join(f"--backend {name}" for name in _PACKING_BACKENDS)
            )
        for name, *_ in _ONLY_ONE:
            number = getattr(namespace, name.removeprefix("--").replace("-", "_"))
            if number != 1:
                message = f"{name} is {number}; the embedded engine runs in one process on one device: expected 1"
                raise UsageError(message)
        if namespace.max_queued_requests < 0:
            raise UsageError(f"--max-queued-requests is {namespace.max_queued_requests}; expected 0 or more")
        ignored = [flag for flag in namespace.given if flag not in packing]
        # A dense sequence is computed whole, and a serial one has no prefix.
        packs = namespace.multi_item_scoring_delimiter is not None and namespace.multi_item_mask_impl != MaskImpl.DENSE
        if namespace.enable_scoring_cache and not (packs or namespace.multi_item_enable_prefill_extend):
            ignored.append("--enable-scoring-cache")
        return cls(
            **{f.name: getattr(namespace, f.name) for f in declared},
            accepted_without_effect=tuple(ignored),
            faults=_active_faults(namespace.faults, namespace.variations),
        )

    def scorer_config(self) -> ScorerConfig:
        """How to score. Raises UsageError where the flags contradict each other."""
        config = ScorerConfig(
            delimiter=self.multi_item_scoring_delimiter,
            chunk_size=self.multi_item_scoring_chunk_size,
            mask_impl=MaskImpl(self.multi_item_mask_impl),
            segment_threshold=self.multi_item_segment_fallback_threshold,
            semantics=Semantics(self.multi_item_semantics or _DEFAULTS.semantics),
            # A packed sequence counts against the context length, as in the real engines.
            max_seq_len=min(self.max_multi_item_seq_len, self.context_length or self.max_multi_item_seq_len),
            max_items=self.max_multi_item_count,
            max_positions=self.context_length,
            prefill_extend=self.multi_item_enable_prefill_extend,
            extend_batch_size=self.multi_item_extend_batch_size,
            scoring_cache=self.enable_scoring_cache,
        )
        if self.multi_item_semantics not in (None, config.declared_semantics.value):
            raise UsageError(
                f"--multi-item-semantics is {self.multi_item_semantics}, but {config.mode.value} scoring "
                f"is {config.declared_semantics.value} always; drop the flag, or pack with "
                "--multi-item-scoring-delimiter ID and without --multi-item-enable-prefill-extend"
            )
        return config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every flag of the embedded engine's server to ``parser``."""
    parser.set_defaults(given=())
    groups = {name: parser.add_argument_group(name, description) for name, description in _GROUPS.items()}
    for f in fields(ServeArgs):
        if not f.metadata:
            continue
        options: dict[str, Any] = {**f.metadata["options"], "default": f.default}
        if f.type == "bool":
            options["nargs"] = 0
        elif str(f.type).startswith("int"):
            options["type"] = int
        if f.metadata["group"] == _PACKING:
            options["action"] = _Given
        elif f.type == "bool":
            options = {"action": "store_true", "help": options["help"]}
        names = [name for name in (_named(f.name), f.metadata["also"]) if name]
        groups[f.metadata["group"]].add_argument(*names, **options)
    faults = parser.add_argument_group("faults")
    faults.add_argument(
        "--fault",
        action="append",
        dest="faults",
        metavar="NAME[=STRENGTH]",
        help="score wrongly, as a real engine did; may be given several times (multiitem faults lists them)",
    )
    faults.add_argument(
        "--variation",
        action="append",
        dest="variations",
        metavar="NAME[=STRENGTH]",
        help="differ as a healthy server may: shape_noise, other rounding for every shape of batch",
    )
    ignored = parser.add_argument_group(
        "accepted without effect", "flags of sgl-jax and sglang that change nothing here"
    )
    for values, flags in _WITHOUT_EFFECT.items():
        for flag in flags:
            ignored.add_argument(flag, action=_Given, nargs=values, metavar="X")
    for aliases in _ONLY_ONE:
        ignored.add_argument(*aliases, action=_Given, type=int, default=1, metavar="1")


def _named(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _active_faults(texts: Sequence[str] | None, variations: Sequence[str] | None) -> ActiveFaults | None:
    if not texts and not variations:
        return None
    from pytest_multiitem.faults.active import ActiveFaults  # a healthy server imports nothing of faults

    return ActiveFaults.parse(texts or (), variations or ())


class _Given(argparse.Action):
    """Keeps the value, true for a flag that takes none, and remembers that the flag was given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        namespace.given = tuple(dict.fromkeys((*namespace.given, option or self.option_strings[0])))
