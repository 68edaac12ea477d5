#!/usr/bin/env bash
# Submits a run to Slurm, one process per GPU; JAX finds the processes by itself:
#
#   NODES=2 GPUS_PER_NODE=8 slurm.sh [--dry-run] --config=... --workdir=...
#
# Also TIME (default 24:00:00), CPUS_PER_TASK (12), PARTITION, ACCOUNT, PYTHON. The work
# folder must be on a shared file system. NOTICE seconds (1800) before its time is over, or
# when it is preempted, the job is told to save, exits with 75 and is put back into the
# queue. NOTICE must be more than an evaluation takes, which is finished first, and TIME
# much more than NOTICE.

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=experiments/launch/step.sh
source "$here/step.sh"
[[ $# -ge 1 && -n ${NODES:-} && -n ${GPUS_PER_NODE:-} ]] || usage

time=${TIME:-24:00:00} notice=${NOTICE:-1800}
if [[ $time =~ ^(([0-9]+)-)?([0-9]+):([0-9]+):([0-9]+)$ ]]; then
  hours=$((10#${BASH_REMATCH[2]:-0} * 24 + 10#${BASH_REMATCH[3]}))
  seconds=$(((hours * 60 + 10#${BASH_REMATCH[4]}) * 60 + 10#${BASH_REMATCH[5]}))
  if ((seconds <= notice)); then
    echo "error: TIME=$time is not above NOTICE=$notice seconds: the job would be told" \
      "to stop at once, again and again" >&2
    exit 2
  fi
fi
cores=${CPUS_PER_TASK:-12}
options=(
  --job-name=embedmask "--nodes=$NODES" "--ntasks-per-node=$GPUS_PER_NODE"
  "--gpus-per-node=$GPUS_PER_NODE" "--cpus-per-task=$cores"
  "--time=$time" "--signal=TERM@$notice" --requeue
  --open-mode=append --output=embedmask-%j.log
)
[[ -z ${PARTITION:-} ]] || options+=("--partition=$PARTITION")
[[ -z ${ACCOUNT:-} ]] || options+=("--account=$ACCOUNT")

run=("${PYTHON:-python}" -m embedmask_jax.main "$@")
# srun does not take the number of cores from the job.
script="srun --cpus-per-task=$cores $(quoted "${run[@]}")
status=\$?
[ \$status -ne $retry ] || scontrol requeue \$SLURM_JOB_ID
exit \$status"
step sbatch "${options[@]}" --wrap="$script"
