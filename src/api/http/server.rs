//! The listener: accepts connections up to a limit, and drains them when it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::connection;
use crate::protocol::Site;

/// How long to leave the listener alone when the system refuses a connection, for example for want of
/// file descriptors.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// What clients may take of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; further ones wait in the system's backlog. Each may buffer up to 128 KiB read
    /// and 512 KiB unsent (HTTP/1), or 2 MiB read and 512 KiB per stream unsent (HTTP/2).
    pub connections: usize,
    /// Request line and headers together, in bytes. A client that wants a thousand ranges of a layer
    /// names them all in one header.
    pub header_bytes: usize,
    /// How long a connection may be open without a complete request head: before the first request,
    /// within a head, between two requests.
    pub quiet: Duration,
    /// How long a body may stand still in either direction. There is no limit on the whole.
    pub idle: Duration,
    /// How long a drain waits for the requests in flight.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1024,
            header_bytes: 64 * 1024,
            quiet: Duration::from_secs(75),
            idle: Duration::from_secs(300),
            drain: Duration::from_secs(60),
        }
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections cut because their requests outlasted [`Limits::drain`].
    pub cut: usize,
}

/// Serves `site` on `listener` until `shutdown` completes, then drains: accepts nothing more, closes
/// idle connections, lets requests finish for up to [`Limits::drain`], and cuts what is left.
pub async fn serve(
    listener: TcpListener,
    site: Site,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let builder = connection::builder(&limits);
    let wait = limits.drain;
    let app = Arc::new(App { site, limits });
    let (drain, draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (stream, slot) = accept(&listener, &slots) => {
                let serving = connection::serve(stream, app.clone(), builder.clone(), draining.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
        }
    }
    drop(listener);
    drain.send_replace(true);
    let finished = timeout(wait, async { while connections.join_next().await.is_some() {} }).await;
    let cut = if finished.is_ok() { 0 } else { connections.len() };
    connections.shutdown().await;
    if cut > 0 {
        tracing::warn!(connections = cut, "cut connections that outlasted the drain");
    }
    Drained { cut }
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are written whole; waiting to fill a segment only adds latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY refused");
                }
                return (stream, slot);
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}
