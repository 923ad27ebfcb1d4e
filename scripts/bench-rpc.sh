#!/usr/bin/env bash
# Measures RPC: calls a second, streams next to plain HTTP, latency while the mount is written to, memory.
# The figures are in docs/benchmarks.md. Needs FUSE. bench-rpc.sh [calls|streams|latency|commands]...
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
cargo build --locked --release --quiet --bin wsd --example rpc_load
work=$(mktemp -d)
daemon=
finish() {
    if [ -n "$daemon" ]; then
        kill "$daemon"
        wait "$daemon"
    fi
    rm -rf "$work"
}
trap finish EXIT
PORT=0 WSD_DB="$work/store.db" MOUNT_POINT="$work/mnt" WSD_LOG=warn WSD_CACHE_BYTES=64M \
    "$target/release/wsd" > "$work/out" 2> "$work/log" &
daemon=$!
until grep -q : "$work/out"; do
    kill -0 "$daemon"
    sleep 0.05
done
port=$(sed -n '1s/.*://p' "$work/out")
for what in "${@:-calls streams latency commands}"; do
    for each in $what; do
        "$target/release/examples/rpc_load" "$port" "$work/mnt" "$daemon" "$each"
    done
done
