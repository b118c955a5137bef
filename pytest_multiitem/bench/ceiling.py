"""What a speed-up can be at most: by the operations of the served model, and by its device's matrix rate."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.base import model_name
from pytest_multiitem.bench import flops
from pytest_multiitem.engine.config import ModelConfig, sizes
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.targets.target import Target

#: A shape can decide where its ceiling is this many times the limit: no server reaches all of it.
MARGIN = 1.5
_MOST_TIMES = 1000
#: Decoders whose layers are full attention and one gated MLP, as `bench.flops` counts them.
_DENSE = ("llama", "mistral", "qwen2", "qwen3")
#: Dense matrix rates of one device in bfloat16 or float16, operations a second, from the vendors' data sheets; the
#: first name that is found in the device's counts.
_RATES = {
    r"H100 (PCIe|NVL)": 756e12,
    r"\b(GH200|H200|H100)\b": 989e12,
    r"\bA100\b": 312e12,
    r"\bL40S\b": 362e12,
    r"\bL4\b": 121e12,
    r"TPU ?v6": 918e12,
    r"TPU ?v5 ?(lite|e)": 197e12,
    r"TPU ?v5": 459e12,
    r"TPU ?v4": 275e12,
}
_HALF = ("bfloat16", "float16", "half")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Bound:
    """What packing can save with one model against one baseline.

    ``config``: the model's sizes; None where they are not known. ``basis``: what is counted, or why nothing is.
    ``cached_by``: what says that the baseline keeps the query; None where nothing does. ``rate``: operations a second
    of the packed server's device; None where it is not known.
    """

    config: ModelConfig | None
    basis: str
    semantics: Semantics = Semantics.PREFIX_FIRST_DELIM
    cached_by: str | None = None
    rate: float | None = None

    def ceiling(self, case: Case, *, query_tokens: int | None = None) -> float | None:
        """Of a request's shape, or of the same items behind a query of ``query_tokens``."""
        if self.config is None:
            return None
        return flops.ceiling(
            self.config,
            len(case.query) if query_tokens is None else query_tokens,
            _lengths(case),
            labels=len(case.labels),
            semantics=self.semantics,
            cached_query=self.cached_by is not None,
        )

    def ceiling_of(self, cases: Sequence[Case]) -> float | None:
        """Of several requests together: the operations of all, over those of all packed."""
        if len(cases) == 1:
            return self.ceiling(cases[0])
        ceilings = [self.ceiling(case) for case in cases]
        if self.config is None or any(ceiling is None for ceiling in ceilings):
            return None
        packed = [self._packed(self.config, case) for case in cases]
        return sum(work * (ceiling or 0.0) for work, ceiling in zip(packed, ceilings, strict=True)) / sum(packed)

    def share_of_roofline(self, cases: Sequence[Case], seconds: float) -> float | None:
        """Operations that the scores of requests need, over ``seconds``, over the device's rate."""
        if self.config is None or self.rate is None or not seconds > 0:
            return None
        config = self.config
        return sum(self._packed(config, case) for case in cases) / seconds / self.rate

    def _packed(self, config: ModelConfig, case: Case) -> float:
        labels, semantics = len(case.labels), self.semantics
        return flops.packed(config, len(case.query), _lengths(case), labels=labels, semantics=semantics).total

    def unreachable_with(self, cases: Sequence[Case], limit: float, *, max_tokens: int | None = None) -> str | None:
        """As `unreachable`, of the requests that N items are sent in."""
        if len(cases) == 1:
            return self.unreachable(cases[0], limit, max_tokens=max_tokens)
        ceiling = self.ceiling_of(cases)
        if ceiling is None or ceiling >= limit:
            return None
        return (
            f"packing saves at most {ceiling:.3g} times the operations of these {len(cases)} requests with this model; "
            "requests with a longer query, or with more items each, can decide"
        )

    def unreachable(self, case: Case, limit: float, *, max_tokens: int | None = None) -> str | None:
        """Why the shape of a request cannot decide whether a server reaches ``limit``, and which one can; None where it
        can, or where nothing is known."""
        ceiling = self.ceiling(case)
        if ceiling is None or ceiling >= limit:
            return None
        text = f"packing saves at most {ceiling:.3g} times the operations at {shape(case)} with this model"
        if self.cached_by is not None:
            return (
                f"{text} against a baseline that keeps the query ({self.cached_by}), and no shape can decide: compare "
                "with a baseline without a prefix cache"
            )
        tokens = self.deciding_query(case, limit)
        if tokens is None:
            return f"{text}; no longer query can decide"
        higher = self.ceiling(case, query_tokens=tokens)
        text = f"{text}; {shape(case, tokens)} can decide: {higher:.3g} there (--multiitem-query-tokens {tokens})"
        needed = tokens + 1 + sum(length + 1 for length in _lengths(case))
        if max_tokens is not None and needed > max_tokens:
            text += f", which is {needed} tokens and more than the server takes ({max_tokens}); so can shorter items"
        return text

    def deciding_query(self, case: Case, limit: float) -> int | None:
        """The smallest multiple of a request's query length whose ceiling clears ``limit`` by half; None where none
        of the first thousand does."""
        for times in range(1, _MOST_TIMES + 1):
            tokens = times * max(1, len(case.query))
            ceiling = self.ceiling(case, query_tokens=tokens)
            if ceiling is not None and ceiling >= MARGIN * limit:
                return tokens
        return None


def bound_of(multi: Target, serial: Target, semantics: Semantics) -> Bound:
    """What packing can save on ``multi`` at most, against ``serial``."""
    config, basis = served_config(multi)
    if not semantics.has_serial_reference:
        config, basis = None, f"unknown: the ablation {semantics.value} has no count of operations"
    cached_by = cached_query(serial)
    if config is not None:
        kept = "computes the query every time" if cached_by is None else f"keeps the query ({cached_by})"
        basis = f"operations of {basis}, all items in one sequence; the serial side {kept}"
    return Bound(config, basis, semantics, cached_by, device_rate(multi))


def served_config(target: Target) -> tuple[ModelConfig | None, str]:
    """The sizes of the served model, and where they come from; or None, and why.

    Its config.json, where the model or a hub's copy of it lies on this machine; else what the server says of itself.
    """
    why = "the server does not say, and there is no config.json of it on this machine"
    nested = [target.info.get(name) for name in ("model_config", "hf_config")]
    for raw, source in [
        (_config_json(target.model), f"{model_name(target.model or '')} (its config.json)"),
        *((raw, "the served model (by the server's own word)") for raw in (*nested, target.info)),
    ]:
        if not isinstance(raw, Mapping) or "hidden_size" not in raw:
            continue
        problem = uncounted(raw)
        if problem is None:
            with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
                return sizes(raw), source
            problem = "a size is missing, or no number"
        why = problem
        break
    return None, f"unknown: the sizes of the model {target.model or ''}".rstrip() + f": {why}"


def uncounted(raw: Mapping[str, Any]) -> str | None:
    """Why a model, by its config.json, is no dense stack whose operations are counted; None where it is one."""
    kind, layers = raw.get("model_type"), set(raw.get("layer_types") or ["full_attention"])
    if kind not in _DENSE:
        return f"model_type {kind!r} is not counted; {', '.join(_DENSE)} are"
    window = raw.get("sliding_window") is not None and raw.get("use_sliding_window", kind == "mistral")
    if window or layers != {"full_attention"}:
        return "attention within a sliding window is not counted"
    return None


def cached_query(serial: Target) -> str | None:
    """What says that a serial server computes a query once for all calls that share it; None where nothing does."""
    if serial.profile.tuned:
        return "tuned: prefix cache on"
    return "disable_radix_cache is false" if serial.info.get("disable_radix_cache") is False else None


def device_rate(target: Target) -> float | None:
    """Operations a second of a server's devices together, from what is public of them; None where they are not known.

    Their name is the server's word, or that of the graphics processor of this machine where the run started the server.
    """
    info = target.info
    if str(target.dtype).removeprefix("torch.") not in _HALF:
        return None
    named = next((info[key] for key in ("device_name", "device_kind") if isinstance(info.get(key), str)), None)
    if named is None and target.owned and str(info.get("device")).startswith("cuda"):
        named = _graphics_processor()
    rate = next((rate for name, rate in _RATES.items() if named and re.search(name, named, re.IGNORECASE)), None)
    devices = info.get("tp_size")
    return None if rate is None else rate * (devices if type(devices) is int and devices > 0 else 1)


def shape(case: Case, query_tokens: int | None = None) -> str:
    """Query, items and item length of a request, as ``60/32/20``; of unequal items, the shortest and the longest."""
    lengths = sorted(set(_lengths(case)))
    items = "-".join(map(str, lengths[:1] + lengths[1:][-1:]))
    return f"{len(case.query) if query_tokens is None else query_tokens}/{len(case.items)}/{items}"


def _lengths(case: Case) -> Sequence[int]:
    return [len(item) for item in case.items]


def _config_json(model: str | None) -> Any:
    if not model:
        return None
    path: str | Path = Path(model).expanduser() / "config.json"
    if not Path(path).is_file() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        with suppress(ImportError):
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(model, "config.json")
            path = found if isinstance(found, str) else path
    with suppress(OSError, ValueError):
        return json.loads(Path(path).read_bytes())
    return None


def _graphics_processor() -> str | None:
    """The name of this machine's graphics processors, where they are all of one kind."""
    names = set()
    for file in _NVIDIA.glob("*/information"):
        with suppress(OSError):
            names |= set(re.findall(r"^Model:\s*(.+)$", file.read_text(encoding="utf-8"), re.MULTILINE))
    return names.pop() if len(names) == 1 else None
