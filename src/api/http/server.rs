//! The listener: accepts connections, gives each a place or lets it wait, and drains them when it is told to stop.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::connection::{self, Admitted, H2_CONNECTIONS, H2_PIECES};
use crate::limits::Limits;
use crate::memory::BodyMemory;
use crate::places::Places;
use crate::protocol::Site;
use crate::traffic::Traffic;
use crate::waiting::{self, Room, Waiting};

/// How long to leave the listener alone when the system refuses a connection, for example for want of
/// file descriptors.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

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
    let places = Places::new(limits.connections, H2_CONNECTIONS);
    let room = Arc::new(Room::default());
    let admitted = connection::builder(&limits);
    let waiting = waiting::builder();
    let wait = limits.drain;
    let pieces = Arc::new(Semaphore::new(H2_PIECES));
    let app = Arc::new(App { site, limits, memory: BodyMemory::default(), pieces });
    let (drain, draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let (stream, from) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener) => accepted,
        };
        let (traffic, seen) = watch::channel(Traffic::new());
        match places.take(from, &seen) {
            Some(place) => {
                let drain = draining.clone();
                let connection = Admitted { stream, place, traffic: (traffic, seen), drain };
                connections.spawn(connection::serve(connection, app.clone(), admitted.clone()));
            }
            None => {
                let connection =
                    Waiting { app: app.clone(), from, places: places.clone(), seat: room.enter() };
                connections.spawn(waiting::serve(stream, connection, waiting.clone()));
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

/// The next connection, and where it comes from.
async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                // Answers are written whole; waiting to fill a segment only adds latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY refused");
                }
                return (stream, from.ip());
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}
