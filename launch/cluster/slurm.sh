#!/bin/bash
# A training run on the nodes of a Slurm job. Submit it from the root of the repository:
#
#     sbatch launch/cluster/slurm.sh +exp=embedder_large_batch engine=zero2 output_dir=/shared/outputs
#     sbatch --nodes=8 --time=48:00:00 launch/cluster/slurm.sh +exp=reranker_grpo ...     # sbatch's options come first
#     sbatch --array=0-3 launch/cluster/slurm.sh --sweep launch/cluster/sweep.txt +exp=reranker_grpo
#     sbatch --array=0-4 launch/cluster/slurm.sh +exp=reranker_grpo                       # five seeds
#
# Options before the settings:
#     --sweep FILE           array task i adds the settings in line i of the file (from 0; # begins a comment line);
#                            without --sweep, array task i adds seed=i. In both cases run_name is JOB_NAME-i.
#     --ranks-per-node N     processes on each node (default: its GPUs)
#     --max-restarts N       how often torchrun restarts all ranks after one has failed (default 3)
#
# Five minutes before the time limit, or when the job is preempted, the run saves a checkpoint and the job is requeued.
# It then resumes from that checkpoint. `output_dir` and `data.cache_dir` must be on a disk that all nodes see.

#SBATCH --job-name=plackett
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
readonly REQUEUE=75 # exit status of node.sh after a preemption
readonly NODE=launch/cluster/node.sh

fail() {
    echo "error: $1" >&2
    exit 1
}

sweep=
ranks_per_node=gpu
max_restarts=3
while [[ ${1:-} == --* ]]; do
    [[ $# -ge 2 ]] || fail "$1 needs a value"
    case $1 in
        --sweep) sweep=$2 ;;
        --ranks-per-node) ranks_per_node=$2 ;;
        --max-restarts) max_restarts=$2 ;;
        *) fail "$1 is not an option of slurm.sh: --sweep, --ranks-per-node, --max-restarts" ;;
    esac
    shift 2
done

cd "$SLURM_SUBMIT_DIR" || fail "cannot enter $SLURM_SUBMIT_DIR"
[[ -f $NODE ]] || fail "$SLURM_SUBMIT_DIR is not the repository: run sbatch there"
if [[ -f .venv/bin/activate ]]; then
    # shellcheck source=/dev/null
    source .venv/bin/activate
fi

settings=("$@")
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    if [[ -z $sweep ]]; then
        settings+=("seed=$SLURM_ARRAY_TASK_ID")
    else
        [[ -f $sweep ]] || fail "--sweep $sweep: no such file in $SLURM_SUBMIT_DIR"
        mapfile -t lines < <(grep -vE '^[[:space:]]*(#|$)' "$sweep")
        line=${lines[$SLURM_ARRAY_TASK_ID]:-}
        [[ -n $line ]] || fail "--sweep $sweep has ${#lines[@]} lines, but none for array task $SLURM_ARRAY_TASK_ID"
        # Settings are separated by blanks; quotes work as in a shell.
        mapfile -t -d '' more < <(xargs printf '%s\0' <<<"$line")
        settings+=("${more[@]}")
    fi
    settings+=("run_name=$SLURM_JOB_NAME-$SLURM_ARRAY_TASK_ID")
elif [[ -n $sweep ]]; then
    fail "--sweep needs an array: sbatch --array=0-3 $0"
fi

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # different for jobs that share a node
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

asked_to_stop=false
# shellcheck disable=SC2329 # called by the trap
stop() {
    asked_to_stop=true
    kill -USR1 "$srun_pid" 2>/dev/null # srun forwards it to every node
}

# --rdzv_id: after a requeue the run recognises by the job's number that it is the same launch, and resumes.
# --kill-on-bad-exit=0: a node that has ended does not kill the others, which may still be writing the checkpoint.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    --kill-on-bad-exit=0 --wait=300 \
    bash "$NODE" \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="$ranks_per_node" \
    --rdzv_backend=c10d --rdzv_endpoint="$head_node:$port" \
    --rdzv_id="$SLURM_JOB_ID" --max_restarts="$max_restarts" \
    launch/train.py "${settings[@]}" &
srun_pid=$!
trap stop USR1 TERM

while kill -0 "$srun_pid" 2>/dev/null; do
    wait "$srun_pid" # a trapped signal ends it early
done
wait "$srun_pid"
status=$?

if [[ $status -eq $REQUEUE ]] || { [[ $status -ne 0 ]] && $asked_to_stop; }; then
    echo "stopped after a checkpoint: requeueing job $SLURM_JOB_ID" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
