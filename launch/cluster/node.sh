#!/bin/bash
# Run torchrun on one node of a cluster job, started by Slurm, Kubernetes or ssh:
#
#     bash launch/cluster/node.sh TORCHRUN_OPTIONS launch/train.py +exp=NAME key=value ...
#
# On SIGTERM or SIGUSR1 torchrun forwards the signal to the ranks and does not restart them. They save a checkpoint
# after the current step and exit. torchrun's own exit status is then always 1, so this script returns that of the ranks:
# 75 (EX_TEMPFAIL) means "run the same command again", which resumes from the checkpoint. A node that got no signal, but
# whose ranks stopped because another node got one, returns 75 too.
set -u

readonly REQUEUE=75
# How long the ranks may take for the checkpoint before torchrun kills them (torchrun's default is 30 s).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
# Created by a rank that is preempted, removed by a rank that starts (launch/cli/errors.py).
PLACKETT_PREEMPTED_FILE=$(mktemp -u "${TMPDIR:-/tmp}/plackett-preempted-XXXXXXXX")
export PLACKETT_PREEMPTED_FILE

asked_to_stop=false
torchrun_pid=
ranks=

# Only the first signal is forwarded: at the third one torchrun exits without waiting for its ranks, and a cluster that
# signals every process has already sent it one or two.
# shellcheck disable=SC2329 # called by the trap
stop() {
    if [[ -n $torchrun_pid ]] && ! $asked_to_stop; then
        ranks=$(cat "/proc/$torchrun_pid/task/$torchrun_pid/children" 2>/dev/null)
        kill -TERM "$torchrun_pid" 2>/dev/null
    fi
    asked_to_stop=true
}
trap stop TERM USR1

# Slurm signals every process of a job step. Since SIGUSR1 is ignored here, the child processes ignore it too, until the
# ranks install their own handler.
(trap '' USR1 && exec "${PYTHON:-python}" -m torch.distributed.run "$@") &
torchrun_pid=$!
if $asked_to_stop; then
    kill -TERM "$torchrun_pid" # the signal arrived before torchrun_pid was set
fi

while kill -0 "$torchrun_pid" 2>/dev/null; do
    wait "$torchrun_pid" # a trapped signal ends it early
done
wait "$torchrun_pid"
status=$?

deadline=$((SECONDS + TORCH_ELASTIC_SHUTDOWN_TIMEOUT))
for rank in $ranks; do # torchrun may still have exited before its ranks, which would be killed with this script
    while kill -0 "$rank" 2>/dev/null && ((SECONDS < deadline)); do
        sleep 0.2
    done
done

if [[ $status -ne 0 ]] && { $asked_to_stop || [[ -e $PLACKETT_PREEMPTED_FILE ]]; }; then
    status=$REQUEUE
fi
rm -f "$PLACKETT_PREEMPTED_FILE"
exit "$status"
