//! `/connect`: connections that this daemon makes itself, to be driven over them.

use super::{BODY, State, text, too_slow};
use crate::outbound::{Call, Order, OutboundError};
use axum::Json;
use axum::body::{self, Body};
use axum::extract::{self, RawQuery};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of a request.
const MAX_BODY: usize = 16 << 10;

type Shared = extract::State<Arc<State>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    url: String,
    token: Option<String>,
}

fn shown(call: &Call) -> Value {
    json!({
        "id": call.id,
        "url": call.url,
        "state": call.state.word(),
        "error": call.error,
        "attempts": call.attempts,
    })
}

/// Dials, and serves whoever is there, until told otherwise.
pub(super) async fn begin(state: Shared, body: Body) -> Response {
    let body = match receive(body, BODY).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    // What is wrong is not repeated: it may be the secret.
    let Ok(Wish { url, token }) = serde_json::from_slice(&body) else {
        let line = "give {\"url\": \"ws://...\", \"token\": \"...\"}; the token may be left out\n";
        return text(StatusCode::BAD_REQUEST, line);
    };
    let Some(host) = state.host.get().map(Arc::clone) else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the store is being opened and mounted\n");
    };
    let order = Order { url, token, ca: state.config.sync.ca.clone() };
    match state.outbound.begin(Arc::clone(&state.sessions), host, order) {
        Ok(call) => Json(shown(&call)).into_response(),
        Err(error @ OutboundError::Url(_)) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(error @ OutboundError::TooMany) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

/// The bytes of a request, if they come in time.
async fn receive(body: Body, within: Duration) -> Result<Bytes, Response> {
    match tokio::time::timeout(within, body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {MAX_BODY} bytes are read\n")))
        }
        Err(_) => Err(too_slow()),
    }
}

pub(super) async fn list(state: Shared) -> Response {
    let calls: Vec<Value> = state.outbound.list().iter().map(shown).collect();
    Json(json!({ "connections": calls })).into_response()
}

/// Ends the one with this `id`, or all.
pub(super) async fn end(state: Shared, RawQuery(query): RawQuery) -> Response {
    let id = match query.as_deref() {
        None | Some("") => None,
        Some(query) => match query.strip_prefix("id=").and_then(|id| id.parse().ok()) {
            Some(id) => Some(id),
            None => return text(StatusCode::BAD_REQUEST, "give ?id=NUMBER, or nothing for all\n"),
        },
    };
    match (id, state.outbound.end(id)) {
        (Some(id), 0) => text(StatusCode::NOT_FOUND, format!("there is no connection {id}\n")),
        (_, ended) => Json(json!({ "ended": ended })).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each held one of the connections that there may be, for as long as it liked.
    #[tokio::test]
    async fn who_does_not_say_where_to_is_not_waited_for() {
        let trickle = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b"{")), ()))
        });
        let within = Duration::from_millis(100);
        let refusal = receive(Body::from_stream(trickle), within).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(receive(Body::from("{}"), BODY).await.unwrap(), "{}");
        let large = receive(Body::from(vec![b'x'; MAX_BODY + 1]), BODY).await.unwrap_err();
        assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
