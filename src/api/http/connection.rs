//! One client's connection, from accept to close.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge share the port; the first bytes tell which it is, before any memory is
//! taken for it. Closing is always in the client's favour: an HTTP/1 connection finishes its request first; an HTTP/2
//! connection is told to go away only when no stream is open, because clients abort streamed request bodies when they
//! see GOAWAY.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use crate::app::App;
use crate::flight::Flight;
use crate::io::ClientIo;
use crate::limits::Limits;
use crate::pace::Slowest;
use crate::places::Place;
use crate::traffic::{Meter, Stall, Traffic};

/// The read buffer of an HTTP/1 connection, which also bounds its header section before it is parsed.
const H1_BUFFER: usize = 128 * 1024;
/// The largest piece of an answer that may be unsent on an HTTP/1 connection.
const H1_UNSENT: usize = 512 * 1024;
/// What an HTTP/2 client may send ahead, per stream and per connection.
const H2_STREAM_WINDOW: u32 = 512 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Answer bytes buffered per HTTP/2 stream.
const H2_SEND_BUFFER: usize = 64 * 1024;
/// Requests at once on an HTTP/2 connection.
const H2_STREAMS: u32 = 32;
/// Headers of an HTTP/2 request. Clients that need more of them, for a thousand ranges in one, speak HTTP/1.
const H2_HEADERS: u32 = 16 * 1024;
/// What a request takes beside its body: headers, and what its handler makes of them.
const REQUEST: usize = 64 * 1024;
/// Connections that may speak HTTP/2 at once. Nearly all clients speak HTTP/1: they do not see TLS here, which is where
/// HTTP/2 is agreed upon.
pub(crate) const H2_CONNECTIONS: usize = 64;
/// Pieces of answers that may wait for clients of HTTP/2, over all connections.
pub(crate) const H2_PIECES: usize = 128;
/// The largest of them.
const H2_PIECE: usize = 512 * 1024;
/// How long a connection that gives way may take to close.
const GIVE_WAY: Duration = Duration::from_secs(1);
/// How long the first bytes of a connection may be too few to tell what it speaks.
const FEW_BYTES: Duration = Duration::from_millis(10);

/// What an HTTP/1 connection takes in memory, at most.
pub const H1_MEMORY: u64 = (H1_BUFFER + H1_UNSENT + REQUEST) as u64;
/// What all HTTP/2 connections take in memory beyond that: windows, and for each stream its headers, its handler and
/// what is unsent of its answer; and the pieces that come next, over all.
pub const H2_MEMORY: u64 = H2_CONNECTIONS as u64
    * (H2_CONNECTION_WINDOW as u64
        + H2_STREAMS as u64 * (H2_HEADERS as u64 + REQUEST as u64 + H2_SEND_BUFFER as u64))
    + (H2_PIECES * H2_PIECE) as u64;

/// The settings of every connection of a listener.
pub(crate) fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // hyper's header timer also runs between the requests of a kept-alive connection.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.quiet).max_buf_size(H1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.quiet / 2)
        .keep_alive_timeout(limits.quiet)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX).min(H2_HEADERS))
        .max_concurrent_streams(H2_STREAMS);
    builder
}

/// A connection that has its place.
pub(crate) struct Admitted {
    pub(crate) stream: TcpStream,
    pub(crate) place: Place,
    /// Both ends of what the place's table sees of it.
    pub(crate) traffic: (watch::Sender<Traffic>, watch::Receiver<Traffic>),
    pub(crate) drain: watch::Receiver<bool>,
}

/// Serves a connection until either side closes it, or it is to give way. Once `drain` turns true it ends as soon as
/// that disturbs no request.
pub(crate) async fn serve(admitted: Admitted, app: Arc<App>, builder: Builder<TokioExecutor>) {
    let Admitted { stream, place, traffic: (traffic, seen), mut drain } = admitted;
    let spoken = tokio::select! {
        spoken = timeout(app.limits.quiet, speaks_h2(&stream)) => spoken,
        () = until(&mut drain, |drain| *drain) => return,
        () = place.give_way() => return,
    };
    let Ok(Ok(h2)) = spoken else { return };
    if h2 && !place.speaks_h2() {
        tracing::debug!("too many connections speak HTTP/2");
        return go_away(stream).await;
    }
    traffic.send_modify(|traffic| traffic.multiplexed = h2);
    let slowest = app.limits.slowest();
    let meter = Arc::new(Meter::default());
    let stall = h2.then(|| Stall { meter: meter.clone(), slowest, before: None });
    let attended = Attended { place: place.clone(), seen, drain, stall, slowest, quiet: app.limits.quiet };
    let io = TokioIo::new(ClientIo::new(stream, slowest));
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let app = app.clone();
        let place = place.clone();
        let flight = Flight::begin(&traffic, place.clone(), meter.clone());
        async move { Ok::<_, Infallible>(app.answer(request, flight, place).await) }
    });
    let builder = if h2 { builder.http2_only() } else { builder.http1_only() };
    let connection = std::pin::pin!(builder.serve_connection(io, service));
    if let Err(error) = attended.until_end(connection).await {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// What may end a connection beside the two sides of it.
struct Attended {
    place: Place,
    seen: watch::Receiver<Traffic>,
    drain: watch::Receiver<bool>,
    stall: Option<Stall>,
    slowest: Slowest,
    quiet: Duration,
}

impl Attended {
    async fn until_end<C: GracefulConnection>(mut self, mut connection: Pin<&mut C>) -> Result<(), C::Error> {
        let mut calm = self.seen.clone();
        let mut check = Instant::now() + self.quiet;
        let mut periods = interval(self.slowest.period);
        let mut draining = false;
        let mut closing = false;
        let mut leaving = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = until(&mut self.drain, |drain| *drain), if !draining => draining = true,
                () = until(&mut calm, Traffic::may_close), if draining && !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.place.give_way() => {
                    (closing, leaving) = (true, true);
                    connection.as_mut().graceful_shutdown();
                    check = Instant::now() + GIVE_WAY;
                }
                _ = periods.tick(), if self.stall.is_some() => {
                    if self.stall.as_mut().is_some_and(Stall::look) {
                        tracing::debug!("a client of HTTP/2 takes its answers too slowly");
                        return Ok(());
                    }
                }
                () = sleep_until(check) => {
                    let traffic = *self.seen.borrow();
                    match traffic.next_check(self.quiet) {
                        Some(next) if !leaving || traffic.in_flight > 0 => check = next,
                        // Asked before and still here: a client that does not read.
                        _ if closing => return Ok(()),
                        _ => {
                            closing = true;
                            connection.as_mut().graceful_shutdown();
                            check = Instant::now() + self.quiet;
                        }
                    }
                }
            }
        }
    }
}

/// Whether the client begins as one does that speaks HTTP/2 (RFC 9113, section 3.4). No method begins so.
async fn speaks_h2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI";
    let mut first = [0; PREFACE.len()];
    loop {
        let there = stream.peek(&mut first).await?;
        if there == PREFACE.len() || first[..there] != PREFACE[..there] {
            return Ok(first.as_slice() == PREFACE);
        }
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What is there is readable at once, again and again.
        sleep(FEW_BYTES).await;
    }
}

/// Tells a client of HTTP/2 that nothing of what it sent was looked at (RFC 9113, section 6.8: GOAWAY, last stream 0,
/// ENHANCE_YOUR_CALM), after the SETTINGS that must come first.
async fn go_away(mut stream: TcpStream) {
    const FRAMES: [u8; 26] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb];
    // Whether it arrives makes no difference here.
    let _ = timeout(GIVE_WAY, stream.write_all(&FRAMES)).await;
}

/// Waits until the watched value fulfils `condition`, or nobody is left to change it.
async fn until<T>(watched: &mut watch::Receiver<T>, condition: impl FnMut(&T) -> bool) {
    // The guard that comes back must not live across the caller's next await.
    drop(watched.wait_for(condition).await);
}
