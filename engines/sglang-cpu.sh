#!/usr/bin/env bash
# Builds an environment of its own with the real sglang 0.5.23 for a CPU, to test against. The package sglang_mis_cpu
# in it stands in for FlashInfer, which is for GPUs only, so that packed multi-item scoring runs as well:
#
#   engines/sglang-cpu.sh
#   pytest --engine sglang --engine-python .engines/sglang-0.5.23/bin/python
#
# PYTHON       the interpreter to build with (default: python3.11, which the pins are for)
# ENGINES_DIR  where environments go (default: .engines in the repository root)
#
# Run again, it does nothing unless this script, the pins or the stubs have changed; then it starts afresh. A change of
# sglang_mis_cpu alone installs that alone.
set -euo pipefail

readonly SGLANG=0.5.23 TORCH=2.13.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here pins=$here/sglang-$SGLANG-cpu.txt stubs=$here/stubs plugin=sglang_mis_cpu
mkdir -p "${ENGINES_DIR:=$here/../.engines}"
ENGINES_DIR=$(cd "$ENGINES_DIR" && pwd)
readonly env=$ENGINES_DIR/sglang-$SGLANG
readonly stamp=$env/.ready

fail() {
  printf 'sglang-cpu: %s\n' "$*" >&2
  exit 1
}

# What the environment is made from; the stamps hold it, so that a change of any of it is noticed.
sums() { (cd "$here" && find "$@" -type f \( -name '*.py' -o -name '*.toml' -o -name '*.sh' -o -name '*.txt' \) -print0 | sort -z | xargs -0 cksum); }
recipe() { sums sglang-cpu.sh "${pins##*/}" stubs; }
is_made() { [ -f "$2" ] && [ "$1" = "$(cat "$2")" ] && "$env/bin/python" -c '' 2>/dev/null; }

# --no-deps everywhere: sglang's own requirements name gigabytes of GPU libraries, and the pins are complete without.
pip() { "$env/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "$@"; }

add_plugin() {
  is_made "$(sums "$plugin")" "$stamp.$plugin" && return
  local copy
  copy=$(mktemp -d) # pip builds where the sources are, and leaves its files there
  cp -R "$here/$plugin" "$copy"
  pip --force-reinstall "$copy/$plugin"
  rm -rf "$copy"
  sums "$plugin" >"$stamp.$plugin"
}

if is_made "$(recipe)" "$stamp"; then
  add_plugin
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

add_plugin

# -P: a stray http.py where this is called from must not be taken for the standard library's.
SGLANG_USE_CPU_ENGINE=1 "$env/bin/python" -P -W ignore -c 'import sglang.srt.entrypoints.http_server, sglang.srt.managers.scheduler, sglang_mis_cpu.backend' ||
  fail "sglang is installed in $env but does not import (see above)"
recipe >"$stamp"
echo "sglang $SGLANG for CPU is ready in $env"
