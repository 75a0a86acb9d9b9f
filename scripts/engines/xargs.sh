#!/usr/bin/env bash
# Runs units side by side on this machine:
#
#   scripts/engines/xargs.sh UNITS RESULTS PROCESSES [OPTIONS OF ddl unit run]
#   ddl unit import RESULTS/*.zip
#
# Where one is killed, the others go on; the same command then does what is left. DDL names the program.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 UNITS RESULTS PROCESSES [OPTIONS OF ddl unit run]" >&2
    exit 2
fi
units=$1 results=$2 processes=$3
shift 3
mkdir -p "$results"
# A process that a signal has ended would end xargs, too: hence the shell between them.
find "$units" -name 'partition_*.parquet' -print0 | sort -z |
    xargs -0 -r -n 1 -P "$processes" sh -c '"$@" || exit 1' sh \
        "${DDL:-ddl}" unit run --no-progress -o "$results/" "$@"
