//! A bar for transfers that take a while, when somebody is looking.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A transfer that is over by then needs no bar.
const PATIENCE: Duration = Duration::from_millis(800);

pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    is_hidden: Cell<bool>,
}

impl Progress {
    /// Of so many bytes, if that is known.
    pub(super) fn new(total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let template = match total {
            Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{spinner} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, started: Instant::now(), is_hidden: Cell::new(std::io::stderr().is_terminal()) }
    }

    /// So many bytes more.
    pub(super) fn add(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
        if self.is_hidden.get() && self.started.elapsed() >= PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.is_hidden.set(false);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
