//! What a crash left under names of our own: halves of files that were being written, and files that were being
//! replaced or removed. A last edit of the latter may not have been seen.

use super::{Disk, Fault, Outcome, Path, path};
use crate::shadow::{Shadow, Side};
use crate::tree::{Facts, Kind, Tree};
use rustix::fs::{AtFlags, Dir};

pub(super) fn find(disk: &Disk) -> Outcome<Vec<(Path, Facts)>> {
    let (mut found, mut ahead) = (Vec::new(), vec![Vec::new()]);
    while let Some(at) = ahead.pop() {
        let names = match disk.list(&at) {
            Ok(names) => names,
            Err(Fault::NotFound | Fault::Io(_)) => continue,
            Err(fault) => return Err(fault),
        };
        let dirs = names.into_iter().filter(|(_, facts)| facts.kind == Kind::Dir);
        ahead.extend(dirs.map(|(name, _)| path::join(&at, &name)));
        let dir = disk.dir(&at)?;
        for entry in Dir::read_from(&dir).map_err(super::fault)?.flatten() {
            let name = entry.file_name().to_bytes();
            if name.starts_with(path::OWN_PREFIX)
                && let Some(facts) = disk.stat(&dir, name)?
            {
                found.push((path::join(&at, name), facts));
            }
        }
    }
    Ok(found)
}

impl Disk {
    /// Clears away what a crash left. A file that was agreed on, but has changed since, is shown as a conflict.
    pub fn clear_leftovers(&self, shadow: &Shadow) -> Outcome<()> {
        for (at, facts) in self.leftovers()? {
            let (parent, name) = path::split(&at);
            let dir = self.place(parent)?;
            let known = shadow.by_id(Side::Host, facts.id).find_map(|path| Some((path, shadow.get(path)?)));
            match known {
                Some((place, entry)) if !facts.has_bytes_of(&entry.host) => {
                    self.keep_beside(&dir, name, path::split(place).1)?;
                }
                _ => {
                    let flags = if facts.kind == Kind::Dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                    self.open_up(&dir, || rustix::fs::unlinkat(&dir, name, flags))?;
                }
            }
        }
        Ok(())
    }
}
