#!/usr/bin/env bash
# Builds an environment of its own with the real infinity 0.0.78 for a CPU: a rerank server to attach to.
#
#   engines/infinity-cpu.sh
#   .engines/infinity-0.0.78/bin/infinity_emb v2 --model-id DIR --engine torch --device cpu --no-bettertransformer --port 7997
#
# PYTHON and ENGINES_DIR: see environment.sh. Run again, it does nothing unless these scripts or the pins have changed;
# then it starts afresh.
set -euo pipefail

readonly INFINITY=0.0.78
readonly engine=infinity-$INFINITY
# shellcheck source=engines/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

recipe() { sums infinity-cpu.sh environment.sh "${pins##*/}"; }

if is_made "$(recipe)" "$stamp"; then
  is_ready
  exit 0
fi

start_afresh "about 1.4 GB of disk, a minute"
pip "infinity-emb==$INFINITY"
pip -r "$pins"

"$env/bin/python" -P -W ignore -c 'import infinity_emb.infinity_server, infinity_emb.cli' ||
  fail "infinity is installed in $env but does not import (see above)"
recipe >"$stamp"
is_ready
