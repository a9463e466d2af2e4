//! The root of apply.
//!
//! A [`Machine`] owns the applied state: everything in its store, written by nobody else. One call is
//! one write batch: data, answers, counters, outbox, position, membership and hash together, so that a
//! crash loses whole batches from the end and the log replays them. Answers leave after the batch.

use std::sync::Arc;

use clawhub_kv::{Kv, KvRead};

use crate::cluster::ClusterCmd;
use crate::cluster::session::{self, Dedup};
use crate::entry::{Entry, Outcome};
use crate::fault::{Fault, Stop};
use crate::key::Key;
use crate::log::{LogItem, LogPos, MembershipRecord, Payload};
use crate::record::Record;
use crate::reply::{Rejected, Reply};
use crate::tx::{ApplyContext, Tx};
use crate::{artifact, blob, cluster, entry::Command, project};

/// The last applied position, and the last membership with its own.
pub type Applied = (Option<LogPos>, Option<(LogPos, Vec<u8>)>);

/// The replicated state machine over a store.
pub struct Machine {
    kv: Arc<dyn Kv>,
}

fn applied_key() -> Key {
    Key::new(b"ma")
}

fn membership_key() -> Key {
    Key::new(b"mg")
}

pub(crate) fn hash_key() -> Key {
    Key::new(b"mh")
}

pub(crate) fn read_applied(kv: &dyn KvRead) -> Result<Option<LogPos>, Fault> {
    kv.get(applied_key().as_bytes())?.map(|bytes| LogPos::decode(&bytes)).transpose()
}

impl Machine {
    /// The machine whose state is in `kv`; an empty store is a machine before its first entry.
    ///
    /// # Errors
    /// [`Fault`] if the store cannot be read or holds a state this version does not know.
    pub fn open(kv: Arc<dyn Kv>) -> Result<Machine, Fault> {
        let machine = Machine { kv };
        machine.applied()?;
        Ok(machine)
    }

    /// The store, for views and checkpoints.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// What was applied last.
    ///
    /// # Errors
    /// [`Fault`] if the store cannot be read.
    pub fn applied(&self) -> Result<Applied, Fault> {
        let membership = self.kv.get(membership_key().as_bytes())?;
        let membership = membership.map(|bytes| MembershipRecord::decode(&bytes)).transpose()?;
        Ok((read_applied(&*self.kv)?, membership.map(|m| (m.pos, m.bytes))))
    }

    /// Applies committed log items in one write batch. The answers come in the items' order; `None` for
    /// those that are no entries.
    ///
    /// # Errors
    /// [`Fault`] if the store fails, a record is of an unknown shape, or the items do not follow what was
    /// applied last. Nothing was applied then; the node must stop.
    pub fn apply(&mut self, items: &[LogItem]) -> Result<Vec<Option<Outcome>>, Fault> {
        let mut tx = Tx::new(&*self.kv);
        let mut last = read_applied(&*self.kv)?;
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            follows(last, item.pos)?;
            last = Some(item.pos);
            outcomes.push(match &item.payload {
                Payload::Blank => None,
                Payload::Entry(entry) => Some(apply_entry(&mut tx, item.pos.index, entry)?),
                Payload::Membership(bytes) => {
                    let record = MembershipRecord { pos: item.pos, bytes: bytes.clone() };
                    tx.put(membership_key(), &record);
                    None
                }
            });
        }
        if let Some(pos) = last {
            tx.put(applied_key(), &pos);
        }
        self.kv.write(tx.finish(hash_key())?)?;
        Ok(outcomes)
    }
}

fn follows(last: Option<LogPos>, next: LogPos) -> Result<(), Fault> {
    match last {
        Some(last) if last.index.checked_add(1) != Some(next.index) => {
            Err(Fault::OutOfOrder { applied: last.index, found: next.index })
        }
        _ => Ok(()),
    }
}

/// Answers an entry. A request answered before gets the same answer; a refused command leaves only its
/// answer behind.
fn apply_entry(tx: &mut Tx<'_>, index: u64, entry: &Entry) -> Result<Outcome, Fault> {
    let tick = cluster::advance_tick(tx, entry.tick)?;
    if let Some(request) = entry.request {
        match session::admit(tx, request)? {
            Dedup::Gone => return Ok(Err(Rejected::SessionGone)),
            Dedup::Answered(outcome) => return Ok(outcome),
            Dedup::New => {}
        }
    }
    let mut cx = ApplyContext { index, tick, at: entry.at, actor: entry.actor.clone(), events: 0 };
    tx.savepoint();
    let outcome = match decide(tx, &mut cx, entry) {
        Ok(reply) => Ok(reply),
        Err(Stop::Rejected(rejected)) => {
            tx.rollback();
            Err(rejected)
        }
        Err(Stop::Fault(fault)) => return Err(fault),
    };
    if let Some(request) = entry.request {
        session::remember(tx, request, index, &outcome)?;
    }
    Ok(outcome)
}

fn decide(tx: &mut Tx<'_>, cx: &mut ApplyContext, entry: &Entry) -> Result<Reply, Stop> {
    if entry.request.is_none() && entry.cmd.needs_identity() {
        return Err(Rejected::SessionGone.into());
    }
    if entry.deadline.is_some_and(|deadline| cx.tick > deadline) {
        return Err(Rejected::DeadlinePassed.into());
    }
    cluster::check_phase(tx, &entry.cmd)?;
    project::check_access(tx, entry)?;
    if let Command::Cluster(ClusterCmd::Remove { node, force }) = &entry.cmd {
        blob::forget_holder(tx, *node, *force)?;
    }
    match &entry.cmd {
        Command::Cluster(cmd) => cluster::apply(tx, cx, cmd),
        Command::Project(cmd) => project::apply(tx, cx, cmd),
        Command::Blob(cmd) => blob::apply(tx, cx, cmd),
        Command::Artifact(cmd) => artifact::apply(tx, cx, cmd),
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
