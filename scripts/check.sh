#!/usr/bin/env bash
# Every check of the project, for a developer and for CI alike.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --locked
