//! Connections. Each is ended here and made again to the node; bytes are late, and in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::line::UNDER_WAY;
use crate::link::Link;
use crate::{Links, Place};

/// Connections to one node at once; the next ones wait unaccepted.
const CONNECTIONS: usize = 256;
/// What is read in one go.
const PIECE: usize = 64 << 10;
/// What opens a connection, bytes.
const SYN: usize = 60;
/// Between two tries at a listener that has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections to one node.
pub(crate) struct Listener {
    listener: TcpListener,
    place: Place,
    to: usize,
    links: Arc<Links>,
}

/// A piece on its way; empty at the end of the stream. It gives its room back when it has arrived.
struct Piece {
    due: Instant,
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Listener {
    pub(crate) fn bind(place: Place, to: usize, links: Arc<Links>) -> io::Result<Listener> {
        let listener = std::net::TcpListener::bind(place.advertised)?;
        listener.set_nonblocking(true)?;
        Ok(Listener { listener: TcpListener::from_std(listener)?, place, to, links })
    }

    /// Runs until it is dropped, and with it every connection.
    pub(crate) async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= CONNECTIONS {
                connections.join_next().await;
                continue;
            }
            match self.listener.accept().await {
                Ok((peer, from)) => {
                    let who = self.links.who(from);
                    let there = self.links.between(who, Some(self.to)).clone();
                    let here = self.links.between(Some(self.to), who).clone();
                    connections.spawn(carry(peer, self.place.node, there, here));
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

/// Carries one connection to its end. One that breaks on one side breaks on the other.
async fn carry(peer: TcpStream, node: SocketAddr, there: Arc<Link>, here: Arc<Link>) {
    // The peer's kernel takes it for open already; on a long line it would hear so after a round trip.
    cross(&there).await;
    let Ok(node) = TcpStream::connect(node).await else { return };
    cross(&here).await;
    if peer.set_nodelay(true).is_err() || node.set_nodelay(true).is_err() {
        return;
    }
    let (from_peer, to_peer) = peer.into_split();
    let (from_node, to_node) = node.into_split();
    // Whoever ends one of them by an error is not told of the other's.
    let _ = tokio::try_join!(pump(from_peer, to_node, &there), pump(from_node, to_peer, &here));
}

/// What opens a connection crosses a link.
async fn cross(link: &Link) {
    sleep_until(link.piece(SYN, Instant::now())).await;
    link.whole().await;
}

async fn pump(from: OwnedReadHalf, to: OwnedWriteHalf, link: &Link) -> io::Result<()> {
    let (send, pieces) = mpsc::unbounded_channel();
    tokio::try_join!(read(from, send, link), write(to, pieces, link)).map(drop)
}

/// The channel is bounded by the room that its pieces hold.
async fn read(mut from: OwnedReadHalf, pieces: mpsc::UnboundedSender<Piece>, link: &Link) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let mut buffer = vec![0; PIECE];
    let mut last = Instant::now();
    loop {
        link.room().await;
        let most = link.at_once().min(PIECE);
        let Ok(mut held) = room.clone().acquire_many_owned(PIECE as u32).await else { return Ok(()) };
        let read = from.read(&mut buffer[..most]).await?;
        // Nothing overtakes what is before it.
        last = link.piece(read, Instant::now()).max(last);
        drop(held.split(PIECE.saturating_sub(read)));
        let piece = Piece { due: last, bytes: Bytes::copy_from_slice(&buffer[..read]), _room: held };
        if pieces.send(piece).is_err() || read == 0 {
            return Ok(());
        }
    }
}

async fn write(
    mut to: OwnedWriteHalf,
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    link: &Link,
) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        sleep_until(piece.due).await;
        link.whole().await;
        if piece.bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&piece.bytes).await?;
    }
    Ok(())
}
