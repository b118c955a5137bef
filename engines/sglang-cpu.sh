#!/usr/bin/env bash
# Builds an environment of its own with the real sglang 0.5.23 for a CPU, to test against. The package sglang_mis_cpu
# in it stands in for FlashInfer, which is for GPUs only, so that packed multi-item scoring runs as well:
#
#   engines/sglang-cpu.sh
#   pytest --engine sglang --engine-python .engines/sglang-0.5.23/bin/python
#
# PYTHON and ENGINES_DIR: see environment.sh. Run again, it does nothing unless these scripts, the pins or the stubs have
# changed; then it starts afresh. A change of sglang_mis_cpu alone installs that alone.
set -euo pipefail

readonly SGLANG=0.5.23
readonly engine=sglang-$SGLANG
# shellcheck source=engines/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
readonly stubs=$here/stubs plugin=sglang_mis_cpu

recipe() { sums sglang-cpu.sh environment.sh "${pins##*/}" stubs; }

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
  is_ready
  exit 0
fi

start_afresh "about 3 GB of disk, some minutes"
pip "sglang==$SGLANG"
pip -r "$pins"

# Into the environment itself, so that no launch needs a PYTHONPATH.
cp -R "$stubs/." "$(purelib)"

add_plugin

# -P: a stray http.py where this is called from must not be taken for the standard library's.
SGLANG_USE_CPU_ENGINE=1 "$env/bin/python" -P -W ignore -c 'import sglang.srt.entrypoints.http_server, sglang.srt.managers.scheduler, sglang_mis_cpu.backend' ||
  fail "sglang is installed in $env but does not import (see above)"
recipe >"$stamp"
is_ready
