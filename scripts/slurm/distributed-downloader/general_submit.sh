#!/usr/bin/env bash
# general_submit.sh SCRIPT [JOB...]: submits a script of one process, after all these jobs have succeeded.
set -euo pipefail

script=$1
shift
name=$(basename "${script%.*}")
mkdir -p "$OUTPUT_LOGS_FOLDER"
dependency=()
[ $# -eq 0 ] || dependency=(--dependency="afterok$(printf ':%s' "$@")" --kill-on-invalid-dep=yes)
sbatch "${dependency[@]}" ${ACCOUNT:+--account="$ACCOUNT"} \
    --output="$OUTPUT_LOGS_FOLDER/$name.out" --error="$OUTPUT_LOGS_FOLDER/$name.err" "$script"
