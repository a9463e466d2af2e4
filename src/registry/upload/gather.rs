//! Small pieces of a client's bytes, gathered into large ones.
//!
//! A slow client has [`SMALL`] bytes of memory and no more, however long it takes: it holds up nobody. One that fills
//! them quickly gets room for a whole piece, if there is some, for as long as it fills that quickly, too; else what came
//! goes on in small pieces.
//!
//! Owns the bytes that are not stored yet; a crash loses them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::places::{LARGE, PIECE, Places, SMALL};
use crate::Error;

/// How long the client may take to fill a small piece and get room for a whole one.
const SOON: Duration = Duration::from_millis(250);
/// How long it may take to fill a whole one.
const LATE: Duration = Duration::from_secs(2);

/// The bytes of one step that are not stored yet.
pub(super) struct Gather<'p> {
    places: &'p Places,
    bytes: BytesMut,
    /// Since when the client is waited for to fill this piece.
    since: Instant,
    _small: SemaphorePermit<'p>,
    large: Option<SemaphorePermit<'p>>,
}

impl<'p> Gather<'p> {
    /// Waits for the memory that every upload has.
    ///
    /// # Errors
    /// 503 if too many uploads take bytes.
    pub(super) async fn begin(places: &'p Places) -> Result<Gather<'p>, Error> {
        let small = places.small().await?;
        let since = Instant::now();
        Ok(Gather { places, bytes: BytesMut::with_capacity(SMALL), since, _small: small, large: None })
    }

    /// Adds what came. Answers what is to be stored before more comes, if it is enough.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Option<Bytes> {
        let fills = self.bytes.len() + bytes.len() >= self.capacity();
        if fills && self.large.is_none() && self.since.elapsed() < SOON {
            self.large = self.places.large();
            self.grow();
        }
        let is_full = self.bytes.len() + bytes.len() >= PIECE.min(self.capacity());
        self.bytes.extend_from_slice(bytes);
        if is_full { self.take() } else { None }
    }

    /// When the client has kept room for a whole piece for too long, if it has some.
    pub(super) fn late(&self) -> Option<Instant> {
        self.large.as_ref().map(|_| self.since + LATE)
    }

    /// The client is slow: gives back the room for a whole piece. Answers what there is, which is to be stored.
    pub(super) fn shrink(&mut self) -> Option<Bytes> {
        self.large = None;
        let there = std::mem::replace(&mut self.bytes, BytesMut::with_capacity(SMALL));
        self.goes_on();
        (!there.is_empty()).then(|| there.freeze())
    }

    /// What came is stored: the client is waited for once more.
    pub(super) fn goes_on(&mut self) {
        self.since = Instant::now();
    }

    /// What there is, if anything.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.bytes.is_empty() {
            return None;
        }
        let next = BytesMut::with_capacity(self.capacity());
        self.goes_on();
        Some(std::mem::replace(&mut self.bytes, next).freeze())
    }

    fn grow(&mut self) {
        let more = self.capacity().saturating_sub(self.bytes.capacity());
        if more > 0 {
            let mut larger = BytesMut::with_capacity(self.capacity());
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
    }

    fn capacity(&self) -> usize {
        if self.large.is_some() { LARGE } else { SMALL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(gather: &mut Gather<'_>, step: usize, steps: usize) -> Vec<usize> {
        let pieces = (0..steps).filter_map(|_| gather.add(&vec![7; step]));
        let mut lengths: Vec<_> = pieces.map(|piece| piece.len()).collect();
        lengths.extend(gather.take().map(|rest| rest.len()));
        lengths
    }

    #[tokio::test]
    async fn a_fast_client_gets_whole_pieces_and_a_slow_one_little_memory() {
        let places = Places::default();
        let mut fast = Gather::begin(&places).await.unwrap();
        let step = 16 * 1024;
        assert_eq!(gathered(&mut fast, step, 70), [PIECE, PIECE, 70 * step - 2 * PIECE]);
        let mut slow = Gather::begin(&places).await.unwrap();
        assert_eq!(gathered(&mut slow, 1, 100), [100]);
        assert!(slow.large.is_none() && slow.bytes.capacity() == SMALL);
    }

    #[tokio::test(start_paused = true)]
    async fn who_becomes_slow_gives_back_the_room_for_whole_pieces() {
        let places = Places::default();
        let mut gather = Gather::begin(&places).await.unwrap();
        assert_eq!(gather.late(), None);
        assert!(gather.add(&vec![7; SMALL]).is_none() && gather.large.is_some());
        let late = gather.late().unwrap();
        assert_eq!(late - Instant::now(), LATE);
        // What the disk takes is not the client's time.
        tokio::time::advance(LATE).await;
        gather.goes_on();
        assert!(gather.late().unwrap() > late);
        assert_eq!(gather.shrink().unwrap().len(), SMALL);
        assert!(gather.large.is_none() && gather.bytes.capacity() == SMALL && gather.late().is_none());
        // A byte now and then does not get it back.
        for _ in 0..2 * SMALL {
            tokio::time::advance(Duration::from_millis(1)).await;
            let _ = gather.add(&[7]);
            assert!(gather.large.is_none());
        }
        gather.take();
        assert!(gather.add(&vec![7; SMALL]).is_none() && gather.large.is_some(), "a fast one does");
    }

    #[tokio::test]
    async fn without_room_for_whole_pieces_small_ones_go_on() {
        let places = Places::default();
        let mut all = Vec::new();
        while let Some(large) = places.large() {
            all.push(large);
        }
        let mut gather = Gather::begin(&places).await.unwrap();
        let step = 16 * 1024;
        assert_eq!(gathered(&mut gather, step, 9), [SMALL, SMALL, step]);
        assert_eq!(gathered(&mut gather, 3 * SMALL, 1), [3 * SMALL], "what came at once goes at once");
        drop(all);
        assert_eq!(gathered(&mut gather, step, 32), [PIECE]);
    }
}
