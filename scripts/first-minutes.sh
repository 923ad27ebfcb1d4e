#!/usr/bin/env bash
# The first minutes of somebody new, on a filesystem with nothing but Debian's smallest base, Rust and a C compiler: from
# the clone to the end of the README's first command; with --check also to the end of `.ci/run`. Prints a transcript
# with times (docs/first-minutes.md). Needs root, debootstrap and a Rust toolchain on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

commands='git clone --quiet file:///source wsd
cd wsd
scripts/demo.sh'
[ "${1:-}" = --check ] && commands+=$'\n.ci/run'
root=$(mktemp -d)
# What the bootstrap mounted is unmounted first: nothing is removed below a mount.
clean() {
    awk -v root="$root/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount
    if grep -qF " $root/" /proc/self/mountinfo; then
        echo "still mounted below $root: nothing is removed"
    else
        rm -rf --one-file-system "$root" "$root.log"
    fi
}
trap clean EXIT
trap 'exit 1' INT TERM
include=ca-certificates,gcc,libc6-dev,git,fuse3
debootstrap --variant=minbase --include="$include" bookworm "$root" > "$root.log" 2>&1 || { tail "$root.log"; exit 1; }
cp /etc/resolv.conf /etc/hosts "$root/etc/"
git clone --quiet --bare . "$root/source"
mkdir -p "$root/rust" "$root/root/certificates"
# How this machine reaches the registry is its own affair: its certificates come along.
cp "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/root/certificates/all.crt"
{
    echo 'set -euo pipefail'
    while IFS= read -r line; do
        echo "echo; echo '\$ $line'; began=\$(date +%s%N)"
        echo "$line"
        echo "printf '[%d.%d s]\n' \$(((\$(date +%s%N) - began) / 1000000000)) \$(((\$(date +%s%N) - began) / 100000000 % 10))"
    done <<< "$commands"
} > "$root/root/session"
export root sysroot
sysroot=$(rustc --print sysroot)
# In a namespace of its own, so that its mounts go with it.
unshare --mount --pid --fork --kill-child bash -euc '
    mount --make-rprivate /
    mount --bind -o ro "$sysroot" "$root/rust"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    exec chroot "$root" env -i HOME=/root PATH=/rust/bin:/root/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8 \
        CARGO_HTTP_CAINFO=/root/certificates/all.crt SSL_CERT_FILE=/root/certificates/all.crt \
        bash -c "cd /root && git config --global --add safe.directory \"*\" && exec bash session"
' 2>&1
