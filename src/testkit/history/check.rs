//! Judges a history: whether each answer is one that a registry may give at all, and whether all answers
//! about one key can be true together.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use clawhub_types::Digest;
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;

use super::register::{self, Effect, Step, Value};
use super::{Events, Full, Key, Kill, Op, Outcome, Record, Session};

/// So many earlier operations on a key are shown with an answer that cannot be true.
const SHOWN: usize = 12;

/// An operation in the history of one key.
type Move<'a> = (&'a Record, Step);

/// Everything that is wrong with a history; nothing if all of it can be true.
pub fn violations(events: &Events) -> Vec<String> {
    let (mut wrong, mut keys) = (Vec::new(), BTreeMap::<Key, Vec<Move<'_>>>::new());
    for record in &events.records {
        match judge(record, events) {
            Err(reason) => wrong.push(format!("{reason}: {record}")),
            Ok(verdict) => {
                let answered = (verdict != Verdict::Unknown).then_some(record.answered);
                for (key, effect) in effects(record, &verdict) {
                    let step = Step { asked: record.asked, answered, effect };
                    keys.entry(key).or_default().push((record, step));
                }
            }
        }
    }
    wrong.extend(keys.into_iter().filter_map(|(key, moves)| contradiction(&key, moves)));
    wrong
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It was done, or the content is there: this content, if the operation names one.
    Done(Option<Digest>),
    /// There is no such thing.
    Absent,
    /// Nothing.
    Unknown,
}

/// Whether a registry whose nodes die may answer so, whatever happened before. A 404 may be true: that is
/// for the order of all operations on its key to tell.
fn judge(record: &Record, events: &Events) -> Result<Verdict, &'static str> {
    let Outcome::Answer { status, headers, body, text } = &record.outcome else {
        return Ok(Verdict::Unknown);
    };
    let told = headers.get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok());
    match *status {
        status if status == record.op.success() => done(&record.op, told, body.as_ref()),
        StatusCode::TOO_MANY_REQUESTS => Ok(Verdict::Unknown),
        StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(RETRY_AFTER) => Ok(Verdict::Unknown),
        StatusCode::SERVICE_UNAVAILABLE => Err("503 without Retry-After"),
        StatusCode::INSUFFICIENT_STORAGE if had_no_room(record, &events.full) => Ok(Verdict::Unknown),
        StatusCode::NOT_FOUND => match &record.op {
            Op::Get(_) | Op::Head(_) | Op::DeleteTag(_) => Ok(Verdict::Absent),
            Op::Append(session) | Op::PutBlob(_, Some(session))
                if text.contains("BLOB_UPLOAD_UNKNOWN") && ended(session, record, &events.kills) =>
            {
                Ok(Verdict::Unknown)
            }
            _ => Err("404 for something acknowledged"),
        },
        _ => Err("an answer that nothing explains"),
    }
}

/// Whether it brings bytes to a node that had no room for them at some time while it was under way.
fn had_no_room(record: &Record, full: &[Full]) -> bool {
    let node = match &record.op {
        Op::Append(session) | Op::PutBlob(_, Some(session)) => session.owner,
        Op::Open | Op::PutBlob(_, None) => record.node,
        _ => return false,
    };
    let then = |full: &Full| full.from <= record.answered && full.to.is_none_or(|to| record.asked <= to);
    full.iter().any(|full| full.node == node && then(full))
}

/// Whether an acknowledgement is about what was asked for, and the bytes are those that it names.
fn done(op: &Op, told: Option<Digest>, body: Option<&Digest>) -> Result<Verdict, &'static str> {
    let asked = match op {
        Op::Open | Op::Append(_) | Op::DeleteTag(_) => return Ok(Verdict::Done(None)),
        Op::PutBlob(digest, _) | Op::PutManifest { digest, .. } => Some(digest),
        Op::Get(key) | Op::Head(key) => key.digest(),
    };
    let Some(told) = told else { return Err("no digest in the answer") };
    let reads_whole = matches!(op, Op::Get(_));
    match body {
        Some(body) if *body != told => return Err("other bytes than the answer names"),
        None if reads_whole => return Err("no bytes"),
        _ => {}
    }
    match asked {
        Some(asked) if *asked != told => Err("other content than was asked for"),
        _ => Ok(Verdict::Done(Some(told))),
    }
}

/// Whether the session's owner died since it was asked for: its steps may then be unknown.
fn ended(session: &Session, record: &Record, kills: &[Kill]) -> bool {
    let since = |kill: &Kill| kill.at >= session.opened && kill.at <= record.answered;
    kills.iter().any(|kill| kill.node == session.owner && since(kill))
}

/// What an operation with this verdict did to which keys. Each tag has one writer, but what that one wrote
/// without an answer may still happen at any time.
fn effects(record: &Record, verdict: &Verdict) -> Vec<(Key, Effect)> {
    match (&record.op, verdict) {
        (Op::Open | Op::Append(_), _) | (Op::Get(_) | Op::Head(_), Verdict::Unknown) => vec![],
        (Op::PutBlob(digest, _), _) => vec![(Key::Blob(digest.clone()), Effect::Write(digest.clone()))],
        (Op::PutManifest { tag, digest }, _) => {
            let write = Effect::Write(digest.clone());
            vec![(Key::Tag(tag.clone()), write.clone()), (Key::Manifest(digest.clone()), write)]
        }
        (Op::DeleteTag(tag), Verdict::Absent) => vec![(Key::Tag(tag.clone()), Effect::Read(None))],
        (Op::DeleteTag(tag), _) => vec![(Key::Tag(tag.clone()), Effect::Clear)],
        (Op::Get(key) | Op::Head(key), Verdict::Done(seen)) => {
            vec![(key.clone(), Effect::Read(seen.clone()))]
        }
        (Op::Get(key) | Op::Head(key), Verdict::Absent) => vec![(key.clone(), Effect::Read(None))],
    }
}

/// What cannot be true of a key, if anything.
fn contradiction(key: &Key, mut moves: Vec<Move<'_>>) -> Option<String> {
    moves.sort_by_key(|(_, step)| step.asked);
    let read: HashSet<Value> = moves.iter().filter_map(|(_, step)| step.effect.sees().cloned()).collect();
    let cleared = moves.iter().any(|(_, step)| step.effect == Effect::Clear);
    // What may or may not have been done explains something only if somebody met with it: a reader who saw
    // what it left, or a deletion that found something.
    moves.retain(|(_, step)| {
        let met = |left: Value| read.contains(&left) || (cleared && left.is_some());
        step.answered.is_some() || step.effect.leaves().is_some_and(met)
    });
    let (records, steps): (Vec<&Record>, Vec<Step>) = moves.into_iter().unzip();
    let wrong = register::explain(&steps).err()?;
    let mut text = format!("{key:?} cannot have had all of these answers:");
    for record in &records[wrong.saturating_sub(SHOWN)..=wrong] {
        let _ = write!(text, "\n    {record}");
    }
    Some(text)
}

#[cfg(test)]
#[path = "check_test.rs"]
mod tests;
