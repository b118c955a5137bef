"""The table of settings, and which source of a setting wins."""

import dataclasses
from itertools import combinations

import pytest

from pytest_multiitem.adapters.base import ENGINES, Profile, check_backends
from pytest_multiitem.adapters.embedded import EmbeddedEngine
from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.option import option, options_of
from pytest_multiitem.settings.parsers import switch
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.settings.settings import OPTION_OF as BY_NAME
from pytest_multiitem.settings.settings import OPTIONS, Settings

DEFAULTS = resolve({}, {}, {})


def test_the_table_and_the_settings_agree():
    fields = [field.name for field in dataclasses.fields(Settings)]
    assert [option.name for option in OPTIONS] == [name for name in fields if name != "origins"]
    assert len(BY_NAME) == len(OPTIONS)
    assert all(option.help and not option.help.endswith(".") for option in OPTIONS)


def test_everything_defaults():
    assert {name: getattr(DEFAULTS, name) for name in BY_NAME} == {o.name: o.default for o in OPTIONS}
    assert set(DEFAULTS.origins.values()) == {"default"} and set(DEFAULTS.origins) == set(BY_NAME)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_what_is_shown_can_be_typed(option):
    shown = DEFAULTS.shown(option.name)
    if option.default in (None, ()):
        assert shown == "-"
    else:
        assert option.parse(shown) == option.default


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("MULTI_ITEM_MASK_IMPL", "segment", "mask_impl", ("segment",)),
        ("MULTI_ITEM_BENCH_WARMUP_RUNS", "2", "bench_warmup_runs", 2),
        ("MULTI_ITEM_BENCH_TIMED_RUNS", "3", "bench_timed_runs", 3),
        ("MULTI_ITEM_EXTEND_BATCH_SIZE", "6", "extend_batch_size", 6),
        ("MULTI_ITEM_EXTEND_MAX_RUNNING_REQUESTS", "7", "extend_max_running_requests", 7),
        ("MULTI_ITEM_EXTEND_PRECOMPILE_BS_PADDINGS", "1,2,4", "extend_precompile_bs_paddings", (1, 2, 4)),
        ("MULTI_ITEM_BENCH_DOWNLOAD_DIR", "models", "bench_download_dir", "models"),
        ("MULTI_ITEM_BENCH_LOG_LEVEL", "debug", "bench_log_level", "debug"),
    ],
)
def test_the_variables_of_the_contract(variable, text, name, value):
    settings = resolve({}, {}, {variable: text})
    assert getattr(settings, name) == value and settings.origins[name] == f"environment {variable}"


def test_the_defaults_of_the_contract():
    assert DEFAULTS.extend_batch_size == DEFAULTS.extend_max_running_requests == 12
    assert DEFAULTS.extend_precompile_bs_paddings == tuple(range(1, 13))
    assert DEFAULTS.items == (1, 8, 32, 64, 128)
    assert DEFAULTS.labels == (9454, 2753) and DEFAULTS.delimiter == 151_643
    assert DEFAULTS.startup_timeout == 180.0


def test_names():
    option = BY_NAME["mask_impl"]
    assert (option.flag, option.short_flag) == ("--multiitem-mask-impl", "--mask-impl")
    assert (option.variable, option.ini) == ("MULTI_ITEM_MASK_IMPL", "multiitem_mask_impl")
    short = {option.short_flag for option in OPTIONS if option.short}
    assert {"--backend", "--bench", "--mask-impl", "--engine", "--model"} <= short


SOURCES = ("command line", "environment", "ini")
VALUES = dict(zip(SOURCES, ("11", "22", "33"), strict=True))


@pytest.mark.parametrize("given", [c for n in range(4) for c in combinations(SOURCES, n)], ids="+".join)
def test_the_first_source_that_is_given_wins(given):
    option = BY_NAME["bench_items"]
    keys = {"command line": option.ini, "environment": option.variable, "ini": option.ini}
    command_line, environ, ini = (
        {keys[source]: VALUES[source]} if source in given else {} for source in ("command line", "environment", "ini")
    )
    settings = resolve(command_line, ini, environ)
    winner = next((source for source in SOURCES if source in given), None)
    assert settings.bench_items == (500 if winner is None else int(VALUES[winner]))
    origin = {None: "default", "environment": "environment MULTI_ITEM_BENCH_ITEMS"}.get(winner, winner)
    assert settings.origins["bench_items"] == origin


def test_a_lower_source_is_not_even_parsed():
    settings = resolve({"multiitem_bench_items": "7"}, {"multiitem_bench_items": "x"}, {"MULTI_ITEM_BENCH_ITEMS": "y"})
    assert settings.bench_items == 7


def test_empty_means_not_given():
    settings = resolve({"multiitem_seed": None}, {"multiitem_seed": ""}, {"MULTI_ITEM_SEED": ""})
    assert settings.seed == DEFAULTS.seed and settings.origins["seed"] == "default"


def test_a_zero_on_the_command_line_is_given():
    settings = resolve({"multiitem_seed": "0", "multiitem_bench": True}, {}, {"MULTI_ITEM_SEED": "5"})
    assert settings.seed == 0 and settings.bench is True


@pytest.mark.parametrize(
    ("sources", "where"),
    [
        (({"multiitem_seed": "x"}, {}, {}), "option --multiitem-seed"),
        (({}, {}, {"MULTI_ITEM_SEED": "x"}), "environment variable MULTI_ITEM_SEED"),
        (({}, {"multiitem_seed": "x"}, {}), "ini value multiitem_seed"),
    ],
)
def test_a_bad_value_names_its_source(sources, where):
    with pytest.raises(UsageError) as caught:
        resolve(*sources)
    assert str(caught.value) == f"{where}: 'x' is not valid: expected a whole number of at least 0"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("backend", "", "expected a comma-separated list of names"),
        ("views", "portible", "did you mean 'portable'?"),
        ("compare_urls", "jax@fast=http://h", "expected BACKEND=URL or BACKEND@VIEW=URL, with a view of portable"),
        ("compare_urls", "=http://h", "expected BACKEND=URL"),
        ("cost_per_hour", "=2", "expected dollars an hour"),
        ("dtype", "float16", "expected one of float32, bfloat16"),
        ("semantics", "all_delims_prefix", "expected one of prefix_first_delim, query_prefix"),
        ("bench", "maybe", "expected 1 or 0"),
        ("workload", "/absent/file", "expected an existing file"),
        ("server_chunk_size", "-1", "expected a comma-separated list of whole numbers of at least 0"),
        ("client_chunk_sizes", "1,0", "at least 1"),
        ("labels", "9454;2753", "comma-separated list of whole numbers"),
        ("multi_port", "65536", "expected a whole number of at least 1 and at most 65535"),
        ("multi_url", "127.0.0.1:30010", "expected an address such as http://127.0.0.1:30010"),
        ("startup_timeout", "0", "expected a number of seconds above 0"),
        ("startup_timeout", "nan", "expected a number of seconds above 0"),
        ("request_timeout", "inf", "expected a number of seconds above 0"),
        ("request_timeout", "soon", "expected a number of seconds above 0"),
        ("bench_timed_runs", "2.5", "expected a whole number of at least 1"),
        ("bench_log_level", "loud", "expected one of critical, error, warning, info, debug"),
    ],
)
def test_messages(name, text, message):
    with pytest.raises(ValueError, match=r"^expected") as caught:
        BY_NAME[name].parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("backend", "all", ("all",)),
        ("backend", "rocm,jax", ("rocm", "jax")),
        ("mask_impl", "dense,all", ("all",)),
        ("compare_urls", "rocm@portable=http://h/", (("rocm@portable", "http://h"),)),
        ("cost_per_hour", "rocm=2.5", (("rocm", 2.5),)),
        ("backend", "jax, jax", ("jax",)),
        ("mask_impl", "auto", ("auto",)),
        ("require", "all", ("all",)),
        ("require", "segment_lowers,speedup_n32_ge_3x", ("segment_lowers", "speedup_n32_ge_3x")),
        ("server_chunk_size", "0, 2", (0, 2)),
        ("bench", "ON", True),
        ("allow_inconclusive", "no", False),
        ("multi_url", "http://127.0.0.1:30010/", "http://127.0.0.1:30010"),
        ("request_timeout", "2.5", 2.5),
    ],
)
def test_values(name, text, value):
    assert BY_NAME[name].parse(text) == value


def test_an_existing_file(tmp_path):
    file = tmp_path / "requests.jsonl"
    file.touch()
    assert BY_NAME["workload"].parse(str(file)) == file


def test_a_new_option_needs_one_line():
    @dataclasses.dataclass(frozen=True)
    class Mine:
        on: bool = option(False, "a switch", switch, topic="mine")
        my_number: int = option(3, "a number", int)
        of_no_user: int = 4

    on, number = options_of(Mine)
    assert (number.flag, number.variable, number.ini) == (
        "--multiitem-my-number", "MULTI_ITEM_MY_NUMBER", "multiitem_my_number",
    )  # fmt: skip
    assert (number.default, number.topic, number.is_switch) == (3, "mine", False) and on.is_switch


def test_records_hold_every_setting_with_its_origin():
    records = resolve({"multiitem_seed": "3"}, {}, {}).records()
    assert [record["name"] for record in records] == [o.name for o in OPTIONS]
    assert {"name": "seed", "value": "3", "origin": "command line"} in records


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("backend", "pytoch", "expected a comma-separated list of pytorch, jax, all (did you mean 'pytorch'?)"),
        ("mask_impl", "dense,segmnt", "'segmnt' is not valid: expected a comma-separated list of dense, segment, auto"),
        ("mask_impl", "flashinfer", "engine embedded has no other"),
    ],
)
def test_names_are_checked_against_what_the_engine_has(name, text, message):
    with pytest.raises(UsageError, match=rf"^option --multiitem-{name.replace('_', '-')}: ") as caught:
        EmbeddedEngine().fit(resolve({f"multiitem_{name}": text}, {}, {}))
    assert message in str(caught.value)


class Rocm(EmbeddedEngine):
    name, backends, masks = "mine", ("rocm", "jax"), ("flex",)


def test_all_and_the_defaults_are_the_engines_own():
    def fitted(**given):
        return Rocm().fit(resolve({f"multiitem_{name}": text for name, text in given.items()}, {}, {}))

    settings = fitted()
    assert (settings.backend, settings.mask_impl) == (("jax",), ("flex",)), "what a default has of it, else all of it"
    assert settings.origins["backend"] == settings.origins["mask_impl"] == "engine mine"
    settings = fitted(backend="all", mask_impl="all")
    assert (settings.backend, settings.mask_impl) == (("rocm", "jax"), ("flex",))
    assert settings.origins["backend"] == "command line" and fitted(backend="rocm").backend == ("rocm",)
    assert EmbeddedEngine().fit(resolve({"multiitem_mask_impl": "all"}, {}, {})).mask_impl == (
        "dense", "segment", "auto",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend": "rcom"}, "option --multiitem-backend: 'rcom' .*rocm, all .did you mean 'rocm'"),
        ({"compare_urls": "rcom@portable=http://h"}, "option --multiitem-compare-urls: 'rcom' .*did you mean 'rocm'"),
        ({"cost_per_hour": "2.5,jx=1"}, "option --multiitem-cost-per-hour: 'jx' .*did you mean 'jax'"),
    ],
)
def test_a_comparison_takes_the_backends_of_any_engine(given, message):
    good = {name: text.replace("rcom", "rocm").replace("jx", "jax") for name, text in given.items()}
    undo = ENGINES.extend([Rocm()])
    try:
        check_backends(resolve({f"multiitem_{name}": text for name, text in good.items()}, {}, {}))
        with pytest.raises(UsageError, match=message):
            check_backends(resolve({f"multiitem_{name}": text for name, text in given.items()}, {}, {}))
    finally:
        undo()


def test_settings_reach_the_launch_line():
    settings = resolve({"multiitem_extend_precompile_bs_paddings": "1,4", "multiitem_bench_download_dir": "d"}, {}, {})
    command = EmbeddedEngine().launch(Profile("extend", "jax"), settings).command
    at = command.index("--precompile-bs-paddings")
    assert command[at + 1 : at + 3] == ("1", "4") and command[command.index("--download-dir") + 1] == "d"
