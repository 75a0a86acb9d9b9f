#!/usr/bin/env bash
# Writes a Makeflow of units to standard output: a task for each, whose result is one file.
#
#   scripts/engines/makeflow.sh units results > units.makeflow
#   makeflow -T wq -p 9123 --retry-count 9 units.makeflow    # and on any machines: work_queue_worker HOST 9123
#   ddl unit import results/*.zip
#
# `makeflow -T local -j 4` does without workers, `makeflow -T slurm` submits each task as a job. Paths are relative to where
# makeflow runs. Workers need ddl in their PATH, or DDL names it when this script is run.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 UNITS RESULTS [OPTIONS OF ddl unit run]" >&2
    exit 2
fi
units=$1 results=$2
shift 2
case $units$results in
/*) echo "error: Makeflow takes files along that have relative paths" >&2 && exit 2 ;;
esac
for unit in "$units"/partition_*.parquet; do
    result=$results/$(basename "$unit" .parquet).result.zip
    printf '%s: %s\n\t%s unit run --no-progress -o %s %s%s\n\n' \
        "$result" "$unit" "${DDL:-ddl}" "$result" "${*:+$* }" "$unit"
done
