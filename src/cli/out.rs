//! What commands print: raw bytes for programs, harmless text for terminals, JSON for whoever asks.

use super::talk::Failure;
use crate::client::Attr;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

/// Standard output.
pub(super) struct Out {
    to: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
}

impl Out {
    pub(super) fn new() -> Self {
        let stdout = io::stdout().lock();
        Self { is_terminal: stdout.is_terminal(), to: BufWriter::with_capacity(64 << 10, stdout) }
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(Failure::Out)
    }

    /// A name, or a text with names in it.
    pub(super) fn name(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let shown = if self.is_terminal { escape(bytes) } else { Cow::Borrowed(bytes) };
        self.raw(&shown)
    }

    /// A line with names in it.
    pub(super) fn line(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.name(bytes)?;
        self.raw(b"\n")
    }

    /// A line of JSON.
    pub(super) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.raw(value.to_string().as_bytes())?;
        self.raw(b"\n")
    }

    /// A table of two columns.
    pub(super) fn table(&mut self, rows: &[(String, String)]) -> Result<(), Failure> {
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter().try_for_each(|(name, value)| self.line(format!("{name:width$}  {value}").as_bytes()))
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(Failure::Out)
    }
}

/// What could do something to a terminal, as an escape of C: control characters and what is no UTF-8.
pub(super) fn escape(bytes: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(char::is_control)) {
        return Cow::Borrowed(bytes);
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' | '\t' | '\r' => text.extend(character.escape_default()),
                _ if character.is_control() => {
                    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                        let _ = write!(text, "\\x{byte:02x}");
                    }
                }
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    Cow::Owned(text.into_bytes())
}

/// Adds bytes to a JSON object: as text under a name, or what is no UTF-8 in hexadecimal under the name and `Bytes`.
pub(super) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{name}Bytes"), digits.into())
        }
    };
}

/// An object with a path and attributes.
pub(super) fn entry(path: &[u8], attr: &Attr) -> Map<String, Value> {
    let mut object = match json!(attr) {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    put_bytes(&mut object, "path", path);
    object
}

/// `2026-11-21 09:34:18`, in UTC.
pub(super) fn utc(nanos: i64) -> String {
    let seconds = nanos.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years from March on, so that the leap day is the last of its year; 400 of them are 146,097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_nothing_that_controls_them() {
        assert_eq!(escape("ä b".as_bytes()), Cow::Borrowed("ä b".as_bytes()));
        assert_eq!(&*escape(b"a\x1b[31m\nb\xff\x7f"), br"a\x1b[31m\nb\xff\x7f");
        assert_eq!(&*escape("\u{9b}1m".as_bytes()), br"\xc2\x9b1m");
    }

    #[test]
    fn json_loses_no_byte_of_a_name() {
        let mut object = Map::new();
        put_bytes(&mut object, "path", "/ä\n".as_bytes());
        put_bytes(&mut object, "from", b"/\xff");
        assert_eq!(Value::Object(object), json!({ "path": "/ä\n", "fromBytes": "2fff" }));
    }

    #[test]
    fn days_are_counted_as_calendars_do() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_795_253_658, "2026-11-21 09:34:18"),
            (-1, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(utc(seconds * 1_000_000_000), text);
        }
    }
}
