//! Request ids and the access log: one line per request, written when its answer has left or the
//! client has.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::PollSemaphore;

use crate::flight::Flight;
use crate::traffic::Meter;

/// What the log shows when the client left before there was an answer.
const CLIENT_LEFT: u16 = 499;
/// Bytes of a path that the log shows: every name that exists is shorter.
const SHOWN: usize = 1024;

/// Names one request in answers (`X-Request-Id`) and in the log. Unique per process, and unlikely to
/// repeat across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    pub(crate) fn next() -> RequestId {
        static BOOT: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0) << 32);
        static COUNT: AtomicU64 = AtomicU64::new(1);
        // Only the count may carry over into the boot part, after four billion requests.
        RequestId(BOOT.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Put into the extensions of a 206 by whoever made it; the log shows which kind it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// One range.
    Single,
    /// `multipart/byteranges`.
    Multipart,
}

impl Partial {
    fn as_str(self) -> &'static str {
        match self {
            Partial::Single => "single",
            Partial::Multipart => "multipart",
        }
    }
}

/// One request on its way to the log. Writes the line when dropped, whatever became of the request.
pub(crate) struct Record {
    method: Method,
    path: String,
    id: RequestId,
    started: Instant,
    status: u16,
    partial: Option<Partial>,
    bytes: u64,
    /// How many there are, if the answer says so.
    length: Option<u64>,
    complete: bool,
}

impl Record {
    pub(crate) fn new<B>(request: &Request<B>, id: RequestId) -> Record {
        Record {
            method: request.method().clone(),
            path: shown(request.uri().path()),
            id,
            started: Instant::now(),
            status: CLIENT_LEFT,
            partial: None,
            bytes: 0,
            length: None,
            complete: false,
        }
    }

    fn answered<B>(&mut self, response: &Response<B>) {
        self.status = response.status().as_u16();
        let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        self.length = length.and_then(|length| length.parse().ok());
        self.partial = match response.status() {
            StatusCode::PARTIAL_CONTENT => response.extensions().get().copied(),
            _ => None,
        };
    }
}

/// A path as it is logged. A request target is ASCII, so that it can be cut anywhere.
fn shown(path: &str) -> String {
    match path.get(..SHOWN) {
        Some(start) if path.len() > SHOWN => format!("{start}…"),
        _ => path.to_owned(),
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        tracing::info!(
            target: "clawhub::access",
            method = %self.method,
            path = %self.path,
            status = self.status,
            bytes = self.bytes,
            ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            request_id = %self.id,
            partial = self.partial.map(Partial::as_str),
            complete = self.complete,
            "request"
        );
    }
}

/// What an answer's pieces take of the memory of all answers over HTTP/2. hyper takes the next piece of one as soon as
/// the client has room for some of it, and keeps the rest.
struct Pieces {
    all: PollSemaphore,
    held: Option<OwnedSemaphorePermit>,
    meter: Arc<Meter>,
    offered: bool,
}

/// Pieces below this are not worth a permit.
const SMALL: usize = 16 * 1024;

impl Pieces {
    fn new(all: Arc<Semaphore>, meter: Arc<Meter>) -> Pieces {
        Pieces { all: PollSemaphore::new(all), held: None, meter, offered: false }
    }

    /// The last piece is gone; ready when there is room for the next.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.taken();
        if self.held.is_none() {
            self.held = ready!(self.all.poll_acquire(cx));
        }
        Poll::Ready(())
    }

    fn offer(&mut self, bytes: Bytes) -> Bytes {
        self.meter.offer(bytes.len());
        self.offered = true;
        match self.held.take() {
            Some(room) if bytes.len() >= SMALL => Bytes::from_owner(Piece { bytes, _room: room }),
            _ => bytes,
        }
    }

    fn taken(&mut self) {
        if std::mem::take(&mut self.offered) {
            self.meter.taken();
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.taken();
    }
}

struct Piece {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer's body that counts what it hands to the connection, and keeps the request in flight until
/// it ends.
pub(crate) struct Logged {
    inner: Body,
    record: Record,
    /// Over HTTP/2 only.
    pieces: Option<Pieces>,
    /// None of a connection that has no place.
    _flight: Option<Flight>,
}

impl Logged {
    /// `pieces` is the memory for those of all answers over HTTP/2, if this is one.
    pub(crate) fn response(
        response: Response<Body>,
        mut record: Record,
        flight: Option<Flight>,
        pieces: Option<Arc<Semaphore>>,
    ) -> Response<Logged> {
        record.answered(&response);
        let meter = flight.as_ref().map(|flight| flight.meter.clone()).unwrap_or_default();
        let pieces = pieces.map(|all| Pieces::new(all, meter));
        response.map(|inner| {
            // hyper does not poll a body that says it has ended, nor one that answers HEAD.
            record.complete = inner.is_end_stream() || record.method == Method::HEAD;
            Logged { inner, record, pieces, _flight: flight }
        })
    }
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Some(pieces) = &mut this.pieces {
            ready!(pieces.poll_room(cx));
        }
        let frame = match (Pin::new(&mut this.inner).poll_frame(cx), &mut this.pieces) {
            // Another answer may have the room while this one waits for its source.
            (Poll::Pending, Some(pieces)) => {
                pieces.held = None;
                return Poll::Pending;
            }
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Ready(frame), None) => frame,
            (Poll::Ready(frame), Some(pieces)) => {
                frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| pieces.offer(bytes))))
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                self.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // hyper does not ask for more than the answer has said there is.
                self.record.complete =
                    self.inner.is_end_stream() || self.record.length == Some(self.record.bytes);
            }
            Some(Err(error)) => tracing::warn!(
                request_id = %self.record.id,
                path = %self.record.path,
                %error,
                "an answer broke off"
            ),
            None => self.record.complete = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ_and_have_one_length() {
        let (a, b) = (RequestId::next(), RequestId::next());
        assert_ne!(a, b);
        assert_eq!(a.to_string().len(), 16);
    }

    #[test]
    fn a_long_path_is_cut_for_the_log() {
        let path = "/".repeat(SHOWN);
        assert_eq!(shown(&path), path);
        assert_eq!(shown(&"/".repeat(60_000)).len(), SHOWN + "…".len());
    }
}
