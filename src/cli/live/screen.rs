//! What is on the screen.

use super::Look;
use crate::cli::about::flatten;
use crate::cli::out::escape;
use crate::client::ClientError;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline, Wrap};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Instant;

/// Seconds that the curves go back.
const HISTORY: usize = 300;

/// What is known of the daemon.
pub(super) struct Seen {
    url: String,
    info: Value,
    stats: Value,
    commands: Vec<Value>,
    at: Option<Instant>,
    problem: Option<String>,
    written: Curve,
    read: Curve,
    changes: Curve,
}

/// A rate, now and before.
#[derive(Default)]
struct Curve(VecDeque<u64>);

impl Curve {
    fn push(&mut self, value: u64) {
        self.0.push_front(value);
        self.0.truncate(HISTORY);
    }

    fn now(&self) -> u64 {
        self.0.front().copied().unwrap_or(0)
    }

    /// As much as fits, the latest at the right.
    fn tail(&self, width: usize) -> Vec<u64> {
        let mut tail: Vec<u64> = self.0.iter().take(width).rev().copied().collect();
        tail.splice(0..0, std::iter::repeat_n(0, width.saturating_sub(tail.len())));
        tail
    }
}

impl Seen {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            info: Value::Null,
            stats: Value::Null,
            commands: Vec::new(),
            at: None,
            problem: None,
            written: Curve::default(),
            read: Curve::default(),
            changes: Curve::default(),
        }
    }

    /// Takes in what the daemon said, or that it said nothing.
    pub(super) fn take(&mut self, looked: Result<Look, ClientError>, now: Instant) {
        let look = match looked {
            Ok(look) => look,
            Err(error) => {
                self.problem = Some(error.to_string());
                self.at = None;
                return;
            }
        };
        // A restarted daemon counts from zero again.
        let seconds =
            self.at.map(|before| now.duration_since(before).as_secs_f64()).filter(|took| *took > 0.0);
        if let Some(seconds) = seconds {
            let rate = |name: &str| {
                let more = number(&look.stats, name).saturating_sub(number(&self.stats, name));
                (more as f64 / seconds) as u64
            };
            let (written, read, changes) = (rate("bytesWritten"), rate("bytesRead"), rate("revision"));
            self.written.push(written);
            self.read.push(read);
            self.changes.push(changes);
        }
        self.problem = look.stats["failure"].as_str().map(str::to_owned);
        let runs = |command: &&Value| command["exit"].is_null();
        let all = look.commands["commands"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.commands = all.iter().filter(runs).cloned().collect();
        (self.info, self.stats, self.at) = (look.info, look.stats, Some(now));
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

/// A text of somebody else's, harmless.
fn harmless(value: &Value) -> String {
    String::from_utf8_lossy(&escape(value.as_str().unwrap_or_default().as_bytes())).into_owned()
}

pub(super) fn draw(frame: &mut Frame<'_>, seen: &Seen) {
    let sync = sync_lines(seen);
    let sync_height = if sync.is_empty() { 0 } else { (sync.len() as u16 + 2).min(10) };
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(sync_height),
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let [head, curves, facts, sync_area, commands, foot] = rows.areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(seen)).wrap(Wrap { trim: true }), head);
    draw_curves(frame, curves, seen);
    draw_facts(frame, facts, seen);
    if sync_height > 0 {
        frame.render_widget(Paragraph::new(sync).block(titled("sync")), sync_area);
    }
    draw_commands(frame, commands, seen);
    frame.render_widget(Line::from("q or Ctrl-C: leave").dim(), foot);
}

fn titled(title: &str) -> Block<'_> {
    Block::bordered().border_style(Style::new().dark_gray()).title(title.bold())
}

fn head_lines(seen: &Seen) -> Vec<Line<'static>> {
    let info = &seen.info;
    let mut first = vec![
        Span::from("wsd ").bold(),
        harmless(&info["version"]).into(),
        "  ".into(),
        harmless(&info["mountPoint"]).cyan(),
        format!(" by {}  {}", harmless(&info["mount"]["backend"]), seen.url).into(),
    ];
    if seen.problem.is_none() {
        first.push(format!("  up {}", span(number(&seen.stats, "uptimeMs"))).green());
    }
    let second = seen.problem.clone().map_or_else(Line::default, |problem| Line::from(problem.red()));
    vec![Line::from(first), second]
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, seen: &Seen) {
    let thirds: [Rect; 3] = Layout::horizontal([Constraint::Ratio(1, 3); 3]).areas(area);
    let curves = [
        (&seen.written, format!("written {}/s", bytes(seen.written.now())), Color::Cyan),
        (&seen.read, format!("read {}/s", bytes(seen.read.now())), Color::Green),
        (&seen.changes, format!("changes {}/s", seen.changes.now()), Color::Yellow),
    ];
    for (at, (curve, title, color)) in thirds.into_iter().zip(curves) {
        let tail = curve.tail(usize::from(at.width.saturating_sub(2)));
        let spark = Sparkline::default().block(titled(&title)).data(&tail).style(color);
        frame.render_widget(spark, at);
    }
}

fn draw_facts(frame: &mut Frame<'_>, area: Rect, seen: &Seen) {
    let halves: [Rect; 2] = Layout::horizontal([Constraint::Ratio(1, 2); 2]).areas(area);
    let stats = &seen.stats;
    let (revision, durable) = (number(stats, "revision"), number(stats, "durableRevision"));
    let revisions = vec![
        fact("last change", revision.to_string()),
        fact("in the store", number(stats, "committedRevision").to_string()),
        fact("on the disk", format!("{durable} ({} behind)", revision.saturating_sub(durable))),
        fact("dirty", format!("{} not in the store yet", bytes(number(stats, "dirtyBytes")))),
    ];
    let store = vec![
        fact("store + WAL", format!("{} + {}", size_of(stats, "storeBytes"), size_of(stats, "walBytes"))),
        fact("allocated", size_of(stats, "allocatedBytes")),
        fact("cached", format!("{}, {} nodes", size_of(stats, "cachedBytes"), number(stats, "cachedNodes"))),
        fact(
            "daemon",
            format!("{} memory, {} sessions", size_of(stats, "rssBytes"), number(stats, "sessions")),
        ),
    ];
    frame.render_widget(Paragraph::new(revisions).block(titled("revisions")), halves[0]);
    frame.render_widget(Paragraph::new(store).block(titled("store")), halves[1]);
}

fn fact(name: &str, value: String) -> Line<'static> {
    Line::from(vec![Span::from(format!("{name:<13}")).dim(), value.into()])
}

fn sync_lines(seen: &Seen) -> Vec<Line<'static>> {
    if !seen.stats["sync"].is_object() {
        return Vec::new();
    }
    let mut rows = Vec::new();
    flatten("", &seen.stats["sync"], &mut rows);
    rows.into_iter().map(|(name, value)| fact(&format!("{name} "), value)).collect()
}

fn draw_commands(frame: &mut Frame<'_>, area: Rect, seen: &Seen) {
    let execs = &seen.stats["execs"];
    let title = format!("commands: {} run, {} ended", number(execs, "running"), number(execs, "ended"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let lines: Vec<Line<'_>> = seen
        .commands
        .iter()
        .map(|command| {
            let age = (now.as_millis() as u64).saturating_sub(number(command, "startedMs"));
            let id = harmless(&command["id"]);
            Line::from(vec![
                format!("{:>9}  ", span(age)).dim(),
                harmless(&command["command"]).into(),
                format!("  {id}").dim(),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(titled(&title)), area);
}

fn size_of(stats: &Value, name: &str) -> String {
    bytes(number(stats, name))
}

fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

fn span(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_its_latest_value_at_the_right() {
        let mut curve = Curve::default();
        (1..=3).for_each(|value| curve.push(value));
        assert_eq!((curve.now(), curve.tail(2), curve.tail(5)), (3, vec![2, 3], vec![0, 0, 1, 2, 3]));
    }

    #[test]
    fn times_are_short() {
        assert_eq!([5_999, 61_000, 7_300_000].map(span), ["5 s", "1 min 1 s", "2 h 1 min"]);
    }
}
