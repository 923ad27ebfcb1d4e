//! The control groups that this process is in (cgroups(7)), and the memory that they leave it.
//!
//! A container is told its limit by its group alone: the machine shows it all of its own memory. Both versions are read, because
//! hosts have either, or version 2 without the controller of memory and version 1 with it. In a container the group is
//! often the root of what is mounted there, which the mount table says.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the groups of version 2, or of a controller of version 1, are mounted, and this process's own one below.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    point: PathBuf,
    own: PathBuf,
}

/// This process's group of version 2.
pub fn own() -> Option<PathBuf> {
    let (mounts, groups) = tables()?;
    place(&mounts, &groups, None).map(|place| place.own)
}

/// The least that a group of this process allows it, bytes of memory.
pub fn memory_limit() -> Option<u64> {
    let (mounts, groups) = tables()?;
    let unified = place(&mounts, &groups, None).and_then(|place| least_of_all_above(&place));
    let alone = place(&mounts, &groups, Some("memory")).and_then(|place| {
        let figures = fs::read_to_string(place.own.join("memory.stat")).ok()?;
        figures.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit ")?.trim().parse().ok())
    });
    unified.into_iter().chain(alone).min()
}

/// Version 2: of the group and each above it.
fn least_of_all_above(place: &Place) -> Option<u64> {
    let above = place.own.ancestors().take_while(|group| group.starts_with(&place.point));
    let limits = above.flat_map(|group| ["memory.max", "memory.high"].map(|limit| group.join(limit)));
    // "max" is none.
    limits.filter_map(|limit| fs::read_to_string(limit).ok()?.trim().parse().ok()).min()
}

fn tables() -> Option<(String, String)> {
    Some((fs::read_to_string("/proc/self/mountinfo").ok()?, fs::read_to_string("/proc/self/cgroup").ok()?))
}

/// Finds a controller of version 1, or version 2, in `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn place(mounts: &str, groups: &str, controller: Option<&str>) -> Option<Place> {
    let (root, point) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let is_it = match controller {
            None => kind == "cgroup2",
            Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        let mut before = before.split(' ').skip(3);
        is_it.then(|| Some((before.next()?, before.next()?)))?
    })?;
    let path = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let is_it = controller.map_or(names.is_empty(), |name| names.split(',').any(|known| known == name));
        is_it.then_some(path)
    })?;
    let point = PathBuf::from(point);
    // What is not below the root of the mount cannot be seen: the root is all there is of it.
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let own = if below.as_os_str().is_empty() { point.clone() } else { point.join(below) };
    Some(Place { point, own })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(point: &str, own: &str) -> Option<Place> {
        Some(Place { point: point.into(), own: own.into() })
    }

    #[test]
    fn groups_are_found_where_a_host_and_where_a_container_has_them() {
        let host = "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
                    30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(
            place(host, "0::/user.slice/it", None),
            at("/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/it")
        );
        assert_eq!(place(host, "0::/", None), at("/sys/fs/cgroup", "/sys/fs/cgroup"));
        assert_eq!(place(host, "0::/user.slice/it", Some("memory")), None);

        let both = "31 30 0:27 / /cg/memory rw - cgroup cgroup rw,memory\n\
                    32 30 0:28 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                    33 30 0:29 / /cg/unified rw - cgroup2 cgroup2 rw";
        let groups = "9:cpu,cpuacct:/one\n4:memory:/two/three\n0::/four";
        assert_eq!(place(both, groups, Some("memory")), at("/cg/memory", "/cg/memory/two/three"));
        assert_eq!(place(both, groups, Some("cpuacct")), at("/cg/cpu", "/cg/cpu/one"));
        assert_eq!(place(both, groups, None), at("/cg/unified", "/cg/unified/four"));

        // Docker without a namespace for groups: the container's own group is the root of the mount.
        let container = "40 30 0:27 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let own = at("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
        assert_eq!(place(container, "4:memory:/docker/ab", Some("memory")), own);
        let below = at("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/init");
        assert_eq!(place(container, "4:memory:/docker/ab/init", Some("memory")), below);
        assert_eq!(place(container, "4:memory:/elsewhere", Some("memory")), own);
        assert_eq!(place("", "", None), None);
        assert_eq!(place("nonsense - cgroup2", "nonsense", None), None);
    }

    #[test]
    fn the_least_limit_above_counts() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("point");
        let own = point.join("above/own");
        fs::create_dir_all(&own).unwrap();
        let place = Place { point: point.clone(), own: own.clone() };
        assert_eq!(least_of_all_above(&place), None);
        fs::write(own.join("memory.max"), "max\n").unwrap();
        fs::write(dir.path().join("memory.max"), "1\n").unwrap();
        assert_eq!(least_of_all_above(&place), None);
        fs::write(point.join("above/memory.max"), "536870912\n").unwrap();
        assert_eq!(least_of_all_above(&place), Some(512 << 20));
        fs::write(own.join("memory.high"), "1048576\n").unwrap();
        assert_eq!(least_of_all_above(&place), Some(1 << 20));
    }
}
