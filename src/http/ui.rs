//! The status page, and what it asks for: to look at, never to change.
//!
//! The page is one answer: its style and script are in it, and its policy lets nothing else run or load. Where a secret
//! is set it needs that as every route does.

use super::ops::answer;
use super::{State, text};
use crate::service::{self, Failure};
use axum::Json;
use axum::extract::{self, RawQuery};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

const PAGE: &str = include_str!("ui/page.html");

/// Stands in the page for the number that this answer's style and script are known by.
const NONCE: &str = "NONCE";

type Shared = extract::State<Arc<State>>;

/// The page.
pub(super) async fn page() -> Response {
    let mut random = [0; 16];
    if let Err(error) = rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty()) {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("no random numbers: {error}\n"));
    }
    let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, &policy),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    guarded((headers, PAGE.replace(NONCE, &nonce)).into_response())
}

/// A directory: `path` as a link, `after` where to go on.
pub(super) async fn tree(state: Shared, RawQuery(query): RawQuery) -> Response {
    let (link, after) = (parameter(&query, "path").to_owned(), number(&query, "after"));
    let listing = answer(Arc::clone(&state), move |state, _| {
        let host = state.host.get().ok_or("not ready")?;
        let listing = service::unlink(&link).and_then(|path| {
            let path = if path.is_empty() { b".".to_vec() } else { path };
            host.files.look(&path, after)
        });
        Ok(told(listing))
    });
    guarded(listing.await)
}

/// What changed last.
pub(super) async fn changes(state: Shared) -> Response {
    let changes = answer(Arc::clone(&state), |state, _| {
        let host = state.host.get().ok_or("not ready")?;
        Ok(json!({ "changes": host.files.latest() }))
    });
    guarded(changes.await)
}

/// The commands.
pub(super) async fn commands(state: Shared) -> Response {
    let execs = state.host.get().and_then(|host| host.execs.as_ref());
    let commands = execs.map(|execs| service::commands(execs)).unwrap_or_default();
    guarded(Json(json!({ "commands": commands })).into_response())
}

/// What a command said: `id`, and `after` which event.
pub(super) async fn output(state: Shared, RawQuery(query): RawQuery) -> Response {
    let execs = state.host.get().and_then(|host| host.execs.as_ref());
    let missing = || Failure::new("ENOTSUP", "the workspace is not mounted: commands cannot run in it");
    let said = execs
        .ok_or_else(missing)
        .and_then(|execs| service::output(execs, parameter(&query, "id"), number(&query, "after")));
    guarded(Json(told(said)).into_response())
}

/// A value, or `{"error": ...}`.
fn told<T: Serialize>(outcome: Result<T, Failure>) -> serde_json::Value {
    match outcome {
        Ok(value) => json!(value),
        Err(failure) => json!({ "error": format!("{} ({})", failure.message, failure.code) }),
    }
}

fn parameter<'a>(query: &'a Option<String>, name: &str) -> &'a str {
    let parts = query.as_deref().unwrap_or_default().split('&');
    parts.filter_map(|part| part.split_once('=')).find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

fn number(query: &Option<String>, name: &str) -> u64 {
    parameter(query, name).parse().unwrap_or(0)
}

/// Other origins may neither load nor guess what this is, and nobody keeps it.
fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let same = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same);
    response
}
