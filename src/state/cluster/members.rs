//! Who is a member, and under what name.

use clawhub_types::NodeId;

use super::ClusterRejected;
use super::records::NodeRecord;
use crate::stop::Stop;
use crate::tx::Tx;

/// A node that is a member.
pub(super) fn member(tx: &Tx<'_>, node: NodeId) -> Result<NodeRecord, Stop> {
    let record = tx.view().cluster().node(node)?.filter(|record| !record.removed);
    record.ok_or_else(|| ClusterRejected::NodeUnknown(node).into())
}

/// A name has one member. One that is leaving lends its name to whoever replaces it.
pub(super) fn check_name(nodes: &[NodeRecord], name: &str) -> Result<(), Stop> {
    let taken = |node: &NodeRecord| !node.removed && !node.draining && node.spec.name == name;
    if nodes.iter().any(taken) { Err(ClusterRejected::NameTaken.into()) } else { Ok(()) }
}

/// A key has one node, member or removed; `owner` may have it already.
pub(super) fn check_key(nodes: &[NodeRecord], spki: &[u8; 32], owner: Option<NodeId>) -> Result<(), Stop> {
    let has = |node: &NodeRecord| node.spec.spki == *spki || node.next_spki == Some(*spki);
    match nodes.iter().find(|node| Some(node.id) != owner && has(node)) {
        Some(node) => Err(ClusterRejected::KeyTaken(node.id).into()),
        None => Ok(()),
    }
}
