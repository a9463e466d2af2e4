//! The memory that bodies take where they are held whole, over all connections of a listener.
//!
//! Three lanes: who announces a small body, as nearly every manifest is, does not wait behind large ones, and neither
//! waits behind answers. A lane that is full makes its callers wait in order, for a moment; then they are refused.
//! Nothing is taken for a body that is streamed. In memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Announced bodies of up to so many bytes are small.
const SMALL: usize = 64 << 10;
/// Bytes of small request bodies.
const SMALL_BYTES: usize = 32 << 20;
/// Bytes of all others.
const LARGE_BYTES: usize = 128 << 20;
/// Bytes of answers, and of what they are made of.
const ANSWER_BYTES: usize = 64 << 20;
/// What a body counts for at least.
const LEAST: usize = 4 << 10;
/// How long a body waits for its memory.
const WAIT: Duration = Duration::from_secs(5);

/// Bytes of all lanes.
pub const BODY_MEMORY: u64 = (SMALL_BYTES + LARGE_BYTES + ANSWER_BYTES) as u64;

/// The memory for whole bodies. Cheap to clone. The default is a whole one of its own.
#[derive(Clone, Debug)]
pub struct BodyMemory {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Default for BodyMemory {
    fn default() -> BodyMemory {
        let lane = |bytes| Arc::new(Semaphore::new(bytes));
        BodyMemory { small: lane(SMALL_BYTES), large: lane(LARGE_BYTES), answers: lane(ANSWER_BYTES) }
    }
}

/// A part of the memory, until it is dropped.
#[derive(Debug)]
pub struct Share(OwnedSemaphorePermit);

impl BodyMemory {
    /// The memory for a request's body of at most `most` bytes, of `announced` bytes if that is known. All of it at
    /// once: bodies that each had a part and waited for more would wait for each other. `None` if there is none for
    /// too long.
    pub(crate) async fn body(&self, announced: Option<u64>, most: usize) -> Option<Share> {
        let bytes = announced.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(most);
        let lane = if announced.is_some() && bytes <= SMALL { &self.small } else { &self.large };
        take(lane, bytes.min(LARGE_BYTES)).await
    }

    /// The memory for an answer that takes up to `bytes` while it is made. `None` if there is none for too long.
    pub async fn answer(&self, bytes: usize) -> Option<Share> {
        take(&self.answers, bytes.min(ANSWER_BYTES)).await
    }
}

async fn take(lane: &Arc<Semaphore>, bytes: usize) -> Option<Share> {
    let bytes = u32::try_from(bytes.max(LEAST)).ok()?;
    timeout(WAIT, lane.clone().acquire_many_owned(bytes)).await.ok()?.ok().map(Share)
}

impl Share {
    /// Binds the share to the bytes that it was taken for: it is given back with the last of them, and what they do
    /// not take of it at once.
    pub fn hold(mut self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        let more = self.0.num_permits().saturating_sub(bytes.as_ref().len().max(LEAST));
        drop(self.0.split(more));
        Bytes::from_owner(Held { bytes, _share: self })
    }
}

struct Held<B> {
    bytes: B,
    _share: Share,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Held<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_bodies_do_not_hold_up_small_ones() {
        let memory = BodyMemory::default();
        let most = 4 << 20;
        let mut large = Vec::new();
        while let Some(share) = memory.body(None, most).await {
            large.push(share);
        }
        assert_eq!(large.len(), LARGE_BYTES / most);
        assert!(memory.body(Some(SMALL as u64 + 1), most).await.is_none());
        let mut small = Vec::new();
        while let Some(share) = memory.body(Some(SMALL as u64), most).await {
            small.push(share);
        }
        assert_eq!(small.len(), SMALL_BYTES / SMALL);
        large.pop();
        assert!(memory.body(Some(most as u64), most).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_lives_as_long_as_its_bytes() {
        let memory = BodyMemory::default();
        let share = memory.answer(ANSWER_BYTES).await.unwrap();
        assert!(memory.answer(1).await.is_none());
        let bytes = share.hold(vec![7; LEAST + 1]);
        assert!(memory.answer(ANSWER_BYTES - LEAST - 1).await.is_some());
        assert!(memory.answer(ANSWER_BYTES - LEAST).await.is_none());
        let slice = bytes.slice(5..6);
        drop(bytes);
        assert!(memory.answer(ANSWER_BYTES).await.is_none());
        drop(slice);
        assert!(memory.answer(ANSWER_BYTES).await.is_some());
    }
}
