//! Names and paths, as bytes.

use std::time::{SystemTime, UNIX_EPOCH};

/// Longest name, bytes.
pub const NAME_MAX: usize = 255;

/// What every name begins with that the shim uses for itself on the host. Nothing of that name is kept in step.
pub const OWN_PREFIX: &[u8] = b".wsd-shim.";

/// The directory and the name of a path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A name in a directory.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

/// Whether a path is somewhere below a directory.
pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() && !path.is_empty()
        || path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// The bounds of everything below a directory, in the order of bytes.
pub fn below(dir: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    if dir.is_empty() {
        return (vec![0], None);
    }
    ([dir, b"/"].concat(), Some([dir, b"0"].concat()))
}

/// Whether a path is one of names: no way up, no absolute one, nothing that ends a string.
pub fn is_sound(path: &[u8]) -> bool {
    path.is_empty() || path.split(|byte| *byte == b'/').all(is_name)
}

/// Whether this can be a name.
pub fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&0) && !name.contains(&b'/')
}

/// Whether a name of a path is one of the shim's own.
pub fn is_own(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| name.starts_with(OWN_PREFIX))
}

/// The directories above a path, from the top down, without the root.
pub fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

/// How many directories are above.
pub fn depth(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

/// The name beside which the host's version is kept: `name.conflict-host-<time>`, with a number from the second on.
pub fn conflict(path: &[u8], time: SystemTime, number: u32) -> Vec<u8> {
    let (dir, name) = split(path);
    let mut suffix = format!(".conflict-host-{}", stamp(time)).into_bytes();
    if number > 1 {
        suffix.extend(format!("-{number}").into_bytes());
    }
    join(dir, &[cut(name, NAME_MAX - suffix.len()), &suffix].concat())
}

/// At most so many bytes of a name; whole characters, if it is text.
fn cut(name: &[u8], most: usize) -> &[u8] {
    match str::from_utf8(name) {
        Ok(text) => &name[..text.floor_char_boundary(most)],
        Err(_) => &name[..name.len().min(most)],
    }
}

/// `20261121T124004Z`.
fn stamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Year, month and day of the Gregorian calendar, from days since 1970: in eras of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn paths_that_lead_elsewhere_are_not_sound() {
        for path in ["", "a", "a/b", "...", "a/..b", "a b/\u{e9}"] {
            assert!(is_sound(path.as_bytes()), "{path}");
        }
        for path in ["/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b"] {
            assert!(!is_sound(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn what_is_below_is_between_its_bounds() {
        let (from, to) = below(b"a");
        let to = to.unwrap();
        for (path, inside) in
            [("a", false), ("a/", true), ("a/b", true), ("a-b", false), ("a0", false), ("ab", false)]
        {
            let path = path.as_bytes().to_vec();
            assert_eq!(path >= from && path < to, inside);
            assert_eq!(is_below(&path, b"a"), inside);
        }
        assert!(is_below(b"a", b"") && !is_below(b"", b""));
    }

    #[test]
    fn a_conflict_is_named_by_its_time_and_fits() {
        let time = UNIX_EPOCH + Duration::from_secs(1_795_264_804);
        assert_eq!(conflict(b"d/f.rs", time, 1), b"d/f.rs.conflict-host-20261121T124004Z");
        assert_eq!(conflict(b"f", UNIX_EPOCH, 2), b"f.conflict-host-19700101T000000Z-2");
        let leap = UNIX_EPOCH + Duration::from_secs(951_782_400);
        assert_eq!(conflict(b"f", leap, 1), b"f.conflict-host-20000229T000000Z");
        assert_eq!(conflict(&[b'x'; 255], time, 12).len(), NAME_MAX);
        assert_eq!(conflict(&[0xff; 255], time, 12).len(), NAME_MAX);
        let name = "x".to_owned() + &"\u{1f980}".repeat(63);
        let beside = conflict(name.as_bytes(), time, 1);
        assert!(str::from_utf8(&beside).is_ok() && beside.len() > NAME_MAX - 4, "{beside:?}");
    }
}
