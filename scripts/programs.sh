#!/usr/bin/env bash
# The tests that other programs bring along, run in a mount. If some fail, they are run on the disk as well, and what fails in the
# mount alone is a failure, unless it is known below, with its reason. Needs Debian 12, root, the network and about two hours;
# it installs what the builds need, and keeps the sources in target/programs.
#
#   scripts/programs.sh [SUITE...]      WSD: the binary; without it a release is built
set -euo pipefail
cd "$(dirname "$0")/.."

suites=(acl attr rsync tar cpio patch libarchive coreutils e2fsprogs util-linux leveldb libuv go python perl ruby php node sqlite
    postgresql mariadb git)
[ $# = 0 ] || suites=("$@")
skip() {
    echo "SKIPPED programs: $1"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "it needs root"
[ -w /dev/fuse ] || skip "/dev/fuse cannot be opened"
grep -q '^VERSION_ID="12"' /etc/os-release || skip "the sources are those of Debian 12"
if [ -z "${WSD:-}" ]; then
    cargo build --release --locked
    WSD="${CARGO_TARGET_DIR:-target}/release/wsd"
fi
WSD=$(realpath "$WSD")

# Tests that fail in the mount for a reason that is no flaw of it, and the reason.
known() {
    case $1 in
    tests/tail-2/inotify-dir-recreate* | tests/tail-2/inotify-rotate-resources*)
        echo "tail never uses inotify on FUSE" ;;
    TestNonpollableDeadline | test_register_file)
        echo "the kernel lets epoll have any file of FUSE" ;;
    m_assume_storage_prezeroed)
        echo "it wants zeros to take room, which they do not in a workspace" ;;
    *) return 1 ;;
    esac
}

mkdir -p target/programs
sources=$(realpath target/programs)
setpriv --reuid=nobody --clear-groups test -x "$sources" || skip "other users cannot reach target/programs, and some tests are run as one"
work=$(mktemp -d)
mkdir "$work/mount" "$work/disk"
# Some tests are other users'.
chmod 755 "$work"
daemon=
finish() {
    local status=$?
    [ -z "$daemon" ] || kill "$daemon"
    wait
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

debian=(-o Dir::Etc::SourceList="$sources/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$sources/apt/lists" -o APT::Sandbox::User=root -q)
prepare() {
    mkdir -p "$sources/apt/lists/partial"
    printf '%s http://deb.debian.org/debian bookworm main\n' deb deb-src > "$sources/apt/sources.list"
    apt-get "${debian[@]}" update
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends acl attr autoconf automake autopoint bc bison cmake \
        dpkg-dev ed flex gawk gettext golang-go libacl1-dev libaio1 libattr1-dev libbenchmark-dev libbz2-dev libcap2-bin libgmock-dev \
        libgtest-dev libipc-run-perl liblz4-dev liblzma-dev libpcre2-posix3 libpython3.11-testsuite libsnappy1v5 libtool liburing2 \
        libzstd-dev make ninja-build nodejs perl php-cli pkg-config python3.11 ruby strace tcl-dev uuid-dev zlib1g-dev
}

# The sources of a package.
fetch() {
    (cd "$sources" && [ -d "$1" ] || {
        apt-get "${debian[@]}" source --download-only "$1"
        dpkg-source --no-check -x "$1"_*.dsc "$1"
    })
}
# What packages hold, without what they would start when they are installed.
unpack() {
    [ -d "$sources/$1" ] || (
        mkdir "$sources/$1" && cd "$sources/$1" && apt-get "${debian[@]}" download "${@:2}"
        for package in ./*.deb; do dpkg-deb -x "$package" .; done
    )
}
# Some tests expect root to be refused what it may do.
as_user() { setpriv --reuid=nobody --clear-groups env HOME="$PWD" "$@"; }
# The sources in the current directory, configured.
configure() {
    fetch "$1"
    cp -a "$sources/$1/." .
    shift
    FORCE_UNSAFE_CONFIGURE=1 ./configure --disable-nls "$@"
}
# And built.
build() {
    configure "$@"
    make -j"${jobs:-2}"
}

# Each runs the tests of a program in the current directory, on the disk or in the mount.
run_acl() { build acl && make -k check; }
run_attr() { build attr && make -k check; }
run_coreutils() { build coreutils && make -k -j2 check; }
run_tar() { build tar && make -k check; }
run_cpio() { build cpio && make -k check; }
# Debian's patches make its build system look out of date.
run_patch() { ACLOCAL=: AUTOCONF=: AUTOHEADER=: AUTOMAKE=: build patch && make -k check; }
run_libarchive() {
    fetch libarchive
    cmake -S "$sources/libarchive" -DENABLE_WERROR=OFF -G Ninja && ninja -j2
    mkdir tests
    local name status=0
    for name in tar cpio cat; do
        TMPDIR=$PWD/tests bin/bsd${name}_test -q -r "$sources/libarchive/$name/test" -p "$PWD/bin/bsd$name" || status=1
    done
    TMPDIR=$PWD/tests bin/libarchive_test -q -r "$sources/libarchive/libarchive/test" || status=1
    return $status
}
run_leveldb() {
    fetch leveldb
    cmake -S "$sources/leveldb" -DCMAKE_BUILD_TYPE=Release -G Ninja && ninja -j2
    mkdir tests
    local test status=0
    for test in ./*_test; do TEST_TMPDIR=$PWD/tests $test || status=1; done
    return $status
}
run_libuv() {
    fetch libuv1
    cmake -S "$sources/libuv1" -G Ninja && ninja -j2 uv_run_tests_a
    # It does not run as root, and some tests read what is in the sources.
    cp -r "$sources/libuv1/test" . && chown -R nobody .
    setpriv --reuid=nobody --clear-groups ./uv_run_tests_a --list | grep -oE '^(fs|cwd|homedir|tmpdir|spawn|pipe|poll|thread)[a-z0-9_]*' | sort -u |
        while read -r test; do
            if timeout 60 setpriv --reuid=nobody --clear-groups ./uv_run_tests_a "$test" > said 2>&1 || grep -q '# SKIP' said; then
                echo "ok $test"
            else
                echo "FAIL: $test"
                cat said
            fi
        done
}
run_node() {
    fetch nodejs
    cp -r "$sources/nodejs/test" . && mkdir temporary
    local test flags
    for test in test/{parallel,sequential}/test-{fs,file,cwd,require,module,process-chdir,stream-pipeline}*.js; do
        [ -e "$test" ] || continue
        flags=$(sed -n 's,^// Flags: ,,p' "$test" | head -n 1)
        # shellcheck disable=SC2086 # They are several.
        if NODE_TEST_DIR=$PWD/temporary TMPDIR=$PWD/temporary timeout 60 node $flags "$test" > said 2>&1; then
            echo "ok $test"
        else
            echo "FAIL: $test"
            cat said
        fi
    done
}
run_rsync() {
    # Two of its rules make the same file.
    jobs=1 build rsync --disable-openssl --disable-xxhash --disable-zstd --disable-lz4 && make check
}
run_e2fsprogs() { build e2fsprogs && TMPDIR=$PWD make -k -j2 check; }
run_util-linux() {
    build util-linux --without-python && make -j2 check-programs
    tests/run.sh --parallel=2 fincore hardlink rename isosize findmnt libmount losetup misc wipefs fdisk minix md5 sha1 swapon cramfs
}
run_go() {
    TMPDIR=$PWD GOFLAGS=-count=1 GOCACHE=$sources/go go test os os/exec io/fs io/ioutil path/filepath syscall archive/tar archive/zip \
        internal/poll mime/multipart go/build cmd/go/internal/lockedfile/... cmd/go/internal/cache
}
run_python() {
    # Not those of the network, of threads and of processes, which wait for what a container has not.
    TMPDIR=$PWD PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m test -W -j2 --timeout 600 --tempdir "$PWD" \
        test_os test_posix test_pathlib test_shutil test_tempfile test_mmap test_fcntl test_ioctl test_io test_file test_fileio \
        test_largefile test_mailbox test_dbm test_dbm_gnu test_dbm_dumb test_shelve test_glob test_zipfile test_tarfile test_gzip \
        test_bz2 test_lzma test_filecmp test_stat test_import test_importlib test_compileall test_py_compile test_zipimport \
        test_subprocess test_logging test_fileinput test_genericpath test_unicode_file test_unicode_file_functions test_selectors \
        test_epoll test_venv test_runpy test_pkgutil test_linecache
}
run_sqlite() {
    # Its shell is not built: there are tests of it which want another one than Debian's.
    configure sqlite3 --enable-all && make -j2 testfixture
    chown -R nobody .
    as_user ./testfixture test/veryquick.test
}
run_perl() {
    fetch perl
    # Debian's perl in the place of the one that the tests would have built.
    cp -r "$sources"/perl/{MANIFEST,cpan,dist,ext,t} . && mkdir tmp && ln -s /usr/bin/perl perl && ln -s /usr/bin/perl t/perl
    cp -rL /usr/share/perl/5.36/. lib && cp -rL /usr/lib/x86_64-linux-gnu/{perl/5.36,perl-base}/. lib
    cp "$sources"/perl/lib/File/*.t lib/File && cp t/test.pl dist/IO/t
    chown -R nobody .
    export TMPDIR=$PWD/tmp
    local dir status=0
    (cd t && as_user prove -e "./perl -I../lib" io/*.t ../lib/File/{Compare,Copy,stat*}.t \
        op/{chdir,exec,filetest*,fork,glob,inccode,incfilter,lfs,mkdir,readline,require_errors,stat,stat_errors,sysio}.t) || status=1
    for dir in cpan/{Archive-Tar,DB_File,ExtUtils-Install,ExtUtils-Manifest,File-Path,File-Temp,IO-Compress,IO-Zlib,autodie} \
        dist/{IO,Storable,Tie-File} ext/{Fcntl,File-DosGlob,File-Find,FileCache,POSIX,SDBM_File}; do
        (cd "$dir" && as_user prove -r -I ../../lib t) || status=1
    done
    return $status
}
run_ruby() {
    fetch ruby3.1
    cp -r "$sources"/ruby3.1/{test,tool} . && mkdir tmp
    chown -R nobody .
    # Two tests want what only its own build has.
    TMPDIR=$PWD/tmp as_user ruby -Itool/lib -Itest/lib tool/test/runner.rb -v -n '!/test_seek/' \
        test/ruby/test_{autoload,dir,file,file_exhaustive,io,io_m17n}.rb \
        test/ruby/test_{require,require_lib}.rb test/test_{find,pstore,tempfile,tmpdir}.rb test/{fileutils,logger,pathname}/test_*.rb
}
run_php() {
    fetch php8.2
    cp "$sources/php8.2/run-tests.php" . && mkdir tmp
    (cd "$sources/php8.2" && cp -r --parents ext/phar/tests ext/spl/tests ext/standard/tests "$OLDPWD")
    chown -R nobody .
    TEST_PHP_EXECUTABLE=/usr/bin/php NO_INTERACTION=1 as_user php run-tests.php -q -j2 -g FAIL --offline --no-progress --set-timeout 300 \
        ext/standard/tests/{file,dir} ext/phar/tests ext/spl/tests | sed -E 's/^FAIL .* \[(.*)\] *$/FAIL: \1/'
}
run_postgresql() {
    fetch postgresql-15
    local built=$sources/postgresql-15 dir status=0
    [ -d "$built/installed" ] || (cd "$built" && ./configure --prefix="$built/installed" --without-icu --without-readline --without-zlib &&
        make -s -j2 && make -s install && make -s -C src/test/regress)
    cp -r "$built"/src/{bin,test} . && chown -R nobody .
    export PATH=$built/installed/bin:$PATH PG_REGRESS=$PWD/test/regress/pg_regress REGRESS_SHLIB=$PWD/test/regress/regress.so with_ssl=no
    (cd test/regress && as_user ./pg_regress --bindir= --temp-instance="$PWD/tmp" --dlpath=. --schedule=parallel_schedule --max-connections=8) ||
        status=1
    for dir in test/recovery bin/{initdb,pg_archivecleanup,pg_basebackup,pg_checksums,pg_resetwal,pg_rewind,pg_verifybackup,pg_waldump}; do
        (cd "$dir" && TESTDIR=$PWD TESTDATADIR=$PWD/tmp_check TESTLOGDIR=$PWD/tmp_check/log as_user prove -j2 -I ../../test/perl -I . t/*.pl) || status=1
    done
    return $status
}
run_mariadb() {
    unpack mariadb libmariadb3 mariadb-{client,client-core,common,server,server-core,test,test-data}
    local root=$PWD
    mkdir tmp && chown -R nobody . && cd "$sources/mariadb/usr/share/mysql/mysql-test"
    export LD_LIBRARY_PATH=$sources/mariadb/usr/lib/x86_64-linux-gnu
    as_user perl ./mtr --vardir="$root/var" --tmpdir="$root/tmp" --parallel=2 --force --max-test-fail=0 --suite=innodb --do-test='innodb[-_]'
}
run_git() {
    fetch git
    make -C "$sources/git" -j2 NO_CURL=1 NO_OPENSSL=1 NO_EXPAT=1 NO_GETTEXT=1 NO_TCLTK=1
    local root=$PWD
    cd "$sources/git/t" && GIT_TEST_CHAIN_LINT=0 prove -j3 ./t[0-7][0-9][0-9][0-9]-*.sh :: --root="$root" -q
}

# The names of the tests that failed, from what a suite has said.
failures() {
    sed -nE -e 's/^(FAIL|ERROR):? +([^ 0-9][^ ]*).*/\2/p' -e 's/^ *[0-9]+: (.*[^ ]) +FAILED \(.*/\1/p' \
        -e 's/^([a-z]_[a-z0-9_]+): .*: failed$/\1/p' -e 's/.* \.\.\. FAILED \((.*)\)/\1/p' -e 's/^ *--- FAIL: ([^ ]+).*/\1/p' \
        -e 's/^!Failures on these tests: (.*)/\1/p' -e 's/^(\.\/t[^ ]+\.sh) .*Failed.*/\1/p' -e 's/^test (test_[a-z_]+) crashed.*/\1/p' \
        -e 's/^\[  FAILED  \] ([A-Za-z_.0-9]+).*/\1/p' -e 's/^([^ ]+\.(t|pl)) +\(Wstat: .*/\1/p' -e 's/^([A-Z][A-Za-z0-9:]+#test_[^ :]+).*/\1/p' \
        -e 's/^(test| ) +([a-z0-9_]+) +\.\.\. FAILED .*/\2/p' -e 's/^Failing test\(s\): (.*)/\1/p' "$1" |
        sort -u
}
# How much a suite has run, in its own words; nothing if it says nothing.
amount() {
    sed -nE -e 's/^ok .*/ok/p' -e 's/^(Files=[0-9]+, Tests=[0-9]+),.*/\1/p' -e 's/^\[  PASSED  \] .*/programs of tests passed/p' \
        -e '/^# ((TOTAL|PASS|SKIP):|Ran) |tests succeeded|^Tests (passed|skipped) |^[0-9]+ tests, |^Completed: All|^ *(All |ERROR: )?[0-9]+ tests |errors out of/p' \
        -e '/^ +[0-9]+ (passed|skipped)$/p' "$1" |
        sort | uniq -c | sed -E 's/^ +(1 |[0-9]+ (#))/\2/; s/^ +//' | paste -sd';' | sed 's/;/; /g'
}
# Runs a suite at a place, below `work`; its output is beside it, and the status with which it ended is in `ended`.
run() {
    local log=$work/$2.$1.log
    mkdir "$work/$2/$1"
    # Not as a part of a condition, where an error in the middle would not end it.
    set +e
    (set -e; cd "$work/$2/$1"; "run_$1") > "$log" 2>&1
    ended=$?
    set -e
    rm -rf "${work:?}/$2/$1"
    failures "$log" > "$work/$2.$1.failed"
}

prepare > "$work/prepare.log" 2>&1 || { tail -n 20 "$work/prepare.log"; exit 1; }
PORT=0 WSD_DB="$work/store.db" MOUNT_POINT="$work/mount" WSD_LOG=warn "$WSD" serve > "$work/stdout" 2> "$work/log" &
daemon=$!
for _ in $(seq 200); do
    if grep -q listens "$work/stdout"; then break; fi
    sleep 0.05
done
mountpoint -q "$work/mount"

failed=0
for suite in "${suites[@]}"; do
    started=$SECONDS
    run "$suite" mount
    : > "$work/disk.$suite.failed"
    : > "$work/alone"
    while read -r name; do known "$name" > /dev/null || echo "$name" >> "$work/alone"; done < "$work/mount.$suite.failed"
    said=$(amount "$work/mount.$suite.log")
    why=
    if [ -z "$said" ]; then
        why="it has run nothing"
    elif [ "$ended" != 0 ] && [ ! -s "$work/mount.$suite.failed" ]; then
        why="it ended with $ended, and names no test that failed"
    fi
    if [ -s "$work/alone" ]; then run "$suite" disk; fi
    echo "$suite ($((SECONDS - started)) s): $said"
    if [ -n "$why" ]; then
        echo "    FAILED: $why"
        tail -n 20 "$work/mount.$suite.log"
        failed=$((failed + 1))
    fi
    while read -r name; do
        if grep -qxF "$name" "$work/disk.$suite.failed"; then
            echo "    fails on the disk too: $name"
        elif why=$(known "$name"); then
            echo "    known: $name ($why)"
        else
            echo "    FAILED in the mount alone: $name"
            failed=$((failed + 1))
            mkdir -p "$sources/failed"
            cp "$work/mount.$suite.log" "$sources/failed/"
        fi
    done < "$work/mount.$suite.failed"
done

kill "$daemon"
wait "$daemon"
daemon=
"$WSD" check --db "$work/store.db"
if [ -s "$work/log" ]; then
    echo "the daemon's log:"
    tail -n 20 "$work/log"
fi
echo "programs: ${#suites[@]} suites, $failed failures in the mount alone"
[ "$failed" = 0 ]
