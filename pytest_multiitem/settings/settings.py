"""Every setting of a run, stated once: command line, environment variable, ini value, default, help.

A command-line option wins over the environment variable, the variable over ``[tool.multiitem]`` in
pyproject.toml, that over the ini value, the ini value over the default; each value of
:class:`Settings` knows where it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.execution.cells import Needs
from pytest_multiitem.execution.choice import executor_name, parse_needs
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import EFFORTS, VIEWS
from pytest_multiitem.settings.chips import DEFAULT_CHIPS, chip_names
from pytest_multiitem.settings.conditions import condition_texts
from pytest_multiitem.settings.kernels import parse_kernel
from pytest_multiitem.settings.labels import label_words
from pytest_multiitem.settings.option import Option, option, options_of
from pytest_multiitem.settings.parsers import (
    choice,
    choices,
    chunk_sizes,
    directory_of_libtpu,
    existing_file,
    integer,
    integers,
    names,
    names_or_all,
    prices,
    program,
    seconds,
    side_urls,
    switch,
)
from pytest_multiitem.settings.tiers import DEFAULT_TIMEOUT, TIER_CHOICES
from pytest_multiitem.transport.address import Address, key_variable

MODE_NAMES: Final = tuple(mode.value for mode in ModeName)


@dataclass(frozen=True)
class Settings:
    """The effective value of every option; ``origins`` says where each came from."""

    # fmt: off
    backend: tuple[str, ...] = option(
        ("pytorch", "jax"), "engine backends to validate, by the engine's names for them, or all that it has",
        names_or_all, "NAME,…|all", short=True, topic="what is validated",
    )
    mask_impl: tuple[str, ...] = option(
        ("dense", "segment"), "mask implementations to validate, by the engine's names for them (dense, segment, "
        "auto; flashinfer is sglang's own), or all that it has", names_or_all, "NAME,…|all", short=True,
    )
    model: str | None = option(
        None, "Qwen3 checkpoint directory, or a hub id; default: a tiny checkpoint generated on first use", str,
        "DIR", short=True,
    )
    models: tuple[str, ...] = option(
        (), "run the contract for several models, one after the other: a comma-separated list of directories or hub "
        "ids", names, "A,B,…", short=True,
    )
    vocab_size: int | None = option(
        None, "token ids of the served vocabulary, for a server that does not tell", integer(2), "N",
    )
    dtype: str = option("float32", "float32 or bfloat16", choice("float32", "bfloat16"), "TYPE", short=True)
    mode: tuple[str, ...] = option(
        MODE_NAMES, "ways to ask for scores that are validated beside ids, each where the server speaks it, or all",
        choices(*MODE_NAMES), "NAME,…|all", short=True,
    )
    semantics: str = option(
        Semantics.PREFIX_FIRST_DELIM.value, "semantics the packed server declares: prefix_first_delim or "
        "query_prefix", choice(*(s.value for s in Semantics if s.has_serial_reference)), "NAME",
    )
    reference: str = option(
        "none", "transformers: score serially with transformers' AutoModelForCausalLM as well, and compare with it",
        choice("none", "transformers"), "none|transformers", short=True,
    )

    engine: str = option(
        "embedded", "which engine runs the servers: embedded (ships with the plugin), sglang, sgl-jax, vllm, rerank "
        "(a server that ranks texts, attached by its address), classify (one that classifies them), or one that a "
        "project adds",
        str, "NAME", short=True, topic="engine",
    )
    engine_python: str | None = option(
        None, "the python of the environment that an engine of its own lives in", program, "PATH", short=True,
    )
    profiles: Path | None = option(None, "a file of launch profiles, laid over the shipped ones", existing_file, "FILE")
    multi_profile: str | None = option(
        None, "launch profile of the multi-item server (default: ENGINE-multi)", str, "NAME",
    )
    serial_profile: str | None = option(
        None, "launch profile of the serial server (default: ENGINE-serial)", str, "NAME",
    )
    extend_profile: str | None = option(
        None, "launch profile of the prefill+extend server (default: ENGINE-extend)", str, "NAME",
    )
    device: str = option(
        "cpu", "device of the engine: cpu, cuda, tpu, auto; an engine of its own environment takes what the machine "
        "has", str, "NAME",
    )
    server_chunk_size: tuple[int, ...] = option(
        (0,), "items the server packs into one sequence, 0 = all (a comma-separated list); where every value is 1 or "
        "2, isolation is measured at 0 as well", integers(0), "N,…",
    )
    segment_threshold: int = option(
        32_768, "packed tokens, padding counted, up to which mask implementation auto uses segment, above which dense",
        integer(0), "N",
    )
    extend_batch_size: int = option(12, "items per extend batch (prefill+extend)", integer(1), "N")
    extend_max_running_requests: int = option(12, "requests that a prefill+extend server runs at once", integer(1), "N")
    extend_precompile_bs_paddings: tuple[int, ...] = option(
        tuple(range(1, 13)), "batch sizes that a prefill+extend server compiles ahead", integers(1), "N,…",
    )

    multi_url: str | None = option(
        None, "attach to a running multi-item server instead of starting one", Address, "URL", short=True,
        topic="servers",
    )
    serial_url: str | None = option(
        None, "attach to a running serial server instead of starting one", Address, "URL", short=True,
    )
    one_server: bool = option(
        False, "score the serial baseline on the server of --multi-url as well, by requests of one item each: for one "
        "server that answers for both sides", switch,
    )
    api_key_env: str = option(
        "MULTI_ITEM_API_KEY", "environment variable that holds the API key of attached servers; the key itself is "
        "never written anywhere", key_variable, "NAME",
    )
    ca_file: Path | None = option(
        None, "certificate authorities to trust for attached https servers", existing_file, "FILE",
    )
    multi_port: int | None = option(
        None, "port of the multi-item server (default: the first free from 30010 on)", integer(1, 65_535), "PORT",
    )
    serial_port: int | None = option(
        None, "port of the (first) serial server; default: the first free one from 30011 on", integer(1, 65_535),
        "PORT",
    )
    startup_timeout: float = option(180.0, "seconds a server may take until it answers", seconds, "SECONDS")
    request_timeout: float = option(180.0, "seconds one request may take", seconds, "SECONDS")
    bench_download_dir: str | None = option(None, "where the server keeps models downloaded from a hub", str, "DIR")
    bench_log_level: str = option(
        "info", "log level of the servers", choice("critical", "error", "warning", "info", "debug"), "LEVEL",
    )

    workload: Path | None = option(
        None, "your own requests instead of the built-in ones: JSON lines (query, items or documents, labels), or a "
        "canonical workload", existing_file, "FILE", short=True, topic="requests",
    )
    workload_sample: int | None = option(
        None, "requests that are drawn of the workload, by the seed; default: all", integer(1), "N", short=True,
    )
    tokenizer: str | None = option(
        None, "what makes token ids of text: a directory with a tokenizer.json, such a file, or a hub id; default: the "
        "model's", str, "DIR", short=True,
    )
    # Text until `traffic.loading.fitted` has made ids of it.
    labels: tuple[int, ...] = option(
        (9454, 2753), "labels, as token ids or as text that is one token each (yes,no); requests of a workload have "
        "them only where given", label_words, "LABEL,…", short=True,
    )
    delimiter: int = option(151_643, "delimiter token id", integer(0), "ID")
    seed: int = option(20_260_101, "seed of the built-in cases", integer(0), "N")
    client_chunk_sizes: tuple[int, ...] = option(
        (1, 8, 32), "items per request in the cross-backend gates", integers(1), "N,…",
    )
    effort: str = option(
        "normal", "how far the evidence goes: quick, normal, or full (sizes up to the server's limit)",
        choice(*EFFORTS), "|".join(EFFORTS), short=True,
    )
    max_in_flight: int | None = option(
        None, "requests in flight at the same time, at most; default: 64, and 16 on servers that someone else runs",
        integer(1), "N",
    )
    mixed_traffic: bool = option(
        False, "send generation, chat and health requests beside score requests to servers that someone else runs, too",
        switch,
    )
    property_examples: int = option(100, "requests that the property-based isolation test tries", integer(1), "N")
    property_max_tokens: int = option(
        1024, "tokens of the longest request that it tries; less where the server takes less", integer(16), "TOKENS",
    )

    allow_inconclusive: bool = option(
        False, "INCONCLUSIVE verdicts do not fail the run", switch, short=True, topic="verdicts and results",
    )
    allow_nothing: bool = option(
        False, "a run in which no gate was measured does not fail (exit status 5)", switch, short=True,
    )
    require: tuple[str, ...] = option(
        (), "gates for which NOT_RUN fails the run: a comma-separated list of gate names, or all", names_or_all,
        "GATE,…", short=True,
    )
    results_dir: Path = option(Path("multiitem-results"), "where runs are written", Path, "DIR", short=True)
    header: str = option(
        "changed", "settings that the run's header shows: changed (those that are not the default), or full (all)",
        choice("changed", "full"), "changed|full",
    )
    baseline: str | None = option(
        None, "compare the run's timings with a saved baseline: its name, or a file", str, "NAME", short=True,
    )
    fail_if: tuple[str, ...] = option(
        ("p95 > 15%",), "what counts as a regression against the baseline, e.g. 'p95 > 15%, p50 > 10%'",
        condition_texts, "CONDITION,…", short=True,
    )
    save_baseline: str | None = option(
        None, "save the run's timings under a name, unless the run fails", str, "NAME", short=True,
    )
    scores: str | None = option(
        None, "compare the run's scores with saved ones: their name, or a file", str, "NAME", short=True,
    )
    save_scores: str | None = option(
        None, "save the run's scores under a name, unless the run fails", str, "NAME", short=True,
    )

    bench: bool = option(False, "run the benchmarks", switch, short=True, topic="benchmarks and performance curve")
    bench_items: int = option(500, "item count of the benchmarks", integer(1), "N")
    bench_query_tokens: int = option(2000, "query length of the benchmarks", integer(1), "TOKENS")
    bench_chunk_sizes: tuple[int, ...] = option(
        (1, 8, 64, 500), "client chunk sizes of the chunk-scaling benchmark", integers(1), "N,…",
    )
    bench_warmup_runs: int = option(1, "untimed runs before the timed ones", integer(0), "N")
    bench_timed_runs: int = option(5, "timed runs", integer(1), "N")
    items: tuple[int, ...] = option((1, 8, 32, 64, 128), "item counts N of the performance curve", integers(1), "N,…")
    query_tokens: int = option(256, "query length of the performance curve", integer(1), "TOKENS")
    item_tokens: int = option(20, "item length of the performance curve and the benchmarks", integer(1), "TOKENS")

    compare: bool = option(False, "run the cross-backend comparison", switch, short=True, topic="comparison")
    views: tuple[str, ...] = option(
        VIEWS, "views of the comparison: portable, best_native, or all", choices(*VIEWS), "portable|best_native",
    )
    compare_chunk_sizes: tuple[int, ...] = option(
        (500,), "client chunk sizes of the comparison, or all for the contract's ten", chunk_sizes, "N,…|all",
    )
    confirm_runs: int = option(7, "timed runs that confirm the comparison's best chunk sizes", integer(1), "N")
    compare_load: bool = option(False, "measure the comparison's best rows under load as well", switch)
    latency_objective_ms: int = option(500, "milliseconds within which an answer counts as goodput", integer(1), "MS")
    compare_urls: tuple[tuple[str, str], ...] = option(
        (), "servers that already run, for the comparison: BACKEND[@VIEW]=URL, …", side_urls, "SIDE=URL,…",
    )
    compare_dir: Path | None = option(
        None, "directory of the comparison (default: a new one; an interrupted one is resumed)", Path, "DIR",
        short=True,
    )
    fresh: bool = option(False, "do not resume an interrupted comparison", switch)
    cost_per_hour: tuple[tuple[str, float], ...] = option(
        (), "US dollars an hour: one price for all, or BACKEND=PRICE, …", prices, "USD",
    )
    blocker: str | None = option(
        None, "why a side of the comparison is missing, for its report: quota, capacity, …", str, "TEXT",
    )

    power: bool = option(
        False, "prove that the gates can fail: measure them on builds with every known fault", switch, short=True,
        topic="power of the gates",
    )
    power_faults: tuple[str, ...] = option(
        (), "faults of --power: NAME or NAME=STRENGTH, …; default: all of them", names, "NAME,…", short=True,
    )

    executor: str = option(
        "local", "where the cells of power, compare and models are measured: local (this machine), ray (the cluster "
        "that this machine belongs to) or ray://HOST:PORT (that of the named head)", executor_name,
        "local|ray[://HOST:PORT]", topic="more than one machine",
    )
    cell_needs: Needs | None = option(
        None, "what a cell has to itself on its node; default: a CPU, and with --multiitem-device cuda or tpu one of "
        "these as well; memory is in GiB", parse_needs, "CPU=1,TPU=1,memory=8",
    )
    cell_timeout: float = option(
        1800.0, "seconds that one try of a cell may take before it is measured elsewhere", seconds, "SECONDS",
    )
    node_timeout: float = option(
        60.0, "seconds for which a cell waits while no node of the cluster could take it", seconds, "SECONDS",
    )

    tpu_kernel: str = option(
        "pytest_multiitem.engine.segment_kernel:tpu_case", "what segment_lowers compiles for TPUs: a function that "
        "returns (callable, abstract arguments)", parse_kernel, "MODULE:FUNCTION", topic="compiling for TPUs",
    )
    tpu_chips: tuple[str, ...] = option(DEFAULT_CHIPS, "chips that kernels are compiled for", chip_names, "NAME,…")
    tpu_tier: str = option(
        "auto", "lower: JAX alone lowers kernels; compile: libtpu compiles them; auto: both", choice(*TIER_CHOICES),
        "lower|compile|auto",
    )
    tpu_timeout: float = option(DEFAULT_TIMEOUT, "seconds that one kernel may take for one chip", seconds, "SECONDS")
    tpu_libtpu: Path | None = option(
        None, "directory in which libtpu is installed apart from the environment", directory_of_libtpu, "DIR",
    )
    # fmt: on

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

    def records(self) -> list[dict[str, str]]:
        """Name, value and origin of every setting, in words: what a `results.records.SettingRecord` is made of."""
        return [{"name": o.name, "value": self.shown(o.name), "origin": self.origins[o.name]} for o in OPTIONS]

    def invalid(self, name: str, value: str, problem: str) -> UsageError:
        """The error about a value of a setting that turns out to be wrong only after it was parsed."""
        place = OPTION_OF[name].place(self.origins.get(name, "default"))
        return UsageError(f"{place}: {value!r} is not valid: {problem}")

    def check_names(self, name: str, given: Iterable[str], known: Iterable[str], of: str = "") -> None:
        """Raises UsageError for a name given to a setting that is none of the known ones; ``of``: whose these are."""
        valid = list(known)
        for word in given:
            if word not in valid:
                expected = f"expected a comma-separated list of {', '.join(valid)}{did_you_mean(word, valid)}"
                raise self.invalid(name, word, f"{expected}{of}")


#: Every option of a run, in the order in which help and documentation list them.
OPTIONS: tuple[Option, ...] = options_of(Settings)
OPTION_OF = {option.name: option for option in OPTIONS}
