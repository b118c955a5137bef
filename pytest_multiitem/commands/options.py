"""How commands read the settings of a run: single ones under names of their own, or all of them."""

from __future__ import annotations

import copy
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.extensions.loading import PLUGINS
from pytest_multiitem.settings.option import Option
from pytest_multiitem.settings.settings import OPTION_OF, OPTIONS, Settings

#: The defaults of a run's settings, for commands that have some of these as options of their own.
DEFAULTS = Settings()
#: Options that several commands have.
Url = Annotated[str, typer.Option(help="Address of the running server.")]
_TIMEOUT = typer.Option(metavar="SECONDS", help="Time one request may take.")
Timeout = Annotated[float, _TIMEOUT]
TimeoutText = Annotated[str, _TIMEOUT]
ApiKeyEnv = Annotated[str, typer.Option(metavar="NAME", help="Environment variable with the server's API key.")]
_CA_FILE = typer.Option(metavar="FILE", help="Certificate authorities to trust (default: the usual ones).")
CaFile = Annotated[Path | None, _CA_FILE]
CaFileText = Annotated[str | None, _CA_FILE]
QueryTokens = Annotated[int, typer.Option(min=1, help="Tokens of the query.")]
ItemTokens = Annotated[int, typer.Option(min=1, help="Tokens of an item.")]
Labels = Annotated[str, typer.Option(metavar="LABEL,…", help="Labels: token ids, or text with --tokenizer.")]
LABELS = DEFAULTS.shown("labels")
LabelsIfGiven = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL,…",
        help="Labels: token ids, or text with --tokenizer; of a workload, only where given (default of requests that "
        f"are made: {LABELS}).",
    ),
]
AllowInconclusive = Annotated[bool, typer.Option("--allow-inconclusive", help="INCONCLUSIVE does not fail.")]

#: What stands for the default of what a running server is asked for.
SERVER_SAYS = "what the server says"


def setting_option(setting: str, help: str | None = None, *, default: str | None = None) -> Any:
    """A command's option for a setting of a run: same values, same default, and its help where none is given."""
    option = OPTION_OF[setting]
    words = f"{help or option.help} (default: {default or DEFAULTS.shown(setting)})"
    return typer.Option(metavar=option.metavar, help=words)


#: Names that options had, or have in the public scripts, and what they are called in all commands. A command takes the
#: old one where the new one is its own; help and documentation name the new one alone.
OLD_NAMES = {
    "--base-url": "--url",
    "--chip": "--tpu-chips",
    "--client-chunk-sizes": "--compare-chunk-sizes",
    "--delimiter-token-id": "--delimiter",
    "--items": "--num-items",
    "--json": "--output-json",
    "--label-token-ids": "--labels",
    "--libtpu": "--tpu-libtpu",
    "--output": "--output-json",
    "--reference": "--torch-model",
    "--tier": "--tpu-tier",
    "--timed-runs": "--bench-timed-runs",
    "--timed-runs-confirm": "--confirm-runs",
    "--timeout": "--request-timeout",
    "--timeout-sec": "--request-timeout",
    "--warmup-runs": "--bench-warmup-runs",
    "--workload-json": "--workload",
}
#: Where an old name stood for something else.
_OLD_NAMES_OF = {"tpu-check": {"--timeout": "--tpu-timeout"}, "kernel-check": {"--timeout": "--kernel-timeout"}}

_SWITCHES = {name for option in OPTIONS if option.is_switch for name in (option.flag, option.short_flag)}


def parse_value(flag: str, setting: str, text: str | None, *, variable: bool = False) -> Any:
    """What was given for ``flag``, read as the setting of a run is read; else the default, or (``variable``) what the
    setting's environment variable says. Raises UsageError."""
    option, place = OPTION_OF[setting], flag
    if text is None and variable:
        text, place = os.environ.get(option.variable) or None, f"environment variable {option.variable}:"
    if text is None:
        return option.default
    try:
        return option.parse(text)
    except ValueError as error:
        raise UsageError(f"{place} {text!r} is not valid: {error}") from None


def label_ids(text: str, tokenizer: str | None = None) -> tuple[int, ...]:
    """The labels given to ``--labels``, as token ids; text by a tokenizer. Raises UsageError."""
    from pytest_multiitem.targets.attach import settings_of  # with httpx
    from pytest_multiitem.traffic.loading import fitted

    given = {"labels": ("--labels", parse_value("--labels", "labels", text)), "tokenizer": ("--tokenizer", tokenizer)}
    return fitted(settings_of(given), starts_servers=False).labels


def plugin_modules(context: Any) -> list[str]:
    """The modules with hooks that the user names, by the variable and by ``-p`` before a command."""
    named = [name.strip() for name in os.environ.get(PLUGINS, "").split(",") if name.strip()]
    return [*named, *(context.find_root().params.get("plugins") or ())]


def check_backend(given: str | None) -> None:
    """Raises UsageError for what is given to --backend and what no engine has."""
    from pytest_multiitem.adapters.base import known_backends  # numpy comes with the adapters

    backends = known_backends() if given is not None else ()
    if given is not None and given not in backends:
        hint = did_you_mean(given, backends)
        raise UsageError(f"--backend {given!r} is not valid: expected one of {', '.join(backends)}{hint}")


def with_options(command: Callable[..., None], options: Mapping[str, Any]) -> Callable[..., None]:
    """A command with further options beside its own; ``options``: by their parameters.

    It gets their texts as ``given``, None where not given.
    """

    @functools.wraps(command)
    def complete(**values: Any) -> None:
        given = {name: values.pop(name) for name in options}
        command(**values, given=given)

    signature, keyword = inspect.signature(command, eval_str=True), inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter for name, parameter in signature.parameters.items() if name != "given"]
    for name, option in options.items():
        parameters.append(inspect.Parameter(name, keyword, default=None, annotation=Annotated[str | None, option]))
    complete.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    complete.__annotations__ = {each.name: each.annotation for each in parameters}
    return complete


_LONGEST_WORD = 24  # of a help that leaves room for the names on a terminal of 80 columns


def _default(option: Option) -> str:
    shown = "off" if option.is_switch else {"-": "none"}.get(typed := DEFAULTS.shown(option.name), typed)
    return shown if len(shown) <= _LONGEST_WORD else shown.replace(",", ", ")


_RUN_OPTIONS = {
    option.ini: typer.Option(
        option.flag,
        option.short_flag,
        metavar="[=0|1]" if option.is_switch else option.metavar,
        help=option.help if "default: " in option.help else f"{option.help} (default: {_default(option)})",
        rich_help_panel=f"A run: {option.topic}",
        show_default=False,
    )
    for option in OPTIONS
}
#: Gives a command every option of a run; register it with ``cls=RunCommand``. What it gets as ``given`` is what
#: `settings.resolve.resolve` takes: values by ini key.
takes_run_options = functools.partial(with_options, options=_RUN_OPTIONS)


def run_options(first: Sequence[str], panel: str, *, without: Sequence[str]) -> Callable[..., Callable[..., None]]:
    """As `takes_run_options`. ``first``: settings that the help shows before the others, in their order, in a group of
    their own, ``panel``. ``without``: settings that the command refuses, and that its help does not show."""
    names = [*first, *(option.name for option in OPTIONS if option.name not in first)]
    options = {}
    for name in names:
        made = copy.copy(_RUN_OPTIONS[OPTION_OF[name].ini])
        made.rich_help_panel = panel if name in first else made.rich_help_panel
        made.hidden = name in without
        options[OPTION_OF[name].ini] = made
    return functools.partial(with_options, options=options)


def old_names(command: TyperCommand) -> dict[str, str]:
    """The old names that a command takes, and what each is called now."""
    own = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    known = {**OLD_NAMES, **_OLD_NAMES_OF.get(command.name or "", {})}
    return {old: new for old, new in known.items() if new in own and old not in own}


#: The groups of options in a command's help, by what begins their names.
_PANELS = {
    "The server": ("url", "serial-url", "api-key-env", "ca-file", "request-timeout", "engine", "backend", "jax-",
                   "model"),
    "What is sent": (
        "workload", "tokenizer", "query-tokens", "num-items", "item-tokens", "items", "labels", "delimiter", "seed",
        "vocab-size", "semantics", "apply-softmax", "item-first", "requests", "compare-chunk-sizes", "client-chunk",
    ),
    "What is timed": ("bench-", "confirm-runs", "concurrency", "rates", "duration", "latency-objective-ms", "mode"),
    "Results": ("output", "results-dir", "force", "fresh", "evaluation-view", "server-config-note", "title-date"),
}  # fmt: skip
_FEWEST = 8  # options; fewer stand together


def _panel(flag: str) -> str | None:
    name = flag.removeprefix("--")
    return next((panel for panel, starts in _PANELS.items() if name.startswith(starts)), None)


class Command(TyperCommand):
    """A command that takes the old names of its options as well, and shows many options in groups."""

    def __init__(self, *args: Any, **words: Any) -> None:
        super().__init__(*args, **words)
        # Lines end where the terminal does, not where the source's do.
        self.help = self.help and "\n\n".join(" ".join(part.split()) for part in self.help.split("\n\n"))
        options = [each for each in self.params if isinstance(each, TyperOption)]
        for each in options if len(options) >= _FEWEST else []:
            if each.rich_help_panel is None:
                each.rich_help_panel = _panel(each.opts[0])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any command's."""
        renamed = old_names(self)
        words = (word.partition("=") for word in args)
        return list(
            super().parse_args(ctx, [f"{renamed.get(name, name)}{equals}{value}" for name, equals, value in words])
        )


_LONG = OPTIONS[0].flag.removesuffix(OPTIONS[0].short_flag.removeprefix("--"))
_SHOWS_HELP = "pytest_multiitem.shows_help"


def _in_short(parameter: Any) -> Any:
    """An option without its long name, where it has another."""
    short = [name for name in parameter.opts if not name.startswith(_LONG)]
    if not short or len(short) == len(parameter.opts):
        return parameter
    shown = copy.copy(parameter)
    shown.opts = short
    return shown


class RunCommand(Command):
    """A command with the options of a run, whose switches may stand alone: ``--bench`` is ``--bench=1``. Its help shows
    the short name of each: the long one, which it takes as well, would leave no room for both."""

    def __init__(self, *args: Any, **words: Any) -> None:
        super().__init__(*args, **words)
        self.epilog = self.epilog or (
            "An option of a run is also taken by its name in pytest, --multiitem-NAME, and read from the environment, "
            "MULTI_ITEM_NAME; what is given here wins."
        )

    def get_params(self, ctx: Any) -> list[Any]:
        """As any command's; with short names alone while its help is shown."""
        found = super().get_params(ctx)
        return [_in_short(each) for each in found] if ctx.meta.get(_SHOWS_HELP) else list(found)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As any command's."""
        ctx.meta[_SHOWS_HELP] = True
        try:
            super().format_help(ctx, formatter)
        finally:
            del ctx.meta[_SHOWS_HELP]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any command's."""
        return list(super().parse_args(ctx, [f"{word}=1" if word in _SWITCHES else word for word in args]))
