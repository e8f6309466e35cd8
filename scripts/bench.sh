#!/bin/sh
# Measures the gateway beside what one would use instead (loadtest/baselines), each in turn over private servers, and
# proves every measurement by the ledger; loadtest/README.md says what the figures mean. Installs wrk where it is
# missing. Arguments go to the program: --rounds, --seconds, --quick … With --guard all is built with the profile of that
# name, whose build is shorter.
#
#     scripts/bench.sh [ARGS]         NO_BUILD=1: with the builds that are there
set -eu
cd "$(dirname "$0")/.."

if ! command -v wrk >/dev/null 2>&1; then
    echo "bench: installing wrk" >&2
    if command -v apt-get >/dev/null 2>&1; then
        as_root=$([ "$(id -u)" -eq 0 ] || echo sudo)
        # A fresh machine may have no list of packages yet.
        $as_root apt-get -y -qq install --no-install-recommends wrk >/dev/null ||
            { $as_root apt-get -qq update && $as_root apt-get -y -qq install --no-install-recommends wrk >/dev/null; }
    else
        brew install --quiet wrk
    fi
fi
profile=release
for arg; do
    [ "$arg" != --guard ] || profile=guard
done
[ -n "${NO_BUILD:-}" ] || cargo build --profile "$profile" --quiet -p flashgate -p baselines -p bench
exec "${CARGO_TARGET_DIR:-target}/$profile/bench" "$@"
