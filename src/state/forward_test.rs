//! The table of all commands: who may forward each of them, and in whose name.

use clawhub_types::{Actor, Durability, PrincipalId, RequestId};

use super::*;
use crate::artifact::{ArtifactCmd, Condition};
use crate::blob::BlobCmd;
use crate::cluster::ClusterCmd;
use crate::outbox::OutboxCmd;
use crate::project::ProjectCmd;
use crate::testing::{World, commit, digest, init, policy, put, receipts, repo, root, spec, tag};
use crate::{Command, LifecycleCmd, LogMark};

/// The member that forwards, and one that does not.
const SENDER: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(3);

/// Nodes 1 to 3; the sender and another have a session.
struct Sessions {
    world: World,
    own: SessionId,
    others: SessionId,
}

fn sessions() -> Sessions {
    let mut world = World::three();
    let others = world.open_session(OTHER, 1);
    let own = world.open_session(SENDER, 1);
    Sessions { world, own, others }
}

/// In whose name a command is forwarded with success: a client's, an operator's, the cluster's.
fn taken(world: &mut World, cmd: &Command) -> Vec<&'static str> {
    let principals = [
        ("client", Principal::Anonymous),
        ("client", Principal::User(PrincipalId(1))),
        ("client", Principal::Service(PrincipalId(1))),
        ("operator", Principal::Operator),
        ("cluster", Principal::System),
        ("node", Principal::Node(SENDER)),
    ];
    let mut taken: Vec<&'static str> = Vec::new();
    for (name, principal) in principals {
        let mut entry = world.entry(cmd.clone());
        entry.actor = principal.actor();
        let allowed = may_forward(&world.view(), SENDER, &entry).unwrap();
        match allowed {
            Ok(()) => taken.push(name),
            Err(Forbidden::Command { from, principal: told }) => {
                assert_eq!((from, told), (SENDER, principal));
            }
            Err(other) => panic!("{other}"),
        }
    }
    taken.dedup();
    taken
}

fn boot(node: NodeId) -> ClusterCmd {
    ClusterCmd::Boot {
        node,
        boot: 2,
        nonce: 1,
        peer_addr: "p:1".into(),
        http_addr: "h:1".into(),
        found: LogMark::default(),
        acknowledged: None,
        start_key: Vec::new(),
    }
}

/// Commands of the cluster domain, and of what crosses domains.
fn of_the_cluster(own: SessionId, others: SessionId) -> Vec<(Command, &'static [&'static str])> {
    let open = |node| ClusterCmd::SessionOpen { node, boot: 2, nonce: 1 };
    let floor = |session| ClusterCmd::SessionFloor { session, floor: 9 };
    let gone = SessionId(1_000_000);
    vec![
        (init(Durability::Zone, spec(1, "eu/a")).into(), &[]),
        (ClusterCmd::TokenCreate { hash: [1; 32], ttl: 1 }.into(), &["operator"]),
        (ClusterCmd::Join { token: [1; 32], node: spec(9, "eu/a") }.into(), &["cluster"]),
        (boot(SENDER).into(), &["cluster"]),
        (boot(OTHER).into(), &[]),
        (ClusterCmd::Acknowledged { term: 1, nodes: Vec::new() }.into(), &[]),
        (open(SENDER).into(), &["cluster"]),
        (open(OTHER).into(), &[]),
        (ClusterCmd::SessionClose { session: own }.into(), &["cluster"]),
        (ClusterCmd::SessionClose { session: others }.into(), &[]),
        (floor(own).into(), &["cluster"]),
        (floor(others).into(), &[]),
        // Apply answers that it is gone.
        (floor(gone).into(), &["cluster"]),
        (ClusterCmd::Drain { node: OTHER, on: true }.into(), &["operator"]),
        (ClusterCmd::Failing { node: SENDER, boot: 1 }.into(), &["cluster"]),
        (ClusterCmd::Failing { node: OTHER, boot: 1 }.into(), &[]),
        (LifecycleCmd::RemoveNode { node: OTHER, force: true }.into(), &["operator"]),
        (OutboxCmd::Cursor { reader: "r".into(), done: Some(1) }.into(), &["cluster"]),
    ]
}

fn of_content() -> Vec<(Command, &'static [&'static str])> {
    let (repo, from, roots) = (repo("a/b"), repo("c/d"), vec![root(1)]);
    let lost = |node| BlobCmd::Lost { node, roots: roots.clone() };
    let release = |node| BlobCmd::Release { node, roots: roots.clone() };
    let set = ProjectCmd::SetPolicy { name: "a".parse().unwrap(), policy: policy(None, None, false) };
    vec![
        (set.into(), &["operator"]),
        (commit("a/b", 1, &[1, 2]).into(), &["client"]),
        (BlobCmd::Mount { from, to: repo.clone(), digest: digest(1) }.into(), &["client"]),
        (BlobCmd::Unlink { repo: repo.clone(), digest: digest(1) }.into(), &["client"]),
        (BlobCmd::Renew { repo: repo.clone(), digest: digest(1) }.into(), &["client"]),
        (BlobCmd::Hold { receipts: receipts(&[2, 2], 1) }.into(), &["cluster"]),
        // What others hold they say themselves, unless it is part of what a client pushes.
        (BlobCmd::Hold { receipts: receipts(&[2, 3], 1) }.into(), &[]),
        (BlobCmd::Hold { receipts: receipts(&[3], 1) }.into(), &[]),
        (BlobCmd::Hold { receipts: Vec::new() }.into(), &[]),
        (BlobCmd::Ensured { repo: repo.clone(), receipts: receipts(&[1, 3], 1) }.into(), &["client"]),
        (release(SENDER).into(), &["operator", "cluster"]),
        (release(OTHER).into(), &["operator"]),
        (lost(SENDER).into(), &["operator", "cluster"]),
        (lost(OTHER).into(), &["operator"]),
        (BlobCmd::Review { roots }.into(), &["cluster"]),
        (BlobCmd::Epoch { node: SENDER, epoch: 1 }.into(), &["cluster"]),
        (BlobCmd::Epoch { node: OTHER, epoch: 1 }.into(), &[]),
        (put("a/b", 1, &[], &["t"]).into(), &["client"]),
        (ArtifactCmd::Delete { repo: repo.clone(), digest: digest(1) }.into(), &["client"]),
        (ArtifactCmd::Untag { repo, tag: tag("t"), condition: Condition::Any }.into(), &["client"]),
    ]
}

#[test]
fn each_command_is_forwarded_only_by_and_for_whom_it_is_to_give() {
    let Sessions { mut world, own, others } = sessions();
    for (cmd, expected) in of_the_cluster(own, others).into_iter().chain(of_content()) {
        assert_eq!(taken(&mut world, &cmd), expected, "{cmd:?}");
    }
}

#[test]
fn nobody_forwards_in_the_session_of_another() {
    let Sessions { mut world, own, others } = sessions();
    let mut entry = world.entry(put("a/b", 1, &[], &[]));
    entry.actor = Actor::anonymous();
    let mut with = |session| {
        entry.request = Some(RequestId { session, seq: 1 });
        may_forward(&world.view(), SENDER, &entry).unwrap()
    };
    assert_eq!(with(own), Ok(()));
    assert_eq!(with(SessionId(1_000_000)), Ok(()), "apply answers that it is gone");
    assert_eq!(with(others), Err(Forbidden::Session { from: SENDER, session: others }));
}

#[test]
fn who_was_removed_or_never_joined_forwards_nothing() {
    let Sessions { mut world, .. } = sessions();
    world.ok(LifecycleCmd::RemoveNode { node: OTHER, force: true });
    for node in [OTHER, NodeId(9)] {
        let mut entry = world.entry(ClusterCmd::TokenCreate { hash: [1; 32], ttl: 1 });
        entry.actor = Actor::operator();
        let allowed = may_forward(&world.view(), node, &entry).unwrap();
        assert_eq!(allowed, Err(Forbidden::NotAMember(node)));
        assert_eq!(may_forward(&world.view(), SENDER, &entry).unwrap(), Ok(()));
    }
}
