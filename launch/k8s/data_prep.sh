#!/bin/bash
# Prepares data in one pod; the arguments are those of `python -m data_prep shard`.
#
# Pod 0 of the indexed Job runs the Dask scheduler and the command, the other pods run workers.
# SCHEDULER_HOST is the name of pod 0 in the Job's service.

set -euo pipefail

port=${SCHEDULER_PORT:-8786}
if [ "$JOB_COMPLETION_INDEX" != 0 ]; then
    # Workers exit with their scheduler, and start again because a restarted pod 0 has a new one.
    # They never exit with 0: an index that succeeded is not restarted. The finished Job ends all pods.
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
