//! Who may ask: checked before a request is routed.
//!
//! A web page that a user of this machine looks at must not be able to talk to the daemon: its requests name
//! another host (if it had its name point here, DNS rebinding) or come from another origin.

use super::{State, text};
use axum::extract::{self, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Lets a request through, or answers it.
pub(super) async fn check(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if !host_is_allowed(headers, request.uri().host(), &state.config.allowed_hosts) {
        let line = "this host name is not allowed here: add it to WSD_ALLOWED_HOSTS\n";
        return text(StatusCode::MISDIRECTED_REQUEST, line);
    }
    let looks = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let changes = !looks || headers.contains_key(header::UPGRADE);
    if changes && !origin_is_allowed(headers, &state.config.allowed_hosts) {
        return text(
            StatusCode::FORBIDDEN,
            "requests from this origin are not allowed: see WSD_ALLOWED_HOSTS\n",
        );
    }
    if let Some(token) = &state.config.token
        && request.uri().path() != "/health"
        && !bears(headers, token)
    {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (
            challenge,
            text(StatusCode::UNAUTHORIZED, "the secret of this daemon is needed: WSD_TOKEN\n"),
        )
            .into_response();
    }
    next.run(request).await
}

fn host_is_allowed(headers: &HeaderMap, in_uri: Option<&str>, allowed: &[String]) -> bool {
    let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    header.or(in_uri).is_some_and(|host| is_allowed(host, allowed))
}

fn origin_is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    host.is_some_and(|(_, host)| is_allowed(host, allowed))
}

/// Compares without the port.
fn is_allowed(host: &str, allowed: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

/// Whether the request bears the secret. Hashes are compared, in time that depends on neither.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
    let Some((scheme, given)) = bearer else { return false };
    // blake3::Hash compares in constant time.
    scheme.eq_ignore_ascii_case(b"Bearer ") && blake3::hash(given) == blake3::hash(token.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_their_port() {
        let allowed = ["localhost".to_owned(), "[::1]".to_owned()];
        for good in ["localhost", "LOCALHOST:80", "[::1]:45678", "[::1]"] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["", "example.org", "localhost.example.org", "::1", "localhost:x", "[::2]:1"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn only_the_secret_opens() {
        let with = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert!(bears(&with("Bearer s3cret"), "s3cret"));
        assert!(bears(&with("bearer s3cret"), "s3cret"));
        for bad in ["Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", ""] {
            assert!(!bears(&with(bad), "s3cret"), "{bad}");
        }
        assert!(!bears(&HeaderMap::new(), "s3cret"));
    }
}
