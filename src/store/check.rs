//! What must be true of every store, written down once: `wsd check` and the tests both ask here.

mod shape;

use super::Store;
use super::error::{StoreError, StoreResult};
use super::open;
use super::rows::{CHUNK, FIRST_COOKIE, INLINE_MAX, MAX_FILE_SIZE, NAME_MAX, NUMBER_MAX, ROOT, TARGET_MAX};
use rusqlite::Connection;
use std::fmt;
use std::path::Path;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw(String);

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rows as they are now: of every row the newest, unless it says that the thing is gone.
const VIEWS: &str = "
CREATE TEMP VIEW IF NOT EXISTS node AS SELECT * FROM inode i
    WHERE dead = 0 AND since = (SELECT max(since) FROM inode WHERE ws = i.ws AND ino = i.ino);
CREATE TEMP VIEW IF NOT EXISTS name AS SELECT * FROM dirent d
    WHERE dead = 0 AND since = (SELECT max(since) FROM dirent WHERE ws = d.ws AND parent = d.parent AND name = d.name);
CREATE TEMP VIEW IF NOT EXISTS small AS SELECT * FROM content c
    WHERE dead = 0 AND since = (SELECT max(since) FROM content WHERE ws = c.ws AND ino = c.ino);
CREATE TEMP VIEW IF NOT EXISTS piece AS SELECT * FROM extent e
    WHERE chunk IS NOT NULL
    AND since = (SELECT max(since) FROM extent WHERE ws = e.ws AND ino = e.ino AND idx = e.idx)
    AND NOT EXISTS (SELECT 1 FROM doomed WHERE ws = e.ws AND ino = e.ino);
CREATE TEMP VIEW IF NOT EXISTS attribute AS SELECT * FROM xattr x
    WHERE dead = 0 AND since = (SELECT max(since) FROM xattr WHERE ws = x.ws AND ino = x.ino AND name = x.name);
";

/// Each query finds what breaks one rule, as a line of text. `{name}` stands for the limit of that name. None looks names up by their
/// node: without statistics SQLite takes the wrong index for that, and needs time by the square of the names (12 minutes for
/// 123,000).
const RULES: &[&str] = &[
    // The workspace.
    "SELECT printf('workspace %d: revision %d, next node %d, newest snapshot %d', id, revision, next_ino, pinned) FROM workspace
        WHERE revision NOT BETWEEN 1 AND {NUMBER_MAX} OR next_ino NOT BETWEEN 2 AND {NUMBER_MAX} OR pinned NOT BETWEEN 0 AND revision",
    // Both come with the first daemon that opens the store.
    "SELECT printf('workspace %d: %d rows of its own in life, %d in sync', id, lives, syncs) FROM
        (SELECT id, (SELECT count(*) FROM life WHERE ws = w.id AND own) AS lives,
            (SELECT count(*) FROM sync WHERE ws = w.id) AS syncs FROM workspace w) WHERE (lives > 0) <> syncs",
    "SELECT printf('life %d: an author of %d bytes', id, length(author)) FROM life WHERE length(author) <> 16",
    // The tree.
    "SELECT printf('workspace %d: its root is missing or no directory', id) FROM workspace w WHERE NOT EXISTS
        (SELECT 1 FROM node WHERE ws = w.id AND ino = {ROOT} AND kind = 2 AND parent = {ROOT})",
    "SELECT printf('directory %d: name %s leads to node %d, which does not exist', n.parent, quote(n.name), n.ino)
        FROM name n LEFT JOIN node i USING (ws, ino) WHERE i.ino IS NULL",
    "SELECT printf('directory %d: name %s says kind %d, node %d says %d', n.parent, quote(n.name), n.kind, i.ino, i.kind)
        FROM name n JOIN node i USING (ws, ino) WHERE i.kind <> n.kind",
    "SELECT printf('name %s is in node %d, which is no directory', quote(n.name), n.parent)
        FROM name n LEFT JOIN node i ON i.ws = n.ws AND i.ino = n.parent WHERE i.kind IS NOT 2",
    "SELECT printf('directory %d: %s cannot be a name', parent, quote(name)) FROM name
        WHERE length(name) NOT BETWEEN 1 AND {NAME_MAX} OR name IN (x'2e', x'2e2e')
        OR instr(name, x'2f') > 0 OR instr(name, x'00') > 0",
    "SELECT printf('directory %d: name %s has cookie %d', n.parent, quote(n.name), n.cookie)
        FROM name n JOIN node i ON i.ws = n.ws AND i.ino = n.parent
        WHERE n.cookie < {FIRST_COOKIE} OR n.cookie >= i.next_cookie",
    "SELECT printf('directory %d: %d names share cookie %d', parent, count(*), cookie)
        FROM name GROUP BY ws, parent, cookie HAVING count(*) > 1",
    "SELECT printf('directory %d has the name %s in directory %d, but says its parent is %d', i.ino, quote(n.name), n.parent, i.parent)
        FROM name n CROSS JOIN node i USING (ws, ino) WHERE i.kind = 2 AND i.parent <> n.parent",
    "SELECT printf('node %d: %d links, %d names', i.ino, i.nlink, coalesce(n.names, 0)) FROM node i
        LEFT JOIN (SELECT ws, ino, count(*) AS names FROM name GROUP BY ws, ino) n USING (ws, ino)
        WHERE i.kind <> 2 AND i.nlink <> coalesce(n.names, 0)",
    "SELECT printf('directory %d: %d links, %d directories in it', ino, nlink, children) FROM
        (SELECT i.ino, i.nlink, (SELECT count(*) FROM name WHERE ws = i.ws AND parent = i.ino AND kind = 2) AS children
         FROM node i WHERE i.kind = 2) WHERE nlink <> 2 + children AND NOT (nlink = 0 AND children = 0)",
    "SELECT printf('directory %d has %d names', i.ino, coalesce(n.names, 0)) FROM node i
        LEFT JOIN (SELECT ws, ino, count(*) AS names FROM name GROUP BY ws, ino) n USING (ws, ino)
        WHERE i.kind = 2 AND i.ino <> {ROOT} AND coalesce(n.names, 0) <> (i.nlink > 0)",
    "SELECT printf('directory %d cannot be reached from the root', ino) FROM node i WHERE kind = 2 AND nlink > 0
        AND (ws, ino) NOT IN (WITH RECURSIVE reach(ws, ino) AS
            (SELECT id, {ROOT} FROM workspace UNION
             SELECT n.ws, n.ino FROM reach r CROSS JOIN name n ON n.ws = r.ws AND n.parent = r.ino AND n.kind = 2)
            SELECT ws, ino FROM reach)",
    // Nodes.
    "SELECT printf('node %d: its number is not below the next one, %d', i.ino, w.next_ino)
        FROM node i JOIN workspace w ON w.id = i.ws WHERE i.ino >= w.next_ino OR i.ino < {ROOT}",
    "SELECT printf('node %d: its revision %d is after the last one, %d', i.ino, i.rev, w.revision)
        FROM node i JOIN workspace w ON w.id = i.ws WHERE i.rev > w.revision",
    "SELECT printf('node %d: kind %d, mode %o, storage %d', ino, kind, mode, storage) FROM node
        WHERE kind NOT BETWEEN 1 AND 7 OR mode NOT BETWEEN 0 AND 4095 OR storage NOT BETWEEN 0 AND 2",
    "SELECT printf('node %d: kind %d, size %d', ino, kind, size) FROM node
        WHERE size < 0 OR size > {MAX_FILE_SIZE} OR (kind NOT IN (1, 3) AND size <> 0)
        OR (kind = 3 AND size NOT BETWEEN 1 AND {TARGET_MAX})",
    // Content.
    "SELECT printf('node %d: storage %d, %d inline rows, %d extents', ino, storage, inlines, extents) FROM
        (SELECT ino, storage, (SELECT count(*) FROM small WHERE ws = i.ws AND ino = i.ino) AS inlines,
            (SELECT count(*) FROM piece WHERE ws = i.ws AND ino = i.ino) AS extents FROM node i)
        WHERE (storage = 1) <> inlines OR (storage = 2) <> (extents > 0)",
    "SELECT printf('node %d: %d inline bytes in a file of %d', i.ino, length(c.data), i.size) FROM small c JOIN node i USING (ws, ino)
        WHERE length(c.data) > {INLINE_MAX} OR length(c.data) > i.size OR (i.kind = 3 AND length(c.data) <> i.size)",
    "SELECT printf('node %d: an extent at %d in a file of %d bytes', i.ino, p.idx, i.size) FROM piece p JOIN node i USING (ws, ino)
        WHERE p.idx < 0 OR p.idx * {CHUNK} >= i.size",
    "SELECT printf('node %d: %d bytes allocated, should be %d', ino, allocated, due) FROM
        (SELECT i.ino, i.allocated, min((i.size + 511) / 512 * 512, {CHUNK} * CASE i.storage WHEN 0 THEN 0 WHEN 1 THEN 1 ELSE
            (SELECT count(*) FROM piece WHERE ws = i.ws AND ino = i.ino) END) AS due FROM node i WHERE i.kind = 1)
        WHERE allocated <> due",
    "SELECT printf('inline bytes of node %d, which does not exist', c.ino)
        FROM small c LEFT JOIN node i USING (ws, ino) WHERE i.ino IS NULL",
    "SELECT printf('an extent at %d of node %d, which does not exist', p.idx, p.ino)
        FROM piece p LEFT JOIN node i USING (ws, ino) WHERE i.ino IS NULL",
    "SELECT printf('node %d: the extent at %d wants chunk %d, which does not exist', e.ino, e.idx, e.chunk)
        FROM extent e LEFT JOIN chunk c ON c.id = e.chunk WHERE e.chunk IS NOT NULL AND c.id IS NULL",
    "SELECT printf('chunk %d: %d references counted, %d found', id, refs, found) FROM
        (SELECT c.id, c.refs, coalesce(u.found, 0) AS found FROM chunk c LEFT JOIN
            (SELECT chunk, count(*) AS found FROM extent WHERE chunk IS NOT NULL GROUP BY chunk) u ON u.chunk = c.id)
        WHERE refs <> found",
    "SELECT printf('chunk %d: %d bytes in a room of %d', c.id, c.len, c.room)
        FROM chunk c LEFT JOIN chunk_data d ON d.id = c.data
        WHERE length(d.data) IS NOT c.room OR c.len NOT BETWEEN 1 AND c.room OR c.room > {CHUNK}
        OR (c.hash IS NOT NULL AND c.len <> c.room)",
    "SELECT printf('chunk %d: version %d%s', id, version, CASE WHEN hash IS NULL THEN '' ELSE ' of what was never changed' END)
        FROM chunk WHERE version NOT BETWEEN 0 AND {VERSION_MAX} OR (hash IS NOT NULL AND version <> 0)",
    "SELECT printf('bytes of no chunk, at %d', id) FROM chunk_data WHERE id NOT IN (SELECT data FROM chunk)",
    "SELECT printf('%d chunks share the bytes at %d', count(*), data) FROM chunk GROUP BY data HAVING count(*) > 1",
    "SELECT printf('node %d is doomed and alive', d.ino) FROM doomed d JOIN node i USING (ws, ino)",
    // Extended attributes.
    "SELECT printf('attribute %s of node %d, which does not exist', quote(x.name), x.ino)
        FROM attribute x LEFT JOIN node i USING (ws, ino) WHERE i.ino IS NULL",
    "SELECT printf('node %d: %s', ino, CASE has_xattrs WHEN 0 THEN 'attributes that it does not know of' ELSE 'no attributes, but says so' END)
        FROM node i WHERE has_xattrs <> EXISTS (SELECT 1 FROM attribute WHERE ws = i.ws AND ino = i.ino)",
];

impl Store {
    /// Looks for what must not be in a store that no daemon has open, be it on a disk, or of a user, that does not let it be written.
    pub fn check_at(path: &Path, deep: bool) -> StoreResult<Vec<Flaw>> {
        match Self::open_existing(path) {
            Ok(store) => store.check(deep),
            Err(error) if error.is_of_writing() => {
                // What it cannot be read for either says more.
                let (connection, _lock) =
                    open::frozen(&open::real(path)).map_err(|error| error.of(Some(path)))?;
                check(&connection, deep).map_err(|error| error.of(Some(path)))
            }
            Err(error) => Err(error),
        }
    }

    /// Looks for what must not be. `deep`: reads and hashes all content too.
    pub fn check(&self, deep: bool) -> StoreResult<Vec<Flaw>> {
        match self.location.path() {
            Some(path) => check(&open::checker(path)?, deep).map_err(|error| error.of(Some(path))),
            None => check(&self.writer.lock().connection, deep),
        }
    }
}

fn check(connection: &Connection, deep: bool) -> StoreResult<Vec<Flaw>> {
    let mut flaws = Vec::new();
    let pragma = if deep { "PRAGMA integrity_check" } else { "PRAGMA quick_check" };
    lines(connection, pragma, &mut flaws)?;
    flaws.retain(|flaw| flaw.0 != "ok");
    match check_rows(connection, deep, &mut flaws) {
        // Where a page makes no sense, no more can be found; what was is worth saying.
        Err(StoreError::Damaged { source, .. }) => {
            flaws.push(Flaw(format!("the rest cannot be read: {source}")))
        }
        result => result?,
    }
    Ok(flaws)
}

fn check_rows(connection: &Connection, deep: bool, flaws: &mut Vec<Flaw>) -> StoreResult<()> {
    let fresh = open::fresh()?;
    if !shape::check_things(connection, &fresh, flaws)? {
        return Ok(());
    }
    shape::check_types(connection, &fresh, flaws)?;
    connection.execute_batch(VIEWS)?;
    for rule in rules() {
        lines(connection, &rule, flaws)?;
    }
    if deep {
        check_hashes(connection, flaws)?;
    }
    Ok(())
}

/// The rules with their limits.
fn rules() -> impl Iterator<Item = String> {
    let limits = [
        ("{ROOT}", ROOT),
        ("{NAME_MAX}", NAME_MAX as u64),
        ("{TARGET_MAX}", TARGET_MAX as u64),
        ("{MAX_FILE_SIZE}", MAX_FILE_SIZE),
        ("{NUMBER_MAX}", NUMBER_MAX),
        ("{FIRST_COOKIE}", FIRST_COOKIE),
        ("{INLINE_MAX}", INLINE_MAX as u64),
        ("{CHUNK}", CHUNK as u64),
        ("{VERSION_MAX}", u32::MAX as u64),
    ];
    RULES.iter().map(move |rule| {
        limits.iter().fold((*rule).to_owned(), |sql, (name, value)| sql.replace(name, &value.to_string()))
    })
}

fn lines(connection: &Connection, sql: &str, flaws: &mut Vec<Flaw>) -> StoreResult<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        // A text that is no text may be in a name that is no name.
        let line = row.get_ref(0)?.as_bytes().map_err(rusqlite::Error::from)?;
        flaws.push(Flaw(String::from_utf8_lossy(line).into_owned()));
    }
    Ok(())
}

fn check_hashes(connection: &Connection, flaws: &mut Vec<Flaw>) -> StoreResult<()> {
    let mut statement = connection.prepare("SELECT c.id, c.hash, d.data FROM chunk c JOIN chunk_data d ON d.id = c.data WHERE c.hash IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        // What is no blob has been found by its type.
        let (Ok(hash), Ok(data)) = (row.get_ref(1)?.as_blob(), row.get_ref(2)?.as_blob()) else { continue };
        if blake3::hash(data).as_bytes()[..] != *hash {
            flaws.push(Flaw(format!("chunk {}: its bytes are not those of its hash", row.get::<_, i64>(0)?)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_looks_at_all_names_for_each_of_something() {
        let store = open::fresh().unwrap();
        store.execute_batch(VIEWS).unwrap();
        for rule in rules() {
            let mut statement = store.prepare(&format!("EXPLAIN QUERY PLAN {rule}")).unwrap();
            let plan = statement.query_map([], |row| row.get::<_, String>(3)).unwrap();
            for step in plan.map(Result::unwrap) {
                let by_workspace_alone = step.starts_with("SEARCH") && step.ends_with("(ws=?)");
                let small = ["life", "sync", "workspace"].iter().any(|table| step.contains(table));
                assert!(!by_workspace_alone || small, "{step}\n{rule}");
            }
        }
    }
}
