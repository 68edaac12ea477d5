#!/usr/bin/env bash
# A Cloud TPU VM slice, one process per worker; JAX finds the processes by itself:
#
#   export NAME=em ZONE=us-west4-a TYPE=v5litepod-16
#   tpu_vm.sh [--dry-run] create
#   tpu_vm.sh [--dry-run] install
#   tpu_vm.sh [--dry-run] run --config=... --workdir=/mnt/shared/run
#   tpu_vm.sh [--dry-run] collect REMOTE_FILE LOCAL_FOLDER
#   tpu_vm.sh [--dry-run] delete
#
# The work folder must be on a file system that all workers have mounted.
# Also RUNTIME (default v2-alpha-tpuv5-lite), SPOT=1 for a preemptible slice, and SOURCE
# (the repository's folder by default), which `install` copies to every worker.

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=experiments/launch/step.sh
source "$here/step.sh"
[[ $# -ge 1 && -n ${NAME:-} && -n ${ZONE:-} ]] || usage
tpu=(gcloud compute tpus tpu-vm)

on_all() { # COMMAND, one string of shell
  step "${tpu[@]}" ssh "$NAME" "--zone=$ZONE" --worker=all "--command=$1"
}

action=$1
shift
case $action in
  create)
    options=("--zone=$ZONE" "--accelerator-type=${TYPE:?such as v5litepod-16}")
    options+=("--version=${RUNTIME:-v2-alpha-tpuv5-lite}")
    [[ -z ${SPOT:-} ]] || options+=(--spot)
    step "${tpu[@]}" create "$NAME" "${options[@]}"
    ;;
  install)
    archive=${TMPDIR:-/tmp}/embedmask.tar.gz
    step git -C "${SOURCE:-$here/../..}" archive --format=tar.gz --output="$archive" HEAD
    step "${tpu[@]}" scp "$archive" "$NAME:embedmask.tar.gz" "--zone=$ZONE" --worker=all
    on_all 'mkdir -p embedmask && tar -xzf embedmask.tar.gz -C embedmask'
    # uv brings Python 3.11, for machines whose own is older.
    on_all 'cd embedmask && python3 -m venv .uv && .uv/bin/pip install -q uv'
    on_all 'cd embedmask && .uv/bin/uv venv -q --clear --python 3.11 .venv'
    on_all 'cd embedmask && .uv/bin/uv pip install -q --python .venv -e ".[tpu,gcs]"'
    ;;
  run)
    [[ $# -ge 1 ]] || usage
    train=".venv/bin/python -m embedmask_jax.main $(quoted "$@")"
    on_all "cd embedmask && until $train; do s=\$?; [ \$s -eq $retry ] || exit \$s; done"
    ;;
  collect)
    [[ $# -eq 2 ]] || usage
    step "${tpu[@]}" scp --recurse "$NAME:$1" "$2" "--zone=$ZONE" --worker=0
    ;;
  delete)
    step "${tpu[@]}" delete "$NAME" "--zone=$ZONE" --quiet
    ;;
  *) usage ;;
esac
