# Before Slurm 23.02 a job is not told its end.
if [ -z "$SLURM_JOB_END_TIME" ]; then
    end=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2>/dev/null)
    [[ $end == *-*T*:* ]] && export SLURM_JOB_END_TIME=$(date -d "$end" +%s)
fi

# Near its end, or cancelled: ddl seals what it has, commits it and exits with 75.
stop() {
    stopping=1 interrupted=1
    [ -z "$step" ] || kill -USR2 "$step"
}
trap stop USR2 TERM

# Runs a command in the background, so that signals are heard meanwhile.
run() {
    [ -z "$stopping" ] || exit 75
    "$@" &
    step=$!
    # A signal ends `wait`, not the command.
    while interrupted=; wait "$step"; code=$?; [ -n "$interrupted" ]; do :; done
    step=
    [ "$code" -ge 128 ] && [ "$code" -ne 130 ] || return "$code"
    # Asked to stop before it could listen: nothing was under way.
    [ -z "$stopping" ] || return 75
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$max_requeues" ]; then
        echo "a process was killed (exit code $code): the job begins again"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    return "$code"
}
