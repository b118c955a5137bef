"""How commands read the settings of a run: single ones under names of their own, or all of them."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.extensions.loading import PLUGINS
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


_RUN_OPTIONS = {
    option.ini: typer.Option(
        option.flag,
        option.short_flag,
        metavar="[=0|1]" if option.is_switch else option.metavar,
        help=f"{option.help} ({option.variable})",
        rich_help_panel=f"A run: {option.topic}",
        show_default=False,
    )
    for option in OPTIONS
}
#: Gives a command every option of a run; register it with ``cls=RunCommand``. What it gets as ``given`` is what
#: `settings.resolve.resolve` takes: values by ini key.
takes_run_options = functools.partial(with_options, options=_RUN_OPTIONS)


class RunCommand(TyperCommand):
    """A command with the options of a run, whose switches may stand alone: ``--bench`` is ``--bench=1``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any command's."""
        return list(super().parse_args(ctx, [f"{word}=1" if word in _SWITCHES else word for word in args]))
