//! The log: to standard error, and to a file if one is named.

use crate::config::LogConfig;
use crate::error::plain;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
            let opened = File::options().create(true).append(true).open(path);
            Some(Arc::new(opened.map_err(|source| LogError { path: path.clone(), source })?))
        }
        None => None,
    };
    // The filter was checked when the settings were read.
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // A log that is started twice (by a test) goes on as it is.
    let _ = if config.json {
        registry
            .with(tracing_subscriber::fmt::layer().json().with_writer(io::stderr))
            .with(file.map(|file| tracing_subscriber::fmt::layer().json().with_writer(file)))
            .try_init()
    } else {
        registry
            .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr))
            .with(file.map(|file| tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file)))
            .try_init()
    };
    Ok(())
}
