//! Which connections with which member are alive and what they were let in for, so that they can be judged again
//! and closed.
//!
//! Owns a table in memory: per member its highest boot counter seen, its live connections, and when it
//! was last out of reach. A [`Connection`] is one row; dropping it removes the row.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clawhub_types::NodeId;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::limits::{CONNECTIONS_PER_PEER, SUSPICION};
use crate::{Admission, Hello, Proof, Refusal, RefusalCode};

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

/// What the other end of a connection may ask for now. A review may widen it while the connection lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    member: Arc<AtomicBool>,
}

impl Reach {
    pub(crate) fn get(&self) -> Admission {
        if self.member.load(Ordering::Acquire) { Admission::Member } else { Admission::LogOnly }
    }

    fn set(&self, admission: Admission) {
        self.member.store(admission == Admission::Member, Ordering::Release);
    }
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
    hello: Hello,
    proof: Proof,
    reach: Reach,
    admitted: bool,
    /// It was made with keys that are about to be replaced.
    retiring: bool,
    outdated: CancellationToken,
    closed: CancellationToken,
}

/// What a review needs of a row.
struct Found {
    hello: Hello,
    proof: Proof,
    transport: Transport,
    reach: Reach,
    outdated: CancellationToken,
    closed: CancellationToken,
}

impl Found {
    fn of(row: &Row) -> Found {
        Found {
            hello: row.hello,
            proof: row.proof,
            transport: row.transport,
            reach: row.reach.clone(),
            outdated: row.outdated.clone(),
            closed: row.closed.clone(),
        }
    }

    /// Ends the connection; `false` if that was done before.
    fn end(&self, refusal: &Refusal) -> bool {
        // It was a member's with another key; the record knows a later one.
        let replaced = refusal.code == RefusalCode::WrongIdentity && self.reach.get() == Admission::Member;
        let how = if replaced && self.transport == Transport::Quic { &self.outdated } else { &self.closed };
        let first = !self.closed.is_cancelled() && !how.is_cancelled();
        how.cancel();
        first
    }
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
        hello: Hello,
        proof: Proof,
        transport: Transport,
    ) -> Option<Connection> {
        let closed = self.all.child_token();
        let reach = Reach::default();
        let mut members = self.members.lock();
        let member = members.entry(hello.node).or_default();
        if member.live.len() >= CONNECTIONS_PER_PEER {
            return None;
        }
        let id = member.next;
        member.next += 1;
        let outdated = CancellationToken::new();
        let row = Row {
            transport,
            hello,
            proof,
            reach: reach.clone(),
            admitted: false,
            retiring: false,
            outdated: outdated.clone(),
            closed: closed.clone(),
        };
        member.live.insert(id, row);
        Some(Connection { connections: self.clone(), hello, id, reach, transport, outdated, closed })
    }

    /// Has every connection judged again, those that are being admitted too: closes the refused ones, answered with
    /// the reason, and lets the others do what they may do now. One over which streams run, of a member whose keys are
    /// not what they were, takes no more of them and is closed when they have ended.
    pub(crate) fn review(
        &self,
        judge: impl Fn(&Hello, &Proof, Transport) -> Result<Admission, Refusal>,
    ) -> Vec<(NodeId, Refusal)> {
        // Judged after the lock is let go of: it is held by every handshake, and the judge reads the state.
        let live: Vec<Found> =
            self.members.lock().values().flat_map(|m| m.live.values()).map(Found::of).collect();
        let mut closed = Vec::new();
        for found in live {
            match judge(&found.hello, &found.proof, found.transport) {
                Ok(admission) => found.reach.set(admission),
                // It says nothing about the peer.
                Err(refusal) if refusal.code == RefusalCode::Unreadable => {}
                Err(refusal) if found.end(&refusal) => closed.push((found.hello.node, refusal)),
                Err(_) => {}
            }
        }
        closed
    }

    /// Every connection was made with keys that are about to be replaced: that it ends means nothing about its peer.
    pub(crate) fn retire(&self) {
        let mut members = self.members.lock();
        members.values_mut().flat_map(|member| member.live.values_mut()).for_each(|row| row.retiring = true);
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
    hello: Hello,
    id: u64,
    reach: Reach,
    transport: Transport,
    outdated: CancellationToken,
    closed: CancellationToken,
}

impl Connection {
    /// Called once the peer is admitted, and what for. `false` if a later boot of the same member was seen: this one
    /// is a ghost. Otherwise connections of earlier boots are closed, because their process is gone.
    #[must_use]
    pub(crate) fn admitted(&self, admission: Admission) -> bool {
        let boot = self.hello.boot;
        let mut members = self.connections.members.lock();
        let member = members.entry(self.hello.node).or_default();
        if boot < member.boot {
            return false;
        }
        member.boot = boot;
        member.failed = None;
        if admission == Admission::Member {
            // Only upwards: a review that ran meanwhile judged later than this.
            self.reach.set(admission);
        }
        if let Some(row) = member.live.get_mut(&self.id) {
            row.admitted = true;
        }
        member.close(|row| row.hello.boot < boot);
        true
    }

    /// Who is at the other end.
    pub(crate) fn node(&self) -> NodeId {
        self.hello.node
    }

    /// What it may ask for.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Cancelled when the connection shall take no more streams, and be closed when those that run have ended.
    pub(crate) fn outdated(&self) -> &CancellationToken {
        &self.outdated
    }

    /// Cancelled when the connection shall be closed.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut members = self.connections.members.lock();
        let Some(member) = members.get_mut(&self.hello.node) else { return };
        // One that this node closed, or that went with the keys it was made with, tells nothing of the process there.
        let told = |row: Row| row.admitted && !row.retiring && !row.closed.is_cancelled();
        let admitted = member.live.remove(&self.id).is_some_and(told);
        let last_tcp = self.transport == Transport::Tcp && !member.has(Transport::Tcp);
        if admitted && last_tcp && self.hello.boot == member.boot {
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
    use clawhub_types::ClusterId;

    const NODE: NodeId = NodeId(4);
    const PROOF: Proof = Proof { spki: [7; 32], ca: [1; 32], followed_by: None };

    fn hello(node: NodeId, boot: u64) -> Hello {
        Hello { cluster: ClusterId([1; 16]), epoch: 1, node, boot, nonce: 0 }
    }

    fn table() -> Arc<Connections> {
        Connections::new(CancellationToken::new())
    }

    #[test]
    fn a_later_boot_closes_the_earlier_and_refuses_ghosts() {
        let connections = table();
        let old = connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap();
        assert!(old.admitted(Admission::Member));
        let new = connections.enter(hello(NODE, 2), PROOF, Transport::Tcp).unwrap();
        assert!(!old.closed().is_cancelled(), "not before it is admitted");
        assert!(new.admitted(Admission::Member));
        assert!(old.closed().is_cancelled() && !new.closed().is_cancelled());
        assert!(
            !connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap().admitted(Admission::Member)
        );
    }

    #[test]
    fn a_review_closes_whom_it_refuses_and_reaches_those_that_are_not_admitted_yet() {
        let connections = table();
        let here = connections.enter(hello(NODE, 1), PROOF, Transport::Quic).unwrap();
        let other = connections.enter(hello(NodeId(5), 1), PROOF, Transport::Quic).unwrap();
        let removed = Refusal::new(RefusalCode::Removed, "removed");
        let only_five = |hello: &Hello, _: &Proof, _| match hello.node {
            NodeId(5) => Ok(Admission::Member),
            _ => Err(removed.clone()),
        };
        assert_eq!(connections.review(only_five), [(NODE, removed.clone())]);
        assert!(here.closed().is_cancelled() && !other.closed().is_cancelled());
        assert_eq!(connections.review(only_five), [], "it is told of once");
        // A state that cannot be read says nothing about a peer.
        let unreadable = |_: &Hello, _: &Proof, _| Err(Refusal::new(RefusalCode::Unreadable, "broken"));
        assert_eq!(connections.review(unreadable), []);
        assert!(!other.closed().is_cancelled());
    }

    #[test]
    fn streams_end_by_themselves_where_a_members_keys_were_replaced_and_nothing_else_does() {
        let connections = table();
        let tcp = connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap();
        let quic = connections.enter(hello(NODE, 1), PROOF, Transport::Quic).unwrap();
        let early = connections.enter(hello(NODE, 1), PROOF, Transport::Quic).unwrap();
        assert!(tcp.admitted(Admission::Member) && quic.admitted(Admission::Member));
        let other_key = Refusal::new(RefusalCode::WrongIdentity, "another key");
        let judge = |_: &Hello, _: &Proof, _| Err(other_key.clone());
        assert_eq!(connections.review(judge).len(), 3);
        assert!(tcp.closed().is_cancelled());
        assert!(quic.outdated().is_cancelled() && !quic.closed().is_cancelled());
        assert!(early.closed().is_cancelled(), "it was nobody's yet");
        assert_eq!(connections.review(judge), [], "it is told of once");
        let removed = |_: &Hello, _: &Proof, _| Err(Refusal::new(RefusalCode::Removed, "removed"));
        connections.review(removed);
        assert!(quic.closed().is_cancelled(), "who was removed gets no time");
    }

    #[test]
    fn a_retired_connection_that_ends_says_nothing_about_its_peer() {
        let connections = table();
        let old = connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap();
        assert!(old.admitted(Admission::Member));
        connections.retire();
        let new = connections.enter(hello(NODE, 1), PROOF, Transport::Quic).unwrap();
        assert!(new.admitted(Admission::Member));
        drop(old);
        assert!(!new.closed().is_cancelled());
        assert_eq!(connections.standing(NODE), Standing::Connected);
    }

    #[test]
    fn who_was_let_in_for_the_log_becomes_a_member_when_it_is_known() {
        let connections = table();
        let new = connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap();
        assert_eq!(new.reach().get(), Admission::LogOnly, "not before it is admitted");
        assert!(new.admitted(Admission::LogOnly));
        let seen_by_a_request = new.reach().clone();
        assert_eq!(connections.review(|_, _, _| Ok(Admission::Member)), []);
        assert_eq!(seen_by_a_request.get(), Admission::Member);
    }

    #[test]
    fn the_last_tcp_connection_takes_quic_with_it() {
        let connections = table();
        let a = connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap();
        let b = connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap();
        assert!(a.admitted(Admission::Member) && b.admitted(Admission::Member));
        let quic = connections.enter(hello(NODE, 1), PROOF, Transport::Quic).unwrap();
        assert!(quic.admitted(Admission::Member));
        drop(a);
        assert!(!quic.closed().is_cancelled());
        assert_eq!(connections.standing(NODE), Standing::Connected);
        drop(connections.enter(hello(NODE, 1), PROOF, Transport::Tcp));
        assert!(!quic.closed().is_cancelled(), "one that was not admitted changes nothing");
        drop(b);
        assert!(quic.closed().is_cancelled());
        assert_eq!(connections.standing(NODE), Standing::Down);
    }

    #[test]
    fn a_ghost_that_goes_does_not_harm_the_living() {
        let connections = table();
        let ghost = connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap();
        assert!(ghost.admitted(Admission::Member));
        let quic = connections.enter(hello(NODE, 2), PROOF, Transport::Quic).unwrap();
        assert!(quic.admitted(Admission::Member));
        drop(ghost);
        assert!(!quic.closed().is_cancelled());
    }

    #[test]
    fn connections_are_bounded_and_rows_go_with_them() {
        let connections = table();
        let held: Vec<_> = (0..CONNECTIONS_PER_PEER)
            .map(|_| connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap())
            .collect();
        assert!(connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).is_none());
        assert!(connections.enter(hello(NodeId(5), 1), PROOF, Transport::Tcp).is_some());
        drop(held);
        assert!(connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).is_some());
    }

    #[test]
    fn standing_follows_what_happens() {
        let connections = table();
        assert_eq!(connections.standing(NODE), Standing::Unknown);
        connections.failed(NODE);
        assert_eq!(connections.standing(NODE), Standing::Down);
        let connection = connections.enter(hello(NODE, 1), PROOF, Transport::Tcp).unwrap();
        assert_eq!(connections.standing(NODE), Standing::Down, "not before it is admitted");
        assert!(connection.admitted(Admission::Member));
        assert_eq!(connections.standing(NODE), Standing::Connected);
    }
}
