//! What the state says of itself, under `m`: how far it has come, the membership it was told, its hash and the
//! cluster clock. Of no domain; each row moves with the batch of the entry that moved it.

use clawhub_kv::KvRead;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::key::Key;
use crate::position::{LogPos, MembershipRecord};
use crate::read::Reader;
use crate::record::record;
use crate::state_hash::StateHash;

pub(crate) fn applied_key() -> Key {
    Key::new(b"ma")
}

pub(crate) fn membership_key() -> Key {
    Key::new(b"mg")
}

/// The one row that is not part of the state hash, since it is the hash.
pub(crate) fn hash_key() -> Key {
    Key::new(b"mh")
}

pub(crate) fn tick_key() -> Key {
    Key::new(b"mt")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TickRecord(pub(crate) u64);
record!(TickRecord, 0x0006, "tick");

/// The log position applied last.
pub(crate) fn applied(kv: &dyn KvRead) -> Result<Option<LogPos>, Fault> {
    Reader::new(kv).get(&applied_key())
}

pub(crate) fn membership(kv: &dyn KvRead) -> Result<Option<MembershipRecord>, Fault> {
    Reader::new(kv).get(&membership_key())
}

/// The hash of the state after the entry applied last.
pub(crate) fn hash(kv: &dyn KvRead) -> Result<StateHash, Fault> {
    Ok(Reader::new(kv).get(&hash_key())?.unwrap_or_default())
}
