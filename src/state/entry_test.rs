//! What this version does not know is told from what is broken, at each level.

use clawhub_types::{Actor, NodeId, SessionId};

use super::*;
use crate::artifact::{ArtifactCmd, ArtifactRejected, ArtifactReply, Condition};
use crate::cluster::{ClusterEvent, ClusterReply};
use crate::outbox::{Event, OutboxRow};
use crate::testing::{World, repo, tag};
use crate::{Fault, LogItem, LogPos, Machine, Payload, Rejected, RequestRejected};

/// A variant that no enum here has.
const STRANGE: u8 = 99;

fn entry(cmd: impl Into<Command>) -> Entry {
    let mut entry = World::blank().entry(cmd);
    entry.actor = Actor::anonymous();
    entry
}

/// Reads a record again with one byte changed, counted from its end.
fn with_strange_byte<R: Record>(record: &R, from_end: usize) -> Result<R, Fault> {
    let mut bytes = record.encode();
    let place = bytes.len() - from_end;
    bytes[place] = STRANGE;
    R::decode(&bytes)
}

fn assert_unknown<T: std::fmt::Debug>(read: Result<T, Fault>, name: &str) {
    match read {
        Err(Fault::UnknownShape { what, .. }) => assert_eq!(what, name),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn commands_of_a_later_version_are_unknown_at_each_level() {
    // Its last bytes: domain, command, session.
    let close = entry(ClusterCmd::SessionClose { session: SessionId(0) });
    assert!(Entry::decode(&close.encode()).is_ok());
    assert_unknown(with_strange_byte(&close, 3), "log entry");
    assert_unknown(with_strange_byte(&close, 2), "log entry");
    assert_eq!(with_strange_byte(&close, 1).unwrap().cmd, {
        let session = SessionId(u64::from(STRANGE));
        ClusterCmd::SessionClose { session }.into()
    });
    // An enum within a command.
    let untag = ArtifactCmd::Untag { repo: repo("a/b"), tag: tag("t"), condition: Condition::Exists };
    assert_unknown(with_strange_byte(&entry(untag), 1), "log entry");
}

#[test]
fn answers_of_a_later_version_are_unknown_at_each_level() {
    // Ok, domain, reply, node.
    let joined: Outcome = Ok(ClusterReply::Joined(NodeId(0)).into());
    let gone: Outcome = Err(RequestRejected::SessionGone.into());
    for (outcome, from_end) in [(&joined, 4), (&joined, 3), (&joined, 2), (&gone, 3), (&gone, 2), (&gone, 1)]
    {
        assert_unknown(with_strange_byte(outcome, from_end), "outcome");
        assert_unknown(
            decode_outcome(&{
                let mut bytes = encode_outcome(outcome);
                let place = bytes.len() - from_end;
                bytes[place] = STRANGE;
                bytes
            }),
            "outcome",
        );
    }
}

#[test]
fn events_of_a_later_version_are_unknown_at_each_level() {
    let event = Event::from(ClusterEvent::NodeJoined { node: NodeId(0) });
    let row = OutboxRow { at: 1, actor: Actor::system(), event };
    assert_unknown(with_strange_byte(&row, 3), "outbox row");
    assert_unknown(with_strange_byte(&row, 2), "outbox row");
    assert!(with_strange_byte(&row, 1).is_ok());
}

#[test]
fn principals_of_a_later_version_are_unknown() {
    let mut bytes = entry(ClusterCmd::SessionClose { session: SessionId(0) }).encode();
    let other = Entry { actor: Actor::operator(), ..Entry::decode(&bytes).unwrap() }.encode();
    let place = bytes.iter().zip(&other).position(|(one, other)| one != other).unwrap();
    bytes[place] = STRANGE;
    assert_unknown(decode_entry(&bytes), "log entry");
}

#[test]
fn what_ends_early_or_late_is_corrupt_and_not_unknown() {
    let bytes = entry(ClusterCmd::SessionClose { session: SessionId(0) }).encode();
    for cut in 2..bytes.len() {
        let read = decode_entry(&bytes[..cut]);
        assert!(matches!(read, Err(Fault::Corrupt { .. })), "{cut}: {read:?}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(decode_entry(&longer), Err(Fault::Corrupt { .. })));
    for outcome in [
        Ok(ArtifactReply::Stored { digest: crate::testing::digest(1), tags: vec![tag("t")] }.into()),
        Err(Rejected::from(ArtifactRejected::PreconditionFailed(Some(crate::testing::digest(1))))),
    ] {
        let bytes = encode_outcome(&outcome);
        for cut in 2..bytes.len() {
            assert!(matches!(decode_outcome(&bytes[..cut]), Err(Fault::Corrupt { .. })), "{cut}");
        }
    }
}

/// The state of a later version, under this one: the machine stops instead of guessing.
#[test]
fn a_row_with_an_unknown_variant_halts() {
    let mut world = World::three();
    world.ok(crate::testing::put("a/b", 1, &[], &["t"]));
    let at = world.at("a/b");
    let key = crate::artifact::keys::manifest(at, &crate::testing::digest(1));
    let record = world.view().artifact().manifest(&at, &crate::testing::digest(1)).unwrap().unwrap();
    let other = crate::artifact::ManifestRecord {
        body: crate::artifact::BodyRef::Stored(crate::testing::root(1)),
        ..record.clone()
    };
    let mut bytes = record.encode();
    let other = other.encode();
    let place = bytes.iter().zip(&other).position(|(one, other)| one != other).unwrap();
    bytes[place] = STRANGE;
    let mut batch = clawhub_kv::Batch::default();
    batch.put(key.into_bytes(), bytes);
    world.machine.kv().write(batch).unwrap();
    let entry = world.entry(crate::testing::put("a/b", 1, &[], &["t"]));
    let item = world.item(Payload::Entry(entry));
    assert_unknown(world.machine.apply(&[item]), "manifest");
}

#[test]
fn the_log_position_of_a_later_version_is_unknown_to_a_machine() {
    let kv = std::sync::Arc::new(clawhub_kv::MemoryKv::new());
    let pos = LogPos { term: 1, node: 1, index: 1 };
    Machine::open(kv.clone()).unwrap().apply(&[LogItem { pos, payload: Payload::Blank }]).unwrap();
    let mut batch = clawhub_kv::Batch::default();
    batch.put(crate::meta::applied_key().into_bytes(), vec![0x7f, 0, 1]);
    clawhub_kv::Kv::write(&*kv, batch).unwrap();
    assert_unknown(Machine::open(kv).map(|_| ()), "log position");
}
