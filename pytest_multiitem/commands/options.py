"""How commands read the settings of a run: single ones under names of their own, or all of them."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.settings import OPTION_OF, OPTIONS, Settings

#: The defaults of a run's settings, for commands that have some of these as options of their own.
DEFAULTS = Settings()
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


_RUN_PARAMETERS = [
    inspect.Parameter(
        option.ini,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            str | None,
            typer.Option(
                option.flag,
                option.short_flag,
                metavar="[=0|1]" if option.is_switch else option.metavar,
                help=f"{option.help} ({option.variable})",
                rich_help_panel=f"A run: {option.topic}",
                show_default=False,
            ),
        ],
    )
    for option in OPTIONS
]


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of a run beside its own; register it with ``cls=RunCommand``.

    The command gets as ``given`` what `settings.resolve.resolve` takes: values by ini key, None where not given.
    """

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        given = {option.ini: values.pop(option.ini) for option in OPTIONS}
        command(**values, given=given)

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "given"]
    with_options.__signature__ = signature.replace(parameters=[*own, *_RUN_PARAMETERS])  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in [*own, *_RUN_PARAMETERS]}
    return with_options


class RunCommand(TyperCommand):
    """A command with the options of a run, whose switches may stand alone: ``--bench`` is ``--bench=1``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any command's."""
        return list(super().parse_args(ctx, [f"{word}=1" if word in _SWITCHES else word for word in args]))
