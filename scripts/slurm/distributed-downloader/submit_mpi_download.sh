#!/usr/bin/env bash
# submit_mpi_download.sh SCRIPT SCHEDULE ITERATION [JOB]: submits a script of many ranks, after that job has ended.
set -euo pipefail

script=$1 schedule=$2 iteration=$3
name=$(basename "${script%.*}")
logs=$OUTPUT_LOGS_FOLDER/current/$schedule/$iteration
mkdir -p "$logs"
size=(--nodes="$DOWNLOADER_MAX_NODES" --ntasks-per-node="$DOWNLOADER_WORKERS_PER_NODE")
# 0 leaves it to Slurm.
[ "$DOWNLOADER_CPU_PER_WORKER" -eq 0 ] || size+=(--cpus-per-task="$DOWNLOADER_CPU_PER_WORKER")
# shellcheck disable=SC2086  # no dependency, no word
sbatch "${size[@]}" ${4:+--dependency=afterany:$4} ${ACCOUNT:+--account="$ACCOUNT"} \
    --output="$logs/$name.out" --error="$logs/$name.err" "$script" "$schedule" "$iteration"
