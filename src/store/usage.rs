//! How much the attributes in a workspace take, counted once, at the start.

use super::Store;
use super::error::StoreResult;
use super::rows::WorkspaceId;

impl Store {
    /// Bytes of the names and values of all extended attributes.
    pub fn attribute_bytes(&self, ws: WorkspaceId) -> StoreResult<u64> {
        self.with_reader(|reader| {
            // A scan of the whole table, which is what the `+` is for, looks at no value, however long: to look up a key in an
            // index SQLite reads all of the row.
            let sql = "SELECT ino, name, dead, length(name) + length(value) FROM xattr WHERE +ws = ?1
                       ORDER BY ws, ino, name, since";
            let mut statement = reader.prepare(sql)?;
            let mut rows = statement.query([ws])?;
            let (mut total, mut last, mut last_bytes) = (0, None, 0);
            while let Some(row) = rows.next()? {
                let attribute: (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
                // Of the versions of one attribute only the last counts.
                if last.as_ref() != Some(&attribute) {
                    total += last_bytes;
                    last = Some(attribute);
                }
                last_bytes = if row.get(2)? { 0 } else { row.get::<_, i64>(3)?.max(0) as u64 };
            }
            Ok(total + last_bytes)
        })
    }
}
