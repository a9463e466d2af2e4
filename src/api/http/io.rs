//! The socket below hyper: writes that stand still fail, and closing lets the client read the answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::sendfile::{self, Socket};

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
pub(crate) struct ClientIo<S> {
    inner: S,
    stall: Duration,
    timer: Pin<Box<Sleep>>,
    stalled: bool,
    linger: Option<Linger>,
}

struct Linger {
    left: usize,
}

impl<S> ClientIo<S> {
    /// `stall`: how long the client may refuse to take a single byte of an answer.
    pub(crate) fn new(inner: S, stall: Duration) -> ClientIo<S> {
        ClientIo { inner, stall, timer: Box::pin(sleep(stall)), stalled: false, linger: None }
    }

    /// Turns a pending write into an error once nothing has moved for the limit.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        if !self.stalled {
            self.stalled = true;
            self.timer.as_mut().reset(Instant::now() + self.stall);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> ClientIo<S> {
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 16 * 1024];
        let Some(linger) = &mut self.linger else { return Poll::Ready(()) };
        while linger.left > 0 {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => linger.left = linger.left.saturating_sub(buf.filled().len()),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
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
        let written = sendfile::poll_write_vectored(&mut self.inner, cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            match Pin::new(&mut this.inner).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            this.linger = Some(Linger { left: LINGER_BYTES });
            this.timer.as_mut().reset(Instant::now() + LINGER_TIME);
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
        let mut io = ClientIo::new(server, stall);
        let started = Instant::now();
        let error = io.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= stall);
    }

    #[tokio::test]
    async fn a_slow_client_is_not() {
        let (mut client, server) = duplex(16);
        let stall = Duration::from_secs(2);
        let mut io = ClientIo::new(server, stall);
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
        let mut io = ClientIo::new(server, Duration::from_secs(300));
        let started = Instant::now();
        io.shutdown().await.unwrap();
        assert!(started.elapsed() >= LINGER_TIME);
    }

    #[tokio::test]
    async fn closing_reads_on_for_a_limited_number_of_bytes() {
        let (mut client, server) = duplex(64 * 1024);
        let mut io = ClientIo::new(server, Duration::from_secs(300));
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
        let mut io = ClientIo::new(server, Duration::from_secs(300));
        drop(client);
        let started = Instant::now();
        io.shutdown().await.unwrap();
        assert!(started.elapsed() < LINGER_TIME);
    }
}
