//! A bitmap that many threads set and test, one bit per group.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Bits {
    words: Vec<AtomicU64>,
    len: u64,
}

impl Bits {
    pub(crate) fn new(len: u64) -> Bits {
        Bits { words: (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), len }
    }

    /// From [`Bits::to_bytes`]; `None` if the length differs or bits beyond the end are set.
    pub(crate) fn from_bytes(len: u64, bytes: &[u8]) -> Option<Bits> {
        let bits = Bits::new(len);
        if bytes.len() != bits.words.len() * 8 {
            return None;
        }
        for (word, bytes) in bits.words.iter().zip(bytes.chunks_exact(8)) {
            word.store(u64::from_le_bytes(bytes.try_into().ok()?), Ordering::Relaxed);
        }
        let beyond = bits.words.last().map_or(0, |last| match len % 64 {
            0 => 0,
            used => last.load(Ordering::Relaxed) >> used,
        });
        (beyond == 0).then_some(bits)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect()
    }

    /// Overwrites all bits with those of `other`, which has the same length.
    pub(crate) fn copy_from(&self, other: &Bits) {
        for (word, other) in self.words.iter().zip(&other.words) {
            word.store(other.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// Sets a bit; whoever then sees it set also sees what was written before.
    pub(crate) fn set(&self, index: u64) {
        if let Some(word) = self.words.get((index / 64) as usize) {
            word.fetch_or(1 << (index % 64), Ordering::AcqRel);
        }
    }

    pub(crate) fn clear(&self, index: u64) {
        if let Some(word) = self.words.get((index / 64) as usize) {
            word.fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
        }
    }

    /// The first index at or after `from` whose bit is `value`; `None` up to the end.
    pub(crate) fn next(&self, from: u64, value: bool) -> Option<u64> {
        let mut index = from;
        while index < self.len {
            let word = self.words[(index / 64) as usize].load(Ordering::Acquire);
            let wanted = if value { word } else { !word } >> (index % 64);
            if wanted != 0 {
                index += u64::from(wanted.trailing_zeros());
                return (index < self.len).then_some(index);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_words() {
        let bits = Bits::new(200);
        assert_eq!(bits.next(0, true), None);
        assert_eq!(bits.next(0, false), Some(0));
        (60..140).for_each(|i| bits.set(i));
        assert_eq!(bits.next(0, true), Some(60));
        assert_eq!(bits.next(60, false), Some(140));
        assert_eq!(bits.next(100, true), Some(100));
        bits.clear(100);
        assert_eq!(bits.next(60, false), Some(100));
        assert_eq!(bits.next(140, true), None);
        assert_eq!(bits.next(200, false), None);
        (0..200).for_each(|i| bits.set(i));
        assert_eq!(bits.next(0, false), None, "bits beyond the end do not count");
    }

    #[test]
    fn bytes_round_trip_and_refuse_bits_beyond_the_end() {
        let bits = Bits::new(70);
        bits.set(0);
        bits.set(69);
        let bytes = bits.to_bytes();
        let back = Bits::from_bytes(70, &bytes).unwrap();
        assert_eq!((back.next(0, true), back.next(1, true)), (Some(0), Some(69)));
        assert!(Bits::from_bytes(69, &bytes).is_none());
        assert!(Bits::from_bytes(140, &bytes).is_none());
    }
}
