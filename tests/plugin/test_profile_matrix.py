"""`pytest --profile-matrix`: launch variants of an engine, those that are wrong and those that are not."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import psutil
import pytest
from inner_project import FAKE, Project, running, wait_until

from pytest_multiitem.settings.parsers import variants_file
from pytest_multiitem.validation.validate import examine

SAME, EQUIV, CONTROL = "same_length_isolation_zero", "delimiter_aligned_equiv_le_0p02", "negative_control_fails"
RUN = ("-q", "--engine=launched", "--backend=pytorch", "--mask-impl=dense", "--multiitem-profiles=profiles.toml",
       "--multiitem-startup-timeout=30", "--profile-matrix=variants.toml")  # fmt: skip
HEALTHY = """
[[variants]]
name = "as shipped"

[[variants]]
name = "prefix cache"
flags = { prefix-cache = "on" }
env = { FAKE_NOTHING = "1" }

[[variants]]
name = "chunks of 5"
settings = { server_chunk_size = 5 }
expect = { multi_item_scoring_chunk_size = 5 }
"""


@pytest.fixture
def variants(project: Project) -> Project:
    """A project with an engine that is started from launch profiles."""
    project.write("conftest.py", "from launched_engine import pytest_multiitem_engines\n")
    from launched_engine import PROFILES

    project.write("profiles.toml", PROFILES)
    return project


def write(project: Project, text: str) -> None:
    (project.path / "variants.toml").write_text(f'gates = ["{SAME}", "{EQUIV}", "{CONTROL}"]\n{text}')


def by_variant(project: Project) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for record in project.matrix["gates"]:
        found.setdefault(record["place"]["variant"], {})[record["gate"]] = record["verdict"]
    return found


@pytest.mark.slow
def test_healthy_variants_pass_and_are_told(variants: Project) -> None:
    write(variants, HEALTHY)
    result = variants.run(*RUN)
    assert result.ret == 0, result.stdout.str()
    passes = {SAME: "PASS", EQUIV: "PASS", CONTROL: "PASS"}
    assert by_variant(variants) == dict.fromkeys(("as shipped", "prefix cache", "chunks of 5"), passes)
    _, cache, chunks = variants.matrix["variants"]
    assert cache["attested"] == {"prefix_cache": "on"} and cache["flags"] == ["--prefix-cache", "on"]
    assert cache["environment"] == ["FAKE_NOTHING"], "names of variables, and no value"
    assert chunks["attested"] == {"multi_item_scoring_chunk_size": 5}
    sizes = {r["place"]["variant"]: r["items_per_sequence"] for r in variants.matrix["gates"] if r["gate"] == SAME}
    assert sizes["chunks of 5"] <= 5 < sizes["as shipped"]
    (table,) = re.findall(r"variant +isolation +equality +semantics\n─+\n((?:.+\n)+)", result.stdout.str())
    assert [row.split("  ")[0] for row in table.splitlines()] == ["as shipped", "prefix cache", "chunks of 5"]
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "## Profile matrix" in variants.report and "| prefix cache | PASS | PASS | PASS |" in variants.report
    page = (variants.path / "multiitem-results/latest/report.html").read_text()
    assert "Variants and groups of gates" in page
    assert examine(variants.path / "multiitem-results/latest/matrix.json").problems == []
    assert {server["label"].partition(":")[0] for server in variants.matrix["servers"]} == {*by_variant(variants)}


def test_each_variant_is_judged_by_itself(variants: Project) -> None:
    """A fault, a refusal by either road, a crash, and what was asked for but does not run: each is one row alone."""
    write(
        variants,
        """
        variants = [
          { name = "healthy" },
          { name = "leaks", flags = { fault = "leak" } },
          { name = "refused", flags = { speculative = "EAGLE" } },
          { name = "unknown flag", flags = { tensor-parallel = 2 } },
          { name = "crash", env = { FAKE_CRASH = "1" } },
          { name = "not applied", flags = { prefix-cache = "on" }, env = { FAKE_STUBBORN = "1" } },
          { name = "not told", flags = { chunk = 7 }, expect = { tp_size = 2 } },
          { name = "elsewhere", engine = "sglang", settings = { mask_impl = "flashinfer" } },
        ]
        """,
    )
    arguments = [word for word in RUN if word not in ("--engine=launched", "--mask-impl=dense")]
    text = (variants.path / "variants.toml").read_text()
    for name in ("healthy", "leaks", "refused", "unknown flag", "crash", "not applied", "not told"):
        text = text.replace(f'name = "{name}"', f'name = "{name}", engine = "launched"')
    (variants.path / "variants.toml").write_text(text + '[settings]\nmask_impl = "dense"\n')
    result = variants.run(*arguments)
    said = result.stdout.str()
    assert result.ret == 1, said
    found = by_variant(variants)
    passes = {SAME: "PASS", EQUIV: "PASS", CONTROL: "PASS"}
    assert found["healthy"] == passes
    assert found["leaks"][SAME] == "FAIL"
    for name in ("refused", "unknown flag", "elsewhere"):
        assert set(found[name].values()) == {"NOT_RUN"}, name
    assert set(found["crash"].values()) == {"ERROR"}
    assert set(found["not applied"].values()) == {"FAIL"}
    assert set(found["not told"].values()) == {"INCONCLUSIVE"}
    for line in (
        "refused: NOT_RUN: launched refused to start: ValueError: Multi-item scoring does not go with speculative "
        "decoding (EAGLE)",
        "unknown flag: NOT_RUN: launched refused to start: unrecognized arguments: --tensor-parallel",
        "not applied: FAIL same_length_isolation_zero (pytorch-dense): the variant was not applied: prefix_cache "
        "should be on, but the server says off (and 2 more)",
        "elsewhere: NOT_RUN: engine sglang runs from its own environment; name that environment's python: "
        "--engine-python PATH",
    ):
        assert line in said.splitlines(), said
    assert re.search(r"^leaks: FAIL same_length_isolation_zero \(pytorch-dense\): .*0", said, re.MULTILINE)


def test_where_every_variant_is_refused_nothing_is_measured(variants: Project) -> None:
    write(variants, '[[variants]]\nname = "refused"\nflags = { speculative = "EAGLE" }\n')
    result = variants.run(*RUN)
    assert result.ret == 5 and variants.matrix["summary"]["NOT_RUN"] == 3
    result.stdout.fnmatch_lines(["*no gate was measured*"])


@pytest.mark.slow
def test_a_run_that_is_interrupted_keeps_what_is_measured(variants: Project) -> None:
    slow = '[[variants]]\nname = "slow"\nflags = { fault = "sleep=2" }\n'
    write(variants, f'[[variants]]\nname = "first"\n{slow}')
    process = variants.start(*RUN)
    wait_until(lambda: [*variants.path.glob("multiitem-results/*/variants/slow/servers")], within=60)
    states = [*variants.path.glob("multiitem-results/*/variants/*/servers/*/*/state.json")]
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and states, said
    assert set(by_variant(variants)["first"].values()) == {"PASS"}, said
    assert by_variant(variants)["slow"][CONTROL] == "NOT_RUN" and not variants.matrix["complete"]
    assert re.search(r"^first +PASS +PASS", said, re.MULTILINE)
    assert running(_servers(variants.path)) == []


def _servers(path: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(FAKE / "launched_server.py") in (process.info["cmdline"] or []) and _is_of(process, path):
            found.append(process)
    return found


def _is_of(process: psutil.Process, path: Path) -> bool:
    try:
        return process.cwd().startswith(str(path))
    except psutil.Error:
        return False


@pytest.mark.slow
def test_the_embedded_engines_variants_pass_and_a_leak_in_one_is_seen_there_alone(project: Project) -> None:
    """The file that ships, with three gates of the contract, and the weakest leak that isolation claims to see."""
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    leak = '[[variants]]\nname = "leaks"\nflags = { fault = "leak_next=0.0001" }\n'
    write(project, f"{variants_file('embedded').read_text()}\n{leak}")
    result = project.run("-q", "--profile-matrix=variants.toml", "--effort=quick")
    found = by_variant(project)
    wrong = {name: verdicts for name, verdicts in found.items() if set(verdicts.values()) != {"PASS"}}
    assert result.ret == 1 and list(wrong) == ["leaks"], result.stdout.str()
    assert found["leaks"][SAME] == "FAIL" and found["leaks"][CONTROL] == "PASS"
    attested = {variant["name"]: variant["attested"] for variant in project.matrix["variants"]}
    assert attested["bfloat16"] == {"dtype": "bfloat16"} and attested["jax dense"] == {"backend": "jax"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("-n", "2"), "--profile-matrix starts the servers of one variant after the other; run it without -n"),
        (("--multi-url", "http://127.0.0.1:1"), "--multi-url: the variants of --profile-matrix start servers"),
    ],
)
def test_what_a_profile_matrix_cannot_be_of(variants: Project, more: tuple[str, ...], words: str) -> None:
    write(variants, HEALTHY)
    result = variants.run(*RUN, *more)
    assert result.ret == 4 and words in result.stderr.str()


def test_a_variant_and_the_command_line_must_not_contradict_each_other(variants: Project) -> None:
    write(variants, '[[variants]]\nname = "bf16"\nsettings = { dtype = "bfloat16" }\n')
    result = variants.run(*RUN, "--dtype=float32")
    assert result.ret == 4
    assert "variant 'bf16' has dtype = bfloat16, but option --multiitem-dtype says float32; drop one" in (
        result.stderr.str()
    )
