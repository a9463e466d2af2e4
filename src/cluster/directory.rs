//! Who the members are, for the peer layer: the replicated state, and where it is silent the peers
//! that were last known.
//!
//! Every certificate that the cluster issued is known by the hash of its key, in its member's record: one that names
//! a member and holds another key is refused, whoever signed it. One that names nobody is refused too, unless this node
//! is behind and a member that it does know vouches for that name and key; then it may bring the log, and nothing else.
//!
//! Owns the seed list and who was vouched for, in memory; the state is read at each question, since every answer may
//! change with the next entry applied. A crash loses who was vouched for: the members are asked again.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use clawhub_consensus::StateStore;
use clawhub_peer::{Acquaintances, Admission, Directory, Hello, PeerInfo, Proof, Refusal, RefusalCode};
use clawhub_state::cluster::NodeRecord;
use clawhub_state::{Fault, View};
use clawhub_types::NodeId;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// A peer as last known: where to go while the replicated state is still empty or far behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Its id.
    pub node: NodeId,
    /// `host:port`.
    pub addr: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its key.
    pub spki: [u8; 32],
}

/// Who the members are, as the peer layer asks. Every answer is of the state as it is then.
pub struct MemberDirectory {
    state: StateStore,
    seeds: RwLock<Vec<Seed>>,
    /// Set once consensus has started.
    behind: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    /// The keys of those for whom members vouch that this node knows.
    vouched: RwLock<BTreeMap<NodeId, [u8; 32]>>,
    /// Somebody wanted in for whom nobody has vouched.
    knocked: Notify,
}

impl MemberDirectory {
    /// Answers from `state`, and from `seeds` about nodes that it does not know yet.
    pub fn new(state: StateStore, seeds: Vec<Seed>) -> MemberDirectory {
        MemberDirectory {
            state,
            seeds: RwLock::new(seeds),
            behind: OnceLock::new(),
            vouched: RwLock::default(),
            knocked: Notify::new(),
        }
    }

    /// From now on `behind` tells whether this node may lack what the others know. Before that it counts as behind.
    pub fn hear(&self, behind: impl Fn() -> bool + Send + Sync + 'static) {
        // A node starts once.
        let _ = self.behind.set(Box::new(behind));
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.behind.get().is_none_or(|behind| behind())
    }

    /// The members as of now, as seeds for the next start; empty before the state knows any.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn current(&self) -> Result<Vec<Seed>, Fault> {
        let members = self.acquaintances()?.members.into_iter();
        Ok(members.map(|(node, info)| Seed { node, addr: info.addr, spki: info.spki }).collect())
    }

    /// Whom this node knows, by its state as it is: what it vouches for, so no seeds.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn acquaintances(&self) -> Result<Acquaintances, Fault> {
        let kv = self.state.kv();
        let (gone, present): (Vec<_>, Vec<_>) =
            View::new(&*kv).cluster().nodes()?.into_iter().partition(|node| node.removed);
        let known =
            |node: NodeRecord| (node.id, PeerInfo { addr: node.spec.peer_addr, spki: node.spec.spki });
        Ok(Acquaintances {
            members: present.into_iter().map(known).collect(),
            removed: gone.into_iter().map(|node| node.id).collect(),
        })
    }

    /// Completes when somebody wants in of whom only other members can know.
    pub(crate) async fn knocked(&self) {
        self.knocked.notified().await;
    }

    /// From now on these are vouched for, and nobody else.
    pub(crate) fn vouch(&self, keys: BTreeMap<NodeId, [u8; 32]>) {
        *self.vouched.write() = keys;
    }

    /// The ids of the members; none if the state cannot be read.
    pub fn ids(&self) -> Vec<NodeId> {
        let members = self.current().unwrap_or_else(|fault| {
            unreadable(fault);
            Vec::new()
        });
        members.into_iter().map(|seed| seed.node).collect()
    }

    /// The peers that were last known.
    pub(crate) fn seeds(&self) -> Vec<Seed> {
        self.seeds.read().clone()
    }

    pub(crate) fn set_seeds(&self, seeds: Vec<Seed>) {
        *self.seeds.write() = seeds;
    }

    fn record(&self, node: NodeId) -> Result<Option<NodeRecord>, Fault> {
        let kv = self.state.kv();
        View::new(&*kv).cluster().node(node)
    }

    /// The highest id that the state knows.
    fn last(&self) -> Result<NodeId, Fault> {
        let kv = self.state.kv();
        Ok(View::new(&*kv).cluster().nodes()?.last().map_or(NodeId(0), |node| node.id))
    }

    /// Whether a member may show this key: its own, the next one that it has confirmed, and none of a generation that is
    /// over.
    fn knows_key(&self, record: &NodeRecord, spki: &[u8; 32]) -> Result<bool, Fault> {
        let kv = self.state.kv();
        let in_force = View::new(&*kv).cluster().keys()?.generation;
        let present = record.spec.spki == *spki && record.generation >= in_force;
        Ok(present || record.next_spki == Some(*spki))
    }

    /// Whether a certificate is of a later CA than the one that is in force by the state here: that of the rotation
    /// under way, or, if the state knows of none, whichever is believed here and does not come before it: this node's
    /// files may be ahead of the state, as those of one that has just joined are.
    fn is_next_ca(&self, proof: &Proof) -> Result<bool, Fault> {
        let kv = self.state.kv();
        let view = View::new(&*kv).cluster();
        let in_force = view
            .record()?
            .is_none_or(|cluster| proof.is_of(&cluster.ca_cert) || proof.is_before(&cluster.ca_cert));
        let rotation = view.keys()?.rotation;
        Ok(!in_force && rotation.is_none_or(|rotation| proof.is_of(&rotation.ca_cert)))
    }

    /// About a node that the state does not know. Its certificate is the CA's for this id, and whoever ever had a
    /// member's disk can make one: it proves nothing. Ids are handed out in order by the log: if it is above all known
    /// ones and this node is behind, perhaps that very node is the leader it must hear from to catch up. Then the members
    /// that are known here know it.
    fn admit_unknown(&self, hello: &Hello, proof: &Proof) -> Result<Admission, Refusal> {
        if let Some(seed) = self.seeds.read().iter().find(|seed| seed.node == hello.node) {
            return if seed.spki == proof.spki { Ok(Admission::Member) } else { Err(other_key()) };
        }
        if self.is_behind() && hello.node > self.last().map_err(unreadable)? {
            if self.vouched.read().get(&hello.node) == Some(&proof.spki) {
                return Ok(Admission::LogOnly);
            }
            // It will ask again, and perhaps somebody has vouched for it by then.
            self.knocked.notify_one();
        }
        Err(Refusal::new(RefusalCode::UnknownNode, "not a member of the cluster"))
    }
}

fn other_key() -> Refusal {
    Refusal::new(RefusalCode::WrongIdentity, "its key is not the member's")
}

fn unreadable(fault: Fault) -> Refusal {
    tracing::error!(%fault, "the state cannot be read");
    Refusal::new(RefusalCode::Unreadable, "the state cannot be read")
}

impl Directory for MemberDirectory {
    fn lookup(&self, node: NodeId) -> Option<PeerInfo> {
        match self.record(node) {
            Ok(Some(record)) if record.removed => return None,
            Ok(Some(record)) => {
                return Some(PeerInfo { addr: record.spec.peer_addr, spki: record.spec.spki });
            }
            Ok(None) => (),
            Err(fault) => {
                unreadable(fault);
            }
        }
        let seeds = self.seeds.read();
        let seed = seeds.iter().find(|seed| seed.node == node)?;
        Some(PeerInfo { addr: seed.addr.clone(), spki: seed.spki })
    }

    fn admit(&self, hello: &Hello, proof: &Proof) -> Result<Admission, Refusal> {
        let Some(record) = self.record(hello.node).map_err(unreadable)? else {
            return self.admit_unknown(hello, proof);
        };
        if record.removed {
            // The node stops when it hears this code.
            return Err(Refusal::new(RefusalCode::Removed, "the node was removed from the cluster"));
        }
        if !self.knows_key(&record, &proof.spki).map_err(unreadable)? {
            // Perhaps it has confirmed or replaced its keys since the state here. Those who have the next CA's key are
            // members of the generation that it is for.
            let brings_more = self.is_behind() && self.is_next_ca(proof).map_err(unreadable)?;
            return if brings_more { Ok(Admission::LogOnly) } else { Err(other_key()) };
        }
        // The present start registered itself, and goes on connecting. Another one of the same number is of
        // a disk that was copied, or one start old.
        let present = (hello.boot, hello.nonce) == (record.boot, record.nonce);
        if hello.boot <= record.boot && !present {
            // The node stops when it hears this code.
            let why = "an old copy of its data, or a second process with it";
            let text = format!("boot {} is not above {}, seen before: {why}", hello.boot, record.boot);
            return Err(Refusal::new(RefusalCode::StaleBoot, text));
        }
        Ok(Admission::Member)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use clawhub_kv::Kv;
    use clawhub_kv::memory::MemoryKv;
    use clawhub_state::cluster::{ClusterCmd, NodeSpec};
    use clawhub_state::{Command, Entry, LifecycleCmd, LogItem, LogMark, LogPos, Machine, Payload};
    use clawhub_types::{
        AccessRevisions, Actor, ClusterId, Durability, Location, RequestId, Roles, SessionId,
    };

    use super::*;

    const CLUSTER: ClusterId = ClusterId([9; 16]);

    fn spec(node: u8) -> NodeSpec {
        NodeSpec {
            name: format!("n{node}"),
            location: Location { region: format!("r{node}"), zone: "a".into() },
            roles: Roles { voter: true, storage: true },
            peer_addr: format!("h{node}:7000"),
            http_addr: format!("h{node}:5000"),
            spki: [node; 32],
        }
    }

    /// Nodes 1 and 2 are members, node 2 at boot 5; node 3 was one.
    fn commands() -> Vec<Command> {
        let token = |hash| ClusterCmd::TokenCreate { hash: [hash; 32], ttl: 60_000 };
        let join = |hash, node| ClusterCmd::Join { token: [hash; 32], node: spec(node) };
        let cluster = [
            ClusterCmd::Init {
                cluster: CLUSTER,
                ca_cert: vec![1],
                ca_key_sealed: vec![2],
                durability: Durability::Local,
                node: spec(1),
            },
            // Its id is its index, 1.
            ClusterCmd::SessionOpen { node: NodeId(1), boot: 1, nonce: 1 },
            token(2),
            join(2, 2),
            token(3),
            join(3, 3),
            ClusterCmd::Boot {
                node: NodeId(2),
                boot: 5,
                nonce: 1,
                peer_addr: "moved:7000".into(),
                http_addr: "moved:5000".into(),
                found: LogMark::default(),
                acknowledged: None,
                start_key: Vec::new(),
            },
        ];
        let remove = LifecycleCmd::RemoveNode { node: NodeId(3), force: false };
        cluster.into_iter().map(Command::from).chain([remove.into()]).collect()
    }

    fn members(commands: &[Command], seeds: Vec<Seed>) -> (tempfile::TempDir, MemberDirectory) {
        members_at(&commands.iter().map(|cmd| (1, cmd.clone())).collect::<Vec<_>>(), seeds)
    }

    /// After commands that come at these ticks.
    fn members_at(commands: &[(u64, Command)], seeds: Vec<Seed>) -> (tempfile::TempDir, MemberDirectory) {
        let temp = tempfile::tempdir().unwrap();
        let state =
            StateStore::open(temp.path(), |_, _| Ok(Arc::new(MemoryKv::new()) as Arc<dyn Kv>)).unwrap();
        let mut machine = Machine::open(state.kv()).unwrap();
        for (index, (tick, cmd)) in commands.iter().enumerate() {
            let cmd = cmd.clone();
            let request = RequestId { session: SessionId(1), seq: index as u64 };
            let entry = Entry {
                tick: *tick,
                at: 1,
                actor: Actor::system(),
                access: AccessRevisions::default(),
                request: cmd.needs_identity().then_some(request),
                deadline: None,
                cmd,
            };
            let pos = LogPos { term: 1, node: 1, index: index as u64 };
            let answers = machine.apply(&[LogItem { pos, payload: Payload::Entry(entry) }]).unwrap();
            answers[0].as_ref().unwrap().as_ref().unwrap();
        }
        (temp, MemberDirectory::new(state, seeds))
    }

    /// Of a key of this CA, the present one, if it is not another byte.
    fn certified(key: u8, ca: u8) -> Proof {
        let sha256 = clawhub_peer::certificate_sha256;
        Proof { spki: [key; 32], ca: sha256(&[ca]), followed_by: (ca == 1).then(|| sha256(&[7])) }
    }

    fn proof(key: u8) -> Proof {
        certified(key, 1)
    }

    fn admitted(members: &MemberDirectory, node: u64, boot: u64, key: u8) -> bool {
        let hello = Hello { cluster: CLUSTER, epoch: 1, node: NodeId(node), boot, nonce: 1 };
        members.admit(&hello, &proof(key)).is_ok()
    }

    #[test]
    fn members_are_admitted_with_their_own_key_and_no_older_boot() {
        let (_temp, members) = members(&commands(), Vec::new());
        assert!(admitted(&members, 2, 5, 2), "the present boot");
        assert!(admitted(&members, 2, 6, 2), "a later one, not registered yet");
        assert!(!admitted(&members, 2, 4, 2), "an old copy of its disk");
        assert!(!admitted(&members, 2, 5, 1), "another member's key");
        let twin = Hello { cluster: CLUSTER, epoch: 1, node: NodeId(2), boot: 5, nonce: 2 };
        assert_eq!(
            members.admit(&twin, &proof(2)).unwrap_err().code,
            RefusalCode::StaleBoot,
            "a disk one start old, or a twin"
        );
        assert_eq!(members.lookup(NodeId(2)).unwrap().addr, "moved:7000");
        assert_eq!(members.current().unwrap().iter().map(|seed| seed.node.0).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_removed_node_is_neither_admitted_nor_called_and_is_told() {
        let seed = Seed { node: NodeId(3), addr: "h3:7000".into(), spki: [3; 32] };
        let (_temp, members) = members(&commands(), vec![seed]);
        let hello = Hello { cluster: CLUSTER, epoch: 1, node: NodeId(3), boot: 9, nonce: 0 };
        assert_eq!(members.admit(&hello, &proof(3)).unwrap_err().code, RefusalCode::Removed);
        assert_eq!(members.lookup(NodeId(3)), None);
    }

    #[test]
    fn only_a_node_that_is_behind_admits_whom_others_vouch_for_and_only_for_the_log() {
        let (_temp, members) = members(&commands(), Vec::new());
        let behind = Arc::new(AtomicBool::new(true));
        let judge = |node: u64| {
            let hello = Hello { cluster: CLUSTER, epoch: 1, node: NodeId(node), boot: 1, nonce: 1 };
            members.admit(&hello, &proof(4)).map_err(|refusal| refusal.code)
        };
        assert_eq!(judge(4), Err(RefusalCode::UnknownNode), "nobody vouches for it");
        members.vouch(BTreeMap::from([(NodeId(4), [5; 32])]));
        assert_eq!(judge(4), Err(RefusalCode::UnknownNode), "somebody else is vouched for");
        members.vouch(BTreeMap::from([(NodeId(4), [4; 32]), (NodeId(1), [4; 32]), (NodeId(3), [4; 32])]));
        assert_eq!(judge(4), Ok(Admission::LogOnly), "before consensus has started");
        let told = behind.clone();
        members.hear(move || told.load(Ordering::SeqCst));
        assert_eq!(judge(4), Ok(Admission::LogOnly), "joined after the last entry here");
        assert_eq!(judge(0), Err(RefusalCode::UnknownNode), "such an id was never given");
        assert_eq!(judge(1), Err(RefusalCode::WrongIdentity), "a member's id with another key");
        assert_eq!(judge(3), Err(RefusalCode::Removed));
        behind.store(false, Ordering::SeqCst);
        assert_eq!(judge(4), Err(RefusalCode::UnknownNode), "who joined is known here");
    }

    #[test]
    fn before_the_first_entry_the_seeds_are_the_members() {
        let seed = Seed { node: NodeId(1), addr: "h1:7000".into(), spki: [1; 32] };
        let (_temp, members) = members(&[], vec![seed]);
        assert!(admitted(&members, 1, 3, 1) && !admitted(&members, 1, 3, 2));
        assert_eq!(members.lookup(NodeId(1)), Some(PeerInfo { addr: "h1:7000".into(), spki: [1; 32] }));
        assert_eq!(members.lookup(NodeId(2)), None);
    }

    #[test]
    fn both_keys_count_while_they_are_replaced_and_the_old_ones_never_after() {
        use clawhub_state::cluster::{GRACE, RotationCmd};
        let step = |step| Command::from(ClusterCmd::Rotation(step));
        let begin = RotationCmd::Begin {
            generation: 2,
            ca_cert: vec![7],
            ca_key_sealed: vec![7],
            envelopes: Vec::new(),
        };
        let confirm = |node: u64| RotationCmd::Confirm {
            generation: 2,
            node: NodeId(node),
            spki: [70 + node as u8; 32],
        };
        let mut log: Vec<(u64, Command)> = commands().into_iter().map(|cmd| (1, cmd)).collect();
        let behind = Arc::new(AtomicBool::new(false));
        let judge = |log: &[(u64, Command)], key: u8, ca: u8| {
            let (_temp, members) = members_at(log, Vec::new());
            let told = behind.clone();
            members.hear(move || told.load(Ordering::SeqCst));
            let hello = Hello { cluster: CLUSTER, epoch: 1, node: NodeId(2), boot: 6, nonce: 1 };
            members.admit(&hello, &certified(key, ca)).map_err(|refusal| refusal.code)
        };
        const REFUSED: Result<Admission, RefusalCode> = Err(RefusalCode::WrongIdentity);
        assert_eq!(judge(&log, 72, 7), REFUSED);
        log.push((1, step(begin)));
        assert_eq!((judge(&log, 2, 1), judge(&log, 72, 7)), (Ok(Admission::Member), REFUSED));
        behind.store(true, Ordering::SeqCst);
        assert_eq!(judge(&log, 72, 7), Ok(Admission::LogOnly), "it may have confirmed since");
        assert_eq!(judge(&log, 72, 1), REFUSED, "of the present CA, which whoever was removed has");
        behind.store(false, Ordering::SeqCst);
        log.push((1, step(confirm(2))));
        assert_eq!((judge(&log, 2, 1), judge(&log, 72, 7)), (Ok(Admission::Member), Ok(Admission::Member)));
        log.extend([confirm(1), RotationCmd::Switch { generation: 2 }].map(|next| (1, step(next))));
        assert_eq!((judge(&log, 2, 1), judge(&log, 72, 7)), (Ok(Admission::Member), Ok(Admission::Member)));
        log.push((1 + GRACE, step(RotationCmd::Finish { generation: 2 })));
        behind.store(true, Ordering::SeqCst);
        assert_eq!((judge(&log, 2, 1), judge(&log, 72, 7)), (REFUSED, Ok(Admission::Member)));
    }
}
