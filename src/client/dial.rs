//! Where a daemon is, and a byte stream to it.

use super::{ClientError, ClientOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::http::header::HeaderValue;

/// How long a connection may take to come about, its handshakes included.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

const RUNNING: &str = "is the daemon running there? See --url, WSD_URL and PORT";

/// A stream of bytes to a daemon.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Why there is no connection, and whether it is worth another try.
#[derive(Debug)]
pub(super) struct Unreachable {
    pub(super) error: ClientError,
    pub(super) is_temporary: bool,
}

impl From<ClientError> for Unreachable {
    fn from(error: ClientError) -> Self {
        Self { error, is_temporary: false }
    }
}

impl Unreachable {
    /// The same, and trying again won't help.
    pub(super) fn for_good(mut self) -> Self {
        self.is_temporary = false;
        if let ClientError::Connect { is_temporary, .. } = &mut self.error {
            *is_temporary = false;
        }
        self
    }
}

/// The address of a daemon, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// As it is shown: ws:// or wss://, with the path.
    pub(super) url: String,
    pub(super) uri: Uri,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) bearer: Option<HeaderValue>,
    tls: bool,
    ca: Option<PathBuf>,
}

impl Target {
    pub(super) fn new(options: &ClientOptions) -> Result<Self, ClientError> {
        let wrong = |reason: &str| ClientError::Url { url: options.url.clone(), reason: reason.to_owned() };
        let given: Uri = options.url.parse().map_err(|error| wrong(&format!("{error}")))?;
        let tls = match given.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(wrong("it must begin with ws:// or wss://")),
        };
        let authority = given.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("the secret belongs into WSD_TOKEN"));
        }
        let path = if given.path() == "/" { "/ws" } else { given.path() };
        let url = format!("{}://{authority}{path}", if tls { "wss" } else { "ws" });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        let bearer = options.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| wrong("its secret has characters that a header cannot carry"))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let uri = url.parse().map_err(|error| wrong(&format!("{error}")))?;
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" => Some(if tls { 443 } else { 80 }),
            given => given.strip_prefix(':').and_then(|port| port.parse().ok()),
        };
        let port = port.ok_or_else(|| wrong("its port is not a number from 1 to 65535"))?;
        Ok(Self { uri, host, port, bearer: bearer.transpose()?, tls, ca: options.ca.clone(), url })
    }

    /// Why there is no connection, when trying again may help.
    pub(super) fn unreachable(&self, reason: impl ToString, advice: &'static str) -> Unreachable {
        let (url, reason, is_temporary) = (self.url.clone(), reason.to_string(), true);
        let error = ClientError::Connect { url, reason, advice, is_temporary };
        Unreachable { error, is_temporary: true }
    }

    /// A stream to the daemon, encrypted if the address says so.
    pub(super) async fn dial(&self) -> Result<Box<dyn Duplex>, Unreachable> {
        let connected = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = connected.map_err(|error| self.unreachable(error, RUNNING))?;
        // A question is small, and somebody waits for its answer.
        let _ = stream.set_nodelay(true);
        if !self.tls {
            return Ok(Box::new(stream));
        }
        let config =
            self.tls_config().map_err(|(error, advice)| self.unreachable(error, advice).for_good())?;
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| ClientError::Url { url: self.url.clone(), reason: error.to_string() })?;
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.unreachable(error, "is its certificate one that this machine trusts?")),
        }
    }

    /// Trusts what this machine trusts, what browsers do, for images without any certificates, and whom we were told to.
    fn tls_config(&self) -> Result<Arc<ClientConfig>, (String, &'static str)> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.ca {
            let wrong = |error: String| (format!("{}: {error}", path.display()), "give certificates in PEM");
            let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let found = found.map_err(|error| wrong(error.to_string()))?;
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(wrong("there is no certificate in it".to_owned()));
            }
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| (error.to_string(), "TLS cannot be used here"))?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, ClientError> {
        Target::new(&ClientOptions::new(url))
    }

    #[test]
    fn addresses_are_taken_apart() {
        for (given, url, host, port) in [
            ("ws://127.0.0.1:45678/ws", "ws://127.0.0.1:45678/ws", "127.0.0.1", 45_678),
            ("http://localhost:1", "ws://localhost:1/ws", "localhost", 1),
            ("wss://example.org", "wss://example.org/ws", "example.org", 443),
            ("ws://[::1]/deep/ws", "ws://[::1]/deep/ws", "::1", 80),
        ] {
            let found = target(given).unwrap();
            assert_eq!((found.url.as_str(), found.host.as_str(), found.port), (url, host, port));
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_was_given() {
        for given in
            ["", "127.0.0.1:45678", "/ws", "ftp://host/ws", "ws://user:secret@host/ws", "ws://h:99999/"]
        {
            let error = target(given).unwrap_err();
            assert!(matches!(error, ClientError::Url { .. }), "{given}");
            assert!(error.to_string().contains(&format!("{given:?}")), "{error}");
        }
        let secret = ClientOptions { token: Some("a\nb".to_owned()), ..ClientOptions::new("ws://h/ws") };
        assert!(!Target::new(&secret).unwrap_err().to_string().contains("a\nb"));
    }
}
