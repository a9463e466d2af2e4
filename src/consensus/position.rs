//! How far a state has come, read from the state itself.

use std::io;

use clawhub_state::{Fault, LogPos, Machine};

use crate::types::{self, LogId, Membership, StoredMembership};

/// The last entry that a state has applied, and the membership in force there with the entry that set it.
pub(crate) type Position = (Option<LogPos>, Option<(LogPos, Membership)>);

/// The fault as an [`io::Error`], from which a store's own error can be had again ([`clawhub_kv::KvError::within`]).
pub(crate) fn fault(e: Fault) -> io::Error {
    match e {
        Fault::Kv(e) => e.into(),
        other => io::Error::other(other),
    }
}

/// What a machine has applied, and the membership that it was told last.
pub(crate) fn applied(machine: &Machine) -> io::Result<Position> {
    let (last, membership) = machine.applied().map_err(fault)?;
    let membership = membership.map(|(pos, membership)| (pos, types::membership(membership)));
    Ok((last, membership))
}

/// The same in openraft's words.
pub(crate) fn position(machine: &Machine) -> io::Result<(Option<LogId>, StoredMembership)> {
    let (last, membership) = applied(machine)?;
    let membership = match membership {
        Some((pos, membership)) => StoredMembership::new(Some(types::log_id(pos)), membership),
        None => StoredMembership::new(None, Membership::default()),
    };
    Ok((last.map(types::log_id), membership))
}
