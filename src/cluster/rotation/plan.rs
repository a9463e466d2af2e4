//! Which step of a rotation a node takes next. Pure: what the state says and what the node has, in; a step, out.

use clawhub_state::cluster::{ClusterRecord, GRACE, KeysRecord, NodeRecord, Rotation};
use clawhub_types::NodeId;

/// What the state says, all of one index.
pub(super) struct Facts {
    pub(super) cluster: ClusterRecord,
    pub(super) keys: KeysRecord,
    /// The members.
    pub(super) members: Vec<NodeRecord>,
    /// Those who vote.
    pub(super) voters: Vec<NodeId>,
    /// The cluster's clock now, on the node that leads; nobody else takes the steps of all.
    pub(super) leads: Option<u64>,
}

/// Who the node is, and what it has of the next generation.
pub(super) struct Own<'a> {
    pub(super) node: NodeId,
    pub(super) boot: u64,
    /// The CA of its next keys, or of those in force, and the hash of its key.
    pub(super) has: &'a [(&'a [u8], [u8; 32])],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make the keys of the next generation, and begin.
    Begin,
    /// Open the envelope, and keep what is made from it.
    Open(Vec<u8>),
    /// Log that the next keys are kept.
    Confirm([u8; 32]),
    /// Seal the next cluster key to the present starts of these.
    Seal(Vec<NodeRecord>),
    Switch,
    Finish,
}

/// The next step of this node, if one is due.
pub(super) fn next(facts: &Facts, own: &Own<'_>) -> Option<Step> {
    let Some(rotation) = &facts.keys.rotation else {
        return (facts.keys.due.is_some() && facts.leads.is_some()).then_some(Step::Begin);
    };
    match rotation.switched {
        None => confirm(facts, rotation, own).or_else(|| lead(facts, rotation)),
        Some(since) => facts.leads.filter(|tick| *tick >= since.saturating_add(GRACE)).map(|_| Step::Finish),
    }
}

/// What each member does while members confirm.
fn confirm(facts: &Facts, rotation: &Rotation, own: &Own<'_>) -> Option<Step> {
    let Some((_, spki)) = own.has.iter().find(|(ca, _)| *ca == rotation.ca_cert) else {
        let envelope = rotation.envelope(own.node, own.boot)?;
        return Some(Step::Open(envelope.to_vec()));
    };
    let itself = facts.members.iter().find(|member| member.id == own.node)?;
    if itself.next_spki != Some(*spki) && itself.spec.spki != *spki {
        return Some(Step::Confirm(*spki));
    }
    let lacks = |member: &&NodeRecord| {
        member.next_spki.is_none()
            && !member.start_key.is_empty()
            && rotation.envelope(member.id, member.boot).is_none()
    };
    let lack: Vec<NodeRecord> = facts.members.iter().filter(lacks).cloned().collect();
    (!lack.is_empty()).then_some(Step::Seal(lack))
}

/// What the leader does then.
fn lead(facts: &Facts, rotation: &Rotation) -> Option<Step> {
    let tick = facts.leads?;
    let has = |id: &NodeId| facts.members.iter().any(|member| member.id == *id && member.next_spki.is_some());
    if facts.members.iter().all(|member| member.next_spki.is_some()) {
        return Some(Step::Switch);
    }
    if !rotation.is_stuck(tick) {
        return None;
    }
    let majority = 2 * facts.voters.iter().filter(|voter| has(voter)).count() > facts.voters.len();
    Some(if majority { Step::Switch } else { Step::Begin })
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
