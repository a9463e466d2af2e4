//! What clients asked of a cluster while things were done to it, what they were answered and when, and
//! whether all of those answers can be true.
//!
//! [`workload`] has the clients, [`check`] judges: each answer by itself, and all answers about one tag,
//! manifest or blob together, as a linearizable register ([`register`]). Times are monotonic, from one
//! clock: clients and checker are one process.

pub mod check;
pub mod register;
pub mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clawhub_types::Digest;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;

/// What an operation is about: there or not, and if there, of some content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A tag. Each has one writer.
    Tag(String),
    /// A manifest by its digest.
    Manifest(Digest),
    /// A blob.
    Blob(Digest),
}

impl Key {
    /// Its path below the repository.
    pub fn path(&self) -> String {
        match self {
            Key::Tag(tag) => format!("manifests/{tag}"),
            Key::Manifest(digest) => format!("manifests/{digest}"),
            Key::Blob(digest) => format!("blobs/{digest}"),
        }
    }

    /// What its bytes hash to, unless that can change.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Key::Tag(_) => None,
            Key::Manifest(digest) | Key::Blob(digest) => Some(digest),
        }
    }
}

/// An upload session, which lives on the node that opened it.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// That node.
    pub owner: usize,
    /// When it was asked for.
    pub opened: Duration,
}

/// What was asked. All of it in one repository.
#[derive(Clone, Debug)]
pub enum Op {
    /// POST for an upload session.
    Open,
    /// PATCH of a session.
    Append(Session),
    /// PUT that closes a session, or POST of everything at once.
    PutBlob(Digest, Option<Session>),
    /// PUT of a manifest, all of whose blobs were acknowledged.
    PutManifest {
        /// The tag that it is put under.
        tag: String,
        /// What its bytes hash to.
        digest: Digest,
    },
    /// DELETE of a tag.
    DeleteTag(String),
    /// GET.
    Get(Key),
    /// HEAD.
    Head(Key),
}

impl Op {
    /// The status that says that it was done.
    pub fn success(&self) -> StatusCode {
        match self {
            Op::Open | Op::Append(_) | Op::DeleteTag(_) => StatusCode::ACCEPTED,
            Op::PutBlob(..) | Op::PutManifest { .. } => StatusCode::CREATED,
            Op::Get(_) | Op::Head(_) => StatusCode::OK,
        }
    }

    /// Whether it goes through the log.
    pub fn writes(&self) -> bool {
        matches!(self, Op::PutBlob(..) | Op::PutManifest { .. } | Op::DeleteTag(_))
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// An answer, whole.
    Answer {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: HeaderMap,
        /// What the body hashes to, for a GET.
        body: Option<Digest>,
        /// The beginning of the body of a refusal.
        text: String,
    },
    /// Nothing within the client's patience.
    TimedOut,
    /// No connection, or one that ended before the answer did.
    Broken,
}

impl Outcome {
    /// The status, if there was an answer.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Outcome::Answer { status, .. } => Some(*status),
            Outcome::TimedOut | Outcome::Broken => None,
        }
    }
}

/// One operation with its outcome.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who asked.
    pub client: usize,
    /// Which node.
    pub node: usize,
    /// What.
    pub op: Op,
    /// When the request began, from the start of the history.
    pub asked: Duration,
    /// When the last byte of the answer was there, or none could come any more.
    pub answered: Duration,
    /// What came.
    pub outcome: Outcome,
}

impl Record {
    /// Whether the answer says that it was done.
    pub fn acknowledged(&self) -> bool {
        self.outcome.status() == Some(self.op.success())
    }

    /// The kind of the outcome.
    fn class(&self) -> String {
        match &self.outcome {
            Outcome::Answer { status, .. } if *status == self.op.success() => "success".into(),
            Outcome::Answer { status, .. } => status.as_u16().to_string(),
            Outcome::TimedOut => "time-out".into(),
            Outcome::Broken => "no connection".into(),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { client, node, op, asked, answered, outcome } = self;
        write!(f, "client {client}, node {node}, {asked:.3?} to {answered:.3?}: {op:?}: ")?;
        match outcome {
            Outcome::Answer { status, body: Some(body), .. } => write!(f, "{status}, {body}"),
            Outcome::Answer { status, text, .. } => write!(f, "{status} {text}"),
            Outcome::TimedOut => f.write_str("time-out"),
            Outcome::Broken => f.write_str("no connection"),
        }
    }
}

/// The death of a node.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// Which.
    pub node: usize,
    /// Not later than when.
    pub at: Duration,
}

/// A device without room: its node may say 507 to who brings bytes.
#[derive(Clone, Copy, Debug)]
pub struct Full {
    /// Whose.
    pub node: usize,
    /// Not later than when.
    pub from: Duration,
    /// Not earlier than when it had room again; `None` for not yet.
    pub to: Option<Duration>,
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// Every operation, in the order of the outcomes.
    pub records: Vec<Record>,
    /// Every kill, in order.
    pub kills: Vec<Kill>,
    /// Every device that ran full, in order.
    pub full: Vec<Full>,
}

impl Events {
    /// Operations that were acknowledged.
    pub fn acknowledged(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.acknowledged())
    }

    /// How many manifests were acknowledged.
    pub fn pushes(&self) -> usize {
        self.acknowledged().filter(|record| matches!(record.op, Op::PutManifest { .. })).count()
    }

    /// How often each kind of outcome came.
    pub fn classes(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for record in &self.records {
            *counts.entry(record.class()).or_insert(0) += 1;
        }
        counts
    }

    /// Everything that every node must serve from now on, and the tags, which it must tell the truth about.
    pub fn promised(&self) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        for record in self.acknowledged() {
            match &record.op {
                Op::PutBlob(digest, _) => keys.extend([Key::Blob(digest.clone())]),
                Op::PutManifest { tag, digest } => {
                    keys.extend([Key::Tag(tag.clone()), Key::Manifest(digest.clone())]);
                }
                _ => {}
            }
        }
        keys
    }

    /// For each kill, how long until a write that began after it was acknowledged; `None` for never.
    pub fn resumed(&self) -> Vec<Option<Duration>> {
        let after = |kill: &Kill| {
            let writes = self.acknowledged().filter(|r| r.op.writes() && r.asked >= kill.at);
            writes.map(|record| record.answered.saturating_sub(kill.at)).min()
        };
        self.kills.iter().map(after).collect()
    }
}

/// The recorder that all clients share.
#[derive(Debug)]
pub struct History {
    start: Instant,
    events: Mutex<Events>,
    /// Every tag, manifest and blob that anybody has begun to write, in order, for readers to pick from.
    names: Mutex<Vec<Key>>,
}

impl Default for History {
    fn default() -> Self {
        History { start: Instant::now(), events: Mutex::default(), names: Mutex::default() }
    }
}

impl History {
    /// The time on its clock.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Records an operation that has ended.
    pub fn record(&self, record: Record) {
        self.locked().records.push(record);
    }

    /// Records that `node` is about to be killed.
    pub fn killed(&self, node: usize) {
        let at = self.now();
        self.locked().kills.push(Kill { node, at });
    }

    /// Records that the device of `node` is about to run full.
    pub fn runs_full(&self, node: usize) {
        let from = self.now();
        self.locked().full.push(Full { node, from, to: None });
    }

    /// Records that the device of `node` has room again.
    pub fn has_room(&self, node: usize) {
        let now = self.now();
        let mut events = self.locked();
        events.full.iter_mut().filter(|full| full.node == node).for_each(|full| {
            full.to.get_or_insert(now);
        });
    }

    /// What there is so far.
    pub fn events(&self) -> Events {
        self.locked().clone()
    }

    /// Makes a key known to readers.
    fn named(&self, key: Key) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    /// Some key that was named, by preference one of the last ones.
    fn pick(&self, rng: &mut crate::content::Rng) -> Option<Key> {
        const LATEST: usize = 24;
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let from = if rng.below(2) == 0 { names.len().saturating_sub(LATEST) } else { 0 };
        names.get(from + rng.below(names.len() - from)).cloned()
    }

    fn locked(&self) -> MutexGuard<'_, Events> {
        // Whoever panicked while it held the lock had pushed or not.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
