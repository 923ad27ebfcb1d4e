//! The two ways to the workspace's objects: a WebSocket for a session, a POST for a batch.

use super::stall::Stall;
use super::{BODY, State, text, too_slow};
use crate::rpc::{BatchError, MAX_BODY, Share};
use axum::body::Body;
use axum::extract::{self, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What a batch is.
const CONTENT_TYPE: &str = "application/x-capnp-rpc";

type Shared = extract::State<Arc<State>>;

fn not_ready() -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the store is being opened and mounted\n")
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// Whether the body is said to be one. Media types are the same in any case (RFC 9110, 8.3.1).
fn is_batch(headers: &HeaderMap) -> bool {
    let name = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split(|byte| *byte == b';').next());
    name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()))
}

/// Turns the connection into a WebSocket, and serves it.
pub(super) async fn socket(state: Shared, mut request: Request) -> Response {
    let headers = request.headers();
    let asks = request.method() == Method::GET
        && has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, "websocket");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let (true, true, Some(key)) = (asks, version, key) else {
        let upgrade = [(header::UPGRADE, "websocket"), (header::SEC_WEBSOCKET_VERSION, "13")];
        let line = "a WebSocket is served here: ask with an upgrade (GET, version 13)\n";
        return (upgrade, text(StatusCode::UPGRADE_REQUIRED, line)).into_response();
    };
    let Some(host) = state.host.get().map(Arc::clone) else { return not_ready() };
    let upgrade = hyper::upgrade::on(&mut request);
    let state = Arc::clone(&state);
    tokio::spawn(async move {
        let upgraded = upgrade.await.map_err(|error| error.to_string());
        match upgraded.and_then(|upgraded| taken_over(upgraded).map_err(|error| error.to_string())) {
            Ok((socket, read)) => {
                if !state.sessions.serve(host, socket, read) {
                    tracing::warn!("there are too many sessions: one was turned away");
                }
            }
            Err(error) => tracing::debug!(%error, "a WebSocket did not come about"),
        }
    });
    let Ok(accept) = HeaderValue::from_str(&key) else {
        return text(StatusCode::BAD_REQUEST, "the key of the WebSocket is not one\n");
    };
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// The connection itself, and what was read of it already. The session waits for it in its own thread: if the server's
/// threads went on doing that, each message would wake two.
fn taken_over(upgraded: Upgraded) -> io::Result<(TcpStream, Bytes)> {
    let parts = upgraded
        .downcast::<TokioIo<Stall>>()
        .map_err(|_| io::Error::other("it is not a connection of this server"))?;
    Ok((parts.io.into_inner().into_inner().into_std()?, parts.read_buf))
}

/// Answers a body of calls with a body of answers.
pub(super) async fn batch(state: Shared, request: Request) -> Response {
    let headers = request.headers();
    if !is_batch(headers) {
        let line = format!("a batch has the content type {CONTENT_TYPE}\n");
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, line);
    }
    let claimed: Option<u64> =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if claimed.is_some_and(|claimed| claimed > MAX_BODY as u64) {
        return too_large();
    }
    let Some(host) = state.host.get().map(Arc::clone) else { return not_ready() };
    let mut share = state.sessions.share();
    let body = match tokio::time::timeout(BODY, receive(request.into_body(), claimed, &mut share)).await {
        Ok(Ok(body)) => body,
        Ok(Err(refusal)) => return refusal,
        Err(_) => return too_slow(),
    };
    match state.sessions.batch(host, body, share).await {
        Ok(answer) => {
            let messages = futures::stream::iter(answer.map(Ok::<_, std::convert::Infallible>));
            ([(header::CONTENT_TYPE, CONTENT_TYPE)], Body::from_stream(messages)).into_response()
        }
        Err(error) => refusal(&error),
    }
}

/// The bytes of a body, as far as there is room for them.
async fn receive(body: Body, claimed: Option<u64>, share: &mut Share) -> Result<Bytes, Response> {
    // What is claimed and does not come takes no memory.
    let room = claimed.unwrap_or(0) as usize;
    let (mut parts, mut received) = (body.into_data_stream(), BytesMut::with_capacity(room));
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| text(StatusCode::BAD_REQUEST, "the body broke off\n"))?;
        if received.len() + part.len() > MAX_BODY {
            return Err(too_large());
        }
        share.take(part.len()).map_err(|error| refusal(&error))?;
        received.extend_from_slice(&part);
    }
    Ok(received.freeze())
}

fn too_large() -> Response {
    let line = format!("a batch has at most {MAX_BODY} bytes: use the WebSocket\n");
    text(StatusCode::PAYLOAD_TOO_LARGE, line)
}

fn refusal(error: &BatchError) -> Response {
    text(status_of(error), format!("{error}\n"))
}

fn status_of(error: &BatchError) -> StatusCode {
    match error {
        BatchError::Frame(_) | BatchError::Message(_) | BatchError::Empty | BatchError::Questions(_) => {
            StatusCode::BAD_REQUEST
        }
        BatchError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        BatchError::Deadline => StatusCode::GATEWAY_TIMEOUT,
        BatchError::TooMany | BatchError::Busy | BatchError::Closing => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_known_however_its_type_is_written() {
        let of = |value: &str| HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
        for good in [CONTENT_TYPE, "Application/X-Capnp-RPC", "application/x-capnp-rpc ; charset=binary"] {
            assert!(is_batch(&of(good)), "{good}");
        }
        for bad in ["", "application/x-capnp-rpc2", "application/json", "a;application/x-capnp-rpc"] {
            assert!(!is_batch(&of(bad)), "{bad}");
        }
        assert!(!is_batch(&HeaderMap::new()));
    }
}
