"""What a gate measured beyond its value: a union of records, told apart by ``kind``, one kind of evidence each.

Keys by N, by relation, by check are data; everything else is a field. A number that is not finite is null in a file.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pytest_multiitem.results.verdict import Verdict

Number = float | None


def _kind(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Notes(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="kind", tag=_kind):
    """Nothing that this package knows. ``entries``: what a project's own gate, or its hook, adds to any record."""

    entries: dict[str, str | int | float | bool | None] = {}


class MutatedItem(msgspec.Struct, kw_only=True):
    """One mutation of one item. ``own_change``: of the mutated item's own score."""

    case: str
    mutation: str
    mutated_index: int
    max_abs_diff_unchanged: Number
    mean_abs_diff_unchanged: Number
    changed_items: int
    own_change: Number


class Isolation(Notes, kw_only=True):
    """The worst mutations, and what shows that a leak could have been seen."""

    worst: list[MutatedItem]
    mutated_item_change_max: Number
    leak_visibility_median: Number


class SeenPairs(msgspec.Struct, kw_only=True):
    """Who sees whom in one request whose items are mutated in turn. ``lengths`` [N]: of its items, in tokens. ``moved``
    [N][N]: how far the score of the item of the column moved when the item of the row changed; of a server that
    isolates its items all but the diagonal is 0. Null where it was no number."""

    case: str
    lengths: list[int]
    moved: list[list[Number]]


class ContentIsolation(Notes, kw_only=True):
    """The worst mutations at the same shapes. ``allowed``: what replays of a server that does not repeat itself allow;
    0 of one that does. ``pairs``: of the request whose every item was mutated, where there is one."""

    worst: list[MutatedItem]
    allowed: Number
    mutated_item_change_max: Number
    pairs: SeenPairs | None = None


class LengthIsolation(Notes, kw_only=True):
    """``changes``: by the tokens that one item grew by, the largest change of an untouched item. The floors: of the
    precision, of quiet replays, of the serial server's batches, and of the side of the changed item that moved less;
    the largest is the shape floor. ``p_growth``, ``p_direction``: permutation tests of whether changes grow with the
    length, and of whether scores go one way with it. ``trend``: how far they do, to the longest. ``leak_upper_95``: the
    upper bound of that. ``p_again``: of both tests on a second request, where the first was suspicious."""

    changes: dict[str, Number]
    precision_floor: Number
    replay_floor: Number
    serial_batch_floor: Number
    side_floor: Number
    p_growth: Number
    p_direction: Number
    trend: Number
    leak_upper_95: Number
    p_again: Number = None


class WorstItem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The item that differs most; without a case nothing was compared."""

    max_abs_diff: Number
    case: str | None = None
    item: int | None = None


class ScoredItems(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Items of one request, packed and alone. ``items`` [M]: which, ascending; of a large request those that differ
    most, and some between. ``packed``, ``serial`` [M]: the score of the label whose scores are furthest apart.
    ``texts``: by item, what the ones that differ most say, where the request was text."""

    case: str
    items: list[int]
    packed: list[Number]
    serial: list[Number]
    texts: dict[str, str] = {}


class Equivalence(Notes, kw_only=True):
    """``query_only_max_abs_diff``: packed scores against plain ``query + item``, which no gate judges. ``scored``: the
    scores themselves."""

    mean_abs_diff: Number
    worst: WorstItem
    query_only_max_abs_diff: Number
    leak_visibility_median: Number
    scored: list[ScoredItems] = []


class EquivalenceAtFloor(Notes, kw_only=True):
    """``limit``: what the difference is judged by, and ``basis``: where that comes from. The floors: of quiet replays
    on both sides, of the serial server's batches, and of packed shapes. ``mean_abs_diff``: over all scores."""

    limit: Number
    basis: str
    replay_floor: Number
    serial_batch_floor: Number
    shape_floor: Number
    mean_abs_diff: Number
    worst: WorstItem


class Semantics(Notes, kw_only=True):
    """``distances``: by semantics, how far packed scores are from its serial reference."""

    distances: dict[str, Number]
    nearest: str
    not_compared: dict[str, str] = {}


class TrafficChange(msgspec.Struct, kw_only=True):
    """How far a request's scores moved in one round, ``what``: among others, or after them."""

    case: str
    round: int
    what: str
    max_abs_diff: Number


class RequestIsolation(Notes, kw_only=True):
    """The largest changes."""

    worst: list[TrafficChange]


class EveryScore(Notes, kw_only=True):
    """``contradictions``: rows that differ from the same item elsewhere; ``wrong``: the worst ones, in words.
    ``unstable``: by how much a request that is sent again gives other scores, where that explains one.
    ``serial_max_abs_diff``: over items that the serial server scored as well."""

    contradictions: int
    unstable: Number
    serial_max_abs_diff: Number
    wrong: list[str] = []


class Axis(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One way in which requests differ in size. ``tried``: its rungs; ``largest``: difference between packed rows of
    the same item; ``serial_largest``: to the serial server. ``refused``: rungs that the server did not take, or that
    were not sent, with the reason. ``not_tried``: rungs that were left out."""

    tried: list[str] = []
    largest: Number = None
    serial_largest: Number = None
    refused: dict[str, str] = {}
    not_tried: str | None = None


class Ladder(Notes, kw_only=True):
    """By axis, what was tried, at which effort."""

    effort: str
    axes: dict[str, Axis]


class Labels(Notes, kw_only=True):
    """By set of labels, how far the packed server's probabilities are from the serial server's; None where the engine
    takes no softmax over as many."""

    differences: dict[str, Number]
    vocab_size: int


class Stage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One kind of traffic. ``requests``: answers compared; ``largest``: difference from the same request alone."""

    requests: int
    largest: Number


class Traffic(Notes, kw_only=True):
    """By stage, what was compared; ``not_tried``: stages that were left out, with the reason."""

    stages: dict[str, Stage]
    not_tried: dict[str, str] = {}


class RequestContract(Notes, kw_only=True):
    """By check, what was seen, or why it was not made."""

    broken: dict[str, str]
    held: dict[str, str]
    not_made: dict[str, str]


class Judged(msgspec.Struct, kw_only=True):
    """A verdict with its value."""

    verdict: str
    value: Number


class NegativeControl(Notes, kw_only=True):
    """``gates``: what each said of a server without isolation."""

    case: str
    semantics: str
    gates: dict[str, Judged]


class RelationSeen(msgspec.Struct, kw_only=True):
    """Examples of one relation, and their largest difference. ``exact``: it allows none."""

    examples: int
    worst: Number
    exact: bool


class ViolatedRelation(msgspec.Struct, kw_only=True):
    """A counterexample in short; its file holds the requests."""

    relation: str
    base: str
    difference: Number
    limit: Number


class Relations(Notes, kw_only=True):
    """``over_limit``: requests that the server refused as too long. ``rounding``: the largest difference, by relation,
    that changed lengths alone may make. ``no_reference``: why the serial server could not be asked. ``counterexample``:
    of the relation that was violated first; ``further``: of the others."""

    relations: dict[str, RelationSeen]
    over_limit: int
    dismissed_as_noise: int
    not_reproduced: Number
    rounding: dict[str, Number] = {}
    no_reference: str | None = None
    counterexample: ViolatedRelation | None = None
    further: list[ViolatedRelation] = []


class SideTimes(msgspec.Struct, kw_only=True):
    """Runs of N items on one side; a p95 of few runs is an interpolation and marked as one."""

    latencies_sec: list[float]
    p50_sec: Number
    p95_sec: Number
    p95_interpolated: bool
    items_per_sec_p50: Number
    items_per_sec_p95: Number


class SpeedPoint(msgspec.Struct, kw_only=True):
    """Both sides at one N. ``set_aside_sec``: a slow first block that is none of the runs.

    ``ceiling``: what packing saves at most at this shape, by the model's floating-point operations; the times of N
    calls hold more than operations, so a speed-up may exceed it. ``share_of_ceiling``: the speed-up over it.
    ``share_of_roofline``: operations that the scores need, over the packed side's p50, over the device's matrix rate.
    """

    serial: SideTimes
    multi: SideTimes
    speedup_vs_serial_p50: Number
    speedup_interval_95: tuple[Number, Number] | None
    set_aside_sec: tuple[float, float] | None
    doubts: list[str]
    ceiling: Number = None
    share_of_ceiling: Number = None
    share_of_roofline: Number = None


class Speedup(Notes, kw_only=True):
    """By N, the curve against the serial server, and against one that is tuned for serial calls.

    ``refused``, ``refused_vs_tuned_serial``: by N, why there is no point: a server took no request of that size.
    ``ceiling_basis``: what the ceilings are counted for, or why there is none. ``device_flops_per_sec``: the matrix
    rate of the packed server's device, null where it is not known. ``remarks``: what to think of the gated point.
    """

    performance: dict[str, SpeedPoint]
    performance_vs_tuned_serial: dict[str, SpeedPoint] | None = None
    refused: dict[str, str] = {}
    refused_vs_tuned_serial: dict[str, str] = {}
    ceiling_basis: str | None = None
    device_flops_per_sec: Number = None
    remarks: list[str] = []


class Agreement(Notes, kw_only=True):
    """Two servers, by their labels, and how far their scores are apart."""

    left: str
    right: str
    max_abs_diff: Number
    mean_abs_diff: Number


class PrefillExtend(Notes, kw_only=True):
    """``row_sum_error``: how far a row of scores is from adding up to 1."""

    row_sum_error: Number


class SegmentPath(Notes, kw_only=True):
    """``evidence``: what the verdict rests on. ``tpu``, ``gpu``: the compile gates' whole reports,
    themselves ``multiitem_tpu_check_v1`` and ``multiitem_gpu_check_v1`` documents."""

    evidence: list[str]
    device: str | None = None
    executed: str | None = None
    tpu: dict[str, Any] | None = None
    gpu: dict[str, Any] | None = None


class ComparedSides(Notes, kw_only=True):
    """``checks``: by client chunk size or side, what the gate said of it."""

    checks: dict[str, Judged]


class Cell(msgspec.Struct, kw_only=True):
    """What one gate said of one build. ``place``: which of several measurements of the same gate."""

    gate: str
    verdict: Verdict
    reason: str
    place: str | None = None
    value: Number = None
    limit: Number = None
    noise_floor: Number = None
    traffic_floor: Number = None
    leak_visibility: Number = None
    mask_attested: str | None = None
    seconds: float = 0.0


class BuildRecord(msgspec.Struct, kw_only=True):
    """One build: a fault at a strength on a backend, or a healthy one (``fault`` null). ``killed_by``: the gates that
    saw the fault. ``as_expected``: a healthy build passed every gate, a fault at its default strength was killed;
    null where nothing is expected (weaker strengths show how sensitive the gates are). ``variation``: of a healthy
    build, in which way it is another one. ``node``: of the cluster, where it was measured; null on this machine."""

    backend: str
    label: str
    fault: str | None = None
    strength: float | None = None
    variation: str | None = None
    circumstances: dict[str, Any] = {}
    cells: list[Cell] = []
    killed_by: list[str] = []
    as_expected: bool | None = None
    node: str | None = None
    seconds: float = 0.0


class Power(Notes, kw_only=True):
    """The builds of one fault, or a healthy one, with what every gate said of them."""

    builds: list[BuildRecord]


class TimingRatio(msgspec.Struct, kw_only=True):
    """One condition on one timing. ``ratio``: this run's metric over the baseline's. ``interval``: its 95 % one; null
    where there are too few runs for a verdict. ``note``: what to think of it."""

    condition: str
    metric: str
    ratio: float
    interval: tuple[float, float] | None
    verdict: Verdict
    note: str | None = None


class TimingVerdict(msgspec.Struct, kw_only=True):
    """One timing of the baseline. ``runs``: of the baseline and of this run. ``doubt``: why no ratio decides.
    ``seconds``: those of the baseline's runs, and of this run's, where there is a ratio."""

    key: str
    verdict: Verdict
    reason: str
    runs: tuple[int, int]
    ratios: list[TimingRatio] = []
    doubt: str | None = None
    seconds: tuple[list[float], list[float]] | None = None


class AgainstBaseline(Notes, kw_only=True):
    """Every timing of a baseline. ``notes``: what differs and does not decide."""

    baseline: str
    saved_at_utc: str
    conditions: list[str]
    cells: list[TimingVerdict]
    notes: list[str] = []


class MovedItem(msgspec.Struct, kw_only=True):
    """One item whose scores [K] moved. ``was``: as saved; ``now``: in this run."""

    index: int
    difference: float
    was: list[float]
    now: list[float]


class ScoreVerdict(msgspec.Struct, kw_only=True):
    """One saved request. ``moved``: of its ``items``, those further away than ``limit``. ``largest``, ``mean``: the
    difference over all items. ``noise_floor``: the larger of both runs'. ``doubt``: why no difference decides.
    ``worst``: the items that moved most."""

    key: str
    verdict: Verdict
    reason: str
    items: int
    moved: int = 0
    largest: Number = None
    mean: Number = None
    limit: Number = None
    noise_floor: Number = None
    doubt: str | None = None
    worst: list[MovedItem] = []


class AgainstScores(Notes, kw_only=True):
    """Every saved request. ``since``: what is known of when the scores moved; null where none did. ``notes``: what
    differs and does not decide."""

    scores: str
    saved_at_utc: str
    workload_sha256: str
    requests: list[ScoreVerdict]
    since: str | None = None
    notes: list[str] = []


Details = (
    Notes | EveryScore | Isolation | ContentIsolation | LengthIsolation | Equivalence | EquivalenceAtFloor | Semantics
    | RequestIsolation | RequestContract | NegativeControl | Ladder | Labels | Traffic | Relations | Speedup | Agreement
    | PrefillExtend | SegmentPath | ComparedSides | Power | AgainstBaseline | AgainstScores
)  # fmt: skip
