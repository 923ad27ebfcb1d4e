//! Whether the tables are there, and whether what is in their columns is what they are made for: SQLite itself takes
//! any value in any column. A fresh store says how it should be.

use super::Flaw;
use crate::store::error::StoreResult;
use rusqlite::Connection;
use std::collections::BTreeSet;

/// What SQLite has been told of: a kind (`table`, `index`, `trigger`, `view`) and a name.
fn things(connection: &Connection) -> StoreResult<BTreeSet<(String, String)>> {
    let sql = "SELECT type, name FROM main.sqlite_schema WHERE substr(name, 1, 7) <> 'sqlite_'";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Finds what is missing, and what changes rows by itself. Whether all tables are there, so that it makes sense to look
/// into them.
pub(super) fn check_things(
    connection: &Connection,
    fresh: &Connection,
    flaws: &mut Vec<Flaw>,
) -> StoreResult<bool> {
    let (there, due) = (things(connection)?, things(fresh)?);
    flaws.extend(due.difference(&there).map(|(kind, name)| Flaw(format!("the {kind} {name} is missing"))));
    let strange = there.iter().filter(|(kind, _)| matches!(kind.as_str(), "trigger" | "view"));
    flaws.extend(strange.map(|(kind, name)| Flaw(format!("the {kind} {name} was made by no wsd"))));
    Ok(!due.difference(&there).any(|(kind, _)| kind == "table"))
}

/// Finds values of another type than that of their column.
pub(super) fn check_types(
    connection: &Connection,
    fresh: &Connection,
    flaws: &mut Vec<Flaw>,
) -> StoreResult<()> {
    for (kind, table) in things(fresh)? {
        if kind == "table" {
            super::lines(connection, &wrong_types(fresh, &table)?, flaws)?;
        }
    }
    Ok(())
}

/// The query that finds them in one table, and names each row by its key.
fn wrong_types(fresh: &Connection, table: &str) -> StoreResult<String> {
    let mut statement = fresh.prepare("SELECT name, lower(type), pk > 0 FROM pragma_table_info(?1)")?;
    let mut rows = statement.query([table])?;
    let (mut keys, mut texts, mut tests) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let (name, kind, is_key): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let test = format!("typeof(\"{name}\") NOT IN ('{kind}', 'null')");
        if is_key {
            keys.push(format!("'{name}=' || quote(\"{name}\")"));
        }
        texts.push(format!("CASE WHEN {test} THEN ', {name} is ' || typeof(\"{name}\") ELSE '' END"));
        tests.push(test);
    }
    let (keys, texts, tests) = (keys.join(" || ' ' || "), texts.join(" || "), tests.join(" OR "));
    Ok(format!("SELECT '{table} ' || {keys} || {texts} FROM \"{table}\" WHERE {tests}"))
}
