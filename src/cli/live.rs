//! `wsd stats --watch`: what goes on, in a terminal, until `q` or Ctrl-C.
//!
//! The terminal is given back as it was, whatever ends the view: a key, a signal, or an error.

mod screen;

use super::out::Out;
use super::talk::{Done, Failure};
use crate::client::{ClientError, ClientOptions, page};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use screen::Seen;
use serde_json::Value;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(1);

/// How long one look at the keyboard waits.
const KEYS: Duration = Duration::from_millis(100);

/// A line of JSON a second.
pub(super) async fn lines(options: &ClientOptions, out: &mut Out) -> Done {
    loop {
        out.json(&page(options, "/__wsd/stats").await?)?;
        out.flush()?;
        tokio::time::sleep(PERIOD).await;
    }
}

/// The view.
pub(super) async fn view(options: &ClientOptions) -> Done {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        let line = "--watch needs a terminal; with --json it prints a line a second to whatever takes it";
        return Err(Failure::Usage(line.to_owned()));
    }
    // Before the screen is taken, so that nobody has to look for the reason.
    let first = look(options).await?;
    let mut terminal = ratatui::try_init().map_err(Failure::Out)?;
    let shown = show(&mut terminal, options, first).await;
    ratatui::try_restore().map_err(Failure::Out)?;
    shown
}

/// What is shown, asked of the daemon.
struct Look {
    info: Value,
    stats: Value,
    commands: Value,
}

async fn look(options: &ClientOptions) -> Result<Look, ClientError> {
    Ok(Look {
        info: page(options, "/__wsd/info").await?,
        stats: page(options, "/__wsd/stats").await?,
        commands: page(options, "/__wsd/ui/commands").await?,
    })
}

async fn show(terminal: &mut DefaultTerminal, options: &ClientOptions, first: Look) -> Done {
    let mut seen = Seen::new(&options.url);
    seen.take(Ok(first), Instant::now());
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Out)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::Out)?;
    loop {
        terminal.draw(|frame| screen::draw(frame, &seen)).map_err(Failure::Out)?;
        let next = Instant::now() + PERIOD;
        while Instant::now() < next {
            tokio::select! {
                _ = terminate.recv() => return Ok(true),
                _ = hangup.recv() => return Ok(true),
                key = tokio::task::spawn_blocking(key) => match key.map_err(io::Error::other).flatten().map_err(Failure::Out)? {
                    Key::Quit => return Ok(true),
                    Key::Redraw => terminal.draw(|frame| screen::draw(frame, &seen)).map(drop).map_err(Failure::Out)?,
                    Key::None => {}
                },
            }
        }
        // A daemon that is restarted is shown again when it is back.
        let looked = look(options).await;
        seen.take(looked, Instant::now());
    }
}

enum Key {
    Quit,
    Redraw,
    None,
}

fn key() -> io::Result<Key> {
    if !event::poll(KEYS)? {
        return Ok(Key::None);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
            _ => Key::None,
        },
        Event::Resize(..) => Key::Redraw,
        _ => Key::None,
    })
}
