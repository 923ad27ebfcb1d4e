#!/usr/bin/env bash
# Compiles the schema to the request that the build reads, so that building wsd needs no C++ tool. With --check:
# compiles it and says whether the one in the repository is that. Needs the `capnp` tool (capnproto).
set -euo pipefail
cd "$(dirname "$0")/../schema"

made=$(mktemp)
trap 'rm -f "$made"' EXIT
capnp compile -o- common.capnp fs.capnp exec.capnp sync.capnp workspace.capnp > "$made"
if [ "${1:-}" != --check ]; then
    cp "$made" wsd.bin
    exit
fi
if ! cmp -s "$made" wsd.bin; then
    echo "schema/wsd.bin is not what schema/*.capnp say: run scripts/gen-schema.sh" >&2
    exit 1
fi
