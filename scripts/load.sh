#!/usr/bin/env bash
# A load test of a fresh gateway: starts `flashgate dev` on free loopback ports and an empty
# directory, runs the goose scenarios against it, proves with `flashgate verify` that nothing was
# oversold or lost, and stops it. Arguments go to the load test (goose's own: --users, --run-time …).
set -euo pipefail
cd "$(dirname "$0")/.."

# How long the gateway may take to start, in tenths of a second.
ready_tries=600

cargo build --release -p flashgate -p loadtest
target=${CARGO_TARGET_DIR:-target}
dir=$(mktemp -d "${TMPDIR:-/tmp}/flashgate-load-XXXXXX")
chmod 755 "$dir"
dev=

finish() {
    status=$?
    if [ -n "$dev" ]; then
        kill -TERM "$dev" 2>/dev/null || true
        wait "$dev" || true
    fi
    if [ "$status" -eq 0 ]; then
        rm -rf "$dir"
    else
        echo "load: failed; logs and data are in $dir" >&2
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The value of a key of dev.json, which has one key a line.
told() {
    sed -n "s/^ *\"$1\": *\"\([^\"]*\)\".*/\1/p" "$dir/dev.json"
}

is_ready() {
    grep -q 'is live' "$dir/gateway.log"
}

"$target/release/flashgate" dev --data "$dir" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
    >"$dir/gateway.log" 2>&1 &
dev=$!
for ((try = 0; ; try++)); do
    is_ready && break
    if ! kill -0 "$dev" 2>/dev/null || ((try >= ready_tries)); then
        tail -n 20 "$dir/gateway.log" >&2
        echo "load: the gateway did not become ready" >&2
        exit 1
    fi
    sleep 0.1
done

echo "load: gateway on http://$(told listen), admin on http://$(told adminListen)"
# It ends by running `flashgate verify` itself.
FLASHGATE_BIN="$target/release/flashgate" \
    FLASHGATE_REDIS_URL="$(told redisUrl)" FLASHGATE_DATABASE_URL="$(told databaseUrl)" \
    cargo run --quiet --release -p loadtest -- --host "http://$(told listen)" "$@"
