"""The compile gate with its child process, in the tier that needs JAX alone; tests/tpu has the other one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from pytest_multiitem.compile_gates.tpu import gate
from pytest_multiitem.compile_gates.tpu.gate import Wanted, check_kernel
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.records import Verdict

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def wanted(function: str, *cases, **change) -> Wanted:
    settings = {"chips": ("v6e",), "tier": "lower", "timeout": 120.0, **change}
    return Wanted(f"tpu_kernels:{function}", cases=cases or ({},), path=(str(HERE),), **settings)


def kernels(report):
    return [check for check in report.checks if check.role == "kernel"]


def test_a_kernel_lowers_for_every_chip_and_case() -> None:
    report = check_kernel(wanted("fine", {}, {"rows": 16}, chips=("v6e", "v5e", "v5p", "v4", "tpu7x")))
    assert report.verdict is Verdict.PASS
    assert report.reason.startswith("lowered for v6e, v5e, v5p, v4, tpu7x; compile was not asked for")
    assert [(check.chip, check.name) for check in kernels(report)][:3] == [
        ("v6e", "defaults"), ("v6e", "rows=16"), ("v5e", "defaults"),
    ]  # fmt: skip
    assert len(kernels(report)) == 10 and all(check.kernels == 1 for check in kernels(report))
    controls = [check for check in report.checks if check.role == "control"]
    assert len(controls) == 20 and all(check.verdict is Verdict.PASS for check in controls)
    assert {check.expected for check in controls} == {"pass", "fail"}
    assert set(report.versions) >= {"jax", "jaxlib"}


@pytest.mark.parametrize(
    ("function", "verdict", "said"),
    [
        ("refuses", Verdict.FAIL, "the case cannot be made: ValueError: rows (8) must be a multiple of 3"),
        ("nothing", Verdict.FAIL, "TypeError: expected (callable, abstract arguments)"),
        ("plain_arguments", Verdict.FAIL, "TypeError: expected arguments with shape and dtype"),
        ("own_mistake", Verdict.FAIL, "no_such_attribute"),
        ("of_another_jax", Verdict.NOT_RUN, "environment: AttributeError: "),
    ],
)
def test_a_function_that_makes_no_case(function: str, verdict: Verdict, said: str) -> None:
    report = check_kernel(wanted(function))
    assert report.verdict is verdict and said in report.reason
    (check,) = kernels(report)
    assert check.error is not None and "Traceback" in check.error


def test_a_kernel_may_ask_for_its_chip() -> None:
    report = check_kernel(wanted("asks", chips=("v6e", "v5p")))
    assert report.verdict is Verdict.PASS, report.reason
    assert check_kernel(wanted("asks_too_much")).verdict is Verdict.NOT_RUN


@pytest.mark.parametrize(("asked", "verdict"), [("jax.default_backend() != 'tpu'", "NOT_RUN"), ("True", "FAIL")])
def test_what_was_asked_before_any_chip_was_known(tmp_path: Path, asked: str, verdict: str) -> None:
    """A kernel that interprets itself because its module asked too early, and one that does so anyway."""
    (tmp_path / "early_kernels.py").write_text(
        f"import jax\nfrom jax.experimental import pallas as pl\nINTERPRET = {asked}\n"
        "tile = jax.ShapeDtypeStruct((8, 128), 'float32')\n"
        "def kernel(tile, out):\n    out[...] = tile[...] + 1.0\n"
        "def case():\n    return pl.pallas_call(kernel, out_shape=tile, interpret=INTERPRET), (tile,)\n"
    )
    report = check_kernel(Wanted("early_kernels:case", chips=("v6e",), tier="lower", path=(str(tmp_path),)))
    assert report.verdict is Verdict[verdict], report.reason
    assert ("jax.default_backend() was called when no chip was known" in report.reason) is (verdict == "NOT_RUN")


def test_a_failure_names_its_place(tmp_path: Path) -> None:
    report = check_kernel(wanted("refuses"))
    (check,) = kernels(report)
    assert check.failure is not None and "tpu_kernels.py:" in check.failure.place
    assert "raise ValueError(" in check.failure.place and check.failure.place in report.reason


def test_a_crash_takes_no_other_check_with_it() -> None:
    report = check_kernel(wanted("on_one_chip", chips=("v6e", "v5e", "v5p")))
    assert [check.verdict for check in kernels(report)] == [Verdict.PASS, Verdict.FAIL, Verdict.PASS]
    assert "v5e: the compiler's process was ended by SIGABRT" in report.reason


def test_a_kernel_that_hangs_is_given_up_with_all_its_processes(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    report = check_kernel(wanted("hangs", {"pids": str(pids)}, timeout=5.0))
    assert report.verdict is Verdict.INCONCLUSIVE and "no answer of the compiler within 5 s" in report.reason
    assert not [pid for pid in map(int, pids.read_text().split()) if _runs(pid)]


def test_nothing_is_left_of_a_check_whose_parent_is_killed(tmp_path: Path) -> None:
    """As a CI system does it that cancels a job."""
    pids = tmp_path / "pids"
    words = f"from test_tpu_gate import *; check_kernel(wanted('hangs', {{'pids': {str(pids)!r}}}))"
    parent = subprocess.Popen([sys.executable, "-c", words], cwd=HERE)
    try:
        _wait_until(lambda: pids.exists() and pids.read_text())
    finally:
        parent.kill()
        parent.wait()
    _wait_until(lambda: not [pid for pid in map(int, pids.read_text().split()) if _runs(pid)])


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("controls", "verdict", "said"),
    [
        ([("good", frozenset({"lower"}))], Verdict.INCONCLUSIVE, "a kernel that has to fail passed, so a PASS means"),
        ([("not_lowerable", frozenset())], Verdict.INCONCLUSIVE, "a kernel that has to pass did not"),
        ([("no_kernel", frozenset())], Verdict.INCONCLUSIVE, "a kernel that has to pass did not"),
        ([("not_lowerable", frozenset({"compile"}))], Verdict.INCONCLUSIVE, "failed otherwise (it does not lower"),
        ([], Verdict.INCONCLUSIVE, "no control kernel was checked beside it"),
    ],
    ids=["a gate that cannot fail", "a gate that cannot pass", "interpreted", "fails elsewhere", "none"],
)
def test_a_gate_whose_controls_misbehave_tells_nothing(monkeypatch, controls, verdict, said) -> None:
    monkeypatch.setattr(gate, "_CONTROLS", {"lower": controls})
    report = check_kernel(wanted("fine"))
    assert report.verdict is verdict and said in report.reason


def test_trouble_with_jax_is_the_environments(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise RuntimeError('this JAX is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = check_kernel(wanted("fine"))
    assert report.verdict is Verdict.NOT_RUN and not report.versions
    assert "environment: RuntimeError: this JAX is broken" in report.reason


def test_a_jax_that_asks_for_a_package_it_does_not_bring_is_named(monkeypatch, tmp_path: Path) -> None:
    """As JAX 0.9.2, whose Pallas imports absl."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Asks:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'jax.experimental.pallas.tpu':\n"
        "            import no_such_package\n"
        "sys.meta_path.insert(0, Asks())\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    report = check_kernel(wanted("fine"))
    assert report.verdict is Verdict.NOT_RUN
    assert f"No module named 'no_such_package' (jax {metadata.version('jax')})" in report.reason


def test_a_jax_without_the_interface_is_the_environments(monkeypatch, tmp_path: Path) -> None:
    """``sitecustomize`` is imported before anything else of the child."""
    (tmp_path / "sitecustomize.py").write_text("import jax.sharding\ndel jax.sharding.AbstractDevice\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = check_kernel(wanted("fine"))
    assert report.verdict is Verdict.NOT_RUN
    assert "environment: ImportError: cannot import name 'AbstractDevice'" in report.reason


def test_a_process_that_dies_before_any_kernel(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("import os; os.write(2, b'no such instruction'); os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = check_kernel(wanted("fine"))
    assert report.verdict is Verdict.NOT_RUN
    assert "could not be imported: the process was ended by SIGABRT: no such instruction" in report.reason


def test_what_the_kernels_module_needs_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "needy_kernels.py").write_text("import no_such_package\n")
    report = check_kernel(Wanted("needy_kernels:case", chips=("v6e",), tier="lower", path=(str(tmp_path),)))
    assert report.verdict is Verdict.NOT_RUN and "No module named 'no_such_package'" in report.reason


@pytest.mark.parametrize(
    ("kernel", "case", "said"),
    [
        ("tpu_kernals:fine", {}, "no module 'tpu_kernals' (did you mean 'tpu_kernels'?)"),
        ("no_such_thing:fine", {}, "no module 'no_such_thing'; expected one that can be imported from the current"),
        (
            "pytest_multiitem.compile_gates.tpu.gait:fine",
            {},
            "tpu.gait' (did you mean 'gate'?)",
        ),
        ("tpu_kernels:fin", {}, "has no function 'fin' (did you mean 'fine'?); its own functions: fine, needs"),
        ("tpu_kernels:NOT_A_FUNCTION", {}, "has no callable 'NOT_A_FUNCTION'"),
        ("tpu_kernels:fine", {"row": 8}, "has no argument 'row' (did you mean 'rows'?); it takes rows=8"),
        ("tpu_kernels:needs", {"rows": 8}, "needs heads; give a value for each: --shape heads=…"),
        ("tpu_kernels:needs", {}, "needs rows, heads; give a value for each: --shape rows=…,heads=…"),
        ("typo_kernels:fine", {}, "typo_kernels cannot be imported: SyntaxError: "),
        ("raising_kernels:fine", {}, "raising_kernels cannot be imported: ZeroDivisionError: division by zero ("),
    ],
)
def test_a_kernel_that_does_not_exist(tmp_path: Path, kernel: str, case: dict[str, int], said: str) -> None:
    (tmp_path / "typo_kernels.py").write_text("def fine(:\n")
    (tmp_path / "raising_kernels.py").write_text("1 / 0\n")
    asked = Wanted(kernel, cases=(case,), chips=("v6e",), tier="lower", path=(str(HERE), str(tmp_path)))
    with pytest.raises(UsageError) as caught:
        check_kernel(asked)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"tier": "lowest"}, "tier 'lowest' is not valid"), ({"chips": ("v99",)}, "chip 'v99' is not known")],
)
def test_what_is_not_known_is_refused(change, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_kernel(wanted("fine", **change))


# ------------------------------------------------------------------ multiitem tpu-check


@pytest.fixture
def tpu_check(multiitem, monkeypatch):
    """``multiitem tpu-check`` where the kernels are, for one chip."""
    monkeypatch.chdir(HERE)
    for name in [*os.environ]:
        if name.startswith("MULTI_ITEM_"):
            monkeypatch.delenv(name)
    return lambda kernel, *words: multiitem("tpu-check", kernel, "--chip", "v6e", "--tier", "lower", *words)


def test_command_passes(tpu_check, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    status, out, err = tpu_check("tpu_kernels:needs", "--shape", "rows=8,heads=2", "--shape", "rows=8,heads=4",
                                 "--json", file)  # fmt: skip
    assert (status, err) == (0, "")
    assert "needs rows=8,heads=2   lower   v6e    PASS" in out and "controls: 4 PASS" in out
    assert out.rstrip().endswith("PASS: tpu_kernels:needs: lowered for v6e; compile was not asked for (tier lower)")
    content = json.loads(file.read_bytes())
    assert content["schema_version"] == "multiitem_tpu_check_v1" and content["verdict"] == "PASS"
    assert len(content["checks"]) == 6


def test_command_fails(tpu_check) -> None:
    status, out, _ = tpu_check("tpu_kernels:refuses")
    assert status == 1
    assert "lower FAIL: v6e: the case cannot be made: ValueError: rows (8) must be a multiple of 3" in out
    assert out.rstrip().endswith("FAIL: tpu_kernels:refuses")


def test_command_cannot_tell(tpu_check) -> None:
    status, out, _ = tpu_check("tpu_kernels:of_another_jax")
    assert status == 3 and "NOT_RUN: tpu_kernels:of_another_jax" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tpu_kernels"], "kernel 'tpu_kernels' is not valid: expected MODULE:FUNCTION"),
        (["tpu_kernels:fine", "--chip", "v6"], "--tpu-chips 'v6e,v6' is not valid: expected one of"),
        (
            ["tpu_kernels:fine", "--tier", "lowest"],
            "--tpu-tier 'lowest' is not valid: expected one of auto, lower, comp",
        ),
        (["tpu_kernels:fine", "--timeout", "soon"], "--tpu-timeout 'soon' is not valid: expected a number of seconds"),
        (["tpu_kernels:fine", "--shape", "rows"], "--shape 'rows' is not valid: expected NAME=VALUE,…"),
        (["tpu_kernels:fine", "--libtpu", "/nowhere"], "--tpu-libtpu '/nowhere' is not valid: expected a directory"),
        (["tpu_kernels:fine", "--json", HERE], f"cannot write {HERE}: it is a directory; name a file"),
        (["tpu_kernels:fine", "--shape", "row=8"], "(did you mean 'rows'?)"),
    ],
)
def test_command_is_used_wrongly(tpu_check, words: list[str], said: str) -> None:
    status, _, err = tpu_check(*words)
    assert status == 2 and said in err and err.count("\n") == 1


def test_command_heeds_the_environment(tpu_check, monkeypatch) -> None:
    monkeypatch.setenv("MULTI_ITEM_TPU_TIMEOUT", "never")
    status, _, err = tpu_check("tpu_kernels:fine")
    assert status == 2 and "environment variable MULTI_ITEM_TPU_TIMEOUT: 'never' is not valid" in err
