//! The mount and the callers from outside, step by step: what one side has done, the other one sees next, whatever the
//! kernel still holds.

use crate::support::{has_fuse, noise};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use wsd::mount::{Choice, Mount, ShimSettings};
use wsd::service::{Files, WriteQuery};
use wsd::store::{Location, Store};
use wsd::vfs::{Options, RenameMode, Vfs};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Mount,
    Outside,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// All of a file.
    Put {
        len: usize,
    },
    /// Bytes in the middle, by an open file that is not closed.
    Write {
        offset: u64,
        len: usize,
    },
    Append {
        len: usize,
    },
    Truncate {
        size: u64,
    },
    Chmod {
        mode: u32,
    },
    Rename {
        to: usize,
    },
    Remove,
}

struct Live {
    files: Files,
    vfs: Arc<Vfs>,
    mount: Option<Mount>,
    point: PathBuf,
    /// Open in the mount, with bytes that were never flushed.
    open: BTreeMap<usize, File>,
    model: BTreeMap<usize, (Vec<u8>, u32)>,
    _dir: TempDir,
}

impl Live {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap().join("mnt");
        let store = Arc::new(Store::open(&Location::Memory, &point).unwrap());
        let vfs = Vfs::open(store, Options::default()).unwrap();
        let mount = Some(Mount::start(&vfs, &point, Choice::Fuse, &ShimSettings::default()).unwrap());
        let files = Files::new(Arc::clone(&vfs), &point);
        let (open, model) = (BTreeMap::new(), BTreeMap::new());
        Self { files, vfs, mount, point, open, model, _dir: dir }
    }

    fn path(&self, name: usize) -> PathBuf {
        self.point.join(format!("f{name}"))
    }

    fn wire(&self, name: usize) -> Vec<u8> {
        self.path(name).into_os_string().into_encoded_bytes()
    }

    fn take(&mut self, side: Side, name: usize, step: Step, seed: u64) {
        let (path, wire) = (self.path(name), self.wire(name));
        let there = self.model.contains_key(&name);
        match step {
            Step::Put { len } => {
                let bytes = noise(seed, len);
                match side {
                    Side::Mount => fs::write(&path, &bytes).unwrap(),
                    Side::Outside => {
                        let mut sink = self.files.write_file(&wire, WriteQuery::default()).unwrap();
                        bytes.chunks(50_000).for_each(|portion| sink.write(portion).unwrap());
                        sink.done(false).unwrap();
                    }
                }
                let mode = self.model.get(&name).map_or(0o644, |(_, mode)| *mode);
                self.model.insert(name, (bytes, mode));
            }
            _ if !there => {}
            Step::Write { offset, len } => {
                let bytes = noise(seed, len);
                match side {
                    Side::Mount => {
                        let open = self.open.entry(name);
                        let file = open.or_insert_with(|| File::options().write(true).open(&path).unwrap());
                        file.write_all_at(&bytes, offset).unwrap();
                    }
                    Side::Outside => {
                        self.files.write(&wire, offset, &bytes).unwrap();
                    }
                }
                let (content, _) = self.model.get_mut(&name).unwrap();
                let end = offset as usize + len;
                content.resize(content.len().max(end), 0);
                content[offset as usize..end].copy_from_slice(&bytes);
            }
            Step::Append { len } => {
                let bytes = noise(seed, len);
                match side {
                    Side::Mount => {
                        let mut file = File::options().append(true).open(&path).unwrap();
                        std::io::Write::write_all(&mut file, &bytes).unwrap();
                    }
                    Side::Outside => {
                        self.files.append(&wire, &bytes, None).unwrap();
                    }
                }
                self.model.get_mut(&name).unwrap().0.extend(bytes);
            }
            Step::Truncate { size } => {
                match side {
                    Side::Mount => File::options().write(true).open(&path).unwrap().set_len(size).unwrap(),
                    Side::Outside => drop(self.files.truncate(&wire, size).unwrap()),
                }
                self.model.get_mut(&name).unwrap().0.resize(size as usize, 0);
            }
            Step::Chmod { mode } => {
                match side {
                    Side::Mount => fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap(),
                    Side::Outside => drop(self.files.chmod(&wire, mode).unwrap()),
                }
                self.model.get_mut(&name).unwrap().1 = mode;
            }
            Step::Rename { to } => {
                match side {
                    Side::Mount => fs::rename(&path, self.path(to)).unwrap(),
                    Side::Outside => self.files.rename(&wire, &self.wire(to), RenameMode::Replace).unwrap(),
                }
                if to != name {
                    let moved = self.model.remove(&name).unwrap();
                    self.model.insert(to, moved);
                    let open = self.open.remove(&name);
                    self.open.remove(&to);
                    self.open.extend(open.map(|open| (to, open)));
                }
            }
            Step::Remove => {
                match side {
                    Side::Mount => fs::remove_file(&path).unwrap(),
                    Side::Outside => drop(self.files.rm(&wire, false, false, &|| false).unwrap()),
                }
                self.model.remove(&name);
                self.open.remove(&name);
            }
        }
    }

    /// Both sides see what the model says.
    fn compare(&self) {
        let mut names: Vec<String> = fs::read_dir(&self.point)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected: Vec<String> = self.model.keys().map(|name| format!("f{name}")).collect();
        assert_eq!(names, expected, "the mount's listing");
        let page = self.files.readdir(self.point.as_os_str().as_encoded_bytes(), 0, 100).unwrap();
        let mut listed: Vec<_> =
            page.entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect();
        listed.sort();
        assert_eq!(listed, expected, "the listing from outside");
        for (name, (bytes, mode)) in &self.model {
            let outside = self.files.stat(&self.wire(*name)).unwrap();
            let inside = fs::metadata(self.path(*name)).unwrap();
            assert_eq!((outside.size, outside.mode), (bytes.len() as u64, *mode), "f{name} from outside");
            assert_eq!((inside.len(), inside.mode() & 0o7777), (bytes.len() as u64, *mode), "f{name} inside");
            let time = inside.mtime() * 1_000_000_000 + inside.mtime_nsec();
            assert_eq!(outside.mtime.0, time, "the time of f{name}");
            let (read, _) = self.files.read(&self.wire(*name), 0, 4 << 20).unwrap();
            assert!(read == *bytes, "the bytes of f{name} from outside");
            assert!(fs::read(self.path(*name)).unwrap() == *bytes, "the bytes of f{name} inside");
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.open.clear();
        if let Some(mount) = self.mount.take() {
            mount.stop();
        }
        self.vfs.shutdown().unwrap();
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..200_000usize).prop_map(|len| Step::Put { len }),
        4 => (0..150_000u64, 1..5000usize).prop_map(|(offset, len)| Step::Write { offset, len }),
        2 => (1..5000usize).prop_map(|len| Step::Append { len }),
        2 => (0..150_000u64).prop_map(|size| Step::Truncate { size }),
        1 => prop_oneof![Just(0o600), Just(0o644), Just(0o755)].prop_map(|mode| Step::Chmod { mode }),
        1 => (0..3usize).prop_map(|to| Step::Rename { to }),
        1 => Just(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn each_side_sees_what_the_other_has_done(
        steps in prop::collection::vec((any::<bool>(), 0..3usize, step()), 1..40),
    ) {
        if !has_fuse() {
            return Ok(());
        }
        let mut live = Live::new();
        for (seed, (inside, name, step)) in (1..).zip(steps) {
            let side = if inside { Side::Mount } else { Side::Outside };
            live.take(side, name, step, seed);
            live.compare();
        }
    }
}
