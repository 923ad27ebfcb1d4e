//! Settings of a plain directory that is kept in step.

use super::{Flags, Parsed, ShimConfig, parse_switch, wrong};
use std::time::Duration;

/// How often to look, milliseconds.
const POLL: u64 = 250;
const POLL_RANGE: std::ops::RangeInclusive<u64> = 10..=60_000;

pub(super) fn parse(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Parsed<ShimConfig> {
    let get = |flag: &Option<String>, variable: &str| flag.clone().or_else(|| env(variable));
    let poll = get(&flags.shim_poll_ms, "SHIM_POLL_MS").map_or(Ok(POLL), |value| parse_poll(&value))?;
    let events = get(&flags.shim_events, "SHIM_EVENTS");
    let events = events.map_or(Ok(true), |value| parse_switch("SHIM_EVENTS", &value))?;
    let adopt = env("SHIM_ADOPT").map_or(Ok(false), |value| parse_switch("SHIM_ADOPT", &value))?;
    Ok(ShimConfig { poll: Duration::from_millis(poll), events, adopt: flags.adopt || adopt })
}

fn parse_poll(value: &str) -> Parsed<u64> {
    let number = value.parse().ok().filter(|number| POLL_RANGE.contains(number));
    number.ok_or_else(|| wrong("SHIM_POLL_MS", value, "give milliseconds, from 10 to 60000".into()))
}
