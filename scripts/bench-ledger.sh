#!/usr/bin/env bash
# What batching is worth without Redis: durable reservations per second on one hot SKU that is not on sale, the ledger
# engine against the textbook's gateway (loadtest/baselines/textbook: a conditional UPDATE and an INSERT in a
# transaction per request, over a pool of 8, 16 and 32 connections). One after the other, over the same Postgres, HTTP
# stack and wrk; the textbook counts at its best pool. Ends with `flashgate verify`.
#
#   scripts/bench-ledger.sh [ROUNDS] [SECONDS] [CONNECTIONS]      default: 3 10 64
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3} seconds=${2:-10} count=${3:-64}

command -v wrk >/dev/null || { echo "installing wrk" && apt-get install -y wrk >/dev/null; }
[ -n "${NO_BUILD:-}" ] || cargo build --release --quiet -p flashgate -p textbook
bin=target/release/flashgate
home=$(mktemp -d) pid="" textbook=""

stop() {
  for process in $textbook $pid; do kill "$process" 2>/dev/null || true; wait "$process" 2>/dev/null || true; done
  pid="" textbook=""
}
trap 'stop; rm -rf "$home"' EXIT

FLASHGATE_LOG_FILTER=warn "$bin" dev --no-demo --data "$home" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
  >"$home/out" 2>"$home/err" &
pid=$!
for _ in $(seq 1 300); do grep -q 'is ready' "$home/out" && break; sleep 0.1; done
told() { sed -E "s/.*\"$1\": ?\"([^\"]+)\".*/\1/" <(tr -d '\n' <"$home/dev.json"); }
public=$(told listen) admin=$(told adminListen) database=$(told databaseUrl)

ask() { curl -sf -H 'Content-Type: application/json' "$@" >/dev/null; }
ask -X PUT "http://$admin/admin/locations/wh1" -d '{"name":"w","kind":"warehouse","region":"r","active":true}'
ask -X PUT "http://$admin/admin/skus/hot" -d '{"display":"exact"}'

load() { # load NAME ADDRESS: prints answers with 201 per second; all others are told
  wrk -t1 -c"$count" -d"${seconds}s" -s loadtest/wrk/accepted.lua "http://$2" -- "$1" >"$home/wrk"
  awk '/^requests/ { if ($6 > 0) print $6 " answers were not 2xx" > "/dev/stderr"
                     printf "%d\n", ($2 - $6) / $4 }' "$home/wrk"
}

ratios=""
for round in $(seq 1 "$rounds"); do
  for part in a b c; do
    ask "http://$admin/api/inventory/adjustments" -d "{\"skuId\":\"hot\",\"locationId\":\"wh1\",\"delta\":1000000,
      \"reason\":\"stock_received\",\"referenceId\":\"$round-$part\"}"
  done
  engine=$(load "e$round" "$public")
  best=0
  for pool in 8 16 32; do
    target/release/textbook "$database" 127.0.0.1:0 "$pool" >"$home/textbook" &
    textbook=$!
    for _ in $(seq 1 100); do [ -s "$home/textbook" ] && break; sleep 0.1; done
    rate=$(load "t$round-$pool" "$(cat "$home/textbook")")
    kill "$textbook"; wait "$textbook" 2>/dev/null || true; textbook=""
    echo "round $round: textbook with $pool connections $rate/s"
    if [ "$rate" -gt "$best" ]; then best=$rate; fi
  done
  ratio=$(awk "BEGIN { printf \"%.2f\", $engine / $best }")
  ratios="$ratios $ratio"
  echo "round $round: ledger engine $engine/s, textbook at its best $best/s, ratio $ratio"
done
echo "$count callers: median ratio $(tr ' ' '\n' <<<"$ratios" | sed '/^$/d' | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')"
"$bin" verify --data "$home" >"$home/verify" && echo "verify: all agrees" || { cat "$home/verify"; exit 1; }
