//! The HTTP server: RPC's two ways in, and what is asked without RPC.
//!
//! - `server`: connections. `stall`: those that take nothing. `guard`: who may ask. `log`: what is told of each request.
//! - `rpc`: the WebSocket and the batch. `ops`, `sync`: what is told to whoever runs the daemon. `connect`: connections
//!   that the daemon makes itself.
//!   `ui`: the status page.

mod connect;
mod guard;
mod log;
mod ops;
mod rpc;
mod server;
mod stall;
mod sync;
mod ui;

use crate::config::Config;
use crate::outbound::Outbound;
use crate::rpc::{Host, Pool};
use crate::workspace::Workspace;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use ops::FEATURES;
pub use server::serve;

/// How long the body of a request may take to arrive.
const BODY: Duration = Duration::from_secs(30);

/// What the routes know.
pub struct State {
    pub(crate) config: Config,
    /// The port that is listened on.
    pub(crate) port: u16,
    pub(crate) started: Instant,
    /// There once the store is open and the mount is made.
    pub(crate) workspace: OnceLock<Workspace>,
    /// What RPC serves; there when the workspace is.
    pub(crate) host: OnceLock<Arc<Host>>,
    pub(crate) sessions: Arc<Pool>,
    pub(crate) outbound: Outbound,
    /// The first sync since the start has been done.
    pub(crate) synced: AtomicBool,
    pub(crate) metrics: PrometheusHandle,
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(ops::root))
        .route("/health", get(ops::health))
        .route("/metrics", get(ops::metrics))
        .route("/__wsd/info", get(ops::info))
        .route("/__wsd/stats", get(ops::stats))
        .route("/__wsd/checkpoint", post(ops::checkpoint))
        .route("/connect", post(connect::begin).get(connect::list).delete(connect::end))
        .route("/__wsd/ui", get(ui::page))
        .route("/__wsd/ui/tree", get(ui::tree))
        .route("/__wsd/ui/changes", get(ui::changes))
        .route("/__wsd/ui/commands", get(ui::commands))
        .route("/__wsd/ui/output", get(ui::output))
        .route("/api", post(rpc::batch))
        .route("/ws", any(rpc::socket))
        .fallback(|| async { text(StatusCode::NOT_FOUND, "not found\n") })
        .method_not_allowed_fallback(|| async {
            text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&state), guard::check))
        .layer(axum::middleware::from_fn(log::request))
        .with_state(state)
}

fn too_slow() -> Response {
    text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n")
}

/// A line of plain text.
pub(crate) fn text(status: StatusCode, line: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], line.into()).into_response()
}
