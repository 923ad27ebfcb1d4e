#!/usr/bin/env bash
# Every check of the project, for a developer and for CI alike. What this machine lacks is skipped and listed
# at the end; with WSD_TEST_ALL=1 it is a failure instead.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
mkdir -p "$target" target
export WSD_TEST_SKIPPED="$PWD/target/skipped"
: > "$WSD_TEST_SKIPPED"

started=$SECONDS
step() { printf '\n== %s (after %d s)\n' "$*" $((SECONDS - started)); }
has() { command -v "$1" > /dev/null; }
# Something outside of this machine is not there: that fails nowhere.
excuse() { echo "SKIPPED $1: $2" | tee -a "$WSD_TEST_SKIPPED"; }
# This machine lacks something that can be installed.
skip() {
    excuse "$@"
    if [ -n "${WSD_TEST_ALL:-}" ]; then
        echo "FAILED: this must run here"
        exit 1
    fi
}

step "format"
cargo fmt --all --check
step "schema"
if has capnp; then scripts/gen-schema.sh --check; else skip "schema" "capnp is not installed"; fi
step "spelling"
if has typos; then typos --config .config/typos.toml; else skip "spelling" "typos is not installed"; fi
step "unused dependencies"
if has cargo-machete; then cargo machete; else skip "unused dependencies" "cargo-machete is not installed"; fi
step "licences, duplicates, sources, advisories"
if has cargo-deny; then
    cargo deny --config .config/deny.toml check licenses bans sources
    if cargo deny --config .config/deny.toml fetch db > target/advisories 2>&1; then
        cargo deny --config .config/deny.toml check --disable-fetch advisories
    else
        excuse "advisories" "the database cannot be fetched: $(grep -m 1 fatal target/advisories || tail -n 1 target/advisories)"
    fi
else
    skip "licences, duplicates, sources, advisories" "cargo-deny is not installed"
fi
step "lints"
cargo clippy --locked -p wsd -p wsd-shim --all-targets -- -D warnings
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked -p wsd -p wsd-shim --no-deps --quiet
step "tests: units, the mount, RPC, interop, the README"
if cargo nextest --version > /dev/null 2>&1; then
    cargo nextest run --locked -p wsd -p wsd-shim 2>&1 | tee target/tests
    tests=$(sed -nE 's/.*Summary.* ([0-9]+) tests run.*/\1/p' target/tests)
else
    cargo test --locked -p wsd -p wsd-shim 2>&1 | tee target/tests
    tests=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' target/tests | paste -sd+ | bc)
fi
step "fuzzing with coverage"
if [ -z "${WSD_FUZZ_SECONDS:-}" ]; then
    fuzzed="without coverage: the same harness ran as property tests, 2,048 cases a target"
    excuse "fuzzing with coverage" "it is a build of its own, of two minutes; WSD_FUZZ_SECONDS=60 runs each target for a minute"
elif has cargo-fuzz && has c++; then
    fuzzed="4 targets, $WSD_FUZZ_SECONDS s each"
    for fuzz in frames batch calls paths; do
        # Coverage comes with every compiler, but only a nightly one says so. Without a sanitizer: nearly all of it is safe
        # Rust, and what is looked for is a panic, a hang, or memory without bound.
        RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --target-dir "$target/fuzz" --dev --sanitizer none \
            "$fuzz" -- -timeout=10 -rss_limit_mb=1024 \
            -max_total_time="$WSD_FUZZ_SECONDS" -print_final_stats=1 > "target/fuzz-$fuzz" 2>&1 || {
            tail -n 60 "target/fuzz-$fuzz"
            exit 1
        }
        echo "$fuzz: $(sed -n 's/^stat::number_of_executed_units: *//p' "target/fuzz-$fuzz") inputs"
    done
else
    skip "fuzzing with coverage" "cargo-fuzz or a C++ compiler is not installed"
fi
step "release build, installed"
cargo install --locked --quiet --path . --root "$target/installed"
"$target/installed/bin/wsd" --version
step "the image, and the README's containers"
containers="not run"
if [ "$(id -u)" = 0 ] && has podman && has crun && has debootstrap; then
    scripts/containers.sh "$target/installed/bin/wsd" | tee target/containers.log
    if reason=$(sed -n 's/^SKIPPED containers: //p' target/containers.log) && [ -n "$reason" ]; then
        excuse "containers" "$reason"
    else
        containers="run with podman"
    fi
else
    excuse "containers" "podman, crun or debootstrap is not installed, or this is not root"
fi
step "conformance of the mount (the quick part)"
WSD="$target/installed/bin/wsd" scripts/conformance.sh --quick | tee target/conformance

step "summary"
echo "tests:       $tests run, all passed"
echo "fuzzing:     $fuzzed"
echo "containers:  $containers"
echo "conformance: $(sed -n 's/^conformance: //p' target/conformance)"
if [ -s "$WSD_TEST_SKIPPED" ]; then
    echo "skipped:     $(wc -l < "$WSD_TEST_SKIPPED")"
    sed 's/^/    /' "$WSD_TEST_SKIPPED"
else
    echo "skipped:     nothing"
fi
printf '\nAll checks passed.\n'
