//! Random logs: the same entries give the same state, whatever store and whatever batches; and that
//! state agrees with itself.

use std::collections::{BTreeMap, BTreeSet};

use clawhub_kv::{MemoryKv, RocksKv, RocksProfile};
use clawhub_types::{AccessRevisions, Actor, Durability, NodeId, ProjectId, RequestId, SessionId};
use proptest::prelude::*;

use super::*;
use crate::artifact::{ArtifactCmd, Body, Condition, Ref, RefKind};
use crate::blob::{BlobCmd, StoredBytes};
use crate::cluster::{Acknowledgement, ClusterCmd, NodeSpec};
use crate::entry::Command;
use crate::lifecycle::LifecycleCmd;
use crate::outbox::OutboxCmd;
use crate::position::LogMark;
use crate::project::{ProjectCmd, RepoRef};
use crate::testing::{
    World, digest, digest512, facts, init, policy, put, receipt, receipt512, repo, root, spec, tag,
};
use crate::view::View;

#[path = "machine_audit_test.rs"]
mod consistency;
use consistency::audit;

/// The session that random entries belong to: opened by the third entry.
const SESSION: SessionId = SessionId(3);

fn node() -> impl Strategy<Value = NodeId> {
    (1_u64..6).prop_map(NodeId)
}

fn blob() -> impl Strategy<Value = u64> {
    0_u64..5
}

fn name() -> impl Strategy<Value = clawhub_types::RepoName> {
    prop::sample::select(vec!["a/x", "a/y", "b/z", "lone"]).prop_map(repo)
}

fn a_tag() -> impl Strategy<Value = clawhub_types::Tag> {
    prop::sample::select(vec!["t", "u", "v"]).prop_map(tag)
}

fn a_digest() -> impl Strategy<Value = clawhub_types::Digest> {
    prop_oneof![4 => blob().prop_map(digest), 1 => blob().prop_map(digest512)]
}

fn a_receipt(n: u64) -> impl Strategy<Value = clawhub_types::Receipt> {
    let node = prop_oneof![3 => Just(1_u64), 1 => 2_u64..5];
    let epoch = prop_oneof![4 => Just(2_u64), 1 => 0_u64..2];
    (node, epoch, prop::bool::weighted(0.2), prop::bool::weighted(0.05)).prop_map(
        move |(node, epoch, long, bad)| {
            let mut receipt = if long { receipt512(node, n) } else { receipt(node, n) };
            receipt.epoch = epoch;
            receipt.generation += u64::from(bad);
            receipt
        },
    )
}

fn receipts() -> impl Strategy<Value = (u64, Vec<clawhub_types::Receipt>)> {
    blob().prop_flat_map(|n| (Just(n), prop::collection::vec(a_receipt(n), 1..3)))
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::Any),
        1 => Just(Condition::Exists),
        1 => Just(Condition::Absent),
        1 => a_digest().prop_map(|digest| Condition::Matches(vec![digest])),
    ]
}

fn cluster_cmd() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => (1_u8..6).prop_map(|n| ClusterCmd::TokenCreate { hash: [n; 32], ttl: 5000 }),
        8 => (1_u8..6, 1_u8..6, 1_u8..6, prop::sample::select(vec!["eu/a", "eu/b", "us/a", "us/w!"]))
            .prop_map(|(token, key, name, place)| {
                let node = NodeSpec { spki: [key; 32], ..spec(name, place) };
                ClusterCmd::Join { token: [token; 32], node }
            }),
        1 => Just(init(Durability::Local, spec(9, "eu/a"))),
        1 => (node(), 0_u64..4, 0_u64..2, mark(), prop::option::of(mark())).prop_map(
            |(node, boot, nonce, found, acknowledged)| ClusterCmd::Boot {
                node, boot, nonce, peer_addr: format!("p:{boot}"), http_addr: "h:1".into(), found, acknowledged,
                start_key: Vec::new(),
            }
        ),
        1 => (node(), 0_u64..4, mark()).prop_map(|(node, boot, LogMark { term, index })| {
            ClusterCmd::Acknowledged { term, nodes: vec![Acknowledgement { node, boot, index }] }
        }),
        1 => (node(), any::<bool>()).prop_map(|(node, on)| ClusterCmd::Drain { node, on }),
        1 => (2_u64..6, 0_u64..4, 0_u64..2)
            .prop_map(|(node, boot, nonce)| ClusterCmd::SessionOpen { node: NodeId(node), boot, nonce }),
        1 => (0_u64..60).prop_map(|floor| ClusterCmd::SessionFloor { session: SESSION, floor: floor / 4 }),
        1 => (4_u64..40).prop_map(|id| ClusterCmd::SessionClose { session: SessionId(id) }),
    ]
    .prop_map(Command::Cluster)
}

fn outbox_cmd() -> impl Strategy<Value = Command> {
    let reader = prop::sample::select(vec!["r", "s"]);
    (reader, prop::option::weighted(0.9, 0_u64..90))
        .prop_map(|(reader, done)| OutboxCmd::Cursor { reader: reader.into(), done }.into())
}

fn lifecycle_cmd() -> impl Strategy<Value = Command> {
    (2_u64..6, any::<bool>())
        .prop_map(|(node, force)| LifecycleCmd::RemoveNode { node: NodeId(node), force }.into())
}

fn project_cmd() -> impl Strategy<Value = Command> {
    let durability =
        prop::option::of(prop::sample::select(vec![Durability::Local, Durability::Zone, Durability::Region]));
    let regions = prop::option::of(prop::sample::select(vec![&["eu"][..], &["us"], &["eu", "us"]]));
    (prop::sample::select(vec!["a", "b", "library"]), durability, regions, any::<bool>()).prop_map(
        |(name, durability, regions, confined)| {
            let policy = policy(durability, regions, confined);
            Command::Project(ProjectCmd::SetPolicy { name: name.parse().unwrap(), policy })
        },
    )
}

fn blob_cmd() -> impl Strategy<Value = Command> {
    let roots = || prop::collection::vec(blob().prop_map(root), 0..4);
    prop_oneof![
        8 => (name(), receipts()).prop_map(|(repo, (n, receipts))| BlobCmd::Commit {
            repo, digest: digest(n), receipts,
        }),
        2 => (name(), name(), a_digest()).prop_map(|(from, to, digest)| BlobCmd::Mount { from, to, digest }),
        2 => (name(), a_digest()).prop_map(|(repo, digest)| BlobCmd::Unlink { repo, digest }),
        1 => (name(), a_digest()).prop_map(|(repo, digest)| BlobCmd::Renew { repo, digest }),
        3 => receipts().prop_map(|(_, receipts)| BlobCmd::Hold { receipts }),
        1 => (name(), receipts()).prop_map(|(repo, (_, receipts))| BlobCmd::Ensured { repo, receipts }),
        1 => (node(), roots()).prop_map(|(node, roots)| BlobCmd::Release { node, roots }),
        1 => (node(), roots()).prop_map(|(node, roots)| BlobCmd::Lost { node, roots }),
        1 => roots().prop_map(|roots| BlobCmd::Review { roots }),
        1 => (node(), 0_u64..3).prop_map(|(node, epoch)| BlobCmd::Epoch { node, epoch }),
    ]
    .prop_map(Command::Blob)
}

fn body() -> impl Strategy<Value = (u64, Body)> {
    let inline = (blob(), 1_usize..9).prop_map(|(n, len)| (n, Body::Inline(vec![b'.'; len])));
    let stored = receipts().prop_map(|(n, receipts)| {
        let digests = receipts[0].digests.clone();
        (n, Body::Stored(StoredBytes { root: root(n), digests, receipts }))
    });
    prop_oneof![3 => inline, 1 => stored]
}

fn put_cmd() -> impl Strategy<Value = ArtifactCmd> {
    let kind = prop::sample::select(vec![RefKind::Blob, RefKind::Blob, RefKind::Child, RefKind::Optional]);
    let refs =
        prop::collection::vec((a_digest(), kind).prop_map(|(digest, kind)| Ref { digest, kind }), 0..3);
    let tags = prop::collection::vec(a_tag(), 0..3);
    let parts = prop_oneof![5 => Just(0), 1 => 1_u32..3];
    (name(), body(), refs, parts, prop::option::of(a_digest()), tags, condition()).prop_map(
        |(repo, (n, body), refs, parts, subject, tags, condition)| {
            let facts = crate::artifact::ManifestFacts { refs, parts, subject, ..facts(&[]) };
            ArtifactCmd::Put { repo, digest: digest(n), facts, body, tags, condition }
        },
    )
}

fn artifact_cmd() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => put_cmd(),
        2 => (name(), a_digest(), 1_u32..3, prop::collection::vec(a_digest(), 0..2)).prop_map(
            |(repo, digest, part, refs)| {
                let refs = refs.into_iter().map(|digest| Ref { digest, kind: RefKind::Optional }).collect();
                ArtifactCmd::Stage { repo, digest, part, refs }
            }
        ),
        2 => (name(), a_digest()).prop_map(|(repo, digest)| ArtifactCmd::Delete { repo, digest }),
        1 => (name(), a_tag(), condition())
            .prop_map(|(repo, tag, condition)| ArtifactCmd::Untag { repo, tag, condition }),
    ]
    .prop_map(Command::Artifact)
}

fn entry() -> impl Strategy<Value = Entry> {
    let cmd = prop_oneof![
        21 => cluster_cmd(),
        2 => lifecycle_cmd(),
        2 => outbox_cmd(),
        5 => project_cmd(),
        29 => blob_cmd(),
        29 => artifact_cmd(),
    ];
    let seq = prop::option::weighted(0.95, 0_u64..200);
    let late = prop::option::weighted(0.1, 0_u64..3000);
    (cmd, 0_u64..3000, seq, late, prop::bool::weighted(0.1)).prop_map(|(cmd, tick, seq, deadline, client)| {
        Entry {
            tick,
            at: tick * 3,
            actor: if client { Actor::anonymous() } else { Actor::system() },
            access: AccessRevisions {
                project: (tick % 2 == 0).then_some((ProjectId(1), 0)),
                ..AccessRevisions::default()
            },
            // Few sequences, so that some repeat.
            request: seq.filter(|_| cmd.needs_identity()).map(|seq| RequestId { session: SESSION, seq }),
            deadline,
            cmd,
        }
    })
}

fn mark() -> impl Strategy<Value = LogMark> {
    (0_u64..3, 0_u64..9).prop_map(|(term, index)| LogMark { term, index })
}

fn membership() -> impl Strategy<Value = Membership> {
    let nodes = || prop::collection::vec((1..4_u64).prop_map(NodeId), 0..4);
    (prop::collection::vec(nodes(), 0..3), nodes()).prop_map(|(configs, nodes)| Membership { configs, nodes })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        1 => Just(Payload::Blank),
        1 => membership().prop_map(Payload::Membership),
        30 => entry().prop_map(Payload::Entry),
    ]
}

/// A log that begins with two nodes and a session.
fn log() -> impl Strategy<Value = Vec<LogItem>> {
    prop::collection::vec(payload(), 1..150).prop_map(|payloads| {
        let mut world = World::blank();
        let begin = [
            init(Durability::Local, spec(101, "eu/a")).into(),
            ClusterCmd::TokenCreate { hash: [1; 32], ttl: 500 }.into(),
            Command::from(ClusterCmd::SessionOpen { node: NodeId(1), boot: 1, nonce: 1 }),
        ];
        let begin = begin.map(|cmd| Payload::Entry(world.entry(cmd)));
        begin.into_iter().chain(payloads).map(|payload| world.item(payload)).collect()
    })
}

fn apply_in_batches(machine: &mut Machine, log: &[LogItem], edges: &[usize]) -> Vec<Option<Outcome>> {
    let mut outcomes = Vec::new();
    let mut edges = edges.iter().cycle();
    let mut rest = log;
    while !rest.is_empty() {
        let size = edges.next().map_or(1, |n| (*n).clamp(1, rest.len()));
        let (batch, after) = rest.split_at(size);
        outcomes.extend(machine.apply(batch).unwrap());
        rest = after;
    }
    outcomes
}

fn everything(machine: &Machine) -> Vec<clawhub_kv::Pair> {
    machine.kv().scan(b"", &[0xff], usize::MAX).unwrap()
}

/// The log applied one item at a time, in memory: what every other way must come to.
fn reference(log: &[LogItem]) -> (Machine, Vec<Option<Outcome>>) {
    let mut machine = Machine::open(Arc::new(MemoryKv::new())).unwrap();
    let outcomes = apply_in_batches(&mut machine, log, &[1]);
    (machine, outcomes)
}

fn assert_same(machine: &Machine, reference: &Machine) {
    assert_eq!(everything(machine), everything(reference));
    let view = View::new(&**machine.kv());
    let hash = view.state_hash().unwrap();
    assert_eq!(hash, View::new(&**reference.kv()).state_hash().unwrap());
    assert_eq!(hash.0, machine.applied().unwrap().0.unwrap().index);
    assert_eq!(hash.1, view.compute_state_hash().unwrap());
}

fn edges() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..20, 1..6)
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(cases(128))]

    /// By other batches, restarted from a copy in the middle, after a crash that lost what was not
    /// synced.
    #[test]
    fn one_log_gives_one_state_in_memory(
        log in log(), edges in edges(), others in edges(), cut in 3_usize..150,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (expected, answers) = reference(&log);
        audit(&View::new(&**expected.kv()));

        let (before, after) = log.split_at(cut.min(log.len()));
        let kv = Arc::new(MemoryKv::new());
        let mut machine = Machine::open(kv.clone()).unwrap();
        let mut outcomes = apply_in_batches(&mut machine, before, &edges);
        kv.checkpoint(&dir.path().join("copy")).unwrap();
        let kv = Arc::new(MemoryKv::open_checkpoint(&dir.path().join("copy")).unwrap());
        let mut machine = Machine::open(kv.clone()).unwrap();
        let from = machine.applied().unwrap();
        apply_in_batches(&mut machine, after, &others);
        kv.crash();
        prop_assert_eq!(machine.applied().unwrap(), from);
        outcomes.extend(apply_in_batches(&mut machine, after, &edges));
        prop_assert_eq!(outcomes, answers);
        assert_same(&machine, &expected);
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// On RocksDB, by other batches, reopened from a checkpoint in the middle.
    #[test]
    fn one_log_gives_one_state_on_disk(
        log in log(), edges in edges(), others in edges(), cut in 3_usize..150,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Arc::new(RocksKv::open(&dir.path().join(name), RocksProfile::State).unwrap());
        let (expected, answers) = reference(&log);
        let (before, after) = log.split_at(cut.min(log.len()));
        let mut machine = Machine::open(open("first")).unwrap();
        let mut outcomes = apply_in_batches(&mut machine, before, &others);
        machine.kv().checkpoint(&dir.path().join("copy")).unwrap();
        drop(machine);
        let mut machine = Machine::open(open("copy")).unwrap();
        outcomes.extend(apply_in_batches(&mut machine, after, &edges));
        prop_assert_eq!(outcomes, answers);
        assert_same(&machine, &expected);
    }
}

proptest! {
    #![proptest_config(cases(64))]

    /// The rows under target are what a look at every root finds, after each entry; where the layout or a
    /// policy changed, once every root was reviewed.
    #[test]
    fn under_target_is_what_a_look_at_everything_finds(log in log()) {
        let mut machine = Machine::open(Arc::new(MemoryKv::new())).unwrap();
        let mut shift = 0;
        let mut history = BTreeMap::new();
        for mut item in log {
            item.pos.index += shift;
            machine.apply(std::slice::from_ref(&item)).unwrap();
            note_tags(&View::new(&**machine.kv()), &mut history);
            if may_move_targets(&item) {
                item.pos.index += 1;
                shift += 1;
                machine.apply(&[review_of_all(&machine, item.pos)]).unwrap();
            }
            assert_under_target(&View::new(&**machine.kv()));
        }
        for ((at, tag), seen) in history {
            let kept = View::new(&**machine.kv()).artifact().tag_history(&at, &tag, usize::MAX).unwrap();
            let kept: Vec<_> = kept.into_iter().map(|change| change.digest).collect();
            prop_assert!(seen.len() < 100);
            prop_assert_eq!(kept, seen.into_iter().rev().collect::<Vec<_>>());
        }
    }
}

/// What each tag has named, oldest first, by asking after each entry. A log entry changes a tag at most once.
type TagHistory = BTreeMap<(RepoRef, clawhub_types::Tag), Vec<Option<clawhub_types::Digest>>>;

fn note_tags(view: &View<'_>, history: &mut TagHistory) {
    for name in view.project().catalog(None, usize::MAX).unwrap().0 {
        let at = view.project().repo(&name).unwrap().unwrap();
        for name in ["t", "u", "v"] {
            let now = view.artifact().tag(&at, &tag(name)).unwrap().map(|record| record.digest);
            let seen = history.entry((at, tag(name))).or_default();
            if seen.last().cloned().flatten() != now {
                seen.push(now);
            }
        }
    }
}

fn may_move_targets(item: &LogItem) -> bool {
    let Payload::Entry(entry) = &item.payload else { return false };
    matches!(entry.cmd, Command::Cluster(_) | Command::Lifecycle(_) | Command::Project(_))
}

fn review_of_all(machine: &Machine, pos: LogPos) -> LogItem {
    let roots = View::new(&**machine.kv()).blob().roots(None, usize::MAX).unwrap();
    let roots = roots.into_iter().map(|(root, _)| root).collect();
    let cmd = BlobCmd::Review { roots }.into();
    let mut entry = World::blank().entry(Command::clone(&cmd));
    entry.tick = 0;
    LogItem { pos, payload: Payload::Entry(entry) }
}

fn assert_under_target(view: &View<'_>) {
    let layout = view.cluster().layout().unwrap();
    let mut expected = BTreeSet::new();
    for (root, record) in view.blob().roots(None, usize::MAX).unwrap() {
        let policies = view.blob().policies(&root).unwrap();
        if record.links > 0 && !clawhub_policy::complete(&policies, &layout, &record.holders) {
            expected.insert(root);
        }
    }
    let rows = view.blob().under_target(None, usize::MAX).unwrap();
    assert!(rows.is_sorted());
    assert_eq!(rows.iter().map(|row| row.root).collect::<BTreeSet<_>>(), expected);
    assert_eq!(rows.len(), expected.len());
}

#[test]
fn random_logs_reach_every_part() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut replies = BTreeSet::new();
    for _ in 0..720 {
        let log = log().new_tree(&mut runner).unwrap().current();
        let mut machine = Machine::open(Arc::new(MemoryKv::new())).unwrap();
        for outcome in apply_in_batches(&mut machine, &log, &[7]).into_iter().flatten() {
            let text = format!("{outcome:?}");
            let words: Vec<_> = text.split([' ', '{', '(', ')']).filter(|word| !word.is_empty()).collect();
            // Ok or Err, the domain unless there is none, and what it says.
            replies.extend(words.iter().take(3).map(|word| format!("{} {word}", words[0])));
        }
    }
    for kind in ["Linked", "Stored", "Count", "Done", "Joined", "Session", "Project", "NotMounted"] {
        assert!(replies.contains(&format!("Ok {kind}")), "{kind}: {replies:?}");
    }
    for kind in [
        "SessionGone",
        "DeadlinePassed",
        "StalePermit",
        "WrongPhase",
        "TokenInvalid",
        "NodeUnknown",
        "NameTaken",
        "KeyTaken",
        "StaleBoot",
        "Forgetful",
        "Uncovered",
        "TooFewDomains",
        "RootShort",
        "NameUnknown",
        "NeedCopies",
        "BadReceipt",
        "BlobUnknown",
        "BlobReferenced",
        "ReferencesUnknown",
        "ManifestUnknown",
        "PreconditionFailed",
    ] {
        assert!(replies.contains(&format!("Err {kind}")), "{kind}: {replies:?}");
    }
}

#[test]
fn items_must_follow_each_other() {
    let mut world = World::three();
    let entry = world.entry(put("a/b", 1, &[], &[]));
    let good = world.item(Payload::Entry(entry));
    let mut gap = good.clone();
    gap.pos.index += 1;
    let before = everything(&world.machine);
    for items in
        [&[gap.clone()][..], &[good.clone(), good.clone()], &[good.clone(), gap.clone(), gap.clone()]]
    {
        assert!(matches!(world.machine.apply(items), Err(Fault::OutOfOrder { .. })));
        assert_eq!(everything(&world.machine), before, "a fault applies nothing");
    }
    world.machine.apply(std::slice::from_ref(&good)).unwrap();
    assert!(matches!(world.machine.apply(&[good]), Err(Fault::OutOfOrder { .. })), "never twice");
    assert_eq!(world.machine.apply(&[]).unwrap(), []);
}

#[test]
fn an_unknown_shape_halts() {
    let mut world = World::three();
    world.ok(put("a/b", 1, &[], &["t"]));
    let key = crate::artifact::keys::tag(world.at("a/b"), "t");
    let mut batch = clawhub_kv::Batch::default();
    batch.put(key.into_bytes(), [0xff, 0xfe, 1, 2, 3]);
    world.machine.kv().write(batch).unwrap();
    let entry = world.entry(put("a/b", 2, &[], &["t"]));
    let item = world.item(Payload::Entry(entry));
    let fault = world.machine.apply(&[item]).unwrap_err();
    assert!(matches!(fault, Fault::UnknownShape { what: "tag", shape: 0xfffe }), "{fault}");
}
