//! The byte form of everything that outlives a process: a big-endian `u16` shape, then postcard.
//!
//! A shape is frozen once released. A change mints a new number, and the old one stays readable; bytes
//! of an unknown shape are a [`Fault`], never a guess. An enum of a record may get further variants, which a cluster
//! level allows to be written: a version that does not have one says that the shape is unknown, as it would to
//! another number. Numbers are unique over all kinds of records, so
//! that one kind can never pass for another. `golden/` keeps bytes of every shape.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fault::Fault;

/// Something stored or logged under one shape.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// The number of its current shape.
    const SHAPE: u16;
    /// What it is called in faults.
    const NAME: &'static str;

    fn encode(&self) -> Vec<u8> {
        let shape = Self::SHAPE.to_be_bytes().to_vec();
        postcard::to_extend(self, shape).expect("records hold only sequences of known length")
    }

    /// The record in `bytes`.
    ///
    /// # Errors
    /// [`Fault::UnknownShape`] for another shape or an unknown variant; [`Fault::Corrupt`] if the bytes are not exactly one
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
            // What the deserializers themselves refuse: a variant that an enum here does not have. Bytes that
            // end early, or are no value at all, have errors of their own.
            Err(postcard::Error::SerdeDeCustom) => Err(Fault::UnknownShape { what: Self::NAME, shape }),
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
