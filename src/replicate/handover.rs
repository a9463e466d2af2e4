//! Pieces on their way from whoever fetches them to one reader.
//!
//! A fast reader finds its next pieces here, in memory that all readers share. What a reader leaves lying goes again,
//! and is fetched once more when the reader asks for it: so memory is held while a fetch goes on and for a moment
//! more, however slow a reader is. A piece that the reader has taken counts with the reader's connection.
//!
//! In memory; nothing outlives the process.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::ReplicateError;

/// A reader that takes nothing for so long does without what waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Both ends of one hand-over.
pub(crate) fn handover() -> (Fetcher, Reader) {
    let shared = Arc::new(Shared::default());
    (Fetcher(shared.clone()), Reader(shared))
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// For the fetcher: the reader took something, asks for something, or left.
    changed: Notify,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// When the first of them became the next.
    since: Option<Instant>,
    /// The reader waits, and there is nothing for it.
    asked: Option<Waker>,
    left: bool,
    ended: bool,
    error: Option<ReplicateError>,
}

struct Piece {
    at: u64,
    bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

/// The end of whoever fetches. The reader's bytes end when it is dropped.
pub(crate) struct Fetcher(Arc<Shared>);

/// The reader's end.
pub(crate) struct Reader(Arc<Shared>);

/// What a fetcher has waited for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// The reader can do with more.
    Free,
    /// The reader takes nothing. What waited for it is gone, from this byte on.
    TakenBack(u64),
    /// There is no reader any more.
    Left,
}

impl Fetcher {
    /// Waits until at most so many pieces wait for the reader, or until it has left them lying for too long.
    pub(crate) async fn room(&self, most: usize) -> Room {
        loop {
            let until = {
                let mut state = self.0.state.lock();
                if state.left {
                    return Room::Left;
                }
                let (Some(first), Some(since)) = (state.pieces.front(), state.since) else {
                    return Room::Free;
                };
                if state.pieces.len() <= most {
                    return Room::Free;
                }
                if since.elapsed() >= PATIENCE {
                    let at = first.at;
                    state.pieces.clear();
                    return Room::TakenBack(at);
                }
                since + PATIENCE
            };
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Waits until the reader asks for what is not there; `false` if it left.
    pub(crate) async fn asked(&self) -> bool {
        loop {
            {
                let state = self.0.state.lock();
                if state.left || state.asked.is_some() {
                    return !state.left;
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// Waits until the reader leaves.
    pub(crate) async fn left(&self) {
        while !self.0.state.lock().left {
            self.0.changed.notified().await;
        }
    }

    /// Hands over the piece that begins at `at`, whose memory is free once the reader has taken it.
    pub(crate) fn put(&self, at: u64, bytes: Bytes, memory: OwnedSemaphorePermit) {
        let mut state = self.0.state.lock();
        if state.left {
            return;
        }
        if state.pieces.is_empty() {
            state.since = Some(Instant::now());
        }
        state.pieces.push_back(Piece { at, bytes, _memory: memory });
        let asked = state.asked.take();
        drop(state);
        if let Some(reader) = asked {
            reader.wake();
        }
    }

    /// What the reader is told after the last piece.
    pub(crate) fn fail(&self, error: ReplicateError) {
        self.0.state.lock().error = Some(error);
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.ended = true;
        let asked = state.asked.take();
        drop(state);
        if let Some(reader) = asked {
            reader.wake();
        }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, ReplicateError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state.lock();
        let next = if let Some(piece) = state.pieces.pop_front() {
            state.since = Some(Instant::now());
            Poll::Ready(Some(Ok(piece.bytes)))
        } else if state.ended {
            Poll::Ready(state.error.take().map(Err))
        } else {
            state.asked = Some(cx.waker().clone());
            Poll::Pending
        };
        drop(state);
        self.0.changed.notify_one();
        next
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.left = true;
        state.asked = None;
        let unwanted = std::mem::take(&mut state.pieces);
        drop(state);
        drop(unwanted);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::sync::Semaphore;
    use tokio::time::{advance, timeout};

    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    fn put(fetcher: &Fetcher, memory: &Arc<Semaphore>, at: u64) {
        let memory = memory.clone().try_acquire_owned().unwrap();
        fetcher.put(at, Bytes::from(vec![at as u8]), memory);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_lying_goes_and_what_is_taken_is_free() {
        let memory = Arc::new(Semaphore::new(3));
        let (fetcher, mut reader) = handover();
        for at in 0..3 {
            put(&fetcher, &memory, at);
        }
        for at in 0..2 {
            advance(PATIENCE - MOMENT).await;
            assert_eq!(reader.next().await.unwrap().unwrap()[0], at);
            assert_eq!(memory.available_permits(), usize::from(at) + 1);
        }
        let room = timeout(2 * PATIENCE, fetcher.room(0)).await.unwrap();
        assert_eq!((room, memory.available_permits()), (Room::TakenBack(2), 3));
        assert!(timeout(PATIENCE, fetcher.asked()).await.is_err(), "the reader does something else");
        assert!(timeout(MOMENT, reader.next()).await.is_err());
        assert!(fetcher.asked().await);
        put(&fetcher, &memory, 2);
        assert_eq!(reader.next().await.unwrap().unwrap()[0], 2);
    }

    #[tokio::test(start_paused = true)]
    async fn both_ends_hear_of_the_others_end() {
        let memory = Arc::new(Semaphore::new(1));
        let (fetcher, reader) = handover();
        put(&fetcher, &memory, 0);
        drop(reader);
        assert_eq!(memory.available_permits(), 1);
        fetcher.left().await;
        assert_eq!(fetcher.room(0).await, Room::Left);
        put(&fetcher, &memory, 1);
        assert!(!fetcher.asked().await && memory.available_permits() == 1);

        let (fetcher, mut reader) = handover();
        put(&fetcher, &memory, 0);
        fetcher.fail(ReplicateError::Exhausted("why".to_owned()));
        drop(fetcher);
        assert!(reader.next().await.unwrap().is_ok());
        assert!(reader.next().await.unwrap().is_err());
        assert!(reader.next().await.is_none());
    }
}
