//! Real programs that live in a mount.

use crate::interop::python_with;
use crate::support::{Daemon, Place, eventually, has, has_fuse, sh, sh_output, text};
use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// Runs a test in a mount if the programs are there; then checks the store.
fn with(programs: &[&str], test: impl FnOnce(&Place, &Daemon)) {
    if !has_fuse() || !programs.iter().all(|program| has(program)) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    test(&place, &daemon);
    daemon.stop();
    place.check();
}

/// A directory outside the mount with links, modes, holes and names of all kinds.
const TREE: &str = r#"
mkdir tree; cd tree
for i in $(seq 1 60); do mkdir -p "d$((i % 7))/e$i"; seq 1 $((i * 97)) > "d$((i % 7))/e$i/file $i"; done
head -c 3000000 /dev/urandom > big; truncate -s 5M sparse; printf x >> sparse
ln big hard; ln -s d1 soft; ln -s nowhere dangling; mkfifo pipe; mkdir -m 1777 sticky; touch -d '1999-01-01 00:00:00.5' old
chmod 750 d1; chmod 4755 hard; printf 'caf\xe9' > "$(printf 'n\xe9')"
"#;

#[test]
fn git_clones_checks_and_collects() {
    with(&["git"], |place, daemon| {
        let script = r#"
export HOME="$PWD" GIT_CONFIG_NOSYSTEM=1
git config --global user.email a@example.org; git config --global user.name a; git config --global init.defaultBranch main
mkdir origin; cd origin; git init -q
for c in 1 2 3 4 5; do
  for i in $(seq 1 80); do mkdir -p "dir$((i % 9))"; echo "$c $i $(seq -s' ' 1 $i)" > "dir$((i % 9))/f$i"; done
  git add -A; git commit -qm "commit $c"
done
git branch old HEAD~3; cd ..
git clone -q --no-hardlinks origin "$MOUNT/clone"; cd "$MOUNT/clone"
git fsck --strict; test -z "$(git status --porcelain)"
git checkout -q origin/old; git checkout -q main; echo more >> dir1/f1; git commit -qam more
git gc -q --aggressive --prune=now; git fsck --strict; git repack -adq
git worktree add -q ../other origin/old; test -z "$(git -C ../other status --porcelain)"
"#;
        let output = sh_output(place.dir.path(), script, &[("MOUNT", daemon.path("").as_os_str())]);
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    });
}

#[test]
fn cargo_builds_and_runs() {
    with(&["cargo"], |_, daemon| {
        let script = r#"
cargo init -q --name hello --vcs none .
cat > src/lib.rs <<'END'
pub fn answer() -> u32 { 42 }
#[test] fn is_right() { assert_eq!(answer(), 42); }
END
echo 'fn main() { println!("{}", hello::answer()); }' > src/main.rs
env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo test -q --offline >/dev/null
test "$(env -u CARGO_TARGET_DIR cargo run -q --offline)" = 42
! env -u CARGO_TARGET_DIR cargo build --offline 2>&1 | grep Compiling"#;
        let output = sh_output(&daemon.path(""), script, &[]);
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    });
}

#[test]
fn npm_installs_what_a_script_then_uses() {
    with(&["npm", "node"], |place, daemon| {
        let script = r#"
mkdir -p app && cd app
echo '{"name":"app","version":"1.0.0","private":true}' > package.json
npm install --no-audit --no-fund --loglevel=error --cache "$CACHE" semver@7 yaml@2 typescript@5 >/dev/null
node -e 'const s=require("semver"),y=require("yaml"); if(!s.gt("2.0.0","1.9.9")||y.parse("a: 1").a!==1) process.exit(1)'
echo 'const x: number = 41 + 1; console.log(x)' > a.ts; npx tsc a.ts; test "$(node a.js)" = 42
rm -rf node_modules; npm ci --prefer-offline --no-audit --no-fund --loglevel=error --cache "$CACHE" >/dev/null
node -e 'require("semver")'"#;
        let cache = place.dir.path().join("npm-cache");
        let output = sh_output(&daemon.path(""), script, &[("CACHE", cache.as_os_str())]);
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    });
}

/// Has a program commit transactions in the mount, kills the daemon in their middle, and returns how many of them the program was
/// told to be committed: it writes their number to the file `DONE`, which is not in the mount.
fn acknowledged_until_killed(place: &Place, daemon: Daemon, mut writer: Command) -> u32 {
    let done = place.dir.path().join("done");
    writer.current_dir(daemon.path("")).env("DONE", &done).stderr(Stdio::null());
    let mut writer = writer.spawn().unwrap();
    let count =
        || std::fs::read_to_string(&done).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0);
    eventually("some transactions", || count() >= 10);
    daemon.kill();
    let committed = count();
    let _ = writer.kill();
    let _ = writer.wait();
    committed
}

#[test]
fn sqlite_keeps_its_promises_when_the_daemon_is_killed() {
    if !(has_fuse() && has("sqlite3")) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let script = r#"
sqlite3 db 'PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x);' >/dev/null
for i in $(seq 1 40); do
  sqlite3 db "PRAGMA synchronous=FULL; INSERT INTO t SELECT NULL, hex(randomblob(400)) FROM generate_series(1,20);" || exit
  echo $i > "$DONE"
done"#;
    let mut writer = Command::new("bash");
    writer.args(["-c", script]);
    let committed = acknowledged_until_killed(&place, daemon, writer);
    let daemon = place.serve();
    let shown = sh(&daemon.path(""), "sqlite3 db 'PRAGMA integrity_check; SELECT count(*) FROM t;'");
    let mut lines = shown.lines();
    assert_eq!(lines.next(), Some("ok"));
    let rows: u32 = lines.next().unwrap().parse().unwrap();
    assert!(rows >= committed * 20, "{committed} transactions were acknowledged, {rows} rows are there");
    daemon.stop();
    place.check();
}

/// It writes by `pwrite` and `fdatasync`, or to a mapping of the file and `msync`.
#[test]
fn lmdb_keeps_its_promises_when_the_daemon_is_killed() {
    let Some(python) = python_with("lmdb").filter(|_| has_fuse()) else { return };
    let write = r#"
import lmdb, os, sys
db = lmdb.open("db", map_size=1 << 26, writemap=sys.argv[1] == "mapped", map_async=False)
done = os.open(os.environ["DONE"], os.O_CREAT | os.O_WRONLY)
for number in range(1, 1 << 30):
    with db.begin(write=True) as transaction:
        for key in range(number, number + 20):
            transaction.put(b"%d" % (key % 500), b"%d " % number * 300)
        transaction.put(b"last", b"%d" % number)
    os.pwrite(done, b"%09d" % number, 0)"#;
    let read = r#"
import lmdb
with lmdb.open("db", map_size=1 << 26).begin() as transaction:
    for key, value in transaction.cursor():
        assert len(set(value.split())) == 1, (key, value)
    print(int(transaction.get(b"last")))"#;
    for how in ["written", "mapped"] {
        let place = Place::new();
        let mut writer = Command::new(&python);
        writer.args(["-c", write, how]);
        let committed = acknowledged_until_killed(&place, place.serve(), writer);
        let daemon = place.serve();
        let reader = Command::new(&python).args(["-c", read]).current_dir(daemon.path("")).output().unwrap();
        let last = text(&reader.stdout).trim().parse::<u32>();
        let last = last.unwrap_or_else(|_| panic!("{how}: {}", text(&reader.stderr)));
        assert!(last >= committed, "{how}: {committed} were acknowledged, {last} is the last that is there");
        daemon.stop();
        place.check();
    }
}

#[test]
fn tar_finds_no_difference_in_either_direction() {
    with(&["tar"], |place, daemon| {
        sh(place.dir.path(), TREE);
        let mount = daemon.path("");
        let variables: [(&str, &OsStr); 1] = [("MOUNT", mount.as_os_str())];
        let script = r#"
tar --xattrs --acls -cSf in.tar tree
mkdir "$MOUNT/in"; tar --xattrs --acls -xpSf in.tar -C "$MOUNT/in"
tar --compare -f in.tar -C "$MOUNT/in"
tar -cSf out.tar -C "$MOUNT/in" tree; tar --compare -f out.tar"#;
        let output = sh_output(place.dir.path(), script, &variables);
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    });
}

#[test]
fn rsync_finds_no_difference() {
    with(&["rsync"], |place, daemon| {
        sh(place.dir.path(), TREE);
        let mount = daemon.path("");
        let variables: [(&str, &OsStr); 1] = [("MOUNT", mount.as_os_str())];
        let script = r#"
rsync -aHAXS tree "$MOUNT/"
test -z "$(rsync -aHAXS --checksum --delete --dry-run --itemize-changes tree "$MOUNT/" | tee /dev/stderr)"
rsync -aHAXS "$MOUNT/tree" back/
test -z "$(rsync -aHAXS --checksum --delete --dry-run --itemize-changes tree/ back/tree/ | tee /dev/stderr)""#;
        let output = sh_output(place.dir.path(), script, &variables);
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    });
}
