"""One run of the benchmark: servers up, everything measured, results written as they come."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.engine_speed import exactness, growth, sides, surroundings
from benchmarks.engine_speed.page import page
from benchmarks.engine_speed.shapes import LABELS, Requests, Shape
from benchmarks.engine_speed.sides import Side, Started, Wanted
from benchmarks.engine_speed.targets import BACKENDS, judge
from benchmarks.engine_speed.timing import Effort, Timed, measure_shape, ratio, warm_up
from pytest_multiitem.bench import flops
from pytest_multiitem.bench.statistics import p50
from pytest_multiitem.engine.checkpoint import CheckpointSpec, tiny_checkpoint, write_checkpoint
from pytest_multiitem.engine.config import ModelConfig, read_config
from pytest_multiitem.errors import EngineUnavailable, MultiItemError
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.store import utc_now

#: Adding a field keeps the version; removing or changing one raises it.
SCHEMA: Final = "multiitem_engine_speed_v1"
PARTS: Final = (*sides.OWN_PATHS, "transformers", "sglang", "isolation", "growth")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. ``given``: the options as they were typed, for the results."""

    backends: tuple[str, ...]
    parts: tuple[str, ...]
    shapes: tuple[Shape, ...]
    growth_items: tuple[Shape, ...]
    growth_query: tuple[Shape, ...]
    effort: Effort
    growth_effort: Effort
    extend_batch: int
    sglang_python: Path
    given: tuple[str, ...] = ()


@dataclass
class Run:
    """A plan, the directory that its results go to, and who is told how it goes on."""

    plan: Plan
    directory: Path
    say: Callable[[str], None]
    results: dict[str, Any] = field(default_factory=dict)

    def measure(self) -> dict[str, Any]:
        """Everything that was asked for; the results, which are also in ``engine-speed.json`` and ``.md``.

        What cannot run is in ``missing`` with the reason. Raises MultiItemError where nothing can.
        """
        begin = time.monotonic()
        model = tiny_checkpoint()
        config = read_config(model)
        self.results = {
            "schema": SCHEMA,
            "complete": False,
            "started_at_utc": utc_now(),
            "finished_at_utc": None,
            "seconds": None,
            "options": list(self.plan.given),
            "git": surroundings.git_state(),
            "machine": machine_info(),
            "instruction_set": surroundings.instruction_set(),
            "versions": package_versions(),
            "other_environments": {},
            "load_average_before": list(os.getloadavg()),
            "thread_variables": surroundings.thread_variables(),
            "checkpoint": surroundings.checkpoint_facts(model, config),
            "matrix_rates": [],
            "missing": {},
            "shapes": [],
            "isolation": [],
            "targets": [],
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._measure_all(model, config)
            self.results["complete"] = True
        finally:  # an interrupted run leaves what it has measured, and says that it was interrupted
            self._derive(config)
            self._write(begin)
        return self.results

    def _measure_all(self, model: Path, config: ModelConfig) -> None:
        """The rates before and after, and between them everything that needs servers."""
        backends = self._matrix_rates("before", self.plan.backends)
        with tempfile.TemporaryDirectory(prefix="engine-speed-") as scratch:
            wanted = self._wanted(backends, model, Path(scratch))
            requests = Requests(config.vocab_size)
            self._compile_ahead([one for one in wanted if one.profile.backend == "jax"], requests, Path(scratch))
            with sides.started(wanted, Path(scratch) / "run", self.say) as started:
                self.results["missing"].update(started.missing)
                self._measure(started, requests, config)
        self._matrix_rates("after", backends)

    def _compile_ahead(self, wanted: Sequence[Wanted], requests: Requests, scratch: Path) -> None:
        """Let JAX compile what is measured, in servers of their own, and keep it on disk: on a machine's first run the
        compiler's memory would count as the engine's."""
        if not wanted or not set(sides.OWN_PATHS) & set(self.plan.parts):
            return
        self.say("jax: compiling ahead")
        with sides.started(wanted, scratch / "ahead", lambda line: None) as started:
            for side in started.sides:
                if _part(side) in self.plan.parts:
                    for shape in filter(side.fits, self.plan.shapes):
                        with suppress(MultiItemError):  # it will be told where it is measured
                            warm_up(side, shape, requests.case(shape, 0))

    def _matrix_rates(self, when: str, backends: Sequence[str]) -> list[str]:
        """Measure the rate of every backend; those that can run."""
        found = []
        for backend in backends:
            try:
                rate = surroundings.matrix_rate(backend)
            except EngineUnavailable as error:
                self.results["missing"][backend] = str(error)
                self.say(f"{backend}: NOT_RUN: {error}")
                continue
            self.results["matrix_rates"].append({"when": f"{when} the servers", **rate})
            self.say(f"{backend}: GEMM {rate['flops_per_sec'] / 1e9:,.1f} GFLOP/s {when} the servers")
            found.append(backend)
        return found

    def _wanted(self, backends: Sequence[str], model: Path, scratch: Path) -> list[Wanted]:
        parts, wanted = self.plan.parts, []
        paths = [path for path in sides.OWN_PATHS if path in parts]
        if "segment" not in paths and {"isolation", "growth"} & set(parts):
            paths.insert(0, "segment")
        for backend in backends:
            try:
                wanted += sides.own(backend, paths, model=model, extend_batch=self.plan.extend_batch)
            except EngineUnavailable as error:
                self.results["missing"][backend] = str(error)
        if "transformers" in parts:
            wanted += sides.transformers(model)
        if "sglang" in parts:
            # sglang refuses label ids that the tokenizer does not name; the weights are the same, being seeded.
            complete = scratch / "tiny-qwen3"
            try:
                write_checkpoint(complete, CheckpointSpec(), full_tokenizer=True)
                ours = self.results["checkpoint"]["weights_sha256"]
                theirs = surroundings.checkpoint_facts(complete, read_config(complete))["weights_sha256"]
                if ours != theirs:
                    raise EngineUnavailable("the checkpoint for sglang has other weights")
                found = sides.sglang(self.plan.sglang_python, complete)
            except EngineUnavailable as error:
                self.results["missing"]["sglang"] = str(error)
                self.say(f"sglang: NOT_RUN: {error}")
            else:
                engine, settings = found[0].engine, found[0].settings
                assert engine is not None
                assert settings is not None
                self.results["other_environments"]["sglang"] = dict(engine.packages(settings))
                wanted += found
        return wanted

    def _measure(self, started: Started, requests: Requests, config: ModelConfig) -> None:
        plan, segments = self.plan, [side for side in started.sides if side.key == "segment"]
        timed_parts = [side for side in started.sides if _part(side) in plan.parts]
        if timed_parts:
            for shape in plan.shapes:
                here = [side for side in timed_parts if side.fits(shape)]
                self.say(f"{shape.name}: warming up {len(here)} ways to score it")
                timed = measure_shape(here, shape, requests, plan.effort, self.say)
                self.results["shapes"].append(_entry(shape, timed, config))
                for line in _summary(self.results["shapes"][-1]):
                    self.say(line)
                self._write()
        if "isolation" in plan.parts:
            for side in segments:
                for shape in plan.shapes:
                    self.results["isolation"].append(_isolation(side, shape, requests))
            self.say("isolation: " + ", ".join(_isolated(one) for one in self.results["isolation"]))
            self._write()
        if "growth" in plan.parts and segments:
            for name, shapes in (("growth_items", plan.growth_items), ("growth_query", plan.growth_query)):
                if shapes:
                    points = growth.measure_growth(segments, shapes, requests, plan.growth_effort, self.say)
                    self.results[name] = {"backends": [side.backend for side in segments], "points": points}
                    self._write()

    def _derive(self, config: ModelConfig) -> None:
        """What follows from the measurements: shares of the rate, the fit, the targets."""
        rates: dict[str, float] = {}
        for rate in self.results["matrix_rates"]:
            rates[rate["backend"]] = max(rates.get(rate["backend"], 0.0), rate["flops_per_sec"])
        for entry in self.results["shapes"]:
            for side in entry["sides"]:
                if "failure" not in side:
                    _add_shares(side, rates)
        for name in ("growth_items", "growth_query"):
            for point in self.results.get(name, {}).get("points", ()):
                if "failure" not in point and point["backend"] in rates:
                    lengths = [point["item_tokens"]] * point["items"]
                    work = flops.packed(config, point["query_tokens"], lengths, labels=len(LABELS))
                    point["share_needed"] = work.total / point["p50_sec"] / rates[point["backend"]]
        items = self.results.get("growth_items")
        if items:
            items["fits"] = {}
            for backend in items["backends"]:
                points = [p for p in items["points"] if p["backend"] == backend and "failure" not in p]
                if len(points) == len([p for p in items["points"] if p["backend"] == backend]) >= 3:
                    fit = growth.linear_fit([p["items"] for p in points], [p["p50_sec"] for p in points])
                    items["fits"][backend] = fit
        self.results["targets"] = judge(self.results)

    def _write(self, begin: float | None = None) -> None:
        """The results so far as JSON; with the moment at which the run began, as a page as well."""
        self.results["finished_at_utc"] = utc_now()
        if begin is not None:
            self.results["seconds"] = time.monotonic() - begin
            (self.directory / "engine-speed.md").write_text(page(self.results), encoding="utf-8")
        encoded = msgspec.json.format(msgspec.json.encode(self.results), indent=1)
        (self.directory / "engine-speed.json").write_bytes(encoded + b"\n")


def _part(side: Side) -> str:
    """The option's name of what a side belongs to."""
    if side.backend in ("transformers", "sglang"):
        return side.backend
    return next(path for path in sides.OWN_PATHS if side.key.startswith(path))


def _entry(shape: Shape, timed: Sequence[Timed], config: ModelConfig) -> dict[str, Any]:
    """A shape's record: every side with its work, and how it stands to the others."""
    by_key = {(t.side.backend, t.side.key): t for t in timed if t.seconds and t.failure is None}
    records = []
    for one in timed:
        record = one.as_dict()
        if one.failure is None:
            backend = one.side.backend
            record |= {f"flops_{name}": work for name, work in _work(config, one).items()}
            for other in ("serial", "dense"):
                against = by_key.get((backend, other))
                if against is not None and against is not one:
                    record[f"faster_than_{other}"] = ratio(against, one)
            record["segment_faster"] = {
                name: ratio(one, by_key[name, "segment"])
                for name in BACKENDS
                if (name, "segment") in by_key and by_key[name, "segment"] is not one
            }
        records.append(record)
    q, lengths, labels = shape.query_tokens, shape.lengths, len(LABELS)
    counted = {
        "packed_needed": flops.packed(config, q, lengths, labels=labels),
        "packed_nominal": flops.packed(config, q, lengths, labels=labels, needed=False),
        "extended_needed": flops.extended(config, q, lengths, labels=labels),
        "serial_needed": flops.serial(config, q, lengths, labels=labels),
        "serial_nominal": flops.serial(config, q, lengths, labels=labels, needed=False),
    }
    return {
        "shape": shape.name,
        "query_tokens": q,
        "items": shape.items,
        "item_tokens": shape.item_tokens,
        "flops": {name: work.total for name, work in counted.items()},
        "sides": records,
        "agreement": exactness.agreement(timed),
    }


def _work(config: ModelConfig, timed: Timed) -> dict[str, int]:
    """Operations of one timed run, in both counts."""
    count = {"packed": flops.packed, "extended": flops.extended, "serial": flops.serial}[timed.side.work]
    lengths = timed.shape.lengths[: timed.items]
    return {
        name: count(config, timed.shape.query_tokens, lengths, labels=len(LABELS), needed=needed).total
        for name, needed in (("needed", True), ("nominal", False))
    }


def _add_shares(side: dict[str, Any], rates: dict[str, float]) -> None:
    """Shares of the backend's own rate (PyTorch's for what runs on PyTorch), and of the better one."""
    # A query that the server keeps is not computed again: what such a run computes is another count.
    if side["side"].endswith("_again") or side["side"].startswith("sglang_tuned"):
        return
    own = rates.get(side["backend"] if side["backend"] in BACKENDS else "pytorch")
    if own is None:
        return
    seconds, better = p50(side["seconds"]), max(rates.values())
    for name in ("needed", "nominal"):
        side[f"share_{name}"] = side[f"flops_{name}"] / seconds / own
        side[f"share_{name}_of_better"] = side[f"flops_{name}"] / seconds / better
    interval = side["items_per_sec_interval_95"]
    if interval is not None:
        each = side["flops_needed"] / side["items_per_run"] / own
        side["share_interval_95"] = [rate * each for rate in interval]


def _isolation(side: Side, shape: Shape, requests: Requests) -> dict[str, Any]:
    try:
        return exactness.isolation(side, shape, requests)
    except MultiItemError as error:
        return {"backend": side.backend, "shape": shape.name, "failure": str(error).splitlines()[0]}


def _isolated(one: dict[str, Any]) -> str:
    found = one.get("failure") or f"{one['max_abs_change_of_others']:g}"
    return f"{one['backend']} {one['shape']}: {found}"


def _summary(entry: dict[str, Any]) -> list[str]:
    """A line a side."""
    return [
        f"{entry['shape']}: {side['backend']}, {side['about']}: "
        + (side["failure"] if "failure" in side else f"{side['items_per_sec_p50']:,.1f} items/s, {side['runs']} runs")
        for side in entry["sides"]
    ]
