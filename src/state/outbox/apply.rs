//! Writes events beside the data that caused them, if anybody reads events, and drops those that every reader has
//! passed.

use super::records::{CursorRecord, Event, OutboxRow};
use super::{OutboxCmd, keys};
use crate::fault::Fault;
use crate::reply::Reply;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// Rows deleted by one command at most.
const TRIM: usize = 1024;

/// Writes an event, if anyone reads.
pub(crate) fn emit(tx: &mut Tx<'_>, cx: &mut ApplyContext, event: impl Into<Event>) -> Result<(), Fault> {
    let cursors = keys::cursors();
    if tx.view().read().rows(&cursors, &cursors, 1)?.is_empty() {
        return Ok(());
    }
    let row = OutboxRow { at: cx.at, actor: cx.actor.clone(), event: event.into() };
    tx.put(keys::row(cx.index, cx.events), &row);
    cx.events += 1;
    Ok(())
}

impl OutboxCmd {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>, cx: &mut ApplyContext) -> Result<Reply, Stop> {
        let OutboxCmd::Cursor { reader, done } = self;
        move_cursor(tx, cx, reader, *done)
    }
}

/// A cursor never goes back.
fn move_cursor(tx: &mut Tx<'_>, cx: &ApplyContext, reader: &str, done: Option<u64>) -> Result<Reply, Stop> {
    let key = keys::cursor(reader);
    match done {
        Some(done) => {
            // A new reader begins here: what happened before was not written for it.
            let last = tx.record::<CursorRecord>(&key)?.map_or(cx.index, |cursor| cursor.0);
            tx.put(key, &CursorRecord(done.min(cx.index).max(last)));
        }
        None => tx.delete(key),
    }
    trim(tx)?;
    Ok(Reply::Done)
}

fn trim(tx: &mut Tx<'_>) -> Result<(), Fault> {
    let mut lowest = u64::MAX;
    for row in tx.view().read().all(&keys::cursors())? {
        lowest = lowest.min(row.record::<CursorRecord>()?.0);
    }
    let table = keys::rows();
    for row in tx.view().read().rows(&table, &table, TRIM)? {
        if row.parts()?.number()? > lowest {
            break;
        }
        tx.delete(row.key());
    }
    Ok(())
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
