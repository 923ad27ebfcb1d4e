//! Names of directory entries: bytes, checked once, at the door.

use crate::error::{FsError, FsResult};
use crate::store::rows::{NAME_MAX, Name};

/// Checks a name that a caller wants to look up or make.
pub(super) fn check(name: &[u8]) -> FsResult<()> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    match name {
        b"" => Err(FsError::NotFound),
        b"." | b".." => Err(FsError::Invalid("`.` and `..` are not names of entries")),
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => {
            Err(FsError::Invalid("a name holds a NUL byte or a slash"))
        }
        _ => Ok(()),
    }
}

/// Checks a name and makes it ours.
pub(super) fn own(name: &[u8]) -> FsResult<Name> {
    check(name)?;
    Ok(Name::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_bytes_but_nul_and_slash() {
        assert!(check(b"a").is_ok());
        assert!(check(&[0xff; 255]).is_ok());
        assert!(matches!(check(&[b'a'; 256]), Err(FsError::NameTooLong)));
        for bad in [&b"."[..], b"..", b"a/b", b"a\0b"] {
            assert!(matches!(check(bad), Err(FsError::Invalid(_))), "{bad:?}");
        }
        assert!(matches!(check(b""), Err(FsError::NotFound)));
    }
}
