# Sourced by the scripts that build an engine's environment, which set `engine` (name-version) before: what they share.
#
# PYTHON       the interpreter to build with (default: python3.11, which the pins are for)
# ENGINES_DIR  where environments go (default: .engines in the repository root)

readonly TORCH=2.13.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here pins=$here/$engine-cpu.txt
mkdir -p "${ENGINES_DIR:=$here/../.engines}"
ENGINES_DIR=$(cd "$ENGINES_DIR" && pwd)
readonly env=$ENGINES_DIR/$engine
readonly stamp=$env/.ready

fail() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

# What the environment is made from; the stamps hold it, so that a change of any of it is noticed.
sums() { (cd "$here" && find "$@" -type f \( -name '*.py' -o -name '*.toml' -o -name '*.sh' -o -name '*.txt' \) -print0 | sort -z | xargs -0 cksum); }
is_made() { [ -f "$2" ] && [ "$1" = "$(cat "$2")" ] && "$env/bin/python" -c '' 2>/dev/null; }

# --no-deps everywhere: the engines' own requirements name gigabytes of GPU libraries, and the pins are complete without.
pip() { "$env/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "$@"; }

purelib() { "$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# An empty environment with the CPU build of torch; the first argument says what it will take.
start_afresh() {
  local python=${PYTHON:-python3.11}
  command -v "$python" >/dev/null || fail "there is no '$python' here: install Python 3.11, or name one with PYTHON=/path/to/python3.11"
  "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    fail "the pins are for Python 3.11 and '$python' is $("$python" -V 2>&1): name another with PYTHON=/path/to/python3.11"
  case $(uname -sm) in
    "Linux x86_64") ;;
    *) fail "the pins are for Linux on x86_64, this is $(uname -sm)" ;;
  esac
  echo "$engine for CPU: building $env ($1)"
  rm -rf "$env"
  "$python" -m venv "$env"
  pip "torch==$TORCH"
  # Asked of the file and not by importing torch: a CUDA build does not import without its libraries.
  "$env/bin/python" - <<'PY' || fail "pip found a GPU build of torch $TORCH: let it find the CPU build (PIP_FIND_LINKS, PIP_INDEX_URL) and run this again"
import importlib.util, pathlib, runpy, sys
version = pathlib.Path(importlib.util.find_spec("torch").origin).with_name("version.py")
sys.exit(runpy.run_path(str(version))["cuda"] is not None)
PY
}

is_ready() { echo "$engine for CPU is ready in $env"; }
