//! Judges a history: whether each answer is one that a registry may give at all, and whether all answers
//! about one key can be true together.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::judge::Known;
use super::register::{self, Step, Wrong};
use super::{Events, Key, Record};

/// So many earlier operations on a key are shown with an answer that cannot be true.
const SHOWN: usize = 12;

/// An operation in the history of one key.
type Move<'a> = (&'a Record, Step);

/// Everything that is wrong with a history; nothing if all of it can be true.
pub fn violations(events: &Events) -> Vec<String> {
    let known = Known::new(events);
    let (mut wrong, mut keys) = (Vec::new(), BTreeMap::<Key, Vec<Move<'_>>>::new());
    for record in &events.records {
        match known.claims(record) {
            Err(reason) => wrong.push(format!("{reason}: {record}")),
            Ok(claims) => {
                for claim in claims {
                    let answered = claim.sure.then_some(record.answered);
                    let step = Step { asked: record.asked, answered, effect: claim.effect };
                    keys.entry(claim.key).or_default().push((record, step));
                }
            }
        }
    }
    wrong.extend(keys.into_iter().filter_map(|(key, moves)| contradiction(&key, moves)));
    wrong
}

/// What cannot be true of a key, if anything.
fn contradiction(key: &Key, mut moves: Vec<Move<'_>>) -> Option<String> {
    moves.sort_by_key(|(_, step)| step.asked);
    let (records, steps): (Vec<&Record>, Vec<Step>) = moves.into_iter().unzip();
    let wrong = register::explain(&steps).err()?;
    let mut text = match wrong {
        Wrong::Contradiction(_) => format!("{key:?} cannot have had all of these answers:"),
        Wrong::Undecided(_) => format!("{key:?}: too many orders to try for these answers:"),
    };
    for (record, step) in
        records.iter().zip(&steps).take(wrong.step() + 1).skip(wrong.step().saturating_sub(SHOWN))
    {
        let _ = write!(text, "\n    {:?} {record}", step.effect);
    }
    Some(text)
}

#[cfg(test)]
#[path = "check_test.rs"]
mod tests;
