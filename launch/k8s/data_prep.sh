#!/bin/bash
# One pod's part of a data preparation; the arguments are those of `python -m data_prep shard`.
#
# Pod 0 of the indexed Job has the scheduler and the command, the others the workers.
# SCHEDULER_HOST is pod 0's name in the Job's service.

set -euo pipefail

port=${SCHEDULER_PORT:-8786}
if [ "$JOB_COMPLETION_INDEX" != 0 ]; then
    # Workers end with their scheduler; a pod 0 that comes again has a new one. Never with 0: an index
    # that has succeeded is not started again, and the Job ends all pods when it is done.
    trap 'kill "$!" 2> /dev/null; exit 143' TERM INT
    while true; do
        dask worker "tcp://$SCHEDULER_HOST:$port" --nworkers "${WORKERS:-auto}" --nthreads 1 \
            --no-dashboard --death-timeout 600 &
        wait "$!" || true
        sleep 5 &
        wait "$!" || true
    done
fi
dask scheduler --host "${SCHEDULER_BIND:-0.0.0.0}" --port "$port" --no-dashboard &
trap 'kill $!' EXIT
python -m data_prep shard "$@" --scheduler "tcp://127.0.0.1:$port"
