//! Settings of sync: where the upstream is, what is left out, who wins.

use super::{Get, Parsed, absolute, parse_bytes, parse_token, wrong};
use crate::sync::OnConflict;
use clap::Args;
use hyper::Uri;
use ignore::gitignore::GitignoreBuilder;
use std::path::PathBuf;
use std::time::Duration;

/// The flags of sync. Each is the variable of its name.
#[derive(Args, Clone, Debug, Default)]
#[allow(missing_docs, reason = "the docstrings are the help texts")]
pub struct SyncFlags {
    /// Another wsd that this workspace is kept in step with: ws://HOST:PORT or wss:// [env: UPSTREAM_URL]
    #[arg(long, value_name = "URL")]
    pub upstream_url: Option<String>,
    /// Its secret [env: UPSTREAM_TOKEN]
    #[arg(long, value_name = "SECRET", hide_env_values = true)]
    pub upstream_token: Option<String>,
    /// A file of certificates in PEM that wss:// trusts beside the system's [env: UPSTREAM_CA]
    #[arg(long, value_name = "PATH")]
    pub upstream_ca: Option<String>,
    /// Who wins where both sides changed the same thing: keep-both, local, upstream [env: SYNC_ON_CONFLICT] [default: keep-both]
    #[arg(long, value_name = "RULE")]
    pub sync_on_conflict: Option<String>,
    /// Patterns left out of sync, in the syntax of .gitignore: a line each, or separated by commas [env: SYNC_IGNORE]
    #[arg(long, value_name = "PATTERNS")]
    pub sync_ignore: Option<String>,
    /// Most bytes of sync a second, or with K, M, G; 0: no limit [env: SYNC_BANDWIDTH] [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub sync_bandwidth: Option<String>,
    /// Seconds that a daemon that stops may take to push what is pending [env: SYNC_GRACE] [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub sync_grace: Option<String>,
}

/// The settings of sync, all of them good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// Where the upstream is: ws:// or wss://, with the path; none: there is none.
    pub upstream: Option<String>,
    /// Its secret.
    pub token: Option<String>,
    /// Certificates that are trusted beside the system's, in PEM.
    pub ca: Option<PathBuf>,
    /// Who wins.
    pub on_conflict: OnConflict,
    /// Patterns of what is left out.
    pub ignore: Vec<String>,
    /// Most bytes a second; none: no limit.
    pub bandwidth: Option<u64>,
    /// How long a daemon that stops may take to push.
    pub grace: Duration,
}

/// Variables that mean nothing without an upstream.
const OF_UPSTREAM: [&str; 5] =
    ["UPSTREAM_TOKEN", "UPSTREAM_CA", "SYNC_ON_CONFLICT", "SYNC_IGNORE", "SYNC_BANDWIDTH"];

/// Least bandwidth with which a batch gets through in a time that anybody waits for.
const LEAST_BANDWIDTH: u64 = 4 << 10;

/// Longest grace, seconds.
const MOST_GRACE: u64 = 3600;

/// Most patterns, and bytes of them.
const PATTERNS: usize = 1024;
const PATTERN_BYTES: usize = 64 << 10;

impl SyncConfig {
    pub(super) fn from(flags: &SyncFlags, get: Get<'_>) -> Parsed<Self> {
        let url = get(&flags.upstream_url, "UPSTREAM_URL").map(|value| parse_url(&value)).transpose()?;
        let bandwidth = get(&flags.sync_bandwidth, "SYNC_BANDWIDTH");
        Ok(Self {
            upstream: url,
            token: get(&flags.upstream_token, "UPSTREAM_TOKEN")
                .map(|value| parse_token("UPSTREAM_TOKEN", value))
                .transpose()?,
            ca: get(&flags.upstream_ca, "UPSTREAM_CA")
                .map(|value| absolute("UPSTREAM_CA", &value))
                .transpose()?,
            on_conflict: get(&flags.sync_on_conflict, "SYNC_ON_CONFLICT")
                .map_or(Ok(OnConflict::default()), |value| parse_rule(&value))?,
            ignore: get(&flags.sync_ignore, "SYNC_IGNORE")
                .map_or(Ok(Vec::new()), |value| parse_ignore(&value))?,
            bandwidth: bandwidth.map_or(Ok(None), |value| parse_bandwidth(&value))?,
            grace: get(&flags.sync_grace, "SYNC_GRACE")
                .map_or(Ok(Duration::from_secs(10)), |value| parse_grace(&value))?,
        })
    }

    /// What is set but without effect, because there is no upstream.
    pub(super) fn ignored(&self, env: &dyn Fn(&str) -> Option<String>) -> Vec<&'static str> {
        if self.upstream.is_some() {
            return Vec::new();
        }
        OF_UPSTREAM.into_iter().filter(|variable| env(variable).is_some()).collect()
    }
}

/// The address of a wsd, with the path of its RPC.
fn parse_url(value: &str) -> Parsed<String> {
    if value.contains('@') {
        // It may hold a secret, which is not repeated.
        let shown = value.rsplit_once('@').map_or("", |(_, host)| host);
        let accepted = "the secret belongs into UPSTREAM_TOKEN, not into the address";
        return Err(wrong("UPSTREAM_URL", shown, accepted.into()));
    }
    let refused = || wrong("UPSTREAM_URL", value, "give ws://HOST:PORT or wss://HOST, of another wsd".into());
    let uri: Uri = value.parse().map_err(|_| refused())?;
    let (Some(scheme @ ("ws" | "wss")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(refused());
    };
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    let port_is_good = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if authority.host().is_empty() || !port_is_good || uri.query().is_some() || value.contains('#') {
        return Err(refused());
    }
    let path = if matches!(uri.path(), "" | "/") { "/ws" } else { uri.path() };
    Ok(format!("{scheme}://{authority}{path}"))
}

fn parse_rule(value: &str) -> Parsed<OnConflict> {
    match value {
        "keep-both" => Ok(OnConflict::KeepBoth),
        "local" => Ok(OnConflict::Local),
        "upstream" => Ok(OnConflict::Upstream),
        _ => Err(wrong("SYNC_ON_CONFLICT", value, "give keep-both, local or upstream".into())),
    }
}

/// Patterns, a line each; of a value of one line, separated by commas.
fn parse_ignore(value: &str) -> Parsed<Vec<String>> {
    let parts: Vec<&str> = match value.contains('\n') {
        true => value.lines().collect(),
        false => value.split(',').map(str::trim).collect(),
    };
    let says_something = |part: &&str| !part.trim().is_empty() && !part.starts_with('#');
    let patterns: Vec<String> = parts.into_iter().filter(says_something).map(str::to_owned).collect();
    if patterns.len() > PATTERNS || value.len() > PATTERN_BYTES {
        let text = format!("give at most {PATTERNS} patterns, and {PATTERN_BYTES} bytes");
        return Err(wrong("SYNC_IGNORE", &format!("{} patterns", patterns.len()), text));
    }
    let mut builder = GitignoreBuilder::new("/");
    for pattern in &patterns {
        if builder.add_line(None, pattern).is_err() {
            return Err(wrong("SYNC_IGNORE", pattern, "give patterns in the syntax of .gitignore".into()));
        }
    }
    Ok(patterns)
}

fn parse_bandwidth(value: &str) -> Parsed<Option<u64>> {
    if value == "0" {
        return Ok(None);
    }
    parse_bytes("SYNC_BANDWIDTH", value, LEAST_BANDWIDTH).map(Some)
}

fn parse_grace(value: &str) -> Parsed<Duration> {
    let seconds = value.parse().ok().filter(|seconds| *seconds <= MOST_GRACE);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        wrong("SYNC_GRACE", value, format!("give a number of seconds, at most {MOST_GRACE}; 0 does not wait"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Parsed<SyncConfig> {
        let env =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let get = |flag: &Option<String>, name: &str| flag.clone().or_else(|| env(name));
        SyncConfig::from(&SyncFlags::default(), &get)
    }

    #[test]
    fn an_upstream_is_another_wsd() {
        for (given, url) in [
            ("ws://hub:45678", "ws://hub:45678/ws"),
            ("ws://hub:45678/ws", "ws://hub:45678/ws"),
            ("wss://hub.example.org/", "wss://hub.example.org/ws"),
            ("ws://[::1]:1/deep/ws", "ws://[::1]:1/deep/ws"),
        ] {
            assert_eq!(load(&[("UPSTREAM_URL", given)]).unwrap().upstream.as_deref(), Some(url));
        }
        for given in [
            "",
            "hub",
            "hub:45678",
            "http://hub",
            "ws://",
            "ws://hub:0",
            "ws://hub:x",
            "ws://hub/ws?a",
            "ws://h/#",
        ] {
            let text = load(&[("UPSTREAM_URL", given)]).unwrap_err().to_string();
            assert!(text.starts_with(&format!("UPSTREAM_URL: {given:?} is not accepted: ")), "{text}");
        }
        let text = load(&[("UPSTREAM_URL", "ws://me:s3cret@hub")]).unwrap_err().to_string();
        assert!(text.contains("UPSTREAM_TOKEN") && !text.contains("s3cret"), "{text}");
        let text = load(&[("UPSTREAM_TOKEN", "s3 cret")]).unwrap_err().to_string();
        assert!(text.starts_with("UPSTREAM_TOKEN: ") && !text.contains("s3 cret"), "{text}");
    }

    #[test]
    fn what_is_left_out_is_a_line_each_or_between_commas() {
        let ignore = |value: &str| load(&[("SYNC_IGNORE", value)]).unwrap().ignore;
        assert_eq!(ignore(""), [""; 0]);
        assert_eq!(ignore("target/, *.log,,!keep.log"), ["target/", "*.log", "!keep.log"]);
        assert_eq!(ignore("a,b\n# not this\n\n/c\n"), ["a,b", "/c"]);
        assert!(load(&[("SYNC_IGNORE", "a[z-a]")]).is_err());
        assert!(load(&[("SYNC_IGNORE", &"a,".repeat(2000))]).is_err());
    }

    #[test]
    fn the_rest_has_defaults_and_limits() {
        let config = load(&[]).unwrap();
        assert_eq!((config.upstream, config.bandwidth, config.grace.as_secs()), (None, None, 10));
        assert_eq!(config.on_conflict, OnConflict::KeepBoth);
        let config = load(&[
            ("SYNC_ON_CONFLICT", "upstream"),
            ("SYNC_BANDWIDTH", "2M"),
            ("SYNC_GRACE", "0"),
            ("UPSTREAM_CA", "/etc/ca.pem"),
        ])
        .unwrap();
        assert_eq!((config.on_conflict, config.bandwidth), (OnConflict::Upstream, Some(2 << 20)));
        assert!(config.grace.is_zero() && config.ca.is_some_and(|path| path.ends_with("ca.pem")));
        assert_eq!(load(&[("SYNC_BANDWIDTH", "0")]).unwrap().bandwidth, None);
        for (variable, value) in [
            ("SYNC_ON_CONFLICT", "both"),
            ("SYNC_BANDWIDTH", "fast"),
            ("SYNC_BANDWIDTH", "1"),
            ("SYNC_GRACE", "-1"),
            ("SYNC_GRACE", "10s"),
            ("SYNC_GRACE", "99999"),
            ("UPSTREAM_CA", "ca.pem"),
        ] {
            let text = load(&[(variable, value)]).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{variable}: {value:?} is not accepted: ")), "{text}");
        }
    }
}
