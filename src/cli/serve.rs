//! `wsd serve`.

use super::{complain, configure, signals};
use crate::config::{Defaults, Flags};
use crate::daemon::Daemon;
use std::io::Write;
use std::process::ExitCode;

pub(super) fn serve(flags: &Flags) -> ExitCode {
    let config = match configure(flags, Defaults::SERVE) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let daemon = match Daemon::start(config) {
        Ok(daemon) => daemon,
        Err(error) => return complain(error, 1),
    };
    // Who started us may have closed its end; that is no reason to stop.
    let _ = writeln!(std::io::stdout(), "wsd listens on http://{}:{}", daemon.config().host, daemon.port());
    let waited = daemon.block_on(async {
        let mut signals = signals::Signals::new()?;
        signals.wait().await;
        signals.end_at_once_on_the_next();
        Ok::<_, std::io::Error>(())
    });
    let stopped = daemon.stop();
    match (waited, stopped) {
        (Ok(()), Ok(())) => ExitCode::SUCCESS,
        (Err(error), _) => complain(error, 1),
        (_, Err(error)) => complain(error, 1),
    }
}
