#!/usr/bin/env bash
# Builds an environment of its own with the real sglang 0.5.23 for a CPU, to test against:
#
#   engines/sglang-cpu.sh
#   pytest --engine sglang --engine-python .engines/sglang-0.5.23/bin/python
#
# PYTHON       the interpreter to build with (default: python3.11, which the pins are for)
# ENGINES_DIR  where environments go (default: .engines in the repository root)
#
# Run again, it does nothing unless this script, the pins or the stubs have changed; then it starts afresh.
set -euo pipefail

readonly SGLANG=0.5.23 TORCH=2.13.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here pins=$here/sglang-$SGLANG-cpu.txt stubs=$here/stubs
mkdir -p "${ENGINES_DIR:=$here/../.engines}"
ENGINES_DIR=$(cd "$ENGINES_DIR" && pwd)
readonly env=$ENGINES_DIR/sglang-$SGLANG
readonly stamp=$env/.ready

fail() {
  printf 'sglang-cpu: %s\n' "$*" >&2
  exit 1
}

# What the environment is made from; the stamp holds it, so that a change of any of it is noticed.
recipe() { (cd "$here" && find sglang-cpu.sh "${pins##*/}" stubs -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 cksum); }

if [ -f "$stamp" ] && [ "$(recipe)" = "$(cat "$stamp")" ] && "$env/bin/python" -c '' 2>/dev/null; then
  echo "sglang $SGLANG for CPU is ready in $env"
  exit 0
fi

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || fail "there is no '$python' here: install Python 3.11, or name one with PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
  fail "the pins are for Python 3.11 and '$python' is $("$python" -V 2>&1): name another with PYTHON=/path/to/python3.11"
case $(uname -sm) in
  "Linux x86_64") ;;
  *) fail "the pins are for Linux on x86_64, this is $(uname -sm)" ;;
esac

echo "sglang $SGLANG for CPU: building $env (about 3 GB of disk, some minutes)"
rm -rf "$env"
"$python" -m venv "$env"
# --no-deps everywhere: sglang's own requirements name gigabytes of GPU libraries, and the pins are complete without.
pip() { "$env/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "$@"; }

pip "torch==$TORCH"
# Asked of the file and not by importing torch: a CUDA build does not import without its libraries.
"$env/bin/python" - <<'PY' || fail "pip found a GPU build of torch $TORCH: let it find the CPU build (PIP_FIND_LINKS, PIP_INDEX_URL) and run this again"
import importlib.util, pathlib, runpy, sys
version = pathlib.Path(importlib.util.find_spec("torch").origin).with_name("version.py")
sys.exit(runpy.run_path(str(version))["cuda"] is not None)
PY
pip "sglang==$SGLANG"
pip -r "$pins"

# Into the environment itself, so that no launch needs a PYTHONPATH.
cp -R "$stubs/." "$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# -P: a stray http.py where this is called from must not be taken for the standard library's.
SGLANG_USE_CPU_ENGINE=1 "$env/bin/python" -P -W ignore -c 'import sglang.srt.entrypoints.http_server, sglang.srt.managers.scheduler' ||
  fail "sglang is installed in $env but does not import (see above)"
recipe >"$stamp"
echo "sglang $SGLANG for CPU is ready in $env"
