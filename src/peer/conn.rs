//! A TCP connection after its handshake: it carries bytes in and out until its row in
//! [`crate::connections`] is told to close. HTTP/2 runs over it and knows nothing of that.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::connections::Connection;
use crate::identity::PeerId;
use crate::limits::{STRANGER_BYTES, STRANGER_LIFETIME};

/// In the extensions of a request from a connection without a client certificate: where it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stranger(IpAddr);

/// The address of a caller without a client certificate.
///
/// # Errors
/// `PERMISSION_DENIED` if the request came over another connection.
pub fn stranger<T>(request: &tonic::Request<T>) -> Result<IpAddr, tonic::Status> {
    let other = || tonic::Status::permission_denied("only for callers without a certificate");
    request.extensions().get::<Stranger>().map(|stranger| stranger.0).ok_or_else(other)
}

/// The stream that HTTP/2 runs over. `I` says who is at the other end, and becomes an extension of every
/// request.
pub(crate) struct Conn<I> {
    stream: TlsStream<TcpStream>,
    who: I,
    /// Completes when the connection shall end. HTTP/2 always has a read pending, which it wakes.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    /// Bytes that may still be read.
    budget: usize,
    /// Frees the connection's place when it is dropped.
    _place: Place,
}

#[expect(dead_code, reason = "held for their destructors")]
enum Place {
    Peer(Connection),
    Stranger(OwnedSemaphorePermit),
}

impl Conn<PeerId> {
    /// A connection with an admitted member.
    pub(crate) fn peer(stream: TlsStream<TcpStream>, connection: Connection) -> Self {
        let end = Box::pin(connection.closed().clone().cancelled_owned());
        let who = PeerId { node: connection.node(), reach: connection.reach().clone() };
        let _place = Place::Peer(connection);
        Conn { stream, who, end, ended: false, budget: usize::MAX, _place }
    }
}

impl Conn<Stranger> {
    /// A connection of which nothing is known: it gets little time and few bytes.
    pub(crate) fn stranger(
        stream: TlsStream<TcpStream>,
        from: IpAddr,
        place: OwnedSemaphorePermit,
        all: CancellationToken,
    ) -> Self {
        let end = Box::pin(async move {
            // Either way it is over.
            let _ = tokio::time::timeout(STRANGER_LIFETIME, all.cancelled()).await;
        });
        let who = Stranger(from);
        let _place = Place::Stranger(place);
        Conn { stream, who, end, ended: false, budget: STRANGER_BYTES, _place }
    }
}

impl<I: Clone + Send + Sync + 'static> Connected for Conn<I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.who.clone()
    }
}

impl<I: Unpin> AsyncRead for Conn<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended || this.end.as_mut().poll(cx).is_ready() {
            this.ended = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        match this.budget.checked_sub(buf.filled().len() - before) {
            Some(left) => this.budget = left,
            None => {
                this.ended = true;
                return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: Unpin> Conn<I> {
    /// The stream, unless the connection has ended.
    fn open(self: Pin<&mut Self>) -> io::Result<Pin<&mut TlsStream<TcpStream>>> {
        let this = self.get_mut();
        if this.ended { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(Pin::new(&mut this.stream)) }
    }
}

impl<I: Unpin> AsyncWrite for Conn<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?.poll_shutdown(cx)
    }
}
