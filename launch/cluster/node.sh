#!/bin/bash
# torchrun on one node of a cluster job, as Slurm, Kubernetes or ssh start it there:
#
#     bash launch/cluster/node.sh TORCHRUN_OPTIONS launch/train.py +exp=NAME key=value ...
#
# SIGTERM and SIGUSR1 reach the ranks through torchrun, which then restarts nothing: they write a checkpoint at the next
# step boundary and end. torchrun itself ends with status 1 whatever its ranks say, so that this script, which knows
# that it was asked to stop, says so: status 75 (EX_TEMPFAIL) means "run the same command again", and goes on from there.
set -u

readonly REQUEUE=75
# How long the ranks may take for that checkpoint before torchrun kills them (its own default is 30 s).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}

asked_to_stop=false
torchrun_pid=

# shellcheck disable=SC2329 # called by the trap
stop() {
    asked_to_stop=true
    if [[ -n $torchrun_pid ]]; then
        kill -TERM "$torchrun_pid" 2>/dev/null
    fi
}
trap stop TERM USR1

# Slurm sends a signal to every process of a step. Ignored here, SIGUSR1 is ignored by what this starts as well, until
# the ranks ask for it themselves.
(trap '' USR1 && exec "${PYTHON:-python}" -m torch.distributed.run "$@") &
torchrun_pid=$!
if $asked_to_stop; then
    kill -TERM "$torchrun_pid" # the signal came in between
fi

while kill -0 "$torchrun_pid" 2>/dev/null; do
    wait "$torchrun_pid" # a trapped signal ends it early
done
wait "$torchrun_pid"
status=$?

if [[ $status -ne 0 ]] && $asked_to_stop; then
    exit "$REQUEUE"
fi
exit "$status"
