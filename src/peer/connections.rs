//! Which connections with which member are alive, so that they can be closed.
//!
//! Owns a table in memory: per member its highest boot counter seen, its live connections, and when it
//! was last out of reach. A [`Connection`] is one row; dropping it removes the row.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use clawhub_types::NodeId;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::limits::{CONNECTIONS_PER_PEER, SUSPICION};

/// How a member stands with this node right now. A hint for choosing partners, not a fact about the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is a live connection.
    Connected,
    /// It was lost or could not be reached within the last seconds.
    Down,
    /// There was no reason to talk to it.
    Unknown,
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Quic,
}

#[derive(Default)]
struct Member {
    boot: u64,
    next: u64,
    live: HashMap<u64, Row>,
    failed: Option<Instant>,
}

struct Row {
    transport: Transport,
    boot: u64,
    admitted: bool,
    closed: CancellationToken,
}

impl Member {
    fn close(&self, which: impl Fn(&Row) -> bool) {
        self.live.values().filter(|row| which(row)).for_each(|row| row.closed.cancel());
    }

    fn has(&self, transport: Transport) -> bool {
        self.live.values().any(|row| row.transport == transport && row.admitted && !row.closed.is_cancelled())
    }
}

pub(crate) struct Connections {
    members: Mutex<HashMap<NodeId, Member>>,
    all: CancellationToken,
}

impl Connections {
    /// An empty table; cancelling `all` closes every connection, and those to come.
    pub(crate) fn new(all: CancellationToken) -> Arc<Connections> {
        Arc::new(Connections { members: Mutex::default(), all })
    }

    /// Enters a connection before it is admitted, so that a removal that happens while it is being
    /// admitted finds it. `None` if the member has too many already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        node: NodeId,
        boot: u64,
        transport: Transport,
    ) -> Option<Connection> {
        let closed = self.all.child_token();
        let mut members = self.members.lock();
        let member = members.entry(node).or_default();
        if member.live.len() >= CONNECTIONS_PER_PEER {
            return None;
        }
        let id = member.next;
        member.next += 1;
        member.live.insert(id, Row { transport, boot, admitted: false, closed: closed.clone() });
        Some(Connection { connections: self.clone(), node, id, boot, transport, closed })
    }

    /// Closes every connection with a member.
    pub(crate) fn close(&self, node: NodeId) {
        if let Some(member) = self.members.lock().get(&node) {
            member.close(|_| true);
        }
    }

    /// Notes that a member could not be reached.
    pub(crate) fn failed(&self, node: NodeId) {
        self.members.lock().entry(node).or_default().failed = Some(Instant::now());
    }

    pub(crate) fn standing(&self, node: NodeId) -> Standing {
        let members = self.members.lock();
        let Some(member) = members.get(&node) else { return Standing::Unknown };
        if member.has(Transport::Tcp) || member.has(Transport::Quic) {
            Standing::Connected
        } else if member.failed.is_some_and(|at| at.elapsed() < SUSPICION) {
            Standing::Down
        } else {
            Standing::Unknown
        }
    }
}

pub(crate) struct Connection {
    connections: Arc<Connections>,
    node: NodeId,
    id: u64,
    boot: u64,
    transport: Transport,
    closed: CancellationToken,
}

impl Connection {
    /// Called once the peer is admitted. `false` if a later boot of the same member was seen: this one
    /// is a ghost. Otherwise connections of earlier boots are closed, because their process is gone.
    #[must_use]
    pub(crate) fn admitted(&self) -> bool {
        let mut members = self.connections.members.lock();
        let member = members.entry(self.node).or_default();
        if self.boot < member.boot {
            return false;
        }
        member.boot = self.boot;
        member.failed = None;
        if let Some(row) = member.live.get_mut(&self.id) {
            row.admitted = true;
        }
        member.close(|row| row.boot < self.boot);
        true
    }

    /// Cancelled when the connection shall be closed.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut members = self.connections.members.lock();
        let Some(member) = members.get_mut(&self.node) else { return };
        let admitted = member.live.remove(&self.id).is_some_and(|row| row.admitted);
        let last_tcp = self.transport == Transport::Tcp && !member.has(Transport::Tcp);
        if admitted && last_tcp && self.boot == member.boot {
            // The kernel ends the TCP connections of a process that dies; nothing tells of its QUIC ones
            // before they time out. A wrong guess costs a reconnect.
            member.close(|row| row.transport == Transport::Quic);
            member.failed = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(4);

    fn table() -> Arc<Connections> {
        Connections::new(CancellationToken::new())
    }

    #[test]
    fn a_later_boot_closes_the_earlier_and_refuses_ghosts() {
        let connections = table();
        let old = connections.enter(NODE, 1, Transport::Tcp).unwrap();
        assert!(old.admitted());
        let new = connections.enter(NODE, 2, Transport::Tcp).unwrap();
        assert!(!old.closed().is_cancelled(), "not before it is admitted");
        assert!(new.admitted());
        assert!(old.closed().is_cancelled() && !new.closed().is_cancelled());
        assert!(!connections.enter(NODE, 1, Transport::Tcp).unwrap().admitted());
    }

    #[test]
    fn closing_reaches_connections_that_are_not_admitted_yet() {
        let connections = table();
        let here = connections.enter(NODE, 1, Transport::Quic).unwrap();
        let other = connections.enter(NodeId(5), 1, Transport::Quic).unwrap();
        connections.close(NODE);
        assert!(here.closed().is_cancelled() && !other.closed().is_cancelled());
    }

    #[test]
    fn the_last_tcp_connection_takes_quic_with_it() {
        let connections = table();
        let a = connections.enter(NODE, 1, Transport::Tcp).unwrap();
        let b = connections.enter(NODE, 1, Transport::Tcp).unwrap();
        assert!(a.admitted() && b.admitted());
        let quic = connections.enter(NODE, 1, Transport::Quic).unwrap();
        assert!(quic.admitted());
        drop(a);
        assert!(!quic.closed().is_cancelled());
        assert_eq!(connections.standing(NODE), Standing::Connected);
        drop(connections.enter(NODE, 1, Transport::Tcp));
        assert!(!quic.closed().is_cancelled(), "one that was not admitted changes nothing");
        drop(b);
        assert!(quic.closed().is_cancelled());
        assert_eq!(connections.standing(NODE), Standing::Down);
    }

    #[test]
    fn a_ghost_that_goes_does_not_harm_the_living() {
        let connections = table();
        let ghost = connections.enter(NODE, 1, Transport::Tcp).unwrap();
        assert!(ghost.admitted());
        let quic = connections.enter(NODE, 2, Transport::Quic).unwrap();
        assert!(quic.admitted());
        drop(ghost);
        assert!(!quic.closed().is_cancelled());
    }

    #[test]
    fn connections_are_bounded_and_rows_go_with_them() {
        let connections = table();
        let held: Vec<_> =
            (0..CONNECTIONS_PER_PEER).map(|_| connections.enter(NODE, 1, Transport::Tcp).unwrap()).collect();
        assert!(connections.enter(NODE, 1, Transport::Tcp).is_none());
        assert!(connections.enter(NodeId(5), 1, Transport::Tcp).is_some());
        drop(held);
        assert!(connections.enter(NODE, 1, Transport::Tcp).is_some());
    }

    #[test]
    fn standing_follows_what_happens() {
        let connections = table();
        assert_eq!(connections.standing(NODE), Standing::Unknown);
        connections.failed(NODE);
        assert_eq!(connections.standing(NODE), Standing::Down);
        let connection = connections.enter(NODE, 1, Transport::Tcp).unwrap();
        assert_eq!(connections.standing(NODE), Standing::Down, "not before it is admitted");
        assert!(connection.admitted());
        assert_eq!(connections.standing(NODE), Standing::Connected);
    }
}
