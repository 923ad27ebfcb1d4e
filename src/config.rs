//! Settings: the only reader of the environment.
//!
//! Every variable has a flag of the same meaning, and a flag wins. A value that makes no sense stops the start
//! with one line that names the variable, the value and what is accepted.

use crate::mount::Choice;
use crate::store::Location;
use clap::Args;
use std::cell::Cell;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod client;
mod commands;
mod shim;
mod sync;
#[cfg(test)]
mod tests;

pub use client::{ClientConfig, ClientFlags};
pub use sync::{SyncConfig, SyncFlags};

/// The flags of `wsd serve` and `wsd run`. Each is the variable of its name.
#[derive(Args, Clone, Debug, Default)]
#[allow(missing_docs, reason = "the docstrings are the help texts")]
pub struct Flags {
    /// TCP port; 0 picks one and prints it [env: PORT] [default: 45678]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Address to bind; other than loopback needs WSD_TOKEN, or WSD_INSECURE=1 [env: HOST] [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Where the workspace is mounted; absolute [env: MOUNT_POINT] [default: /workspace]
    #[arg(long, value_name = "PATH")]
    pub mount_point: Option<String>,
    /// How it is mounted: auto, fuse, shim, none [env: FUSE_MOUNT] [default: auto]
    #[arg(long, value_name = "BACKEND")]
    pub fuse_mount: Option<String>,
    /// shim: take over a directory that has files already [env: SHIM_ADOPT]
    #[arg(long)]
    pub adopt: bool,
    /// shim: how often to look for changes; milliseconds [env: SHIM_POLL_MS] [default: 250]
    #[arg(long, value_name = "MS")]
    pub shim_poll_ms: Option<String>,
    /// shim: whether the kernel's events are used too: 1 or 0 [env: SHIM_EVENTS] [default: 1]
    #[arg(long, value_name = "SWITCH")]
    pub shim_events: Option<String>,
    /// The store: an absolute path, or `memory` [env: WSD_DB] [default: a file under the state directory, named after the mount point]
    #[arg(long, visible_alias = "wsd-db", value_name = "PATH")]
    pub db: Option<String>,
    /// Secret that every request but /health must bear [env: WSD_TOKEN]
    #[arg(long, visible_alias = "wsd-token", value_name = "SECRET", hide_env_values = true)]
    pub token: Option<String>,
    /// Names that requests may call this host by, separated by commas [env: WSD_ALLOWED_HOSTS] [default: loopback names]
    #[arg(long, visible_alias = "wsd-allowed-hosts", value_name = "NAMES")]
    pub allowed_hosts: Option<String>,
    /// Bound on cached and dirty data in memory; bytes, or with K, M, G [env: WSD_CACHE_BYTES] [default: 256M; less where memory is short]
    #[arg(long, visible_alias = "wsd-cache-bytes", value_name = "BYTES")]
    pub cache_bytes: Option<String>,
    /// Quota of the workspace; bytes, or with K, M, G [env: WSD_MAX_BYTES]
    #[arg(long, visible_alias = "wsd-max-bytes", value_name = "BYTES")]
    pub max_bytes: Option<String>,
    /// Output kept for replay of each command; bytes, or with K, M, G [env: EXEC_LOG_MAX_BYTES] [default: 1M]
    #[arg(long, value_name = "BYTES")]
    pub exec_log_max_bytes: Option<String>,
    /// What is logged, as a tracing filter [env: WSD_LOG] [default: info]
    #[arg(long, visible_alias = "wsd-log", value_name = "FILTER")]
    pub log: Option<String>,
    /// How: text or json [env: LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// A file that gets the log too [env: LOG_FILE]
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<String>,
    #[command(flatten)]
    pub sync: SyncFlags,
}

/// The settings of a daemon, all of them good.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in Flags")]
pub struct Config {
    pub port: u16,
    pub host: IpAddr,
    pub mount_point: PathBuf,
    pub mount: Choice,
    pub shim: ShimConfig,
    pub store: Location,
    pub token: Option<String>,
    pub allowed_hosts: Vec<String>,
    /// `None`: as memory allows.
    pub cache_bytes: Option<u64>,
    pub max_bytes: Option<u64>,
    pub log: LogConfig,
    /// Bytes of output that are kept of each command.
    pub exec_log_bytes: usize,
    /// What commands have of the daemon's environment.
    pub exec_env: Vec<(OsString, OsString)>,
    /// How the workspace is kept in step with another.
    pub sync: SyncConfig,
    /// Variables that are set but mean nothing without another one that is not.
    pub ignored: Vec<&'static str>,
}

/// How a plain directory is kept in step.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "as in Flags")]
pub struct ShimConfig {
    pub poll: Duration,
    pub events: bool,
    pub adopt: bool,
}

/// What is logged, and where.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in Flags")]
pub struct LogConfig {
    pub filter: String,
    pub json: bool,
    pub file: Option<PathBuf>,
}

/// What a command would have if nothing is said.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// The TCP port.
    pub port: u16,
    /// The filter of the log.
    pub log: &'static str,
}

impl Defaults {
    /// Of `wsd serve`.
    pub const SERVE: Self = Self { port: 45_678, log: "info" };
    /// Of `wsd run`, which must not be in the way of the command it runs.
    pub const RUN: Self = Self { port: 0, log: "warn" };
}

/// A value that makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    variable: String,
    value: String,
    accepted: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, value, accepted } = self;
        if variable.ends_with("_TOKEN") {
            return write!(f, "{variable}: {accepted}");
        }
        write!(f, "{variable}: {value:?} is not accepted: {accepted}")
    }
}

impl std::error::Error for ConfigError {}

type Parsed<T> = Result<T, ConfigError>;

/// A setting: its flag, or else its variable.
type Get<'a> = &'a dyn Fn(&Option<String>, &str) -> Option<String>;

/// Names that always mean this machine, seen from itself.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Variables of older daemons, and the `FUSE_MOUNT` to use instead.
const LEGACY: [(&str, &str); 3] = [
    ("DISABLE_FUSE", "FUSE_MOUNT=none"),
    ("FUSE_SHIM", "FUSE_MOUNT=shim"),
    ("WSD_FUSE_BACKEND", "FUSE_MOUNT with auto, fuse, macfuse, shim or none"),
];

/// Bytes of output that are kept of a command, and the least that makes sense: what one read from a pipe brings.
const EXEC_LOG: usize = 1 << 20;
const LEAST_EXEC_LOG: u64 = 64 << 10;

/// What the caches have, bytes, if nothing is said and memory allows.
pub const DEFAULT_CACHE: u64 = 256 << 20;

/// Least memory that the caches can work with.
pub const LEAST_CACHE: u64 = 16 << 20;

impl Config {
    /// From the flags and the process's environment.
    pub fn load(flags: &Flags, defaults: Defaults) -> Parsed<Self> {
        let exec_env = commands::environment(std::env::vars_os());
        let config =
            with_environment(&|name| std::env::var_os(name), |env| Self::from(flags, defaults, env))?;
        Ok(Self { exec_env, ..config })
    }

    fn from(flags: &Flags, defaults: Defaults, env: &dyn Fn(&str) -> Option<String>) -> Parsed<Self> {
        for (variable, instead) in LEGACY {
            if let Some(value) = env(variable) {
                return Err(wrong(
                    variable,
                    &value,
                    format!("this variable is no longer used; set {instead}"),
                ));
            }
        }
        let get = |flag: &Option<String>, variable: &str| flag.clone().or_else(|| env(variable));
        let mount_point = get(&flags.mount_point, "MOUNT_POINT").unwrap_or_else(|| "/workspace".into());
        let mount_point = parse_mount_point(&mount_point)?;
        let token =
            get(&flags.token, "WSD_TOKEN").map(|value| parse_token("WSD_TOKEN", value)).transpose()?;
        let insecure = env("WSD_INSECURE").map(|value| parse_switch("WSD_INSECURE", &value)).transpose()?;
        let host =
            get(&flags.host, "HOST").map_or(Ok(IpAddr::from([127, 0, 0, 1])), |value| parse_host(&value))?;
        if !host.is_loopback() && token.is_none() && insecure != Some(true) {
            let accepted = "an address that others can reach needs WSD_TOKEN, or WSD_INSECURE=1";
            return Err(wrong("HOST", &host.to_string(), accepted.into()));
        }
        let store = match get(&flags.db, "WSD_DB") {
            Some(value) => parse_store(&value)?,
            None => Location::File(default_store(&mount_point, env)?),
        };
        let sync = SyncConfig::from(&flags.sync, &get)?;
        Ok(Self {
            port: get(&flags.port, "PORT").map_or(Ok(defaults.port), |value| parse_port(&value))?,
            host,
            mount: get(&flags.fuse_mount, "FUSE_MOUNT")
                .map_or(Ok(Choice::Auto), |value| parse_backend(&value))?,
            mount_point,
            shim: shim::parse(flags, env)?,
            store,
            token,
            allowed_hosts: allowed_hosts(get(&flags.allowed_hosts, "WSD_ALLOWED_HOSTS"))?,
            cache_bytes: get(&flags.cache_bytes, "WSD_CACHE_BYTES")
                .map(|value| parse_bytes("WSD_CACHE_BYTES", &value, LEAST_CACHE))
                .transpose()?,
            max_bytes: get(&flags.max_bytes, "WSD_MAX_BYTES")
                .map(|value| parse_bytes("WSD_MAX_BYTES", &value, 1))
                .transpose()?,
            log: LogConfig {
                filter: parse_filter(get(&flags.log, "WSD_LOG").unwrap_or_else(|| defaults.log.into()))?,
                json: get(&flags.log_format, "LOG_FORMAT").map_or(Ok(false), |value| parse_format(&value))?,
                file: get(&flags.log_file, "LOG_FILE")
                    .map(|value| absolute("LOG_FILE", &value))
                    .transpose()?,
            },
            exec_log_bytes: get(&flags.exec_log_max_bytes, "EXEC_LOG_MAX_BYTES")
                .map_or(Ok(EXEC_LOG), |value| {
                    Ok(parse_bytes("EXEC_LOG_MAX_BYTES", &value, LEAST_EXEC_LOG)? as usize)
                })?,
            exec_env: Vec::new(),
            ignored: sync.ignored(env),
            sync,
        })
    }
}

fn wrong(variable: &str, value: &str, accepted: String) -> ConfigError {
    ConfigError { variable: variable.to_owned(), value: value.to_owned(), accepted }
}

/// Has settings read from an environment. One that is asked for and is not UTF-8 is refused: as text it would be another.
fn with_environment<T>(
    variables: &dyn Fn(&str) -> Option<OsString>,
    read: impl FnOnce(&dyn Fn(&str) -> Option<String>) -> Parsed<T>,
) -> Parsed<T> {
    let odd = Cell::new(None);
    let text = |name: &str| match variables(name)?.into_string() {
        Ok(text) => Some(text),
        Err(bytes) => {
            odd.set(Some(wrong(name, &bytes.to_string_lossy(), "it is not UTF-8, and must be".into())));
            None
        }
    };
    let settings = read(&text);
    odd.take().map_or(settings, Err)
}

fn parse_port(value: &str) -> Parsed<u16> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit()).then_some(value);
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| wrong("PORT", value, "give a number from 0 to 65535; 0 picks a free port".into()))
}

fn parse_host(value: &str) -> Parsed<IpAddr> {
    if value == "localhost" {
        return Ok(IpAddr::from([127, 0, 0, 1]));
    }
    value
        .parse()
        .map_err(|_| wrong("HOST", value, "give an IP address, such as 127.0.0.1, ::1 or 0.0.0.0".into()))
}

fn parse_mount_point(value: &str) -> Parsed<PathBuf> {
    let path = absolute("MOUNT_POINT", value)?;
    if path == Path::new("/") {
        return Err(wrong(
            "MOUNT_POINT",
            value,
            "the root directory cannot be one; give a directory below it".into(),
        ));
    }
    Ok(path)
}

/// An absolute path without `.`, `..`, repeated or trailing slashes.
fn absolute(variable: &'static str, value: &str) -> Parsed<PathBuf> {
    use std::path::Component;
    let path = Path::new(value);
    if !path.is_absolute()
        || path.components().any(|part| part == Component::ParentDir)
        || value.contains('\0')
    {
        return Err(wrong(variable, value, "give an absolute path without `..`".into()));
    }
    Ok(path.components().collect())
}

fn parse_backend(value: &str) -> Parsed<Choice> {
    match value {
        "auto" => Ok(Choice::Auto),
        "fuse" => Ok(Choice::Fuse),
        "none" => Ok(Choice::None),
        "shim" => Ok(Choice::Shim),
        "macfuse" => Err(wrong("FUSE_MOUNT", value, "this build has auto, fuse, shim and none".into())),
        _ => Err(wrong("FUSE_MOUNT", value, "give auto, fuse, shim or none".into())),
    }
}

fn parse_store(value: &str) -> Parsed<Location> {
    if value == "memory" {
        return Ok(Location::Memory);
    }
    match absolute("WSD_DB", value) {
        Ok(path) => Ok(Location::File(path)),
        Err(_) => Err(wrong("WSD_DB", value, "give the absolute path of a file, or `memory`".into())),
    }
}

/// `/var/lib/wsd` for root, else the user's state directory; the file is named after the mount point.
fn default_store(mount_point: &Path, env: &dyn Fn(&str) -> Option<String>) -> Parsed<PathBuf> {
    let absolute = |value: Option<String>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/lib/wsd")
    } else if let Some(state) = absolute(env("XDG_STATE_HOME")) {
        state.join("wsd")
    } else if let Some(home) = absolute(env("HOME")) {
        home.join(".local/state/wsd")
    } else {
        let accepted = "it is not set, and neither HOME nor XDG_STATE_HOME says where to keep the store";
        return Err(wrong("WSD_DB", "", accepted.into()));
    };
    Ok(directory.join(store_name(mount_point)))
}

/// `/a/b` becomes `a-b.db`; other characters than letters, digits, `.` and `_` are escaped, so that no two mount
/// points share a store.
fn store_name(mount_point: &Path) -> String {
    let mut name = String::new();
    for byte in mount_point.as_os_str().as_bytes().iter().skip(1) {
        match byte {
            b'/' => name.push('-'),
            b'.' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => name.push(char::from(*byte)),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    name + ".db"
}

fn parse_token(variable: &'static str, value: String) -> Parsed<String> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let accepted = "give a secret of printable ASCII characters without blanks, or unset it";
        return Err(wrong(variable, "", accepted.into()));
    }
    Ok(value)
}

fn parse_switch(variable: &'static str, value: &str) -> Parsed<bool> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" | "" => Ok(false),
        _ => Err(wrong(variable, value, "give 1 or 0".into())),
    }
}

fn allowed_hosts(value: Option<String>) -> Parsed<Vec<String>> {
    let mut names: Vec<String> = LOOPBACK_NAMES.map(String::from).to_vec();
    let Some(value) = value else { return Ok(names) };
    for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !is_host(name) {
            let accepted = "give host names separated by commas, without ports, paths or wildcards, IPv6 addresses in brackets";
            return Err(wrong("WSD_ALLOWED_HOSTS", name, accepted.into()));
        }
        names.push(name.to_ascii_lowercase());
    }
    Ok(names)
}

/// Whether a request can name its host so, once its port is gone.
fn is_host(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    address.map_or_else(
        || !name.contains(|character: char| character.is_whitespace() || "/:*[]@".contains(character)),
        |address| address.parse::<std::net::Ipv6Addr>().is_ok(),
    )
}

fn parse_bytes(variable: &'static str, value: &str, least: u64) -> Parsed<u64> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 20),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes >= least && *bytes <= i64::MAX as u64).ok_or_else(|| {
        wrong(variable, value, format!("give a number of bytes, at least {least}; K, M and G are understood"))
    })
}

fn parse_filter(value: String) -> Parsed<String> {
    // Of nothing it makes a filter that lets errors alone pass.
    let is_empty = value.split(',').all(|part| part.trim().is_empty());
    match tracing_subscriber::EnvFilter::try_new(&value) {
        Ok(_) if !is_empty => Ok(value),
        _ => Err(wrong("WSD_LOG", &value, "give a tracing filter, such as info or wsd=debug".into())),
    }
}

fn parse_format(value: &str) -> Parsed<bool> {
    match value {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err(wrong("LOG_FORMAT", value, "give text or json".into())),
    }
}
