//! Bytes of every released shape: what one version wrote, every later one reads.
//!
//! A file per shape in `golden/`, a line per sample: its name and its bytes in hex. A line is never
//! changed. `cargo test -p clawhub-state -- --ignored write_missing` writes files for shapes that have
//! none yet.

#[path = "golden_outcomes_test.rs"]
mod outcomes;

use std::fmt::Debug;
use std::path::PathBuf;

use clawhub_types::{
    AccessRevisions, Actor, ClusterId, CredentialId, Durability, NodeId, Origin, Principal, PrincipalId,
    ProjectId, RepoId, RequestId, SessionId,
};

use self::outcomes::outcomes;
use crate::artifact::{
    ArtifactCmd, ArtifactEvent, ArtifactRejected, ArtifactReply, Body, BodyRef, Condition, ManifestFacts,
    ManifestRecord, Ref, RefKind, TagChange, TagRecord,
};
use crate::blob::{BlobCmd, BlobEvent, BlobRejected, BlobReply, LinkRecord, RootRecord, StoredBytes};
use crate::cluster::{
    Acknowledgement, ClusterCmd, ClusterEvent, ClusterRecord, ClusterRejected, ClusterReply, Envelope,
    KeysRecord, NodeRecord, Rotation, RotationCmd, SessionRecord,
};
use crate::outbox::{Event, OutboxCmd, OutboxRow};
use crate::position::MembershipRecord;
use crate::project::{
    ProjectCmd, ProjectEvent, ProjectRecord, ProjectRejected, ProjectReply, RepoRecord, RepoRef,
};
use crate::record::Record;
use crate::state_hash::StateHash;
use crate::testing::{digest, digest512, init, policy, receipt512, repo, root, spec, tag};
use crate::{
    Command, Entry, Fault, LifecycleCmd, LogMark, LogPos, Membership, Outcome, Rejected, Reply,
    RequestRejected,
};

/// One shape's samples, and how to read them.
struct Shape {
    number: u16,
    name: &'static str,
    samples: Vec<(&'static str, Vec<u8>)>,
    reencode: fn(&[u8]) -> Result<Vec<u8>, Fault>,
}

fn shape<R: Record + Debug + PartialEq>(samples: Vec<(&'static str, R)>) -> Shape {
    let encoded = samples.into_iter().map(|(name, sample)| {
        let bytes = sample.encode();
        assert_eq!(R::decode(&bytes).unwrap(), sample, "{name}");
        (name, bytes)
    });
    Shape {
        number: R::SHAPE,
        name: R::NAME,
        samples: encoded.collect(),
        reencode: |bytes| R::decode(bytes).map(|record| record.encode()),
    }
}

fn one<R: Record + Debug + PartialEq>(sample: R) -> Shape {
    shape(vec![("sample", sample)])
}

impl Shape {
    fn path(&self) -> PathBuf {
        let file = format!("{:04x}-{}.txt", self.number, self.name.replace(' ', "-"));
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file)
    }

    fn text(&self) -> String {
        self.samples.iter().map(|(name, bytes)| format!("{name} {}\n", hex::encode(bytes))).collect()
    }
}

fn entry(cmd: impl Into<Command>) -> Entry {
    Entry {
        tick: 1_000_000,
        at: 1_700_000_000_123,
        actor: Actor::anonymous(),
        access: AccessRevisions {
            cluster: 2,
            project: Some((ProjectId(3), 4)),
            source: Some((ProjectId(5), 6)),
            principal: Some((PrincipalId(7), 8)),
        },
        request: Some(RequestId { session: SessionId(600), seq: 7 }),
        deadline: Some(1_003_000),
        cmd: cmd.into(),
    }
}

fn sample_facts() -> ManifestFacts {
    ManifestFacts {
        media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
        size: 7023,
        refs: vec![
            Ref { digest: digest(1), kind: RefKind::Blob },
            Ref { digest: digest512(2), kind: RefKind::Child },
            Ref { digest: digest(4), kind: RefKind::Optional },
        ],
        parts: 2,
        subject: Some(digest(3)),
        artifact_type: Some("application/example".into()),
        annotations: Some(vec![("key".into(), "value".into())]),
    }
}

fn envelope() -> Envelope {
    Envelope { node: NodeId(2), boot: 3, sealed: b"sealed to a start".to_vec() }
}

fn rotation_entries() -> Vec<(&'static str, Entry)> {
    let (generation, node) = (5, NodeId(2));
    let begin = RotationCmd::Begin {
        generation,
        ca_cert: b"certificate".to_vec(),
        ca_key_sealed: b"sealed".to_vec(),
        envelopes: vec![envelope()],
    };
    let step = |step| Entry { request: None, ..entry(ClusterCmd::Rotation(step)) };
    vec![
        ("rotation-ask", entry(ClusterCmd::Rotation(RotationCmd::Ask { wait: 600_000 }))),
        ("rotation-begin", step(begin)),
        ("rotation-seal", step(RotationCmd::Seal { generation, envelope: envelope() })),
        ("rotation-confirm", step(RotationCmd::Confirm { generation, node, spki: [6; 32] })),
        ("rotation-switch", step(RotationCmd::Switch { generation })),
        ("rotation-finish", step(RotationCmd::Finish { generation })),
    ]
}

fn cluster_entries() -> Vec<(&'static str, Entry)> {
    let node = NodeId(2);
    vec![
        ("init", entry(init(Durability::Zone, spec(1, "eu/a")))),
        ("token-create", entry(ClusterCmd::TokenCreate { hash: [1; 32], ttl: 3_600_000 })),
        ("join", entry(ClusterCmd::Join { token: [1; 32], node: spec(2, "us/b!") })),
        (
            "boot",
            entry(ClusterCmd::Boot {
                node,
                boot: 3,
                nonce: u64::MAX,
                peer_addr: "p:7000".into(),
                http_addr: "h:5000".into(),
                found: LogMark { term: 4, index: 500 },
                acknowledged: Some(LogMark { term: 3, index: 400 }),
                start_key: vec![5; 32],
            }),
        ),
        (
            "acknowledged",
            entry(ClusterCmd::Acknowledged {
                term: 5,
                nodes: vec![Acknowledgement { node, boot: 3, index: 600 }],
            }),
        ),
        (
            "session-open",
            Entry { request: None, ..entry(ClusterCmd::SessionOpen { node, boot: 3, nonce: 9 }) },
        ),
        ("session-close", entry(ClusterCmd::SessionClose { session: SessionId(600) })),
        ("session-floor", entry(ClusterCmd::SessionFloor { session: SessionId(600), floor: 12 })),
        ("drain", entry(ClusterCmd::Drain { node, on: true })),
        ("failing", Entry { request: None, ..entry(ClusterCmd::Failing { node, boot: 3 }) }),
    ]
}

fn blob_entries() -> Vec<(&'static str, Entry)> {
    let (node, roots) = (NodeId(2), vec![root(1), root(2)]);
    let receipts = vec![receipt512(1, 1), receipt512(2, 1)];
    vec![
        (
            "commit",
            entry(BlobCmd::Commit { repo: repo("a/b"), digest: digest(1), receipts: receipts.clone() }),
        ),
        ("mount", entry(BlobCmd::Mount { from: repo("a/b"), to: repo("c/d"), digest: digest512(1) })),
        ("unlink", entry(BlobCmd::Unlink { repo: repo("a/b"), digest: digest(1) })),
        ("renew", entry(BlobCmd::Renew { repo: repo("a/b"), digest: digest(1) })),
        ("hold", entry(BlobCmd::Hold { receipts: receipts.clone() })),
        ("ensured", entry(BlobCmd::Ensured { repo: repo("a/b"), receipts })),
        ("release", entry(BlobCmd::Release { node, roots: roots.clone() })),
        ("lost", entry(BlobCmd::Lost { node, roots: roots.clone() })),
        ("review", Entry { request: None, ..entry(BlobCmd::Review { roots }) }),
        ("epoch", entry(BlobCmd::Epoch { node, epoch: 4 })),
    ]
}

fn artifact_entries() -> Vec<(&'static str, Entry)> {
    let put = |body, condition| {
        entry(ArtifactCmd::Put {
            repo: repo("a/b"),
            digest: digest(9),
            facts: sample_facts(),
            body,
            tags: vec![tag("latest"), tag("v1")],
            condition,
        })
    };
    let receipt = receipt512(1, 9);
    let stored = StoredBytes { root: root(9), digests: receipt.digests.clone(), receipts: vec![receipt] };
    let untag = |condition| entry(ArtifactCmd::Untag { repo: repo("a/b"), tag: tag("v1"), condition });
    let refs = sample_facts().refs;
    let stage = ArtifactCmd::Stage { repo: repo("a/b"), digest: digest(9), part: 2, refs };
    vec![
        ("stage", Entry { request: None, ..entry(stage) }),
        ("put-inline", put(Body::Inline(b"{}".to_vec()), Condition::Any)),
        ("put-stored", put(Body::Stored(stored), Condition::Absent)),
        ("delete", entry(ArtifactCmd::Delete { repo: repo("a/b"), digest: digest512(9) })),
        ("untag", untag(Condition::Exists)),
        ("untag-matches", untag(Condition::Matches(vec![digest(1), digest512(2)]))),
    ]
}

fn other_entries() -> Vec<(&'static str, Entry)> {
    let policy = policy(Some(Durability::Region), Some(&["eu", "us"]), true);
    vec![
        ("set-policy", entry(ProjectCmd::SetPolicy { name: "a".parse().unwrap(), policy })),
        ("outbox-cursor", entry(OutboxCmd::Cursor { reader: "hooks".into(), done: Some(300) })),
        ("remove-node", entry(LifecycleCmd::RemoveNode { node: NodeId(2), force: true })),
    ]
}

/// Every kind of principal, and everything that may be said of one.
fn actors() -> Vec<(&'static str, Actor)> {
    let origin = |address: &str| Origin {
        address: Some(address.parse().unwrap()),
        request: Some("4bf92f35-1".parse().unwrap()),
    };
    let user = Actor {
        principal: Principal::User(PrincipalId(7)),
        credential: Some(CredentialId(8)),
        on_behalf_of: Some(PrincipalId(9)),
        origin: origin("192.0.2.1"),
    };
    let service = Actor { origin: origin("2001:db8::1"), ..Principal::Service(PrincipalId(10)).actor() };
    vec![
        ("by-anonymous", Actor::anonymous()),
        ("by-system", Actor::system()),
        ("by-operator", Actor::operator()),
        ("by-user", user),
        ("by-service", service),
        ("by-node", Principal::Node(NodeId(2)).actor()),
    ]
}

fn entries() -> Vec<(&'static str, Entry)> {
    let mut all = cluster_entries();
    all.extend(rotation_entries());
    all.extend(other_entries());
    all.extend(blob_entries());
    all.extend(artifact_entries());
    let epoch = || entry(BlobCmd::Epoch { node: NodeId(1), epoch: 1 });
    all.extend(actors().into_iter().map(|(name, actor)| (name, Entry { actor, deadline: None, ..epoch() })));
    all
}

fn events() -> Vec<(&'static str, OutboxRow)> {
    let (repo, digest, node) = (repo("a/b"), digest(1), NodeId(2));
    let row = |event: Event| OutboxRow { at: 1_700_000_000_123, actor: Actor::operator(), event };
    let put = Event::Artifact(ArtifactEvent::ManifestPut {
        repo: repo.clone(),
        digest: digest.clone(),
        media_type: sample_facts().media_type,
        tags: vec![tag("t")],
    });
    let deleted = Event::Artifact(ArtifactEvent::ManifestDeleted {
        repo: repo.clone(),
        digest: digest.clone(),
        tags: vec![tag("t")],
    });
    vec![
        ("manifest-put", row(put)),
        ("manifest-deleted", row(deleted)),
        (
            "tag-deleted",
            row(Event::Artifact(ArtifactEvent::TagDeleted {
                repo: repo.clone(),
                tag: tag("t"),
                digest: digest.clone(),
            })),
        ),
        ("blob-unlinked", row(Event::Blob(BlobEvent::BlobUnlinked { repo, digest }))),
        ("policy-set", row(Event::Project(ProjectEvent::PolicySet { project: "a".parse().unwrap() }))),
        ("node-joined", row(Event::Cluster(ClusterEvent::NodeJoined { node }))),
        ("node-removed", row(Event::Cluster(ClusterEvent::NodeRemoved { node, forced: true }))),
    ]
}

fn cluster_shapes() -> Vec<Shape> {
    use crate::cluster::records::{AnswerRecord, IdsRecord, TokenRecord};
    let cluster = ClusterRecord {
        id: ClusterId([7; 16]),
        epoch: 1,
        ca_cert: b"certificate".to_vec(),
        ca_key_sealed: b"sealed".to_vec(),
        durability: Durability::Region,
        access_rev: 2,
        level: 1,
    };
    let node = NodeRecord {
        id: NodeId(2),
        spec: spec(2, "us/b!"),
        boot: 3,
        nonce: u64::MAX,
        start_key: vec![5; 32],
        acknowledged: LogMark { term: 5, index: 600 },
        epoch: 4,
        draining: true,
        failing: Some(3),
        removed: true,
        generation: 3,
        next_spki: Some([6; 32]),
    };
    let rotation = Rotation {
        generation: 5,
        ca_cert: b"certificate".to_vec(),
        ca_key_sealed: b"sealed".to_vec(),
        until: 700_000,
        switched: Some(600_000),
        envelopes: vec![envelope()],
    };
    let session = SessionRecord { node: NodeId(2), boot: 3, nonce: 9, floor: 12 };
    vec![
        one(cluster),
        one(node),
        shape(vec![
            ("unused", TokenRecord { expires: 5, used: None }),
            ("used", TokenRecord { expires: 5, used: Some(NodeId(2)) }),
        ]),
        one(session),
        one(AnswerRecord { index: 300, outcome: Ok(Reply::Done) }),
        one(IdsRecord { node: 4, project: 5 }),
        shape(vec![
            ("settled", KeysRecord::default()),
            ("rotated", KeysRecord { generation: 3, last: 5, due: Some(600_000), rotation: Some(rotation) }),
        ]),
        one(crate::meta::TickRecord(1_000_000)),
    ]
}

fn data_shapes() -> Vec<Shape> {
    let at = RepoRef { project: ProjectId(3), repo: RepoId(4) };
    let project = ProjectRecord {
        id: ProjectId(3),
        name: "a".parse().unwrap(),
        policy: policy(Some(Durability::Local), Some(&["eu"]), true),
        access_rev: 1,
        bytes: 5_000_000_000,
        manifests: 2,
        tags: 3,
        next_repo: 5,
    };
    let root_record = RootRecord {
        size: 5_000_000_000,
        generation: 1,
        digests: receipt512(1, 1).digests,
        holders: vec![NodeId(1), NodeId(2)],
        projects: 1,
        links: 2,
        unlinked_since: Some(9),
        short_since: Some(10),
    };
    let link = LinkRecord { root: root(1), size: 1001, lease_until: Some(86_400_000) };
    let manifest = |body| ManifestRecord { facts: sample_facts(), body, pushed_at: 1_700_000_000_123 };
    vec![
        one(project),
        one(crate::project::records::ProjectIdRecord(ProjectId(3))),
        one(at),
        one(RepoRecord { name: repo("a/b"), created_at: 1_700_000_000_123 }),
        one(root_record),
        one(crate::blob::records::DigestRecord(root(1))),
        one(crate::blob::records::LinkCountRecord(7)),
        shape(vec![("leased", link), ("held", LinkRecord { lease_until: None, ..link })]),
        shape(vec![("inline", manifest(BodyRef::Inline)), ("stored", manifest(BodyRef::Stored(root(1))))]),
        one(crate::artifact::records::PartRecord(sample_facts().refs)),
        one(crate::artifact::records::StagedRecord(1_000_000)),
        one(TagRecord { digest: digest(1), at: 1_700_000_000_123, index: 300 }),
        shape(tag_changes()),
        shape(events()),
        one(crate::outbox::records::CursorRecord(300)),
    ]
}

fn tag_changes() -> Vec<(&'static str, TagChange)> {
    let change = |digest, actor| TagChange { index: 300, digest, tick: 9, at: 1_700_000_000_123, actor };
    vec![
        ("moved", change(Some(digest(1)), Principal::User(PrincipalId(7)).actor())),
        ("deleted", change(None, Actor::anonymous())),
    ]
}

fn state_hash() -> StateHash {
    let mut hash = StateHash::default();
    hash.add(b"key", b"value");
    hash
}

fn shapes() -> Vec<Shape> {
    let pos = LogPos { term: 2, node: 3, index: 400 };
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    let membership =
        Membership { configs: vec![ids(&[1, 2, 3]), ids(&[1, 2, 300])], nodes: ids(&[1, 2, 3, 7, 300]) };
    let mut all = vec![
        shape(entries()),
        shape(outcomes()),
        one(pos),
        one(MembershipRecord { pos, membership }),
        one(state_hash()),
    ];
    all.extend(cluster_shapes());
    all.extend(data_shapes());
    all
}

#[test]
#[expect(clippy::disallowed_methods, reason = "reads the samples, in a test")]
fn old_bytes_are_read_and_written_alike() {
    for shape in shapes() {
        let path = shape.path();
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for line in golden.lines() {
            let (name, bytes) = line.split_once(' ').unwrap();
            let bytes = hex::decode(bytes).unwrap();
            let again = (shape.reencode)(&bytes).unwrap_or_else(|e| panic!("{}, {name}: {e}", shape.name));
            assert_eq!(hex::encode(again), hex::encode(bytes), "{}, {name}", shape.name);
        }
        assert_eq!(golden, shape.text(), "the samples of {} no longer encode alike", shape.name);
    }
}

#[test]
fn shapes_are_numbered_apart_and_tell_strangers() {
    let all = shapes();
    let numbers: std::collections::BTreeSet<_> = all.iter().map(|shape| shape.number).collect();
    assert_eq!(numbers.len(), all.len());
    for shape in &all {
        for (name, bytes) in &shape.samples {
            let mut newer = bytes.clone();
            newer[0] = 0x7f;
            assert!(matches!((shape.reencode)(&newer), Err(Fault::UnknownShape { .. })), "{name}");
            assert!((shape.reencode)(&bytes[..bytes.len() - 1]).is_err(), "{name}, cut");
            let longer = [&bytes[..], &[0]].concat();
            assert!(matches!((shape.reencode)(&longer), Err(Fault::Corrupt { .. })), "{name}, longer");
        }
        assert!((shape.reencode)(&[]).is_err());
        assert!((shape.reencode)(&[0]).is_err());
    }
}

#[test]
#[ignore = "writes into the source tree; run by hand when a shape is new"]
#[expect(clippy::disallowed_methods, reason = "writes the samples of new shapes, by hand")]
fn write_missing() {
    for shape in shapes() {
        if !shape.path().exists() {
            std::fs::write(shape.path(), shape.text()).unwrap();
        }
    }
}
