#!/usr/bin/env bash
# The main job, from nothing: builds wsd, mounts a workspace, runs something real in it, stops, starts again, and reads
# what was kept over RPC. Needs Rust, a C compiler and FUSE (as an ordinary user: fusermount3). Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
if [ -z "${WSD:-}" ]; then
    say "Building (some minutes)"
    cargo build --release --locked --quiet
    WSD=${CARGO_TARGET_DIR:-target}/release/wsd
fi
wsd=$(realpath "$WSD")
home=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; }; rm -rf "$home"' EXIT
export MOUNT_POINT=$home/workspace WSD_DB=$home/workspace.db

say "A workspace is mounted; in it a program is compiled and run, and a repository made"
"$wsd" run -- sh -euc '
    pwd
    mkdir src
    echo "fn main() { println!(\"2 + 2 = {}\", 2 + 2); }" > src/main.rs
    rustc -o demo src/main.rs
    ./demo | tee result.txt
    git init -q . && git add src && git -c user.name=demo -c user.email=demo@localhost commit -q -m "Compute"
    git log --oneline
'
say "The daemon has stopped. All there is now is one file"
ls -lh "$WSD_DB"
[ -z "$(ls "$MOUNT_POINT")" ]

say "Another daemon over the same file; what was kept is read over RPC"
PORT=0 WSD_LOG=warn "$wsd" serve > "$home/address" &
daemon=$!
until grep -q listens "$home/address"; do
    kill -0 "$daemon"
    sleep 0.05
done
WSD_URL=ws://$(sed 's,.*//,,' "$home/address")/ws
export WSD_URL
"$wsd" ls -l
"$wsd" cat result.txt
say "Commands run from outside see the same files"
"$wsd" exec -- ./demo
"$wsd" exec -- git status --short
"$wsd" grep "2 . 2" --include '*.rs'
say "Done: it was mounted, it was kept, it is there from both sides."
