//! The same random operations on a mount and on a tmpfs twin: the same results, the same tree, restarts included.

use crate::support::{Place, has_fuse, is_root, noise};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Numbers that are the same for the same seed.
struct Dice {
    bytes: Vec<u8>,
    at: usize,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { bytes: noise(seed, 1 << 16), at: 0 }
    }

    fn roll(&mut self, sides: u32) -> u32 {
        let word = [self.bytes[self.at], self.bytes[self.at + 1], self.bytes[self.at + 2], 0];
        self.at = (self.at + 3) % (self.bytes.len() - 3);
        u32::from_le_bytes(word) % sides
    }

    /// One of a few paths, up to three levels deep.
    fn path(&mut self) -> PathBuf {
        let depth = 1 + self.roll(3);
        (0..depth).map(|_| format!("n{}", self.roll(4))).collect()
    }
}

/// Does one operation below a root; what it returned, for comparison.
fn operate(root: &Path, dice: &mut Dice) -> String {
    let (a, b) = (root.join(dice.path()), root.join(dice.path()));
    let (offset, len, seed) =
        (u64::from(dice.roll(200_000)), dice.roll(70_000) as usize, u64::from(dice.roll(1000)));
    let edit = |path: &Path| File::options().read(true).write(true).open(path);
    match dice.roll(14) {
        0 | 1 => shown(File::options().write(true).create_new(true).open(&a).map(|_| ())),
        2 | 3 => shown(fs::create_dir(&a)),
        4 | 5 => shown(edit(&a).and_then(|file| file.write_all_at(&noise(seed, len), offset))),
        6 => shown(edit(&a).and_then(|file| file.set_len(offset))),
        7 => shown(fs::remove_file(&a)),
        8 => shown(fs::remove_dir(&a)),
        9 => shown(fs::rename(&a, &b)),
        10 => shown(fs::hard_link(&a, &b)),
        11 => shown(symlink(format!("n{seed}"), &a)),
        12 => shown(fs::symlink_metadata(&a).and_then(|found| {
            if found.is_symlink() {
                Ok(())
            } else {
                fs::set_permissions(&a, fs::Permissions::from_mode((seed as u32 % 0o1000) | 0o700))
            }
        })),
        _ => shown(edit(&a).and_then(|from| Ok((from, edit(&b)?))).and_then(|(from, to)| {
            let (mut at_from, mut at_to) = (offset / 4096 * 4096, u64::from(seed as u32 % 4) * 65_536);
            if a == b || from.metadata()?.ino() == to.metadata()?.ino() {
                return Ok(());
            }
            // Fewer bytes than asked for are no error; the twin need not stop at the same place.
            let mut rest = len;
            while rest > 0 {
                match rustix::fs::copy_file_range(&from, Some(&mut at_from), &to, Some(&mut at_to), rest)? {
                    0 => break,
                    copied => rest -= copied,
                }
            }
            Ok(())
        })),
    }
}

fn shown(result: io::Result<()>) -> String {
    result.map_or_else(|error| format!("{:?}", error.raw_os_error()), |()| "ok".to_owned())
}

/// Everything there is to compare of a tree, a line a node.
fn tree(root: &Path, below: &Path, lines: &mut Vec<String>) {
    let mut names: Vec<_> =
        fs::read_dir(root.join(below)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = below.join(name);
        let found = fs::symlink_metadata(root.join(&path)).unwrap();
        let mode = found.mode();
        if found.is_dir() {
            lines.push(format!("{} {mode:o} {} links", path.display(), found.nlink()));
            tree(root, &path, lines);
        } else if found.is_symlink() {
            lines.push(format!("{} -> {:?}", path.display(), fs::read_link(root.join(&path)).unwrap()));
        } else {
            let hash = blake3::hash(&fs::read(root.join(&path)).unwrap());
            lines.push(format!(
                "{} {mode:o} {} links {} bytes {hash}",
                path.display(),
                found.nlink(),
                found.len()
            ));
        }
    }
}

fn all(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    tree(root, Path::new(""), &mut lines);
    lines
}

/// tmpfs counts the links of a directory as wsd does; other filesystems need not.
fn with_tmpfs(test: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(dir.path()).status().unwrap().success());
    test(dir.path());
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
}

#[test]
fn a_mount_and_tmpfs_do_the_same() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let seeds = std::env::var("WSD_TWIN_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        with_tmpfs(|twin| {
            let place = Place::new();
            let (mut here, mut there) = (Dice::new(seed), Dice::new(seed));
            for restart in 0..4 {
                let daemon = place.serve();
                for step in 0..500 {
                    let (ours, theirs) = (operate(&place.point, &mut here), operate(twin, &mut there));
                    assert_eq!(ours, theirs, "seed {seed}, restart {restart}, step {step}");
                }
                assert_eq!(all(&place.point), all(twin), "seed {seed}, restart {restart}");
                daemon.stop();
                place.check();
            }
        });
    }
}
