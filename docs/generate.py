"""Writes what the reference can take from the code: options, the table of gates, the files of a comparison.

python docs/generate.py                             # a test asserts that the files are what this writes
python docs/generate.py --kill-matrix kill_matrix.json    # the measured part of explanation/power.md
python docs/generate.py --engine-speed engine-speed.json [OTHER…]  # reference/engine-speed.md, and the JSON beside it
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from pytest_multiitem.adapters.base import ENGINES
from pytest_multiitem.comparison import records
from pytest_multiitem.comparison.files import SCHEMAS
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.inputs import read_json
from pytest_multiitem.power.records import KillMatrix
from pytest_multiitem.reports import power
from pytest_multiitem.results.details import Details, Notes
from pytest_multiitem.scoring.modes import MODES, ModeName
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.settings.settings import OPTIONS, Settings
from pytest_multiitem.validation.schemas import KINDS, write_schemas
from pytest_multiitem.validation.validate import refuse_contradictions

REFERENCE = Path(__file__).parent / "reference"

_HEAD = """\
# Options

<!-- Written by docs/generate.py from pytest_multiitem.settings.settings; do not edit by hand. -->

Every setting has four names, and a fifth in `pyproject.toml`. The first that is given wins:

1. the command line: the canonical name, or the short one where it exists and no other plugin owns it,
2. the environment variable (an empty one counts as not given),
3. `[tool.multiitem]` in the nearest `pyproject.toml`, under the setting's own name: `mask_impl = ["segment"]`; commands
   read it too,
4. the ini key, under `[pytest]` in `pytest.ini` or `[tool.pytest.ini_options]` in `pyproject.toml`,
5. the default.

- The run's header prints each setting that is not the default, with where it came from; all of them with
  `--multiitem-header=full`. `matrix.json` and `report.md` hold all of them.
- In `[tool.multiitem]`, a list is an array, a switch `true` or `false`, pairs are a table, and a path is relative to
  the file. A key that is no setting, or a value of another type, ends the run before it starts.
- A value that is not valid ends the run before it starts (exit status 4). The message names the value, where it
  came from, and the valid ones.
- Lists are separated by commas. A switch takes `1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off`; on the command
  line its name alone turns it on, and `--allow-inconclusive=0` turns off what a variable or an ini file turns on.
- `all` means: every one that the chosen engine has, or every gate that the run's options ask for.
- Where another plugin owns a short name, ours steps back and the header says so in one line.
- A default of `-` means: none.
- `multiitem launch`, `power`, `compare run` and `ab` take all of them too, under both command-line names.
"""
_TABLE = """
## {topic}

| option | short | environment variable | ini key | default | meaning |
| --- | --- | --- | --- | --- | --- |
"""

_FOOT = """
One more environment variable is not a setting of a run: `MULTIITEM_CACHE_DIR` says where the generated checkpoint
and compiled programs are kept (default: `pytest-multiitem` in `$XDG_CACHE_HOME`, or in `~/.cache`).
"""


def options_page() -> str:
    """The whole of reference/options.md."""
    defaults: Settings = resolve({}, {}, {})
    page, topic = _HEAD, ""
    for option in OPTIONS:
        if option.topic != topic:
            topic = option.topic
            page += _TABLE.format(topic=topic[0].upper() + topic[1:])
        value = "[=0]" if option.is_switch else f" {option.metavar or 'VALUE'}"
        row = [
            f"`{option.flag}{value}`",
            f"`{option.short_flag}`" if option.short else "",
            f"`{option.variable}`",
            f"`{option.ini}`",
            f"`{'off' if option.is_switch else defaults.shown(option.name)}`",
            option.help,
        ]
        page += _rows([row])
    return page + _FOOT


def gates_table() -> str:
    """The table of gates, as it stands in reference/gates.md."""
    rows = [
        [f"`{gate.name}`", gate.measures, "it does" if gate.limit is None else gate.bound, gate.pass_needs]
        for gate in gates().values()
    ]
    return "| gate | measures | holds when | a PASS needs |\n| --- | --- | --- | --- |\n" + _rows(rows)


def renewed(page: str, name: str, content: str) -> str:
    """``page`` with what stands between the marks of that name replaced."""
    pattern = rf"(<!-- {name}: written by docs/generate.py -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda marks: f"{marks[1]}{content}{marks[2]}", page, flags=re.DOTALL)


def with_gates_table(page: str) -> str:
    """reference/gates.md with its table of gates renewed."""
    return renewed(page, "gates", gates_table())


def with_modes(page: str) -> str:
    """reference/server.md with the table of modes renewed."""
    rows = []
    for mode in MODES:
        where = ", ".join(f"`{path}`" for path in mode.paths)
        fields = ", ".join(f"`{field}`" for field in mode.fields)
        rows.append([f"`{mode.name}`", where, ", ".join(mode.heads), fields, mode.answer, mode.reference])
    head = "| mode | where | heads | fields | answer | must equal, serially |\n| --- | --- | --- | --- | --- | --- |\n"
    return renewed(page, "modes", head + _rows(rows))


#: What is measured on a running server of an engine, by the suites or by tests/integration; the rest is by its sources.
_MEASURED = {
    "embedded": tuple(mode.name for mode in MODES if mode.name is not ModeName.GENERATIVE_SCORING),
    "sglang": (ModeName.IDS,),
    "sgl-jax": (ModeName.IDS,),
    "vllm": (ModeName.GENERATIVE_SCORING, ModeName.CLASSIFICATION, ModeName.RERANK),
    "rerank": (ModeName.RERANK,),
    "classify": (),
}


def with_engines(page: str) -> str:
    """guides/real-engines.md with the table of modes and engines renewed."""
    engines = ENGINES.shipped()
    rows = []
    for mode in MODES:
        cells = []
        for name, engine in engines.items():
            word = "measured" if mode.name in _MEASURED[name] else "by its sources"
            cells.append(word if mode.name in engine.modes else "–")
        rows.append([f"`{mode.name}`", *cells])
    head = ["mode", *(f"`{name}`" for name in engines)]
    return renewed(page, "modes of engines", _rows([head, ["---"] * len(head)]) + _rows(rows))


def with_schemas(page: str) -> str:
    """reference/results.md with the tables of all kinds of files, and of all kinds of details, renewed."""
    kinds = [[f"`{name}`", f"`{kind.written_by}`"] for name, kind in KINDS.items()]
    page = renewed(page, "schemas", "| `schema_version` | written by |\n| --- | --- |\n" + _rows(kinds))
    rows = []
    for kind in get_args(Details):
        own = ", ".join(f"`{name}`" for name in kind.__struct_fields__ if name not in Notes.__struct_fields__)
        text = (inspect.getdoc(kind) or "").replace("``", "`")
        rows.append([f"`{kind.__struct_config__.tag}`", own, " ".join(text.split())])
    return renewed(page, "details", "| `kind` | fields | |\n| --- | --- | --- |\n" + _rows(rows))


_COMPARISON_HEAD = """\
# Files of a comparison

<!-- Written by docs/generate.py from pytest_multiitem.comparison.records; do not edit by hand. -->

`multiitem validate FILE…` checks any of them, by schema and by meaning. Files of older or foreign tools load: only the
fields marked so are required, and unknown ones are kept. A new optional field keeps the schema's version. Times are in
milliseconds, money in US dollars, scores are [N][K].
"""


def comparison_page() -> str:
    """The whole of reference/comparison-files.md."""
    parts = [_COMPARISON_HEAD]
    for schema, record in SCHEMAS.items():
        parts.append(f"## `{schema}`\n\n{_struct(record)}")
        parts += [f"### {inner.__name__}\n\n{_struct(inner)}" for inner in _inner(record)]
    return "\n".join(parts)


def _struct(record: type[msgspec.Struct]) -> str:
    """A record's own words, and its fields."""
    text = inspect.getdoc(record) or ""
    rows = []
    for field in msgspec.structs.fields(record):
        has_default = not (field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT)
        rows.append([f"`{field.name}`", f"`{_typed(field.type)}`", "" if has_default else "required"])
    return f"{text.replace('``', '`')}\n\n| field | type | |\n| --- | --- | --- |\n{_rows(rows)}"


def _typed(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return re.sub(r"(typing|pytest_multiitem\.[\w.]+)\.", "", text).replace("NoneType", "None")


def _inner(record: type[msgspec.Struct], seen: tuple[type, ...] = ()) -> list[type[msgspec.Struct]]:
    """The records that a record holds, each once."""
    found: list[type[msgspec.Struct]] = []
    for field in msgspec.structs.fields(record):
        for name, kind in vars(records).items():
            known = (record, *seen, *found)
            record_kind = isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in known
            if record_kind and re.search(rf"\b{name}\b", _typed(field.type)):
                found += [kind, *_inner(kind, (*known, kind))]
    return list(dict.fromkeys(found))


def with_kill_matrix(page: str, matrix: KillMatrix) -> str:
    """``page`` with what was measured between its marks renewed: the tables of a kill matrix, and what only one gate
    sees in the table of what each gate is for."""
    measured = re.sub(r"^## ", "### ", power.sections(matrix).strip(), flags=re.MULTILINE)
    facts = f"{matrix.machine['processor']}, {matrix.machine['cpus_usable']} cores; {matrix.started_at_utc} to "
    facts += f"{matrix.finished_at_utc}; " + ", ".join(
        f"{name} {matrix.versions[name]}" for name in ("pytest-multiitem", "torch", "jax") if name in matrix.versions
    )
    lines = [*(f"- {line}" for line in power.summary_lines(matrix)), f"- {facts}"]
    page = re.sub(
        r"(<!-- measured -->\n).*?(<!-- end -->)",
        lambda marks: f"{marks[1]}\n{chr(10).join(lines)}\n\n{measured}\n\n{marks[2]}",
        page,
        flags=re.DOTALL,
    )
    rows = []
    for line in page.split("\n"):
        gate = re.match(r"\| `(\w+)` \| (.*) \| [^|]* \|$", line)
        if gate is not None and gate[1] in {name.partition("[")[0] for name in matrix.gates}:
            only = ", ".join(f"`{label}`" for label in matrix.unique.get(gate[1], [])) or "-"
            line = f"| `{gate[1]}` | {gate[2]} | {only} |"
        rows.append(line)
    return "\n".join(rows)


def engine_speed_page(results: bytes, *others: bytes) -> str:
    """The whole of reference/engine-speed.md, from the JSON of ``make bench``, and of runs elsewhere or earlier."""
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:  # benchmarks/ is no part of the package
        sys.path.append(root)
    from benchmarks.engine_speed.page import page

    return page(msgspec.json.decode(results), [msgspec.json.decode(other) for other in others])


def _rows(rows: list[list[str]]) -> str:
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def main() -> None:
    """Write them all, or the page of a kill matrix or of a benchmark of the engines."""
    if sys.argv[1:2] == ["--kill-matrix"]:
        path = Path(__file__).parent / "explanation" / "power.md"
        source = Path(sys.argv[2])
        try:
            refuse_contradictions(source)
            matrix = msgspec.convert(read_json(source), KillMatrix)
        except UsageError as error:
            raise SystemExit(str(error)) from None
        path.write_text(with_kill_matrix(path.read_text(encoding="utf-8"), matrix), encoding="utf-8")
        return
    if sys.argv[1:2] == ["--engine-speed"]:
        runs = [Path(path).read_bytes() for path in sys.argv[2:]]
        page_text = engine_speed_page(*runs)
        for path in REFERENCE.glob("engine-speed*.json"):
            path.unlink()
        for number, results in enumerate(runs, start=1):
            (REFERENCE / ("engine-speed.json" if number == 1 else f"engine-speed-{number}.json")).write_bytes(results)
        (REFERENCE / "engine-speed.md").write_text(page_text, encoding="utf-8")
        return
    write_schemas()
    (REFERENCE / "comparison-files.md").write_text(comparison_page(), encoding="utf-8")
    (REFERENCE / "options.md").write_text(options_page(), encoding="utf-8")
    for name, renew in (("gates.md", with_gates_table), ("results.md", with_schemas), ("server.md", with_modes)):
        page = REFERENCE / name
        page.write_text(renew(page.read_text(encoding="utf-8")), encoding="utf-8")
    guide = Path(__file__).parent / "guides" / "real-engines.md"
    guide.write_text(with_engines(guide.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
