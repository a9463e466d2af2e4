//! Tests of the project domain's commands.

use clawhub_types::{Durability, ProjectId};

use super::*;
use crate::Rejected;
use crate::testing::{World, commit, policy, put, repo};

fn set(name: &str, policy: ProjectPolicy) -> ProjectCmd {
    ProjectCmd::SetPolicy { name: name.parse().unwrap(), policy }
}

#[test]
fn projects_and_repositories_come_by_first_use() {
    let mut world = World::three();
    world.ok(put("team/app", 1, &[], &[]));
    world.ok(put("team/app/web", 1, &[], &[]));
    world.ok(put("busybox", 1, &[], &[]));
    world.ok(put("library/busybox", 1, &[], &[]));
    let view = world.view();
    let id = |name: &str| {
        let at = view.project().repo(&repo(name)).unwrap().unwrap();
        assert_eq!(view.project().repo_record(&at).unwrap().unwrap().name, repo(name));
        (at.project.0, at.repo.0)
    };
    assert_eq!([id("team/app"), id("team/app/web")], [(1, 1), (1, 2)]);
    assert_eq!([id("busybox"), id("library/busybox")], [(2, 1), (2, 2)], "one project, two repositories");
    let project = view.project().by_name(&"library".parse().unwrap()).unwrap().unwrap();
    assert_eq!((project.id, project.manifests, project.access_rev), (ProjectId(2), 2, 0));
    assert_eq!(view.project().repo(&repo("team/none")).unwrap(), None);
}

#[test]
fn the_catalog_goes_through_all_projects_in_byte_order() {
    let mut world = World::three();
    let mut names = ["b/x", "a", "a/z", "a-b/c", "b", "ab", "a/b/c", "z/z", "a.b"].map(repo);
    for name in &names {
        world.ok(put(name.as_str(), 1, &[], &[]));
    }
    names.sort_by(|a, b| a.as_str().as_bytes().cmp(b.as_str().as_bytes()));
    let view = world.view();
    assert_eq!(view.project().catalog(None, 100).unwrap(), (names.to_vec(), false));
    assert_eq!(view.project().catalog(None, 9).unwrap(), (names.to_vec(), false), "exactly all is not more");
    assert_eq!(view.project().catalog(None, 0).unwrap(), (vec![], true));
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let (page, more) = view.project().catalog(after.as_deref(), 2).unwrap();
        seen.extend(page);
        after = seen.last().map(ToString::to_string);
        if !more {
            break;
        }
    }
    assert_eq!(seen, names);
    assert_eq!(
        view.project().catalog(Some("a/"), 1).unwrap(),
        (vec![repo("a/b/c")], true),
        "`after` need not exist"
    );
    assert_eq!(view.project().catalog(Some("zz"), 5).unwrap(), (vec![], false));
}

#[test]
fn policies_follow_the_cluster_where_they_say_nothing() {
    let mut world = World::three();
    let of = |world: &World| world.view().project().policy_of(&repo("a/b")).unwrap();
    assert_eq!((of(&world).durability, of(&world).regions), (Durability::Zone, None));
    let reply = world.ok(set("a", policy(None, Some(&["eu", "us"]), false)));
    assert_eq!(reply, Reply::Project(ProjectReply::Project(ProjectId(1))));
    assert_eq!(of(&world).durability, Durability::Zone);
    assert_eq!(of(&world).regions, Some(vec!["eu".to_owned(), "us".to_owned()]));
    world.ok(set("a", policy(Some(Durability::Local), None, false)));
    assert_eq!((of(&world).durability, of(&world).regions), (Durability::Local, None));
    assert_eq!(world.view().project().policy_of(&repo("other/b")).unwrap().durability, Durability::Zone);
    assert_eq!(World::blank().view().project().policy_of(&repo("a/b")).unwrap().durability, Durability::Zone);
}

#[test]
fn a_policy_that_the_layout_cannot_satisfy_is_refused() {
    let mut world = World::new(Durability::Local, &["eu/a", "eu/b", "us/a!"]);
    let refused = |world: &mut World, policy| match world.refused(set("a", policy)) {
        Rejected::Project(ProjectRejected::TooFewDomains(why)) => why.to_string(),
        other => panic!("{other:?}"),
    };
    let why = refused(&mut world, policy(Some(Durability::Region), None, false));
    assert!(why.contains("region") && why.contains("eu"), "{why}");
    refused(&mut world, policy(Some(Durability::Local), Some(&["us"]), true));
    world.ok(set("a", policy(Some(Durability::Zone), None, false)));
    assert_eq!(world.view().project().by_name(&"b".parse().unwrap()).unwrap(), None);
}

#[test]
fn each_root_counts_once_per_project() {
    let mut world = World::three();
    let bytes = |world: &World, name: &str| {
        world.view().project().by_name(&name.parse().unwrap()).unwrap().map_or(0, |project| project.bytes)
    };
    world.ok(commit("a/x", 5, &[1, 2]));
    assert_eq!(bytes(&world, "a"), 1005);
    world.ok(commit("a/x", 5, &[1, 2]));
    world.ok(commit("a/y", 5, &[1, 2]));
    assert_eq!(bytes(&world, "a"), 1005);
    world.ok(commit("b/x", 5, &[1, 2]));
    assert_eq!(bytes(&world, "b"), 1005);
    let unlink =
        |name: &str| crate::blob::BlobCmd::Unlink { repo: repo(name), digest: crate::testing::digest(5) };
    world.ok(unlink("a/x"));
    assert_eq!(bytes(&world, "a"), 1005);
    world.ok(unlink("a/y"));
    assert_eq!((bytes(&world, "a"), bytes(&world, "b")), (0, 1005));
}

#[test]
fn a_project_lists_its_own_repositories_page_by_page() {
    let mut world = World::three();
    for name in ["b/x", "a/z", "a/b/c", "ab/y", "a/a", "alone"] {
        world.ok(put(name, 1, &[], &[]));
    }
    let view = world.view();
    let id = view.project().by_name(&"a".parse().unwrap()).unwrap().unwrap().id;
    let names = ["a/a", "a/b/c", "a/z"].map(repo);
    assert_eq!(view.project().repos(id, None, 9).unwrap(), (names.to_vec(), false));
    assert_eq!(view.project().repos(id, None, 2).unwrap(), (names[..2].to_vec(), true));
    assert_eq!(view.project().repos(id, Some("a/b"), 2).unwrap(), (names[1..].to_vec(), false));
    assert_eq!(view.project().repos(ProjectId(99), None, 9).unwrap(), (vec![], false));
}
