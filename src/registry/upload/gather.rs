//! Small pieces of a client's bytes, gathered into large ones.
//!
//! A slow client has [`SMALL`] bytes of memory and no more, however long it takes: it holds up nobody. One that fills
//! them gets room for a whole piece, if there is some; else what came goes on in small pieces.
//!
//! Owns the bytes that are not stored yet; a crash loses them.

use bytes::{Bytes, BytesMut};
use tokio::sync::SemaphorePermit;

use super::places::{LARGE, PIECE, Places, SMALL};
use crate::Error;

/// The bytes of one step that are not stored yet.
pub(super) struct Gather<'p> {
    places: &'p Places,
    bytes: BytesMut,
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
        Ok(Gather { places, bytes: BytesMut::with_capacity(SMALL), _small: small, large: None })
    }

    /// Adds what came. Answers what is to be stored before more comes, if it is enough.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Option<Bytes> {
        if self.bytes.len() + bytes.len() >= self.capacity() && self.large.is_none() {
            self.large = self.places.large();
            self.grow();
        }
        let is_full = self.bytes.len() + bytes.len() >= PIECE.min(self.capacity());
        self.bytes.extend_from_slice(bytes);
        if is_full { self.take() } else { None }
    }

    /// What there is, if anything.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.bytes.is_empty() {
            return None;
        }
        let next = BytesMut::with_capacity(self.capacity());
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
