#!/usr/bin/env bash
# Every check of the project, for a developer and for CI alike. What this machine lacks is skipped and listed
# at the end; with WSD_TEST_ALL=1 it is a failure instead.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
export WSD_TEST_SKIPPED="$PWD/target/skipped"
mkdir -p target && : > "$WSD_TEST_SKIPPED"

step "format"
cargo fmt --all --check
step "schema"
if command -v capnp > /dev/null; then
    scripts/gen-schema.sh --check
else
    echo "SKIPPED schema: capnp is not installed" | tee -a "$WSD_TEST_SKIPPED"
    [ -z "${WSD_TEST_ALL:-}" ]
fi
step "lints"
cargo clippy --locked -p wsd -p wsd-shim --all-targets -- -D warnings
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked -p wsd -p wsd-shim --no-deps --quiet
step "tests"
if cargo nextest --version > /dev/null 2>&1; then
    cargo nextest run --locked -p wsd -p wsd-shim
else
    cargo test --locked -p wsd -p wsd-shim
fi
step "release build"
cargo build --locked --release
step "conformance of the mount (the quick part)"
WSD="$target/release/wsd" scripts/conformance.sh --quick

if [ -s "$WSD_TEST_SKIPPED" ]; then
    printf '\n%d checks were skipped:\n' "$(wc -l < "$WSD_TEST_SKIPPED")"
    cat "$WSD_TEST_SKIPPED"
fi
printf '\nAll checks passed.\n'
