"""Every setting of a run, stated once: command line, environment variable, ini value, default, help.

A command-line option wins over the environment variable, the variable over the ini value, the ini
value over the default; each value of :class:`Settings` knows where it came from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.tpu.chips import DEFAULT_CHIPS, parse_chip
from pytest_multiitem.tpu.naming import parse_kernel
from pytest_multiitem.tpu.tiers import DEFAULT_TIMEOUT, TIER_CHOICES

BACKENDS = ("pytorch", "jax")
MASKS = ("dense", "segment", "auto", "flashinfer")
#: What --require takes for all gates that a run's options ask for.
EVERY_GATE = "all"
VIEWS = ("portable", "best_native")
#: The client chunk sizes of the comparison contract.
CHUNK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)


@dataclass(frozen=True)
class Option:
    """One setting. Its names follow from ``name``: ``--multiitem-<name>``, ``MULTI_ITEM_<NAME>``, and
    ``multiitem_<name>`` in an ini file. ``short``: a further command-line name where no other plugin
    owns it. ``parse`` turns text into the value and raises ValueError saying what was expected."""

    name: str
    default: Any
    help: str
    parse: Callable[[str], Any]
    metavar: str | None = None
    short: bool = False
    is_flag: bool = False

    @property
    def flag(self) -> str:
        """The canonical command-line name."""
        return "--multiitem-" + self.name.replace("_", "-")

    @property
    def short_flag(self) -> str:
        """The name that users type, where it is free."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "MULTI_ITEM_" + self.name.upper()

    @property
    def ini(self) -> str:
        """The ini key; also the ``dest`` of the command-line option."""
        return "multiitem_" + self.name


def _choice(choices: Sequence[str], *, many: bool = False, everything: bool = False) -> Callable[[str], Any]:
    """A parser for one of ``choices`` (or a comma-separated list of them; ``all`` means every one)."""

    def parse(text: str) -> Any:
        words = [word.strip() for word in text.split(",")] if many else [text.strip()]
        if everything and words == ["all"]:
            return tuple(choices)
        for word in words:
            if word not in choices:
                valid = [*choices, *(["all"] if everything else [])]
                kind = "a comma-separated list of" if many else "one of"
                raise ValueError(f"expected {kind} {', '.join(valid)}{did_you_mean(word, valid)}")
        return tuple(dict.fromkeys(words)) if many else words[0]

    return parse


def _integer(least: int, most: int | None = None) -> Callable[[str], int]:
    wanted = f"a whole number of at least {least}" + ("" if most is None else f" and at most {most}")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"expected {wanted}") from None
        if value < least or (most is not None and value > most):
            raise ValueError(f"expected {wanted}")
        return value

    return parse


def _integers(least: int) -> Callable[[str], tuple[int, ...]]:
    one = _integer(least)

    def parse(text: str) -> tuple[int, ...]:
        try:
            values = tuple(one(word.strip()) for word in text.split(","))
        except ValueError:
            raise ValueError(f"expected a comma-separated list of whole numbers of at least {least}") from None
        return tuple(dict.fromkeys(values))

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError("expected a number of seconds above 0")
    return value


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("expected 1 or 0 (true/false, yes/no, on/off)")


def parse_url(text: str) -> str:
    """An http(s) address without a slash at its end. Raises ValueError for anything else."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise ValueError("expected an address such as http://127.0.0.1:30010")
    return text.rstrip("/")


def _existing_file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError("expected an existing file")
    return path


def _masks(text: str) -> tuple[str, ...]:
    own = MASKS[:3]  # flashinfer is one engine's only mask, and never one of several
    return own if text.strip() == "all" else _choice((*MASKS, "all"), many=True)(text)


def _program(text: str) -> str:
    found = shutil.which(Path(text).expanduser())
    if found is None:
        raise ValueError("expected a program that exists, such as /opt/sglang/bin/python")
    return str(Path(found).absolute())


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not all(names):
        raise ValueError("expected a comma-separated list of names, none of them empty")
    return names


def _chunk_sizes(text: str) -> tuple[int, ...]:
    return CHUNK_SIZES if text.strip() == "all" else tuple(sorted(_integers(1)(text)))


def _side_urls(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of a side, ``backend`` or ``backend@view``, and its address."""
    found: dict[str, str] = {}
    for entry in text.split(","):
        side, equals, url = entry.strip().partition("=")
        backend, at, view = side.partition("@")
        if not equals or backend not in BACKENDS or (at and view not in VIEWS):
            raise ValueError(
                f"expected BACKEND=URL or BACKEND@VIEW=URL, with a backend of {', '.join(BACKENDS)} and a view of "
                f"{', '.join(VIEWS)}"
            )
        found[side] = parse_url(url)
    return tuple(found.items())


def _prices(text: str) -> tuple[tuple[str, float], ...]:
    """Pairs of a backend ("" for all of them) and US dollars an hour."""
    found: dict[str, float] = {}
    for entry in text.split(","):
        backend, equals, price = entry.strip().rpartition("=")
        try:
            dollars = float(price)
        except ValueError:
            dollars = -1.0
        if not 0 < dollars < float("inf") or (equals and backend not in BACKENDS):
            raise ValueError("expected dollars an hour, such as 2.70 or pytorch=1.10,jax=2.70")
        found[backend] = dollars
    return tuple(found.items())


def _conditions(text: str) -> tuple[str, ...]:
    from pytest_multiitem.baselines.conditions import parse

    conditions = tuple(dict.fromkeys(condition.strip() for condition in text.split(",")))
    for condition in conditions:
        parse(condition)
    return conditions


def _chips(text: str) -> tuple[str, ...]:
    return tuple(parse_chip(name) for name in _names(text))


def _directory_of_libtpu(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not (path / "libtpu").is_dir():
        raise ValueError("expected a directory that holds libtpu, as made by: pip install --target DIR libtpu")
    return path


def _gate_names(text: str) -> tuple[str, ...]:
    from pytest_multiitem.gates.registry import gate_names

    names: tuple[str, ...] = _choice((*gate_names(), EVERY_GATE), many=True)(text)
    return (EVERY_GATE,) if EVERY_GATE in names else names


def _fault_names(text: str) -> tuple[str, ...]:
    from pytest_multiitem.faults.catalogue import fault

    names = _names(text)
    try:
        return tuple(fault(name).label for name in names)
    except UsageError as error:
        raise ValueError(str(error)) from None


OPTIONS: tuple[Option, ...] = (
    Option(
        "backend",
        BACKENDS,
        "engine backends to validate: pytorch, jax, or all",
        _choice(BACKENDS, many=True, everything=True),
        "pytorch|jax|all",
        short=True,
    ),
    Option(
        "engine",
        "embedded",
        "which engine runs the servers: embedded (ships with the plugin), sglang, sgl-jax, or one that a project adds",
        str,
        "NAME",
        short=True,
    ),
    Option(
        "engine_python",
        None,
        "the python of the environment that an engine of its own lives in",
        _program,
        "PATH",
        short=True,
    ),
    Option("profiles", None, "a file of launch profiles, laid over the shipped ones", _existing_file, "FILE"),
    Option("multi_profile", None, "launch profile of the multi-item server (default: ENGINE-multi)", str, "NAME"),
    Option("serial_profile", None, "launch profile of the serial server (default: ENGINE-serial)", str, "NAME"),
    Option("extend_profile", None, "launch profile of the prefill+extend server (default: ENGINE-extend)", str, "NAME"),
    Option(
        "reference",
        "none",
        "transformers: score serially with transformers' AutoModelForCausalLM as well, and compare with it",
        _choice(("none", "transformers")),
        "none|transformers",
        short=True,
    ),
    Option(
        "mask_impl",
        ("dense", "segment"),
        "mask implementations to validate: dense, segment, auto (a comma-separated list); flashinfer is sglang's own",
        _masks,
        "dense|segment|auto",
        short=True,
    ),
    Option(
        "model",
        None,
        "Qwen3 checkpoint directory, or a hub id; default: a tiny checkpoint generated on first use",
        str,
        "DIR",
        short=True,
    ),
    Option(
        "models",
        (),
        "run the contract for several models, one after the other: a comma-separated list of directories or hub ids",
        _names,
        "A,B,…",
        short=True,
    ),
    Option(
        "vocab_size",
        None,
        "token ids of the served vocabulary, for a server that does not tell",
        _integer(2),
        "N",
    ),
    Option("dtype", "float32", "float32 or bfloat16", _choice(("float32", "bfloat16")), "TYPE", short=True),
    Option(
        "semantics",
        Semantics.PREFIX_FIRST_DELIM.value,
        "semantics the packed server declares: prefix_first_delim or query_prefix",
        _choice([s.value for s in Semantics if s.has_serial_reference]),
        "NAME",
    ),
    Option(
        "device",
        "cpu",
        "device of the engine: cpu, cuda, tpu, auto; an engine of its own environment takes what the machine has",
        str,
        "NAME",
    ),
    Option("bench", False, "run the benchmarks", _flag, short=True, is_flag=True),
    Option("compare", False, "run the cross-backend comparison", _flag, short=True, is_flag=True),
    Option("views", VIEWS, "views of the comparison: portable, best_native, or all",
           _choice(VIEWS, many=True, everything=True), "portable|best_native"),
    Option("compare_chunk_sizes", (500,), "client chunk sizes of the comparison, or all for the contract's ten",
           _chunk_sizes, "N,…|all"),
    Option("confirm_runs", 7, "timed runs that confirm the comparison's best chunk sizes", _integer(1), "N"),
    Option("compare_load", False, "measure the comparison's best rows under load as well", _flag, is_flag=True),
    Option("latency_objective_ms", 500, "milliseconds within which an answer counts as goodput", _integer(1), "MS"),
    Option("compare_urls", (), "servers that already run, for the comparison: BACKEND[@VIEW]=URL, …",
           _side_urls, "SIDE=URL,…"),
    Option("compare_dir", None, "directory of the comparison (default: a new one; an interrupted one is resumed)",
           Path, "DIR", short=True),
    Option("fresh", False, "do not resume an interrupted comparison", _flag, is_flag=True),
    Option("cost_per_hour", (), "US dollars an hour: one price for all, or BACKEND=PRICE, …", _prices, "USD"),
    Option("blocker", None, "why a side of the comparison is missing, for its report: quota, capacity, …", str, "TEXT"),
    Option("baseline", None, "compare the run's timings with a saved baseline: its name, or a file", str, "NAME",
           short=True),
    Option("fail_if", ("p95 > 15%",), "what counts as a regression against the baseline, e.g. 'p95 > 15%, p50 > 10%'",
           _conditions, "CONDITION,…", short=True),
    Option("save_baseline", None, "save the run's timings under a name, unless the run fails", str, "NAME",
           short=True),
    Option(
        "allow_inconclusive",
        False,
        "INCONCLUSIVE verdicts do not fail the run",
        _flag,
        short=True,
        is_flag=True,
    ),
    Option(
        "require",
        (),
        "gates for which NOT_RUN fails the run: a comma-separated list of gate names, or all",
        _gate_names,
        "GATE,…",
        short=True,
    ),
    Option(
        "workload",
        None,
        "JSON lines of requests (query, items, label_token_ids) to validate instead of the built-in cases",
        _existing_file,
        "FILE",
        short=True,
    ),
    Option(
        "server_chunk_size",
        (0,),
        "items the server packs into one sequence, 0 = all (a comma-separated list); where every value "
        "is 1 or 2, isolation is measured at 0 as well",
        _integers(0),
        "N,…",
    ),
    Option("client_chunk_sizes", (1, 8, 32), "items per request in the cross-backend gates", _integers(1), "N,…"),
    Option(
        "segment_threshold",
        32_768,
        "packed tokens, padding counted, up to which mask implementation auto uses segment, above which dense",
        _integer(1),
        "TOKENS",
    ),
    Option("labels", (9454, 2753), "label token ids", _integers(0), "ID,…"),
    Option("delimiter", 151_643, "delimiter token id", _integer(0), "ID"),
    Option("seed", 20_260_101, "seed of the built-in cases", _integer(0), "N"),
    Option("power", False, "prove that the gates can fail: measure them on builds with every known fault", _flag,
           short=True, is_flag=True),
    Option("power_faults", (), "faults of --power: NAME or NAME=STRENGTH, …; default: all of them", _fault_names,
           "NAME,…", short=True),
    Option("property_examples", 100, "requests that the property-based isolation test tries", _integer(1), "N"),
    Option("property_max_tokens", 1024, "tokens of the longest request that it tries; less where the server takes less",
           _integer(16), "TOKENS"),
    Option("items", (1, 8, 32, 64, 128), "item counts N of the performance curve", _integers(1), "N,…"),
    Option("query_tokens", 256, "query length of the performance curve", _integer(1), "TOKENS"),
    Option("item_tokens", 20, "item length of the performance curve and the benchmarks", _integer(1), "TOKENS"),
    Option("bench_items", 500, "item count of the benchmarks", _integer(1), "N"),
    Option("bench_query_tokens", 2000, "query length of the benchmarks", _integer(1), "TOKENS"),
    Option(
        "bench_chunk_sizes",
        (1, 8, 64, 500),
        "client chunk sizes of the chunk-scaling benchmark",
        _integers(1),
        "N,…",
    ),
    Option("bench_warmup_runs", 1, "untimed runs before the timed ones", _integer(0), "N"),
    Option("bench_timed_runs", 5, "timed runs", _integer(1), "N"),
    Option("bench_download_dir", None, "where the server keeps models downloaded from a hub", str, "DIR"),
    Option(
        "bench_log_level",
        "info",
        "log level of the servers",
        _choice(("critical", "error", "warning", "info", "debug")),
        "LEVEL",
    ),
    Option("extend_batch_size", 12, "items per extend batch (prefill+extend)", _integer(1), "N"),
    Option(
        "extend_max_running_requests", 12, "requests that a prefill+extend server runs at once", _integer(1), "N"
    ),
    Option(
        "extend_precompile_bs_paddings",
        tuple(range(1, 13)),
        "batch sizes that a prefill+extend server compiles ahead",
        _integers(1),
        "N,…",
    ),
    Option("tpu_kernel", "pytest_multiitem.engine.segment_kernel:tpu_case",
           "what segment_lowers compiles for TPUs: a function that returns (callable, abstract arguments)",
           parse_kernel, "MODULE:FUNCTION"),
    Option("tpu_chips", DEFAULT_CHIPS, "chips that kernels are compiled for", _chips, "NAME,…"),
    Option("tpu_tier", "auto", "lower: JAX alone lowers kernels; compile: libtpu compiles them; auto: both",
           _choice(TIER_CHOICES), "lower|compile|auto"),
    Option("tpu_timeout", DEFAULT_TIMEOUT, "seconds that one kernel may take for one chip", _seconds, "SECONDS"),
    Option("tpu_libtpu", None, "directory in which libtpu is installed apart from the environment",
           _directory_of_libtpu, "DIR"),
    Option("multi_port", None, "port of the multi-item server (default: the first free from 30010 on)",
           _integer(1, 65_535), "PORT"),
    Option("serial_port", None, "port of the (first) serial server; default: the first free one from 30011 on",
           _integer(1, 65_535), "PORT"),
    Option("multi_url", None, "attach to a running multi-item server instead of starting one", parse_url, "URL",
           short=True),
    Option("serial_url", None, "attach to a running serial server instead of starting one", parse_url, "URL",
           short=True),
    Option(
        "api_key_env",
        "MULTI_ITEM_API_KEY",
        "environment variable that holds the API key of attached servers; the key itself is never written anywhere",
        str,
        "NAME",
    ),
    Option("ca_file", None, "certificate authorities to trust for attached https servers", _existing_file, "FILE"),
    Option("startup_timeout", 180.0, "seconds a server may take until it answers", _seconds, "SECONDS"),
    Option("request_timeout", 180.0, "seconds one request may take", _seconds, "SECONDS"),
    Option("results_dir", Path("multiitem-results"), "where runs are written", Path, "DIR", short=True),
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The effective value of every option; ``origins`` says where each came from."""

    backend: tuple[str, ...]
    engine: str
    engine_python: str | None
    profiles: Path | None
    multi_profile: str | None
    serial_profile: str | None
    extend_profile: str | None
    reference: str
    mask_impl: tuple[str, ...]
    model: str | None
    models: tuple[str, ...]
    vocab_size: int | None
    dtype: str
    semantics: str
    device: str
    bench: bool
    compare: bool
    views: tuple[str, ...]
    compare_chunk_sizes: tuple[int, ...]
    confirm_runs: int
    compare_load: bool
    latency_objective_ms: int
    compare_urls: tuple[tuple[str, str], ...]
    compare_dir: Path | None
    fresh: bool
    cost_per_hour: tuple[tuple[str, float], ...]
    blocker: str | None
    baseline: str | None
    fail_if: tuple[str, ...]
    save_baseline: str | None
    allow_inconclusive: bool
    require: tuple[str, ...]
    workload: Path | None
    server_chunk_size: tuple[int, ...]
    client_chunk_sizes: tuple[int, ...]
    segment_threshold: int
    labels: tuple[int, ...]
    delimiter: int
    seed: int
    power: bool
    power_faults: tuple[str, ...]
    property_examples: int
    property_max_tokens: int
    items: tuple[int, ...]
    query_tokens: int
    item_tokens: int
    bench_items: int
    bench_query_tokens: int
    bench_chunk_sizes: tuple[int, ...]
    bench_warmup_runs: int
    bench_timed_runs: int
    bench_download_dir: str | None
    bench_log_level: str
    extend_batch_size: int
    extend_max_running_requests: int
    extend_precompile_bs_paddings: tuple[int, ...]
    tpu_kernel: str
    tpu_chips: tuple[str, ...]
    tpu_tier: str
    tpu_timeout: float
    tpu_libtpu: Path | None
    multi_port: int | None
    serial_port: int | None
    multi_url: str | None
    serial_url: str | None
    api_key_env: str
    ca_file: Path | None
    startup_timeout: float
    request_timeout: float
    results_dir: Path
    origins: Mapping[str, str] = field(default_factory=dict)

    def shown(self, name: str) -> str:
        """The value of an option as a user would type it."""
        value = getattr(self, name)
        if value is None or value == ():
            return "-"
        if not isinstance(value, tuple):
            return str(value)
        pairs = all(isinstance(entry, tuple) for entry in value)
        return ",".join(f"{a}={b}" if a else str(b) for a, b in value) if pairs else ",".join(map(str, value))


def resolve(
    command_line: Mapping[str, str | bool | None],
    ini: Mapping[str, str | None],
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force.

    ``command_line`` and ``ini`` map :attr:`Option.ini` names to what was given, None where nothing
    was. Raises UsageError naming the value, where it came from, and what was expected.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        sources = (
            ("command line", f"option {option.flag}", command_line.get(option.ini)),
            ("environment", f"environment variable {option.variable}", environ.get(option.variable) or None),
            ("ini", f"ini value {option.ini}", ini.get(option.ini) or None),
        )
        values[option.name], origins[option.name] = option.default, "default"
        for origin, where, given in sources:
            if given is None:
                continue
            try:
                values[option.name] = given if isinstance(given, bool) else option.parse(given)
            except ValueError as error:
                raise UsageError(f"{where}: {given!r} is not valid: {error}") from None
            origins[option.name] = f"environment {option.variable}" if origin == "environment" else origin
            break
    return Settings(**values, origins=origins)
