//! Tests of what the artifact domain lists and remembers.

use clawhub_types::Actor;

use super::*;
use crate::artifact::TagChange;

#[test]
fn tags_come_in_byte_order_and_pages() {
    let mut world = World::three();
    let mut names = ["v1.10", "v1.9", "V1", "_x", "a", "a-", "a.", "aa", "b", "0"];
    world.ok(put("a/b", 1, &[], &names));
    world.ok(put("a/bb", 1, &[], &["other"]));
    names.sort_unstable();
    let expected: Vec<_> = names.iter().map(|name| tag(name)).collect();
    let at = world.at("a/b");
    let view = world.view();
    assert_eq!(view.artifact().tags(&at, None, 100).unwrap(), (expected.clone(), false));
    assert!(!view.artifact().tags(&at, None, 10).unwrap().1);
    assert_eq!(view.artifact().tags(&at, None, 9).unwrap(), (expected[..9].to_vec(), true));
    assert_eq!(view.artifact().tags(&at, None, 0).unwrap(), (vec![], true));
    assert_eq!(view.artifact().tags(&at, Some("a"), 2).unwrap(), (vec![tag("a-"), tag("a.")], true));
    assert_eq!(
        view.artifact().tags(&at, Some("a!"), 1).unwrap(),
        (vec![tag("a-")], true),
        "`after` need not exist"
    );
    assert_eq!(view.artifact().tags(&at, Some("v1.9"), 5).unwrap(), (vec![], false));
}

#[test]
fn referrers_come_in_digest_order_and_pages() {
    let mut world = World::three();
    for n in 10..30 {
        let refer = with(put("a/b", n, &[], &[]), |facts, _, _| {
            facts.subject = Some(digest(if n % 2 == 0 { 1 } else { 2 }));
            facts.artifact_type = Some("application/example".into());
            facts.annotations = Some(vec![("k".into(), n.to_string())]);
        });
        world.ok(refer);
    }
    let mut expected: Vec<_> = (10..30).step_by(2).map(digest).collect();
    expected.sort();
    let at = world.at("a/b");
    let view = world.view();
    let found = view.artifact().referrers(&at, &digest(1), None, 100).unwrap();
    assert_eq!(found.iter().map(|(digest, _)| digest.clone()).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|(_, record)| record.facts.annotations.is_some()));
    let (mut after, mut seen): (Option<Digest>, Vec<Digest>) = (None, Vec::new());
    loop {
        let page = view.artifact().referrers(&at, &digest(1), after.as_ref(), 3).unwrap();
        seen.extend(page.iter().map(|(digest, _)| digest.clone()));
        after = seen.last().cloned();
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(view.artifact().referrers(&at, &digest(3), None, 9).unwrap(), []);
}

#[test]
fn a_tag_remembers_what_it_named() {
    let mut world = World::three();
    let history = |world: &World| {
        let at = world.at("a/b");
        let changes = world.view().artifact().tag_history(&at, &tag("t"), 9).unwrap();
        changes.into_iter().map(|change| change.digest).collect::<Vec<_>>()
    };
    world.ok(put("a/b", 1, &[], &["t", "t0"]));
    let mut entry = world.entry(put("a/b", 2, &[], &["t"]));
    entry.actor = Actor::operator();
    world.apply(entry).unwrap();
    let (index, _) = world.view().state_hash().unwrap();
    let newest = world.view().artifact().tag_history(&world.at("a/b"), &tag("t"), 1).unwrap();
    let expected = TagChange {
        index,
        digest: Some(digest(2)),
        tick: world.tick,
        at: 1_700_000_000_000 + world.tick,
        actor: Actor::operator(),
    };
    assert_eq!(newest, [expected]);
    assert_eq!(history(&world), [Some(digest(2)), Some(digest(1))], "newest first");
    world.ok(put("a/b", 2, &[], &["t"]));
    assert_eq!(history(&world).len(), 2, "it was there already");
    world.ok(ArtifactCmd::Untag { repo: repo("a/b"), tag: tag("t"), condition: Condition::Any });
    world.ok(put("a/b", 1, &[], &["t"]));
    world.ok(ArtifactCmd::Delete { repo: repo("a/b"), digest: digest(1) });
    let all = [None, Some(digest(1)), None, Some(digest(2)), Some(digest(1))];
    assert_eq!(history(&world), all, "it outlives the tag and the manifest");
    let other = world.view().artifact().tag_history(&world.at("a/b"), &tag("t0"), 9).unwrap();
    assert_eq!(other.len(), 2, "a tag whose name goes on is another");
}

#[test]
fn a_tag_remembers_its_last_hundred_changes() {
    let mut world = World::three();
    for n in 0..250 {
        world.ok(put("a/b", n, &[], &["t", "u"]));
    }
    let at = world.at("a/b");
    let kept = world.view().artifact().tag_history(&at, &tag("t"), usize::MAX).unwrap();
    let expected: Vec<_> = (150..250).rev().map(|n| Some(digest(n))).collect();
    assert_eq!(kept.into_iter().map(|change| change.digest).collect::<Vec<_>>(), expected);
    let rows = world.view().read().all(&crate::project::keys::table(at, b'y')).unwrap();
    assert_eq!(rows.len(), 200, "two tags");
}
