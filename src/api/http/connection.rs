//! One client's connection, from accept to close.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge share the port. Closing is always in the client's favour:
//! an HTTP/1 connection finishes its request first; an HTTP/2 connection is told to go away only when no
//! stream is open, because clients abort streamed request bodies when they see GOAWAY.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::app::App;
use crate::io::ClientIo;
use crate::server::Limits;

/// The read buffer of an HTTP/1 connection, which also bounds its header section before it is parsed.
const H1_BUFFER: usize = 128 * 1024;
/// What an HTTP/2 client may send ahead, per stream and per connection.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Answer bytes buffered per HTTP/2 stream.
const H2_SEND_BUFFER: usize = 512 * 1024;
const H2_STREAMS: u32 = 64;

/// What goes on in a connection.
#[derive(Clone, Copy)]
struct Traffic {
    in_flight: usize,
    multiplexed: bool,
    /// When the last request ended, or the connection began.
    quiet_since: Instant,
}

impl Traffic {
    /// Whether asking hyper to shut down gracefully would hurt nobody.
    fn may_close(&self) -> bool {
        self.in_flight == 0 || !self.multiplexed
    }

    /// When to look again, or `None` if nothing has gone on for `limit`.
    fn next_check(&self, limit: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.in_flight > 0 {
            Some(now + limit)
        } else {
            Some(self.quiet_since + limit).filter(|at| *at > now)
        }
    }
}

/// One request in flight: from its head to the end of its answer's body.
pub(crate) struct Flight(watch::Sender<Traffic>);

impl Flight {
    fn begin(traffic: &watch::Sender<Traffic>, version: Version) -> Flight {
        traffic.send_modify(|t| {
            t.in_flight += 1;
            t.multiplexed = version == Version::HTTP_2;
        });
        Flight(traffic.clone())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.send_modify(|t| {
            t.in_flight -= 1;
            t.quiet_since = Instant::now();
        });
    }
}

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
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(H2_STREAMS);
    builder
}

/// Serves a connection until either side closes it. Once `drain` turns true it ends as soon as that
/// disturbs no request.
pub(crate) async fn serve(
    stream: TcpStream,
    app: Arc<App>,
    builder: Builder<TokioExecutor>,
    mut drain: watch::Receiver<bool>,
) {
    let limit = app.limits.quiet;
    let now = Instant::now();
    let (traffic, seen) = watch::channel(Traffic { in_flight: 0, multiplexed: false, quiet_since: now });
    let mut quiet = seen.clone();
    let io = TokioIo::new(ClientIo::new(stream, app.limits.idle));
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let flight = Flight::begin(&traffic, request.version());
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(request, flight).await) }
    });
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);

    let mut check = now + limit;
    let mut draining = false;
    let mut closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                return;
            }
            () = until(&mut drain, |drain| *drain), if !draining => draining = true,
            () = until(&mut quiet, Traffic::may_close), if draining && !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(check) => {
                let traffic = *seen.borrow();
                if let Some(next) = traffic.next_check(limit) {
                    check = next;
                } else if closing {
                    // Asked before and still here: a client that does not read.
                    return;
                } else {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                    check = Instant::now() + limit;
                }
            }
        }
    }
}

/// Waits until the watched value fulfils `condition`, or nobody is left to change it.
async fn until<T>(watched: &mut watch::Receiver<T>, condition: impl FnMut(&T) -> bool) {
    // The guard that comes back must not live across the caller's next await.
    drop(watched.wait_for(condition).await);
}
