//! The HTTP server: what is asked without RPC.
//!
//! - `guard`: who may ask. `ops`: the routes for whoever runs the daemon.

mod guard;
mod ops;

use crate::config::Config;
use crate::workspace::Workspace;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::net::TcpListener;

/// What the routes know.
pub struct State {
    pub(crate) config: Config,
    /// The port that is listened on.
    pub(crate) port: u16,
    pub(crate) started: Instant,
    /// There once the store is open and the mount is made.
    pub(crate) workspace: Arc<OnceLock<Workspace>>,
}

/// Answers requests until `stop` comes; then lets those under way end.
pub async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    if let Err(error) = axum::serve(listener, router(state)).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the HTTP server ended");
    }
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(ops::root))
        .route("/health", get(ops::health))
        .route("/__wsd/info", get(ops::info))
        .route("/__wsd/stats", get(ops::stats))
        .route("/__wsd/checkpoint", post(ops::checkpoint))
        .fallback(|| async { text(StatusCode::NOT_FOUND, "not found\n") })
        .method_not_allowed_fallback(|| async {
            text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&state), guard::check))
        .with_state(state)
}

/// A line of plain text.
pub(crate) fn text(status: StatusCode, line: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], line.into()).into_response()
}
