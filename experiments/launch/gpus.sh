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

if $is_dry_run; then
  step "${command[@]}"
  exit
fi

process=
is_stopped=false
# A signal goes on to the process, which then saves and exits.
trap 'is_stopped=true; kill -TERM "$process" 2>/dev/null || true' TERM INT
while true; do
  "${command[@]}" &
  process=$!
  await "$process" && status=0 || status=$?
  ((status == retry)) && ! $is_stopped || exit "$status"
done
