//! Proposer sessions: why a request applies at most once.
//!
//! A session belongs to one boot of one ingress node. It keeps the answer to every request at or above
//! its floor; a repetition gets that answer again, one from below the floor or of a closed session is
//! refused. Only log entries open, raise and close; nothing is evicted under pressure.

use clawhub_kv::KvRead;
use clawhub_mutant::Mutant;
use clawhub_types::{NodeId, RequestId, SessionId};

use super::records::{AnswerRecord, SessionRecord};
use super::{ClusterRejected, ClusterReply, keys};
use crate::fault::Fault;
use crate::key::Key;
use crate::reply::{Outcome, Reply, RequestRejected};
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// What a session says to a request.
pub(crate) enum Dedup {
    /// The session is closed, or has forgotten this sequence.
    Gone,
    Answered(Outcome),
    New,
}

pub(crate) fn dedup(tx: &Tx<'_>, request: RequestId) -> Result<Dedup, Fault> {
    let Some(session) = tx.record::<SessionRecord>(&keys::session(request.session))? else {
        return Ok(Dedup::Gone);
    };
    if request.seq < session.floor {
        return Ok(Dedup::Gone);
    }
    if Mutant::NoSessionCheck.breaks() {
        return Ok(Dedup::New);
    }
    let answer: Option<AnswerRecord> = tx.record(&keys::answer(request.session, request.seq))?;
    Ok(answer.map_or(Dedup::New, |answer| Dedup::Answered(answer.outcome)))
}

/// Keeps the final answer to a request, unless its own command closed the session or raised the floor
/// above it.
pub(crate) fn remember(
    tx: &mut Tx<'_>,
    request: RequestId,
    index: u64,
    outcome: &Outcome,
) -> Result<(), Fault> {
    if let Some(session) = tx.record::<SessionRecord>(&keys::session(request.session))?
        && request.seq >= session.floor
    {
        let answer = AnswerRecord { index, outcome: outcome.clone() };
        tx.put(keys::answer(request.session, request.seq), &answer);
    }
    Ok(())
}

pub(super) fn open(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    node: NodeId,
    boot: u64,
    nonce: u64,
) -> Result<Reply, Stop> {
    let member = super::members::member(tx, node)?;
    if boot < member.boot || (boot == member.boot && nonce != member.nonce) {
        return Err(ClusterRejected::StaleBoot { node, boot, logged: member.boot }.into());
    }
    for (id, session) in tx.view().cluster().sessions()? {
        if session.node != node {
            continue;
        }
        if session.boot == boot && session.nonce == nonce {
            return Ok(ClusterReply::Session(id).into());
        }
        if session.boot >= boot {
            return Err(ClusterRejected::StaleBoot { node, boot, logged: session.boot }.into());
        }
        close(tx, id)?;
    }
    let id = SessionId(cx.index);
    tx.put(keys::session(id), &SessionRecord { node, boot, nonce, floor: 0 });
    Ok(ClusterReply::Session(id).into())
}

/// Closes a session and forgets its answers. Closing it again is nothing.
pub(super) fn close(tx: &mut Tx<'_>, id: SessionId) -> Result<(), Fault> {
    forget(tx, &keys::answers(id), &keys::answers(id).end())?;
    tx.delete(keys::session(id));
    Ok(())
}

pub(super) fn close_all_of(tx: &mut Tx<'_>, node: NodeId) -> Result<(), Fault> {
    for (id, session) in tx.view().cluster().sessions()? {
        if session.node == node {
            close(tx, id)?;
        }
    }
    Ok(())
}

pub(super) fn raise_floor(tx: &mut Tx<'_>, id: SessionId, floor: u64) -> Result<Reply, Stop> {
    let Some(mut session) = tx.record::<SessionRecord>(&keys::session(id))? else {
        return Err(RequestRejected::SessionGone.into());
    };
    if floor > session.floor {
        forget(tx, &keys::answer(id, session.floor), keys::answer(id, floor).as_bytes())?;
        session.floor = floor;
        tx.put(keys::session(id), &session);
    }
    Ok(Reply::Done)
}

/// Deletes the answers from one key up to another.
fn forget(tx: &mut Tx<'_>, start: &Key, end: &[u8]) -> Result<(), Fault> {
    for (key, _) in tx.scan(start.as_bytes(), end, usize::MAX)? {
        tx.delete(Key::new(&key));
    }
    Ok(())
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
