//! `wsd import` and `wsd export`: what goes in comes out, with all that belongs to it.

use crate::support::{Daemon, Place, WSD, has, is_root, sh, text};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

/// A tree with something of everything, in `tree`.
const MAKE: &str = r#"
mkdir -p tree/src/deep tree/empty && cd tree
echo 'fn main() {}' > src/main.rs && chmod 640 src/main.rs
head -c 3000000 /dev/urandom > src/deep/bytes && chmod 4755 src/deep/bytes
truncate -s 60M sparse && echo end | dd of=sparse bs=1 seek=40000000 conv=notrunc status=none
: > nothing
ln src/main.rs hard && ln src/main.rs src/deep/harder
ln -s src/main.rs link && ln -s "$(printf '%200s' x | tr ' ' y)" dangling
touch "$(printf 'caf\351 & co')" "$(printf '%250s' z | tr ' ' z)"
mkdir "$(printf '%120s' d | tr ' ' d)" && echo far > "$(printf '%120s' d | tr ' ' d)/$(printf '%120s' e | tr ' ' e)"
chown -h 1234:5678 hard link && chown 3000000:3000001 nothing
setfattr -n user.colour -v blue src/main.rs && setfattr -n user.empty src
touch -d '1965-03-04 05:06:07.123456789 UTC' nothing && touch -h -d '2001-02-03 04:05:06.5 UTC' link
chmod 1777 empty && chmod 500 src/deep && touch -d '2020-01-01 00:00:00.25 UTC' src/deep src empty .
"#;

/// All that is told of a tree, but for times of access.
fn told(tree: &Path) -> String {
    let script = r#"
        find . -print0 | LC_ALL=C sort -z | while IFS= read -r -d '' name; do
            LC_ALL=C find "$name" -maxdepth 0 -printf '%P|%p|%y|%m|%U:%G|%T@|%l\n'
            [ -d "$name" ] || [ -L "$name" ] || { stat -c '%h %s' "$name"; cksum < "$name"; }
            getfattr -h -d -m '^user' --absolute-names -e hex "$name"
        done"#;
    sh(tree, script)
}

fn wsd(arguments: &[&str], port: u16, directory: &Path) -> Output {
    let mut command = Command::new(WSD);
    command.args(arguments).env_clear().env("PORT", port.to_string()).env("HOME", "/");
    command.current_dir(directory).output().unwrap()
}

fn does(arguments: &[&str], daemon: Option<&Daemon>, directory: &Path) -> Vec<u8> {
    let output = wsd(arguments, daemon.map_or(1, |daemon| daemon.port), directory);
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {}", text(&output.stderr));
    output.stdout
}

fn compare(expected: &str, tree: &Path) {
    let found = told(tree);
    let differs = expected.lines().zip(found.lines()).find(|(one, other)| one != other);
    assert!(expected == found, "{}: {differs:?}", tree.display());
    let sparse = fs::metadata(tree.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 10 << 20, "holes stay holes: {} blocks", sparse.blocks());
}

#[test]
fn a_tree_goes_in_and_out_whole() {
    if !(is_root() && has("setfattr") && has("tar")) {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    sh(here, MAKE);
    let expected = told(&here.join("tree"));
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    does(&["import", "tree"], Some(&daemon), here);
    assert!(daemon.stat("/allocatedBytes") < 10 << 20, "holes stay holes in the workspace");
    does(&["export", "out"], Some(&daemon), here);
    compare(&expected, &here.join("out"));
    let archive = does(&["export", "-"], Some(&daemon), here);
    fs::write(here.join("ours.tar"), archive).unwrap();
    does(&["import", "--to", "copy", "ours.tar"], Some(&daemon), here);
    does(&["export", "--from", "copy", "again"], Some(&daemon), here);
    compare(&expected, &here.join("again"));
    daemon.stop();
    place.check();
    // Others read what we write, and the other way round, without a daemon.
    sh(
        here,
        "mkdir theirs && tar --xattrs -xpf ours.tar -C theirs && cp --sparse=always theirs/sparse s && touch -r theirs/sparse s \
              && mv s theirs/sparse && touch -d '2020-01-01 00:00:00.25 UTC' theirs",
    );
    compare(&expected, &here.join("theirs"));
    sh(here, "tar --xattrs --format=posix -cf theirs.tar -C tree .");
    does(&["import", "--db", "other.db", "theirs.tar"], None, here);
    does(&["export", "--db", "other.db", "last"], None, here);
    compare(&expected, &here.join("last"));
    does(&["export", "--db", "other.db", "last.tar"], None, here);
    let listed = sh(here, "tar -tf last.tar | wc -l");
    assert_eq!(listed.trim(), expected.lines().filter(|line| line.contains("|.")).count().to_string());
}

#[test]
fn what_cannot_be_taken_is_told_and_the_rest_goes_on() {
    if !has("mkfifo") {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    sh(here, "mkdir tree && mkfifo tree/pipe && echo x > tree/file");
    let output = wsd(&["import", "tree"], daemon.port, here);
    let said = text(&output.stderr);
    assert!(
        output.status.code() == Some(1)
            && said.contains("tree/pipe: not a file")
            && said.lines().count() == 1
    );
    assert_eq!(text(&does(&["ls"], Some(&daemon), here)), "file\n");
    sh(
        here,
        "echo evil > outside && tar -P -cf evil.tar --transform 's,^,../,' outside && tar -rf evil.tar tree/file",
    );
    let output = wsd(&["import", "--to", "a/b", "evil.tar"], daemon.port, here);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("leads out of the archive"));
    assert_eq!(text(&does(&["find"], Some(&daemon), here)).matches("outside").count(), 0);
    assert_eq!(text(&does(&["cat", "a/b/tree/file"], Some(&daemon), here)), "x\n");
    let output = wsd(&["export", "tree"], daemon.port, here);
    assert!(text(&output.stderr).contains("not empty"), "{}", text(&output.stderr));
    let output = wsd(&["import", "nowhere"], daemon.port, here);
    assert!(text(&output.stderr).contains("nowhere: No such file"), "{}", text(&output.stderr));
    let output = wsd(&["import", "--db", place.store.to_str().unwrap(), "tree"], daemon.port, here);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("in use by another wsd"), "{said}");
    daemon.stop();
}

/// The calls of the interface make no fifos, sockets and devices, so those stay where they are, and are named.
#[test]
fn what_is_no_file_is_named_when_it_is_exported() {
    if !(crate::support::has_fuse() && is_root()) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    sh(&daemon.path(""), "mkdir d && echo x > d/file && mkfifo d/pipe && mknod d/null c 1 3");
    for target in ["out", "out.tar"] {
        let output = wsd(&["export", target], daemon.port, place.dir.path());
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.lines().count() == 2, "{said}");
        assert!(said.contains("d/pipe: not a file") && said.contains("d/null: not a file"), "{said}");
    }
    assert_eq!(sh(place.dir.path(), "find out -type f; tar -tf out.tar | grep -c file"), "out/d/file\n1\n");
    daemon.stop();
    place.check();
}

/// It was named as something that could not be taken; git writes one into each of its archives.
#[test]
fn what_an_archive_says_of_itself_is_no_member() {
    if !has("tar") {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    sh(here, "echo x > file && tar --format=pax --pax-option=comment=0123 -cf ours.tar file");
    does(&["import", "ours.tar"], Some(&daemon), here);
    assert_eq!(text(&does(&["ls"], Some(&daemon), here)), "file\n");
    daemon.stop();
}

/// What tar keeps of such a file was taken for the file.
#[test]
fn files_with_holes_come_out_of_archives_whole() {
    if !has("tar") {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    sh(
        here,
        "mkdir d && truncate -s 60M d/sparse && truncate -s 5M d/empty && echo after > d/z \
         && for at in 0 3000000 40000000; do echo here | dd of=d/sparse bs=1 seek=$at conv=notrunc status=none; done",
    );
    let expected = sh(here, "cd d && cksum *");
    for (number, format) in
        ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax --sparse-version=1.0"]
            .into_iter()
            .enumerate()
    {
        sh(here, &format!("tar --sparse --format={format} -cf sparse.tar -C d ."));
        let (to, out) = (format!("in{number}"), format!("out{number}"));
        does(&["import", "--to", &to, "sparse.tar"], Some(&daemon), here);
        does(&["export", "--from", &to, &out], Some(&daemon), here);
        assert_eq!(sh(&here.join(out), "cksum *"), expected, "{format}");
    }
    assert!(daemon.stat("/allocatedBytes") < 10 << 20, "holes stay holes in the workspace");
    daemon.stop();
}

/// Its bytes ended where they could not be read, and what came after it in the archive was taken for them.
#[test]
fn a_file_that_cannot_be_read_leaves_the_archive_whole() {
    if !(has("sqlite3") && has("tar")) {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    sh(here, "mkdir d && head -c 3000001 /dev/urandom > d/bad && echo x > good");
    does(&["import", "d"], Some(&daemon), here);
    does(&["put", "good", "good"], Some(&daemon), here);
    daemon.stop();
    let damage = "UPDATE chunk_data SET data = x'00' WHERE rowid = (SELECT max(rowid) FROM chunk_data)";
    assert!(Command::new("sqlite3").arg(&place.store).arg(damage).status().unwrap().success());
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let output = wsd(&["export", "out.tar"], daemon.port, here);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("bad") && said.lines().count() == 1, "{said}");
    assert_eq!(sh(here, "tar -tf out.tar | sort; tar -xOf out.tar good"), "./\nbad\ngood\nx\n");
    daemon.stop();
}

/// GNU tar's directories with lists, names of archives, and times before 1970, and libarchive's directories of the oldest
/// format: they were left out, ended the import, lay in another century, or became files that nothing could be put into.
#[test]
fn archives_of_all_kinds_are_taken() {
    if !(has("tar") && has("python3")) {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    sh(here, "mkdir -p d/e && echo x > d/e/file && ln d/e/file d/hard && touch -d '1965-03-04 UTC' d/e/file");
    let expected = sh(here, "find d -printf '%p %y %s %n %T@\n' | sort; cat d/hard").replace(" 4096 ", " D ");
    let python = r#"python3 -c "
import tarfile
t = tarfile.open('made.tar', 'w', format=tarfile.USTAR_FORMAT)
for name, kind in (('d', b'\0'), ('d/e', b'\0')):
    i = tarfile.TarInfo(name + '/'); i.type = kind; t.addfile(i)
    t.fileobj.seek(-512, 1); header = bytearray(i.tobuf(tarfile.USTAR_FORMAT))
    header[:100] = (name + '/').encode().ljust(100, b'\0'); header[257:512] = bytes(255)
    header[148:156] = b' ' * 8; header[148:156] = b'%06o\0 ' % sum(header); t.fileobj.write(header)
i = tarfile.TarInfo('d/e/file'); i.size = 2; t.addfile(i, __import__('io').BytesIO(b'x\n')); t.close()""#;
    for (to, make) in [
        ("label", "tar -V LABEL --format=gnu -cf made.tar d"),
        ("dumped", "tar -g list --format=gnu -cf made.tar d"),
        ("oldest", python),
    ] {
        sh(here, make);
        does(&["import", "--to", to, "made.tar"], Some(&daemon), here);
        does(&["export", "--from", to, &format!("out-{to}")], Some(&daemon), here);
        let out = here.join(format!("out-{to}"));
        if to == "oldest" {
            assert_eq!(sh(&out, "find . -type f; cat d/e/file"), "./d/e/file\nx\n");
            continue;
        }
        let found =
            sh(&out, "find d -printf '%p %y %s %n %T@\n' | sort; cat d/hard").replace(" 4096 ", " D ");
        assert_eq!(
            found.lines().filter(|line| !line.contains(" d ")).collect::<Vec<_>>(),
            expected.lines().filter(|line| !line.contains(" d ")).collect::<Vec<_>>(),
            "{to}"
        );
    }
    daemon.stop();
}

/// The number of a bad checksum was told.
#[test]
fn what_is_no_whole_archive_is_told() {
    if !(has("tar") && has("gzip")) {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    sh(here, "mkdir d && head -c 300000 /dev/urandom > d/large && echo x > d/z && tar -czf packed.tar.gz d");
    sh(
        here,
        "tar -M -L 100 --format=gnu -f 1.tar -f 2.tar -f 3.tar -f 4.tar -c d/large d/z && head -c 5000 1.tar > cut.tar",
    );
    let fails = |file: &str, parts: &[&str]| {
        let output = wsd(&["import", "--to", file, file], daemon.port, here);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in {said:?}"));
    };
    fails("packed.tar.gz", &["packed.tar.gz: compressed", "`gzip -dc`"]);
    fails("cut.tar", &["large: the archive ends in it"]);
    fails("3.tar", &["large: begun in another volume"]);
    assert_eq!(text(&does(&["cat", "3.tar/d/z"], Some(&daemon), here)), "x\n");
    daemon.stop();
}

/// A map that was longer than its file made one of zeros of it, a long one or a long name took all memory.
#[test]
fn what_an_archive_says_of_its_members_takes_bounded_memory() {
    if !has("python3") {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let script = r#"
import sys, tarfile
def head(name, size, kind=b'0'):
    info = tarfile.TarInfo(name); info.size = size; info.type = kind
    return info.tobuf(tarfile.GNU_FORMAT)
def fill(data):
    return data + bytes(-len(data) % 512)
def pax(pairs):
    out = b''
    for pair in pairs:
        n = len(pair) + 2
        while len(str(n)) + len(pair) + 2 != n: n += 1
        out += b'%d %s\n' % (n, pair)
    return head('pax', len(out), b'x') + fill(out)
def member(numbers, data, size, is_many=False):
    body = fill(numbers) + data
    return pax([b'GNU.sparse.major=1', b'GNU.sparse.minor=0', b'GNU.sparse.name=hole', b'GNU.sparse.realsize=%d' % size]) \
        + head('GNUSparseFile.0/hole', len(body)) + fill(body)
good = head('good', 2) + fill(b'g\n') + bytes(1024)
many = 30000000
for name, bytes_ in (
    ('many', member(b'%d\n' % many + b'0\n' * (2 * many), b'', 5)),
    ('huge', member(b'1\n18446744073709551615\n9\n', b'', 5)),
    ('long', member(b'1\n0\n4000\n', b'x' * 10, 5000)),
    ('short', member(b'9\n0\n', b'', 5000)),
):
    open(name + '.tar', 'wb').write(bytes_ + good)
with open('name.tar', 'wb') as out:
    out.write(head('././@LongLink', 1 << 30, b'L')); out.truncate(512 + (1 << 30)); out.seek(0, 2); out.write(good)
"#;
    assert!(Command::new("python3").args(["-c", script]).current_dir(here).status().unwrap().success());
    for (name, expected) in [
        ("many", "hole: the map of its holes has more than"),
        ("huge", "hole: the map of its holes makes no sense"),
        ("long", "hole: the map of its holes makes no sense"),
        ("short", "hole: the map of its holes makes no sense"),
        ("name", "name.tar: the headers of a member have more than"),
    ] {
        let line = format!("ulimit -v 600000 && exec {WSD} import --to {name} {name}.tar");
        let port = std::ffi::OsString::from(daemon.port.to_string());
        let output = crate::support::sh_output(here, &line, &[("PORT", &port)]);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(expected), "{name}: {said}");
        if name != "name" {
            assert_eq!(text(&does(&["cat", &format!("{name}/good")], Some(&daemon), here)), "g\n");
        }
    }
    daemon.stop();
}

/// An archive of a store, and what is put into one, is of that store alone: the environment may be that of a replica.
#[test]
fn what_is_done_to_a_store_without_a_daemon_stays_there() {
    let hub = Place::new();
    let daemon = hub.serve_with(&[("FUSE_MOUNT", "none")]);
    let root = hub.dir.path();
    sh(root, "mkdir tree below && echo private > tree/file");
    let upstream = format!("ws://127.0.0.1:{}", daemon.port);
    let offline = |arguments: &[&str]| {
        let mut command = Command::new(WSD);
        command.args(arguments).env_clear().env("HOME", "/").env("UPSTREAM_URL", &upstream);
        command.current_dir(root.join("below")).output().unwrap()
    };
    let output = offline(&["import", "../tree", "--db", "../own.db"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&does(&["ls"], Some(&daemon), root)), "");
    let output = offline(&["export", "out", "--db", "../own.db"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read(root.join("below/out/file")).unwrap(), b"private\n");
    daemon.stop();
}

/// It was made, with nothing in it, and so was a copy with nothing in it.
#[test]
fn a_store_that_is_not_there_is_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let output = wsd(&["export", "out", "--db", "mistyped.db"], 1, dir.path());
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("mistyped.db"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Another file was made, with a name of replacement characters.
#[test]
fn a_store_has_any_name() {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir tree && echo here > tree/file");
    let store = std::ffi::OsStr::from_bytes(b"caf\xe9.db");
    let work = |command: &str, what: &str| {
        let mut wsd = Command::new(WSD);
        let output = wsd.args([command, what, "--db"]).arg(store).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    work("import", "tree");
    assert!(dir.path().join(store).is_file());
    work("export", "out");
    assert_eq!(fs::read(dir.path().join("out/file")).unwrap(), b"here\n");
}

/// All of its holes were read as zeros: a header of one record could keep it at that for years.
#[test]
fn holes_of_the_oldest_format_cost_nothing() {
    if !has("python3") || !has("tar") {
        return;
    }
    let place = Place::new();
    let here = place.dir.path();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    sh(
        here,
        "mkdir d && truncate -s 60M d/many && truncate -s 15T d/large && echo after > d/z && for at in $(seq 30); do \
         for file in many:2000123 large:500000000123; do \
         printf \"here $at\" | dd of=d/${file%:*} bs=1 seek=$((at * ${file#*:})) conv=notrunc status=none || exit 1; done; done \
         && tar --sparse --format=gnu -cf large.tar -C d large many z",
    );
    let script = r#"
import tarfile
def number(value): return b'\x80' + value.to_bytes(11, 'big')
def sparse(parts, size, stored):
    info = tarfile.TarInfo('hole'); info.type = b'S'; info.size = stored
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for index, (offset, length) in enumerate(parts):
        head[386 + 24 * index:410 + 24 * index] = number(offset) + number(length)
    head[483:495] = number(size)
    head[148:156] = b' ' * 8
    head[148:156] = b'%06o\0 ' % sum(head)
    return bytes(head)
good = tarfile.TarInfo('good'); good.size = 2
good = good.tobuf(tarfile.GNU_FORMAT) + b'g\n' + bytes(510) + bytes(1024)
huge = (1 << 63) - 1
open('huge.tar', 'wb').write(sparse([(huge, 0)], huge, 0) + good)
open('far.tar', 'wb').write(sparse([(huge - 4, 4)], huge, 4) + b'data' + bytes(508) + good)
"#;
    assert!(Command::new("python3").args(["-c", script]).current_dir(here).status().unwrap().success());
    let port = std::ffi::OsString::from(daemon.port.to_string());
    let import = |name: &str| {
        let line = format!("timeout 60 {WSD} import --to {name} - < {name}.tar");
        crate::support::sh_output(here, &line, &[("PORT", &port)])
    };
    let output = import("large");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&does(&["cat", "large/z"], Some(&daemon), here)), "after\n");
    does(&["get", "large/many", "many"], Some(&daemon), here);
    sh(here, "cmp many d/many");
    let said = text(&does(&["stat", "--json", "large/large"], Some(&daemon), here));
    let large: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(large["size"], 15_u64 << 40);
    assert!(large["blocks"].as_u64().unwrap() < 30 * 1024, "{said}");
    for name in ["huge", "far"] {
        let output = import(name);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("hole: ") && said.contains("(EFBIG)") && said.lines().count() == 1, "{said}");
        assert_eq!(text(&does(&["cat", &format!("{name}/good")], Some(&daemon), here)), "g\n");
    }
    daemon.stop();
}

/// Nothing but SIGKILL ended it: the daemon in the process took the signals, and the work waited for its input.
#[test]
fn an_import_without_a_daemon_ends_at_a_signal() {
    if !has("tar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir d && echo taken > d/file && tar -cf d.tar d");
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let line = format!(
            "mkfifo pipe; (cat d.tar | head -c 1536; sleep 60) > pipe & \
             {WSD} import --db {signal}.db - < pipe 2> said & wsd=$!; \
             until {WSD} check --db {signal}.db > checked 2>&1; grep -q 'in use' checked; do sleep 0.05; done; \
             sleep 0.5; kill -{signal} $wsd; wait $wsd; code=$?; kill %1; rm pipe; cat said >&2; exit $code"
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("set -m; {line}")]).current_dir(dir.path());
        let output = bash.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        let checked = Command::new(WSD)
            .args(["check", "--db", &format!("{signal}.db")])
            .current_dir(dir.path())
            .output();
        assert!(checked.unwrap().status.success());
    }
}
