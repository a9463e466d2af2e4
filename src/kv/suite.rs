//! What every [`Kv`] must do, as one suite.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::{Batch, Change, Kv, KvError, KvRead, Pair};

/// Runs every test over stores that `make` creates, empty, and checkpoints that `open` opens.
pub(crate) fn run(make: impl Fn() -> Box<dyn Kv>, open: impl Fn(&Path) -> Result<Box<dyn Kv>, KvError>) {
    reads_are_ordered_and_bounded(&*make());
    a_batch_applies_in_order(&*make());
    empty_ranges_and_values(&*make());
    snapshots_do_not_move(&*make());
    owned_snapshots_do_not_move_and_outlive_their_store(Arc::from(make()));
    checkpoints_are_whole_and_apart(&*make(), &open);
    behaves_as_a_sorted_map(&make);
    writers_and_readers_share(&*make());
}

fn pairs(of: &[(&str, &str)]) -> Vec<Pair> {
    of.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
}

fn write(kv: &dyn Kv, of: &[(&str, &str)]) {
    let mut batch = Batch::default();
    for (key, value) in of {
        batch.put(*key, *value);
    }
    kv.write(batch).unwrap();
}

fn reads_are_ordered_and_bounded(kv: &dyn Kv) {
    write(kv, &[("b", "2"), ("a", "1"), ("c\u{0}", "4"), ("c", "3"), ("d", "5")]);
    assert_eq!(kv.get(b"a").unwrap().unwrap(), b"1");
    assert_eq!(kv.get(b"missing").unwrap(), None);
    assert_eq!(
        kv.scan(b"a", b"d", 9).unwrap(),
        pairs(&[("a", "1"), ("b", "2"), ("c", "3"), ("c\u{0}", "4")])
    );
    assert_eq!(kv.scan(b"a\0", b"z", 2).unwrap(), pairs(&[("b", "2"), ("c", "3")]));
    assert_eq!(kv.scan(b"a", b"z", 0).unwrap(), vec![]);
    assert_eq!(kv.last(b"a", b"d").unwrap(), Some((b"c\0".to_vec(), b"4".to_vec())));
    assert_eq!(kv.last(b"c\0\0", b"d").unwrap(), None);
    assert_eq!(kv.last(b"", b"z").unwrap(), Some((b"d".to_vec(), b"5".to_vec())));
}

fn a_batch_applies_in_order(kv: &dyn Kv) {
    write(kv, &[("a", "old"), ("b", "old"), ("c", "old")]);
    let mut batch = Batch::default();
    assert!(batch.is_empty());
    batch.put("b", "lost");
    batch.delete_range("a", "c");
    batch.put("a", "new");
    batch.put("c", "twice");
    batch.put("c", "new");
    batch.put("d", "gone");
    batch.delete("d");
    batch.delete("never there");
    assert!(!batch.is_empty());
    kv.write(batch).unwrap();
    assert_eq!(kv.scan(b"", b"z", 9).unwrap(), pairs(&[("a", "new"), ("c", "new")]));
    kv.write(Batch::default()).unwrap();
    kv.sync().unwrap();
    kv.sync().unwrap();
}

fn empty_ranges_and_values(kv: &dyn Kv) {
    write(kv, &[("", "empty key"), ("a", ""), ("b", "2")]);
    assert_eq!(kv.get(b"").unwrap().unwrap(), b"empty key");
    assert_eq!(kv.get(b"a").unwrap().unwrap(), b"");
    for (start, end) in [("b", "a"), ("b", "b"), ("", "")] {
        assert_eq!(kv.scan(start.as_bytes(), end.as_bytes(), 9).unwrap(), vec![], "{start}..{end}");
        assert_eq!(kv.last(start.as_bytes(), end.as_bytes()).unwrap(), None, "{start}..{end}");
        let mut batch = Batch::default();
        batch.delete_range(start, end);
        kv.write(batch).unwrap();
    }
    assert_eq!(kv.scan(b"", b"z", 9).unwrap(), pairs(&[("", "empty key"), ("a", ""), ("b", "2")]));
}

fn snapshots_do_not_move(kv: &dyn Kv) {
    write(kv, &[("a", "1"), ("b", "1")]);
    let first = kv.snapshot();
    let mut batch = Batch::default();
    batch.put("a", "2");
    batch.delete("b");
    batch.put("c", "2");
    kv.write(batch).unwrap();
    let second = kv.snapshot();
    let mut batch = Batch::default();
    batch.delete_range("", "z");
    kv.write(batch).unwrap();

    assert_eq!(first.get(b"a").unwrap().unwrap(), b"1");
    assert_eq!(first.scan(b"", b"z", 9).unwrap(), pairs(&[("a", "1"), ("b", "1")]));
    assert_eq!(first.last(b"", b"z").unwrap(), Some((b"b".to_vec(), b"1".to_vec())));
    assert_eq!(second.scan(b"", b"z", 9).unwrap(), pairs(&[("a", "2"), ("c", "2")]));
    assert_eq!(kv.scan(b"", b"z", 9).unwrap(), vec![]);
}

fn owned_snapshots_do_not_move_and_outlive_their_store(kv: Arc<dyn Kv>) {
    write(&*kv, &[("a", "1"), ("b", "1")]);
    let first = kv.clone().owned_snapshot();
    let mut batch = Batch::default();
    batch.put("a", "2");
    batch.delete_range("b", "c");
    kv.write(batch).unwrap();
    let second = kv.clone().owned_snapshot();
    drop(kv);

    // Read elsewhere, as a request's task does.
    std::thread::spawn(move || {
        assert_eq!(first.get(b"a").unwrap().unwrap(), b"1");
        assert_eq!(first.scan(b"", b"z", 9).unwrap(), pairs(&[("a", "1"), ("b", "1")]));
        assert_eq!(first.last(b"", b"z").unwrap(), Some((b"b".to_vec(), b"1".to_vec())));
        assert_eq!(second.scan(b"", b"z", 9).unwrap(), pairs(&[("a", "2")]));
        drop(first);
        assert_eq!(second.get(b"a").unwrap().unwrap(), b"2");
    })
    .join()
    .unwrap();
}

fn checkpoints_are_whole_and_apart(kv: &dyn Kv, open: &impl Fn(&Path) -> Result<Box<dyn Kv>, KvError>) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("copy");
    write(kv, &[("a", "1"), ("b", "2")]);
    kv.sync().unwrap();
    // Not synced, yet part of the checkpoint: it is a copy of what readers see.
    write(kv, &[("c", "3")]);
    kv.checkpoint(&at).unwrap();
    write(kv, &[("d", "4")]);
    assert!(kv.checkpoint(&at).is_err(), "an existing directory is never written into");
    assert!(kv.checkpoint(&dir.path().join("no/parent")).is_err());

    let copy = open(&at).unwrap();
    let then = pairs(&[("a", "1"), ("b", "2"), ("c", "3")]);
    assert_eq!(copy.scan(b"", b"z", 9).unwrap(), then);
    write(&*copy, &[("e", "5")]);
    assert_eq!(kv.scan(b"c", b"z", 9).unwrap(), pairs(&[("c", "3"), ("d", "4")]));
    assert!(open(&dir.path().join("absent")).is_err());
}

/// Few enough keys that changes meet, of lengths that order differs from length.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0_u8, 1, 0x7f, 0xff]), 0..4)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (key(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(k, v)| Change::Put(k, v)),
        2 => key().prop_map(Change::Delete),
        1 => (key(), key()).prop_map(|(a, b)| Change::DeleteRange(a, b)),
    ]
}

fn behaves_as_a_sorted_map(make: &impl Fn() -> Box<dyn Kv>) {
    let batches = prop::collection::vec(prop::collection::vec(change(), 0..8), 0..12);
    let reads = prop::collection::vec((key(), key(), 0_usize..6), 8);
    let mut runner = TestRunner::new(Config { cases: 16, failure_persistence: None, ..Config::default() });
    let tested = runner.run(&(batches, reads), |(batches, reads)| {
        let kv = make();
        let mut model = BTreeMap::new();
        for changes in batches {
            for change in &changes {
                apply(&mut model, change);
            }
            kv.write(Batch { changes }).unwrap();
        }
        for (start, end, limit) in reads {
            let within: Vec<Pair> = model
                .iter()
                .filter(|(k, _)| **k >= start && **k < end)
                .map(|(k, v): (&Vec<u8>, &Vec<u8>)| (k.clone(), v.clone()))
                .collect();
            prop_assert_eq!(kv.last(&start, &end).unwrap(), within.last().cloned());
            prop_assert_eq!(kv.get(&start).unwrap(), model.get(&start).cloned());
            let within: Vec<Pair> = within.into_iter().take(limit).collect();
            prop_assert_eq!(kv.scan(&start, &end, limit).unwrap(), within);
        }
        Ok(())
    });
    tested.unwrap();
}

fn apply(model: &mut BTreeMap<Vec<u8>, Vec<u8>>, change: &Change) {
    match change {
        Change::Put(key, value) => {
            model.insert(key.clone(), value.clone());
        }
        Change::Delete(key) => {
            model.remove(key);
        }
        Change::DeleteRange(start, end) => model.retain(|key, _| key < start || key >= end),
    }
}

/// Readers beside a writer see each batch whole or not at all.
fn writers_and_readers_share(kv: &dyn Kv) {
    const ROUNDS: u32 = 300;
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for round in 0..ROUNDS {
                let mut batch = Batch::default();
                batch.put("left", round.to_be_bytes());
                batch.put("right", round.to_be_bytes());
                kv.write(batch).unwrap();
                if round % 50 == 0 {
                    kv.sync().unwrap();
                }
            }
        });
        threads.spawn(|| {
            let done = (ROUNDS - 1).to_be_bytes().to_vec();
            loop {
                let view: Box<dyn KvRead> = kv.snapshot();
                let left = view.get(b"left").unwrap();
                let right = view.get(b"right").unwrap();
                assert_eq!(left, right);
                if left.as_ref() == Some(&done) {
                    break;
                }
            }
        });
    });
}
