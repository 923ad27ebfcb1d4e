//! What the workspace may hold, and what of it may be in memory.

use super::*;
use crate::store::fault::{Fault, Point};
use std::time::{Duration, Instant};

/// A filesystem that may hold 1 MiB.
fn limited() -> Fixture {
    Fixture::with(Options { max_bytes: Some(1 << 20), ..Options::default() })
}

fn is_full<T: std::fmt::Debug>(result: FsResult<T>) {
    assert!(matches!(result, Err(FsError::NoSpace)), "{result:?}");
}

fn sized(size: u64) -> SetAttr {
    SetAttr { size: Some(size), ..SetAttr::default() }
}

#[test]
fn the_quota_is_kept() {
    let fs = limited();
    let file = fs.file(ROOT, "big").ino;
    fs.vfs.write(ME, file, 0, &[1; 900_000], false).unwrap();
    assert!(matches!(fs.vfs.write(ME, file, 900_000, &[1; 900_000], false), Err(FsError::NoSpace)));
    fs.vfs.write(ME, file, 0, &[2; 900_000], false).unwrap();
    assert_eq!(fs.vfs.statfs().unwrap().total, 1 << 20);
    fs.vfs.unlink(ME, ROOT, b"big").unwrap();
    let file = fs.file(ROOT, "next").ino;
    fs.vfs.write(ME, file, 0, &[1; 900_000], false).unwrap();
}

/// Forty files of a byte each, of which the first fifteen have grown by 65,000: another one has no room for that.
fn nearly_full() -> (Fixture, Vec<Ino>) {
    let fs = limited();
    let files: Vec<Ino> = (0..40).map(|number| fs.file(ROOT, &format!("f{number}")).ino).collect();
    for file in &files {
        fs.vfs.write(ME, *file, 0, b"x", false).unwrap();
    }
    for file in &files[..15] {
        fs.vfs.append(ME, *file, &[1; 65_000]).unwrap();
    }
    (fs, files)
}

#[test]
fn the_quota_counts_what_grows_within_a_chunk() {
    let (fs, files) = nearly_full();
    let small = files[20];
    is_full(fs.vfs.append(ME, small, &[1; 65_000]));
    is_full(fs.vfs.write(ME, small, 1, &[1; 65_000], false));
    is_full(fs.vfs.write_pages(small, 0, &[1; 65_000], false));
    is_full(fs.vfs.setattr(ME, small, &sized(65_536)));
    is_full(fs.vfs.fallocate(ME, small, Fallocate::Allocate, 0, 65_536));
    is_full(fs.vfs.fallocate(ME, small, Fallocate::AllocateKeepSize, 0, 65_536));
    is_full(fs.vfs.fallocate(ME, small, Fallocate::ZeroRange, 60_000, 5_536));
    is_full(fs.vfs.copy_range(ME, (files[0], 0), (small, 0), 65_001));
    is_full(fs.vfs.replace_content(ME, small, files[0], None));
    assert_eq!(fs.vfs.getattr(small).unwrap().size, 1);
    assert_eq!(fs.vfs.stats().allocated_bytes, 15 * 65_024 + 25 * 512);
    fs.check();
}

#[test]
fn what_takes_no_more_goes_on_when_the_quota_is_reached() {
    let (fs, files) = nearly_full();
    let empty = fs.file(ROOT, "empty").ino;
    fs.vfs.append(ME, files[20], &[2; 60_000]).unwrap();
    is_full(fs.vfs.append(ME, files[21], &[2; 2_000]));
    fs.vfs.write(ME, files[0], 5, &[3; 60_000], false).unwrap();
    fs.vfs.append(ME, files[21], &[2; 511]).unwrap();
    fs.vfs.setattr(ME, empty, &sized(1 << 40)).unwrap();
    fs.vfs.copy_range(ME, (empty, 0), (files[1], 0), 65_536).unwrap();
    fs.vfs.replace_content(ME, files[2], files[0], None).unwrap();
    fs.vfs.fallocate(ME, files[0], Fallocate::PunchHole, 0, 4_096).unwrap();
    fs.vfs.rename(ME, (ROOT, b"f30"), (ROOT, b"f3"), RenameMode::Replace).unwrap();
    fs.vfs.setattr(ME, files[4], &sized(10)).unwrap();
    fs.vfs.append(ME, files[21], &[2; 60_000]).unwrap();
    fs.check();
    for name in fs.names(ROOT).iter().filter(|name| !name.starts_with('.')) {
        fs.vfs.unlink(ME, ROOT, name.as_bytes()).unwrap();
    }
    assert_eq!(fs.vfs.stats().allocated_bytes, 0);
}

fn set(fs: &Fixture, ino: Ino, len: usize) -> FsResult<()> {
    fs.vfs.setxattr(ME, ino, b"user.a", &vec![b'x'; len], SetXattr::Any)
}

#[test]
fn the_quota_counts_attributes_too() {
    let mut fs = limited();
    let files: Vec<Ino> = (0..20).map(|number| fs.file(ROOT, &format!("f{number}")).ino).collect();
    for file in &files[..17] {
        set(&fs, *file, 60_000).unwrap();
    }
    let used = 17 * 60_006;
    for restarted in [false, true] {
        if restarted {
            fs.reopen();
        }
        assert_eq!(fs.vfs.stats().allocated_bytes, used);
        assert_eq!(fs.vfs.statfs().unwrap().free, (1 << 20) - used);
        is_full(set(&fs, files[17], 60_000));
        is_full(fs.vfs.write(ME, files[17], 0, &[1; 60_000], false));
        assert!(fs.vfs.listxattr(files[17]).unwrap().is_empty());
        set(&fs, files[0], 60_000).unwrap();
    }
    set(&fs, files[0], 50_000).unwrap();
    set(&fs, files[17], 30_000).unwrap();
    fs.vfs.removexattr(ME, files[1], b"user.a").unwrap();
    fs.vfs.append(ME, files[18], &[1; 60_000]).unwrap();
    fs.check();
    for name in fs.names(ROOT).iter().filter(|name| !name.starts_with('.')) {
        fs.vfs.unlink(ME, ROOT, name.as_bytes()).unwrap();
    }
    assert_eq!(fs.vfs.stats().allocated_bytes, 0);
    fs.reopen();
    assert_eq!(fs.vfs.stats().allocated_bytes, 0);
}

/// The smallest cache, of which nodes, names and attributes may have a quarter.
const SMALL: Options = Options { cache_bytes: 16 << 20, max_bytes: None };

/// Bytes of attributes in memory, as of now.
fn resident(fs: &Fixture, files: &[Ino]) -> usize {
    let nodes = files.iter().filter_map(|ino| fs.vfs.nodes.get(*ino));
    let values = |node: Arc<node::Node>| {
        let meta = node.meta.read();
        meta.xattrs.iter().flat_map(|xattrs| xattrs.values()).map(Vec::len).sum::<usize>()
    };
    nodes.map(values).sum()
}

#[test]
fn attributes_leave_memory_like_other_things() {
    let mut fs = Fixture::with(SMALL);
    let files: Vec<Ino> = (0..600).map(|number| fs.file(ROOT, &format!("f{number}")).ino).collect();
    let mut dirty = 0;
    for file in &files {
        set(&fs, *file, 65_000).unwrap();
        dirty = dirty.max(fs.vfs.stats().dirty_bytes);
    }
    assert!(dirty > 0 && dirty < 17 << 20, "{dirty} bytes were dirty");
    fs.vfs.sync().unwrap();
    fs.vfs.after_commit();
    assert_eq!(fs.vfs.stats().dirty_bytes, 0);
    let (kept, counted) = (resident(&fs, &files), fs.vfs.memory.bytes());
    assert!(kept <= 4 << 20 && kept as u64 <= counted, "{kept} bytes are in memory, {counted} are counted");
    fs.reopen();
    for file in &files {
        assert_eq!(fs.vfs.getxattr(*file, b"user.a").unwrap().len(), 65_000);
    }
    let kept = resident(&fs, &files);
    assert!(kept <= 5 << 20, "{kept} bytes are in memory of those that were read");
    fs.check();
}

#[test]
fn attributes_are_dirty_until_the_store_has_them() {
    let fs = Fixture::with(SMALL);
    let file = fs.file(ROOT, "file").ino;
    fs.vfs.sync().unwrap();
    fs.vfs.store.faults.plant(Point::CommitEnd, Fault::Full, usize::MAX);
    set(&fs, file, 60_000).unwrap();
    fs.vfs.commit_now().unwrap_err();
    assert_eq!(fs.vfs.stats().dirty_bytes, 60_006);
    fs.vfs.store.faults.plant(Point::CommitEnd, Fault::Full, 0);
    fs.vfs.sync().unwrap();
    assert_eq!(fs.vfs.stats().dirty_bytes, 0);
    fs.vfs.store.faults.plant(Point::CommitEnd, Fault::Full, usize::MAX);
    fs.vfs.removexattr(ME, file, b"user.a").unwrap();
    fs.vfs.unlink(ME, ROOT, b"file").unwrap();
    assert_eq!(fs.vfs.stats().dirty_bytes, 0);
    fs.vfs.store.faults.plant(Point::CommitEnd, Fault::Full, 0);
    fs.check();
}

/// The kernel keeps a directory locked while a name is made in it: who looked something up there waited for the disk.
#[test]
fn a_name_is_made_while_content_waits_for_the_disk() {
    let fs = Fixture::with(SMALL);
    let file = fs.file(ROOT, "content").ino;
    let busy_disk = fs.vfs.journal.no_group();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..400u64)
                .try_for_each(|at| fs.vfs.write(ME, file, at << 16, &[at as u8; 1 << 16], false).map(drop))
        });
        while !fs.vfs.may_hold_up() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(!writer.is_finished() && !fs.vfs.may_hold_up_names());
        let maker = scope.spawn(|| fs.file(ROOT, "name"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !maker.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (was_made, still_waits) = (maker.is_finished(), !writer.is_finished());
        drop(busy_disk);
        assert!(was_made && still_waits);
        writer.join().unwrap().unwrap();
    });
    fs.check();
}

#[test]
fn what_is_staged_counts_by_itself_and_is_bounded() {
    let fs = limited();
    let staged: Vec<Ino> = (0..4).map(|_| fs.vfs.stage(ME).unwrap().ino).collect();
    for ino in &staged[..3] {
        fs.vfs.write(ME, *ino, 0, &[1; 1 << 20], false).unwrap();
    }
    is_full(fs.vfs.write(ME, staged[3], 0, &[1; 1 << 20], false));
    assert_eq!(fs.vfs.stats().allocated_bytes, 0);
    fs.vfs.release(staged[0]);
    fs.vfs.write(ME, staged[3], 0, &[1; 1 << 20], false).unwrap();
    let file = fs.file(ROOT, "big").ino;
    fs.vfs.write(ME, file, 0, &[1; 1 << 20], false).unwrap();
    is_full(fs.vfs.write(ME, file, 1 << 20, &[1; 1], false));
}

/// It inherits the access control list that files of the workspace's root get.
#[test]
fn attributes_of_what_is_staged_count_with_it() {
    let fs = limited();
    let entries =
        [(1, 7, u32::MAX), (2, 7, 1000), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 5, u32::MAX)];
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, perms, id) in entries {
        list.extend([tag, 0, perms, 0]);
        list.extend(id.to_le_bytes());
    }
    fs.vfs.setxattr(ME, ROOT, b"system.posix_acl_default", &list, SetXattr::Any).unwrap();
    let before = fs.vfs.stats().allocated_bytes;
    for _ in 0..2 {
        let staged = fs.vfs.stage(ME).unwrap().ino;
        fs.vfs.write(ME, staged, 0, &[1; 1 << 20], false).unwrap();
        assert_eq!(fs.vfs.stats().allocated_bytes, before);
        fs.vfs.release(staged);
    }
    assert_eq!(fs.vfs.stats().allocated_bytes, before);
}
