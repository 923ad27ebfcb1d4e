//! Replacing text in a file, exactly.

use super::failure::About;
use super::{Failure, Files, Outcome};
use crate::error::FsError;
use crate::vfs::Attr;
use memchr::memmem;

/// Largest file that is edited, bytes.
const MAX_EDITED: u64 = 64 << 20;

/// How often an edit is made anew because somebody else changed the file meanwhile.
const TRIES: usize = 16;

/// What an edit did.
#[derive(Clone, Debug)]
pub struct Edited {
    /// How many times the text was there.
    pub replaced: u64,
    /// The file after it.
    pub attr: Attr,
}

impl Files {
    /// Replaces `old`, which must be in the file exactly once (`all`: at least once), by `new`.
    pub fn edit(&self, path: &[u8], old: &[u8], new: &[u8], all: bool) -> Outcome<Edited> {
        if old.is_empty() {
            return Err(Failure::protocol("the text to replace is empty")).about(path);
        }
        for _ in 0..TRIES {
            let file = self.file_at(path)?;
            self.vfs.pull(file.ino);
            let file = self.vfs.getattr(file.ino).about(path)?;
            if file.size > MAX_EDITED {
                let text = format!("{} bytes: a file of at most {MAX_EDITED} can be edited", file.size);
                return Err(Failure::new("EFBIG", text)).about(path);
            }
            let before = self.vfs.read(file.ino, 0, file.size as usize).about(path)?;
            let replaced = memmem::find_iter(&before, old).count() as u64;
            if replaced == 0 || (replaced > 1 && !all) {
                let text = match replaced {
                    0 => "the text is not in the file".to_owned(),
                    count => format!("the text is in the file {count} times, not once"),
                };
                return Err(Failure::new("EMATCHES", text)).about(path);
            }
            let grown = replaced.saturating_mul(new.len() as u64);
            let size = (before.len() as u64 - replaced * old.len() as u64).saturating_add(grown);
            if size > MAX_EDITED {
                let text = format!("it would have {size} bytes: at most {MAX_EDITED} can be edited");
                return Err(Failure::new("EFBIG", text)).about(path);
            }
            let after = with_replaced(&before, old, new, size as usize);
            // The new bytes are put together where nobody sees them, and take their place only if the file is still
            // what was read.
            let staged = self.stage(crate::store::rows::ROOT, 0o600).about(path)?;
            self.vfs.write(self.caller, staged.ino, 0, &after, false).about(path)?;
            let expected = Some(file.revision);
            match self.vfs.replace_content(self.caller, file.ino, staged.ino, expected) {
                Ok(Some(attr)) => return Ok(Edited { replaced, attr }),
                Ok(None) | Err(FsError::Stale) => {}
                Err(error) => return Err(error).about(path),
            }
        }
        Err(Failure::new("EAGAIN", "others keep changing the file")).about(path)
    }
}

fn with_replaced(bytes: &[u8], old: &[u8], new: &[u8], size: usize) -> Vec<u8> {
    let mut result = Vec::with_capacity(size);
    let mut at = 0;
    for found in memmem::find_iter(bytes, old) {
        result.extend_from_slice(&bytes[at..found]);
        result.extend_from_slice(new);
        at = found + old.len();
    }
    result.extend_from_slice(&bytes[at..]);
    result
}
