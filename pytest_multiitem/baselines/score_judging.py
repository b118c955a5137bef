"""The verdict on a run's scores against saved ones: what cannot be compared is never a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pytest_multiitem.adapters.base import model_name
from pytest_multiitem.baselines.golden import GoldenScores, ScoredRequest, ScoredServer
from pytest_multiitem.gates.gate import larger_floor
from pytest_multiitem.gates.golden import SCORES_AS_SAVED
from pytest_multiitem.results.details import AgainstScores, MovedItem, ScoreVerdict
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.results.verdict import Verdict, rank, worst
from pytest_multiitem.scoring.limits import placed_limit, row_differences

#: Facts that must be the same for two scores to be of the same thing.
_SAME = {
    "engine": "engine", "backend": "backend", "dtype": "dtype", "semantics": "semantics", "delimiter": "delimiter",
    "server_chunk_size": "server chunk size", "mask_attested": "mask executed",
}  # fmt: skip
#: Requests that are named in a reason, and items that are named of each.
_NAMED, _WORST = 3, 3
#: Of a server that cannot say what it executed.
_NO_MASK = (None, "unattested", "none")


def judge(
    saved: GoldenScores, run: GoldenScores, *, name: str | None = None, earlier: Iterable[GoldenScores] = ()
) -> GateRecord:
    """Judge every saved request; the details say which of its items moved, and by how much.

    FAIL: an item moved by more than rounding, or a request is missing or of something else. INCONCLUSIVE: a server
    does not repeat itself that closely, or does not tell what it is. PASS: none of that. ``name``: what the saved
    scores are called here. ``earlier``: those of other runs, for since when the scores are others.
    """
    cells = [judged(each, saved, run) for each in saved.requests]
    verdict = worst((cell.verdict for cell in cells), of_none=Verdict.FAIL)
    moved = [cell for cell in cells if cell.moved]
    largest = max((cell.largest for cell in cells if cell.largest is not None), default=None)
    since = since_when(saved, run, {cell.key for cell in moved}, earlier) if moved else None
    if not run.requests:
        verdict, reason = Verdict.FAIL, f"nothing was scored; {saved.name} has {len(saved.requests)} requests"
        reason += "".join(f"; {server}: {why.splitlines()[0]}" for server, why in [*run.missing.items()][:1] if why)
    elif verdict is Verdict.PASS:
        items = sum(cell.items for cell in cells)
        reason = f"none of {items} items of {len(cells)} requests moved: at most {largest or 0.0:.3g} away from saved"
    else:
        reason = _summary([cell for cell in cells if cell.verdict is verdict], len(cells))
        if since is not None and verdict is Verdict.FAIL:
            reason += f"; {since}"
    details = AgainstScores(
        scores=name or saved.name,
        saved_at_utc=saved.saved_at_utc,
        workload_sha256=saved.workload_sha256,
        requests=cells,
        since=since,
        notes=[*_notes(saved, run)],
    )
    return GateRecord(
        gate=SCORES_AS_SAVED.name,
        verdict=verdict,
        reason=reason,
        relation=SCORES_AS_SAVED.relation,
        value=largest,
        noise_floor=larger_floor(*(cell.noise_floor for cell in cells)),
        samples={
            "requests": len(cells),
            "items": sum(cell.items for cell in cells),
            "moved": sum(cell.moved for cell in cells),
        },
        details=details,
    )


def judged(old: ScoredRequest, saved: GoldenScores, run: GoldenScores) -> ScoreVerdict:
    """The verdict on one saved request."""
    same = [new for new in run.requests if new.key == old.key]
    items = len(old.scores)
    if not same:
        why = run.missing.get(old.server) or (
            "the run's workload has no such request" if old.server in run.servers else "the run has no such server"
        )
        return _failed(old, f"missing in this run: {why.splitlines()[0]}")
    if len(same) > 1:
        return _failed(old, f"{len(same)} requests of this run have this name")
    (new,) = same
    was, now = saved.servers[old.server], run.servers[new.server]
    other = [*_other_request(old, new), *_other_server(was, now)]
    if other:
        return _failed(old, f"not the same thing: {'; '.join(other)}")
    if now.attestation_problem is not None:
        return _failed(old, now.attestation_problem)
    before, after = (np.asarray(each.scores, dtype=np.float64) for each in (old, new))
    if before.shape != after.shape or not np.isfinite(after).all():
        return _failed(old, f"scores of shape {list(after.shape)}, or no finite ones; expected {list(before.shape)}")
    limit = max(placed_limit(was.dtype), placed_limit(now.dtype))
    differences = row_differences(before, after, apply_softmax=True)
    order = np.argsort(-differences, kind="stable")[:_WORST]
    cell = ScoreVerdict(
        key=old.key,
        verdict=Verdict.PASS,
        reason="",
        items=items,
        moved=int((differences > limit).sum()),
        largest=float(differences.max()),
        mean=float(differences.mean()),
        limit=limit,
        noise_floor=larger_floor(old.noise_floor, new.noise_floor),
        doubt="; ".join(_unknown(was, now)) or None,
        worst=[
            MovedItem(index=int(at), difference=float(differences[at]), was=before[at].tolist(), now=after[at].tolist())
            for at in order
            if differences[at] > 0
        ],
    )
    cell.verdict, cell.reason = verdict_of(cell)
    return cell


def verdict_of(cell: ScoreVerdict) -> tuple[Verdict, str]:
    """What the figures of a request come to, and why."""
    if cell.largest is None or cell.limit is None:
        return Verdict.FAIL, cell.reason
    floor = cell.noise_floor
    if cell.moved:
        if floor is not None and not floor <= cell.limit and cell.largest <= 2 * floor:
            return Verdict.INCONCLUSIVE, f"replays alone are {floor:.3g} apart: {cell.largest:.3g} tells nothing"
        at = f", most item {cell.worst[0].index} by {cell.worst[0].difference:.3g}" if cell.worst else ""
        return Verdict.FAIL, f"{cell.moved} of {cell.items} items moved by more than {cell.limit:g}{at}"
    if floor is None or not floor <= cell.limit:
        noise = "how far replays are apart is not known" if floor is None else f"replays alone are {floor:.3g} apart"
        return Verdict.INCONCLUSIVE, f"{noise}, and the limit is {cell.limit:g}"
    if cell.doubt is not None:
        return Verdict.INCONCLUSIVE, cell.doubt
    return Verdict.PASS, f"at most {cell.largest:.3g} away from saved"


def evidence_lines(record: GateRecord) -> list[str]:
    """Of the record of a judgement: every request that is no PASS with its worst items, and every note."""
    assert isinstance(record.details, AgainstScores)
    lines = []
    for cell in sorted(record.details.requests, key=lambda cell: rank(cell.verdict)):
        if cell.verdict is not Verdict.PASS:
            lines.append(f"{cell.verdict.value} {cell.key}: {cell.reason}")
            lines += [f"  item {item.index}: {_row(item.was)} was saved, {_row(item.now)} now" for item in cell.worst]
    since = [record.details.since] if record.details.since is not None else []
    return [*lines, *since, *(f"note: {note}" for note in record.details.notes)]


def since_when(saved: GoldenScores, run: GoldenScores, moved: set[str], earlier: Iterable[GoldenScores]) -> str:
    """Between which two runs, and so which versions, the scores of requests moved: by the ``earlier`` ones that scored
    them all, else by the saved ones and this run."""
    last, first = saved, run
    between = [each for each in earlier if saved.saved_at_utc <= each.saved_at_utc <= run.saved_at_utc]
    for each in sorted(between, key=lambda each: (each.saved_at_utc, each.run_id or "")):
        if each.run_id in (saved.run_id, run.run_id):
            continue
        cells = [judged(old, saved, each) for old in saved.requests if old.key in moved]
        if any(cell.largest is None for cell in cells):
            continue
        if any(cell.moved for cell in cells):
            first = each
            break
        last = each
    servers = {key.rpartition(" · ")[0] for key in moved}
    was, now = (_versions(each, servers) for each in (last, first))
    change = f"{was} then, {now} now" if was != now else f"with the same versions ({now})"
    return f"as saved last seen in run {last.run_id or '-'}, others first seen in run {first.run_id or '-'}: {change}"


def _versions(golden: GoldenScores, servers: Iterable[str]) -> str:
    """The engines' versions, and those of what computes for them."""
    told = [golden.servers[name] for name in sorted(servers) if name in golden.servers]
    engines = dict.fromkeys(f"{each.engine or 'engine'} {each.version or 'of unknown version'}" for each in told)
    around = [f"{name} {golden.versions[name]}" for name in ("torch", "jax", "jaxlib") if name in golden.versions]
    return ", ".join([*engines, *around])


def _failed(old: ScoredRequest, reason: str) -> ScoreVerdict:
    return ScoreVerdict(key=old.key, verdict=Verdict.FAIL, reason=reason, items=len(old.scores))


def _other_request(old: ScoredRequest, new: ScoredRequest) -> Iterator[str]:
    if old.labels != new.labels:
        yield f"labels {_ids(old.labels)} are saved, {_ids(new.labels)} in this run"
    elif old.request_sha256 != new.request_sha256:
        yield f"another workload: the request is {old.request_sha256[:12]}… as saved, {new.request_sha256[:12]}… now"


def _other_server(was: ScoredServer, now: ScoredServer) -> Iterator[str]:
    for name, word in _SAME.items():
        before, after = getattr(was, name), getattr(now, name)
        if before != after and None not in (before, after) and not _is_untold(name, before, after):
            yield f"{word} {before} as saved, {after} in this run"
    if was.model and now.model and model_name(was.model) != model_name(now.model):
        yield f"model {model_name(was.model)} as saved, {model_name(now.model)} in this run"


def _unknown(was: ScoredServer, now: ScoredServer) -> Iterator[str]:
    """What only one of two servers tells."""
    for name, word in {**_SAME, "model": "model"}.items():
        before, after = getattr(was, name), getattr(now, name)
        untold = _is_untold(name, before, after)
        if (before is None) != (after is None) or (untold and before != after):
            side = "the saved server" if before in _NO_MASK else "this run's server"
            yield f"{word} not known of {side}"


def _is_untold(name: str, *words: object) -> bool:
    return name == "mask_attested" and any(word in _NO_MASK for word in words)


def _notes(saved: GoldenScores, run: GoldenScores) -> Iterator[str]:
    known = {each.key for each in saved.requests}
    more = [each.key for each in run.requests if each.key not in known]
    if more:
        yield f"{len(more)} requests of this run are not among the saved ones, such as {more[0]}"
    for what, old, new in (("versions", saved.versions, run.versions), ("settings", saved.settings, run.settings)):
        other = [f"{name} {old[name]} → {new[name]}" for name in old if name in new and old[name] != new[name]]
        if other:
            yield f"other {what}: {', '.join(other)}"
    facts = [name for name in ("architecture", "processor") if saved.machine.get(name) != run.machine.get(name)]
    if facts:
        yield f"another machine: {', '.join(f'{saved.machine.get(n)} → {run.machine.get(n)}' for n in facts)}"


def _summary(cells: Sequence[ScoreVerdict], total: int) -> str:
    by_reason: dict[str, list[str]] = {}
    for cell in cells:
        by_reason.setdefault(cell.reason, []).append(cell.key)
    parts = []
    for reason, keys in [*by_reason.items()][:_NAMED]:
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        parts.append(f"{', '.join(keys[:_NAMED])}{more}: {reason}")
    left = len(by_reason) - _NAMED
    return f"{len(cells)} of {total} requests: {'; '.join(parts)}" + (f"; and {left} more" if left > 0 else "")


def _row(scores: Sequence[float]) -> str:
    return "[" + ", ".join(f"{score:.6g}" for score in scores[:4]) + (", …]" if len(scores) > 4 else "]")


def _ids(labels: Sequence[int]) -> str:
    return ",".join(map(str, labels[:8])) + (",…" if len(labels) > 8 else "")
