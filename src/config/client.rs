//! Settings of the commands that talk to a daemon.

use super::{Defaults, Parsed, parse_port, parse_token, with_environment, wrong};
use clap::Args;

/// The flags of these commands.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientFlags {
    /// Where the daemon is; its secret is taken from WSD_TOKEN [env: WSD_URL] [default: ws://127.0.0.1:$PORT/ws]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// Which daemon, and its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ClientConfig {
    pub url: String,
    pub token: Option<String>,
}

impl ClientConfig {
    /// From the flags and the process's environment.
    pub fn load(flags: &ClientFlags) -> Parsed<Self> {
        with_environment(&|name| std::env::var_os(name), |env| Self::from(flags, env))
    }

    pub(super) fn from(flags: &ClientFlags, env: &dyn Fn(&str) -> Option<String>) -> Parsed<Self> {
        let token = env("WSD_TOKEN").map(|value| parse_token("WSD_TOKEN", value)).transpose()?;
        if let Some(url) = flags.url.clone().or_else(|| env("WSD_URL")) {
            return Ok(Self { url, token });
        }
        let port = env("PORT").map_or(Ok(Defaults::SERVE.port), |value| parse_port(&value))?;
        if port == 0 {
            return Err(wrong("PORT", "0", "give the port that the daemon printed, or --url".into()));
        }
        Ok(Self { url: format!("ws://127.0.0.1:{port}/ws"), token })
    }
}
