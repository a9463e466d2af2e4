//! Why a node is not let in, as a value that travels in the handshake.
//!
//! The code is for the program that is refused: it decides by it, for example to stop for good once the
//! cluster has removed it. The sentence is for the person who reads its log.

use std::fmt;

/// The kind of a refusal. Its number is the byte on the wire; one that this version does not know is read
/// as [`RefusalCode::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalCode {
    /// A reason that has no code of its own, or one of a later version.
    Other = 0,
    /// It belongs to another cluster.
    OtherCluster = 1,
    /// It belongs to another epoch of the cluster: a forced recovery left it behind.
    OtherEpoch = 2,
    /// Its certificate, its key and what it says of itself do not name one node, or not the one called.
    WrongIdentity = 3,
    /// The cluster knows no such member.
    UnknownNode = 4,
    /// It was a member and was removed. It never becomes one again under this id.
    Removed = 5,
    /// A later start of the same member is known: this one runs on an old copy of its data, or is a second
    /// process with the same data.
    StaleBoot = 6,
    /// It has too many connections; later it may have one more.
    Busy = 7,
    /// The node that refuses cannot read who the members are.
    Unreadable = 8,
    /// A later start of the same member has connected, which nobody has logged yet: unlike [`StaleBoot`](Self::StaleBoot)
    /// that is not the cluster's word, and says nothing about which of the two is to stay.
    Superseded = 9,
}

impl RefusalCode {
    const ALL: [RefusalCode; 10] = [
        RefusalCode::Other,
        RefusalCode::OtherCluster,
        RefusalCode::OtherEpoch,
        RefusalCode::WrongIdentity,
        RefusalCode::UnknownNode,
        RefusalCode::Removed,
        RefusalCode::StaleBoot,
        RefusalCode::Busy,
        RefusalCode::Unreadable,
        RefusalCode::Superseded,
    ];

    pub(crate) fn from_wire(byte: u8) -> RefusalCode {
        RefusalCode::ALL.into_iter().find(|code| *code as u8 == byte).unwrap_or(RefusalCode::Other)
    }
}

/// Why a node is not let in: a code for the program, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the refused node decides by.
    pub code: RefusalCode,
    /// A sentence about the refused node, without its id. Longer ones are cut at 255 bytes on the wire.
    pub text: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_bytes_and_unknown_ones_are_other() {
        for (byte, code) in (0u8..).zip(RefusalCode::ALL) {
            assert_eq!(code as u8, byte);
            assert_eq!(RefusalCode::from_wire(byte), code);
        }
        assert_eq!(RefusalCode::from_wire(10), RefusalCode::Other);
        assert_eq!(RefusalCode::from_wire(255), RefusalCode::Other);
    }
}
