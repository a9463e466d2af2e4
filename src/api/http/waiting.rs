//! Connections that found no place: all others are at work.
//!
//! Each may ask one thing. The node's own pages are answered at once, so that whoever watches over the node does not
//! take it for dead because it is busy; everything else waits a moment for a place and is then told to come back. A
//! waiting connection takes little memory. Where too many have not said yet what they want, the one that came first gives way: a probe
//! says it at once. Who is answered without a place has little time to take the answer, and where too many are, the one that
//! was answered first gives way.
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
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::flight::Flight;
use crate::io::ClientIo;
use crate::log::Logged;
use crate::places::Places;
use crate::traffic::Traffic;

/// Connections that may wait without having asked for anything, and requests that may wait for a place.
const SEATS: usize = 256;
/// Bytes of a head that waits, and of its answer.
const BUFFER: usize = 16 * 1024;
/// How long a head may take to come.
const HEAD: Duration = Duration::from_secs(2);
/// How long a request waits for a place.
const WAIT: Duration = Duration::from_secs(10);
/// Connections that may be answered without a place at the same time: with a page of the node's own, or a refusal.
const ANSWERED: usize = 64;
/// The largest of those pages, about.
const PAGE: usize = 128 * 1024;
/// How long a client may take over such an answer.
const TAKE: Duration = Duration::from_secs(5);

/// What waiting connections take in memory.
pub const WAITING_MEMORY: u64 = (2 * SEATS * 2 * BUFFER + ANSWERED * (2 * BUFFER + PAGE)) as u64;

/// The connections that wait.
#[derive(Default)]
pub(crate) struct Room(Mutex<Seats>);

#[derive(Default)]
struct Seats {
    next: u64,
    /// Those that have not asked yet, by when they came.
    silent: BTreeMap<u64, Arc<Notify>>,
    asking: usize,
    /// Those that are answered without a place, by when they asked.
    answered: BTreeMap<u64, Arc<Notify>>,
}

impl Seats {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// The right to wait.
pub(crate) struct Seat {
    room: Arc<Room>,
    number: u64,
    lost: Arc<Notify>,
    /// It has been answered without a place.
    answered: Notify,
}

/// The right of a request to wait, which is not lost to others.
struct Asking<'a>(&'a Room);

impl Room {
    /// Lets one more in; the one that has been silent longest may lose its seat.
    pub(crate) fn enter(self: &Arc<Self>) -> Seat {
        let mut seats = self.0.lock();
        make_room(&mut seats.silent, SEATS);
        let number = seats.number();
        let lost = Arc::new(Notify::new());
        seats.silent.insert(number, lost.clone());
        Seat { room: self.clone(), number, lost, answered: Notify::new() }
    }
}

/// Where there are as many as may be, the first of them gives way.
fn make_room(connections: &mut BTreeMap<u64, Arc<Notify>>, most: usize) {
    if connections.len() >= most
        && let Some((_, lost)) = connections.pop_first()
    {
        lost.notify_one();
    }
}

impl Seat {
    /// The connection has asked for something that needs a place: it is silent no more, and may wait, unless too many
    /// do.
    fn ask(&self) -> Option<Asking<'_>> {
        let mut seats = self.room.0.lock();
        seats.silent.remove(&self.number);
        if seats.asking >= SEATS {
            return None;
        }
        seats.asking += 1;
        Some(Asking(&self.room))
    }

    /// The connection is silent no more. It is answered without a place, as long as nobody who comes later needs the
    /// room.
    fn answer(&self) {
        let mut seats = self.room.0.lock();
        seats.silent.remove(&self.number);
        make_room(&mut seats.answered, ANSWERED);
        let number = seats.number();
        seats.answered.insert(number, self.lost.clone());
    }

    /// Completes when the connection is to end: another needs its room, or its client takes too long over the answer.
    async fn lost(&self) {
        let late = async {
            self.answered.notified().await;
            sleep(TAKE).await;
        };
        tokio::select! {
            () = self.lost.notified() => {}
            () = late => {}
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.room.0.lock();
        seats.silent.remove(&self.number);
        seats.answered.retain(|_, lost| !Arc::ptr_eq(lost, &self.lost));
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
    let io = ClientIo::new(stream, waiting.app.limits.slowest());
    let cut = io.cut();
    let from = waiting.from;
    let waiting = Arc::new(waiting);
    let attended = waiting.clone();
    let answer = service_fn(move |request| {
        let waiting = waiting.clone();
        async move { Ok::<_, Infallible>(waiting.answer(request).await) }
    });
    let lost = async {
        attended.seat.lost().await;
        // Before the connection is dropped, which is before the branch below runs.
        cut.when_dropped();
    };
    tokio::select! {
        ended = builder.serve_connection(TokioIo::new(io), answer) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a waiting connection ended with an error");
            }
        }
        () = lost => tracing::debug!(%from, "a waiting connection made room for others"),
    }
}

impl Waiting {
    async fn answer(&self, request: http::Request<Incoming>) -> http::Response<Logged> {
        let app = self.app.clone();
        let mut response = if app.site.is_own(request.uri().path()) {
            self.seat.answer();
            let response = app.answer_own(request).await;
            self.seat.answered.notify_one();
            response
        } else {
            self.answer_with_a_place(request).await
        };
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    async fn answer_with_a_place(&self, request: http::Request<Incoming>) -> http::Response<Logged> {
        let (traffic, seen) = watch::channel(Traffic::new());
        // Before it has a place, so that it is not at once taken for one that may give way.
        traffic.send_modify(Traffic::begin);
        let app = self.app.clone();
        let asking = self.seat.ask();
        let place = match &asking {
            Some(_) => timeout(WAIT, self.places.queue(self.from).place(&seen)).await.ok(),
            None => None,
        };
        if let Some(place) = place {
            drop(asking);
            return app.answer(request, Flight::begun(&traffic, place.clone()), place).await;
        }
        self.seat.answer();
        self.seat.answered.notify_one();
        app.turn_away(&request)
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

    #[tokio::test(start_paused = true)]
    async fn who_was_answered_first_makes_room_for_the_next() {
        let room = Arc::new(Room::default());
        let seats: Vec<_> = (0..=ANSWERED).map(|_| room.enter()).collect();
        for seat in &seats {
            seat.answer();
        }
        assert!(is_lost(&seats[0]).await && !is_lost(&seats[1]).await);
        drop(seats);
        assert!(room.0.lock().answered.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_to_be_taken_soon() {
        let room = Arc::new(Room::default());
        let seat = room.enter();
        seat.answer();
        assert!(timeout(10 * TAKE, seat.lost()).await.is_err(), "it is not made yet");
        seat.answered.notify_one();
        assert!(timeout(TAKE - Duration::from_millis(1), seat.lost()).await.is_err());
        seat.answered.notify_one();
        assert!(timeout(2 * TAKE, seat.lost()).await.is_ok());
    }
}
