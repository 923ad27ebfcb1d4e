#!/usr/bin/env bash
# Measures sync: how fast a write is seen elsewhere, how fast a tree and a large file pass, what travels. Prints a table.
# `scripts/bench-sync.sh [propagation] [initial] [large] [rename]`; FILES, LARGE_MIB, RENAMED and PINGS set sizes.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet --locked
exec python3 scripts/bench_sync.py "${CARGO_TARGET_DIR:-target}/release/wsd" "$@"
