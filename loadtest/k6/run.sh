#!/bin/sh
# Runs the journey with k6, then `flashgate verify`; fails if either fails. The
# ledger is verified whatever k6 said: a run that missed a threshold is no excuse.
#   loadtest/k6/run.sh [k6 options]
# Reads the journey's settings (../README.md) and, for verify, FLASHGATE_BIN,
# FLASHGATE_REDIS_URL and FLASHGATE_DATABASE_URL.
set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
built=$here/../../target/release/flashgate
if [ -n "${FLASHGATE_BIN:-}" ]; then
  flashgate=$FLASHGATE_BIN
elif [ -x "$built" ]; then
  flashgate=$built
else
  flashgate=flashgate
fi
for needed in k6 "$flashgate"; do
  command -v "$needed" >/dev/null || { echo "run.sh: $needed was not found" >&2; exit 2; }
done

# The ids of this run, in case someone asks the ledger about them later.
export RUN_ID="${RUN_ID:-k6-$(date +%s)}"

k6 run "$@" "$here/journey.ts"
load=$?
"$flashgate" verify
ledger=$?

echo "run $RUN_ID: k6 exit $load, flashgate verify exit $ledger"
[ "$load" -eq 0 ] && [ "$ledger" -eq 0 ]
