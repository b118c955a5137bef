"""One name for one idea: an option that several commands have, or a command and a run, means the same everywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest
import typer
from click import Context
from typer.testing import CliRunner

from pytest_multiitem import cli
from pytest_multiitem.commands.options import OLD_NAMES, Command, RunCommand, old_names
from pytest_multiitem.settings.settings import OPTIONS

#: Each idea that has one name in several places. A name that a second command takes gets its line here.
IDEAS = {
    "the address of one running server": "--url",
    "the address of a serial server of the same model": "--serial-url",
    "seconds one request may take": "--request-timeout",
    "the variable that holds a server's key": "--api-key-env",
    "certificate authorities to trust": "--ca-file",
    "which engine serves": "--engine",
    "what computes": "--backend",
    "a model": "--model",
    "a JAX server's mask": "--jax-mask-impl",
    "requests of one's own": "--workload",
    "how many of them are drawn": "--workload-sample",
    "what makes token ids of text": "--tokenizer",
    "tokens of the query": "--query-tokens",
    "tokens of an item": "--item-tokens",
    "items of one request": "--num-items",
    "item counts that are timed": "--items",
    "label tokens": "--labels",
    "the delimiter": "--delimiter",
    "what is computed": "--semantics",
    "how scores are asked for": "--mode",
    "a seed": "--seed",
    "token ids to draw from": "--vocab-size",
    "client chunk sizes of a comparison": "--compare-chunk-sizes",
    "timed runs": "--bench-timed-runs",
    "untimed runs before": "--bench-warmup-runs",
    "timed runs that confirm": "--confirm-runs",
    "milliseconds that count as in time": "--latency-objective-ms",
    "dollars an hour": "--cost-per-hour",
    "why a side is missing": "--blocker",
    "where a JSON file goes": "--output-json",
    "where runs are written": "--results-dir",
    "write over a file": "--force",
    "begin again": "--fresh",
    "print, and do nothing": "--dry-run",
    "the date in a report's title": "--title-date",
    "INCONCLUSIVE does not fail": "--allow-inconclusive",
    "gates that must have run": "--require",
    "what a regression is": "--fail-if",
    "arguments of a kernel's case": "--shape",
    "what TPU kernels are compiled for": "--tpu-chips",
    "how far they are": "--tpu-tier",
    "seconds a kernel may take": "--tpu-timeout",
    "where libtpu is": "--tpu-libtpu",
    "what GPU kernels are compiled for": "--gpu-chips",
    "whether they are compiled or interpreted": "--gpu-tier",
    "seconds a GPU kernel may take": "--gpu-timeout",
    "where Triton is": "--gpu-triton",
    "bytes a GPU kernel may spill": "--gpu-spills",
}
#: Old names that are names of something else in these commands.
STILL_NAMES = {"--items": {"evaluate"}, "--output": {"report"}}


def commands():
    """Every command by its words, but those that read theirs themselves."""

    def inner(command, words):
        for name, each in getattr(command, "commands", {}).items():
            yield from inner(each, [*words, name])
        if not hasattr(command, "commands"):
            yield " ".join(words), command

    raw = ("serve", "proxy")
    return {name: each for name, each in inner(typer.main.get_command(cli.app), []) if name not in raw}


def own_options(command):
    """The names of a command's options without those of a run."""
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    return [each for each in options if not each.opts[0].startswith("--multiitem-")]


COMMANDS = commands()
SETTINGS = {option.short_flag for option in OPTIONS}


def test_an_idea_has_one_name_and_a_name_one_idea():
    assert len(set(IDEAS.values())) == len(IDEAS)
    taken = defaultdict(set)
    for name, command in COMMANDS.items():
        for option in own_options(command):
            taken[option.opts[0]].add(name)
    shared = {flag for flag, names in taken.items() if len(names) > 1 or flag in SETTINGS}
    assert shared - set(IDEAS.values()) == set(), "a name in two places: say what it means in IDEAS"
    assert set(IDEAS.values()) - set(taken) == set(), "no command has this one any more"


def test_no_command_has_a_name_that_another_one_has_replaced():
    for name, command in COMMANDS.items():
        for option in own_options(command):
            for flag in option.opts:
                assert flag not in OLD_NAMES or name in STILL_NAMES.get(flag, ()), (name, flag)
    assert not set(OLD_NAMES) & set(OLD_NAMES.values())
    assert set(OLD_NAMES.values()) <= {*IDEAS.values(), "--torch-model"}


def test_every_command_takes_old_names():
    assert all(isinstance(command, Command) for command in COMMANDS.values())
    used = {old for command in COMMANDS.values() for old in old_names(command)}
    assert used == set(OLD_NAMES), "each is of use to some command"


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (
            ["matrix", "--base-url", "u", "--workload-json", "w", "--output-json", "o", "--timed-runs=3"],
            "bench_timed_runs",
        ),
        (["load", "--url", "u", "--timeout", "3"], "request_timeout"),
        (["tpu-check", "m:f", "--timeout", "3"], "timeout"),
        (["workload", "--items", "3"], "items"),
        (["evaluate", "--mode", "multi", "--url", "u", "--output-json", "o", "--items", "3"], "items"),
    ],
)
def test_an_old_name_is_the_new_one(words, new):
    command = COMMANDS[words[0]]
    given = command.make_context(words[0], words[1:]).params
    assert str(given[new]) in ("3", "3.0")


def test_an_unknown_name_stays_unknown():
    found = CliRunner().invoke(cli.app, ["load", "--base-ulr", "x"])
    assert found.exit_code == 2 and "No such option: --base-ulr" in re.sub(r"\s+", " ", found.output)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_groups_and_has_defaults(name, monkeypatch):
    command = COMMANDS[name]
    monkeypatch.setenv("COLUMNS", "110")
    shown = CliRunner().invoke(cli.app, [*name.split(), "--help"]).output
    options = own_options(command)
    if len(options) >= 8:
        panels = {each.rich_help_panel for each in options}
        assert len(panels) > 1
        assert all(panel in shown for panel in panels - {None})
    assert not [old for old in old_names(command) if re.search(rf"{old}\b(?!-)", shown) and old not in STILL_NAMES]
    if isinstance(command, RunCommand):
        for option in OPTIONS:
            help_text = next(each.help for each in command.params if each.name == option.ini)
            assert help_text.count("default: ") == 1, help_text
    else:
        with_default = [each for each in options if each.default not in (None, False) and not each.required]
        assert all(each.show_default for each in with_default if each.opts[0] != "--format")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("multiitem wo", ["workload"]),
        ("multiitem load --con", ["--concurrency"]),
        ("multiitem compare ", ["run", "files"]),
        ("multiitem power --back", ["--backend"]),
    ],
)
@pytest.mark.parametrize("shell", ["bash"])
def test_the_shell_completes(words, found, shell, tmp_path):
    """As the script of `multiitem --show-completion` asks for it."""
    asked = {"_MULTIITEM_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest_multiitem"],
        env={**os.environ, **asked}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == found


def test_there_is_a_script_for_the_shell(tmp_path):
    asked = {"_MULTIITEM_COMPLETE": "source_zsh"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest_multiitem"],
        env={**os.environ, **asked}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "#compdef multiitem" in done.stdout and "_MULTIITEM_COMPLETE=complete_zsh" in done.stdout


def test_a_context_is_made_for_every_command():
    for name, command in COMMANDS.items():
        assert isinstance(Context(command, info_name=name).command, Command)
