//! Applies the commands about the cluster: its founding, who joins, starts, drains or fails, and join tokens.
//!
//! Ids of nodes, projects and repositories are never given out twice; a node's boot counter and deletion epoch
//! never go back.

use clawhub_types::{Durability, NodeId, ProjectId};

use super::records::{ClusterRecord, IdsRecord, NodeRecord, TokenRecord};
use super::{
    Acknowledgement, ClusterCmd, ClusterEvent, ClusterRejected, ClusterReply, NodeSpec, keys, members,
    rotation, session,
};
use crate::entry::Command;
use crate::fault::Fault;
use crate::outbox;
use crate::position::LogMark;
use crate::reply::{Reply, RequestRejected};
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// How long after its expiry a join token is kept, so that a join whose answer was lost can still be
/// repeated, in ticks.
const TOKEN_KEPT: u64 = 24 * 60 * 60 * 1000;
/// SHA-256 of nothing: a blank secret never grants anything.
const BLANK: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

impl ClusterCmd {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>, cx: &mut ApplyContext) -> Result<Reply, Stop> {
        match self {
            ClusterCmd::Init { cluster, ca_cert, ca_key_sealed, durability, node } => {
                let record = ClusterRecord {
                    id: *cluster,
                    epoch: 1,
                    ca_cert: ca_cert.clone(),
                    ca_key_sealed: ca_key_sealed.clone(),
                    durability: *durability,
                    access_rev: 0,
                    level: 1,
                };
                tx.put(keys::cluster(), &record);
                Ok(add_member(tx, cx, node)?.into())
            }
            ClusterCmd::TokenCreate { hash, ttl } => create_token(tx, cx, hash, *ttl),
            ClusterCmd::Join { token, node } => join(tx, cx, token, node),
            ClusterCmd::Boot { node, boot, nonce, peer_addr, http_addr, found, acknowledged, start_key } => {
                // What one leader knows may have been cut off under the next.
                let acknowledged = acknowledged.filter(|mark| mark.term == cx.term).unwrap_or_default();
                let start = (*boot, *nonce, start_key.as_slice());
                boot_node(tx, *node, start, (*found, acknowledged), (peer_addr, http_addr))
            }
            ClusterCmd::Acknowledged { term, nodes } => note_acknowledged(tx, cx, *term, nodes),
            ClusterCmd::Drain { node, on } => drain(tx, *node, *on),
            ClusterCmd::Failing { node, boot } => fail_node(tx, *node, *boot),
            ClusterCmd::SessionOpen { node, boot, nonce } => session::open(tx, cx, *node, *boot, *nonce),
            ClusterCmd::SessionClose { session } => {
                session::close(tx, *session)?;
                Ok(Reply::Done)
            }
            ClusterCmd::SessionFloor { session, floor } => session::raise_floor(tx, *session, *floor),
            ClusterCmd::Rotation(step) => rotation::apply(step, tx, cx),
        }
    }
}

/// `Init` comes first and once.
pub(crate) fn check_phase(tx: &Tx<'_>, cmd: &Command) -> Result<(), Stop> {
    let initialised = tx.view().read().has(&keys::cluster())?;
    let is_init = matches!(cmd, Command::Cluster(ClusterCmd::Init { .. }));
    if initialised == is_init { Err(RequestRejected::WrongPhase.into()) } else { Ok(()) }
}

/// Refuses what is acknowledged as durably as this, while the votes would not outlive what the copies do. They are
/// judged as of this very entry: those who vote by the log up to it are those whose majority has it on disk.
pub(crate) fn check_votes(tx: &Tx<'_>, durability: Durability) -> Result<(), Stop> {
    Ok(tx.view().cluster().votes(durability)?.map_err(ClusterRejected::Uncovered)?)
}

fn ids(tx: &Tx<'_>) -> Result<IdsRecord, Fault> {
    Ok(tx.record(&keys::ids())?.unwrap_or(IdsRecord { node: 1, project: 1 }))
}

/// The id of a new project.
pub(crate) fn next_project(tx: &mut Tx<'_>) -> Result<ProjectId, Fault> {
    let mut next = ids(tx)?;
    let id = ProjectId(next.project);
    next.project += 1;
    tx.put(keys::ids(), &next);
    Ok(id)
}

/// Makes a node a member under a new id.
fn add_member(tx: &mut Tx<'_>, cx: &mut ApplyContext, spec: &NodeSpec) -> Result<ClusterReply, Stop> {
    let nodes = tx.view().cluster().nodes()?;
    members::check_key(&nodes, &spec.spki, None)?;
    members::check_name(&nodes, &spec.name)?;
    let mut next = ids(tx)?;
    let id = NodeId(next.node);
    next.node += 1;
    tx.put(keys::ids(), &next);
    let spec = spec.clone();
    let record = NodeRecord {
        id,
        spec,
        boot: 0,
        nonce: 0,
        start_key: Vec::new(),
        acknowledged: LogMark::default(),
        epoch: 0,
        draining: false,
        failing: None,
        removed: false,
        generation: tx.view().cluster().keys()?.generation,
        next_spki: None,
    };
    tx.put(keys::node(id), &record);
    outbox::emit(tx, cx, ClusterEvent::NodeJoined { node: id })?;
    Ok(ClusterReply::Joined(id))
}

fn create_token(tx: &mut Tx<'_>, cx: &ApplyContext, hash: &[u8; 32], ttl: u64) -> Result<Reply, Stop> {
    if *hash == BLANK || *hash == [0; 32] {
        return Err(ClusterRejected::TokenInvalid.into());
    }
    for row in tx.view().read().all(&keys::tokens())? {
        let token: TokenRecord = row.record()?;
        if cx.tick >= token.expires.saturating_add(TOKEN_KEPT) {
            tx.delete(row.key());
        }
    }
    // A repetition must neither prolong a token nor make a used one good again.
    if !tx.view().read().has(&keys::token(hash))? {
        let expires = cx.tick.saturating_add(ttl);
        tx.put(keys::token(hash), &TokenRecord { expires, used: None });
    }
    Ok(Reply::Done)
}

fn join(tx: &mut Tx<'_>, cx: &mut ApplyContext, hash: &[u8; 32], spec: &NodeSpec) -> Result<Reply, Stop> {
    let Some(token) = tx.record::<TokenRecord>(&keys::token(hash))? else {
        return Err(ClusterRejected::TokenInvalid.into());
    };
    if let Some(id) = token.used {
        // The answer to the first attempt may have been lost; only the same key may ask for it again.
        let same =
            tx.view().cluster().node(id)?.is_some_and(|node| !node.removed && node.spec.spki == spec.spki);
        return if same {
            Ok(ClusterReply::Joined(id).into())
        } else {
            Err(ClusterRejected::TokenInvalid.into())
        };
    }
    if cx.tick >= token.expires {
        return Err(ClusterRejected::TokenInvalid.into());
    }
    if tx.view().cluster().keys()?.rotation.is_some_and(|rotation| rotation.switched.is_some()) {
        return Err(ClusterRejected::KeysChange.into());
    }
    let reply = add_member(tx, cx, spec)?;
    if let ClusterReply::Joined(id) = reply {
        tx.put(keys::token(hash), &TokenRecord { used: Some(id), ..token });
    }
    Ok(reply.into())
}

fn boot_node(
    tx: &mut Tx<'_>,
    node: NodeId,
    (boot, nonce, start_key): (u64, u64, &[u8]),
    (found, acknowledged): (LogMark, LogMark),
    (peer_addr, http_addr): (&str, &str),
) -> Result<Reply, Stop> {
    let mut record = members::member(tx, node)?;
    // A repetition is judged already, and has acknowledged more since.
    if (boot, nonce) != (record.boot, record.nonce) {
        if boot <= record.boot {
            return Err(ClusterRejected::StaleBoot { node, boot, logged: record.boot }.into());
        }
        let acknowledged = record.acknowledged.join(&acknowledged);
        if !found.covers(&acknowledged) {
            return Err(ClusterRejected::Forgetful { node, found, acknowledged }.into());
        }
        record.acknowledged = acknowledged;
    }
    (record.boot, record.nonce) = (boot, nonce);
    start_key.clone_into(&mut record.start_key);
    peer_addr.clone_into(&mut record.spec.peer_addr);
    http_addr.clone_into(&mut record.spec.http_addr);
    tx.put(keys::node(node), &record);
    Ok(Reply::Done)
}

/// Keeps what nodes have acknowledged. It is settled by now: each index lies before this entry in the log of the leader
/// that counted it, and this entry is applied.
fn note_acknowledged(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    term: u64,
    nodes: &[Acknowledgement],
) -> Result<Reply, Stop> {
    // Another leader's log may lack what was acknowledged to this one.
    let nodes = nodes.iter().filter(|known| term == cx.term && known.index < cx.index);
    for Acknowledgement { node, boot, index } in nodes {
        let Some(mut record) = tx.view().cluster().node(*node)? else { continue };
        let mark = LogMark { term, index: *index };
        // What a start acknowledged that is not logged yet says nothing of the disk that it began with.
        if record.boot == *boot && !record.removed && !record.acknowledged.covers(&mark) {
            record.acknowledged = record.acknowledged.join(&mark);
            tx.put(keys::node(*node), &record);
        }
    }
    Ok(Reply::Done)
}

/// Voids the receipts of a node's earlier deletion epochs. An epoch never goes back.
pub(crate) fn raise_epoch(tx: &mut Tx<'_>, node: NodeId, epoch: u64) -> Result<Reply, Stop> {
    let mut record = members::member(tx, node)?;
    if epoch > record.epoch {
        record.epoch = epoch;
        tx.put(keys::node(node), &record);
    }
    Ok(Reply::Done)
}

/// A node that leaves must leave enough others: a cluster that could take no push would not be one.
fn drain(tx: &mut Tx<'_>, node: NodeId, on: bool) -> Result<Reply, Stop> {
    let mut record = members::member(tx, node)?;
    if on
        && !record.draining
        && let Some(cluster) = tx.view().cluster().record()?
    {
        let others = tx.view().cluster().layout()?.without(node);
        clawhub_policy::accepts(cluster.durability, &others).map_err(ClusterRejected::TooFewDomains)?;
    }
    if !on && record.draining {
        members::check_name(&tx.view().cluster().nodes()?, &record.spec.name)?;
    }
    record.draining = on;
    tx.put(keys::node(node), &record);
    Ok(Reply::Done)
}

/// Unlike a drain it may leave too few: the storage is gone, whoever likes it or not.
fn fail_node(tx: &mut Tx<'_>, node: NodeId, boot: u64) -> Result<Reply, Stop> {
    let mut record = members::member(tx, node)?;
    if record.failing.is_none_or(|said| said < boot) {
        record.failing = Some(boot);
        tx.put(keys::node(node), &record);
    }
    Ok(Reply::Done)
}

/// The end of a membership. The copies that the node holds are looked after before.
pub(crate) fn remove(
    tx: &mut Tx<'_>,
    cx: &mut ApplyContext,
    node: NodeId,
    force: bool,
) -> Result<Reply, Stop> {
    let mut record = members::member(tx, node)?;
    if tx.view().cluster().layout()?.without(node).nodes.is_empty() {
        return Err(ClusterRejected::LastMember.into());
    }
    record.removed = true;
    tx.put(keys::node(node), &record);
    session::close_all_of(tx, node)?;
    // Whoever has its disk has the keys that were in force.
    rotation::ask(tx, cx.tick, rotation::WAIT)?;
    outbox::emit(tx, cx, ClusterEvent::NodeRemoved { node, forced: force })?;
    Ok(Reply::Done)
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
