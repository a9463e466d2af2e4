//! Tests of the outbox domain's commands.

use clawhub_types::NodeId;

use super::*;
use crate::LifecycleCmd;
use crate::artifact::ArtifactCmd;
use crate::artifact::ArtifactEvent;
use crate::cluster::ClusterEvent;
use crate::testing::{World, digest, put, repo, tag};

fn cursor(reader: &str, done: Option<u64>) -> OutboxCmd {
    OutboxCmd::Cursor { reader: reader.into(), done }
}

fn rows(world: &World) -> Vec<(u64, Event)> {
    let rows = world.view().outbox().events(0, 10_000).unwrap();
    rows.into_iter().map(|(index, row)| (index, row.event)).collect()
}

fn put_event(n: u64, tags: &[&str]) -> Event {
    Event::Artifact(ArtifactEvent::ManifestPut {
        repo: repo("a/b"),
        digest: digest(n),
        media_type: crate::testing::facts(&[]).media_type,
        tags: tags.iter().map(|t| tag(t)).collect(),
    })
}

#[test]
fn events_are_written_while_somebody_reads() {
    let mut world = World::three();
    world.ok(put("a/b", 1, &[], &["t"]));
    assert_eq!(rows(&world), [], "nobody reads");
    world.ok(cursor("hooks", Some(0)));
    let (from, _) = world.view().state_hash().unwrap();
    assert_eq!(
        world.view().outbox().cursor("hooks").unwrap(),
        Some(from),
        "a reader begins where it registers"
    );
    world.ok(put("a/b", 2, &[], &["t", "u"]));
    world.refused(put("a/b", 3, &[9], &[]));
    world.ok(ArtifactCmd::Delete { repo: repo("a/b"), digest: digest(2) });
    world.ok(LifecycleCmd::RemoveNode { node: NodeId(3), force: false });
    let deleted = Event::Artifact(ArtifactEvent::ManifestDeleted {
        repo: repo("a/b"),
        digest: digest(2),
        tags: vec![tag("t"), tag("u")],
    });
    let removed = Event::Cluster(ClusterEvent::NodeRemoved { node: NodeId(3), forced: false });
    let expected = [(from + 1, put_event(2, &["t", "u"])), (from + 3, deleted), (from + 4, removed)];
    assert_eq!(rows(&world), expected, "a refused command has no event");
    assert_eq!(world.view().outbox().events(from + 1, 1).unwrap()[0].0, from + 3);
}

#[test]
fn rows_go_when_every_reader_has_passed() {
    let mut world = World::three();
    world.ok(cursor("hooks", Some(0)));
    world.ok(cursor("audit", Some(0)));
    for n in 0..5 {
        world.ok(put("a/b", n, &[], &[]));
    }
    let all = rows(&world);
    let nth = |n: usize| all[n].0;
    world.ok(cursor("hooks", Some(nth(3))));
    assert_eq!(rows(&world).len(), 5, "audit has not");
    world.ok(cursor("audit", Some(nth(1))));
    assert_eq!(rows(&world), all[2..]);
    world.ok(cursor("audit", Some(nth(0))));
    assert_eq!(world.view().outbox().cursor("audit").unwrap(), Some(nth(1)), "cursors never go back");
    world.ok(cursor("audit", None));
    assert_eq!(rows(&world), all[4..], "the slow reader left");
    world.ok(cursor("hooks", Some(u64::MAX)));
    assert_eq!(rows(&world), []);
    let (index, _) = world.view().state_hash().unwrap();
    assert_eq!(world.view().outbox().cursor("hooks").unwrap(), Some(index), "nobody has read the future");
    world.ok(put("a/b", 9, &[], &[]));
    assert_eq!(rows(&world).len(), 1);
    world.ok(cursor("hooks", None));
    assert_eq!(rows(&world), []);
}
