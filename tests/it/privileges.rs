//! What a change of a program takes from it: setuid, setgid and capabilities, as ext4 does it.

use crate::support::{Place, has, has_fuse, has_linux, is_root, sh};

/// Nobody, who is in no group but their own.
const NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";

/// Runs a script in a mount that everybody may write into; `$NOBODY` makes somebody of root who owns nothing.
fn in_mount(programs: &[&str], script: &str) {
    if !(has_fuse() && is_root() && has("setpriv") && programs.iter().all(|program| has(program))) {
        return;
    }
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let daemon = place.serve();
    set_permissions(place.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let begin = format!(
        "NOBODY='{NOBODY}'
         is() {{ local got; got=$(stat -c %a $1); [ $got = $2 ] || {{ echo \"$1: $got, not $2\"; exit 1; }}; }}
         program() {{ rm -f $1; head -c 200000 /dev/zero > $1; sync $1; chown ${{3:-0:0}} $1; chmod $2 $1; }}
         chmod 777 .\n"
    );
    sh(&daemon.path(""), &(begin + script));
    daemon.stop();
    place.check();
}

#[test]
fn allocating_and_punching_take_setuid_and_setgid_from_an_ordinary_user() {
    if !has_linux(6, 1, "FALLOC_FL_ZERO_RANGE in FUSE") {
        return;
    }
    in_mount(
        &["fallocate"],
        "for how in '-l 300000' '-n -l 300000' '-p -l 100' '-z -l 100'; do
             program f 6777; $NOBODY fallocate $how f; is f 777
             program f 6777; fallocate $how f; is f 6777
             program f 6777; setpriv --bounding-set -fsetid --inh-caps -fsetid fallocate $how f; is f 777
         done",
    );
}

#[test]
fn a_copied_range_takes_setuid_setgid_and_capabilities() {
    in_mount(
        &["python3", "setcap", "getcap"],
        "cat > copy <<'END'
import os, sys
start, length, uid = map(int, sys.argv[1:])
source, target = os.open('source', os.O_RDONLY), os.open('f', os.O_RDWR)
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
assert os.copy_file_range(source, target, length, 0, start) > 0
END
         head -c 300000 /dev/urandom > source; sync source; chmod 644 source
         for how in '0 65536' '65536 65536' '0 4096' '0 300000' '100 100'; do
             program f 6777; python3 copy $how 65534; is f 777
             program f 6777; python3 copy $how 0; is f 6777
             program f 777; setcap cap_chown+ep f; [ -n \"$(getcap f)\" ]; python3 copy $how 0; [ -z \"$(getcap f)\" ]
         done",
    );
}

#[test]
fn setgid_of_a_group_that_the_writer_is_not_in_goes_without_group_execute_too() {
    if !has_linux(6, 1, "way to tell a FUSE server of writers without privileges") {
        return;
    }
    in_mount(
        &["fallocate"],
        "member='setpriv --reuid 65534 --regid 65534 --groups 7,1234'
         for how in 'sh -c \"echo x >> f\"' 'truncate -s 5 f' 'fallocate -p -l 100 f' 'dd if=/dev/zero of=f bs=4096 count=1 oflag=direct conv=notrunc status=none'; do
             program f 2666 0:1234; eval $NOBODY $how; is f 666
             program f 6767 0:1234; eval $NOBODY $how; is f 767
             program f 2666 0:1234; eval $member $how; is f 2666
             program f 6666 0:1234; eval $member $how; is f 2666
             program f 6676 0:1234; eval $member $how; is f 676
             program f 6666 0:1234; eval $how; is f 6666
         done
         program f 6644 65534:1234; $NOBODY chgrp 65534 f; is f 644
         program f 6644 65534:1234; $member chgrp 65534 f; is f 2644
         program f 6655 65534:1234; $member chgrp 65534 f; is f 655",
    );
}

#[test]
fn an_acl_from_an_owner_outside_of_the_group_takes_setgid() {
    in_mount(
        &["setfacl"],
        "member='setpriv --reuid 65534 --regid 65534 --groups 1234'
         for how in u:7:r u:7:-; do
             program f 2666 65534:1234; $NOBODY setfacl -m $how f; is f 666
             program f 2676 65534:1234; $NOBODY setfacl -m $how f; is f 676
             program f 2666 65534:1234; $member setfacl -m $how f; is f 2666
             program f 2666 65534:1234; setfacl -m $how f; is f 2666
         done
         program f 2666 65534:1234; $NOBODY setfacl -m u::r f; is f 466
         mkdir d; chown 65534:1234 d; chmod 2777 d; $NOBODY setfacl -d -m u:7:r d; is d 2777
         $NOBODY setfacl -m u:7:r d; is d 777",
    );
}
