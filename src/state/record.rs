//! The byte form of everything that outlives a process: a big-endian `u16` shape, then postcard.
//!
//! A shape is frozen once released. A change mints a new number, and the old one stays readable; bytes
//! of an unknown shape are a [`Fault`], never a guess. Numbers are unique over all kinds of records, so
//! that one kind can never pass for another. `golden/` keeps bytes of every shape.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{Entry, Outcome};
use crate::fault::Fault;

/// Something stored or logged under one shape.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// The number of its current shape.
    const SHAPE: u16;
    /// What it is called in faults.
    const NAME: &'static str;

    /// Its bytes.
    fn encode(&self) -> Vec<u8> {
        let shape = Self::SHAPE.to_be_bytes().to_vec();
        postcard::to_extend(self, shape).expect("records hold only sequences of known length")
    }

    /// The record in `bytes`.
    ///
    /// # Errors
    /// [`Fault::UnknownShape`] for another shape; [`Fault::Corrupt`] if the bytes are not exactly one
    /// record.
    fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let corrupt = |why: String| Fault::Corrupt { what: Self::NAME, why };
        let (shape, body) = bytes.split_first_chunk().ok_or_else(|| corrupt("no shape".into()))?;
        let shape = u16::from_be_bytes(*shape);
        if shape != Self::SHAPE {
            return Err(Fault::UnknownShape { what: Self::NAME, shape });
        }
        match postcard::take_from_bytes(body) {
            Ok((record, [])) => Ok(record),
            Ok((_, rest)) => Err(corrupt(format!("{} bytes too many", rest.len()))),
            Err(e) => Err(corrupt(e.to_string())),
        }
    }
}

/// Gives a type its shape.
macro_rules! record {
    ($type:ty, $shape:literal, $name:literal) => {
        impl crate::record::Record for $type {
            const SHAPE: u16 = $shape;
            const NAME: &'static str = $name;
        }
    };
}
pub(crate) use record;

record!(Entry, 0x0001, "log entry");
record!(Outcome, 0x0002, "outcome");

/// The bytes of an entry, as they stand in the log and travel between nodes.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    entry.encode()
}

/// The entry in `bytes`.
///
/// # Errors
/// [`Fault::UnknownShape`] if a newer version wrote it; [`Fault::Corrupt`] if it is no entry.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, Fault> {
    Entry::decode(bytes)
}

/// The bytes of an outcome, as a leader sends it back to the node that forwarded the entry.
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    outcome.encode()
}

/// The outcome in `bytes`.
///
/// # Errors
/// As [`decode_entry`].
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, Fault> {
    Outcome::decode(bytes)
}
