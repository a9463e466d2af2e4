//! What a member may hand to the leader to be proposed.
//!
//! A member speaks for itself, for the clients that it serves and for its operators, and for nobody else: not for
//! another member, and not in another's session. The rule is pure; the leader asks it about each proposal that comes
//! from elsewhere, before it is stamped. It reads the state and owns nothing.
//!
//! What it cannot see: whether a client or an operator really asked. A member is believed about those that it serves,
//! until it is removed; its session in the entry says which member it was.

use clawhub_types::{NodeId, Principal, SessionId};

use crate::entry::Entry;
use crate::fault::Fault;
use crate::proposers::Members;
use crate::view::View;

/// Why a forwarded proposal is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Whoever sent it is not a member, or not any more.
    #[error("node {0} is not a member")]
    NotAMember(NodeId),
    /// The entry has its identity from a session of another member.
    #[error("session {} is not node {from}'s", session.0)]
    Session {
        /// Who sent it.
        from: NodeId,
        /// Whose identity it uses.
        session: SessionId,
    },
    /// The command is not for this principal to give through this member.
    #[error("node {from} may not propose this in the name of {principal}")]
    Command {
        /// Who sent it.
        from: NodeId,
        /// In whose name.
        principal: Principal,
    },
}

/// Whether the leader takes `entry`, by the state here, from the member `from`. A session that the state does not know
/// passes: apply refuses it, with the answer that has its owner open another one.
///
/// # Errors
/// [`Fault`] if the state cannot be read.
pub fn may_forward(view: &View<'_>, from: NodeId, entry: &Entry) -> Result<Result<(), Forbidden>, Fault> {
    let cluster = view.cluster();
    if cluster.node(from)?.is_none_or(|node| node.removed) {
        return Ok(Err(Forbidden::NotAMember(from)));
    }
    let others = |session: SessionId| -> Result<bool, Fault> {
        Ok(cluster.session(session)?.is_some_and(|session| session.node != from))
    };
    if let Some(request) = entry.request
        && others(request.session)?
    {
        return Ok(Err(Forbidden::Session { from, session: request.session }));
    }
    let proposers = entry.cmd.proposers();
    let allowed = match &entry.actor.principal {
        Principal::Operator => proposers.operators,
        Principal::System => match proposers.members {
            Members::Nobody => false,
            Members::Any => true,
            Members::Only(node) => node == from,
            Members::OwnerOf(session) => !others(session)?,
        },
        // Nothing is proposed in a member's own name yet.
        Principal::Node(_) => false,
        Principal::Anonymous | Principal::User(_) | Principal::Service(_) => entry.cmd.action().is_some(),
    };
    let principal = || entry.actor.principal.clone();
    Ok(if allowed { Ok(()) } else { Err(Forbidden::Command { from, principal: principal() }) })
}

#[cfg(test)]
#[path = "forward_test.rs"]
mod tests;
