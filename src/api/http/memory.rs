//! The memory that bodies take where they are held whole, over all connections of a listener.
//!
//! Three lanes: who announces a small body, as nearly every manifest is, does not wait behind large ones, and neither
//! waits behind answers. Each is shared by the networks that clients are in, so that one of them cannot have it all. A
//! lane that is full makes its callers wait, for a moment; then they are refused. Nothing is taken for a body that is
//! streamed. In memory.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawhub_types::Network;
use tokio::time::timeout;

use crate::lane::{Lane, Part};

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

/// The memory for whole bodies, as a client may use it. Cheap to clone. The default is a whole one, for clients that
/// come from nowhere in particular.
#[derive(Clone, Debug)]
pub struct BodyMemory {
    lanes: Arc<Lanes>,
    from: Network,
}

#[derive(Debug)]
struct Lanes {
    small: Arc<Lane>,
    large: Arc<Lane>,
    answers: Arc<Lane>,
}

impl Default for BodyMemory {
    fn default() -> BodyMemory {
        let lanes = Lanes {
            small: Lane::new(SMALL_BYTES),
            large: Lane::new(LARGE_BYTES),
            answers: Lane::new(ANSWER_BYTES),
        };
        BodyMemory { lanes: Arc::new(lanes), from: IpAddr::from(Ipv4Addr::UNSPECIFIED).into() }
    }
}

/// A part of the memory, until it is dropped.
#[derive(Debug)]
pub struct Share(Part);

impl BodyMemory {
    /// The same memory, for a client in a network.
    pub(crate) fn of(&self, from: Network) -> BodyMemory {
        BodyMemory { lanes: self.lanes.clone(), from }
    }

    /// The memory for a request's body of at most `most` bytes, of `announced` bytes if that is known. All of it at
    /// once: bodies that each had a part and waited for more would wait for each other. `None` if there is none for
    /// too long.
    pub(crate) async fn body(&self, announced: Option<u64>, most: usize) -> Option<Share> {
        let bytes = announced.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(most);
        let is_small = announced.is_some() && bytes <= SMALL;
        let lane = if is_small { &self.lanes.small } else { &self.lanes.large };
        self.take(lane, bytes.min(LARGE_BYTES)).await
    }

    /// The memory for an answer that takes up to `bytes` while it is made. `None` if there is none for too long.
    pub async fn answer(&self, bytes: usize) -> Option<Share> {
        self.take(&self.lanes.answers, bytes.min(ANSWER_BYTES)).await
    }

    async fn take(&self, lane: &Arc<Lane>, bytes: usize) -> Option<Share> {
        timeout(WAIT, lane.take(self.from, bytes.max(LEAST))).await.ok()?.map(Share)
    }
}

impl Share {
    /// Binds the share to the bytes that it was taken for: it is given back with the last of them, and what they do
    /// not take of it at once.
    pub fn hold(mut self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        self.0.keep(bytes.as_ref().len().max(LEAST));
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

    async fn all(memory: &BodyMemory, n: u8, announced: Option<u64>) -> Vec<Share> {
        let memory = memory.of(IpAddr::from([10, 0, 0, n]).into());
        let mut shares = Vec::new();
        while let Some(share) = memory.body(announced, MOST).await {
            shares.push(share);
        }
        shares
    }

    const MOST: usize = 4 << 20;

    #[tokio::test(start_paused = true)]
    async fn large_bodies_do_not_hold_up_small_ones() {
        let memory = BodyMemory::default();
        let mut large = Vec::new();
        for n in 0..10 {
            large.extend(all(&memory, n, None).await);
        }
        assert_eq!(large.len(), LARGE_BYTES / MOST);
        assert!(memory.body(Some(SMALL as u64 + 1), MOST).await.is_none());
        let mut small = Vec::new();
        for n in 0..10 {
            small.extend(all(&memory, n, Some(SMALL as u64)).await);
        }
        assert_eq!(small.len(), SMALL_BYTES / SMALL);
        large.pop();
        assert!(memory.body(Some(MOST as u64), MOST).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_network_leaves_memory_to_others() {
        let memory = BodyMemory::default();
        for announced in [None, Some(SMALL as u64)] {
            let greedy = all(&memory, 1, announced).await;
            assert!(greedy.len() > 20, "alone it has most: {}", greedy.len());
            let other = memory.of(IpAddr::from([10, 0, 0, 2]).into());
            assert!(other.body(announced, MOST).await.is_some());
        }
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
