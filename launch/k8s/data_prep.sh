#!/bin/bash
# One pod's part of a data preparation; the arguments are those of `python -m data_prep shard`.
#
# Pod 0 of the indexed Job has the scheduler and the command, the others the workers.
# SCHEDULER_HOST is pod 0's name in the Job's service.

set -euo pipefail

port=${SCHEDULER_PORT:-8786}
if [ "$JOB_COMPLETION_INDEX" != 0 ]; then
    # It tries again until the scheduler is there, and ends ten minutes after it is gone.
    exec dask worker "tcp://$SCHEDULER_HOST:$port" --nworkers "${WORKERS:-auto}" --nthreads 1 \
        --no-dashboard --death-timeout 600
fi
dask scheduler --host "${SCHEDULER_BIND:-0.0.0.0}" --port "$port" --no-dashboard &
trap 'kill $!' EXIT
python -m data_prep shard "$@" --scheduler "tcp://127.0.0.1:$port"
