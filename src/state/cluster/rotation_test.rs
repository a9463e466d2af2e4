//! Tests of the steps of a rotation.

use clawhub_types::Durability;

use super::super::{ClusterCmd, TokenStanding};
use super::*;
use crate::testing::{HOUR, World, spec};
use crate::{Command, LifecycleCmd, LogMark, Rejected};

fn step(step: RotationCmd) -> Command {
    ClusterCmd::Rotation(step).into()
}

fn begin(generation: u64) -> Command {
    let (ca_cert, ca_key_sealed) = (vec![generation as u8], vec![generation as u8, 1]);
    step(RotationCmd::Begin { generation, ca_cert, ca_key_sealed, envelopes: Vec::new() })
}

fn confirm(generation: u64, node: u64) -> Command {
    let spki = [100 + 10 * generation as u8 + node as u8; 32];
    step(RotationCmd::Confirm { generation, node: NodeId(node), spki })
}

fn switch(generation: u64) -> Command {
    step(RotationCmd::Switch { generation })
}

fn finish(generation: u64) -> Command {
    step(RotationCmd::Finish { generation })
}

fn ask(world: &mut World, wait: u64) -> u64 {
    match world.ok(step(RotationCmd::Ask { wait })) {
        Reply::Cluster(ClusterReply::Generation(generation)) => generation,
        other => panic!("{other:?}"),
    }
}

const WRONG: Rejected = Rejected::Cluster(ClusterRejected::WrongStep);

fn keys(world: &World) -> KeysRecord {
    world.view().cluster().keys().unwrap()
}

#[test]
fn a_rotation_takes_its_steps_in_order_and_only_then() {
    let mut world = World::three();
    assert_eq!(world.refused(begin(2)), WRONG, "nobody asked");
    assert_eq!(ask(&mut world, HOUR), 2);
    assert_eq!(world.refused(begin(3)), WRONG, "the next number is 2");
    assert_eq!(world.refused(confirm(2, 1)), WRONG, "it has not begun");
    world.ok(begin(2));
    assert_eq!(world.refused(begin(3)), WRONG, "one at a time");
    assert_eq!(world.refused(confirm(1, 1)), WRONG);
    for node in [1, 2, 3] {
        let missing = (node..=3).map(NodeId).collect();
        let refused = world.refused(switch(2));
        assert_eq!(refused, Rejected::Cluster(ClusterRejected::NotConfirmed(missing)));
        world.ok(confirm(2, node));
    }
    world.ok(confirm(2, 1));
    assert_eq!(world.refused(finish(2)), WRONG, "new keys are not shown yet");
    world.ok(switch(2));
    assert_eq!(world.refused(switch(2)), WRONG);
    assert_eq!(world.refused(confirm(2, 1)), WRONG);
    world.tick += GRACE - 1;
    assert_eq!(world.refused(finish(2)), WRONG);
    world.tick += 1;
    world.ok(finish(2));
    assert_eq!(world.refused(finish(2)), WRONG);

    let cluster = world.view().cluster().record().unwrap().unwrap();
    assert_eq!((cluster.ca_cert, cluster.ca_key_sealed), (vec![2], vec![2, 1]));
    for node in world.view().cluster().nodes().unwrap() {
        assert_eq!(node.spec.spki, [120 + node.id.0 as u8; 32]);
        assert_eq!((node.generation, node.next_spki), (2, None));
    }
    assert_eq!(keys(&world), KeysRecord { generation: 2, last: 2, due: None, rotation: None });
}

#[test]
fn who_is_away_is_waited_for_and_then_left_behind() {
    let mut world = World::three();
    ask(&mut world, HOUR);
    world.ok(begin(2));
    world.ok(confirm(2, 1));
    world.tick += HOUR;
    let missing = vec![NodeId(2), NodeId(3)];
    let refused = world.refused(switch(2));
    assert_eq!(refused, Rejected::Cluster(ClusterRejected::NotConfirmed(missing)), "one of three voters");
    world.ok(confirm(2, 3));
    world.ok(switch(2));
    world.tick += GRACE;
    world.ok(finish(2));
    let left = world.view().cluster().node(NodeId(2)).unwrap().unwrap();
    assert_eq!((left.generation, left.spec.spki), (1, [2; 32]));
}

#[test]
fn one_that_no_majority_confirms_gives_way_to_another() {
    let mut world = World::three();
    ask(&mut world, HOUR);
    world.ok(begin(2));
    world.ok(confirm(2, 1));
    assert_eq!(world.refused(begin(3)), WRONG, "it has not waited yet");
    world.tick += HOUR;
    world.ok(begin(3));
    assert_eq!(world.view().cluster().node(NodeId(1)).unwrap().unwrap().next_spki, None);
    assert_eq!(world.refused(confirm(2, 1)), WRONG, "it is over");
    world.ok(confirm(3, 1));
    world.ok(confirm(3, 2));
    world.tick += WAIT;
    assert_eq!(world.refused(begin(4)), WRONG, "a majority has confirmed");
    world.ok(switch(3));
    assert_eq!(keys(&world).generation, 1);
}

#[test]
fn a_removal_asks_for_one_and_so_does_one_that_comes_meanwhile() {
    let mut world = World::new(Durability::Zone, &["eu/a", "eu/b", "eu/c", "eu/d", "eu/e"]);
    let remove = |node| LifecycleCmd::RemoveNode { node: NodeId(node), force: true };
    world.ok(remove(5));
    assert_eq!(keys(&world).due, Some(WAIT));
    world.ok(begin(2));
    assert_eq!(keys(&world).due, None);
    world.ok(confirm(2, 1));
    world.ok(remove(4));
    assert_eq!(keys(&world).due, Some(WAIT), "the removed member may have the next keys");
    assert_eq!(ask(&mut world, 7), 3);
    let now = keys(&world);
    assert_eq!((now.due, now.rotation.unwrap().until), (Some(7), world.tick + 7), "both hurry");
    assert_eq!(world.refused(begin(3)), WRONG);
    world.ok(confirm(2, 2));
    world.ok(confirm(2, 3));
    world.ok(switch(2));
    world.tick += GRACE;
    world.ok(finish(2));
    world.ok(begin(3));
}

#[test]
fn the_old_tokens_go_and_nobody_joins_while_new_keys_are_not_everybodys() {
    let mut world = World::three();
    let (used, good) = ([90; 32], [91; 32]);
    for hash in [used, good] {
        world.ok(ClusterCmd::TokenCreate { hash, ttl: HOUR });
    }
    ask(&mut world, 0);
    world.ok(begin(2));
    world.ok(ClusterCmd::Join { token: used, node: spec(4, "sa/a") });
    (1..=3).for_each(|node| drop(world.ok(confirm(2, node))));
    world.tick += 1;
    let left = Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(9)));
    assert_eq!(world.refused(confirm(2, 9)), left);
    world.ok(switch(2));
    let join = ClusterCmd::Join { token: good, node: spec(5, "sa/a") };
    assert_eq!(world.refused(join.clone()), Rejected::Cluster(ClusterRejected::KeysChange));
    world.tick += GRACE;
    world.ok(finish(2));
    for hash in [used, good] {
        assert_eq!(world.view().cluster().token(&hash).unwrap(), TokenStanding::Unknown);
    }
    assert_eq!(world.refused(join), Rejected::Cluster(ClusterRejected::TokenInvalid));
    world.ok(ClusterCmd::TokenCreate { hash: [92; 32], ttl: HOUR });
    world.ok(ClusterCmd::Join { token: [92; 32], node: spec(5, "sa/a") });
    let joined = world.view().cluster().node(NodeId(5)).unwrap().unwrap();
    assert_eq!(joined.generation, 2, "it was given keys of the new generation");
}

#[test]
fn a_key_is_sealed_to_the_start_that_is_logged_and_once() {
    let mut world = World::three();
    let boot = |boot| ClusterCmd::Boot {
        node: NodeId(2),
        boot,
        nonce: boot,
        peer_addr: "p:1".into(),
        http_addr: "h:1".into(),
        found: LogMark { term: 9, index: 900 },
        acknowledged: None,
        start_key: vec![boot as u8],
    };
    let seal = |boot, byte| {
        let envelope = Envelope { node: NodeId(2), boot, sealed: vec![byte] };
        step(RotationCmd::Seal { generation: 2, envelope })
    };
    world.ok(boot(1));
    assert_eq!(world.view().cluster().node(NodeId(2)).unwrap().unwrap().start_key, [1]);
    ask(&mut world, HOUR);
    world.ok(begin(2));
    let found =
        |world: &World, boot| keys(world).rotation.unwrap().envelope(NodeId(2), boot).map(<[u8]>::to_vec);
    world.ok(seal(2, 7));
    assert_eq!(found(&world, 2), None, "no such start is logged");
    world.ok(seal(1, 7));
    world.ok(seal(1, 8));
    assert_eq!(found(&world, 1), Some(vec![7]));
    world.ok(boot(2));
    world.ok(seal(1, 9));
    world.ok(seal(2, 9));
    assert_eq!((found(&world, 1), found(&world, 2)), (None, Some(vec![9])));
}

#[test]
fn a_key_is_one_members_only() {
    let mut world = World::three();
    ask(&mut world, HOUR);
    world.ok(begin(2));
    world.ok(confirm(2, 1));
    let of = |node, spki| step(RotationCmd::Confirm { generation: 2, node: NodeId(node), spki });
    let taken = |node| Rejected::Cluster(ClusterRejected::KeyTaken(NodeId(node)));
    assert_eq!(world.refused(of(2, [121; 32])), taken(1), "another one's next key");
    assert_eq!(world.refused(of(2, [3; 32])), taken(3), "another one's present key");
}
