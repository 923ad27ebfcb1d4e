//! The daemon: builds the rooms in order, and drains them in reverse.

mod around;
mod descriptors;
mod measures;
mod memory;
mod signals;

use crate::config::Config;
use crate::error::plain;
use crate::exec::{self, Execs, Settings};
use crate::http;
use crate::metrics;
use crate::mount::Backend;
use crate::mount::guard::Guard;
use crate::outbound::Outbound;
use crate::replica::{self, Control, Replica};
use crate::rpc::{About, Host, Pool, Syncing};
use crate::service::{Files, Tracker};
use crate::sync::Hub;
use crate::sync::engine::Timing;
use crate::sync::ignore::Ignore;
use crate::sync::site::Site;
use crate::upstream;
use crate::workspace::{Workspace, WorkspaceError};
use around::Around;
use signals::Signals;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub use crate::http::FEATURES;
pub use signals::{ECHO, Hangup, hangup};

/// How long requests under way may take once the daemon stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the daemon did not start, or did not stop as it should.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum DaemonError {
    #[error("cannot listen on {address}: {}; {}", plain(source), advice(source.kind()))]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    #[error(
        "this process may have {there} files open at a time, and needs {least}: raise the limit (ulimit -n, LimitNOFILE=)"
    )]
    Descriptors { there: u64, least: u64 },
    #[error("cannot measure: {0}")]
    Metrics(metrics_exporter_prometheus::BuildError),
    #[error("{0}")]
    Workspace(#[from] WorkspaceError),
}

/// What to do where the daemon cannot listen.
fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrInUse => {
            "somebody else listens there, maybe another wsd: stop it, or give another port with --port (PORT); 0 picks one"
        }
        ErrorKind::PermissionDenied => "give a port from 1024 on with --port (PORT)",
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address: give one that it has with --host (HOST)"
        }
        _ => "give another address with --host (HOST) or --port (PORT)",
    }
}

/// A running daemon.
pub struct Daemon {
    runtime: Runtime,
    signals: Signals,
    state: Arc<http::State>,
    guard: Option<Guard>,
    replica: Option<Replica>,
    stop_http: oneshot::Sender<()>,
    http: tokio::task::JoinHandle<()>,
}

impl Daemon {
    /// Starts everything. When it returns the workspace is mounted.
    pub fn start(config: Config) -> Result<Self, DaemonError> {
        if !config.ignored.is_empty() {
            let variables = config.ignored.join(", ");
            tracing::warn!(variables, "set, but without effect: UPSTREAM_URL is not");
        }
        let cache_bytes = memory::share_out(config.cache_bytes);
        let descriptors = descriptors::share_out()?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().map_err(DaemonError::Threads)?;
        // From here on a signal is answered, if only once everything has started; a second one at once.
        let signals = runtime.block_on(async { Signals::new() }).map_err(DaemonError::Threads)?;
        let signals = signals.attend(&runtime);
        let address = SocketAddr::new(config.host, config.port);
        let listen = |source| DaemonError::Listen { address, source };
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        let state = Arc::new(http::State {
            config,
            port,
            started: Instant::now(),
            workspace: OnceLock::new(),
            host: OnceLock::new(),
            sessions: Arc::new(Pool::start(descriptors.sessions).map_err(DaemonError::Threads)?),
            outbound: Outbound::default(),
            synced: AtomicBool::new(false),
            metrics: metrics::install().map_err(DaemonError::Metrics)?,
        });
        runtime.spawn(measures::keep(state.metrics.clone(), measures::PERIOD));
        let (stop_http, stopped) = oneshot::channel();
        let http = runtime.spawn(http::serve(listener, Arc::clone(&state), descriptors.connections, async {
            let _ = stopped.await;
        }));
        let opened = Workspace::open(&state.config, cache_bytes)?;
        let backend = opened.mount_backend();
        let (backend, reason) = backend.map_or((Backend::None, String::new()), |found| found);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), port, mount_point = ?state.config.mount_point, ?backend, reason,
            store = %opened.store.location(), "ready"
        );
        let about = About {
            version: env!("CARGO_PKG_VERSION"),
            workspace_id: opened.id()?,
            mount_point: state.config.mount_point.clone(),
            mount: backend.to_string(),
            mount_reason: reason,
            features: http::FEATURES,
        };
        let files = Files::new(Arc::clone(&opened.vfs), &state.config.mount_point);
        let (sync, replica) = sync_of(&state.config, &opened, &runtime)?;
        let execs = match backend {
            Backend::None => None,
            Backend::Fuse | Backend::Shim => Some(execs_of(&state, &opened, &files, &sync, &runtime)?),
        };
        let host = Host::new(files, execs, sync, about).map_err(DaemonError::Threads)?;
        let _ = state.host.set(Arc::new(host));
        let _ = state.workspace.set(opened);
        let guard = guard_of(&state.config, backend);
        let signals = signals.end(&runtime).map_err(|error| DaemonError::Threads(error.into()))?;
        Ok(Self { runtime, signals, state, guard, replica, stop_http, http })
    }

    /// The port that is listened on.
    pub fn port(&self) -> u16 {
        self.state.port
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.state.config
    }

    /// Waits for SIGTERM (true) or SIGINT (false).
    pub fn wait_for_signal(&mut self) -> bool {
        self.runtime.block_on(self.signals.wait())
    }

    /// Waits for a future; `on_signal` is told of each signal meanwhile, and whether it was SIGTERM.
    pub fn wait_for<T>(&mut self, future: impl Future<Output = T>, mut on_signal: impl FnMut(bool)) -> T {
        let signals = &mut self.signals;
        self.runtime.block_on(async {
            let mut future = std::pin::pin!(future);
            loop {
                tokio::select! {
                    done = &mut future => return done,
                    is_term = signals.wait() => on_signal(is_term),
                }
            }
        })
    }

    /// Stops accepting, unmounts, writes everything to disk and folds the WAL. A signal meanwhile ends the
    /// process at once.
    pub fn stop(self) -> Result<(), DaemonError> {
        // First of all: the log may be a pipe that nobody reads any more.
        self.runtime.spawn(self.signals.end_at_once_on_the_next());
        tracing::info!("stopping");
        let _ = self.stop_http.send(());
        self.state.outbound.close();
        let drained = self.runtime.block_on(async { tokio::time::timeout(DRAIN, self.http).await });
        if drained.is_err() {
            tracing::warn!("requests were still under way after {} seconds", DRAIN.as_secs());
        }
        if let Some(execs) = self.state.host.get().and_then(|host| host.execs.as_ref()) {
            self.runtime.block_on(execs.close());
        }
        if let Some(replica) = self.replica {
            self.runtime.block_on(replica.stop(self.state.config.sync.grace));
        }
        self.state.sessions.close();
        let closed = self.state.workspace.get().map_or(Ok(()), Workspace::close);
        drop(self.guard);
        self.runtime.shutdown_timeout(DRAIN);
        tracing::info!("stopped");
        Ok(closed?)
    }
}

/// What this workspace is to others, and, if it has an upstream, the replica that keeps it in step.
fn sync_of(
    config: &Config,
    workspace: &Workspace,
    runtime: &Runtime,
) -> Result<(Syncing, Option<Replica>), WorkspaceError> {
    let site = Arc::new(Site::open(Arc::clone(&workspace.vfs), Arc::clone(&workspace.store))?);
    let hub = Arc::new(Hub::new(Arc::clone(&site)));
    let Some(url) = &config.sync.upstream else {
        return Ok((Syncing { hub, control: Arc::new(Control::without_upstream(site)) }, None));
    };
    let dial = upstream::Dial {
        url: url.clone(),
        token: config.sync.token.clone(),
        ca: config.sync.ca.clone(),
        bandwidth: config.sync.bandwidth,
    };
    let settings = replica::Settings {
        upstream: url.clone(),
        label: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        ignore: Ignore::new(&config.sync.ignore)?,
        on_conflict: config.sync.on_conflict,
        timing: Timing::default(),
    };
    let _inside = runtime.enter();
    let replica = Replica::start(site, dial, settings)?;
    Ok((Syncing { hub, control: Arc::new(replica.control()) }, Some(replica)))
}

fn execs_of(
    state: &Arc<http::State>,
    workspace: &Workspace,
    files: &Files,
    sync: &Syncing,
    runtime: &Runtime,
) -> Result<Arc<Execs>, WorkspaceError> {
    let config = &state.config;
    let settings = Settings {
        mount_point: config.mount_point.clone(),
        env: config.exec_env.clone(),
        log_bytes: config.exec_log_bytes,
        remembered: exec::REMEMBERED,
        age: exec::AGE,
        // Whatever has become of the file that it was started from.
        limiter: "/proc/self/exe".into(),
    };
    let tracker = Tracker(files.clone());
    let around = Around {
        state: Arc::downgrade(state),
        tracker: tracker.clone(),
        directory: workspace.directory(),
        control: Arc::clone(&sync.control),
    };
    let store = Arc::clone(&workspace.store);
    let execs = Execs::open(settings, store, Arc::new(around), runtime.handle().clone())?;
    tracker.follow(execs.lineage());
    Ok(execs)
}

/// Somebody who ends the mount when we cannot. A mount without one works; it may be left hanging by a kill.
fn guard_of(config: &Config, backend: Backend) -> Option<Guard> {
    if backend != Backend::Fuse {
        return None;
    }
    let started = std::env::current_exe().and_then(|program| Guard::start(&program, &config.mount_point));
    let missing = "there is no guard over the mount: a kill may leave it hanging until the next start";
    started.inspect_err(|error| tracing::warn!(%error, "{missing}")).ok()
}
