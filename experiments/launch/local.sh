#!/usr/bin/env bash
# One run of several processes on this machine, over loopback:
#
#   [DEVICES=2] local.sh [--dry-run] PROCESSES --config=... --workdir=...
#
# For trying out on CPUs what several hosts will do. DEVICES is the number of simulated
# devices of each process. One process drives all accelerators of a machine: gpus.sh.

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=experiments/launch/step.sh
source "$here/step.sh"
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] || usage
processes=$1
shift
port=${PORT:-$((20000 + RANDOM % 10000))}

started=()
# A signal goes on to the processes, which then save and exit.
trap '((${#started[@]} == 0)) || kill -TERM "${started[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < processes; i++)); do
  command=(
    env JAX_PLATFORMS=cpu
    "XLA_FLAGS=--xla_force_host_platform_device_count=${DEVICES:-1}"
    "JAX_COORDINATOR_ADDRESS=localhost:$port" "JAX_NUM_PROCESSES=$processes"
    "JAX_PROCESS_ID=$i" "${PYTHON:-python}" -m embedmask_jax.main "$@"
  )
  if $is_dry_run; then
    step "${command[@]}"
  else
    "${command[@]}" &
    started+=($!)
  fi
done

# Before bash 4.4 a list without entries is an unset one.
! $is_dry_run || exit 0
status=0
for process in "${started[@]}"; do
  await "$process" && found=0 || found=$?
  ((found == 0)) || status=$found
done
exit "$status"
