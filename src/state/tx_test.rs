//! Tests of the transaction overlay.

use std::collections::BTreeMap;

use clawhub_kv::{Kv, MemoryKv};
use proptest::prelude::*;

use super::*;

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..4, 1..3)
}

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<u8>, Option<u8>),
    Savepoint,
    Rollback,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (key(), any::<Option<u8>>()).prop_map(|(key, value)| Step::Set(key, value)),
        1 => Just(Step::Savepoint),
        1 => Just(Step::Rollback),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Reads see store and changes as one sorted map; rollback returns to the savepoint; the batch makes
    /// the store what reads saw, and brings the hash along.
    #[test]
    fn changes_lie_over_the_store(
        stored in prop::collection::btree_map(key(), any::<u8>(), 0..12),
        steps in prop::collection::vec(step(), 0..40),
        reads in prop::collection::vec((key(), key(), 0_usize..8), 10),
    ) {
        let kv = MemoryKv::new();
        let mut first = Tx::new(&kv);
        for (key, value) in &stored {
            first.put_raw(Key::new(key), vec![*value]);
        }
        kv.write(first.finish(Key::new(b"\xf0hash")).unwrap()).unwrap();

        let mut model: BTreeMap<Vec<u8>, Vec<u8>> =
            stored.into_iter().map(|(key, value)| (key, vec![value])).collect();
        let mut saved = model.clone();
        let mut tx = Tx::new(&kv);
        for step in steps {
            match step {
                Step::Set(key, Some(value)) => {
                    tx.put_raw(Key::new(&key), vec![value]);
                    model.insert(key, vec![value]);
                }
                Step::Set(key, None) => {
                    tx.delete(Key::new(&key));
                    model.remove(&key);
                }
                Step::Savepoint => {
                    tx.savepoint();
                    saved.clone_from(&model);
                }
                Step::Rollback => {
                    tx.rollback();
                    model.clone_from(&saved);
                }
            }
        }
        for (start, end, limit) in reads {
            let within: Vec<Pair> =
                model.iter().filter(|(k, _)| **k >= start && **k < end).map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(tx.get(&start).unwrap(), model.get(&start).cloned());
            prop_assert_eq!(tx.last(&start, &end).unwrap(), within.last().cloned());
            let within: Vec<Pair> = within.into_iter().take(limit).collect();
            prop_assert_eq!(tx.scan(&start, &end, limit).unwrap(), within);
        }
        kv.write(tx.finish(Key::new(b"\xf0hash")).unwrap()).unwrap();
        let all: BTreeMap<_, _> = kv.scan(b"", b"\xf0", usize::MAX).unwrap().into_iter().collect();
        prop_assert_eq!(&all, &model);

        let mut sum = StateHash::default();
        for (key, value) in &model {
            sum.add(key, value);
        }
        let stored = StateHash::decode(&kv.get(b"\xf0hash").unwrap().unwrap()).unwrap();
        prop_assert_eq!(stored, sum);
    }
}

#[test]
fn scans_longer_than_a_chunk_miss_nothing() {
    let kv = MemoryKv::new();
    let mut batch = Batch::default();
    for n in 0..1000_u16 {
        batch.put(n.to_be_bytes(), b"stored");
    }
    kv.write(batch).unwrap();
    let mut tx = Tx::new(&kv);
    for n in (0..1000_u16).filter(|n| n % 3 != 0) {
        tx.delete(Key::new(&n.to_be_bytes()));
    }
    for n in 1000..1300_u16 {
        tx.put_raw(Key::new(&n.to_be_bytes()), b"staged".to_vec());
    }
    let found = tx.scan(&[], &[0xff], usize::MAX).unwrap();
    assert_eq!(found.len(), 334 + 300);
    assert!(found.is_sorted());
    assert_eq!(tx.scan(&[], &[0xff], 335).unwrap(), found[..335]);
}

#[test]
fn what_changes_nothing_is_not_written() {
    let kv = MemoryKv::new();
    let mut tx = Tx::new(&kv);
    tx.put_raw(Key::new(b"a"), b"1".to_vec());
    kv.write(tx.finish(Key::new(b"h")).unwrap()).unwrap();
    let mut tx = Tx::new(&kv);
    tx.put_raw(Key::new(b"a"), b"1".to_vec());
    tx.delete(Key::new(b"b"));
    assert_eq!(tx.finish(Key::new(b"h")).unwrap().changes.len(), 1, "the hash alone");
}
