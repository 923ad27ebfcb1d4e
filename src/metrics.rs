//! What is measured: every name, in one place. `GET /metrics` shows it in the text format of Prometheus.
//!
//! Names are stable; a release that renames one says so.

use crate::sync::status::{LinkState, Status};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

/// Calls by method and code ("ok" when they succeeded).
const CALLS: &str = "wsd_rpc_calls_total";
/// Time of a call, by method, seconds.
const LATENCY: &str = "wsd_rpc_call_seconds";
/// Bytes of RPC messages.
const RECEIVED: &str = "wsd_rpc_received_bytes_total";
const SENT: &str = "wsd_rpc_sent_bytes_total";
/// Sessions that live.
const SESSIONS: &str = "wsd_rpc_sessions";
/// HTTP requests by route and status.
const REQUESTS: &str = "wsd_http_requests_total";

/// The last change, and the last one known to be on the disk.
const REVISION: &str = "wsd_revision";
const DURABLE: &str = "wsd_durable_revision";
/// Bytes of content in memory, not yet in the store; cached for reading; allocated in the workspace.
const DIRTY: &str = "wsd_dirty_bytes";
const CACHED: &str = "wsd_cached_bytes";
const ALLOCATED: &str = "wsd_allocated_bytes";
/// Memory of the process.
const RESIDENT: &str = "wsd_resident_bytes";

/// Sync with the upstream: whether it is connected; nodes and bytes that are to be pushed, and to be applied; revisions
/// that are upstream, and that are applied; conflicts so far; when it was last heard of, seconds since 1970.
const UP_CONNECTED: &str = "wsd_sync_connected";
const UP_PENDING: &str = "wsd_sync_pending_entries";
const UP_PENDING_BYTES: &str = "wsd_sync_pending_bytes";
const UP_INCOMING: &str = "wsd_sync_incoming_entries";
const UP_INCOMING_BYTES: &str = "wsd_sync_incoming_bytes";
const UP_PUSHED: &str = "wsd_sync_pushed_revision";
const UP_PULLED: &str = "wsd_sync_pulled_revision";
const UP_CONFLICTS: &str = "wsd_sync_conflicts_total";
const UP_HEARD: &str = "wsd_sync_last_contact_seconds";

/// Bounds of the histogram, seconds.
const BUCKETS: &[f64] =
    &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// What is shown of the workspace.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in the names of the gauges")]
pub struct Live {
    pub revision: u64,
    pub durable_revision: u64,
    pub dirty_bytes: u64,
    pub cached_bytes: u64,
    pub allocated_bytes: u64,
    pub resident_bytes: u64,
}

/// Starts to measure, for the whole process; what is returned shows it.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new();
    let handle =
        builder.set_buckets_for_metric(Matcher::Full(LATENCY.to_owned()), BUCKETS)?.install_recorder()?;
    describe_counter!(CALLS, "RPC calls answered, by method and code (ok when they succeeded)");
    describe_histogram!(
        LATENCY,
        metrics::Unit::Seconds,
        "time from a call's arrival to its answer, by method"
    );
    describe_counter!(RECEIVED, metrics::Unit::Bytes, "bytes of RPC messages received");
    describe_counter!(SENT, metrics::Unit::Bytes, "bytes of RPC messages sent");
    describe_gauge!(SESSIONS, "RPC sessions that live");
    describe_gauge!(REVISION, "the last change");
    describe_gauge!(DURABLE, "the last change known to be on the disk");
    describe_gauge!(DIRTY, metrics::Unit::Bytes, "bytes of content that are not in the store yet");
    describe_gauge!(CACHED, metrics::Unit::Bytes, "bytes of content cached for reading");
    describe_gauge!(ALLOCATED, metrics::Unit::Bytes, "bytes allocated in the workspace");
    describe_gauge!(RESIDENT, metrics::Unit::Bytes, "memory of the process");
    describe_gauge!(UP_CONNECTED, "1 while the upstream is connected");
    describe_gauge!(UP_PENDING, "nodes that changed here and are not upstream yet");
    describe_gauge!(UP_PENDING_BYTES, metrics::Unit::Bytes, "bytes of their content");
    describe_gauge!(UP_INCOMING, "nodes that are known to come from upstream");
    describe_gauge!(UP_INCOMING_BYTES, metrics::Unit::Bytes, "bytes of their content");
    describe_gauge!(UP_PUSHED, "the last revision of this workspace on the upstream's disk");
    describe_gauge!(UP_PULLED, "the upstream's last revision that is applied here");
    describe_counter!(UP_CONFLICTS, "conflicts with the upstream that were settled");
    describe_gauge!(UP_HEARD, metrics::Unit::Seconds, "when the upstream was last heard of, since 1970");
    describe_counter!(REQUESTS, "HTTP requests answered, by route and status");
    Ok(handle)
}

/// A call was answered.
pub fn call(method: &'static str, code: Option<&'static str>, took: Duration) {
    counter!(CALLS, "method" => method, "code" => code.unwrap_or("ok")).increment(1);
    histogram!(LATENCY, "method" => method).record(took);
}

/// An RPC message came.
pub fn received(bytes: usize) {
    counter!(RECEIVED).increment(bytes as u64);
}

/// An RPC message went.
pub fn sent(bytes: usize) {
    counter!(SENT).increment(bytes as u64);
}

/// So many sessions live.
pub fn sessions(count: usize) {
    gauge!(SESSIONS).set(count as f64);
}

/// The workspace as it is.
pub fn workspace(live: &Live) {
    gauge!(REVISION).set(live.revision as f64);
    gauge!(DURABLE).set(live.durable_revision as f64);
    gauge!(DIRTY).set(live.dirty_bytes as f64);
    gauge!(CACHED).set(live.cached_bytes as f64);
    gauge!(ALLOCATED).set(live.allocated_bytes as f64);
    gauge!(RESIDENT).set(live.resident_bytes as f64);
}

/// Sync as it is; nothing where there is no upstream.
pub fn sync(status: &Status) {
    if status.upstream.is_none() {
        return;
    }
    gauge!(UP_CONNECTED).set(f64::from(u8::from(status.link == LinkState::Connected)));
    gauge!(UP_PENDING).set(status.pending_entries as f64);
    gauge!(UP_PENDING_BYTES).set(status.pending_bytes as f64);
    gauge!(UP_INCOMING).set(status.incoming_entries as f64);
    gauge!(UP_INCOMING_BYTES).set(status.incoming_bytes as f64);
    gauge!(UP_PUSHED).set(status.pushed as f64);
    gauge!(UP_PULLED).set(status.pulled as f64);
    counter!(UP_CONFLICTS).absolute(status.conflicts);
    gauge!(UP_HEARD).set(status.last_contact.unwrap_or_default() as f64 / 1e9);
}

/// An HTTP request was answered.
pub fn request(route: String, status: u16) {
    counter!(REQUESTS, "route" => route, "status" => status.to_string()).increment(1);
}
