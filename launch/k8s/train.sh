#!/bin/bash
# Trains on one node under Kubernetes; the arguments are those of launch/train.py.
#
# torchrun reads its own flags from PET_NNODES, PET_NODE_RANK, PET_NPROC_PER_NODE, PET_MASTER_ADDR and
# PET_MASTER_PORT, which Kubeflow sets. It does not pass exit codes on, so they come from status.json:
# 0 if done; 75 if the same command resumes and this start made progress; otherwise torchrun's code.

set -uo pipefail

steps() { python launch/job_status.py steps "$@"; }

# Signals the training itself, because torchrun would kill it after 30 seconds.
stop() { kill -TERM $(cat "/proc/$torchrun/task/$torchrun/children") 2>/dev/null; }

read -r _ before < <(steps "$@")
torchrun launch/train.py "$@" &
torchrun=$!
trap stop TERM INT
wait "$torchrun"
code=$?
while kill -0 "$torchrun" 2>/dev/null; do # a signal interrupted the wait, torchrun still runs
    wait "$torchrun"
    code=$?
done

[ "$code" -eq 0 ] && exit 0
read -r state after < <(steps "$@")
[ "$state" = resumable ] && [ "$after" -gt "${before:-0}" ] && exit 75
exit "$code"
