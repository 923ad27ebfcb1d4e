//! overlayfs with its upper layer in the mount, as who builds or runs containers in the workspace has it.

use crate::support::{Place, excuse, has, has_fuse, has_linux, is_root, sh, sh_output};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What there is below, and is not in the mount.
const BASE: &str = "
mkdir -p etc usr/bin usr/share/doc/one usr/share/doc/two
echo name > etc/hostname; echo root > etc/passwd; chmod 640 etc/passwd
echo one > usr/share/doc/one/text; echo two > usr/share/doc/two/text
head -c 300000 /dev/urandom > usr/bin/program; chmod 755 usr/bin/program; cp usr/bin/program usr/bin/again
ln -s program usr/bin/link; mkfifo etc/fifo; setfattr -n user.note -v below etc/hostname";

/// What is done on top of it: one of each that a layer has to remember.
const WORK: &str = "
echo more >> etc/hostname; rm etc/passwd; mv etc/fifo etc/pipe; chmod 700 usr/bin/again
truncate -s 100000 usr/bin/program; setfattr -n user.note -v above etc/hostname
rm -r usr/share/doc/one; mkdir usr/share/doc/one; echo anew > usr/share/doc/one/anew
mv usr/share/doc/two/text usr/share/doc/three; rmdir usr/share/doc/two
ln etc/hostname etc/same; ln -sf again usr/bin/link; mkdir -m 1777 tmp
for i in $(seq 200); do echo $i > tmp/$i; done; rm tmp/1??; mv tmp/2 tmp/3";

/// Succeeds where overlayfs can be mounted at all.
const ANYWHERE: &str = "
mkdir t && mount -t tmpfs none t && mkdir t/l t/u t/w t/m
mount -t overlay none -o lowerdir=t/l,upperdir=t/u,workdir=t/w t/m && umount t/m && works=0 || works=1
umount t
exit $works";

/// All that is to be the same, but times.
const SHOW: &str = "
find . ! -type d -printf '%P %y %m %n %l\\n' -o -printf '%P d %m\\n' | LC_ALL=C sort
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 getfattr -d -m '^user' | grep .";

fn mount(place: &Place, merged: &Path) {
    let layer = |name: &str| place.point.join(name).display().to_string();
    let lower = place.dir.path().join("lower");
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), layer("upper"), layer("work"));
    let mut command = Command::new("mount");
    command.args(["-t", "overlay", "none", "-o", &options]).arg(merged);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn unmount(merged: &Path) {
    assert!(Command::new("umount").arg(merged).status().unwrap().success());
}

#[test]
fn a_layer_above_others_can_be_in_the_workspace() {
    if !(has_fuse() && is_root() && has("getfattr")) {
        return;
    }
    if !has_linux(6, 6, "user attributes in tmpfs") {
        return;
    }
    let place = Place::new();
    if !sh_output(place.dir.path(), ANYWHERE, &[]).status.success() {
        return excuse("overlayfs cannot be mounted here, whatever it is made of");
    }
    let [lower, twin, merged] = ["lower", "twin", "merged"].map(|name| place.dir.path().join(name));
    fs::create_dir(&lower).unwrap();
    fs::create_dir(&merged).unwrap();
    sh(&lower, BASE);
    assert!(Command::new("cp").arg("-a").args([&lower, &twin]).status().unwrap().success());
    let daemon = place.serve();
    fs::create_dir(daemon.path("upper")).unwrap();
    fs::create_dir(daemon.path("work")).unwrap();
    mount(&place, &merged);
    for directory in [&merged, &twin] {
        sh(directory, WORK);
    }
    let is_same = || assert_eq!(sh(&merged, SHOW), sh(&twin, SHOW));
    is_same();
    unmount(&merged);
    daemon.stop();
    place.check();
    let daemon = place.serve();
    mount(&place, &merged);
    is_same();
    unmount(&merged);
    daemon.stop();
    place.check();
}
