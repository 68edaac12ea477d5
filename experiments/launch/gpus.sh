#!/usr/bin/env bash
# One machine with several GPUs, all driven by one process:
#
#   [GPUS=0,1,2,3] gpus.sh [--dry-run] --config=... --workdir=...
#
# GPUS are those to use, all by default. Started again for as long as it asks for that.

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=experiments/launch/step.sh
source "$here/step.sh"
[[ $# -ge 1 ]] || usage
command=(env JAX_PLATFORMS=cuda)
if [[ -n ${GPUS:-} ]]; then
  command+=("CUDA_VISIBLE_DEVICES=$GPUS")
fi
command+=("${PYTHON:-python}" -m embedmask_jax.main --nodistributed "$@")

while true; do
  step "${command[@]}" && status=0 || status=$?
  ((status == retry)) || exit "$status"
done
