#!/usr/bin/env bash
# A TPU slice on GKE as a JobSet, one pod per host; JAX finds the pods by itself:
#
#   NAME=em IMAGE=REGISTRY/embedmask:TAG ACCELERATOR=tpu-v5-lite-podslice \
#     TOPOLOGY=4x4 HOSTS=4 CHIPS_PER_HOST=4 CLAIM=CLAIM_NAME \
#     gke_jobset.sh [--dry-run] --config=... --workdir=/shared/run
#
# CLAIM is a volume claim that many pods may write to, mounted at /shared in each. The
# cluster needs JobSet 0.6 or newer. A pod that exits with 75 (preempted, its state
# saved) restarts the set without using up MAX_RESTARTS (default 10). It has NOTICE seconds
# (1800) for that, which must be more than an evaluation takes: that is finished first.

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=experiments/launch/step.sh
source "$here/step.sh"
[[ $# -ge 1 && -n ${NAME:-} && -n ${IMAGE:-} && -n ${ACCELERATOR:-} ]] || usage
[[ -n ${TOPOLOGY:-} && -n ${HOSTS:-} && -n ${CHIPS_PER_HOST:-} ]] || usage
[[ -n ${CLAIM:-} ]] || usage

# YAML's single quotes: one within is written twice. In a variable, since versions of
# bash differ in what a backslash before it means there.
quote="'"
arguments=$(printf "                - '%s'\n" "${@//$quote/$quote$quote}")
manifest="apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: ${MAX_RESTARTS:-10}
    rules:
    - name: preempted
      action: RestartJobSetAndIgnoreMaxRestarts
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: 1
    template:
      spec:
        parallelism: $HOSTS
        completions: $HOSTS
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: train
              operator: In
              values: [$retry]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: ${NOTICE:-1800}
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
              cloud.google.com/gke-tpu-topology: $TOPOLOGY
            containers:
            - name: train
              image: $IMAGE
              # Not through a shell, which would keep SIGTERM to itself.
              command: [python, -m, embedmask_jax.main]
              args:
$arguments
              resources:
                limits:
                  google.com/tpu: $CHIPS_PER_HOST
              volumeMounts:
              - name: shared
                mountPath: /shared
            volumes:
            - name: shared
              persistentVolumeClaim:
                claimName: $CLAIM"
if $is_dry_run; then
  printf '%s\n' "$manifest"
else
  kubectl apply -f - <<<"$manifest"
fi
