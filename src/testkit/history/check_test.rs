//! Histories made by hand: true ones must pass, and each kind of lie must be found.

use std::sync::Arc;
use std::time::Duration;

use clawhub_types::Digest;
use reqwest::StatusCode;
use reqwest::header::{ETAG, HeaderMap, HeaderValue, RETRY_AFTER};

use super::super::{Condition, Full, Kill, Op, Outcome, Pushed, Session};
use super::*;

const REPO: &str = "team/app";
const OTHER: &str = "team/other";

fn digest(n: u8) -> Digest {
    Digest::Sha256([n; 32])
}

fn seconds(at: u64) -> Duration {
    Duration::from_secs(at)
}

fn tag() -> Key {
    Key::tag(REPO, "v")
}

fn manifest(n: u8) -> Key {
    Key::manifest(REPO, &digest(n))
}

fn blob(n: u8) -> Key {
    Key::blob(REPO, &digest(n))
}

/// Manifest `n` under the tag. It references blob 100 and says something about 200.
fn put_if(n: u8, condition: Condition) -> Op {
    let manifest =
        Pushed { digest: digest(n), blobs: vec![digest(100)], subject: Some(digest(200)), large: n >= 50 };
    Op::PutManifest { repo: REPO.into(), tag: Some("v".into()), manifest: Arc::new(manifest), condition }
}

fn put(n: u8) -> Op {
    put_if(n, Condition::Any)
}

fn put_blob(n: u8, session: Option<Session>) -> Op {
    Op::PutBlob { repo: REPO.into(), digest: digest(n), session }
}

fn delete_if(condition: Condition) -> Op {
    Op::DeleteTag { repo: REPO.into(), tag: "v".into(), condition }
}

fn delete() -> Op {
    delete_if(Condition::Any)
}

fn delete_manifest(n: u8) -> Op {
    Op::DeleteManifest { repo: REPO.into(), digest: digest(n) }
}

fn delete_blob(n: u8) -> Op {
    Op::DeleteBlob { repo: REPO.into(), digest: digest(n) }
}

fn mount(n: u8) -> Op {
    Op::Mount { from: REPO.into(), to: OTHER.into(), digest: digest(n) }
}

fn referrers() -> Op {
    Op::Referrers { repo: REPO.into(), subject: digest(200) }
}

/// An answer about content `n`; 0 for none.
fn answer(status: u16, n: u8) -> Outcome {
    let mut headers = HeaderMap::new();
    if n > 0 {
        let value = HeaderValue::try_from(digest(n).to_string()).unwrap();
        headers.insert("docker-content-digest", value);
    }
    let body = (status == 200).then(|| digest(n));
    let status = StatusCode::from_u16(status).unwrap();
    Outcome::Answer { status, headers, body, list: vec![], text: String::new() }
}

/// A refusal with this in its body.
fn says(code: u16, said: &str) -> Outcome {
    let mut outcome = answer(code, 0);
    if let Outcome::Answer { text, .. } = &mut outcome {
        *text = said.to_owned();
    }
    outcome
}

/// A list of these.
fn list(names: &[&str]) -> Outcome {
    let mut outcome = answer(200, 0);
    if let Outcome::Answer { list, .. } = &mut outcome {
        *list = names.iter().map(|name| (*name).to_owned()).collect();
    }
    outcome
}

/// A condition does not hold, since the tag names `n`; 0 for nothing.
fn precondition(n: u8) -> Outcome {
    let mut outcome = answer(412, 0);
    if let Outcome::Answer { headers, .. } = &mut outcome
        && n > 0
    {
        headers.insert(ETAG, HeaderValue::try_from(format!("\"{}\"", digest(n))).unwrap());
    }
    outcome
}

/// A 503, with its header or without.
fn refusal(retry_after: bool) -> Outcome {
    let mut outcome = answer(503, 0);
    if let Outcome::Answer { headers, .. } = &mut outcome
        && retry_after
    {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    outcome
}

/// One operation after the other, a second each, all by one client.
fn history(operations: Vec<(Op, Outcome)>) -> Events {
    let record = |(i, (op, outcome)): (u64, (Op, Outcome))| {
        let asked = seconds(10 * i);
        Record { client: 0, node: 0, op, asked, answered: asked + seconds(1), outcome }
    };
    Events { records: (1..).zip(operations).map(record).collect(), ..Events::default() }
}

/// What is wrong after blob 100 was pushed and these were done.
fn found(operations: Vec<(Op, Outcome)>) -> String {
    let config = (put_blob(100, None), answer(201, 100));
    violations(&history([config].into_iter().chain(operations).collect())).join("\n")
}

/// Exactly one key's answers contradict each other in what was done.
fn contradicts(key: &Key, operations: Vec<(Op, Outcome)>) {
    let wrong = found(operations);
    assert!(wrong.starts_with(&format!("{key:?} cannot have had")), "{wrong}");
}

#[test]
fn a_true_history_passes() {
    let wrong = found(vec![
        (Op::Get(tag()), answer(404, 0)),
        (Op::Open, answer(202, 0)),
        (put_blob(7, Some(Session { owner: 0, opened: seconds(20) })), answer(201, 7)),
        (Op::Get(blob(7)), answer(200, 7)),
        (put(1), answer(201, 1)),
        (Op::Get(tag()), answer(200, 1)),
        (Op::Get(manifest(1)), answer(200, 1)),
        (Op::Tags(REPO.into()), list(&["v"])),
        (referrers(), list(&[&digest(1).to_string()])),
        (Op::Catalog, list(&[REPO, "foreign/too"])),
        // Nobody knows; then somebody has seen it.
        (put(2), refusal(true)),
        (Op::Get(tag()), answer(200, 1)),
        (Op::Get(tag()), answer(200, 2)),
        (put(3), Outcome::Broken),
        (put(4), Outcome::TimedOut),
        (Op::Get(tag()), answer(429, 0)),
        (put_if(5, Condition::Matches(digest(1))), precondition(2)),
        (put_if(6, Condition::Matches(digest(2))), answer(201, 6)),
        (put_if(8, Condition::Absent), precondition(6)),
        (delete_if(Condition::Matches(digest(2))), precondition(6)),
        (delete(), answer(202, 0)),
        (Op::Tags(REPO.into()), list(&[])),
        (Op::Get(tag()), answer(404, 0)),
        (delete(), answer(404, 0)),
        (put_if(9, Condition::Matches(digest(2))), precondition(0)),
        (Op::Head(manifest(1)), answer(200, 1)),
    ]);
    assert_eq!(wrong, "");
}

#[test]
fn deletions_and_mounts_pass_that_are_true() {
    let unknown = format!(r#"{{"code":"MANIFEST_BLOB_UNKNOWN","detail":{{"digest":"{}"}}}}"#, digest(100));
    let wrong = found(vec![
        (put(1), answer(201, 1)),
        (delete_blob(100), says(405, &format!(r#"{{"manifest":"{}"}}"#, digest(1)))),
        (mount(100), answer(201, 100)),
        (Op::Catalog, list(&[OTHER, REPO])),
        (delete_manifest(1), answer(202, 0)),
        (Op::Head(tag()), answer(404, 0)),
        (delete_manifest(1), answer(404, 0)),
        (referrers(), list(&[])),
        // A node may not have heard of it yet, and has the bytes.
        (Op::Get(manifest(1)), answer(200, 1)),
        (Op::Head(manifest(1)), answer(404, 0)),
        (delete_blob(100), answer(202, 0)),
        (put(2), says(400, &unknown)),
        (mount(100), answer(202, 0)),
        (delete_blob(100), answer(404, 0)),
        (Op::Head(Key::blob(OTHER, &digest(100))), answer(200, 100)),
    ]);
    assert_eq!(wrong, "");
}

#[test]
fn a_write_that_nobody_knows_of_can_be_deleted() {
    assert_eq!(found(vec![(put(1), Outcome::Broken), (delete(), answer(202, 0))]), "");
    // It may happen at any later time.
    let late = vec![(put(1), Outcome::Broken), (Op::Head(tag()), answer(404, 0)), (delete(), answer(202, 0))];
    assert_eq!(found(late), "");
    contradicts(&tag(), vec![(delete(), answer(202, 0))]);
}

#[test]
fn an_older_tag_is_found() {
    contradicts(
        &tag(),
        vec![(put(1), answer(201, 1)), (put(2), answer(201, 2)), (Op::Get(tag()), answer(200, 1))],
    );
}

#[test]
fn a_tag_that_goes_back_is_found_although_its_write_is_unknown() {
    let reads = [(Op::Get(tag()), answer(200, 2)), (Op::Get(tag()), answer(200, 1))];
    contradicts(
        &tag(),
        [(put(1), answer(201, 1)), (put(2), Outcome::Broken)].into_iter().chain(reads).collect(),
    );
}

#[test]
fn a_lost_write_is_found() {
    contradicts(&tag(), vec![(put(1), answer(201, 1)), (Op::Head(tag()), answer(404, 0))]);
    contradicts(&manifest(1), vec![(put(1), answer(201, 1)), (Op::Get(manifest(1)), answer(404, 0))]);
    contradicts(&blob(7), vec![(put_blob(7, None), answer(201, 7)), (Op::Get(blob(7)), answer(404, 0))]);
    contradicts(&tag(), vec![(put(1), answer(201, 1)), (Op::Tags(REPO.into()), list(&[]))]);
    contradicts(&manifest(1), vec![(put(1), answer(201, 1)), (referrers(), list(&[]))]);
    contradicts(&Key::name(REPO), vec![(put(1), answer(201, 1)), (Op::Catalog, list(&[]))]);
    let mounted = Key::blob(OTHER, &digest(100));
    contradicts(&mounted, vec![(mount(100), answer(201, 100)), (Op::Head(mounted.clone()), answer(404, 0))]);
}

#[test]
fn what_was_deleted_and_is_there_is_found() {
    let pushed = (put(1), answer(201, 1));
    contradicts(
        &manifest(1),
        vec![pushed.clone(), (delete_manifest(1), answer(202, 0)), (Op::Head(manifest(1)), answer(200, 1))],
    );
    contradicts(
        &tag(),
        vec![pushed.clone(), (delete_manifest(1), answer(202, 0)), (Op::Tags(REPO.into()), list(&["v"]))],
    );
    contradicts(
        &manifest(1),
        vec![
            pushed.clone(),
            (delete_manifest(1), answer(202, 0)),
            (referrers(), list(&[&digest(1).to_string()])),
        ],
    );
    contradicts(
        &blob(7),
        vec![
            (put_blob(7, None), answer(201, 7)),
            (delete_blob(7), answer(202, 0)),
            (Op::Head(blob(7)), answer(200, 7)),
        ],
    );
    // A deletion by its digest takes the tag only if that still names it.
    contradicts(
        &tag(),
        vec![
            pushed,
            (put(2), answer(201, 2)),
            (delete_manifest(1), answer(202, 0)),
            (Op::Head(tag()), answer(404, 0)),
        ],
    );
}

#[test]
fn a_condition_that_was_not_asked_for_is_found() {
    let pushed = (put(1), answer(201, 1));
    contradicts(&tag(), vec![pushed.clone(), (put_if(2, Condition::Absent), answer(201, 2))]);
    contradicts(&tag(), vec![pushed.clone(), (put_if(2, Condition::Matches(digest(9))), answer(201, 2))]);
    contradicts(&tag(), vec![pushed.clone(), (delete_if(Condition::Matches(digest(9))), answer(202, 0))]);
    // A refusal names what is there.
    contradicts(&tag(), vec![pushed.clone(), (put_if(2, Condition::Absent), precondition(9))]);
    contradicts(&tag(), vec![pushed.clone(), (put_if(2, Condition::Matches(digest(9))), precondition(0))]);
    let wrong = found(vec![pushed.clone(), (put_if(2, Condition::Matches(digest(1))), precondition(1))]);
    assert!(wrong.contains("412 for a condition that holds"), "{wrong}");
    let wrong = found(vec![pushed, (put(2), precondition(1))]);
    assert!(wrong.contains("412 for a condition that holds"), "{wrong}");
}

#[test]
fn of_two_who_swap_the_same_only_one_may_win() {
    let race = |won: [u8; 2]| {
        let mut events = history(vec![
            (put_blob(100, None), answer(201, 100)),
            (put(1), answer(201, 1)),
            (put_if(2, Condition::Matches(digest(1))), answer(201, 2)),
            (
                put_if(3, Condition::Matches(digest(1))),
                if won[1] == 3 { answer(201, 3) } else { precondition(won[1]) },
            ),
            (Op::Head(tag()), answer(200, won[0])),
        ]);
        // Under way together.
        events.records[3].asked = events.records[2].asked;
        violations(&events).join("\n")
    };
    assert_eq!(race([2, 2]), "");
    assert!(race([2, 3]).contains("cannot have had"));
    assert!(race([3, 3]).contains("cannot have had"));
}

#[test]
fn a_manifest_without_its_blobs_is_found() {
    // Its blob was deleted before.
    contradicts(&blob(100), vec![(delete_blob(100), answer(202, 0)), (put(1), answer(201, 1))]);
    // A blob was deleted that it needs.
    contradicts(&manifest(1), vec![(put(1), answer(201, 1)), (delete_blob(100), answer(202, 0))]);
    // It is in use by nothing.
    let used = says(405, &format!(r#"{{"manifest":"{}"}}"#, digest(1)));
    contradicts(
        &manifest(1),
        vec![
            (put(1), answer(201, 1)),
            (delete_manifest(1), answer(202, 0)),
            (delete_blob(100), used.clone()),
        ],
    );
    let wrong = found(vec![(put(1), answer(201, 1)), (delete_blob(7), used)]);
    assert!(wrong.contains("in use by nothing that references it"), "{wrong}");
    // It was refused for a blob that is there, or that it does not reference.
    let lacks = |n| says(400, &format!("MANIFEST_BLOB_UNKNOWN {}", digest(n)));
    contradicts(&blob(100), vec![(put(1), lacks(100))]);
    assert!(found(vec![(put(1), lacks(7))]).contains("does not reference"));
    assert!(found(vec![(put(1), says(400, "MANIFEST_INVALID"))]).contains("nothing explains"));
    // A mount of what is not there, and none of what is.
    contradicts(&blob(7), vec![(mount(7), answer(201, 7))]);
    contradicts(&blob(100), vec![(mount(100), answer(202, 0))]);
}

#[test]
fn what_nobody_pushed_is_found() {
    for (op, outcome) in [
        (Op::Get(tag()), answer(200, 9)),
        (Op::Get(blob(9)), answer(200, 9)),
        (Op::Tags(REPO.into()), list(&["w"])),
        (referrers(), list(&[&digest(9).to_string()])),
    ] {
        let wrong = found(vec![(op, outcome)]);
        assert!(wrong.contains("nobody has pushed"), "{wrong}");
    }
    contradicts(&manifest(9), vec![(Op::Head(manifest(9)), answer(200, 9))]);
    // It was pushed later than it was seen.
    let wrong = found(vec![(Op::Get(tag()), answer(200, 1)), (put(1), answer(201, 1))]);
    assert!(wrong.contains("nobody has pushed"), "{wrong}");
}

#[test]
fn a_404_for_what_is_acknowledged_is_found() {
    assert!(found(vec![(put(1), answer(404, 0))]).contains("404 for something acknowledged"));
    assert!(found(vec![(put(1), answer(400, 0))]).contains("nothing explains"));
    // By its digest it is there, whatever happened to the tag.
    let by_digest = (Op::Get(manifest(1)), answer(404, 0));
    contradicts(&manifest(1), vec![(put(1), answer(201, 1)), (delete(), answer(202, 0)), by_digest]);
    contradicts(&Key::name(REPO), vec![(Op::Tags(REPO.into()), answer(404, 0))]);
}

#[test]
fn a_session_may_be_gone_only_after_its_owner_died() {
    let gone = says(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#);
    let session = Session { owner: 1, opened: seconds(5) };
    let mut events = history(vec![(Op::Append(session), gone)]);
    assert_eq!(violations(&events).len(), 1, "nobody died");
    for (node, at, wrong) in [(1, 4, 1), (1, 6, 0), (0, 6, 1), (1, 12, 1)] {
        events.kills = vec![Kill { node, at: seconds(at) }];
        assert_eq!(violations(&events).len(), wrong, "node {node} died at {at}");
    }
}

#[test]
fn a_507_is_for_bytes_and_of_a_node_that_was_full_then() {
    let session = Session { owner: 1, opened: seconds(5) };
    let bytes = put_blob(7, Some(session));
    // Each is asked at 10 s and answered at 11 s, at node 0.
    for (op, node, from, to, wrong) in [
        (Op::Open, 0, 5, None, 0),
        (Op::Open, 0, 5, Some(10), 0),
        (Op::Open, 0, 11, None, 0),
        (Op::Open, 0, 5, Some(9), 1),
        (Op::Open, 0, 12, None, 1),
        (Op::Open, 1, 5, None, 1),
        (bytes.clone(), 1, 5, None, 0),
        (bytes, 0, 5, None, 1),
        (mount(7), 0, 5, None, 0),
        (put(1), 0, 5, None, 1),
        // Its bytes are too many for the log.
        (put(50), 0, 5, None, 0),
        (Op::Get(tag()), 0, 5, None, 1),
    ] {
        let mut events = history(vec![(op.clone(), answer(507, 0))]);
        events.full = vec![Full { node, from: seconds(from), to: to.map(seconds) }];
        assert_eq!(violations(&events).len(), wrong, "{op:?}, node {node} full from {from} to {to:?}");
    }
}

#[test]
fn other_bytes_are_found() {
    let mut outcome = answer(200, 1);
    if let Outcome::Answer { body, .. } = &mut outcome {
        *body = Some(digest(9));
    }
    let wrong = found(vec![(put(1), answer(201, 1)), (Op::Get(tag()), outcome)]);
    assert!(wrong.contains("other bytes"), "{wrong}");
    assert!(found(vec![(Op::Get(blob(7)), answer(200, 8))]).contains("other content"));
    assert!(found(vec![(put(1), answer(201, 2))]).contains("other content"));
}

#[test]
fn a_fault_is_no_answer() {
    for (outcome, reason) in [
        (answer(500, 0), "nothing explains"),
        (answer(502, 0), "nothing explains"),
        (answer(200, 1), "nothing explains"),
        (refusal(false), "503 without Retry-After"),
    ] {
        let wrong = found(vec![(put(1), outcome)]);
        assert!(wrong.contains(reason), "{wrong}");
    }
}
