//! What is told of each request: its number, what it asked, what it was answered, how long that took.

use crate::metrics;
use axum::extract::{MatchedPath, Request};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Answers a request, and tells of it. The answer has the number in `x-request-id`.
pub(super) async fn request(request: Request, next: Next) -> Response {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let mut response = next.run(request).await;
    let status = response.status();
    let micros = begun.elapsed().as_micros() as u64;
    metrics::request(route.as_deref().unwrap_or("other").to_owned(), status.as_u16());
    if status.is_server_error() {
        tracing::warn!(id, %method, path, status = status.as_u16(), micros, "request");
    } else {
        tracing::debug!(id, %method, path, status = status.as_u16(), micros, "request");
    }
    response.headers_mut().insert("x-request-id", HeaderValue::from(id));
    response
}
