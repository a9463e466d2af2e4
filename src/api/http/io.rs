//! The socket below hyper: writes that a client takes too slowly fail, and closing lets the client read the answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::pace::{Pace, Slowest};
use crate::sendfile::{self, Socket};
use crate::vouching::Vouching;

/// What is read and thrown away after the last answer, at most: a manifest several times over the limit
/// still gets its 413 and not a reset.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// How long that may take, at most.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// A client's connection.
///
/// A request that is refused early leaves bytes of its body unread; closing then resets the
/// connection, and the client may lose the answer. So shutting down sends the end of our side and
/// reads on for a bounded while, until the client closes its own.
pub(crate) struct ClientIo<S: Socket> {
    inner: S,
    cut: Cut,
    vouching: Vouching,
    pace: Pace,
    /// What the system had not delivered yet when the period of waiting began.
    queued: Option<u64>,
    linger: Option<Linger>,
}

struct Linger {
    left: usize,
    timer: Pin<Box<Sleep>>,
}

/// How a connection ends that is dropped before it is shut down.
#[derive(Clone, Default)]
pub(crate) struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Has the system throw away what it has not delivered, which else it keeps for as long as the client likes.
    pub(crate) fn when_dropped(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S: Socket> ClientIo<S> {
    /// `slowest`: how slowly the client may take an answer.
    pub(crate) fn new(inner: S, slowest: Slowest) -> ClientIo<S> {
        let (cut, vouching) = Default::default();
        ClientIo { inner, cut, vouching, pace: Pace::new(slowest), queued: None, linger: None }
    }

    /// A hold on how it ends.
    pub(crate) fn cut(&self) -> Cut {
        self.cut.clone()
    }

    /// Turns a pending write into an error once the client is too slow. The system takes more only when a good part
    /// of its buffer is delivered, which on a thin line takes minutes: what it delivers counts.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let ClientIo { inner, pace, queued, .. } = self;
        if let Poll::Ready(outcome) = &written {
            pace.moved(outcome.as_ref().map_or(0, bytes));
            return written;
        }
        queued.get_or_insert_with(|| inner.undelivered());
        let delivered = || {
            let now = inner.undelivered();
            let before = queued.replace(now).unwrap_or(now);
            before.saturating_sub(now)
        };
        pace.poll_too_slow(cx, delivered).map(|()| {
            // Else the system goes on for as long as the client likes, with all that it has taken.
            inner.give_up();
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

impl<S: Socket> Drop for ClientIo<S> {
    fn drop(&mut self) {
        if self.cut.0.load(Ordering::Relaxed) {
            self.inner.give_up();
        }
    }
}

impl<S: Socket> ClientIo<S> {
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 16 * 1024];
        let Some(linger) = &mut self.linger else { return Poll::Ready(()) };
        while linger.left > 0 {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => linger.left = linger.left.saturating_sub(buf.filled().len()),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return linger.timer.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<S: Socket> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: Socket> AsyncWrite for ClientIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Poll::Ready(first) = sendfile::poll_first(&this.inner, &mut this.vouching, cx, bufs) else {
            // The client waits for this side.
            this.pace.moved(0);
            return Poll::Pending;
        };
        let written = sendfile::poll_write_vectored(&mut this.inner, cx, bufs, first?);
        this.watch(cx, written, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            match Pin::new(&mut this.inner).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            let timer = Box::pin(sleep_until(Instant::now() + LINGER_TIME));
            this.linger = Some(Linger { left: LINGER_BYTES, timer });
        }
        this.poll_linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (_client, server) = duplex(16);
        let stall = Duration::from_millis(100);
        let mut io = ClientIo::new(server, Slowest::new(stall, 0));
        let started = Instant::now();
        let error = io.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= stall);
    }

    #[tokio::test]
    async fn a_slow_client_is_not() {
        let (mut client, server) = duplex(16);
        let stall = Duration::from_secs(2);
        let mut io = ClientIo::new(server, Slowest::new(stall, 8));
        let writer = tokio::spawn(async move { io.write_all(&[0; 160]).await });
        let started = Instant::now();
        for _ in 0..10 {
            tokio::time::sleep(stall / 8).await;
            client.read_exact(&mut [0; 16]).await.unwrap();
        }
        writer.await.unwrap().unwrap();
        assert!(started.elapsed() > stall, "the whole took longer than one stall may");
    }

    #[tokio::test]
    async fn closing_reads_on_for_a_second_at_most() {
        let (_silent, server) = duplex(16);
        let mut io = ClientIo::new(server, Slowest::new(Duration::from_secs(300), 0));
        let started = Instant::now();
        io.shutdown().await.unwrap();
        assert!(started.elapsed() >= LINGER_TIME);
    }

    #[tokio::test]
    async fn closing_reads_on_for_a_limited_number_of_bytes() {
        let (mut client, server) = duplex(64 * 1024);
        let mut io = ClientIo::new(server, Slowest::new(Duration::from_secs(300), 0));
        let endless = tokio::spawn(async move {
            let mut sent = 0;
            while let Ok(n) = client.write(&[0; 4096]).await {
                sent += n;
            }
            sent
        });
        io.shutdown().await.unwrap();
        drop(io);
        let sent = endless.await.unwrap();
        assert!(sent <= LINGER_BYTES + 2 * 64 * 1024, "{sent}");
    }

    #[tokio::test]
    async fn closing_is_over_when_the_client_closes() {
        let (client, server) = duplex(16);
        let mut io = ClientIo::new(server, Slowest::new(Duration::from_secs(300), 0));
        drop(client);
        let started = Instant::now();
        io.shutdown().await.unwrap();
        assert!(started.elapsed() < LINGER_TIME);
    }
}
