//! The routes for whoever runs the daemon.

use super::{State, text};
use crate::parcel::status_json;
use crate::store::Checkpoint;
use crate::workspace::Workspace;
use axum::Json;
use axum::extract::{self, RawQuery};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// What this version can do.
pub const FEATURES: &[&str] = &["fuse", "xattr", "acl", "reflink", "rpc", "watch", "sync"];

type Shared = extract::State<Arc<State>>;

pub(super) async fn root() -> Json<Value> {
    Json(json!({}))
}

/// `ok` as soon as anybody can ask; with `?ready`, when the store is open, the mount is there, and the first
/// sync with the upstream, if one is set, has been done.
pub(super) async fn health(state: Shared, RawQuery(query): RawQuery) -> Response {
    let asks_ready =
        query.is_some_and(|query| query.split('&').any(|part| part == "ready" || part.starts_with("ready=")));
    if !asks_ready {
        return text(StatusCode::OK, "ok\n");
    }
    match state.workspace.get() {
        None => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the store is being opened and mounted\n"),
        Some(workspace) if workspace.failure().is_some() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the store cannot be written\n")
        }
        Some(workspace) if !workspace.mount_is_ready() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the mount is gone\n")
        }
        Some(_) => match state.not_synced() {
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            None => text(StatusCode::OK, "ok\n"),
        },
    }
}

/// What is measured, in the text format of Prometheus.
pub(super) async fn metrics(state: Shared) -> Response {
    if let Some(workspace) = state.workspace.get() {
        let live = workspace.vfs.stats();
        crate::metrics::workspace(&crate::metrics::Live {
            revision: live.revision,
            durable_revision: live.durable_revision,
            dirty_bytes: live.dirty_bytes,
            cached_bytes: live.cached_bytes,
            allocated_bytes: live.allocated_bytes,
            resident_bytes: resident_bytes(),
        });
    }
    if let Some(status) = state.sync_status() {
        crate::metrics::sync(&status);
    }
    state.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], state.metrics.render()).into_response()
}

pub(super) async fn info(state: Shared) -> Response {
    let state = Arc::clone(&state);
    answer(state, |state, workspace| {
        let (backend, reason) = workspace.mount_backend().unzip();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": crate::COMMIT,
            "mount": { "backend": backend, "reason": reason },
            "mountPoint": state.config.mount_point,
            "port": state.port,
            "store": workspace.store.location().to_string(),
            "workspace": workspace.store.uuid(workspace.store.workspace())?,
            "cacheBytes": workspace.vfs.cache_bytes(),
            "features": FEATURES,
            "upstream": state.config.sync.upstream,
        }))
    })
    .await
}

pub(super) async fn stats(state: Shared) -> Response {
    let state = Arc::clone(&state);
    answer(state, |state, workspace| {
        let live = workspace.vfs.stats();
        let mut stats = json!({
            "store": workspace.store.counts()?,
            "storeBytes": workspace.store.file_bytes(),
            "walBytes": workspace.store.wal_bytes(),
            "sessions": state.sessions.sessions(),
            "revision": live.revision,
            "committedRevision": live.committed_revision,
            "durableRevision": live.durable_revision,
            "dirtyBytes": live.dirty_bytes,
            "cachedBytes": live.cached_bytes,
            "cachedNodes": live.cached_nodes,
            "pinnedNodes": live.pinned_nodes,
            "allocatedBytes": live.allocated_bytes,
            "bytesRead": live.bytes_read,
            "bytesWritten": live.bytes_written,
            "execs": execs_of(state),
            "rssBytes": resident_bytes(),
            "uptimeMs": state.started.elapsed().as_millis() as u64,
        });
        if let Some(status) = state.sync_status() {
            stats["sync"] = status_json(&status);
        }
        if let Some(directory) = workspace.directory() {
            stats["shim"] = json!(directory.stats());
        }
        if let Some(failure) = workspace.failure() {
            stats["failure"] = Value::String(failure.to_string());
        }
        Ok(stats)
    })
    .await
}

pub(super) async fn checkpoint(state: Shared) -> Response {
    let state = Arc::clone(&state);
    answer(state, |_, workspace| {
        workspace.vfs.sync()?;
        Ok(json!(workspace.store.checkpoint(Checkpoint::Truncate)?))
    })
    .await
}

/// Commands that run, and that are remembered.
fn execs_of(state: &State) -> Value {
    let execs = state.host.get().and_then(|host| host.execs.as_ref());
    let (all, running) = execs.map_or((0, 0), |execs| execs.count());
    json!({ "running": running, "ended": all - running })
}

/// Asks the workspace, in a thread that may wait for the disk.
pub(super) async fn answer<F>(state: Arc<State>, ask: F) -> Response
where
    F: FnOnce(&State, &Workspace) -> Result<Value, Box<dyn std::error::Error>> + Send + 'static,
{
    let answered = tokio::task::spawn_blocking(move || match state.workspace.get() {
        None => Err((
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the store is being opened and mounted\n".to_owned(),
        )),
        Some(workspace) => {
            ask(&state, workspace).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
        }
    });
    match answered.await {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err((status, line))) => text(status, line),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Memory of this process, as `statm` in proc(5) has it.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
