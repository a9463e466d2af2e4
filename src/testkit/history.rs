//! What clients asked of a cluster while things were done to it, what they were answered and when, and
//! whether all of those answers can be true.
//!
//! [`client`] has the clients and [`workload`] what they know of the cluster. [`judge`] turns each answer into what
//! it claims about tags, manifests, blobs and names; [`check`] asks whether all claims about one of them can be true
//! together, as of a linearizable register ([`register`]) that anybody writes. Times are monotonic, from one clock:
//! clients and checker are one process.
//!
//! What is said about several things at one moment is judged for each of them by itself: a list, for example, shows
//! each tag as it was at some moment while the list was asked for, not all of them as they were at the same one.
//! `tests/flows/torn.rs` asks for that.

pub mod check;
pub mod client;
mod judge;
mod op;
pub mod register;
mod shared;
pub mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use op::{Condition, Key, Op, Outcome, Pushed, Record, Session, Thing};

use crate::content::Rng;

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

    /// Everything that every node must tell the truth about from now on: what was acknowledged, and may have been
    /// deleted since.
    pub fn promised(&self) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        for record in self.acknowledged() {
            match &record.op {
                Op::PutBlob { repo, digest, .. } | Op::Mount { to: repo, digest, .. } => {
                    keys.insert(Key::blob(repo, digest));
                }
                Op::PutManifest { repo, tag, manifest, .. } => {
                    keys.extend(tag.iter().map(|tag| Key::tag(repo, tag)));
                    keys.insert(Key::manifest(repo, &manifest.digest));
                }
                _ => {}
            }
        }
        keys
    }

    /// What somebody has asked to be deleted by its digest.
    pub fn doomed(&self) -> BTreeSet<Key> {
        let deleted = |record: &Record| match &record.op {
            Op::DeleteManifest { repo, digest } => Some(Key::manifest(repo, digest)),
            Op::DeleteBlob { repo, digest } => Some(Key::blob(repo, digest)),
            _ => None,
        };
        self.records.iter().filter_map(deleted).collect()
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
    /// What anybody has begun to write, in order, for readers to pick from.
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

    /// How many manifests were acknowledged so far.
    pub fn pushes(&self) -> usize {
        self.locked().pushes()
    }

    /// Makes a key known to readers.
    fn named(&self, key: Key) {
        self.names().push(key);
    }

    /// How many keys were named.
    fn count(&self) -> usize {
        self.names().len()
    }

    /// Some key that was named, by preference one of the last ones.
    fn pick(&self, rng: &mut Rng) -> Option<Key> {
        const LATEST: usize = 24;
        let names = self.names();
        let from = if rng.below(2) == 0 { names.len().saturating_sub(LATEST) } else { 0 };
        names.get(from + rng.below(names.len() - from)).cloned()
    }

    fn names(&self) -> MutexGuard<'_, Vec<Key>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> MutexGuard<'_, Events> {
        // Whoever panicked while it held the lock had pushed or not.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
