//! The log: to standard error, and to a file if one is named.

use crate::config::LogConfig;
use crate::error::plain;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How long a line waits for somebody to read standard error.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is never logged, whatever the filter says: the head of the requests that we make, which has the secret of whom we dial.
const SECRET: &str = "tungstenite::handshake::client=info";

/// Bytes that a pipe takes at once when it takes any, pipe(7).
const PIPE_BUF: usize = 4096;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("the log file {path:?} cannot be written: {}; give another with LOG_FILE", plain(source))]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// Starts the log of this process. What is logged before is lost.
pub fn start(config: &LogConfig) -> Result<(), LogError> {
    let file = match &config.file {
        Some(path) => {
            // A pipe that nobody reads is an error, and one that is full does not take the line: nobody waits for it.
            let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
            let opened = File::options().create(true).append(true).custom_flags(flags).open(path);
            Some(Arc::new(opened.map_err(|source| LogError { path: path.clone(), source })?))
        }
        None => None,
    };
    // The filter was checked when the settings were read.
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = SECRET.parse().into_iter().fold(filter, EnvFilter::add_directive);
    let registry = tracing_subscriber::registry().with(filter);
    // A log that is started twice (by a test) goes on as it is.
    let _ = if config.json {
        registry
            .with(tracing_subscriber::fmt::layer().json().with_writer(StandardError::default()))
            .with(file.map(|file| tracing_subscriber::fmt::layer().json().with_writer(file)))
            .try_init()
    } else {
        registry
            .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(StandardError::default()))
            .with(file.map(|file| tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file)))
            .try_init()
    };
    Ok(())
}

/// Standard error. Whoever reads it may have stopped to, and the daemon must not: lines that nobody takes are counted and left
/// out.
#[derive(Default)]
struct StandardError {
    /// Lines that were left out since the last that was taken.
    lost: Mutex<u64>,
}

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &StandardError {
    /// Takes a line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lost = self.lost.lock();
        let mut patience = PATIENCE;
        if *lost > 0 {
            patience = Duration::ZERO;
            if takes(patience) {
                writeln!(io::stderr(), "{lost} lines of the log were left out: nobody read them")?;
                *lost = 0;
            }
        }
        for piece in line.chunks(PIPE_BUF) {
            if !takes(patience) {
                *lost += 1;
                break;
            }
            io::stderr().write_all(piece)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard error takes [`PIPE_BUF`] bytes, or fails at once, within that time.
fn takes(patience: Duration) -> bool {
    let stderr = io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    !matches!(poll(&mut ready, Some(&patience)), Ok(0))
}
