//! Connections that found no place: all others are at work.
//!
//! Each may ask one thing. The node's own pages are answered at once, so that whoever watches over the node does not
//! take it for dead because it is busy; everything else waits a moment for a place and is then told to come back. A
//! waiting connection takes little memory. Where too many have not said yet what they want, the one that came first gives way: a probe
//! says it at once.
//!
//! In memory; nothing outlives the process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::flight::Flight;
use crate::io::ClientIo;
use crate::log::Logged;
use crate::places::{Place, Places};
use crate::traffic::Traffic;

/// Connections that may wait without having asked for anything, and requests that may wait for a place.
const SEATS: usize = 256;
/// Bytes of a head that waits, and of its answer.
const BUFFER: usize = 16 * 1024;
/// How long a head may take to come.
const HEAD: Duration = Duration::from_secs(2);
/// How long a request waits for a place.
const WAIT: Duration = Duration::from_secs(10);

/// What waiting connections take in memory.
pub const WAITING_MEMORY: u64 = (2 * SEATS * 2 * BUFFER) as u64;

/// The connections that wait.
#[derive(Default)]
pub(crate) struct Room(Mutex<Seats>);

#[derive(Default)]
struct Seats {
    next: u64,
    /// Those that have not asked yet, by when they came.
    silent: BTreeMap<u64, Arc<Notify>>,
    asking: usize,
}

/// The right to wait.
pub(crate) struct Seat {
    room: Arc<Room>,
    number: u64,
    lost: Arc<Notify>,
}

/// The right of a request to wait, which is not lost to others.
struct Asking<'a>(&'a Room);

impl Room {
    /// Lets one more in; the one that has been silent longest may lose its seat.
    pub(crate) fn enter(self: &Arc<Self>) -> Seat {
        let mut seats = self.0.lock();
        if seats.silent.len() >= SEATS
            && let Some((_, lost)) = seats.silent.pop_first()
        {
            lost.notify_one();
        }
        let number = seats.next;
        seats.next += 1;
        let lost = Arc::new(Notify::new());
        seats.silent.insert(number, lost.clone());
        Seat { room: self.clone(), number, lost }
    }
}

impl Seat {
    /// The connection has asked: it is silent no more, and may wait, unless too many do.
    fn ask(&self) -> Option<Asking<'_>> {
        let mut seats = self.room.0.lock();
        seats.silent.remove(&self.number);
        if seats.asking >= SEATS {
            return None;
        }
        seats.asking += 1;
        Some(Asking(&self.room))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.0.lock().silent.remove(&self.number);
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.0.lock().asking -= 1;
    }
}

/// The settings of connections that wait.
pub(crate) fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER).keep_alive(false);
    builder
}

/// A connection that waits, beside its socket.
pub(crate) struct Waiting {
    pub(crate) app: Arc<App>,
    pub(crate) from: IpAddr,
    pub(crate) places: Arc<Places>,
    pub(crate) seat: Seat,
}

/// Answers one request.
pub(crate) async fn serve(stream: TcpStream, waiting: Waiting, builder: Builder<TokioExecutor>) {
    let io = TokioIo::new(ClientIo::new(stream, waiting.app.limits.slowest()));
    let from = waiting.from;
    let lost = waiting.seat.lost.clone();
    let waiting = Arc::new(waiting);
    let answer = service_fn(move |request| {
        let waiting = waiting.clone();
        async move { Ok::<_, Infallible>(waiting.answer(request).await) }
    });
    tokio::select! {
        ended = builder.serve_connection(io, answer) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a waiting connection ended with an error");
            }
        }
        () = lost.notified() => tracing::debug!(%from, "a waiting connection made room for another"),
    }
}

impl Waiting {
    async fn answer(&self, request: http::Request<Incoming>) -> http::Response<Logged> {
        let (traffic, seen) = watch::channel(Traffic::new());
        // Before it has a place, so that it is not at once taken for one that may give way.
        traffic.send_modify(Traffic::begin);
        let app = self.app.clone();
        let asking = self.seat.ask();
        let mut response = if app.site.is_own(request.uri().path()) {
            app.answer_own(request).await
        } else {
            let place = match &asking {
                Some(_) => self.place(&seen).await,
                None => None,
            };
            drop(asking);
            match place {
                Some(place) => app.answer(request, Flight::begun(&traffic, place.clone()), place).await,
                None => app.turn_away(&request),
            }
        };
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// A place, as soon as there is one, if that is soon.
    async fn place(&self, seen: &watch::Receiver<Traffic>) -> Option<Place> {
        let deadline = Instant::now() + WAIT;
        loop {
            if let Some(place) = self.places.take(self.from, seen) {
                return Some(place);
            }
            timeout_at(deadline, self.places.freed()).await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_lost(seat: &Seat) -> bool {
        tokio::time::timeout(Duration::from_millis(1), seat.lost.notified()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_been_silent_longest_loses_its_seat_to_the_next() {
        let room = Arc::new(Room::default());
        let mut seats: Vec<_> = (0..=SEATS).map(|_| room.enter()).collect();
        assert!(is_lost(&seats[0]).await && !is_lost(&seats[1]).await);
        let asking: Vec<_> = seats[1..].iter().map(Seat::ask).collect();
        assert!(asking.iter().all(Option::is_some));
        let more: Vec<_> = (0..=SEATS).map(|_| room.enter()).collect();
        assert!(is_lost(&more[0]).await && !is_lost(&seats[1]).await, "who has asked keeps its seat");
        assert!(more[1].ask().is_none(), "too many wait for a place");
        drop(asking);
        assert!(more[2].ask().is_some());
        seats.clear();
        drop(more);
        let seats = room.0.lock();
        assert!(seats.silent.is_empty() && seats.asking == 0);
    }
}
