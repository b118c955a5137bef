"""An acceptance from its servers to its answer: the suites first, then the client chunk sizes, whatever ends it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_multiitem.acceptance import timing, words
from pytest_multiitem.acceptance.derive import derive
from pytest_multiitem.acceptance.other_runs import OTHER_RUNS
from pytest_multiitem.acceptance.pace import Pace
from pytest_multiitem.acceptance.plan import Plan, plan_of
from pytest_multiitem.acceptance.suites import Suites, attached
from pytest_multiitem.acceptance.timing import Timed
from pytest_multiitem.adapters.base import Engine, Profile
from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO
from pytest_multiitem.errors import EngineUnavailable, MultiItemError, UsageError
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.results import store
from pytest_multiitem.results.answer import ANSWER, Answer, Given
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.servers.errors import ServerError
from pytest_multiitem.settings.attached import check_addresses
from pytest_multiitem.settings.settings import OPTION_OF, Settings
from pytest_multiitem.targets.attach import Served, is_stated
from pytest_multiitem.targets.blame import is_nobodys
from pytest_multiitem.targets.run import SERIAL, Run
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import ScoreFailure

#: Where the servers' logs and the samples of the timing are, in the run's directory.
_OWN = "acceptance"
#: The mask of a server of one's own, where the user names none: the one that packing is fastest with.
_OWN_MASK = "segment"


def fitted(settings: Settings, engine: Engine) -> Settings:
    """The settings of an acceptance. Raises UsageError for what it cannot be of."""
    for name in OTHER_RUNS:
        if is_stated(settings, name):
            flag = OPTION_OF[name].short_flag
            raise UsageError(f"{flag} is of another measurement; multiitem accept does not take it")
    if settings.multi_url is None and settings.serial_url is None and not is_stated(settings, "backend"):
        raise UsageError(
            "which server? give --multi-url URL and --serial-url URL, or --url URL of one server that is to be both, "
            "or --backend NAME for a pair that is started here"
        )
    check_addresses(settings)
    if settings.multi_url is not None and settings.multi_url == settings.serial_url:
        raise UsageError(
            f"{settings.multi_url} is given both as --multi-url and as --serial-url; for one server that is to be both "
            "sides, give --url URL instead"
        )
    if settings.multi_url is None and settings.serial_url is not None:
        raise UsageError("--serial-url is the baseline; give the server that packs as well: --multi-url URL")
    if settings.multi_url is not None and settings.serial_url is None and not settings.one_server:
        raise UsageError(
            "--multi-url is the server that packs; give its baseline as well: --serial-url URL, or, for one server "
            "that is to be both, --url URL instead"
        )
    settings = engine.fit(settings)
    if settings.multi_url is None:
        if len(settings.backend) != 1:
            raise UsageError(f"--backend {settings.shown('backend')}: an acceptance is of one pair; name one backend")
        if len(settings.mask_impl) != 1 and is_stated(settings, "mask_impl"):
            raise UsageError(
                f"--mask-impl {settings.shown('mask_impl')}: an acceptance is of one server; name one mask"
            )
        if not is_stated(settings, "mask_impl"):
            mask = _OWN_MASK if _OWN_MASK in settings.mask_impl else settings.mask_impl[0]
            settings = replace(settings, mask_impl=(mask,))
    plan = plan_of(settings)
    chosen = {name: f"effort {settings.effort}" for name in plan.settings if not is_stated(settings, name)}
    return replace(settings, **plan.settings, origins={**settings.origins, **chosen})


@dataclass
class _Sides:
    """Both servers, and the user's requests, if there are any."""

    multi: Target
    serial: Target
    own: Sequence[Case] | None = None


@dataclass
class Acceptance:
    """One acceptance. ``directory``: of the run, which is made. ``plugins``: modules that the suites load as well.
    ``answer``: after `measure`, or what ended it."""

    settings: Settings
    engine: Engine
    directory: Path
    bar: ProgressBar
    plugins: Sequence[str] = ()
    given: Given = field(init=False)
    matrix: Matrix | None = field(default=None, init=False)
    _timed: Timed = field(default_factory=Timed, init=False)
    _plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        self._plan = plan_of(self.settings)
        self.given = Given(
            effort=self.settings.effort,
            one_server=self.settings.one_server,
            own_traffic=self.settings.workload is not None,
            guardrail_ratio=GUARDRAIL_RATIO,
            not_timed=words.NOT_REACHED,
        )

    def measure(self) -> None:
        """Measure what the plan holds. Raises UsageError where it could not begin; what goes wrong later is in the
        answer. What ends it early, KeyboardInterrupt for one, passes through, and what there is is kept."""
        store.make_run_dir(self.directory)
        run = Run(self.settings, self.directory / _OWN, engine=self.engine, owner=True, process="main")
        pace = Pace(self._plan, self.bar)
        with closing(run):
            sides = self._sides(run, pace)
            try:
                self._gates(sides, pace)
                if sides is not None:
                    self._sizes(sides, pace)
            except UsageError:
                raise
            except MultiItemError as error:
                self.given.problem = str(error).splitlines()[0]

    def _sides(self, run: Run, pace: Pace) -> _Sides | None:
        """Both sides, ready, and the user's requests; None where one that runs answers wrongly, which the gates will
        say. Raises UsageError where they cannot be had."""
        settings = self.settings
        if settings.multi_url is not None:
            pace.servers(f"asking {settings.multi_url}")
            try:
                run.attach()
            except UsageError:
                shutil.rmtree(self.directory, ignore_errors=True)  # nothing is in it
                raise
            profiles = Profile("multi", ATTACHED, self._mask, 0, Semantics(settings.semantics)), SERIAL
        else:
            backend = settings.backend[0]
            pace.servers(f"starting two {backend} servers")
            chunk = settings.server_chunk_size[0]
            multi = Profile("multi", backend, self._mask, chunk, Semantics(settings.semantics))
            profiles = multi, Profile("serial", backend)
            run.plan(reversed(profiles))
        try:
            sides = _Sides(run.target(profiles[0]), run.target(profiles[1]))
            sides.own = run.cases(sides.multi) if settings.workload is not None else None
        except UsageError:
            raise
        except (ScoreFailure, ServerError) as error:
            if settings.multi_url is None or is_nobodys(error):
                raise UsageError(str(error).splitlines()[0]) from None
            self.given.not_timed = str(error).splitlines()[0]
            return None
        except EngineUnavailable as error:
            raise UsageError(str(error)) from None
        self.given.requests = None if sides.own is None else len(sides.own)
        self.given.delimiter = sides.multi.delimiter
        self.given.delimiter_told = sides.multi.owned or Served.read(sides.multi.info).delimiter is not None
        return sides

    @property
    def _mask(self) -> str:
        settings = self.settings
        is_default = settings.multi_url is not None and settings.origins["mask_impl"] == "default"
        return ATTACHED if is_default else settings.mask_impl[0]

    def _gates(self, sides: _Sides | None, pace: Pace) -> None:
        """Run the suites on the servers. Raises UsageError and MultiItemError as `Suites.result`."""
        settings = self.settings
        if sides is not None and sides.multi.owned:
            settings = attached(settings, sides.multi.client.address, sides.serial.client.address)
        suites = Suites(settings, self.directory, self._plan.without, self.plugins)
        try:
            with suites:
                for event in suites.heard():
                    pace.heard(event)
                self.matrix = suites.result()
        finally:
            self._keep_matrix()

    def _keep_matrix(self) -> None:
        """Take the records that are on disk, also those of suites that were ended early."""
        path = self.directory / store.MATRIX
        if path.is_file():
            self.given.matrix_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            with suppress(UsageError):
                self.matrix = store.read_matrix(path)

    def _sizes(self, sides: _Sides, pace: Pace) -> None:
        """Time the client chunk sizes."""
        multi, serial = sides.multi, sides.serial
        pace.timing()
        for target in (multi, serial):
            target.answers.drop()  # those of getting ready are the gates' affair, and warm-ups are judged here
        cases = timing.requests_of(self.settings, self._plan, multi, sides.own)
        self.given.not_timed = "the run was ended while it was timed"
        timing.measure(self.settings, self._plan, multi, serial, cases, self._timed, pace.timed)
        self.given.not_timed = self._timed.not_timed

    def answer(self, interrupted_by: str | None = None) -> Answer:
        """What it comes to so far."""
        given = self.given
        given.timed, given.rows, given.interrupted_by = self._timed.requests, self._timed.rows, interrupted_by
        if not given.timed:
            given.rows = []
        return derive(self.matrix, given)

    def write(self, answer: Answer) -> Path:
        """Write the answer beside the run's records. Raises StorageError."""
        path = self.directory / ANSWER
        store.write_record(path, answer)
        return path
