//! Histories made by hand: true ones must pass, and each kind of lie must be found.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};

use super::*;

fn digest(n: u8) -> Digest {
    Digest::Sha256([n; 32])
}

fn seconds(at: u64) -> Duration {
    Duration::from_secs(at)
}

fn tag() -> Key {
    Key::Tag("v".into())
}

fn put(n: u8) -> Op {
    Op::PutManifest { tag: "v".into(), digest: digest(n) }
}

fn delete() -> Op {
    Op::DeleteTag("v".into())
}

/// An answer about content `n`; 0 for none.
fn answer(status: u16, n: u8) -> Outcome {
    let mut headers = HeaderMap::new();
    if n > 0 {
        let value = HeaderValue::try_from(digest(n).to_string()).unwrap();
        headers.insert("docker-content-digest", value);
    }
    let body = (status == 200).then(|| digest(n));
    Outcome::Answer { status: StatusCode::from_u16(status).unwrap(), headers, body, text: String::new() }
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

fn found(operations: Vec<(Op, Outcome)>) -> String {
    violations(&history(operations)).join("\n")
}

#[test]
fn a_true_history_passes() {
    let wrong = found(vec![
        (Op::Get(tag()), answer(404, 0)),
        (Op::Open, answer(202, 0)),
        (Op::PutBlob(digest(7), Some(Session { owner: 0, opened: seconds(20) })), answer(201, 7)),
        (Op::Get(Key::Blob(digest(7))), answer(200, 7)),
        (put(1), answer(201, 1)),
        (Op::Get(tag()), answer(200, 1)),
        (Op::Get(Key::Manifest(digest(1))), answer(200, 1)),
        // Nobody knows; then somebody has seen it.
        (put(2), refusal(true)),
        (Op::Get(tag()), answer(200, 1)),
        (Op::Get(tag()), answer(200, 2)),
        (put(3), Outcome::Broken),
        (put(4), Outcome::TimedOut),
        (Op::Get(tag()), answer(429, 0)),
        (delete(), answer(202, 0)),
        (Op::Get(tag()), answer(404, 0)),
        (delete(), answer(404, 0)),
        (Op::Get(Key::Manifest(digest(1))), answer(200, 1)),
    ]);
    assert_eq!(wrong, "");
}

#[test]
fn a_write_that_nobody_knows_of_can_be_deleted() {
    assert_eq!(found(vec![(put(1), Outcome::Broken), (delete(), answer(202, 0))]), "");
    assert!(
        found(vec![(delete(), answer(202, 0))]).contains("cannot have had"),
        "there was nothing to delete"
    );
}

#[test]
fn an_older_tag_is_found() {
    let wrong =
        found(vec![(put(1), answer(201, 1)), (put(2), answer(201, 2)), (Op::Get(tag()), answer(200, 1))]);
    assert!(wrong.contains("cannot have had"), "{wrong:?}");
}

#[test]
fn a_tag_that_goes_back_is_found_although_its_write_is_unknown() {
    let reads = [(Op::Get(tag()), answer(200, 2)), (Op::Get(tag()), answer(200, 1))];
    let wrong =
        found([(put(1), answer(201, 1)), (put(2), Outcome::Broken)].into_iter().chain(reads).collect());
    assert!(wrong.contains("cannot have had"), "{wrong:?}");
}

#[test]
fn a_lost_write_is_found() {
    let wrong = found(vec![(put(1), answer(201, 1)), (Op::Head(tag()), answer(404, 0))]);
    assert!(wrong.contains("cannot have had"), "{wrong:?}");
    let blob = Op::PutBlob(digest(7), None);
    let wrong = found(vec![(blob, answer(201, 7)), (Op::Get(Key::Blob(digest(7))), answer(404, 0))]);
    assert!(wrong.contains("cannot have had"), "{wrong:?}");
}

#[test]
fn a_404_for_what_is_acknowledged_is_found() {
    // Its blobs were, or the client would not have put it.
    assert!(found(vec![(put(1), answer(404, 0))]).contains("404 for something acknowledged"));
    assert!(found(vec![(put(1), answer(400, 0))]).contains("nothing explains"));
    // By its digest it is there, whatever happened to the tag.
    let by_digest = (Op::Get(Key::Manifest(digest(1))), answer(404, 0));
    let wrong = found(vec![(put(1), answer(201, 1)), (delete(), answer(202, 0)), by_digest]);
    assert!(wrong.contains("cannot have had"), "{wrong:?}");
}

#[test]
fn a_session_may_be_gone_only_after_its_owner_died() {
    let mut gone = answer(404, 0);
    if let Outcome::Answer { text, .. } = &mut gone {
        *text = r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#.into();
    }
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
    let bytes = Op::PutBlob(digest(7), Some(session));
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
        (put(1), 0, 5, None, 1),
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
    assert!(wrong.contains("other bytes"), "{wrong:?}");
    let blob = Op::Get(Key::Blob(digest(7)));
    assert!(found(vec![(blob, answer(200, 8))]).contains("other content"));
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
        assert!(wrong.contains(reason), "{wrong:?}");
    }
}
