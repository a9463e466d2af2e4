//! A whole life of the toy domain, through the machine.

use clawhub_types::{Action, Actor, Resource};

use super::*;
use crate::outbox::OutboxCmd;
use crate::testing::{World, repo};
use crate::{Command, Rejected, RequestRejected, decode_entry, decode_outcome, encode_entry, encode_outcome};

fn ring(name: &str) -> ToyCmd {
    ToyCmd::Ring { repo: repo(name) }
}

#[test]
fn a_new_domain_is_a_folder_and_a_line_in_each_enum() {
    let mut world = World::three();
    world.ok(OutboxCmd::Cursor { reader: "ears".into(), done: None });
    world.ok(OutboxCmd::Cursor { reader: "ears".into(), done: Some(0) });

    // Its commands travel, say what they touch, and are applied once.
    let entry = world.entry(ring("a/b"));
    assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
    assert!(entry.cmd.needs_identity());
    assert_eq!(entry.cmd.action(), Some(Action::Push));
    assert_eq!(entry.cmd.resource(), Resource::Repository(repo("a/b")).into());
    let outcome = world.apply(entry.clone());
    assert_eq!(outcome, Ok(ToyReply::Rung(1).into()));
    assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);
    assert_eq!(world.apply(entry.clone()), outcome, "the same request again");
    let mut nameless = entry;
    nameless.request = None;
    assert_eq!(world.apply(nameless), Err(RequestRejected::SessionGone.into()));

    // Its view reads what it wrote.
    let at = world.at("a/b");
    assert_eq!(ToyView::from(world.view().read()).bell(&at).unwrap().rung, 1);

    // Its refusals undo, travel and speak.
    world.ok(ring("a/b"));
    world.ok(ring("a/b"));
    let rejected = world.refused(ring("a/b"));
    assert_eq!(rejected, Rejected::from(ToyRejected::Broken(3)));
    assert_eq!(rejected.to_string(), "the bell broke after 3 times");
    let outcome = Err(rejected);
    assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);

    // Its events are in the outbox, once each.
    let rows = world.view().outbox().events(0, 100).unwrap();
    let events: Vec<_> = rows.into_iter().map(|(_, row)| row.event).collect();
    assert_eq!(events, vec![ToyEvent::Rung { repo: repo("a/b") }.into(); 3]);
}

#[test]
fn the_rights_to_its_resource_are_checked_like_any_other() {
    let mut world = World::three();
    world.ok(ring("a/b"));
    let mut entry = world.entry(Command::from(ring("a/b")));
    entry.actor = Actor::anonymous();
    entry.access.project = Some((clawhub_types::ProjectId(2), 0));
    assert_eq!(world.apply(entry), Err(RequestRejected::StalePermit.into()), "of another project");
}
