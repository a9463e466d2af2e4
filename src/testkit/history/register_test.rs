//! Histories of one register made by hand, and many made at random, on which the search must agree with one that
//! tries every order.

use Effect::{Clear, Drop, Holds, Not, Read, Swap, Write};

use super::*;
use crate::content::Rng;

const ONE: Digest = Digest::Sha256([1; 32]);
const TWO: Digest = Digest::Sha256([2; 32]);

/// An operation from `asked` to `answered`, in seconds; 0 for unknown.
fn step(asked: u64, answered: u64, effect: Effect) -> Step {
    let answered = (answered > 0).then(|| Duration::from_secs(answered));
    Step { asked: Duration::from_secs(asked), answered, effect }
}

fn swap(from: Value, to: Value) -> Effect {
    Swap { from, to }
}

#[test]
fn what_can_be_explained() {
    for steps in [
        vec![step(1, 2, Read(None)), step(3, 4, Write(ONE)), step(5, 6, Read(Some(ONE)))],
        // A read at the same time as a write sees either.
        vec![step(1, 9, Write(ONE)), step(2, 3, Read(None)), step(4, 5, Read(Some(ONE)))],
        // Two writes at once, in either order.
        vec![step(1, 9, Write(ONE)), step(2, 8, Write(TWO)), step(10, 11, Read(Some(ONE)))],
        // An unknown write that never happened, one that did, and one that did late.
        vec![step(1, 0, Write(ONE)), step(2, 3, Read(None)), step(4, 5, Read(None))],
        vec![step(1, 0, Write(ONE)), step(2, 3, Read(Some(ONE)))],
        vec![step(1, 0, Write(ONE)), step(2, 3, Write(TWO)), step(4, 5, Read(Some(ONE)))],
        // The same content again after a deletion.
        vec![step(1, 2, Write(ONE)), step(3, 4, Clear), step(5, 6, Write(ONE)), step(7, 8, Clear)],
        // A deletion that nobody knows of, and so a tag that is there or not, once.
        vec![step(1, 2, Write(ONE)), step(3, 0, Clear), step(4, 5, Read(Some(ONE))), step(6, 7, Read(None))],
        // Of two conditional writes at once the one whose condition the other made.
        vec![step(1, 9, swap(Some(ONE), Some(TWO))), step(2, 8, swap(None, Some(ONE)))],
        // The content of a tag was deleted while another writer moved it.
        vec![
            step(1, 2, Write(ONE)),
            step(3, 9, Drop(ONE)),
            step(4, 8, Write(TWO)),
            step(10, 11, Read(Some(TWO))),
        ],
        vec![step(1, 2, Write(ONE)), step(3, 4, Drop(TWO)), step(5, 6, Holds), step(7, 8, Not(TWO))],
        // What was deleted with its manifest had been written by who was not answered.
        vec![step(1, 0, Write(ONE)), step(2, 3, Drop(ONE)), step(4, 5, Read(None))],
        vec![step(1, 2, Write(TWO)), step(3, 0, Write(ONE)), step(4, 5, Drop(ONE)), step(6, 7, Read(None))],
    ] {
        assert_eq!(explain(&steps), Ok(()), "{steps:?}");
    }
}

#[test]
fn what_cannot() {
    for (steps, wrong) in [
        // Lost.
        (vec![step(1, 2, Write(ONE)), step(3, 4, Read(None))], 1),
        // Never written.
        (vec![step(1, 2, Write(ONE)), step(3, 4, Read(Some(TWO)))], 1),
        // Read before it was written.
        (vec![step(1, 2, Read(Some(ONE))), step(3, 4, Write(ONE))], 0),
        // Older than what was acknowledged.
        (vec![step(1, 2, Write(ONE)), step(3, 4, Write(TWO)), step(5, 6, Read(Some(ONE)))], 2),
        // Back again, although the write is still under way.
        (vec![step(1, 9, Write(ONE)), step(2, 3, Read(Some(ONE))), step(4, 5, Read(None))], 2),
        // The same with an unknown write: it happens once or never.
        (vec![step(1, 0, Write(ONE)), step(2, 3, Read(Some(ONE))), step(4, 5, Read(None))], 2),
        // Two writers at once, and readers that disagree about who was last.
        (
            vec![
                step(1, 4, Write(ONE)),
                step(2, 3, Write(TWO)),
                step(5, 6, Read(Some(ONE))),
                step(7, 8, Read(Some(TWO))),
            ],
            3,
        ),
        // Deleted twice, and written once.
        (vec![step(1, 2, Write(ONE)), step(3, 4, Clear), step(5, 6, Clear)], 2),
        // Both of two conditional writes won.
        (vec![step(1, 9, swap(None, Some(ONE))), step(2, 8, swap(None, Some(TWO)))], 0),
        // One won whose condition did not hold.
        (vec![step(1, 2, Write(ONE)), step(3, 4, swap(Some(TWO), None))], 1),
        // A manifest was deleted, and its tag stayed.
        (vec![step(1, 2, Write(ONE)), step(3, 4, Drop(ONE)), step(5, 6, Holds)], 2),
        // Another one was, and the tag went with it.
        (vec![step(1, 2, Write(ONE)), step(3, 4, Drop(TWO)), step(5, 6, Read(None))], 2),
        // A tag on what there is not.
        (vec![step(1, 2, Write(ONE)), step(3, 4, Not(ONE))], 1),
    ] {
        let found = explain(&steps);
        assert!(matches!(found, Err(Wrong::Contradiction(_))), "{steps:?}");
        // Where several were under way together it is a matter of taste which of them is wrong.
        let together = steps[0].answered.is_some_and(|answered| answered >= steps[1].asked);
        assert!(together || found == Err(Wrong::Contradiction(wrong)), "{steps:?}: {found:?}");
    }
}

#[test]
fn many_unknown_writes_do_not_multiply() {
    let same = (0..200).map(|i| step(i, 0, Write(ONE)));
    let mut steps: Vec<_> = same.chain([step(300, 301, Read(Some(ONE)))]).collect();
    assert_eq!(explain(&steps), Ok(()));
    steps.push(step(302, 303, Read(None)));
    assert_eq!(explain(&steps), Err(Wrong::Contradiction(201)));
    // Nor do those of different values, deletions between them.
    let value = |i: u64| Digest::Sha256([u8::try_from(i % 250).unwrap(); 32]);
    let differ = (0..200).map(|i| step(i, 0, if i % 5 == 0 { Clear } else { Write(value(i)) }));
    let mut steps: Vec<_> = differ.collect();
    for i in 0..50 {
        let seen = if i % 3 == 0 { Holds } else { Read(Some(value(4 * i + 1))) };
        steps.push(step(300 + 10 * i, 305 + 10 * i, if (4 * i + 1) % 5 == 0 { Clear } else { seen }));
    }
    assert!(!matches!(explain(&steps), Err(Wrong::Undecided(_))));
}

/// A true history of so many operations, about six under way at a time.
fn long(count: u64) -> Vec<Step> {
    let (mut rng, mut steps) = (Rng::new(7), Vec::new());
    let (mut value, mut at) = (None, 0);
    for i in 0..count {
        at += 1 + rng.below(3) as u64;
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&i.to_be_bytes());
        let next = Digest::Sha256(digest);
        let effect = match rng.below(6) {
            0 => Write(next.clone()),
            1 => swap(value.clone(), Some(next.clone())),
            2 if value.is_some() => Clear,
            _ => Read(value.clone()),
        };
        value = effect.after(&value).unwrap();
        // Done at `at`, asked a while before and answered a while after.
        let (early, late) = (rng.below(9) as u64, rng.below(9) as u64);
        let unknown = !effect.looks() && rng.below(20) == 0;
        steps.push(step((at + 10).saturating_sub(early), if unknown { 0 } else { at + 11 + late }, effect));
    }
    steps
}

#[test]
fn a_long_history_of_many_writers_is_decided_soon() {
    assert_eq!(explain(&long(20_000)), Ok(()));
    let mut steps = long(2_000);
    // The last read sees what an early one saw.
    let seen = |step: &Step| matches!(step.effect, Read(Some(_)));
    let early = steps[steps.iter().position(seen).unwrap()].effect.clone();
    let last = steps.iter().rposition(seen).unwrap();
    steps[last].effect = early;
    assert!(matches!(explain(&steps), Err(Wrong::Contradiction(_))), "it was overwritten long before");
}

/// Tries every order of all operations, those without an answer among them.
fn every_order(steps: &[Step], placed: &mut Vec<usize>, value: &Value) -> bool {
    let left = |i: &usize| !placed.contains(i);
    let sure = (0..steps.len()).filter(left).filter_map(|i| steps[i].answered);
    let Some(horizon) = sure.min() else { return true };
    let begun: Vec<usize> = (0..steps.len()).filter(left).filter(|i| steps[*i].asked <= horizon).collect();
    begun.into_iter().any(|i| {
        let Some(next) = steps[i].effect.after(value) else { return false };
        placed.push(i);
        let found = every_order(steps, placed, &next);
        placed.pop();
        found
    })
}

fn any_effect(rng: &mut Rng) -> Effect {
    let digest = |rng: &mut Rng| Digest::Sha256([u8::try_from(rng.below(3)).unwrap(); 32]);
    let value = |rng: &mut Rng| (rng.below(3) > 0).then(|| digest(rng));
    match rng.below(9) {
        0 | 1 => Write(digest(rng)),
        2 => swap(value(rng), value(rng)),
        3 => Clear,
        4 => Drop(digest(rng)),
        5 | 6 => Read(value(rng)),
        7 => Holds,
        _ => Not(digest(rng)),
    }
}

#[test]
fn the_search_finds_what_trying_every_order_finds() {
    let mut rng = Rng::new(11);
    let (mut possible, mut not) = (0, 0);
    for number in 0..60_000 {
        let steps: Vec<Step> = (0..2 + rng.below(5))
            .map(|_| {
                let (asked, unknown) = (1 + rng.below(8) as u64, rng.below(3) == 0);
                let answered = if unknown { 0 } else { asked + rng.below(6) as u64 };
                step(asked, answered, any_effect(&mut rng))
            })
            .collect();
        let expected = every_order(&steps, &mut Vec::new(), &None);
        assert_eq!(explain(&steps).is_ok(), expected, "history {number}: {steps:#?}");
        if expected {
            possible += 1
        } else {
            not += 1
        };
    }
    assert!(possible > 10_000 && not > 10_000, "{possible} and {not}: too much of one kind");
}
