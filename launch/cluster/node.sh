#!/bin/bash
# torchrun on one node of a cluster job, as Slurm, Kubernetes or ssh start it there:
#
#     bash launch/cluster/node.sh TORCHRUN_OPTIONS launch/train.py +exp=NAME key=value ...
#
# SIGTERM and SIGUSR1 reach the ranks through torchrun, which then restarts nothing: they write a checkpoint at the next
# step boundary and end. torchrun itself ends with status 1 whatever its ranks say, so this script says what they said:
# status 75 (EX_TEMPFAIL) means "run the same command again", and goes on from there. So it does on a node that nobody
# signalled, whose ranks stopped with the others'.
set -u

readonly REQUEUE=75
# How long the ranks may take for that checkpoint before torchrun kills them (its own default is 30 s).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
# Made by a rank that was preempted, removed by one that starts (launch/cli/errors.py).
PLACKETT_PREEMPTED_FILE=$(mktemp -u "${TMPDIR:-/tmp}/plackett-preempted-XXXXXXXX")
export PLACKETT_PREEMPTED_FILE

asked_to_stop=false
torchrun_pid=
ranks=

# The first signal alone is passed on: at the third one torchrun leaves without waiting for its ranks, and a cluster
# that sends its own to every process has sent it one or two.
# shellcheck disable=SC2329 # called by the trap
stop() {
    if [[ -n $torchrun_pid ]] && ! $asked_to_stop; then
        ranks=$(cat "/proc/$torchrun_pid/task/$torchrun_pid/children" 2>/dev/null)
        kill -TERM "$torchrun_pid" 2>/dev/null
    fi
    asked_to_stop=true
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

deadline=$((SECONDS + TORCH_ELASTIC_SHUTDOWN_TIMEOUT))
for rank in $ranks; do # it may have left before them all the same, and with this script they would be killed
    while kill -0 "$rank" 2>/dev/null && ((SECONDS < deadline)); do
        sleep 0.2
    done
done

if [[ $status -ne 0 ]] && { $asked_to_stop || [[ -e $PLACKETT_PREEMPTED_FILE ]]; }; then
    status=$REQUEUE
fi
rm -f "$PLACKETT_PREEMPTED_FILE"
exit "$status"
