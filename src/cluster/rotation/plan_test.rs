//! Tests of what a node does next.

use clawhub_state::LogMark;
use clawhub_state::cluster::{Envelope, NodeSpec};
use clawhub_types::{ClusterId, Durability, Location, Roles};

use super::*;

const OLD: &[u8] = b"old ca";
const NEW: &[u8] = b"new ca";
const UNTIL: u64 = 10_000;

fn member(id: u64, next: bool) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        spec: NodeSpec {
            name: format!("n{id}"),
            location: Location { region: "r".into(), zone: "z".into() },
            roles: Roles { voter: true, storage: true },
            peer_addr: "h:1".into(),
            http_addr: "h:2".into(),
            spki: [id as u8; 32],
        },
        boot: 1,
        nonce: 1,
        start_key: vec![id as u8],
        acknowledged: LogMark::default(),
        epoch: 0,
        draining: false,
        failing: None,
        removed: false,
        generation: 1,
        next_spki: next.then_some([100 + id as u8; 32]),
    }
}

/// Three voters, of which these have confirmed; all have an envelope.
fn confirming(confirmed: &[u64]) -> Facts {
    let rotation = Rotation {
        generation: 2,
        ca_cert: NEW.to_vec(),
        ca_key_sealed: vec![1],
        until: UNTIL,
        switched: None,
        envelopes: (1..=3).map(|id| Envelope { node: NodeId(id), boot: 1, sealed: vec![id as u8] }).collect(),
    };
    Facts {
        cluster: ClusterRecord {
            id: ClusterId([1; 16]),
            epoch: 1,
            ca_cert: OLD.to_vec(),
            ca_key_sealed: vec![0],
            durability: Durability::Zone,
            access_rev: 0,
            level: 1,
        },
        keys: KeysRecord { generation: 1, last: 2, due: None, rotation: Some(rotation) },
        members: (1..=3).map(|id| member(id, confirmed.contains(&id))).collect(),
        voters: (1..=3).map(NodeId).collect(),
        leads: None,
    }
}

/// What node `id` does, if it has the next keys or not.
fn of(facts: &Facts, id: u64, has: bool) -> Option<Step> {
    let all = [(OLD, [id as u8; 32]), (NEW, [100 + id as u8; 32])];
    let has = if has { &all[..] } else { &all[..1] };
    next(facts, &Own { node: NodeId(id), boot: 1, has })
}

#[test]
fn only_a_leader_begins_and_only_what_was_asked_for() {
    let mut facts = confirming(&[]);
    facts.keys.rotation = None;
    facts.leads = Some(1);
    assert_eq!(of(&facts, 1, false), None);
    facts.keys.due = Some(5);
    assert_eq!(of(&facts, 1, false), Some(Step::Begin));
    facts.leads = None;
    assert_eq!(of(&facts, 1, false), None);
}

#[test]
fn a_member_opens_keeps_and_confirms() {
    let facts = confirming(&[1]);
    assert_eq!(of(&facts, 2, false), Some(Step::Open(vec![2])));
    assert_eq!(of(&facts, 2, true), Some(Step::Confirm([102; 32])));
    assert_eq!(of(&facts, 1, true), None, "it waits for the others");
    let restarted = Own { node: NodeId(2), boot: 2, has: &[(OLD, [2; 32])] };
    assert_eq!(next(&facts, &restarted), None, "the envelope is for the start before");
}

#[test]
fn whoever_has_the_key_seals_it_to_later_starts() {
    let mut facts = confirming(&[1]);
    facts.members[2].boot = 2;
    let Some(Step::Seal(lack)) = of(&facts, 1, true) else { panic!("not sealed") };
    assert_eq!(lack.iter().map(|member| member.id).collect::<Vec<_>>(), [NodeId(3)]);
    facts.members[2].start_key.clear();
    assert_eq!(of(&facts, 1, true), None, "it has never started");
}

#[test]
fn the_leader_switches_when_all_have_confirmed_or_most_have_and_it_has_waited() {
    let mut facts = confirming(&[1, 2, 3]);
    assert_eq!(of(&facts, 1, true), None);
    facts.leads = Some(1);
    assert_eq!(of(&facts, 1, true), Some(Step::Switch));
    for (confirmed, then) in [(&[1, 2][..], Step::Switch), (&[1], Step::Begin)] {
        let mut facts = confirming(confirmed);
        facts.leads = Some(UNTIL - 1);
        assert_eq!(of(&facts, 1, true), None);
        facts.leads = Some(UNTIL);
        assert_eq!(of(&facts, 1, true), Some(then));
    }
}

#[test]
fn the_leader_finishes_when_the_old_keys_had_their_time() {
    let mut facts = confirming(&[1, 2, 3]);
    facts.keys.rotation.as_mut().unwrap().switched = Some(500);
    for (leads, then) in
        [(None, None), (Some(500 + GRACE - 1), None), (Some(500 + GRACE), Some(Step::Finish))]
    {
        facts.leads = leads;
        assert_eq!(of(&facts, 1, true), then);
    }
}
