"""What every stage of a measured comparison works with: settings, workload, ledger, and what cannot be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.measuring.ledger import Ledger
from pytest_multiitem.comparison.measuring.sides import Side
from pytest_multiitem.comparison.records import Row, ScoreMatrix, Workload
from pytest_multiitem.errors import EngineUnavailable, MultiItemError, StorageError, UsageError
from pytest_multiitem.gates.comparison import COMPARISON_MEASURED
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.blame import is_nobodys


@dataclass
class Campaign:
    """One pass over a comparison's sides; what its ledger holds already is left out.

    ``failures``: sides whose server died for good, or gives no answers; ``errors``: those whose server, or whose
    baseline's, could not be had; ``not_run``: sides that cannot be here; each with the reason, by the side's label.
    """

    settings: Settings
    ledger: Ledger
    workload: Workload
    progress: ProgressBar
    failures: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.requests = self.workload.requests
        most = max(len(request.items_token_ids) for request in self.requests)
        self.sizes = sorted({min(size, most) for size in self.settings.compare_chunk_sizes}, reverse=True)
        self._attempt = 1 + len(list(self.ledger.directory.glob("servers/*")))

    @property
    def broken(self) -> dict[str, str]:
        """Both failures and errors."""
        return {**self.errors, **self.failures}

    def directory_of(self, side: Side) -> Path:
        """Where the servers of a side live, in this pass."""
        return self.ledger.directory / "servers" / str(self._attempt) / f"{side.backend}-{'-'.join(side.views)}"

    def succeeds(self, side: Side, action: Callable[[], object]) -> bool:
        """Whether an action with a side's server succeeds; why not is noted. Raises UsageError as the action does."""
        try:
            action()
        except EngineUnavailable as error:
            self.not_run[side.label] = str(error)
        except MultiItemError as error:
            if isinstance(error, UsageError) and not isinstance(error, StorageError):
                raise
            is_error = is_nobodys(error) or not COMPARISON_MEASURED.is_about(error.origin or side.profile.origin())
            (self.errors if is_error else self.failures)[side.label] = str(error)
            self.progress.print(f"{side.label}: {error}")
        else:
            return True
        return False

    def line(self, stage: str, size: int | None, side: Side, text: str) -> None:
        """Print what came of a stage for a side, at a client chunk size or as a whole."""
        self.progress.print(f"{stage:<7} {size or '':>4} {side.label:<29} {text}")

    def matrix(self, side: Side) -> ScoreMatrix:
        """A side's matrix, of the first of its views: they are alike."""
        return self.ledger.matrices[side.backend, side.views[0]]

    def known(self, side: Side, *, confirm: bool) -> dict[int, Row]:
        """The rows of a side by client chunk size."""
        return self.ledger.rows(side.backend, side.views[0], confirm=confirm)

    def best_swept(self, side: Side) -> int | None:
        """The client chunk size that the sweep chooses."""
        return guardrail.recommend(list(self.known(side, confirm=False).values()))

    def to_confirm(self, side: Side) -> list[int]:
        """The client chunk sizes that are measured again."""
        return guardrail.confirm_chunk_sizes(self.sizes, self.best_swept(side))

    def is_left(self, side: Side) -> bool:
        """Whether any row of a side is still to be measured."""
        swept, confirmed = self.known(side, confirm=False), self.known(side, confirm=True)
        return not (swept.keys() >= {*self.sizes} and confirmed.keys() >= {*self.to_confirm(side)})

    def runs(self, *, confirm: bool) -> int:
        """Timed runs of a row."""
        return self.settings.confirm_runs if confirm else self.settings.bench_timed_runs

    def cost(self, size: int, *, confirm: bool) -> float:
        """About how long a row takes, in tokens: what is computed for it, and a request's fixed part."""
        calls = sum(
            -(-len(request.items_token_ids) // size) * (len(request.query_token_ids) + 200) for request in self.requests
        )
        items = sum(len(item) + 1 for request in self.requests for item in request.items_token_ids)
        return float(self.runs(confirm=confirm) * (calls + items))

    def expected_cost(self, sides: Sequence[Side]) -> float:
        """That of all rows of all sides, if each confirms the three largest sizes."""
        likely = {*self.sizes[:3], *([1] if 1 in self.sizes else [])}
        swept = sum(self.cost(size, confirm=False) for size in self.sizes)
        return len(sides) * (swept + sum(self.cost(size, confirm=True) for size in likely))
