#!/usr/bin/env bash
# The tests of the mount on other kernels than this machine's: those of Debian's releases, each in a virtual machine of its own.
#
#     scripts/kernels.sh [--conformance] [SUITE...]     default: bullseye bookworm trixie sid
#
# --conformance: pjdfstest and fsx too. Needs root, x86-64, Debian's archive (DEBIAN_MIRROR), and the packages qemu-system-x86,
# debootstrap, busybox-static, kmod, cpio, e2fsprogs, curl, xz-utils, zstd, binutils. Without /dev/kvm a kernel takes 6 minutes, 20 with --conformance.
set -euo pipefail
cd "$(dirname "$0")/.."

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# What is killed in the midst of work needs a machine that gets some done in between.
tests="mount:: limits:: coherence:: edges:: posix:: newer:: privileges:: listings:: overlay:: user:: power:: semantics:: twin:: crash::a_"
conformance=
if [ "${1:-}" = --conformance ]; then
    conformance=1
    shift
fi
[ $# -gt 0 ] || set -- bullseye bookworm trixie sid

for program in qemu-system-x86_64 debootstrap busybox depmod modprobe cpio mkfs.ext4 dpkg-deb curl xz zstd strip; do
    command -v "$program" > /dev/null || { echo "kernels: $program is not installed"; exit 1; }
done
here=$PWD
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cache=$target/kernels
mkdir -p "$cache"

# A field of the newest version of a package in a list of packages.
field() {
    awk -v RS= -v package="Package: $2" -v field="$3: " -F'\n' \
        '$1 == package { for (i = 1; i <= NF; i++) if (index($i, field) == 1) print substr($i, length(field) + 1) }' "$1" | tail -n 1
}

# The newest kernel of a suite: $cache/SUITE/{vmlinuz,initrd,release,lib/modules}.
fetch() {
    local suite=$1 to=$cache/$1 image package file
    [ ! -e "$to/release" ] || return 0
    rm -rf "$to"
    mkdir -p "$to/unpacked"
    curl -sSf "$mirror/dists/$suite/main/binary-amd64/Packages.xz" | xz -d > "$to/Packages"
    image=$(field "$to/Packages" linux-image-cloud-amd64 Depends | grep -oE 'linux-image-[0-9][^ ,]*') || { echo "kernels: $suite names no kernel"; return 1; }
    # Newer ones come in parts.
    for package in "$image" "${image/image/binary}" "${image/image/modules}" "${image/image/base}"; do
        file=$(field "$to/Packages" "$package" Filename)
        [ -n "$file" ] || continue
        curl -sSf -o "$to/package.deb" "$mirror/$file"
        dpkg-deb -x "$to/package.deb" "$to/unpacked"
    done
    local release=${image#linux-image-}
    mkdir -p "$to/lib"
    find "$to/unpacked" -path '*lib/modules' -prune -exec cp -r {} "$to/lib/" \;
    find "$to/unpacked" -name 'vmlinuz*' -type f -exec cp {} "$to/vmlinuz" \;
    depmod -b "$to" "$release"
    initrd "$to" "$release"
    rm -rf "$to/unpacked" "$to/package.deb" "$to/Packages"
    echo "$release" > "$to/release"
}

# As little as finds the disk.
initrd() {
    local from=$1 release=$2 root=$1/root module number=100
    mkdir -p "$root"/{bin,proc,sys,dev,new,modules}
    cp "$(command -v busybox)" "$root/bin/"
    for module in virtio_pci virtio_blk ext4; do
        modprobe -d "$from" -S "$release" --show-depends "$module" 2> /dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' | while read -r module; do
        number=$((number + 1))
        local name
        name=$number-$(basename "$module")
        case $module in
            *.xz) xz -dc "$module" > "$root/modules/${name%.xz}" ;;
            *.zst) zstd -qdc "$module" > "$root/modules/${name%.zst}" ;;
            *) cp "$module" "$root/modules/$name" ;;
        esac
    done
    cat > "$root/init" << 'INIT'
#!/bin/busybox sh
for it in proc:proc sysfs:sys devtmpfs:dev; do /bin/busybox mount -t ${it%:*} none /${it#*:}; done
for module in /modules/*; do /bin/busybox insmod $module; done
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /new
exec /bin/busybox switch_root /new /init
INIT
    chmod +x "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) > "$from/initrd"
    rm -rf "$root"
}

# What all of them run: Debian, this tree, and its tests.
userland() {
    local packages=git,rsync,acl,attr,fuse3,python3,openssl,sqlite3,e2fsprogs,procps,iproute2,kmod,perl
    if [ ! -e "$cache/debian/done" ]; then
        rm -rf "$cache/debian"
        debootstrap --variant=minbase --include="$packages" bookworm "$cache/debian" "$mirror" > "$cache/debootstrap.log" \
            || { tail -n 5 "$cache/debootstrap.log"; exit 1; }
        touch "$cache/debian/done"
    fi
    local root=$cache/image test
    rm -rf "$root"
    cp -a "$cache/debian" "$root"
    cp "$(command -v busybox)" "$root/bin/busybox"
    ln -sf /proc/self/mounts "$root/etc/mtab"
    for program in pjdfstest fsx; do
        if command -v "$program" > /dev/null; then cp "$(command -v "$program")" "$root/usr/local/bin/"; fi
    done
    mkdir -p "$root$here/target" "$root$target/debug"
    tar -cf - --exclude=./target --exclude=./.git . | tar -xf - -C "$root$here"
    test=$(cargo test --locked -p wsd --test it --no-run --message-format=json \
        | sed -n 's/.*"executable":"\([^"]*\/it-[^"]*\)".*/\1/p')
    strip -g -o "$root$here/target/it" "$test"
    strip -g -o "$root$target/debug/wsd" "$target/debug/wsd"
    cat > "$root/init" << INIT
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PAGER=cat LANG=C.UTF-8 WSD_TEST_SKIPPED=/run/skipped
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts none /dev/pts
for it in /dev/shm /tmp /run; do mount -t tmpfs none \$it; done
mount -t cgroup2 none /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
exec < /dev/null > /dev/ttyS0 2>&1
mount -o remount,rw /; ip link set lo up; hostname kernels
for module in fuse overlay loop; do modprobe \$module; done
git config --global user.name a; git config --global user.email a@b; git config --global --add safe.directory '*'
cd $here
for some in $tests; do target/it --color=never --test-threads=2 \$some && echo "passed  \$some" || echo "FAILED  \$some"; done
if [ -n "$conformance" ]; then WSD=$target/debug/wsd scripts/conformance.sh --quick || echo "FAILED  conformance"; fi
if [ -e /run/skipped ]; then cat /run/skipped; fi
echo "the end"
sync; busybox poweroff -f
INIT
    chmod +x "$root/init"
}

# Boots a kernel, which writes all to its log; says what passed, and what did not.
run() {
    local suite=$1 from=$cache/$1 log=$cache/$1.log accelerator=tcg,thread=multi cpu=max wrong
    if [ -r /dev/kvm ] && [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then accelerator=kvm cpu=host; fi
    rm -rf "$cache/image/lib/modules"
    cp -r "$from/lib/modules" "$cache/image/lib/modules"
    rm -f "$cache/disk"
    mkfs.ext4 -q -d "$cache/image" -E root_owner=0:0 "$cache/disk" 4G > "$cache/mkfs.log"
    local status=0
    timeout "${WSD_KERNEL_SECONDS:-3600}" qemu-system-x86_64 -M q35 -accel "$accelerator" -cpu "$cpu" -smp 2 -m 4G -nographic -no-reboot \
        -kernel "$from/vmlinuz" -initrd "$from/initrd" -append "console=ttyS0 quiet panic=-1" \
        -drive "file=$cache/disk,if=virtio,format=raw" < /dev/null > "$log" 2>&1 || status=$?
    count() { grep -acE "$1" "$log" || [ $? = 1 ]; }
    echo "Linux $(cat "$from/release") ($suite): $(count '^test .*[.]{3} ok') tests passed, $(count '^SKIPPED') of them skipped," \
        "$(count '^test .*[.]{3} FAILED') failed; of the suites $(count '^passed  (pjdfstest|fsx|wsd check)') passed"
    # Nothing is skipped but what the kernel lacks, and no group of tests is empty.
    wrong=$(grep -aE 'FAILED|panicked|^running 0 tests|^SKIPPED' "$log" | grep -vE '^SKIPPED .*: Linux .* has no ' || [ $? = 1 ])
    if [ "$status" != 0 ] || [ "$(count '^the end')" = 0 ] || [ -n "$wrong" ]; then
        echo "$wrong"
        echo "FAILED  Linux of $suite (qemu's exit code $status): $log"
        return 1
    fi
}

userland
failed=0
for suite in "$@"; do
    fetch "$suite"
    run "$suite" || failed=$((failed + 1))
done
[ "$failed" = 0 ]
