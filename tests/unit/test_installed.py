"""What is installed around an engine, asked from its own interpreter."""

import sys
from pathlib import Path

import pytest

from pytest_multiitem.adapters.installed import inspect
from pytest_multiitem.errors import EngineUnavailable


def fake_engine(site: Path, *, fields: str = "") -> None:
    package = site / "fake_engine_pkg/srt/arg_groups"
    package.mkdir(parents=True)
    (site / "fake_engine_pkg/__init__.py").write_text("raise SystemExit('imported')")
    (site / "fake_engine_pkg/srt/server_args.py").write_text("parser.add_argument('--model-path')\nx = \"--dtype\"\n")
    (package / "fields.py").write_text(f"class Fields:\n    {fields or 'enable_mis: bool = False'}\n")
    info = site / "fake_engine-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engine\nVersion: 1.2.3\n")


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter with an environment of its own that holds the fake engine."""
    site = tmp_path / "site"
    fake_engine(site)
    program = tmp_path / "python"
    # -I drops PYTHONPATH, as it should; a path file is how an environment adds to its own path.
    program.write_text(f"""#!{sys.executable}
import subprocess, sys
at = sys.argv.index("-c") + 1
code = "import sys; sys.path.insert(0, {str(site)!r}); sys.argv = " + repr(["-c", *sys.argv[at + 1:]]) + chr(10)
code += sys.argv[at]
sys.exit(subprocess.run([{sys.executable!r}, *sys.argv[1:at], code]).returncode)
""")
    program.chmod(0o755)
    return str(program)


def test_version_flags_and_packages_without_an_import(python):
    sources = "srt/server_args.py srt/arg_groups/**/*.py"
    found = inspect(python, "fake_engine_pkg", sources, "fake-engine", ("pytest", "no-such-package"))
    assert found.version == "1.2.3" and found.python == python
    assert {"model-path", "dtype", "enable-mis"} <= found.flags
    assert found.lacking(["dtype", "tp-size"]) == ["tp-size"]
    assert found.lacking(["no-enable-mis", "no-tp-size"]) == ["no-tp-size"], "what can be switched on can be off"
    packages = dict(found.packages)
    assert set(packages) == {"python", "fake-engine", "pytest"} and packages["pytest"] == pytest.__version__


def test_an_engine_that_is_not_there_is_named():
    with pytest.raises(EngineUnavailable, match=f"no-engine is not installed in {sys.executable}"):
        inspect(sys.executable, "no_engine", "x.py", "no-engine")


@pytest.mark.parametrize(("program", "words"), [("/no/python", "does not start"), ("/bin/true", "no usable Python")])
def test_an_interpreter_that_is_none_is_named(program, words):
    with pytest.raises(EngineUnavailable, match=words):
        inspect(program, "x", "x.py", "x")
