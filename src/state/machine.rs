//! The root of apply.
//!
//! A [`Machine`] owns the applied state: everything in its store, written by nobody else. One call is
//! one write batch: data, answers, counters, outbox, position, membership and hash together, so that a
//! crash loses whole batches from the end and the log replays them. Answers leave after the batch.

use std::sync::Arc;

use clawhub_kv::Kv;

use crate::access;
use crate::cluster;
use crate::cluster::session::{self, Dedup};
use crate::entry::Entry;
use crate::fault::Fault;
use crate::log::{LogItem, Payload};
use crate::meta::{self, TickRecord};
use crate::position::{LogPos, Membership, MembershipRecord};
use crate::reply::{Outcome, Reply, RequestRejected};
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// The last applied position, and the last membership with its own.
pub type Applied = (Option<LogPos>, Option<(LogPos, Membership)>);

/// The replicated state machine over a store.
pub struct Machine {
    kv: Arc<dyn Kv>,
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
        let membership = meta::membership(&*self.kv)?;
        Ok((meta::applied(&*self.kv)?, membership.map(|m| (m.pos, m.membership))))
    }

    /// Applies committed log items in one write batch. The answers come in the items' order; `None` for
    /// those that are no entries.
    ///
    /// # Errors
    /// [`Fault`] if the store fails, a record is of an unknown shape, or the items do not follow what was
    /// applied last. Nothing was applied then; the node must stop.
    pub fn apply(&mut self, items: &[LogItem]) -> Result<Vec<Option<Outcome>>, Fault> {
        let mut tx = Tx::new(&*self.kv);
        let mut last = meta::applied(&*self.kv)?;
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            follows(last, item.pos)?;
            last = Some(item.pos);
            outcomes.push(match &item.payload {
                Payload::Blank => None,
                Payload::Entry(entry) => Some(apply_entry(&mut tx, item.pos, entry)?),
                Payload::Membership(membership) => {
                    let record = MembershipRecord { pos: item.pos, membership: membership.clone() };
                    tx.put(meta::membership_key(), &record);
                    None
                }
            });
        }
        if let Some(pos) = last {
            tx.put(meta::applied_key(), &pos);
        }
        self.kv.write(tx.finish(meta::hash_key())?)?;
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
fn apply_entry(tx: &mut Tx<'_>, pos: LogPos, entry: &Entry) -> Result<Outcome, Fault> {
    let LogPos { term, index, .. } = pos;
    let tick = advance_tick(tx, entry.tick)?;
    if let Some(request) = entry.request {
        match session::dedup(tx, request)? {
            Dedup::Gone => return Ok(Err(RequestRejected::SessionGone.into())),
            Dedup::Answered(outcome) => return Ok(outcome),
            Dedup::New => {}
        }
    }
    let mut cx = ApplyContext { term, index, tick, at: entry.at, actor: entry.actor.clone(), events: 0 };
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
        return Err(RequestRejected::SessionGone.into());
    }
    if entry.deadline.is_some_and(|deadline| cx.tick > deadline) {
        return Err(RequestRejected::DeadlinePassed.into());
    }
    cluster::check_phase(tx, &entry.cmd)?;
    access::check(tx, entry)?;
    entry.cmd.apply(tx, cx)
}

/// Takes the greater of the cluster clock and an entry's tick, and answers it.
fn advance_tick(tx: &mut Tx<'_>, stamped: u64) -> Result<u64, Fault> {
    let last = tx.view().cluster().tick()?;
    if stamped > last {
        tx.put(meta::tick_key(), &TickRecord(stamped));
    }
    Ok(stamped.max(last))
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
