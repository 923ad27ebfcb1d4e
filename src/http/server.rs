//! Connections: how many, how long a peer may take, and how they end.

use super::stall::Stall;
use super::{State, router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a peer may take to send the head of a request, and may be idle between two.
const HEAD: Duration = Duration::from_secs(15);

/// Largest head of a request, bytes.
const MAX_HEAD: usize = 64 << 10;

/// How long to wait when no connection can be taken, because there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers requests until `stop` comes; then lets those under way end. At most `most` connections are served at a
/// time; further ones wait in the kernel's queue.
pub async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    most: usize,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let service = TowerToHyperService::new(router(state));
    let (connections, closing) = (TaskTracker::new(), CancellationToken::new());
    let free = Arc::new(Semaphore::new(most));
    tokio::pin!(stop);
    loop {
        let accepted = async {
            let permit = Arc::clone(&free).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (stream, permit) = tokio::select! {
            () = &mut stop => break,
            (accepted, permit) = accepted => match accepted {
                Ok((stream, _)) => (stream, permit),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let (service, closing) = (service.clone(), closing.clone());
        connections.spawn(async move {
            connection(stream, service, closing).await;
            drop(permit);
        });
    }
    drop(listener);
    closing.cancel();
    connections.close();
    connections.wait().await;
}

async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    closing: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    let connection = builder.serve_connection(TokioIo::new(Stall::new(stream)), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended in an error");
    }
}
