//! An ordinary user's mount, through fusermount3: in a mount namespace in which everybody may open /dev/fuse, as on a laptop.

use crate::support::{Place, WSD, has, has_fuse, is_root};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Output, Stdio};

const NOBODY: u32 = 65534;

/// Makes a device of its own, and goes on; `$AS` makes a user of root.
const ENTER: &str = r#"
device=$(mktemp -d)
mount -t tmpfs none "$device"
mknod -m 666 "$device/fuse" c 10 229
mount --bind "$device/fuse" /dev/fuse
umount -l "$device"
rmdir "$device"
eval "$1"
"#;

/// What a script of the user prints.
fn as_user(script: &str) -> Option<Output> {
    as_root("exec $AS bash -euc \"$SCRIPT\"", script)
}

/// What a script of root prints, which may have the user do another one.
fn as_root(script: &str, users: &str) -> Option<Output> {
    if !(is_root() && has_fuse() && has("setpriv") && has("unshare") && has("fusermount3")) {
        return None;
    }
    let place = Place::new();
    let home = place.dir.path();
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    chown(home, Some(NOBODY), Some(NOBODY)).unwrap();
    let program = home.join("wsd");
    fs::copy(WSD, &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-euc", ENTER, "bash", script]).current_dir(home).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home).env("PORT", "0");
    command.env("AS", "setpriv --reuid=65534 --regid=65534 --clear-groups").env("SCRIPT", users);
    command.env("WSD_DB", &place.store).env("MOUNT_POINT", &place.point).env("WSD", program);
    let output = command.stdin(Stdio::null()).output().unwrap();
    Some(output)
}

fn check(output: &Output, expected: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

#[test]
fn a_user_mounts_works_and_finds_it_again() {
    let script = r#"
$WSD run -- bash -euc '
    grep -c "$MOUNT_POINT fuse.wsd .*user_id=65534" /proc/self/mounts
    mkdir -m 750 d; echo one > d/a; ln d/a d/b; ln -s a d/c; mv d/b b; chmod 4711 b
    stat -c "%u %g %a %h" d b; cat d/c
    ! chown 0 b 2> /dev/null; ! mknod node c 1 3 2> /dev/null
    truncate -s 1M big; exec 3<> big; rm big; echo open >&3; stat -Lc "%h %s" /dev/fd/3
'
! grep "$MOUNT_POINT" /proc/self/mounts
$WSD run -- cat b
$WSD check --db "$WSD_DB" > /dev/null"#;
    let Some(output) = as_user(script) else { return };
    check(&output, "1\n65534 65534 750 2\n65534 65534 4711 2\none\n0 1048576\none\n");
}

#[test]
fn what_a_kill_leaves_of_a_users_mount_is_cleared_away() {
    let script = r#"
$WSD > out 2> log & daemon=$!
until grep -q : out; do kill -0 $daemon; sleep 0.05; done
echo kept > "$MOUNT_POINT/a"; sync -f "$MOUNT_POINT/a"; sync "$MOUNT_POINT/a"
kill -9 $daemon; wait $daemon || true
$WSD run -- cat a
! grep "$MOUNT_POINT" /proc/self/mounts"#;
    let Some(output) = as_user(script) else { return };
    check(&output, "kept\n");
}

/// Others, root too, do not see it: the user could show them anything.
#[test]
fn a_users_mount_is_theirs_alone() {
    let script = r#"
$AS $WSD > out 2> log & daemon=$!
until grep -q : out; do kill -0 $daemon; sleep 0.05; done
$AS bash -euc "$SCRIPT"
cat "$MOUNT_POINT/a" 2>&1 | sed 's/.*: //'
kill $daemon; wait $daemon
! grep "$MOUNT_POINT" /proc/self/mounts"#;
    let Some(output) = as_root(script, r#"echo mine > "$MOUNT_POINT/a"; cat "$MOUNT_POINT/a""#) else {
        return;
    };
    check(&output, "mine\nPermission denied\n");
}

/// The kernel is given the new size of a file that its owner may not write.
#[test]
fn a_file_that_may_not_be_written_has_the_size_that_it_was_given_from_outside() {
    let script = r#"
$WSD > out 2> log & daemon=$!
until grep -q : out; do kill -0 $daemon; sleep 0.05; done
export PORT=$(sed -n 's/.*127.0.0.1:\([0-9]*\).*/\1/p' out)
echo 'as it was' > "$MOUNT_POINT/a"; chmod 444 "$MOUNT_POINT/a"
echo new | $WSD put - "$MOUNT_POINT/a"; cat "$MOUNT_POINT/a"
echo 'longer than it was' | $WSD put - "$MOUNT_POINT/a"; cat "$MOUNT_POINT/a"
stat -c %a "$MOUNT_POINT/a"; ! echo more >> "$MOUNT_POINT/a"
kill $daemon; wait $daemon"#;
    let Some(output) = as_user(script) else { return };
    check(&output, "new\nlonger than it was\n444\n");
}

/// Its guard cannot unmount by force, and has the connection aborted by a file, whose name is not the device's number as it
/// is told to programs once that is above 255.
#[test]
fn a_users_guard_ends_the_connection() {
    let script = r#"
mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections
for number in $(seq 300); do mkdir "many$number"; mount -t tmpfs none "many$number"; done
exec $AS bash -euc "$SCRIPT""#;
    let users = r#"
$WSD > out 2> log & daemon=$!
until grep -q : out; do kill -0 $daemon; sleep 0.05; done
export DEVICE=$(stat -c %d "$MOUNT_POINT")
[ "$DEVICE" -gt 255 ]
echo '$WSD __guard $$ "$MOUNT_POINT" $DEVICE --device & wait' > guarded
sh guarded > said & guarded=$!
until [ -s said ]; do kill -0 $guarded; sleep 0.05; done
echo kept > "$MOUNT_POINT/a"; sync "$MOUNT_POINT/a"
kill -9 $guarded; wait $guarded || true
for number in $(seq 200); do
    case $(ls "$MOUNT_POINT/$number" 2>&1 || true) in *'not connected'*) echo ended; break ;; esac
    sleep 0.05
done
kill -9 $daemon; wait $daemon || true
$WSD run -- cat a"#;
    let Some(output) = as_root(script, users) else { return };
    check(&output, "ended\nkept\n");
}
