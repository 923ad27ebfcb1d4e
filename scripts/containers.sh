#!/usr/bin/env bash
# The image of docs/deploy/Dockerfile and the README's containers, run as they are written, where there is podman and no
# registry: Debian's image is made by debootstrap, and the compiler's is that one with a `cargo` that hands out a binary
# which was built here. Then an image is built and run by a podman that keeps all it has in a workspace. In a mount namespace of
# its own; nothing is left behind but the base, in target/containers.
#
#   scripts/containers.sh [WSD]      WSD: the binary; without it a release is built
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "SKIPPED containers: $1"
    exit 0
}

if [ -z "${IN_NAMESPACE:-}" ]; then
    [ "$(id -u)" = 0 ] || skip "it needs root"
    for program in podman crun debootstrap unshare; do
        command -v "$program" > /dev/null || skip "$program is not installed"
    done
    [ -w /dev/fuse ] || skip "/dev/fuse cannot be opened"
    if [ -z "${1:-}" ]; then
        cargo build --locked --release
        set -- "${CARGO_TARGET_DIR:-target}/release/wsd"
    fi
    IN_NAMESPACE=1 exec unshare -m --propagation private "$0" "$(realpath "$1")"
fi

wsd=$1
work=$(mktemp -d)
# crun takes no mixture of both versions of control groups.
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R -l /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
fi
mount -t tmpfs none /srv
mount -t tmpfs none /run

podman=(podman --log-level fatal --root "$work/storage" --runroot "$work/run" --cgroup-manager cgroupfs)
mkdir "$work/bin"
cat > "$work/bin/docker" << END
#!/usr/bin/env bash
# docker, as far as the README needs it.
verb=\$1; shift
case \$verb in
build) set -- --isolation chroot --network host --pull=never --format docker --ignorefile docs/deploy/Dockerfile.dockerignore "\$@" ;;
run) set -- --cgroups=disabled --network none --pull=never --ulimit nofile=8192:8192 --ulimit nproc=4096:4096 "\$@" ;;
exec | rm | logs | stop | healthcheck) ;;
*) echo "docker \$verb is not known here" >&2; exit 2 ;;
esac
exec ${podman[*]} "\$verb" "\$@"
END
chmod 755 "$work/bin/docker"
export PATH="$work/bin:$PATH"
undo() {
    local status=$?
    # What is not there need not be undone.
    set +e
    "${podman[@]}" rm --all --force --time 5 > /dev/null 2>&1
    [ -z "${daemon:-}" ] || kill "$daemon"
    umount -R -l /srv "$work/storage/overlay" "$work/workspace" 2> /dev/null
    rm -rf "$work"
    exit "$status"
}
trap undo EXIT

base=target/containers/bookworm.tar
if [ ! -e "$base" ]; then
    mkdir -p target/containers
    debootstrap --variant=minbase bookworm "$work/base" > "$work/log" 2>&1 ||
        skip "debootstrap got no base: $(tail -n 1 "$work/log")"
    tar -C "$work/base" -cf "$base.new" .
    mv "$base.new" "$base"
    rm -rf "$work/base"
fi
"${podman[@]}" import --quiet "$base" docker.io/library/debian:bookworm-slim > /dev/null
rust=$(sed -n 's/^FROM \(rust:[^ ]*\) .*/\1/p' docs/deploy/Dockerfile)
mkdir "$work/rust"
install -m 755 "$wsd" "$work/rust/wsd"
cat > "$work/rust/cargo" << 'END'
#!/bin/sh
# cargo install --locked --path . --root DIR
test "$*" = "install --locked --path . --root /installed" && test -e Cargo.lock && install -D /wsd-built /installed/bin/wsd
END
chmod 755 "$work/rust/cargo"
printf 'FROM debian:bookworm-slim\nCOPY wsd /wsd-built\nCOPY cargo /usr/local/bin/cargo\n' > "$work/rust/Dockerfile"
docker build -q -f "$work/rust/Dockerfile" -t "docker.io/library/$rust" "$work/rust" > "$work/log" 2>&1 || {
    cat "$work/log"
    exit 1
}

step() { printf '\n== %s\n' "$*"; }
ready() { for _ in $(seq 100); do docker exec "$1" wsd stats --json > /dev/null 2>&1 && return; sleep 0.1; done; docker logs "$1"; return 1; }

step "the README's block"
block=$(awk '/^```/ { inside = 0 } inside; /^```sh/ { getline; inside = /^docker build/; if (inside) print }' README.md)
# A person takes a moment to type the last line.
first=${block%docker run --rm*} last=docker\ run\ --rm${block##*docker run --rm}
curl -fsS --max-time 10 -o /dev/null http://deb.debian.org/debian/ 2> "$work/log" || skip "no packages for the image: $(cat "$work/log")"
bash -euc "$first" > "$work/log" 2>&1 || {
    cat "$work/log"
    exit 1
}
ready wsd
said=$(bash -euc "$last")
echo "$said"
grep -q ' file$' <<< "$said"
[ "$(docker exec wsd wsd cat file)" = kept ]
[ "$(cat /srv/workspace/file)" = kept ]

step "health"
docker healthcheck run wsd
step "process 1 buries what loses its parent"
[ "$(docker exec wsd cat /proc/1/comm)" = wsd ]
# What a command leaves in the background loses its parent, and ends a moment later.
docker exec wsd wsd exec -- sh -c '(setsid sleep 0.3 & setsid sleep 0.2 &) ; true' > /dev/null
docker exec wsd sh -c '(setsid sleep 0.2 &)'
zombies() { docker exec wsd sh -c 'grep -l "^State:.Z" /proc/[0-9]*/status 2> /dev/null || true'; }
sleep 0.5
for _ in $(seq 50); do [ -z "$(zombies)" ] && break; sleep 0.1; done
[ -z "$(zombies)" ]
step "a stop is clean, and what was written is there after it"
docker stop wsd > /dev/null
[ "$("${podman[@]}" inspect --format '{{.State.ExitCode}}' wsd)" = 0 ]
! mountpoint -q /srv/workspace/file
"${podman[@]}" start wsd > /dev/null
ready wsd
[ "$(docker exec wsd wsd cat file)" = kept ]
docker rm -f wsd > /dev/null

step "without any rights, as a user"
docker run -d --name hub --user wsd --cap-drop ALL --read-only -e FUSE_MOUNT=none -v hub-store:/var/lib/wsd wsd > /dev/null
ready hub
[ "$(docker exec hub id -un)" = wsd ]
docker healthcheck run hub
echo hello | docker exec -i hub wsd put - greeting
[ "$(docker exec hub wsd cat greeting)" = hello ]
docker stop hub > /dev/null

# /run is a tmpfs.
mkdir /run/l /run/u /run/w /run/m
if mount -t overlay none -o lowerdir=/run/l,upperdir=/run/u,workdir=/run/w /run/m && umount /run/m; then
    step "an image that is built in a workspace, and run"
    workspace=$work/workspace
    PORT=0 WSD_DB="$work/store.db" MOUNT_POINT="$workspace" WSD_LOG=warn "$wsd" serve > "$work/log" 2>&1 &
    daemon=$!
    for _ in $(seq 100); do mountpoint -q "$workspace" && break; sleep 0.1; done
    inside=(podman --log-level fatal --root "$workspace/storage" --runroot "$work/run-inside" --cgroup-manager cgroupfs --storage-driver overlay)
    "${inside[@]}" import --quiet "$base" localhost/base > /dev/null
    printf 'FROM localhost/base\nRUN rm /etc/motd && mv /usr/share/doc /moved && echo built > /etc/issue\n' > "$work/Dockerfile"
    "${inside[@]}" build -q --isolation chroot --network host --pull=never -t localhost/built -f "$work/Dockerfile" "$work/bin" > /dev/null
    said=$("${inside[@]}" run --rm --cgroups=disabled --network none --pull=never --ulimit nofile=8192:8192 --ulimit nproc=4096:4096 \
        localhost/built sh -c 'cat /etc/issue; ls -d /moved/bash; ! ls /etc/motd /usr/share/doc 2> /dev/null')
    echo "$said"
    [ "$said" = $'built\n/moved/bash' ]
    kill "$daemon"
    wait "$daemon"
    daemon=
    "$wsd" check --db "$work/store.db"
else
    echo "SKIPPED an image in a workspace: overlayfs cannot be mounted here" | tee -a "${WSD_TEST_SKIPPED:-/dev/null}"
fi
printf '\nThe containers work.\n'
