#!/usr/bin/env bash
# submit_schedule_creator.sh SCRIPT [JOB...]: submits a script of one process, after all these jobs have ended.
set -euo pipefail

script=$1
shift
name=$(basename "${script%.*}")
mkdir -p "$OUTPUT_LOGS_FOLDER"
export LOGS_BASE_FILENAME=$OUTPUT_LOGS_FOLDER/$name
dependency=()
[ $# -eq 0 ] || dependency=(--dependency="afterany$(printf ':%s' "$@")")
sbatch "${dependency[@]}" ${ACCOUNT:+--account="$ACCOUNT"} \
    --output="$LOGS_BASE_FILENAME.out" --error="$LOGS_BASE_FILENAME.err" "$script"
