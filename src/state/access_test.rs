//! Tests of what happens to entries whose rights shrank since they were judged.

use clawhub_types::{AccessRevisions, Actor, PrincipalId, ProjectId};

use super::*;
use crate::blob::BlobCmd;
use crate::project::ProjectRecord;
use crate::record::Record;
use crate::testing::{World, commit, digest, put, repo};
use crate::{Outcome, Rejected};

const STALE: Result<(), Rejected> = Err(Rejected::Request(RequestRejected::StalePermit));

fn write<R: Record>(world: &World, key: crate::key::Key, record: &R) {
    let mut batch = clawhub_kv::Batch::default();
    batch.put(key.into_bytes(), record.encode());
    world.machine.kv().write(batch).unwrap();
}

/// Rights shrink: no command does it yet, so the record is moved by hand.
fn shrink(world: &mut World, id: u64, revision: u64) {
    let id = ProjectId(id);
    let project = world.view().project().by_id(id).unwrap().unwrap();
    let record = ProjectRecord { access_rev: revision, ..project };
    write(world, crate::project::keys::project(id), &record);
}

fn verdict(outcome: Outcome) -> Result<(), Rejected> {
    outcome.map(|_| ())
}

#[test]
fn stale_permits_are_refused() {
    let mut world = World::three();
    let at = |world: &mut World, access: Option<(u64, u64)>| {
        let mut entry = world.entry(put("a/b", 1, &[], &[]));
        entry.actor = Actor::anonymous();
        entry.access = AccessRevisions {
            project: access.map(|(id, rev)| (ProjectId(id), rev)),
            ..AccessRevisions::default()
        };
        verdict(world.apply(entry))
    };
    let stale = STALE;
    assert_eq!(at(&mut world, Some((1, 0))), stale, "about a project that is not there");
    assert_eq!(at(&mut world, None), Ok(()), "by first use");
    assert_eq!(at(&mut world, None), Ok(()), "judged before another entry created it");
    assert_eq!(at(&mut world, Some((1, 0))), Ok(()));
    assert_eq!(at(&mut world, Some((2, 0))), stale, "another project");

    shrink(&mut world, 1, 3);
    assert_eq!(at(&mut world, Some((1, 2))), stale);
    assert_eq!(at(&mut world, None), stale);
    assert_eq!(at(&mut world, Some((1, 3))), Ok(()));
    assert_eq!(at(&mut world, Some((1, 4))), Ok(()), "this node lags behind the one that judged");
    assert!(world.run(put("a/b", 1, &[], &[])).is_ok(), "the system needs no permit");
}

#[test]
fn a_mount_is_judged_about_its_source_too() {
    let mut world = World::three();
    world.ok(commit("secret/x", 1, &[1, 2]));
    world.ok(put("mine/y", 10, &[], &[]));
    let mount = |world: &mut World, source: Option<(u64, u64)>| {
        let cmd = BlobCmd::Mount { from: repo("secret/x"), to: repo("mine/y"), digest: digest(1) };
        let mut entry = world.entry(cmd);
        entry.actor = Actor::anonymous();
        let source = source.map(|(id, revision)| (ProjectId(id), revision));
        entry.access =
            AccessRevisions { project: Some((ProjectId(2), 0)), source, ..AccessRevisions::default() };
        verdict(world.apply(entry))
    };
    assert_eq!(mount(&mut world, Some((1, 0))), Ok(()));
    assert_eq!(mount(&mut world, Some((2, 0))), STALE, "judged about another project");
    shrink(&mut world, 1, 1);
    assert_eq!(mount(&mut world, Some((1, 0))), STALE, "the right to read the source is gone");
    assert_eq!(mount(&mut world, None), STALE, "nobody asked about the source");
    assert_eq!(mount(&mut world, Some((1, 1))), Ok(()));
    shrink(&mut world, 2, 1);
    assert_eq!(mount(&mut world, Some((1, 1))), STALE, "the right to write the target is gone");
}

#[test]
fn a_right_over_the_whole_cluster_ends_everywhere() {
    let mut world = World::three();
    let at = |world: &mut World, cmd: crate::Command, cluster: u64| {
        let mut entry = world.entry(cmd);
        entry.actor = Actor::anonymous();
        entry.access = AccessRevisions {
            cluster,
            project: world.view().project().by_id(ProjectId(1)).unwrap().map(|it| (it.id, it.access_rev)),
            principal: Some((PrincipalId(9), 0)),
            ..AccessRevisions::default()
        };
        verdict(world.apply(entry))
    };
    assert_eq!(at(&mut world, put("a/b", 1, &[], &[]).into(), 0), Ok(()));
    let mut cluster = world.view().cluster().record().unwrap().unwrap();
    cluster.access_rev = 2;
    write(&world, crate::cluster::keys::cluster(), &cluster);
    assert_eq!(at(&mut world, put("a/b", 1, &[], &[]).into(), 1), STALE);
    let roots = BlobCmd::Review { roots: vec![] };
    assert_eq!(at(&mut world, roots.clone().into(), 1), STALE, "of no project");
    assert_eq!(at(&mut world, roots.into(), 2), Ok(()));
    assert_eq!(at(&mut world, put("a/b", 1, &[], &[]).into(), 2), Ok(()));
    assert!(world.run(put("a/b", 1, &[], &[])).is_ok(), "the system needs no permit");
}
