#!/usr/bin/env bash
# Installs what is missing on Debian 12 (and its relatives) to build and test ddl.
#
#   scripts/install-debian.sh plain   a C compiler: all that the plain build needs
#   scripts/install-debian.sh full    and MPI, libclang, cmake, nasm: --features mpi,turbojpeg
#   scripts/install-debian.sh python  Python with venv: the tests read results back with it
#   scripts/install-debian.sh slurm   Slurm and munge: tests start a cluster of their own
#   scripts/install-debian.sh browser Chromium: the tests look at the report with it (110 MB, 20 s)
#   scripts/install-debian.sh bench   nginx, curl and Java, for the benchmarks
#   scripts/install-debian.sh engines Makeflow and Work Queue: a test runs work units on them
#   scripts/install-debian.sh all     all of these but what the benchmarks need
#
# It looks before it asks: where everything is in place, neither apt-get nor sudo nor the network is used.
set -euo pipefail

missing=()
# need PACKAGES PROBE...: the packages are missing unless the probe succeeds.
need() {
    local packages=$1
    shift
    # shellcheck disable=SC2206  # several packages may stand in one word
    "$@" >/dev/null 2>&1 || missing+=($packages)
}
have() { command -v "$1"; }
have_libc_headers() { echo '#include <stdio.h>' | cc -E -; }
# The library alone is not enough: bindgen reads the headers that belong to it, too.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] ||
        { compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' && compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h'; }
}
# Daemons are not in everybody's PATH.
have_daemon() { PATH=$PATH:/usr/sbin:/sbin have "$1"; }
# Debian's python3 comes without the part of venv that brings pip along.
have_venv() { python3 -c 'import ensurepip, venv'; }

plain() {
    need 'gcc libc6-dev' have cc
    need libc6-dev have_libc_headers
}
full() {
    plain
    # cmake and nasm build libjpeg-turbo; without nasm it would silently be built without SIMD.
    need make have make
    need cmake have cmake
    need nasm have nasm
    need openmpi-bin have mpirun
    need libopenmpi-dev have mpicc
    need libclang-dev have_libclang
}
python() {
    need 'python3 python3-venv python3-pip' have_venv
}
slurm() {
    need slurmctld have_daemon slurmctld
    need slurmd have_daemon slurmd
    need slurm-client have srun
    need munge have_daemon munged
}
browser() {
    need chromium have chromium
}
engines() {
    need coop-computing-tools have makeflow
}
bench() {
    need nginx-light have nginx
    need libnginx-mod-http-echo test -e /usr/lib/nginx/modules/ngx_http_echo_module.so
    need curl have curl
    need default-jre-headless have java
}

case ${1:-} in
plain) plain ;;
full) full ;;
python) python ;;
slurm) slurm ;;
browser) browser ;;
engines) engines ;;
bench) bench ;;
all)
    full
    python
    slurm
    browser
    engines
    ;;
*)
    echo "usage: $0 plain|full|python|slurm|browser|engines|bench|all" >&2
    exit 2
    ;;
esac

[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing: ${missing[*]}" >&2
if ! have apt-get >/dev/null; then
    echo "error: this system has no apt-get; install the equivalents of these packages and try again" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! have sudo >/dev/null; then
        echo "error: neither root nor sudo; run as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
# Debian starts the daemons that it installs, unless it is told not to.
policy=/usr/sbin/policy-rc.d
if [[ " ${missing[*]} " =~ \ (slurmctld|slurmd|munge)\  ]] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
# Nobody may be there to answer a question.
"${as_root[@]}" apt-get update -qq </dev/null
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
