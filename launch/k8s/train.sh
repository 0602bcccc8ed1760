#!/bin/bash
# One node's part of a training under Kubernetes; the arguments are those of launch/train.py.
#
# torchrun reads its own flags from PET_NNODES, PET_NODE_RANK, PET_NPROC_PER_NODE, PET_MASTER_ADDR and
# PET_MASTER_PORT, which Kubeflow sets. It loses exit codes, so status.json is asked how it ended:
# 0 done, 75 the same command goes on and got further in this start, else torchrun's code.

set -uo pipefail

steps() { python launch/job_status.py steps "$@"; }

# The training itself is signalled: torchrun would kill it after 30 seconds.
stop() { kill -TERM $(cat "/proc/$torchrun/task/$torchrun/children") 2>/dev/null; }

read -r _ before < <(steps "$@")
torchrun launch/train.py "$@" &
torchrun=$!
trap stop TERM INT
wait "$torchrun"
code=$?
while kill -0 "$torchrun" 2>/dev/null; do # a signal ended the wait, not torchrun
    wait "$torchrun"
    code=$?
done

[ "$code" -eq 0 ] && exit 0
read -r state after < <(steps "$@")
[ "$state" = resumable ] && [ "$after" -gt "${before:-0}" ] && exit 75
exit "$code"
