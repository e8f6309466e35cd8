#!/usr/bin/env bash
# What micro-batching is worth: accepted reservations per second on one hot SKU, the gateway as it is against the same
# gateway with one request a call and calls pipelined. Both in turn, from an empty queue, over the same servers and
# the same wrk; the ratio of each pair and their median.
#
#   scripts/bench-batching.sh [PAIRS] [SECONDS] [CONNECTIONS…]      default: 5 10 64 256
set -euo pipefail
cd "$(dirname "$0")/.."

pairs=${1:-5} seconds=${2:-10}
shift $(($# < 2 ? $# : 2))
connections=(${@:-64 256})

command -v wrk >/dev/null || { echo "installing wrk" && apt-get install -y wrk >/dev/null; }
[ -n "${NO_BUILD:-}" ] || cargo build --release --quiet
bin=target/release/flashgate
home=$(mktemp -d) pid=""

stop() {
  if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; pid=""; fi
}
trap 'stop; rm -rf "$home"' EXIT

start() { # start FLAGS…: a gateway on the same data
  rm -f "$home/dev.json"
  FLASHGATE_LOG_FILTER=warn "$bin" dev --no-demo --data "$home" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 "$@" \
    >"$home/out" 2>"$home/err" &
  pid=$!
  for _ in $(seq 1 300); do grep -q 'is ready' "$home/out" && break; sleep 0.1; done
  public=$(sed -E 's/.*"listen": ?"([^"]+)".*/\1/' <(tr -d '\n' <"$home/dev.json"))
  admin=$(sed -E 's/.*"adminListen": ?"([^"]+)".*/\1/' <(tr -d '\n' <"$home/dev.json"))
}

ask() { curl -sf -H 'Content-Type: application/json' "$@" >/dev/null; }
figure() { curl -sf "http://$admin/admin/sales/$1" | sed -E "s/.*\"$2\":([0-9]+).*/\1/"; }

round() { # round NAME CONNECTIONS FLAGS…: prints accepted reservations per second
  local name=$1 count=$2
  shift 2
  start "$@"
  ask -X PUT "http://$admin/admin/locations/wh1" -d '{"name":"w","kind":"warehouse","region":"r","active":true}'
  ask -X PUT "http://$admin/admin/skus/hot" -d '{"display":"exact"}'
  ask "http://$admin/api/inventory/adjustments" \
    -d "{\"skuId\":\"hot\",\"locationId\":\"wh1\",\"delta\":1000000,\"reason\":\"stock_received\",\"referenceId\":\"$name-a\"}"
  ask "http://$admin/api/inventory/adjustments" \
    -d "{\"skuId\":\"hot\",\"locationId\":\"wh1\",\"delta\":1000000,\"reason\":\"stock_received\",\"referenceId\":\"$name-b\"}"
  ask "http://$admin/admin/sales" \
    -d "{\"saleId\":\"$name\",\"skuId\":\"hot\",\"locationId\":\"wh1\",\"allocation\":1000000}"
  ask -X POST "http://$admin/admin/sales/$name/start"
  wrk -t1 -c"$count" -d"${seconds}s" -s loadtest/wrk/accepted.lua "http://$public" -- "$name" >"$home/wrk"
  local accepted
  accepted=$(figure "$name" accepted)
  for _ in $(seq 1 600); do [ "$(figure "$name" queueDepth)" = 0 ] && break; sleep 0.1; done
  [ "$(figure "$name" durable)" = "$(figure "$name" accepted)" ] || echo "not all became durable" >&2
  # Another sale of the item follows: this one must be over.
  ask -X POST "http://$admin/admin/sales/$name/stop"
  stop
  echo $((accepted / seconds))
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

for count in "${connections[@]}"; do
  ratios=""
  for pair in $(seq 1 "$pairs"); do
    batched=$(round "b$count-$pair" "$count")
    single=$(round "s$count-$pair" "$count" --batch-max 1 --calls-max 128)
    ratio=$(awk "BEGIN { printf \"%.2f\", $batched / $single }")
    ratios="$ratios $ratio"
    echo "$count connections, pair $pair: batched $batched/s, one by one $single/s, ratio $ratio"
  done
  echo "$count connections: median ratio $(tr ' ' '\n' <<<"$ratios" | sed '/^$/d' | median)"
done
