//! The rotation of keys: the cluster gets another cluster key and CA, and every member a key and a certificate of its
//! own, while all of them serve.
//!
//! Begun, confirmed by the members, switched, finished: each step is an entry, and apply decides whether it is time for
//! it. What a node does about a step is not of this room. Generations are numbered and no number is given twice; one
//! that was begun and never finished is passed over.

use clawhub_types::NodeId;

use super::cmd::{Envelope, RotationCmd};
use super::records::{KeysRecord, NodeRecord, Rotation, TokenRecord};
use super::{ClusterRejected, ClusterReply, keys, members};
use crate::fault::Fault;
use crate::meta;
use crate::reply::{Reply, RequestRejected};
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// How long a removal's rotation waits for members that are away, in ticks.
pub const WAIT: u64 = 10 * 60 * 1000;
/// From the moment that new keys are shown to the one that old ones are refused, in ticks: longer than any call
/// between members takes.
pub const GRACE: u64 = 10 * 1000;

/// Applies a step of a rotation.
pub(super) fn apply(step: &RotationCmd, tx: &mut Tx<'_>, cx: &ApplyContext) -> Result<Reply, Stop> {
    match step {
        RotationCmd::Ask { wait } => {
            let generation = ask(tx, cx.tick, *wait)?;
            return Ok(ClusterReply::Generation(generation).into());
        }
        RotationCmd::Begin { generation, ca_cert, ca_key_sealed, envelopes } => {
            let next = Rotation {
                generation: *generation,
                ca_cert: ca_cert.clone(),
                ca_key_sealed: ca_key_sealed.clone(),
                until: 0,
                switched: None,
                envelopes: envelopes.clone(),
            };
            begin(tx, cx.tick, next)?;
        }
        RotationCmd::Seal { generation, envelope } => seal(tx, *generation, envelope)?,
        RotationCmd::Confirm { generation, node, spki } => confirm(tx, *generation, *node, *spki)?,
        RotationCmd::Switch { generation } => switch(tx, cx.tick, *generation)?,
        RotationCmd::Finish { generation } => finish(tx, cx.tick, *generation)?,
    }
    Ok(Reply::Done)
}

/// Has a rotation begin that is yet to begin; its generation, unless another one is given up before it.
pub(super) fn ask(tx: &mut Tx<'_>, tick: u64, wait: u64) -> Result<u64, Fault> {
    let mut record = tx.view().cluster().keys()?;
    record.due = Some(record.due.map_or(wait, |due| due.min(wait)));
    if let Some(rotation) = record.rotation.as_mut() {
        rotation.until = rotation.until.min(tick.saturating_add(wait));
    }
    tx.put(keys::keys(), &record);
    Ok(record.last + 1)
}

fn begin(tx: &mut Tx<'_>, tick: u64, next: Rotation) -> Result<(), Stop> {
    let mut record = tx.view().cluster().keys()?;
    let stuck = match &record.rotation {
        Some(rotation) => rotation.is_stuck(tick) && !has_majority(tx)?,
        None => false,
    };
    let wait = match (&record.rotation, record.due) {
        (None, Some(wait)) => wait,
        (Some(_), due) if stuck => due.unwrap_or(WAIT),
        _ => return Err(ClusterRejected::WrongStep.into()),
    };
    if next.generation != record.last + 1 {
        return Err(ClusterRejected::WrongStep.into());
    }
    if stuck {
        for mut node in tx.view().cluster().nodes()? {
            if node.next_spki.take().is_some() {
                tx.put(keys::node(node.id), &node);
            }
        }
    }
    record.last = next.generation;
    record.due = None;
    record.rotation = Some(Rotation { until: tick.saturating_add(wait), ..next });
    tx.put(keys::keys(), &record);
    Ok(())
}

/// The rotation of this number, if members are to confirm it still.
fn confirming(record: &mut KeysRecord, generation: u64) -> Result<&mut Rotation, Stop> {
    let rotation = record.rotation.as_mut();
    let here = rotation.filter(|rotation| rotation.generation == generation && rotation.switched.is_none());
    here.ok_or_else(|| ClusterRejected::WrongStep.into())
}

/// The first envelope for a start counts.
fn seal(tx: &mut Tx<'_>, generation: u64, envelope: &Envelope) -> Result<(), Stop> {
    let mut record = tx.view().cluster().keys()?;
    let rotation = confirming(&mut record, generation)?;
    let member = members::member(tx, envelope.node)?;
    if member.boot == envelope.boot && rotation.envelope(envelope.node, envelope.boot).is_none() {
        rotation.envelopes.retain(|other| other.node != envelope.node);
        rotation.envelopes.push(envelope.clone());
        tx.put(keys::keys(), &record);
    }
    Ok(())
}

fn confirm(tx: &mut Tx<'_>, generation: u64, node: NodeId, spki: [u8; 32]) -> Result<(), Stop> {
    confirming(&mut tx.view().cluster().keys()?, generation)?;
    let mut member = members::member(tx, node)?;
    members::check_key(&tx.view().cluster().nodes()?, &spki, Some(node))?;
    member.next_spki = Some(spki);
    tx.put(keys::node(node), &member);
    Ok(())
}

fn switch(tx: &mut Tx<'_>, tick: u64, generation: u64) -> Result<(), Stop> {
    let mut record = tx.view().cluster().keys()?;
    let rotation = confirming(&mut record, generation)?;
    let missing = unconfirmed(&tx.view().cluster().nodes()?);
    if !missing.is_empty() && (tick < rotation.until || !has_majority(tx)?) {
        return Err(ClusterRejected::NotConfirmed(missing).into());
    }
    rotation.switched = Some(tick);
    tx.put(keys::keys(), &record);
    Ok(())
}

fn finish(tx: &mut Tx<'_>, tick: u64, generation: u64) -> Result<(), Stop> {
    let mut record = tx.view().cluster().keys()?;
    let over = |rotation: &Rotation| {
        rotation.generation == generation
            && rotation.switched.is_some_and(|since| tick >= since.saturating_add(GRACE))
    };
    let Some(rotation) = record.rotation.take_if(|rotation| over(rotation)) else {
        return Err(ClusterRejected::WrongStep.into());
    };
    let Some(mut cluster) = tx.view().cluster().record()? else {
        return Err(RequestRejected::WrongPhase.into());
    };
    cluster.ca_cert = rotation.ca_cert;
    cluster.ca_key_sealed = rotation.ca_key_sealed;
    tx.put(keys::cluster(), &cluster);
    for mut node in tx.view().cluster().nodes()? {
        if let Some(spki) = node.next_spki.take() {
            node.spec.spki = spki;
            node.generation = generation;
            tx.put(keys::node(node.id), &node);
        }
    }
    // They pin the old CA, and some were made with an old disk in mind.
    for row in tx.view().read().all(&keys::tokens())? {
        let _: TokenRecord = row.record()?;
        tx.delete(row.key());
    }
    record.generation = generation;
    tx.put(keys::keys(), &record);
    Ok(())
}

/// Members that have not confirmed.
pub(super) fn unconfirmed(nodes: &[NodeRecord]) -> Vec<NodeId> {
    nodes.iter().filter(|node| !node.removed && node.next_spki.is_none()).map(|node| node.id).collect()
}

/// Whether most of those who vote have confirmed; while they change, most of either set.
fn has_majority(tx: &Tx<'_>) -> Result<bool, Fault> {
    let missing = unconfirmed(&tx.view().cluster().nodes()?);
    let membership = meta::membership(tx)?.map(|record| record.membership).unwrap_or_default();
    let most = |voters: &Vec<NodeId>| {
        let confirmed = voters.iter().filter(|voter| !missing.contains(voter)).count();
        2 * confirmed > voters.len()
    };
    Ok(membership.configs.iter().all(most))
}

#[cfg(test)]
#[path = "rotation_test.rs"]
mod tests;
