//! `wsd serve`.

use super::{complain, configure};
use crate::config::{Defaults, Flags};
use crate::daemon::Daemon;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

pub(super) fn serve(flags: &Flags) -> ExitCode {
    let config = match configure(flags, Defaults::SERVE) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut daemon = match Daemon::start(config) {
        Ok(daemon) => daemon,
        Err(error) => return complain(error, 1),
    };
    // Who started us may have closed its end; that is no reason to stop.
    let address = SocketAddr::new(daemon.config().host, daemon.port());
    let _ = writeln!(std::io::stdout(), "wsd listens on http://{address}");
    daemon.wait_for_signal();
    match daemon.stop() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(error, 1),
    }
}
