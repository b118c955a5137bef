"""The suites in a pytest run of their own: the same tests, gates, records and reports as anybody's run of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pytest_multiitem
from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.results import store
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.settings.option import Option
from pytest_multiitem.settings.settings import OPTION_OF, OPTIONS, Settings
from pytest_multiitem.targets.attach import is_stated
from pytest_multiitem.transport.address import Address, with_login

_LOG = "gates.log"
_SUITE = "pytest_multiitem.suites.regression"
_PLUGIN = "pytest_multiitem.session.accepting"
#: Seconds in which a run that is interrupted writes its results.
_PATIENCE = 60.0
#: Requests at the same time that a server of one's own is asked for, at most.
_IN_FLIGHT = 64
#: pytest's exit status for a wrong use of it.
_USAGE_ERROR = 4
#: Settings that are not on the suites' command line: where they write is said to them by the plugin, and addresses may
#: hold a password, which the environment keeps from those who list processes.
_NOT_ON_COMMAND_LINE = frozenset({"results_dir", "multi_url", "serial_url"})
#: What makes another run of it, whoever starts pytest.
_OTHERS = frozenset({"PYTEST_ADDOPTS", "PYTEST_PLUGINS"})


def command_line(
    settings: Settings, directory: Path, *, without: Sequence[str], events: int, plugins: Sequence[str] = ()
) -> list[str]:
    """How the suites are started: every setting is on the command line, so that no file and no variable has a say."""
    modules = [word for name in (*plugins, _PLUGIN) for word in ("-p", name)]
    given = [
        option.flag if option.is_switch else f"{option.flag}={settings.shown(option.name)}"
        for option in OPTIONS
        if option.name not in _NOT_ON_COMMAND_LINE and _is_given(settings, option)
    ]
    return [
        sys.executable, "-m", "pytest", "--pyargs", _SUITE, "-p", "no:cacheprovider", *modules,
        "-c", str(directory / "pytest.ini"), f"--rootdir={Path(pytest_multiitem.__file__).parents[1]}",
        f"--multiitem-accepting={directory}", f"--multiitem-events={events}",
        f"--multiitem-origins={json.dumps(_origins(settings))}",
        "-k", f"not ({' or '.join(without)})", *given,
    ]  # fmt: skip


def _is_given(settings: Settings, option: Option) -> bool:
    value = getattr(settings, option.name)
    return value not in (None, (), False) and (value != option.default or is_stated(settings, option.name))


def _origins(settings: Settings) -> dict[str, str]:
    """By what is told to the suites: where it comes from, which is neither their command line nor their environment.
    What nobody has given is stated to them all the same, so it is no default of theirs."""
    return {
        option.name: settings.origins[option.name]
        if is_stated(settings, option.name)
        else f"this acceptance ({settings.origins.get(option.name, 'default')})"
        for option in OPTIONS
        if option.name != "results_dir" and _is_given(settings, option)
    }


def _environment(settings: Settings) -> dict[str, str]:
    """That of the suites: this one, without what would make another run of it, and with the servers' addresses."""
    kept = {name: value for name, value in os.environ.items() if name not in _OTHERS}
    for name in ("multi_url", "serial_url"):
        address, variable = getattr(settings, name), OPTION_OF[name].variable
        kept.pop(variable, None)
        if address is not None:
            kept[variable] = with_login(address)
    return kept


@dataclass
class Suites:
    """One run of the suites. ``directory``: the acceptance's, where its results stand as those of any run."""

    settings: Settings
    directory: Path
    without: Sequence[str]
    plugins: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _events: IO[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        """Start it. In a session of its own: a Ctrl-C at the terminal is this command's, which passes it on once."""
        (self.directory / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        reading, writing = os.pipe()
        try:
            with (self.directory / _LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    command_line(self.settings, self.directory, without=self.without, events=writing,
                                 plugins=self.plugins),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    pass_fds=(writing,), start_new_session=True, env=_environment(self.settings),
                )  # fmt: skip
        finally:
            os.close(writing)
        self._events = os.fdopen(reading, "rb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.interrupt()
        if self._events is not None:
            self._events.close()
        (self.directory / "pytest.ini").unlink(missing_ok=True)

    def heard(self) -> Iterator[Mapping[str, Any]]:
        """What it says while it runs, until it has ended."""
        assert self._events is not None
        for line in self._events:
            with suppress(ValueError):
                yield json.loads(line)

    def interrupt(self) -> None:
        """End it early, as Ctrl-C does, and wait until it has written what there is; killed where it does not."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def result(self) -> Matrix:
        """Its records, once it has ended. Raises UsageError where it could not begin, MultiItemError where it has left
        nothing; both with its own words."""
        assert self._process is not None
        status = self._process.wait()
        path = self.directory / store.MATRIX
        if path.is_file():
            return store.read_matrix(path)
        said = (self.directory / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
        if status == _USAGE_ERROR and errors:
            raise UsageError(errors[0])
        last = next((line for line in reversed(said) if line.strip()), "it said nothing")
        raise MultiItemError(f"the gates have left no results (exit status {status}): {last}; see {_LOG}")


def attached(settings: Settings, multi: Address, serial: Address) -> Settings:
    """The settings of the suites for a pair that the acceptance has started, and that runs at these addresses: nobody
    else's work is disturbed by requests at the same time."""
    changed: dict[str, Any] = {"multi_url": multi, "serial_url": serial, "mixed_traffic": True}
    changed["max_in_flight"] = settings.max_in_flight or _IN_FLIGHT
    origins = {name: "this acceptance" for name in ("engine", *changed) if not is_stated(settings, name)}
    return replace(settings, **changed, origins={**settings.origins, "engine": "this acceptance", **origins})
