//! Apply of the cluster domain.

use clawhub_types::{NodeId, ProjectId};

use super::records::{ClusterRecord, IdsRecord, NodeRecord, TickRecord, TokenRecord};
use super::{ClusterCmd, NodeSpec, keys, session};
use crate::entry::Command;
use crate::fault::{Fault, Stop};
use crate::outbox::{self, Event};
use crate::reply::{Rejected, Reply};
use crate::tx::{ApplyContext, Tx};

/// How long after its expiry a join token is kept, so that a join whose answer was lost can still be
/// repeated, in ticks.
const TOKEN_KEPT: u64 = 24 * 60 * 60 * 1000;
/// SHA-256 of nothing: a blank secret never grants anything.
const BLANK: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

pub(crate) fn apply(tx: &mut Tx<'_>, cx: &mut ApplyContext, cmd: &ClusterCmd) -> Result<Reply, Stop> {
    match cmd {
        ClusterCmd::Init { cluster, ca_cert, ca_key_sealed, durability, node } => {
            let record = ClusterRecord {
                id: *cluster,
                epoch: 1,
                ca_cert: ca_cert.clone(),
                ca_key_sealed: ca_key_sealed.clone(),
                durability: *durability,
                level: 1,
            };
            tx.put(keys::cluster(), &record);
            admit(tx, cx, node)
        }
        ClusterCmd::TokenCreate { hash, ttl } => create_token(tx, cx, hash, *ttl),
        ClusterCmd::Join { token, node } => join(tx, cx, token, node),
        ClusterCmd::Boot { node, boot, nonce, peer_addr, http_addr } => {
            boot_node(tx, *node, (*boot, *nonce), peer_addr, http_addr)
        }
        ClusterCmd::Remove { node, force } => remove(tx, cx, *node, *force),
        ClusterCmd::Drain { node, on } => drain(tx, *node, *on),
        ClusterCmd::Failing { node, boot } => fail_node(tx, *node, *boot),
        ClusterCmd::SessionOpen { node, boot, nonce } => session::open(tx, cx, *node, *boot, *nonce),
        ClusterCmd::SessionClose { session } => {
            session::close(tx, *session)?;
            Ok(Reply::Done)
        }
        ClusterCmd::SessionFloor { session, floor } => session::raise_floor(tx, *session, *floor),
        ClusterCmd::OutboxCursor { reader, done } => outbox::move_cursor(tx, cx, reader, *done),
    }
}

/// Takes the greater of the clock and an entry's tick, and answers it.
pub(crate) fn advance_tick(tx: &mut Tx<'_>, stamped: u64) -> Result<u64, Fault> {
    let last = tx.view().cluster().tick()?;
    if stamped > last {
        tx.put(keys::tick(), &TickRecord(stamped));
    }
    Ok(stamped.max(last))
}

/// `Init` comes first and once.
pub(crate) fn check_phase(tx: &Tx<'_>, cmd: &Command) -> Result<(), Stop> {
    let initialised = tx.view().has(&keys::cluster())?;
    let is_init = matches!(cmd, Command::Cluster(ClusterCmd::Init { .. }));
    if initialised == is_init { Err(Rejected::WrongPhase.into()) } else { Ok(()) }
}

/// A node that is a member.
pub(super) fn member(tx: &Tx<'_>, node: NodeId) -> Result<NodeRecord, Stop> {
    let record = tx.view().cluster().node(node)?.filter(|record| !record.removed);
    record.ok_or_else(|| Rejected::NodeUnknown(node).into())
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
fn admit(tx: &mut Tx<'_>, cx: &mut ApplyContext, spec: &NodeSpec) -> Result<Reply, Stop> {
    let nodes = tx.view().cluster().nodes()?;
    if let Some(node) = nodes.iter().find(|node| node.spec.spki == spec.spki) {
        return Err(Rejected::KeyTaken(node.id).into());
    }
    check_name(&nodes, &spec.name)?;
    let mut next = ids(tx)?;
    let id = NodeId(next.node);
    next.node += 1;
    tx.put(keys::ids(), &next);
    let spec = spec.clone();
    let (draining, failing, removed) = (false, None, false);
    let record = NodeRecord { id, spec, boot: 0, nonce: 0, epoch: 0, draining, failing, removed };
    tx.put(keys::node(id), &record);
    outbox::emit(tx, cx, Event::NodeJoined { node: id })?;
    Ok(Reply::Joined(id))
}

/// A name has one member. One that is leaving lends its name to whoever replaces it.
fn check_name(nodes: &[NodeRecord], name: &str) -> Result<(), Stop> {
    let taken = |node: &NodeRecord| !node.removed && !node.draining && node.spec.name == name;
    if nodes.iter().any(taken) { Err(Rejected::NameTaken.into()) } else { Ok(()) }
}

fn create_token(tx: &mut Tx<'_>, cx: &ApplyContext, hash: &[u8; 32], ttl: u64) -> Result<Reply, Stop> {
    if *hash == BLANK || *hash == [0; 32] {
        return Err(Rejected::TokenInvalid.into());
    }
    for row in tx.view().all(&keys::tokens())? {
        let token: TokenRecord = row.record()?;
        if cx.tick >= token.expires.saturating_add(TOKEN_KEPT) {
            tx.delete(row.key());
        }
    }
    // A repetition must neither prolong a token nor make a used one good again.
    if !tx.view().has(&keys::token(hash))? {
        let expires = cx.tick.saturating_add(ttl);
        tx.put(keys::token(hash), &TokenRecord { expires, used: None });
    }
    Ok(Reply::Done)
}

fn join(tx: &mut Tx<'_>, cx: &mut ApplyContext, hash: &[u8; 32], spec: &NodeSpec) -> Result<Reply, Stop> {
    let Some(token) = tx.record::<TokenRecord>(&keys::token(hash))? else {
        return Err(Rejected::TokenInvalid.into());
    };
    if let Some(id) = token.used {
        // The answer to the first attempt may have been lost; only the same key may ask for it again.
        let same =
            tx.view().cluster().node(id)?.is_some_and(|node| !node.removed && node.spec.spki == spec.spki);
        return if same { Ok(Reply::Joined(id)) } else { Err(Rejected::TokenInvalid.into()) };
    }
    if cx.tick >= token.expires {
        return Err(Rejected::TokenInvalid.into());
    }
    let reply = admit(tx, cx, spec)?;
    if let Reply::Joined(id) = reply {
        tx.put(keys::token(hash), &TokenRecord { used: Some(id), ..token });
    }
    Ok(reply)
}

fn boot_node(
    tx: &mut Tx<'_>,
    node: NodeId,
    (boot, nonce): (u64, u64),
    peer_addr: &str,
    http_addr: &str,
) -> Result<Reply, Stop> {
    let mut record = member(tx, node)?;
    if (boot, nonce) != (record.boot, record.nonce) && boot <= record.boot {
        return Err(Rejected::StaleBoot { node, boot, logged: record.boot }.into());
    }
    (record.boot, record.nonce) = (boot, nonce);
    peer_addr.clone_into(&mut record.spec.peer_addr);
    http_addr.clone_into(&mut record.spec.http_addr);
    tx.put(keys::node(node), &record);
    Ok(Reply::Done)
}

/// Voids the receipts of a node's earlier deletion epochs. An epoch never goes back.
pub(crate) fn raise_epoch(tx: &mut Tx<'_>, node: NodeId, epoch: u64) -> Result<Reply, Stop> {
    let mut record = member(tx, node)?;
    if epoch > record.epoch {
        record.epoch = epoch;
        tx.put(keys::node(node), &record);
    }
    Ok(Reply::Done)
}

/// A node that leaves must leave enough others: a cluster that could take no push would not be one.
fn drain(tx: &mut Tx<'_>, node: NodeId, on: bool) -> Result<Reply, Stop> {
    let mut record = member(tx, node)?;
    if on
        && !record.draining
        && let Some(cluster) = tx.view().cluster().record()?
    {
        let others = tx.view().cluster().layout()?.without(node);
        clawhub_policy::accepts(cluster.durability, &others).map_err(Rejected::Layout)?;
    }
    if !on && record.draining {
        check_name(&tx.view().cluster().nodes()?, &record.spec.name)?;
    }
    record.draining = on;
    tx.put(keys::node(node), &record);
    Ok(Reply::Done)
}

/// Unlike a drain it may leave too few: the storage is gone, whoever likes it or not.
fn fail_node(tx: &mut Tx<'_>, node: NodeId, boot: u64) -> Result<Reply, Stop> {
    let mut record = member(tx, node)?;
    if record.failing.is_none_or(|said| said < boot) {
        record.failing = Some(boot);
        tx.put(keys::node(node), &record);
    }
    Ok(Reply::Done)
}

/// The roots it holds were looked after before.
fn remove(tx: &mut Tx<'_>, cx: &mut ApplyContext, node: NodeId, force: bool) -> Result<Reply, Stop> {
    let mut record = member(tx, node)?;
    if tx.view().cluster().layout()?.without(node).nodes.is_empty() {
        return Err(Rejected::Layout("the last member cannot be removed".into()).into());
    }
    record.removed = true;
    tx.put(keys::node(node), &record);
    session::close_all_of(tx, node)?;
    outbox::emit(tx, cx, Event::NodeRemoved { node, forced: force })?;
    Ok(Reply::Done)
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
