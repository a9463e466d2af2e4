//! A small cluster to try commands on.

use std::sync::Arc;

use clawhub_kv::{Kv, MemoryKv};
use clawhub_types::{
    AccessRevisions, Actor, ClusterId, Digest, Digests, Durability, Location, NodeId, Receipt, RepoName,
    RequestId, Roles, Root, SessionId, Tag,
};

use crate::artifact::{ArtifactCmd, Body, Condition, ManifestFacts, Ref, RefKind};
use crate::blob::BlobCmd;
use crate::cluster::{ClusterCmd, ClusterReply, NodeSpec};
use crate::project::{ProjectPolicy, RepoRef};
use crate::{Command, Entry, LogItem, LogPos, Machine, Membership, Outcome, Payload, View};

/// An hour in ticks.
pub(crate) const HOUR: u64 = 60 * 60 * 1000;

/// A machine, and the log that leads to it.
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) tick: u64,
    index: u64,
    request: Option<RequestId>,
}

impl World {
    /// Before the first entry.
    pub(crate) fn blank() -> World {
        let machine = Machine::open(Arc::new(MemoryKv::new())).unwrap();
        World { machine, tick: 1000, index: 0, request: None }
    }

    /// Nodes 1, 2, … at these places, `region/zone`; a trailing `!` is a witness. All of them vote. A session is open.
    pub(crate) fn new(durability: Durability, places: &[&str]) -> World {
        let mut world = World::blank();
        world.ok(init(durability, spec(1, places[0])));
        for (n, place) in (2..).zip(&places[1..]) {
            let token = [n; 32];
            world.ok(ClusterCmd::TokenCreate { hash: token, ttl: HOUR });
            world.ok(ClusterCmd::Join { token, node: spec(n, place) });
        }
        world.votes(&[&(1..).zip(places).map(|(id, _)| id).collect::<Vec<_>>()]);
        world.open_session(NodeId(1), 1);
        world
    }

    /// From now on these nodes vote; two sets are a change that has not ended.
    pub(crate) fn votes(&mut self, configs: &[&[u64]]) {
        let config = |ids: &&[u64]| ids.iter().copied().map(NodeId).collect();
        let configs = configs.iter().map(config).collect();
        let membership = Membership { configs, nodes: Vec::new() };
        let item = self.item(Payload::Membership(membership));
        self.machine.apply(&[item]).unwrap();
    }

    /// Three regions of one node each.
    pub(crate) fn three() -> World {
        World::new(Durability::Zone, &["eu/a", "us/a", "ap/a"])
    }

    pub(crate) fn open_session(&mut self, node: NodeId, boot: u64) -> SessionId {
        match self.ok(ClusterCmd::SessionOpen { node, boot, nonce: boot * 7 }) {
            crate::Reply::Cluster(ClusterReply::Session(id)) => {
                self.request = Some(RequestId { session: id, seq: 0 });
                id
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View::new(&**self.machine.kv())
    }

    /// An entry by the system with the next request identity, if the command takes one.
    pub(crate) fn entry(&mut self, cmd: impl Into<Command>) -> Entry {
        let cmd = cmd.into();
        let request = if cmd.needs_identity() { self.request.as_mut() } else { None };
        let request = request.map(|request| {
            request.seq += 1;
            *request
        });
        Entry {
            tick: self.tick,
            at: 1_700_000_000_000 + self.tick,
            actor: Actor::system(),
            access: AccessRevisions::default(),
            request,
            deadline: None,
            cmd,
        }
    }

    pub(crate) fn item(&mut self, payload: Payload) -> LogItem {
        self.index += 1;
        LogItem { pos: LogPos { term: 1, node: 1, index: self.index }, payload }
    }

    pub(crate) fn apply(&mut self, entry: Entry) -> Outcome {
        let item = self.item(Payload::Entry(entry));
        let mut outcomes = self.machine.apply(&[item]).unwrap();
        outcomes.pop().unwrap().unwrap()
    }

    pub(crate) fn run(&mut self, cmd: impl Into<Command>) -> Outcome {
        let entry = self.entry(cmd);
        self.apply(entry)
    }

    pub(crate) fn ok(&mut self, cmd: impl Into<Command>) -> crate::Reply {
        self.run(cmd).unwrap()
    }

    /// Runs a command that must be refused, and checks that it leaves nothing but its answer behind.
    pub(crate) fn refused(&mut self, cmd: impl Into<Command>) -> crate::Rejected {
        let kv: &Arc<dyn Kv> = self.machine.kv();
        // Everything but the position and hash (`m`) and answers (`ca`).
        let all = |kv: &Arc<dyn Kv>| {
            let pairs = kv.scan(b"", &[0xff], usize::MAX).unwrap();
            let kept = pairs.into_iter().filter(|(k, _)| !k.starts_with(b"m") && !k.starts_with(b"ca"));
            kept.collect::<Vec<_>>()
        };
        let before = all(kv);
        let rejected = self.run(cmd).unwrap_err();
        assert_eq!(all(self.machine.kv()), before, "{rejected:?} left something behind");
        rejected
    }

    pub(crate) fn at(&self, name: &str) -> RepoRef {
        self.view().project().repo(&repo(name)).unwrap().unwrap()
    }

    /// Commits a blob with receipts of these nodes.
    pub(crate) fn blob(&mut self, name: &str, n: u64, nodes: &[u64]) -> crate::Reply {
        self.ok(commit(name, n, nodes))
    }
}

pub(crate) fn spec(n: u8, place: &str) -> NodeSpec {
    let (region, zone) = place.trim_end_matches('!').split_once('/').unwrap();
    NodeSpec {
        name: format!("node-{n}"),
        location: Location { region: region.into(), zone: zone.into() },
        roles: Roles { voter: true, storage: !place.ends_with('!') },
        peer_addr: format!("10.0.0.{n}:7000"),
        http_addr: format!("10.0.0.{n}:5000"),
        spki: [n; 32],
    }
}

pub(crate) fn init(durability: Durability, node: NodeSpec) -> ClusterCmd {
    ClusterCmd::Init {
        cluster: ClusterId([7; 16]),
        ca_cert: b"certificate".to_vec(),
        ca_key_sealed: b"sealed".to_vec(),
        durability,
        node,
    }
}

pub(crate) fn repo(name: &str) -> RepoName {
    name.parse().unwrap()
}

pub(crate) fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn hash(kind: &str, n: u64) -> [u8; 32] {
    *blake3::hash(format!("{kind} {n}").as_bytes()).as_bytes()
}

/// The digest of blob or manifest `n`.
pub(crate) fn digest(n: u64) -> Digest {
    Digest::Sha256(hash("sha256", n))
}

pub(crate) fn digest512(n: u64) -> Digest {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&hash("sha512", n));
    Digest::Sha512(bytes)
}

pub(crate) fn root(n: u64) -> Root {
    Root(hash("root", n))
}

pub(crate) fn size(n: u64) -> u64 {
    1000 + n
}

/// A good receipt for blob `n`.
pub(crate) fn receipt(node: u64, n: u64) -> Receipt {
    Receipt {
        node: NodeId(node),
        epoch: 0,
        generation: 1,
        digests: Digests { sha256: hash("sha256", n), sha512: None },
        root: root(n),
        size: size(n),
    }
}

pub(crate) fn receipt512(node: u64, n: u64) -> Receipt {
    let mut receipt = receipt(node, n);
    if let Digest::Sha512(bytes) = digest512(n) {
        receipt.digests.sha512 = Some(bytes);
    }
    receipt
}

pub(crate) fn receipts(nodes: &[u64], n: u64) -> Vec<Receipt> {
    nodes.iter().map(|node| receipt(*node, n)).collect()
}

pub(crate) fn commit(name: &str, n: u64, nodes: &[u64]) -> BlobCmd {
    BlobCmd::Commit { repo: repo(name), digest: digest(n), receipts: receipts(nodes, n) }
}

pub(crate) fn facts(blobs: &[u64]) -> ManifestFacts {
    ManifestFacts {
        media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
        size: 3,
        refs: blobs.iter().map(|n| Ref { digest: digest(*n), kind: RefKind::Blob }).collect(),
        parts: 0,
        subject: None,
        artifact_type: None,
        annotations: None,
    }
}

/// Manifest `n` in the log, with these blobs, under these tags.
pub(crate) fn put(name: &str, n: u64, blobs: &[u64], tags: &[&str]) -> ArtifactCmd {
    ArtifactCmd::Put {
        repo: repo(name),
        digest: digest(n),
        facts: facts(blobs),
        body: Body::Inline(b"{ }".to_vec()),
        tags: tags.iter().map(|t| tag(t)).collect(),
        condition: Condition::Any,
    }
}

/// A project's policy: `None` follows the cluster.
pub(crate) fn policy(
    durability: Option<Durability>,
    regions: Option<&[&str]>,
    confined: bool,
) -> ProjectPolicy {
    let regions = regions.map(|regions| regions.iter().map(|r| r.to_string()).collect());
    ProjectPolicy { durability, regions, confined }
}
