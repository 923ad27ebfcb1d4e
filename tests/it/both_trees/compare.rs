//! Whether both sides see what the model says.

use super::{Id, LONGEST, Live, Thing, hex, wire};
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

impl Live {
    /// Both sides see what the model says.
    pub(super) fn compare(&mut self) {
        let named = self.named();
        let dirs = named.iter().filter(|(id, ..)| self.is_dir(*id)).map(|(id, path, ..)| (*id, path.clone()));
        let dirs: Vec<(Id, PathBuf)> = dirs.chain([(0, self.point.clone())]).collect();
        for (id, path) in &dirs {
            let (expected, nlink) = self.inside(*id);
            let mut names: Vec<String> = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, expected, "the mount's listing of {path:?}");
            let page = self.files.readdir(&wire(path), 0, 100).unwrap();
            let mut names: Vec<String> =
                page.entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect();
            names.sort();
            assert_eq!(names, expected, "the listing of {path:?} from outside");
            self.agree(path, 0, nlink);
        }
        for (id, path, ..) in named.iter().filter(|(id, ..)| !self.is_dir(*id)) {
            let nlink = named.iter().filter(|(other, ..)| other == id).count() as u64;
            let Thing::File(bytes) = &self.things[id] else { unreachable!() };
            self.agree(path, bytes.len() as u64, nlink);
            let (read, _) = self.files.read(&wire(path), 0, LONGEST).unwrap();
            assert!(read == *bytes, "the bytes of {path:?} from outside");
            assert!(fs::read(path).unwrap() == *bytes, "the bytes of {path:?} inside");
        }
        self.compare_held(&named);
        self.compare_places(&dirs);
    }

    fn agree(&self, path: &Path, size: u64, nlink: u64) {
        let (outside, inside) = (self.files.stat(&wire(path)).unwrap(), fs::metadata(path).unwrap());
        assert_eq!((outside.size, outside.nlink.into()), (size, nlink), "{path:?} from outside");
        let is_dir = inside.is_dir();
        assert_eq!((if is_dir { 0 } else { inside.len() }, inside.nlink()), (size, nlink), "{path:?} inside");
        assert_eq!(outside.ino, inside.ino(), "{path:?}");
        let times = [
            inside.mtime() * 1_000_000_000 + inside.mtime_nsec(),
            inside.ctime() * 1_000_000_000 + inside.ctime_nsec(),
        ];
        assert_eq!([outside.mtime.0, outside.ctime.0], times, "the times of {path:?}");
    }

    /// The names in a directory, and how many links it has.
    fn inside(&self, id: Id) -> (Vec<String>, u64) {
        let Thing::Dir(names) = &self.things[&id] else { unreachable!() };
        let dirs = names.values().filter(|id| self.is_dir(**id)).count() as u64;
        (names.keys().map(|name| format!("n{name}")).collect(), 2 + dirs)
    }

    fn compare_held(&mut self, named: &[(Id, PathBuf, Id, u8)]) {
        for id in self.held.clone() {
            let said = self.program.act(json!({"op": "look", "key": id}));
            let nlink = named.iter().filter(|(other, ..)| *other == id).count();
            let bytes = self.bytes(id);
            assert_eq!(said["size"], bytes.len(), "the size of what is held, {id}");
            assert_eq!(said["nlink"], nlink, "the links of what is held, {id}");
            for how in ["read", "mapped", "direct"] {
                assert!(said[how] == hex(bytes), "the bytes of what is held, {id}, {how}");
            }
        }
    }

    fn compare_places(&mut self, dirs: &[(Id, PathBuf)]) {
        for id in self.stays.clone() {
            let said = self.program.act(json!({"op": "inside", "key": id}));
            let (names, nlink) = self.inside(id);
            assert_eq!(said["names"], json!(names), "the names in what is open, {id}");
            let nlink = if dirs.iter().any(|(dir, _)| *dir == id) { nlink } else { 0 };
            assert_eq!(said["nlink"], nlink, "the links of what is open, {id}");
        }
        let Some(id) = self.place else { return };
        let said = self.program.act(json!({"op": "where"}));
        let path = dirs.iter().find(|(dir, _)| *dir == id).map(|(_, path)| path);
        assert_eq!(said["where"], json!(path), "where the program is");
        let (names, nlink) = self.inside(id);
        assert_eq!(said["names"], json!(names), "what is where the program is");
        assert_eq!(
            said["nlink"],
            if path.is_some() { nlink } else { 0 },
            "the links of where the program is"
        );
    }
}
