"""Every kind of file that this package writes: its record, its JSON Schema, and what is checked beyond the schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.baselines import golden
from pytest_multiitem.baselines import store as baselines
from pytest_multiitem.baselines.records import BASELINE_SCHEMA, Baseline
from pytest_multiitem.bench.load_records import LOAD_SCHEMA, LoadReport
from pytest_multiitem.comparison import records as compared
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.compile_gates.records import GPU_SCHEMA, TPU_SCHEMA, GpuReport, TpuReport
from pytest_multiitem.evaluation.records import COMBINED_SCHEMA, EVALUATION_SCHEMA, Combined, Evaluation
from pytest_multiitem.kernels import records as kernels
from pytest_multiitem.models.records import SCHEMA_VERSION as MODEL_MATRIX_SCHEMA
from pytest_multiitem.models.records import ModelMatrix
from pytest_multiitem.power.records import SCHEMA_VERSION as KILL_MATRIX_SCHEMA
from pytest_multiitem.power.records import KillMatrix
from pytest_multiitem.results import counterexample, history
from pytest_multiitem.results.answer import ANSWER_SCHEMA, Answer
from pytest_multiitem.results.records import SCHEMA_VERSION as RUN_SCHEMA
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.store import schema_file
from pytest_multiitem.validation import (
    answer,
    comparison,
    compile_gates,
    evaluation,
    kernel,
    kill_matrix,
    load,
    model_matrix,
    pair,
    run,
    score_matrix,
    workload,
)


@dataclass(frozen=True)
class Kind:
    """A kind of file. ``written_by``: the command or option. ``problems``: of a file whose schema holds.

    ``summary``: what a valid one holds, in a few words.
    """

    record: type[msgspec.Struct]
    written_by: str
    problems: Callable[[Artefact[Any]], list[str]] = lambda artefact: []
    summary: Callable[[Any], str] = lambda record: ""


#: By the name that stands in a file's ``schema_version``.
KINDS: Mapping[str, Kind] = {
    compared.WORKLOAD_SCHEMA: Kind(compared.Workload, "multiitem workload", workload.problems, workload.summary),
    compared.MATRIX_SCHEMA: Kind(
        compared.ScoreMatrix, "multiitem compare run", score_matrix.problems, score_matrix.summary
    ),
    compared.COMPARISON_SCHEMA: Kind(compared.Comparison, "multiitem compare", comparison.problems, comparison.summary),
    RUN_SCHEMA: Kind(Matrix, "pytest", run.problems, run.summary),
    ANSWER_SCHEMA: Kind(Answer, "multiitem accept", answer.problems, answer.summary),
    BASELINE_SCHEMA: Kind(Baseline, "pytest --save-baseline", lambda artefact: baselines.problems(artefact.record)),
    golden.SCORES_SCHEMA: Kind(
        golden.GoldenScores,
        "pytest --save-scores",
        lambda artefact: golden.problems(artefact.record),
        golden.summary,
    ),
    LOAD_SCHEMA: Kind(
        LoadReport, "multiitem load --output-json", lambda artefact: load.problems(artefact.record), load.summary_of
    ),
    EVALUATION_SCHEMA: Kind(Evaluation, "multiitem evaluate", evaluation.problems, evaluation.summary),
    COMBINED_SCHEMA: Kind(Combined, "multiitem combine", evaluation.combined_problems, evaluation.combined_summary),
    counterexample.COUNTEREXAMPLE: Kind(
        counterexample.Counterexample,
        "pytest, where a relation is violated",
        lambda artefact: counterexample.problems(artefact.record),
        counterexample.summary,
    ),
    KILL_MATRIX_SCHEMA: Kind(
        KillMatrix, "pytest --power", lambda artefact: kill_matrix.problems(artefact.record), kill_matrix.summary
    ),
    TPU_SCHEMA: Kind(
        TpuReport,
        "multiitem tpu-check --output-json",
        lambda artefact: compile_gates.problems(artefact.record),
        compile_gates.summary,
    ),
    GPU_SCHEMA: Kind(
        GpuReport,
        "multiitem gpu-check --output-json",
        lambda artefact: compile_gates.problems(artefact.record),
        compile_gates.summary,
    ),
    kernels.SCHEMA_VERSION: Kind(
        kernels.Report,
        "multiitem kernel-check --output-json",
        lambda artefact: kernel.problems(artefact.record),
        kernel.summary,
    ),
    MODEL_MATRIX_SCHEMA: Kind(
        ModelMatrix, "multiitem models", lambda artefact: model_matrix.problems(artefact.record), model_matrix.summary
    ),
    history.HISTORY_SCHEMA: Kind(
        history.History,
        "multiitem history --output-json",
        lambda artefact: [*history.problems(artefact.record)],
        lambda record: f"{len(record.runs)} runs",
    ),
    compared.AB_SCHEMA: Kind(compared.PairRecord, "multiitem ab --output-json", pair.problems, pair.summary),
}


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of a kind of file, from its record."""
    record = KINDS[name].record
    schema = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(record)))  # as JSON has it: no tuple
    top = schema["$defs"][record.__name__]
    top["properties"]["schema_version"] = {"const": name}
    top["required"] = list(dict.fromkeys(["schema_version", *top.get("required", ())]))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:pytest-multiitem:schema:{name}",
        "title": name,
        **schema,
    }


def write_schemas() -> list[Path]:
    """Write every kind's schema to where the package ships it, a definition a line; gives their paths."""
    paths = []
    for name in KINDS:
        schema = schema_of(name)
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in schema.pop("$defs").items()]
        head = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in schema.items())
        path = Path(str(schema_file(name)))
        path.write_text("{\n" + head + ',\n"$defs": {\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
        paths.append(path)
    return paths
