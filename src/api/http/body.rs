//! Request bodies: a limit on being slow, and two ways to read them.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use clawhub_registry::{BodyError, BodyStream};
use futures::StreamExt;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use crate::memory::BodyMemory;
use crate::pace::{Pace, Slowest};

/// So much of an unread body is read to keep its connection.
const DRAIN_BYTES: usize = 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How long a body that is held whole may take, beside the time that its bytes have.
const WHOLE: Duration = Duration::from_secs(30);
/// The bytes of such a body that have a second.
const WHOLE_RATE: u64 = 64 * 1024;

/// A client's body that fails once its client is too slow. There is no limit on the whole: a large layer over a
/// thin line takes as long as it takes.
pub(crate) struct ClientBody {
    /// There until the body is dropped.
    inner: Option<Incoming>,
    rest: Rest,
    pace: Pace,
}

impl ClientBody {
    pub(crate) fn new(inner: Incoming, slowest: Slowest, rest: Rest) -> ClientBody {
        ClientBody { inner: Some(inner), rest, pace: Pace::new(slowest) }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take().filter(|inner| !inner.is_end_stream()) {
            *self.rest.0.lock() = Some(inner);
        }
    }
}

/// What a handler left unread of a body. A connection with unread bytes must be closed, and a client
/// that is not told will send its next request into the closing.
#[derive(Clone, Default)]
pub(crate) struct Rest(Arc<Mutex<Option<Incoming>>>);

impl Rest {
    /// Reads the rest, up to a limit in bytes and time. Answers whether the body ended within them.
    pub(crate) async fn drained(&self) -> bool {
        let Some(mut rest) = self.0.lock().take() else { return true };
        let drain = async {
            let mut left = DRAIN_BYTES;
            while let Some(Ok(frame)) = rest.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if length > left {
                    return false;
                }
                left -= length;
            }
            rest.is_end_stream()
        };
        timeout(DRAIN_TIME, drain).await.unwrap_or(false)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_none()
    }
}

impl HttpBody for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                this.pace.moved(data.map_or(0, Bytes::len));
                let broken = |error: hyper::Error| BodyError::Broken(error.to_string());
                Poll::Ready(frame.map(|frame| frame.map_err(broken)))
            }
            Poll::Pending => {
                ready!(this.pace.poll_too_slow(cx, || 0));
                Poll::Ready(Some(Err(BodyError::Idle)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

/// The body as the registry takes it. Trailers are dropped.
pub fn body_stream(body: Body) -> BodyStream {
    Box::pin(body.into_data_stream().map(|chunk| chunk.map_err(body_error)))
}

/// Why [`read_whole`] gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRead {
    /// The body is longer than the limit.
    TooLarge,
    /// Other bodies take the memory that there is for them.
    NoMemory,
}

/// Reads a body of at most `limit` bytes into memory, which is given back with the last of the bytes. A body that
/// announces more is refused before its first byte, as is one that there is no memory for, so that a client waiting
/// for `100 Continue` need not send it.
///
/// All of the memory is taken from the first byte on, so that its client may be slow only for a while: it has half a
/// minute, and a second more for each 64 KiB that have come.
///
/// # Errors
/// The outer error if the body broke off or takes too long, the inner one if it is not taken.
pub async fn read_whole(
    mut body: Body,
    limit: usize,
    memory: &BodyMemory,
) -> Result<Result<Bytes, NotRead>, BodyError> {
    let announced = body.size_hint();
    if announced.lower() > limit as u64 {
        return Ok(Err(NotRead::TooLarge));
    }
    let Some(share) = memory.body(announced.exact(), limit).await else { return Ok(Err(NotRead::NoMemory)) };
    let mut bytes = BytesMut::with_capacity(announced.exact().unwrap_or(0) as usize);
    let began = Instant::now();
    loop {
        let more = Duration::from_millis(bytes.len() as u64 * 1000 / WHOLE_RATE);
        let next = timeout_at(began + WHOLE + more, body.frame()).await;
        let Some(frame) = next.map_err(|_| BodyError::Idle)? else { break };
        let Ok(data) = frame.map_err(body_error)?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Ok(Err(NotRead::TooLarge));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Ok(share.hold(bytes)))
}

/// Digs the reason out of whatever layers have wrapped it on the way.
fn body_error(error: axum::Error) -> BodyError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(reason) = inner.downcast_ref::<BodyError>() {
            return reason.clone();
        }
        cause = inner.source();
    }
    BodyError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn chunked(sizes: &[usize]) -> Body {
        let chunks: Vec<Result<Bytes, BodyError>> =
            sizes.iter().map(|n| Ok(Bytes::from(vec![b'x'; *n]))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_the_limit_and_not_beyond() {
        for (sizes, limit, length) in [
            (vec![], 0, Some(0)),
            (vec![4], 4, Some(4)),
            (vec![2, 2], 4, Some(4)),
            (vec![2, 3], 4, None),
            (vec![5], 4, None),
        ] {
            let got = read_whole(chunked(&sizes), limit, &BodyMemory::default()).await.unwrap();
            assert_eq!(got.ok().map(|b| b.len()), length, "{sizes:?} of {limit}");
        }
        let memory = BodyMemory::default();
        assert_eq!(read_whole(Body::from("12345"), 4, &memory).await, Ok(Err(NotRead::TooLarge)));
    }

    /// A body that sends a piece in each `pause`.
    fn slow(piece: usize, pieces: usize, pause: Duration) -> Body {
        let pieces = stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, BodyError>(Bytes::from(vec![b'x'; piece]))
        });
        Body::from_stream(pieces)
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_body_may_take_only_so_long() {
        const LIMIT: usize = 4 << 20;
        let second = Duration::from_secs(1);
        for (what, body, length) in [
            ("one that a streamed body may be as slow as", slow(1024, 64, second), None),
            ("a thin line", slow(48 << 10, 80, second), Some(80 * (48 << 10))),
            ("one that begins late", slow(1024, 1, 29 * second), Some(1024)),
        ] {
            let memory = BodyMemory::default();
            let got = timeout(100 * second, read_whole(body, LIMIT, &memory)).await.expect(what);
            match length {
                Some(length) => assert_eq!(got.unwrap().unwrap().len(), length, "{what}"),
                None => assert_eq!(got, Err(BodyError::Idle), "{what}"),
            }
        }
    }

    #[tokio::test]
    async fn the_reason_of_a_broken_body_survives_the_layers() {
        let broken = || Body::from_stream(stream::iter([Ok(Bytes::from("a")), Err(BodyError::Idle)]));
        assert_eq!(read_whole(broken(), 9, &BodyMemory::default()).await, Err(BodyError::Idle));
        let chunks: Vec<_> = body_stream(broken()).collect().await;
        assert_eq!(chunks, [Ok(Bytes::from("a")), Err(BodyError::Idle)]);
    }
}
