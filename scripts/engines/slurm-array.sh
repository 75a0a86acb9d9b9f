#!/usr/bin/env bash
#SBATCH --job-name=ddl-unit
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR2@180
#SBATCH --requeue
#
# One unit in each task of a Slurm array; here 16 at a time:
#
#   units=$(ls units/partition_*.parquet | wc -l)
#   job=$(sbatch --parsable --array=1-$units%16 scripts/engines/slurm-array.sh units results)
#   sbatch --dependency=afterany:$job --time=01:00:00 --wrap 'ddl unit import results/*.zip'
#
# Near its end a task stops, with what it has sealed, and takes its place in the queue again. Other engines number their
# tasks likewise: set SLURM_ARRAY_TASK_ID to that. DDL names the program.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 UNITS RESULTS [OPTIONS OF ddl unit run]" >&2
    exit 2
fi
units=$1 results=$2
shift 2
unit=$(printf '%s/partition_%03d.parquet' "$units" "${SLURM_ARRAY_TASK_ID:?is the number of the unit}")
mkdir -p "$results"
"${DDL:-ddl}" unit run --no-progress -o "$results/" "$@" "$unit" &
worker=$!
trap 'kill -USR2 "$worker" 2>/dev/null || true' USR2 TERM
# A signal ends the wait, but not the worker.
while :; do
    code=0
    wait "$worker" || code=$?
    kill -0 "$worker" 2>/dev/null || break
done
# Stopped early: what is sealed is on the disk, and the next time goes on from there.
if [ "$code" -eq 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
