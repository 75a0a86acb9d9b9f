#!/usr/bin/env bash
# tools_submit.sh SCRIPT TOOL [JOB] [--spark]: submits a stage of a tool, after that job has ended.
# With --spark the stage is one process.
set -euo pipefail

script=$1 tool=$2
shift 2
name=$(basename "${script%.*}")
mkdir -p "$OUTPUT_TOOLS_LOGS_FOLDER"
size=(--nodes="$TOOLS_MAX_NODES" --ntasks-per-node="$TOOLS_WORKERS_PER_NODE")
# 0 leaves it to Slurm.
[ "$TOOLS_CPU_PER_WORKER" -eq 0 ] || size+=(--cpus-per-task="$TOOLS_CPU_PER_WORKER")
dependency=()
for word in "$@"; do
    case $word in
    --spark) size=(--nodes=1 --ntasks=1) ;;
    *) dependency=(--dependency=afterany:"$word") ;;
    esac
done
sbatch "${size[@]}" "${dependency[@]}" ${ACCOUNT:+--account="$ACCOUNT"} \
    --output="$OUTPUT_TOOLS_LOGS_FOLDER/$name.out" --error="$OUTPUT_TOOLS_LOGS_FOLDER/$name.err" "$script" "$tool"
