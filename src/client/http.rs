//! What is asked without RPC: one request, one JSON answer.

use super::dial::{CONNECT, Target};
use super::{Applied, ClientError, ClientOptions};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// Most bytes of an answer.
const LARGEST: usize = 1 << 20;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Asks a daemon for one of its JSON pages, such as `/__wsd/stats`. Needs a tokio runtime around it.
pub async fn page(options: &ClientOptions, path: &str) -> Result<serde_json::Value, ClientError> {
    let target = Target::new(options)?;
    let timeout = || target.unreachable("no answer in time", "is it a wsd?").error;
    let dialed = tokio::time::timeout(CONNECT, target.dial()).await.map_err(|_| timeout())?;
    let stream = TokioIo::new(dialed.map_err(|unreachable| unreachable.error)?);
    let lost = |reason: &dyn std::fmt::Display| ClientError::Lost {
        url: target.url.clone(),
        reason: reason.to_string(),
        applied: Applied::No,
    };
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| lost(&error))?;
    let request = request(&target, path).map_err(|error| lost(&error))?;
    let driven = tokio::spawn(connection);
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| lost(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        Ok((status, body.map_err(|error| lost(&error))?.to_bytes()))
    };
    let answered = tokio::time::timeout(ANSWER, answer).await;
    driven.abort();
    let (status, body) = answered.map_err(|_| timeout())??;
    read(&target, path, status, &body)
}

fn request(target: &Target, path: &str) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let authority = target.uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::get(path).header(header::HOST, authority);
    if let Some(bearer) = &target.bearer {
        request = request.header(header::AUTHORIZATION, bearer);
    }
    request.body(Empty::new())
}

fn read(
    target: &Target,
    path: &str,
    status: StatusCode,
    body: &[u8],
) -> Result<serde_json::Value, ClientError> {
    if status == StatusCode::UNAUTHORIZED {
        return Err(ClientError::Secret { url: target.url.clone() });
    }
    let protocol = |reason| ClientError::Protocol { url: target.url.clone(), reason, applied: Applied::No };
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(body);
        return Err(protocol(format!("{path}: {status}: {}", text.trim_end())));
    }
    serde_json::from_slice(body).map_err(|error| protocol(format!("{path}: {error}")))
}
