//! Listings of a directory in which names are made meanwhile: they miss nothing that was there.

use crate::support::{Daemon, mounted, sh};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// More than the kernel asks for at once.
const MANY: usize = 3000;

/// A directory with `count` files.
fn filled(daemon: &Daemon, name: &str, count: usize) -> std::path::PathBuf {
    let dir = daemon.path(name);
    fs::create_dir(&dir).unwrap();
    for number in 0..count {
        fs::write(dir.join(format!("file{number}")), b"").unwrap();
    }
    dir
}

/// What is listed now, by this process and by another one.
fn listed(dir: &Path) -> BTreeSet<String> {
    let names = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let here: BTreeSet<String> = fs::read_dir(dir).unwrap().map(names).collect();
    let there: BTreeSet<String> = sh(dir, "ls -A").lines().map(str::to_owned).collect();
    assert!(here == there, "{} names here, {} there", here.len(), there.len());
    here
}

/// The end of one listing is not the end of what the kernel keeps for the next.
#[test]
fn listings_that_overlap_miss_nothing_that_was_there() {
    mounted(|daemon| {
        let dir = filled(daemon, "shared", MANY);
        std::thread::scope(|scope| {
            for lister in 0..3 {
                let dir = &dir;
                scope.spawn(move || {
                    for round in 0..10 {
                        let own = format!("by{lister}-{round}");
                        fs::write(dir.join(&own), b"").unwrap();
                        let mut all = fs::read_dir(dir).unwrap();
                        let first: Vec<_> = all.by_ref().take(100).collect();
                        fs::write(dir.join(format!("{own}-later")), b"").unwrap();
                        let rest: BTreeSet<_> =
                            first.into_iter().chain(all).map(|entry| entry.unwrap().file_name()).collect();
                        assert!(rest.contains(std::ffi::OsStr::new(&own)), "{own} was there");
                        assert!(
                            (0..MANY).all(|number| {
                                rest.contains(std::ffi::OsStr::new(&format!("file{number}")))
                            })
                        );
                        let again = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
                        assert!(again.into_iter().any(|name| name == *format!("{own}-later")));
                    }
                });
            }
        });
        assert_eq!(listed(&dir).len(), MANY + 3 * 10 * 2);
    });
}

/// New names come last: whoever made one for each that it was shown saw no end.
#[test]
fn a_listing_ends_though_each_name_in_it_is_renamed_or_followed_by_a_new_one() {
    mounted(|daemon| {
        let dir = filled(daemon, "renamed", MANY);
        for round in 0..2 {
            let mut seen = 0;
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                fs::rename(&path, dir.join(format!("{round}-{name}"))).unwrap();
                seen += 1;
                assert!(seen <= MANY, "the listing goes on");
            }
            assert_eq!(seen, MANY);
            assert!(listed(&dir).iter().all(|name| name.starts_with(&round.to_string())));
        }
        let mut seen = 0;
        for entry in fs::read_dir(&dir).unwrap() {
            fs::write(entry.unwrap().path().with_extension("new"), b"").unwrap();
            seen += 1;
        }
        assert_eq!((seen, listed(&dir).len()), (MANY, 2 * MANY));
    });
}

/// A name that is made past the kernel, between two requests of one listing and while the kernel keeps it.
#[test]
fn what_is_made_past_the_kernel_is_in_the_next_listing() {
    mounted(|daemon| {
        let dir = filled(daemon, "outside", 1000);
        for round in 0..5 {
            let mut all = fs::read_dir(&dir).unwrap();
            let first = all.by_ref().take(10).count();
            let made = dir.join(format!("outside{round}"));
            let put = std::process::Command::new(crate::support::WSD)
                .args(["put", "-"])
                .arg(&made)
                .env("PORT", daemon.port.to_string())
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            assert!(put.status.success(), "{put:?}");
            assert!(first + all.count() >= 1000 + round);
            assert_eq!(listed(&dir).len(), 1001 + round);
        }
    });
}
