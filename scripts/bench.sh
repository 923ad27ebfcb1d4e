#!/usr/bin/env bash
# Measures wsd's mount side by side with ext4 and tmpfs; see `scripts/bench.sh --help`.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z "${WSD:-}" ]]; then
    cargo build --release --locked --bin wsd
fi
if [[ " $* " == *" --ceiling "* ]]; then
    cargo build --release --locked --example ceiling
fi
exec python3 scripts/bench.py "$@"
